"""Training of the miniature CLIP and CLAP: pictures or sounds on one side, sentences on the other, one space for both.

The networks and what is written are those of :mod:`xmodal.foundation.clip` and :mod:`xmodal.foundation.clap`.
Letters: B batch, d embedding size.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.miniature.training.zoo import ZooTask
from xmodal.miniature.world import FACTORS, THINGS, Clip, caption

SHARPEST = math.log(100)  # of the learnt factor on the cosines


class TrainPair(ZooTask):
    """Symmetric InfoNCE (van den Oord et al., arXiv 1807.03748) between clips and sentences, at learnt temperatures.

    Args:
        whole: share of sentences that name all there is to say; the others leave out some of it, as people do. Validation
            reads whole ones.
        reading_weight: of one linear probe that reads the clip's factors (cross-entropies, summed) from the embeddings of
            both sides. The towers start from nothing, and a batch alone teaches them the words slowly, and shapes later still.
    """

    caption: str
    whole_caption: str
    prompt: str
    factors: tuple[str, ...]

    def __init__(
        self, output: Path, whole: float = 0.5, reading_weight: float = 0.5, ema_decay: float = 0.99, **task: Any
    ) -> None:
        from xmodal.miniature.tokenizer import build_tokenizer

        self.tokenizer = build_tokenizer()
        super().__init__(output=output, ema_decay=ema_decay, **task)
        self.whole, self.reading_weight = whole, reading_weight

    def build(self) -> nn.Module:
        towers: Any = self.towers()
        for module in towers.modules():
            if isinstance(module, nn.Dropout):  # no clip is ever seen twice, so there is nothing to forget
                module.p = 0.0
        reader = nn.Linear(towers.config.projection_dim, sum(len(FACTORS[name]) for name in self.factors))
        return nn.ModuleDict({"towers": towers, "reader": reader})

    @abstractmethod
    def towers(self) -> nn.Module:
        """Both towers with random weights."""

    @abstractmethod
    def perceive(self, towers: Any, batch: dict[str, Any]) -> Tensor:
        """Embeddings (B, d) of the pictures or sounds of a batch, of any length."""

    @abstractmethod
    def temperatures(self, towers: Any) -> tuple[Tensor, Tensor]:
        """Logarithms of the factor on the cosines: for clips that look for sentences, and for the reverse."""

    def read(self, towers: Any, texts: list[str]) -> Tensor:
        """Embeddings (B, d) of sentences, of any length; padded behind the end mark as the loaded towers do."""
        rows = self.tokenizer(texts, truncation=True).input_ids
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self.device)
        return towers.text_projection(towers.text_model(input_ids=ids, attention_mask=mask).pooler_output)

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        net = self.net if self.training else self.published
        whole = torch.rand(len(batch["factors"])) < (self.whole if self.training else 1.0)
        texts = [full if all_ else some for full, some, all_ in zip(batch[self.whole_caption], batch[self.caption], whole)]
        towers = net["towers"]
        seen, said = (F.normalize(x, dim=-1) for x in (self.perceive(towers, batch), self.read(towers, texts)))
        cosines, target = seen @ said.T, torch.arange(len(seen), device=seen.device)
        forth, back = (temperature.exp() for temperature in self.temperatures(towers))
        right = (cosines.argmax(1) == target).float().mean()
        self.log("train/recall" if self.training else "val/recall", right, prog_bar=True, batch_size=len(seen))
        reading = torch.stack([self._reading(net["reader"], side * forth, batch["factors"]) for side in (seen, said)]).mean()
        return {
            "forth": F.cross_entropy(cosines * forth, target) / 2,
            "back": F.cross_entropy(cosines.T * back, target) / 2,
            "reading": self.reading_weight * reading,
        }

    def _reading(self, reader: nn.Module, embeddings: Tensor, factors: Tensor) -> Tensor:
        rows = reader(embeddings).split([len(FACTORS[name]) for name in self.factors], dim=1)
        columns = [list(FACTORS).index(name) for name in self.factors]
        return torch.stack([F.cross_entropy(row, factors[:, column]) for row, column in zip(rows, columns)]).sum()

    @torch.no_grad()
    def _move_average(self, steps: int) -> None:
        for temperature in self.temperatures(self.net["towers"]):  # type: ignore[index]
            temperature.clamp_(0, SHARPEST)
        super()._move_average(steps)

    @torch.no_grad()
    def report(self, towers: Any, among: int = 64) -> str:
        """Recall among every ``among`` validation clips, and how often the thing is found among the names of all things."""
        names = [Clip(thing, "medium", "centre", 1, "red", "white", 0) for thing in THINGS]
        prompts = F.normalize(self.read(towers, [self.prompt + caption(clip, ()) for clip in names]), dim=-1)
        rows: list[tuple[Tensor, Tensor, Tensor]] = []
        for batch in self.trainer.datamodule.val_dataloader():  # type: ignore[attr-defined]
            moved = {name: value.to(self.device) if isinstance(value, Tensor) else value for name, value in batch.items()}
            rows.append((self.perceive(towers, moved), self.read(towers, batch[self.whole_caption]), moved["factors"][:, 0]))
        seen, said, things = (torch.cat(column) for column in zip(*rows))
        seen, said = F.normalize(seen, dim=-1), F.normalize(said, dim=-1)
        groups = zip(seen.split(among), said.split(among))
        found = [(some @ texts.T).argmax(1) == torch.arange(len(some), device=some.device) for some, texts in groups]
        recall, named = (right.float().mean() for right in (torch.cat(found), (seen @ prompts.T).argmax(1) == things))
        of = f"{len(seen)} validation clips"
        return f"recall@1 {recall:.3f} among {among}, thing named right {named:.3f} among {len(THINGS)}, {of}"


class TrainCLIP(TrainPair):
    """The miniature CLIP. Reads ``pixels``, ``caption``, ``full_caption`` and ``factors``.

    Args:
        card: whose sizes it has, see :data:`xmodal.foundation.clip.SIZES`; the vocabulary is the world's.
    """

    caption, whole_caption, prompt = "caption", "full_caption", "a photo of "
    factors = tuple(FACTORS)

    def __init__(self, output: Path, card: str = "mini", **pair: Any) -> None:
        from xmodal.foundation.clip import Preprocess

        self.card = card
        super().__init__(output=output, **pair)
        self.preprocess = Preprocess(self.net["towers"].config.vision_config.image_size)  # type: ignore[index,union-attr]

    def towers(self) -> nn.Module:
        from xmodal.foundation.clip import build

        return build(self.card, vocabulary=len(self.tokenizer))

    def perceive(self, towers: Any, batch: dict[str, Any]) -> Tensor:
        made = towers.vision_model(pixel_values=self.preprocess(batch["pixels"]))
        return towers.visual_projection(made.pooler_output)

    def temperatures(self, towers: Any) -> tuple[Tensor, Tensor]:
        return towers.logit_scale, towers.logit_scale

    def export(self, net: nn.Module, folder: Path) -> None:
        from xmodal.foundation.clip import save

        towers = net["towers"]  # type: ignore[index]
        print(f"CLIP: {self.report(towers)}", flush=True)
        save(towers, self.tokenizer, folder)


class TrainCLAP(TrainPair):
    """The miniature CLAP. Reads ``waveform``, ``heard_caption``, ``full_heard_caption`` and ``factors``.

    The sentences name the thing, its size and its count: a mono mix has lost the place, and colours make no sound.

    Args:
        card: whose sizes it has, see :data:`xmodal.foundation.clap.SIZES`.
    """

    caption, whole_caption, prompt = "heard_caption", "full_heard_caption", "the sound of "
    factors = ("thing", "size", "count")

    def __init__(self, output: Path, card: str = "mini", **pair: Any) -> None:
        self.card = card
        super().__init__(output=output, **pair)

    def towers(self) -> nn.Module:
        from xmodal.foundation.clap import build

        towers: Any = build(self.card)
        if towers.config.text_config.vocab_size != len(self.tokenizer):
            sizes = f"{towers.config.text_config.vocab_size} words, but the world's tokenizer knows {len(self.tokenizer)}"
            raise ValueError(f"the text tower of {self.card!r} reads {sizes}: set vocab_size in SIZES of clap.py to that number")
        return towers

    def perceive(self, towers: Any, batch: dict[str, Any]) -> Tensor:
        from xmodal.foundation.clap import MINI

        mel, longer, _ = MINI(list(batch["waveform"]), crop="centre")
        return towers.audio_projection(towers.audio_model(input_features=mel, is_longer=longer).pooler_output)

    def temperatures(self, towers: Any) -> tuple[Tensor, Tensor]:
        return towers.logit_scale_a, towers.logit_scale_t

    def export(self, net: nn.Module, folder: Path) -> None:
        from xmodal.foundation.clap import MINI, save

        towers = net["towers"]  # type: ignore[index]
        print(f"CLAP: {self.report(towers)}", flush=True)
        save(towers, self.tokenizer, MINI, folder)
