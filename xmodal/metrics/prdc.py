"""Fidelity apart from variety: precision and recall (Kynkäänniemi et al., arXiv 1904.06991), density and coverage (Naeem et
al., arXiv 2002.09797), from balls around every row that reach to its k-th nearest neighbour.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xmodal.metrics.features import Ids, ItemMetric, Rows
from xmodal.metrics.kernel import squared_distances

BLOCK = 1024
TIE = 1e-9  # relative: a copy of a real row lies on a ball's rim but for rounding, and counts as within


def radii(rows: Tensor, k: int) -> Tensor:
    """Squared distance (n,) of each row (n, d) to its k-th nearest neighbour, itself not counted."""
    made = []
    for start in range(0, len(rows), BLOCK):
        d2 = squared_distances(rows[start : start + BLOCK], rows)
        d2.diagonal(start).fill_(-1)
        made.append(d2.kthvalue(k + 1, dim=1).values)
    return torch.cat(made)


def within(centres: Tensor, radius: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """How many balls (n) hold each row (m,), and how many rows lie in each ball (n,)."""
    hold, held = [], torch.zeros(len(centres), dtype=torch.int64, device=centres.device)
    size = centres.square().sum(1)
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        slack = 1e-13 * (size + part.square().sum(1)[:, None])  # rounding of the distances themselves
        inside = squared_distances(part, centres) <= radius * (1 + TIE) + slack
        hold.append(inside.sum(1))
        held += inside.sum(0)
    return torch.cat(hold), held


class PRDC(ItemMetric):
    """Precision, recall, density and coverage with ``k`` neighbours. Higher is better; density may exceed 1.

    precision: share of made rows within a ball of the real rows; recall: share of real rows within a ball of the made
    rows; density: real balls that hold a made row, divided by k; coverage: share of real balls that hold a made row.
    Intervals resample the rows that are judged, with all balls fixed. Depends on the number of rows: compare at equal counts.
    """

    higher_is_better = True

    def __init__(self, k: int = 5, **options: Any) -> None:
        if k < 1:
            raise ValueError(f"k is {k}, but expected at least 1")
        super().__init__(**options)
        self.k = k

    def update(self, real: Tensor | None = None, fake: Tensor | None = None, ids: Ids | None = None) -> None:
        """Add rows (N, d), one an item, of either side or both."""
        for side, features in (("real", real), ("fake", fake)):
            if features is not None:
                rows = self.check(side, features, ids)
                if rows.shape[1] != 1:
                    raise ValueError(f"PRDC: expected one row an item, got {tuple(features.shape)}")
                self.add(side, rows, ids)

    def per_item(self) -> tuple[dict[str, tuple[Tensor, str]], dict[str, Rows]]:
        """See `ItemMetric.per_item`; raises ValueError for no more than ``k`` rows a side."""
        sides = {side: self.rows(side) for side in self.sides}
        real, fake = sides["real"].values, sides["fake"].values
        if min(len(real), len(fake)) <= self.k or real.shape[1] != fake.shape[1]:
            raise ValueError(
                f"PRDC: real is {tuple(real.shape)} and fake {tuple(fake.shape)}, but {self.k} neighbours need more than "
                f"{self.k} rows a side, of one width"
            )
        centre = real.mean(0)
        real, fake = real - centre, fake - centre
        of_fake, of_ball = within(real, radii(real, self.k), fake)
        of_real, _ = within(fake, radii(fake, self.k), real)
        return {
            "precision": ((of_fake > 0).to(torch.float64), "fake"),
            "recall": ((of_real > 0).to(torch.float64), "real"),
            "density": (of_fake.to(torch.float64) / self.k, "fake"),
            "coverage": ((of_ball > 0).to(torch.float64), "real"),
        }, sides

    def options(self) -> dict[str, Any]:
        """See `FeatureMetric.options`."""
        return {"k": self.k}
