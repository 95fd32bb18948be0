"""From an audio embedding to the picture embedding that a Stable unCLIP paints from: training-free, or one learned map.

Letters: B batch, d width of the audio embedding, e width of the picture embedding.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.foundation.base import Adapter

Match = Literal["length", "mean", "moments"]


class PictureSpace(Adapter):
    """Takes an audio embedding for a picture's of the same space. Nothing is trained; at most means and deviations are gathered.

    Args:
        in_dim, out_dim: d and e, which must be equal.
        match: what becomes of the unit vector: ``length`` (root mean square length of picture embeddings), ``mean`` (so long,
            and moved by the difference of the means: mean shift), or ``moments`` (each number gets the pictures' moments).

    Statistics of pictures are the painter's own until pictures are observed; those of sounds are gathered by :meth:`observe`.
    Raises ValueError for an unknown ``match``, or widths that differ.
    """

    same_space = True
    count: Tensor
    seen: Tensor
    source_mean: Tensor
    source_var: Tensor
    target_mean: Tensor
    target_var: Tensor

    def __init__(self, in_dim: int, out_dim: int, match: Match = "length") -> None:
        super().__init__()
        if match not in get_args(Match):
            raise ValueError(f"match {match!r} is not one of {', '.join(get_args(Match))}")
        if in_dim != out_dim:
            raise ValueError(
                f"an audio embedding of {in_dim} numbers does not lie with picture embeddings of {out_dim}: take a painter of "
                "the CLIP that the encoder was trained to (ViT-B/32 for Wav2CLIP, ViT-H/14 for ImageBind and the default Stable "
                "unCLIP), or learn the way with xmodal.audio2image.LinearBridge"
            )
        self.match = match
        for name in ("count", "seen"):  # sounds and pictures observed
            self.register_buffer(name, torch.zeros(()))
        for name in ("source_mean", "target_mean"):
            self.register_buffer(name, torch.zeros(out_dim))
        for name in ("source_var", "target_var"):
            self.register_buffer(name, torch.ones(out_dim))

    @property
    def gathers(self) -> bool:
        """Whether it needs statistics of sounds."""
        return self.match != "length"

    @property
    def ready(self) -> bool:
        """Whether it has what it needs."""
        return not self.gathers or bool(self.count > 1)

    @torch.no_grad()
    def begin(self, mean: Tensor, std: Tensor) -> None:
        """Take the painter's statistics of picture embeddings, (1, e) or (e,)."""
        self.target_mean.copy_(mean.reshape(-1))
        self.target_var.copy_(std.reshape(-1).square())

    @torch.no_grad()
    def observe(self, source: Tensor, target: Tensor | None = None) -> None:
        """Add audio embeddings (B, d), and picture embeddings (N, e), which then replace the painter's statistics."""
        _add(F.normalize(source.float(), dim=-1), self.count, self.source_mean, self.source_var)
        if target is not None:
            _add(target.float(), self.seen, self.target_mean, self.target_var)

    def forward(self, source: Tensor) -> Tensor:
        """Audio embeddings (B, d) of any length -> picture embeddings (B, e) float32; ValueError without needed statistics."""
        if not self.ready:
            raise ValueError(
                f"match {self.match!r} needs the statistics of sounds, and none were gathered: run `xmodal fit` on them first"
            )
        unit = F.normalize(source.float(), dim=-1)
        if self.match == "moments":
            deviation = (self.target_var / self.source_var.clamp(min=1e-12)).sqrt()
            return (unit - self.source_mean) * deviation + self.target_mean
        length = (self.target_mean.square() + self.target_var).sum().sqrt()
        return unit * length if self.match == "length" else (unit - self.source_mean) * length + self.target_mean


class LinearBridge(Adapter):
    """One affine map of the unit vector, learned: the way from one CLIP to the painter's, of any widths d and e."""

    same_space = False

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, out_dim)

    def forward(self, source: Tensor) -> Tensor:
        """Audio embeddings (B, d) of any length -> picture embeddings (B, e)."""
        unit = F.normalize(source.float(), dim=-1)
        return self.linear(unit * source.shape[-1] ** 0.5)  # numbers of about unit variance


class NoAdapter(Adapter):
    """Stands in an adapter's place where there is none; its one number says nothing."""

    nothing: Tensor

    def __init__(self, in_dim: int = 0, out_dim: int = 0) -> None:
        super().__init__()
        self.register_buffer("nothing", torch.zeros(1))


def _add(rows: Tensor, count: Tensor, mean: Tensor, var: Tensor) -> None:
    """Bring rows (N, e) into a running mean and variance (Chan et al., 1979), in place."""
    first, fresh = rows.mean(0), rows.var(0, unbiased=False)
    before, total = count.clone(), count + len(rows)
    gap, share = first - mean, len(rows) / total
    if before == 0:
        mean.copy_(first)
        var.copy_(fresh)
    else:
        mean.add_(gap * share)
        var.copy_(var * (1 - share) + fresh * share + gap.square() * share * (1 - share))
    count.copy_(total)
