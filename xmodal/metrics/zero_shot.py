"""AIC, audio-image content: whether the class of the sound is seen in the picture made from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xmodal.metrics.features import Ids, PairMetric, normalized
from xmodal.metrics.tags import label_ranks

MODES = ("zero_shot", "classifier_label")


class AIC(PairMetric):
    """Agreement of made pictures with the labels of their sounds; higher is better.

    ``mode="zero_shot"``: ``classes`` (C, d) are text embeddings of the data set's labels; the score is the share of
    pictures (embeddings (N, d)) whose own label is among the nearest ``top`` texts; numbers that hold all classes are left
    out. Ties lose.
    ``mode="classifier_label"``: pictures come as classifier logits (N, K), ``predicted`` (K, d) are text embeddings of the
    classifier's class names, and the score is the mean cosine between the predicted name and the sound's label.
    """

    higher_is_better = True

    def __init__(
        self,
        classes: Tensor,
        mode: str = "zero_shot",
        predicted: Tensor | None = None,
        top: tuple[int, ...] = (1, 5),
        **options: Any,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}, but expected one of {', '.join(MODES)}")
        if (mode == "classifier_label") != (predicted is not None):
            raise ValueError("predicted, embeddings of the classifier's class names, belongs to mode='classifier_label' alone")
        super().__init__(**options)
        self.mode = mode
        self.top = tuple(k for k in top if k == 1 or k < len(classes))
        self.columns = tuple(f"AIC_top{k}" for k in self.top) if mode == "zero_shot" else ("AIC_cosine",)
        # Plain attributes: neither state nor weights, and they must stay float64 when a parent is cast.
        self._classes = normalized(self.check("classes", classes)[:, 0])
        width = self._classes.shape[1]
        self._predicted = None if predicted is None else normalized(self.check("predicted", predicted, width=width)[:, 0])

    def update(self, fake: Tensor, labels: Tensor, ids: Ids | None = None) -> None:
        """Add embeddings (N, d), or logits (N, K) in the other mode, of made pictures, and label indices (N,)."""
        width = self._classes.shape[1] if self._predicted is None else len(self._predicted)
        made = self.check("fake", fake, ids, width)
        if made.shape[1] != 1:
            raise ValueError(f"AIC: expected one row a picture, got {tuple(fake.shape)}")
        self._classes = self._classes.to(made.device)
        if self._predicted is None:
            ranks = label_ranks("AIC", normalized(made[:, 0]) @ self._classes.T, labels)
            values = torch.stack([(ranks <= k).to(torch.float64) for k in self.top], dim=1)
        else:
            self._predicted = self._predicted.to(made.device)
            label_ranks("AIC", self._classes.new_zeros(len(made), len(self._classes)), labels)
            own = self._classes[labels.to(made.device)]
            values = (self._predicted[made[:, 0].argmax(1)] * own).sum(1, keepdim=True)
        self.add("pairs", values[:, None], ids)

    def options(self) -> dict[str, Any]:
        """See `FeatureMetric.options`."""
        return {"mode": self.mode, "classes": len(self._classes), "top": list(self.top) if self.mode == "zero_shot" else []}
