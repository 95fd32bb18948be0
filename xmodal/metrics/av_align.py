"""Audio-video alignment: whether onsets of the sound fall on peaks of the motion (TempoTokens, arXiv 2309.16429)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from xmodal.metrics.features import Ids, PairMetric

VERSIONS = ("2025", "2023")
Peaks = Sequence[float]


def motion_peaks(flow: Sequence[float], fps: float, threshold: float = 0.1) -> list[float]:
    """Times (s) of the frames whose mean flow is above that of both neighbours and at least ``threshold``."""
    return [i / fps for i in range(1, len(flow) - 1) if flow[i] > flow[i - 1] and flow[i] > flow[i + 1] and flow[i] >= threshold]


def peak_overlap(audio: Peaks, video: Peaks, fps: float, version: str = "2025") -> float:
    """Matches over union of two lists of peak times (s); a match lies within one frame. nan where there are no peaks at all.

    "2025" matches one to one; "2023", the rule of the paper's script, lets one video peak serve many audio peaks, so it
    can exceed 1.
    """
    if version not in VERSIONS:
        raise ValueError(f"version is {version!r}, but expected one of {', '.join(VERSIONS)}")
    if not fps > 0:
        raise ValueError(f"fps is {fps}, but expected a number above 0")
    free, matches = list(video), 0
    for time in audio:
        near = next((peak for peak in free if time - 1 / fps < peak < time + 1 / fps), None)
        if near is not None:
            matches += 1
            if version == "2025":
                free.remove(near)
    union = len(audio) + len(video) - matches
    return matches / union if union else float("nan")


class AVAlign(PairMetric):
    """Mean overlap of onsets and motion peaks over clips; clips without any peak are left out and counted as skipped."""

    higher_is_better = True
    columns = ("AV-Align",)

    def __init__(self, version: str = "2025", **options: Any) -> None:
        if version not in VERSIONS:
            raise ValueError(f"version is {version!r}, but expected one of {', '.join(VERSIONS)}")
        super().__init__(**options)
        self.rule = version

    def update(self, audio: Sequence[Peaks], video: Sequence[Peaks], fps: float, ids: Ids | None = None) -> None:
        """Add the peak times (s) of N clips, and the frame rate of their video."""
        if len(audio) != len(video) or (ids is not None and len(ids) != len(audio)):
            raise ValueError(f"AVAlign: {len(audio)} lists of audio peaks, {len(video)} of video peaks and {len(ids or ())} ids")
        values = [peak_overlap(one, two, fps, self.rule) for one, two in zip(audio, video, strict=True)]
        self.add("pairs", torch.tensor(values, dtype=torch.float64, device=self.device).reshape(-1, 1, 1), ids)

    def options(self) -> dict[str, Any]:
        """See `FeatureMetric.options`."""
        return {"version": self.rule}
