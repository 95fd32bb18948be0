"""How well a mapper's guesses fit their own targets, and how well those of other clips."""

from __future__ import annotations

import torch
from torch import Tensor

from xmodal.metrics.features import FeatureMetric, Ids, Rows, normalized
from xmodal.metrics.protocol import Score


class Agreement(FeatureMetric):
    """Mean cosine of guesses with their own targets (``cosine``) and with those of all other clips (``cosine_shuffled``).

    Always guessing the mean scores alike in both. Neither batches nor processes change a number; a clip that a sampler repeats
    counts once if its id is known.
    """

    higher_is_better = True
    sides = ("pairs",)

    def update(self, guess: Tensor, target: Tensor, ids: Ids | None = None) -> None:
        """Add N clips: guesses and targets, (N, d) or (N, F, d) for F frames of one clip."""
        one, two = self.check("guess", guess, ids), self.check("target", target, ids)
        self.add("pairs", torch.cat([normalized(one), normalized(two)], -1), ids)

    def scores(self, draws: int = 0, seed: int = 0) -> tuple[dict[str, Score], dict[str, Rows | int]]:
        """See `FeatureMetric.scores`; without intervals."""
        rows = self.rows("pairs")
        clips = rows.items
        # Means over a clip's frames: products of means are means of products.
        each = rows.values.new_zeros(clips, rows.values.shape[1]).index_add_(0, rows.item, rows.values)
        guess, target = (each / rows.item.bincount()[:, None]).chunk(2, -1)
        own = (guess * target).sum()
        others = (guess.sum(0) @ target.sum(0) - own) / (clips * (clips - 1)) if clips > 1 else own
        found = {"cosine": own / clips, "cosine_shuffled": others}
        return {name: Score(float(value)) for name, value in found.items()}, {"pairs": rows}
