"""From the frames of a clip to what a mapper reads. Letters: B batch, F frames, d embedding size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from xmodal.diffusion.sampling import Generators

Aggregation = Literal["mean", "middle", "first", "random", "per_frame"]


def check_aggregation(name: str) -> None:
    """Raise ValueError for an unknown way."""
    if name not in get_args(Aggregation):
        raise ValueError(f"aggregation {name!r} is not one of {', '.join(get_args(Aggregation))}")


def aggregate(frames: Tensor, how: Aggregation = "mean", raw: bool = False, generator: Generators = None) -> Tensor:
    """Embeddings of frames (B, F, d) -> sources (B, d), or (B * F, d) with ``per_frame``, the frames of a clip in a row.

    ``mean`` is that of unit vectors, or with ``raw`` of the vectors as they are; ``random`` draws one frame for each clip,
    from ``generator`` (one, or one for each clip) if given. A single frame comes back as it is.
    """
    if how == "per_frame":
        return frames.flatten(0, 1)
    count = frames.shape[1]
    if count == 1 or how == "first":
        return frames[:, 0]
    if how == "middle":
        return frames[:, count // 2]
    if how == "random":
        drawn = _draw(len(frames), count, generator).to(frames.device)
        return frames[torch.arange(len(frames), device=frames.device), drawn]
    return (frames if raw else F.normalize(frames.float(), dim=-1)).mean(1)


def frames_to_read(how: Aggregation, frames: int) -> int | list[float]:
    """What to read of a video: how many frames, evenly spaced, or at which seconds."""
    return {"middle": 1, "first": [0.0]}.get(how, frames)  # type: ignore[return-value]


def _draw(rows: int, below: int, generator: Generators) -> Tensor:
    if isinstance(generator, Sequence):
        return torch.stack([torch.randint(below, (), generator=each, device=each.device).cpu() for each in generator])
    place = torch.device("cpu") if generator is None else generator.device
    return torch.randint(below, (rows,), generator=generator, device=place)
