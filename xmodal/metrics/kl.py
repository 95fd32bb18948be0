"""Kullback-Leibler divergence between what a classifier hears (or sees) in a real item and in the one made for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xmodal.metrics.features import Ids, PairMetric

FORMS = ("softmax", "sigmoid")


def kl_divergence(real: Tensor, fake: Tensor, form: str = "softmax", eps: float = 0.0) -> Tensor:
    """Logits (..., c) twice -> KL(real || fake) in nats (...,) float64, by log-softmax and exact where ``eps`` is 0.

    ``form="sigmoid"`` is the one-sided sum of p (log p - log q) over independent classes that the audio libraries report.
    ``eps`` is added to the made item's probabilities before the logarithm; 1e-6 is audioldm_eval's.
    """
    if form not in FORMS:
        raise ValueError(f"form is {form!r}, but expected one of {', '.join(FORMS)}")
    real, fake = real.to(torch.float64), fake.to(torch.float64)
    if form == "softmax":
        log_p, log_q = real.log_softmax(-1), fake.log_softmax(-1)
    else:
        log_p, log_q = torch.nn.functional.logsigmoid(real), torch.nn.functional.logsigmoid(fake)
    if eps:
        log_q = (log_q.exp() + eps).log()
    return (log_p.exp() * (log_p - log_q)).sum(-1)


class KLDivergence(PairMetric):
    """Mean over pairs of KL(real || made) of classifier logits, exact unless ``eps`` is given. Lower is better.

    Several windows an item, (N, K, c) on both sides, are averaged within the item. ``score`` is what the value is called.
    """

    higher_is_better = False

    def __init__(self, form: str = "softmax", eps: float = 0.0, score: str = "KL", **options: Any) -> None:
        if form not in FORMS:
            raise ValueError(f"form is {form!r}, but expected one of {', '.join(FORMS)}")
        if eps < 0:
            raise ValueError(f"eps is {eps}, but expected 0 (exact) or a small positive number")
        super().__init__(**options)
        self.form, self.eps, self.columns = form, eps, (score,)

    def update(self, real: Tensor, fake: Tensor, ids: Ids | None = None) -> None:
        """Add logits of N pairs, (N, c) or (N, K, c) each."""
        one, two = self.paired(("real", real), ("fake", fake), ids)
        if one.shape[1] != two.shape[1]:
            raise ValueError(f"KL: real has {one.shape[1]} windows an item but fake {two.shape[1]}: cut both alike")
        self.add("pairs", kl_divergence(one, two, self.form, self.eps).mean(1)[:, None, None], ids)

    def options(self) -> dict[str, Any]:
        """See `FeatureMetric.options`."""
        return {"form": self.form, "eps": self.eps}
