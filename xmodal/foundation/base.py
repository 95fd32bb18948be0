"""Contracts of the frozen parts. A recipe can name any class below these; the CLI checks against them.

Letters: B batch, T samples, L tokens in time, H and W pixels, d embedding size, w token width.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xmodal.frozen import Frozen

WEIGHTS = Path(__file__).parent.parent / "miniature" / "weights"


@dataclass(frozen=True)
class Card:
    """Where a model's weights come from, and what they demand.

    ``source`` is a hub id, a path, or ``package:FOLDER`` for weights shipped under ``xmodal/miniature/weights``.
    ``files`` maps file names to their sha256 (``None`` where it is not known). ``options`` are constructor options
    that belong to these weights (token layers, attention heads, ...).
    """

    source: str
    files: Mapping[str, str | None]
    licence: str
    commercial: bool
    origin: str
    parameters: int
    dim: int | None = None
    sample_rate: int | None = None
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    normalised: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def folder(self) -> Path:
        """Return the local folder (or file) that the source names; raises FileNotFoundError for a hub id not given as a path."""
        path = WEIGHTS / self.source.removeprefix("package:") if self.source.startswith("package:") else Path(self.source)
        if path.exists():
            return path
        raise FileNotFoundError(
            f"the weights of {self.source!r} are not on this machine (looked at {path}): download "
            f"{', '.join(self.files) or 'them'} from {self.origin} and give the path as card"
        )

    def verify(self) -> None:
        """Compare the sha256 of every file whose hash the card knows; raises ValueError on the first difference."""
        folder = self.folder()
        for name, expected in self.files.items():
            path = folder / name if folder.is_dir() else folder
            if expected and hashlib.sha256(path.read_bytes()).hexdigest() != expected:
                raise ValueError(f"{path} is damaged or not the published file: its sha256 is not {expected}")


def find_card(cards: Mapping[str, Card], name: str, kind: str) -> Card:
    """Return the card called ``name``, or a card for a local path; raises ValueError that lists the known names."""
    if name in cards:
        return cards[name]
    if Path(name).exists():
        return Card(source=name, files={}, licence="unknown", commercial=False, origin=name, parameters=0)
    raise ValueError(f"{kind} has no card {name!r} and no such path exists; its cards are: {', '.join(cards)}")


class Encoder(Frozen):
    """Something that turns inputs into one vector each."""

    dim: int

    @abstractmethod
    def embed(self, inputs: Any) -> Tensor:
        """Return one vector per input, (B, d) float32; the card states whether it is L2-normalised."""


class AudioEncoder(Encoder):
    """Hears. Takes float32 waveforms in [-1, 1], mono, at its own ``sample_rate`` (Hz)."""

    sample_rate: int
    width: int

    @abstractmethod
    def embed(self, inputs: Tensor) -> Tensor:
        """(B, T) waveform -> (B, d)."""

    @abstractmethod
    def tokens(self, waveform: Tensor) -> Tensor:
        """(B, T) waveform -> (B, L, w) features in time order; w is ``width``."""


class ImageEncoder(Encoder):
    """Sees. Takes float32 pixels in [0, 1] of any size; resizes and normalises by itself."""

    image_size: int

    @abstractmethod
    def embed(self, inputs: Tensor) -> Tensor:
        """(B, 3, H, W) pixels -> (B, d)."""


class TextEncoder(Encoder):
    """Reads."""

    @abstractmethod
    def embed(self, inputs: list[str]) -> Tensor:
        """B sentences -> (B, d)."""


class ImageGenerator(Frozen):
    """Paints from prompt embeddings, and can be trained *through*.

    ``token_dim`` is the width of one word embedding of its text encoder; ``image_size`` the side of its square pictures.
    """

    token_dim: int
    image_size: int

    @abstractmethod
    def prompt_embeds(self, prompts: list[str], tokens: Tensor | None = None) -> Tensor:
        """Encode B prompts to (B, S, c); ``{}`` in a prompt is the place where row b of ``tokens`` (B, token_dim) is spliced."""

    @abstractmethod
    def label_embeds(self, labels: list[str]) -> Tensor:
        """Mean word embedding of each label's tokens, without start and end marks: (B, token_dim)."""

    @abstractmethod
    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W) in [0, 1] -> mean and log-variance of the VAE posterior, each (B, C, h, w), unscaled."""

    @abstractmethod
    def loss(self, latents: Tensor, prompt_embeds: Tensor, generator: Any = None) -> Tensor:
        """Denoising loss (scalar, float32) of scaled latents (B, C, h, w) under prompt embeddings (B, S, c)."""

    @abstractmethod
    def generate(self, prompt_embeds: Tensor, negative_prompt_embeds: Tensor | None = None, **options: Any) -> Tensor:
        """Prompt embeddings (B, S, c) -> pixels (B, 3, H, W) in [0, 1]."""


class Adapter(nn.Module):
    """The only thing that is trained and saved. Built by a factory ``(in_dim, out_dim) -> Adapter``."""
