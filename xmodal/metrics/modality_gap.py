"""How far two modalities lie apart in the space that they share (Liang et al., arXiv 2203.02053)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from xmodal.metrics.features import Ids, Rows, SetMetric, normalized


class ModalityGap(SetMetric):
    """Distance of the centroids of normalized embeddings, and the mean cosine of paired and of unpaired items.

    The gap alone says nothing of the pairing: a mapper that returns the mean of its targets closes it.
    """

    sides = ("pairs",)
    resampled = "pairs"
    higher_is_better = None

    def update(self, first: Tensor, second: Tensor, ids: Ids | None = None) -> None:
        """Add embeddings (N, d) of N pairs, in one space."""
        one, two = self.check("first", first, ids), self.check("second", second, ids)
        if one.shape != two.shape or one.shape[1] != 1:
            raise ValueError(f"ModalityGap: expected one row each of N pairs, got {tuple(first.shape)} and {tuple(second.shape)}")
        self.add("pairs", torch.cat([normalized(one), normalized(two)], dim=2), ids)

    def values(self, sides: dict[str, Rows], counts: np.ndarray | None) -> dict[str, tuple[float, np.ndarray | None]]:
        """See `SetMetric.values`."""
        rows = sides["pairs"].values
        if len(rows) < 2:
            raise ValueError(f"ModalityGap: {len(rows)} pair was given, but unpaired items need at least 2")
        point = _measures(rows, rows.new_ones(1, len(rows)))
        again = None if counts is None else _measures(rows, torch.from_numpy(counts).to(rows.device))
        return {name: (float(value[0]), None if again is None else again[name].cpu().numpy()) for name, value in point.items()}


def _measures(rows: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Rows (n, 2d), each a pair side by side, and counts (b, n) -> three measures (b,)."""
    first, second = rows.chunk(2, dim=1)
    n = weights.sum(1)
    one, two = weights @ first, weights @ second
    same = (first * second).sum(1)
    own = weights @ same
    # A drawn pair is not its own stranger, however often it was drawn.
    strangers = (one * two).sum(1) - weights.square() @ same
    return {
        "gap": ((one - two) / n[:, None]).norm(dim=1),
        "paired_cosine": own / n,
        "unpaired_cosine": strangers / (n * n - weights.square().sum(1)),
    }
