"""A small convolutional tagger of the miniature world's pictures: the judge of what a generated picture shows.

It is trained on rendered pictures only, never on generated ones, and shares no weight with any generator.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.foundation.base import Card, Classifier, ImageEncoder, find_card
from xmodal.frozen import Frozen
from xmodal.registry.checkpoint import assign, read_folder


class PictureTaggerModel(nn.Module):
    """Four strided convolutions, one hidden layer, one softmax per group of labels.

    Args:
        groups: label names by group, for example ``{"thing": ["bell", ...], "size": [...]}``.
        width: channels of the first convolution.
        dim: size of the embedding.
    """

    def __init__(self, groups: dict[str, list[str]], width: int = 24, dim: int = 128) -> None:
        super().__init__()
        self.groups, self.width, self.dim = groups, width, dim
        channels = (3, width, 2 * width, 3 * width, 4 * width)
        layers: list[nn.Module] = []
        for before, after in zip(channels, channels[1:], strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.GELU()]
            layers += [nn.Conv2d(after, after, 3, padding=1), nn.GroupNorm(8, after), nn.GELU()]
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * channels[-1], dim), nn.GELU())
        self.heads = nn.ModuleDict({name: nn.Linear(dim, len(labels)) for name, labels in groups.items()})

    def forward(self, pixels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, 3, 64, 64) in [0, 1] -> embedding (B, dim) and logits (B, labels) of every group."""
        embedding = self.trunk(pixels * 2 - 1)
        return embedding, {name: head(embedding) for name, head in self.heads.items()}


class PictureTagger(ImageEncoder, Classifier):
    """The frozen tagger.

    Args:
        card: a card's name or the path of a folder with ``config.json`` and ``model.safetensors``.
    """

    def __init__(self, card: str = "mini") -> None:
        super().__init__()
        chosen = find_card(CARDS, card, "picture_tagger")
        folder = chosen.folder()
        config, state = read_folder(folder, chosen.origin)
        try:
            self.model = PictureTaggerModel(**config)
        except TypeError as error:
            raise ValueError(f"{folder / 'config.json'} is not of a picture tagger ({error}): copy the whole folder") from error
        assign(self.model, state, folder, "the picture tagger of its config.json")
        self.dim, self.image_size = self.model.dim, 64

    @classmethod
    def from_model(cls, model: PictureTaggerModel) -> Self:
        """Build from a model in memory, which is frozen in place."""
        return cls.assembled(model)

    def _assemble(self, model: PictureTaggerModel) -> None:
        self.model, self.dim, self.image_size = model, model.dim, 64

    def _logits(self, pixels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if pixels.shape[-2:] != (self.image_size, self.image_size):
            pixels = F.interpolate(pixels, (self.image_size, self.image_size), mode="bilinear", antialias=True)
        embedding, logits = self.model(pixels.to(next(self.model.parameters()).dtype))
        return embedding.float(), {name: rows.float() for name, rows in logits.items()}

    def embed(self, inputs: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, 128), not normalized."""
        return self._logits(inputs)[0]

    @property
    def labels(self) -> list[str]:
        """The things that it can name."""
        return self.model.groups["thing"]

    def class_logits(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> logits of ``labels`` (B, N), one of which is right."""
        return self._logits(pixels)[1]["thing"]

    def embed_and_classify(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Both `embed` and `class_logits` for the price of one."""
        embedding, logits = self._logits(pixels)
        return embedding, logits["thing"]

    def tag(self, pixels: Tensor) -> dict[str, list[str]]:
        """The most likely label of every group for each picture."""
        logits = self._logits(pixels)[1]
        return {name: [self.model.groups[name][i] for i in rows.argmax(-1)] for name, rows in logits.items()}


def save(model: PictureTaggerModel, folder: Path) -> None:
    """Write ``config.json`` and float16 ``model.safetensors``."""
    from safetensors.torch import save_file

    config = {"groups": model.groups, "width": model.width, "dim": model.dim}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file({k: v.to(torch.float16).contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")


def tiny() -> dict[str, Callable[[], Frozen]]:
    """A random instance, for tests."""
    return {"PictureTagger": lambda: PictureTagger.from_model(PictureTaggerModel({"thing": ["bell", "drum"]}, width=8, dim=12))}


CARDS = {
    "mini": Card(
        source="package:picture_tagger",
        files={"config.json": None, "model.safetensors": None},
        licence="Apache-2.0",
        commercial=True,
        origin="recipes/miniature/picture_tagger.yaml",
        parameters=463_055,
        dim=128,
        image_size=64,
        normalized=False,
    )
}
