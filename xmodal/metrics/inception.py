"""Inception score: how sure a classifier is of each item, and how varied the items are (Salimans et al., arXiv 1606.03498)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmodal.metrics.features import Ids, Rows, SetMetric


def inception_score(logits: Tensor) -> Tensor:
    """Logits (n, c) -> exp of the mean KL(p(y|x) || p(y)), a float64 scalar in [1, c]; 0 log 0 counts as 0."""
    p = logits.to(torch.float64).softmax(-1)
    marginal = p.mean(0, keepdim=True)
    return (torch.xlogy(p, p) - torch.xlogy(p, marginal)).sum(-1).mean().exp()


LEAST = 4  # rows a split


class InceptionScore(SetMetric):
    """Mean and population std of the score over ``splits`` runs of the permuted rows. Higher is better.

    Rows are permuted by RandomState(``seed``) from their order by id (or by content, without ids), and split i holds the
    rows i n // splits to (i + 1) n // splits; with ids 0, 1, ... these are torch-fidelity's splits. The score is bounded by
    the number of classes and by the rows of a split, so counts must agree before two scores are compared. ``compute`` raises
    ValueError below ``LEAST`` rows a split: a single row's score is 1 whatever it is, two of one kind each give about 1.8.
    ``score`` is what the value is called.
    """

    higher_is_better = True
    sides = ("fake",)

    def __init__(self, splits: int = 10, seed: int = 2020, score: str = "IS", **options: Any) -> None:
        if splits < 1:
            raise ValueError(f"splits is {splits}, but expected at least 1")
        super().__init__(**options)
        self.splits, self.seed, self.score = splits, seed, score

    def update(self, fake: Tensor, ids: Ids | None = None) -> None:
        """Add logits (N, c), or (N, K, c) for K rows an item."""
        self.add("fake", self.check("fake", fake, ids), ids)

    def values(self, sides: dict[str, Rows], counts: np.ndarray | None) -> dict[str, tuple[float, np.ndarray | None]]:
        """See `SetMetric.values`."""
        rows = sides["fake"]
        mean, spread = self._splits(rows.values)
        again = None
        if counts is not None:
            item = rows.item.cpu().numpy()
            drawn = [torch.from_numpy(np.repeat(np.arange(len(item)), count[item].astype(int))) for count in counts]
            again = np.array([self._splits(rows.values[index.to(rows.values.device)])[0] for index in drawn])
        return {self.score: (mean, again), f"{self.score}_std": (spread, None)}

    def _splits(self, logits: Tensor) -> tuple[float, float]:
        n = len(logits)
        if n < LEAST * self.splits:
            needed = f"needs {LEAST * self.splits}, {LEAST} a split"
            raise ValueError(f"IS: {n} rows are too few for {self.splits} splits: it {needed}; give more, or take fewer splits")
        order = torch.from_numpy(np.random.RandomState(self.seed).permutation(n)).to(logits.device)
        parts = [logits[order[i * n // self.splits : (i + 1) * n // self.splits]] for i in range(self.splits)]
        made = np.array([float(inception_score(part)) for part in parts])
        return float(made.mean()), float(made.std())

    def options(self) -> dict[str, Any]:
        """See `FeatureMetric.options`."""
        return {"splits": self.splits, "split_seed": self.seed}
