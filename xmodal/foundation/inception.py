"""Inception-v3 of the TensorFlow release of 2015-12-05, which published FID, KID and IS are measured with.

Network and key names are torchvision's; the pooling branches differ, as TensorFlow averages over what is there (not over
padded zeros) and its last block takes the maximum. Letters: B batch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.foundation.base import Classifier, ImageEncoder
from xmodal.frozen import Frozen
from xmodal.registry.cards import Card, find_card
from xmodal.registry.checkpoint import assign, only_tensors, read_folder, read_pickle, unfilled, write_folder

SIZE, DIM, CLASSES = 299, 2048, 1008
FILE = "weights-inception-2015-12-05-6726825d.pth"
ORIGIN = "https://github.com/toshas/torch-fidelity/releases/tag/v0.2.0"


def _mean_of_what_is_there(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _maximum(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


def _pooled(block: Any, pool: Callable[[Tensor], Tensor]) -> Any:
    """A block of torchvision whose last branch pools otherwise."""

    class Pooled(block):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([*self._forward(x)[:-1], self.branch_pool(pool(x))], 1)

    return Pooled


def build(card: str = "fid") -> nn.Module:
    """The architecture with random weights; ``card`` changes nothing."""
    from torchvision.models import inception as blocks

    a, c, e = (_pooled(kind, _mean_of_what_is_there) for kind in (blocks.InceptionA, blocks.InceptionC, blocks.InceptionE))
    kinds = [blocks.BasicConv2d, a, blocks.InceptionB, c, blocks.InceptionD, e, blocks.InceptionAux]
    net = blocks.Inception3(num_classes=CLASSES, aux_logits=False, init_weights=False, inception_blocks=kinds)
    net.Mixed_7c = _pooled(blocks.InceptionE, _maximum)(DIM)
    return net


def resize(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 3, 299, 299) as TensorFlow 1 does: bilinear, pixel i from i * H / 299, nothing smoothed before."""
    for axis in (2, 3):
        length = pixels.shape[axis]
        place = torch.arange(SIZE, device=pixels.device, dtype=pixels.dtype) * (length / SIZE)
        low = place.floor().long().clamp(max=length - 1)
        share = (place - low).view(-1, 1) if axis == 2 else place - low
        before, after = pixels.index_select(axis, low), pixels.index_select(axis, (low + 1).clamp(max=length - 1))
        pixels = before + (after - before) * share
    return pixels


class Inception(ImageEncoder, Classifier):
    """The frozen network up to its last pooling, with the preprocessing of published FIDs.

    Args:
        card: ``fid``, the published ``.pth`` file, or a folder of `import_checkpoint`.

    Pictures are best given at their own size: `resize` is part of the protocol, and another one before it changes FID.
    Raises FileNotFoundError or ValueError with the file, what was expected and the mend.
    """

    fc: nn.Linear
    reads_any_size = True
    preprocessing = f"own size, 8 bits, bilinear to {SIZE} x {SIZE} as TensorFlow 1, (x - 128) / 128"

    def __init__(self, card: str = "fid") -> None:
        super().__init__()
        chosen = find_card(CARDS, card, "inception")
        chosen.verify()
        self._assemble(load(chosen.folder()))

    @classmethod
    def from_model(cls, model: nn.Module) -> Self:
        """Build from a network of `build` in memory, which is frozen in place."""
        return cls.assembled(model)

    def _assemble(self, model: Any) -> None:
        self.fc = model.fc
        model.fc, model.dropout = nn.Identity(), nn.Identity()
        self.model, self.dim, self.image_size = model, DIM, SIZE

    def embed(self, inputs: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], read as 8 bits -> (B, 2048), not negative, not normalized."""
        levels = inputs.float() * 255
        levels = levels + (levels.round() - levels).detach()  # eight bits, and a gradient
        return self.model(((resize(levels) - 128) / 128).to(self.fc.weight.dtype)).float()

    @property
    def labels(self) -> list[str]:
        """None: the published file names no classes."""
        return []

    def class_logits(self, inputs: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1008)."""
        return self.fc(self.embed(inputs).to(self.fc.weight.dtype)).float()

    def logits_unbiased(self, inputs: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1008) without the last layer's bias, as published Inception Scores take them."""
        return F.linear(self.embed(inputs).to(self.fc.weight.dtype), self.fc.weight).float()


def load(path: Path) -> nn.Module:
    """Read the published file, or a folder of `import_checkpoint`, in eval mode; raises as `Inception` does."""
    if path.is_dir():
        _, state = read_folder(path, ORIGIN)
    else:
        state = only_tensors(read_pickle(path, ORIGIN), path)
    with unfilled():
        model = build()
    assign(model, state, path, "the Inception-v3 of FID")
    return model.eval()


def import_checkpoint(file: Path, folder: Path) -> Path:
    """Turn the published file into a folder that ``card`` takes, at full precision; returns the folder."""
    return write_folder(folder, {"model": "inception", "classes": CLASSES}, load(file).state_dict(), dtype=None)


def tiny() -> dict[str, Callable[[], Frozen]]:
    """Random weights: the architecture has one size."""
    return {"Inception": lambda: Inception.from_model(build().eval())}


CARDS: dict[str, Card] = {
    "fid": Card(
        FILE, {FILE: "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"}, "Apache-2.0", True, ORIGIN,
        parameters=23_850_960, dim=DIM, size=95_628_359, image_size=SIZE,
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), normalized=False,
    ),
}  # fmt: skip
