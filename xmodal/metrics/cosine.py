"""Cosine between two modalities in a shared space: CLAP score, ImageBind score, CS (CLIP against Wav2CLIP), any pair."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from xmodal.metrics.features import Ids, PairMetric, normalized


class CosineScore(PairMetric):
    """``scale`` times the mean cosine of paired embeddings, in [-scale, scale]. Higher is better.

    With several rows an item on either side (frames of a video), every row of one is compared with every row of the
    other and the cosines are averaged within the item. ``clip=True`` counts negative items as zero. A row of zeros has
    cosine 0. ``name`` is what the score is called: CLAP, ImageBind, ...
    """

    higher_is_better = True

    def __init__(self, name: str = "cosine", scale: float = 1.0, clip: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.label, self.scale, self.clip = name, scale, clip
        self.columns = (name,)

    @property
    def name(self) -> str:
        """As given to the constructor."""
        return self.label

    def update(self, first: Tensor, second: Tensor, ids: Ids | None = None) -> None:
        """Add N pairs: embeddings (N, d) or (N, K, d) of either modality, in one space."""
        one, two = self.paired(("first", first), ("second", second), ids)
        # The mean over all pairs of rows is the product of the mean rows.
        cosine = (normalized(one).mean(1) * normalized(two).mean(1)).sum(-1).clamp(-1, 1)
        value = self.scale * (cosine.clamp(min=0) if self.clip else cosine)
        self.add("pairs", value[:, None, None], ids)

    def options(self) -> dict[str, Any]:
        """See `FeatureMetric.options`."""
        return {"scale": self.scale, "clip": self.clip}


class CS(CosineScore):
    """CLIP score through Wav2CLIP (Im2Wav, arXiv 2211.03089): 100 times the cosine of frames and sound, unclipped."""

    def __init__(self, **options: Any) -> None:
        super().__init__("CS", scale=100.0, **options)
