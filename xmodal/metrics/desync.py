"""DeSync: by how many seconds a synchronisation model finds sound and picture apart (Synchformer, arXiv 2401.16423; MMAudio)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xmodal.metrics.features import Ids, PairMetric

CLASSES, REACH = 21, 2.0  # offsets from -2 s to 2 s in steps of 0.2 s


class DeSync(PairMetric):
    """Mean absolute offset in seconds; lower is better.

    Each window of a clip (MMAudio takes two: the first and the last 14 segments of 8 s) gives logits over ``classes``
    offsets from ``-reach`` to ``reach``; the likeliest offset's distance from zero is averaged over windows, then clips.
    """

    higher_is_better = False
    columns = ("DeSync",)

    def __init__(self, classes: int = CLASSES, reach: float = REACH, **options: Any) -> None:
        if classes < 2 or not reach > 0:
            raise ValueError(f"classes is {classes} and reach {reach}, but expected at least 2 classes and a reach above 0")
        super().__init__(**options)
        self.classes, self.reach = classes, reach

    def update(self, logits: Tensor, ids: Ids | None = None) -> None:
        """Add logits (N, classes), or (N, K, classes) of K windows a clip."""
        rows = self.check("logits", logits, ids, self.classes)
        # Rounded, since steps of 0.2 s are no binary fractions and the middle class must be 0 exactly.
        offsets = torch.linspace(-self.reach, self.reach, self.classes, dtype=torch.float64, device=rows.device).round(decimals=9)
        self.add("pairs", offsets[rows.argmax(-1)].abs().mean(1)[:, None, None], ids)

    def options(self) -> dict[str, Any]:
        """See `FeatureMetric.options`."""
        return {"classes": self.classes, "reach": self.reach}
