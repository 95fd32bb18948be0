"""Metrics on features: what a system made against what it should have made. Extraction is another layer's business."""

from importlib import import_module
from typing import Any

_HOMES = {
    "AIC": "zero_shot", "AIS": "win_rate", "AVAlign": "av_align", "CMMD": "kernel", "CS": "cosine", "CosineScore": "cosine",
    "FrechetDistance": "frechet", "IIS": "win_rate", "InceptionScore": "inception", "KAD": "kernel", "KID": "kernel",
    "KLDivergence": "kl", "KernelDistance": "kernel", "ModalityGap": "modality_gap", "PRDC": "prdc", "Protocol": "protocol",
    "Result": "protocol", "Retrieval": "retrieval", "TagAccuracy": "tags", "WinRate": "win_rate", "compare": "protocol",
    "mean_opinion": "human", "preference": "human",
}  # fmt: skip

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    # Lazily, since reading a result file must not cost the import of torchmetrics.
    if name in _HOMES:
        return getattr(import_module(f"xmodal.metrics.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
