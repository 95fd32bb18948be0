"""Finding the partner among all partners: recall at k, ranks, in both directions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xmodal.metrics.features import Ids, ItemMetric, Rows, normalized

BLOCK = 1024
TIE = 1e-12  # cosines of equal rows differ by rounding, which must not decide
TIES = ("lose", "win")


def ranks(query: Tensor, gallery: Tensor, ties: str = "lose") -> Tensor:
    """Rank (n,) float64 of each query's partner, 1 the best: rows (n, d) twice, row i of the one belongs to row i of the other.

    By cosine. ``ties="lose"`` puts everything equally near before the partner (a collapsed model ranks last), "win" after it.
    """
    query, gallery = normalized(query.to(torch.float64)), normalized(gallery.to(torch.float64))
    own = (query * gallery).sum(1)
    made = []
    for start in range(0, len(query), BLOCK):
        near = query[start : start + BLOCK] @ gallery.T - own[start : start + BLOCK, None]
        near.diagonal(start).fill_(-4)  # the partner itself is below everything
        made.append(1 + (near >= -TIE if ties == "lose" else near > TIE).sum(1))
    return torch.cat(made).to(torch.float64)


class Retrieval(ItemMetric):
    """R@k, median and mean rank, and mean reciprocal rank of N pairs, from first to second and back.

    Depends on how many pairs there are: compare at equal N only. Intervals resample the queries with the gallery fixed.
    """

    sides = ("pairs",)
    higher_is_better = None

    def __init__(self, at: tuple[int, ...] = (1, 5, 10), ties: str = "lose", **options: Any) -> None:
        if ties not in TIES or not at or min(at) < 1:
            raise ValueError(f"ties is {ties!r} and at {at}, but expected one of {TIES} and ranks from 1 on")
        super().__init__(**options)
        self.at, self.ties = at, ties

    def update(self, first: Tensor, second: Tensor, ids: Ids | None = None) -> None:
        """Add embeddings (N, d) of N pairs, in one space."""
        one, two = self.check("first", first, ids), self.check("second", second, ids)
        if one.shape != two.shape or one.shape[1] != 1:
            raise ValueError(f"Retrieval: expected one row each of N pairs, got {tuple(first.shape)} and {tuple(second.shape)}")
        # Stored side by side: a pair must not be torn when rows are ordered by content.
        self.add("pairs", torch.cat([one, two], dim=2), ids)

    def per_item(self) -> tuple[dict[str, tuple[Tensor, str]], dict[str, Rows]]:
        """See `ItemMetric.per_item`."""
        pairs = self.rows("pairs")
        first, second = pairs.values.chunk(2, dim=1)
        made: dict[str, tuple[Tensor, str]] = {}
        ways = {"first_to_second": (first, second), "second_to_first": (second, first)}
        for direction, (query, gallery) in ways.items():
            found = ranks(query, gallery, self.ties)
            for k in self.at:
                made[f"{direction}/R@{k}"] = ((found <= k).to(torch.float64), "pairs")
            made[f"{direction}/median_rank"] = made[f"{direction}/mean_rank"] = (found, "pairs")
            made[f"{direction}/MRR"] = (1 / found, "pairs")
        return made, {"pairs": pairs}

    def reduction(self, name: str) -> str:
        """See `ItemMetric.reduction`."""
        return "median" if name.endswith("median_rank") else "mean"

    def options(self) -> dict[str, Any]:
        """See `FeatureMetric.options`."""
        return {"at": list(self.at), "ties": self.ties}
