"""Priors that cost next to nothing, which a diffusion prior must beat: a text embedding becomes an image embedding of its space.

They are used as those of `xmodal.foundation.diffusion_prior`, fitted to embeddings by ``fit`` and kept by ``save``.
Letters: B batch, N known rows, d embedding width, L text tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.foundation.base import Prior
from xmodal.registry.checkpoint import assign, read_folder
from xmodal.registry.checkpoint import write_folder as write


class Identity(Prior):
    """The text embedding itself, normalized: what a prior must beat."""

    def __init__(self, card: str = "none", dim: int = 768) -> None:
        super().__init__()
        if card != "none":
            raise ValueError(f"Identity has no weights, so card {card!r} cannot be loaded: leave it out, or say 'none'")
        self.dim = dim

    def sample(self, text_embedding: Tensor, **options: Any) -> Tensor:
        """(B, d) -> (B, d), normalized; options of other priors are ignored."""
        check(self, text_embedding)
        return F.normalize(text_embedding.float(), dim=-1)


class Shift(nn.Module):
    """Moves by the difference of two means."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mean_text, self.mean_image = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, text: Tensor) -> Tensor:
        """(B, d) -> (B, d)."""
        return text - self.mean_text + self.mean_image


class _Baseline(Identity):
    """A small module from a folder, or fitted to pairs; reads and gives unit vectors."""

    def __init__(self, card: str) -> None:
        Prior.__init__(self)
        if not Path(card).is_dir():
            raise FileNotFoundError(f"{type(self).__name__} has no published weights: card {card!r} must be a folder of its own")
        config, state = read_folder(Path(card), f"{type(self).__name__}.fit(...).save(folder)")
        check_class(config, type(self).__name__, Path(card))
        sizes = {key: int(config[key]) for key in ("dim", "hidden", "count") if key in config}
        net = self._build(**sizes)
        assign(net, state, Path(card), type(self).__name__)
        self._assemble(net, **sizes)

    @classmethod
    def from_model(cls, net: nn.Module, **sizes: int) -> Self:
        """Build from a module in memory, which is frozen ; ``sizes``: ``dim``, an MLP's ``hidden``, a bank's ``count``."""
        return cls.assembled(net, **sizes)

    def _assemble(self, net: nn.Module, **sizes: int) -> None:
        self.net, self.sizes, self.dim = net, sizes, sizes["dim"]

    @staticmethod
    def _build(dim: int) -> nn.Module:
        return nn.Linear(dim, dim)

    def save(self, folder: Path) -> Path:
        """Write config.json and model.safetensors, float32; returns the folder."""
        return write(folder, {"class": type(self).__name__, **self.sizes}, self.net.state_dict(), None)

    def sample(self, text_embedding: Tensor, **options: Any) -> Tensor:
        """(B, d) -> (B, d), normalized; options of other priors are ignored."""
        return F.normalize(self.net(as_of(self.net, super().sample(text_embedding))).float(), dim=-1)


class MeanShift(_Baseline):
    """Text minus the mean text plus the mean image."""

    @staticmethod
    def _build(dim: int) -> nn.Module:
        return Shift(dim)

    @classmethod
    def fit(cls, text: Tensor, image: Tensor) -> Self:
        """Means of text and image embeddings (N, d); they need not be pairs."""
        net = Shift(text.shape[1])
        net.mean_text.data, net.mean_image.data = (F.normalize(x.float(), dim=-1).mean(0) for x in (text, image))
        return cls.from_model(net, dim=text.shape[1])


class Linear(_Baseline):
    """One affine map."""

    @classmethod
    def fit(cls, text: Tensor, image: Tensor, ridge: float = 1e-3) -> Self:
        """Least squares on pairs (N, d); ``ridge`` times N is added to the diagonal, the bias being free."""
        x, y = (F.normalize(each.double(), dim=-1) for each in (text, image))
        dx, dy, net = x - x.mean(0), y - y.mean(0), cls._build(text.shape[1])
        weight = torch.linalg.solve(dx.T @ dx + ridge * len(x) * torch.eye(x.shape[1], dtype=x.dtype), dx.T @ dy).T
        net.load_state_dict({"weight": weight, "bias": y.mean(0) - weight @ x.mean(0)})
        return cls.from_model(net, dim=text.shape[1])


class MLP(_Baseline):
    """One hidden layer."""

    @staticmethod
    def _build(dim: int, hidden: int = 0) -> nn.Module:
        hidden = hidden or 4 * dim
        return nn.Sequential(nn.Linear(dim, hidden), nn.SiLU(), nn.LayerNorm(hidden), nn.Linear(hidden, dim))

    @classmethod
    def fit(cls, text: Tensor, image: Tensor, hidden: int = 0, steps: int = 500, batch: int = 1024, seed: int = 0) -> Self:
        """AdamW on 1 - cosine over pairs (N, d); ``hidden`` is 4 d unless given. Leaves no trace in the random state."""
        hidden = hidden or 4 * text.shape[1]
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            net = cls._build(text.shape[1], hidden)
            optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
            for _ in range(steps):
                pick = torch.randint(len(text), (min(batch, len(text)),))
                loss = 1 - F.cosine_similarity(net(F.normalize(text[pick].float(), dim=-1)), image[pick].float()).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return cls.from_model(net, dim=text.shape[1], hidden=hidden)


class Bank(nn.Module):
    """Unit vectors of known pictures (N, d), and how soft the choice among them is."""

    def __init__(self, dim: int, count: int, temperature: float = 0.02) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(count, dim))
        self.temperature = nn.Parameter(torch.tensor(temperature))

    def forward(self, text: Tensor) -> Tensor:
        """(B, d) -> (B, d): the known vectors' mean, weighted by a softmax over their cosines to the text."""
        return (text @ self.rows.T / self.temperature).softmax(-1) @ self.rows


class Retrieval(_Baseline):
    """The known picture embeddings that lie nearest, as a weighted mean: projection onto a memory (DeCap, arXiv 2303.03032)."""

    @staticmethod
    def _build(dim: int, count: int = 1) -> nn.Module:
        return Bank(dim, count)

    @classmethod
    def fit(cls, image: Tensor, temperature: float = 0.02) -> Self:
        """Keep picture embeddings (N, d); a low ``temperature`` takes the nearest alone, and must be above 0 (ValueError)."""
        if not temperature > 0:
            raise ValueError(f"temperature {temperature} must be above 0")
        net = Bank(image.shape[1], len(image), temperature)
        net.rows.data = F.normalize(image.float(), dim=-1)
        return cls.from_model(net, dim=image.shape[1], count=len(image))


def as_of(module: nn.Module, x: Any) -> Any:
    """Give a tensor of floating point the precision of a module's weights."""
    return x.to(next(module.parameters()).dtype) if isinstance(x, Tensor) and x.is_floating_point() else x


def check(prior: Prior, text: Tensor, tokens: Tensor | None = None, candidates: int = 1) -> None:
    """Raise ValueError, with what was expected, for inputs that a prior cannot take."""
    if text.ndim != 2 or text.shape[1] != prior.dim:
        raise ValueError(f"text embeddings have the shape {tuple(text.shape)}, but the prior expects (B, {prior.dim})")
    if candidates < 1:
        raise ValueError(f"candidates must be at least 1, not {candidates}")
    if prior.reads_tokens and tokens is None:
        raise ValueError(
            f"{type(prior).__name__} also reads the words: give the text tower's tokens (B, L, {prior.dim}) and mask"
        )
    if tokens is not None and (tokens.ndim != 3 or tokens.shape[::2] != text.shape):
        raise ValueError(f"tokens have the shape {tuple(tokens.shape)}, but expected ({len(text)}, L, {prior.dim})")


def check_class(config: Mapping[str, Any], name: str, folder: Path) -> None:
    """Raise ValueError where a folder holds another kind of prior."""
    if config.get("class") != name:
        raise ValueError(f"{folder} holds a {config.get('class', 'model unknown here')}, not a {name}: name the class that fits")
