"""The miniature's taggers: of sounds (BEATs) and of pictures, the judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.miniature.data import LABELS
from xmodal.miniature.training.zoo import ZooTask
from xmodal.miniature.world import FACTORS, THINGS


class TrainHearing(ZooTask):
    """The miniature BEATs as a tagger of what can be heard: the thing, its size, its count (multi-label).

    An attribute that is NaN is not known of a clip, and teaches nothing.

    Args:
        config: sizes of :class:`xmodal.foundation.beats.BEATsConfig` that differ from the release.
        weights: folder of an exported BEATs of this config, whose weights training starts from.
        masked: greatest share of the filter bank's frames, and of its bins, that a stripe of training hides
            (SpecAugment, Park et al., arXiv 1904.08779); two stripes each way.
        choice_weight: of a cross-entropy over the things alone, of which a clip holds just one.
    """

    def __init__(
        self,
        output: Path,
        config: dict[str, Any],
        weights: Path | None = None,
        masked: float = 0.0,
        choice_weight: float = 0.0,
        ema_decay: float = 0.99,
        **task: Any,
    ) -> None:
        self.config = config
        super().__init__(output=output, ema_decay=ema_decay, **task)
        self.masked, self.choice_weight = masked, choice_weight
        if weights is not None:
            self._begin_with(Path(weights))

    def _begin_with(self, folder: Path) -> None:
        from xmodal.foundation.beats import load

        self.net.load_state_dict(load(folder)[0].state_dict())
        self.start_average()

    def build(self) -> nn.Module:
        from xmodal.foundation.beats import BEATsConfig, BEATsModel

        return BEATsModel(BEATsConfig(**self.config, finetuned_model=True, predictor_class=len(LABELS)))

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        net: Any = self.net if self.training else self.published
        bank, target = net.fbank(batch["waveform"]), batch["attributes"]
        if self.training and self.masked:
            bank = self._striped(bank)
        logits = net.classify(net.encode(bank)[-1])
        things = len(THINGS)
        right = (logits[:, :things].argmax(-1) == target[:, :things].argmax(-1)).float().mean()
        self.log("train/accuracy" if self.training else "val/accuracy", right, prog_bar=True, batch_size=len(target))
        known = ~target.isnan()
        terms = {"tags": F.binary_cross_entropy_with_logits(logits[known], target[known])}
        if self.choice_weight:
            terms["choice"] = self.choice_weight * F.cross_entropy(logits[:, :things], target[:, :things].argmax(-1))
        return terms

    def _striped(self, bank: Tensor) -> Tensor:
        """Hide stripes of the filter bank (B, F, 128) at its mean, other ones in every clip."""
        for axis in (1, 2) * 2:
            size = bank.shape[axis]
            width = torch.rand(len(bank), 1, device=bank.device) * self.masked * size
            start = torch.rand(len(bank), 1, device=bank.device) * (size - width)
            place = torch.arange(size, device=bank.device)
            hidden = (place >= start) & (place < start + width)
            bank = bank.masked_fill(hidden.unsqueeze(2 if axis == 1 else 1), 0.0)
        return bank

    def export(self, net: nn.Module, folder: Path) -> None:
        from xmodal.foundation.beats import save

        save(net, list(LABELS), folder)


class TrainSeeing(ZooTask):
    """The picture tagger: thing, size, place, count, colour and background, on rendered pictures with a little noise.

    Args:
        noise: standard deviation of the training noise, in [0, 1] pixel units.
    """

    def __init__(self, output: Path, noise: float = 0.04, ema_decay: float = 0.995, **task: Any) -> None:
        super().__init__(output=output, ema_decay=ema_decay, **task)
        self.noise = noise

    def build(self) -> nn.Module:
        from xmodal.foundation.picture_tagger import PictureTaggerModel

        return PictureTaggerModel({name: list(labels) for name, labels in FACTORS.items()})

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        net = self.net if self.training else self.published
        noise = self.noise * torch.rand((), device=self.device) if self.training else 0.0
        logits = net(batch["pixels"] + noise * torch.randn_like(batch["pixels"]))[1]
        right = (logits["thing"].argmax(-1) == batch["factors"][:, 0]).float().mean()
        self.log("train/accuracy" if self.training else "val/accuracy", right, prog_bar=True, batch_size=len(batch["pixels"]))
        return {name: F.cross_entropy(rows, batch["factors"][:, i]) for i, (name, rows) in enumerate(logits.items())}

    def export(self, net: nn.Module, folder: Path) -> None:
        from xmodal.foundation.picture_tagger import save

        save(net, folder)
