"""Accuracy of a tagger's verdict on made items, where the truth is known (the miniature world, labelled data)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xmodal.metrics.features import Ids, PairMetric

TIE = 1e-12  # relative; equal scores differ by rounding, which must not decide


def label_ranks(name: str, scores: Tensor, labels: Tensor) -> Tensor:
    """Scores (N, C) and label indices (N,) -> the rank (N,) of each label, 1 the best; a tie goes to the other classes.

    Raises ValueError for labels of another shape or outside 0 .. C - 1.
    """
    if labels.ndim != 1 or len(labels) != len(scores) or labels.is_floating_point():
        raise ValueError(f"{name}: expected {len(scores)} label indices (integers), got {tuple(labels.shape)} of {labels.dtype}")
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < scores.shape[1]):
        span = f"{int(labels.min())} to {int(labels.max())}"
        raise ValueError(f"{name}: labels run from {span}, but there are {scores.shape[1]} classes")
    own = scores.gather(1, labels.to(scores.device, torch.int64)[:, None])
    slack = TIE * scores.abs().amax(1, keepdim=True)
    return (scores >= own - slack).sum(1)


class TagAccuracy(PairMetric):
    """Share of items whose true class is among the ``top`` highest logits. Ties lose; higher is better.

    ``name`` is what is judged: thing, size, count, ...
    """

    higher_is_better = True

    def __init__(self, name: str = "tag", top: tuple[int, ...] = (1,), **options: Any) -> None:
        if not top or min(top) < 1:
            raise ValueError(f"top is {top}, but expected numbers of classes from 1 on")
        super().__init__(**options)
        self.label, self.top = name, top
        self.columns = tuple(f"{name}_top{k}" for k in top)

    @property
    def name(self) -> str:
        """As given to the constructor."""
        return f"TagAccuracy({self.label})"

    def update(self, fake: Tensor, labels: Tensor, ids: Ids | None = None) -> None:
        """Add logits (N, C) of made items and their true class indices (N,)."""
        made = self.check("fake", fake, ids)
        if made.shape[1] != 1:
            raise ValueError(f"{self.name}: expected one row of logits an item, got {tuple(fake.shape)}")
        ranks = label_ranks(self.name, made[:, 0], labels)
        self.add("pairs", torch.stack([(ranks <= k).to(torch.float64) for k in self.top], dim=1)[:, None], ids)

    def options(self) -> dict[str, Any]:
        """See `FeatureMetric.options`."""
        return {"top": list(self.top)}
