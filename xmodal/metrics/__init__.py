"""Metrics on features: what a system made against what it should have made. Extraction is another layer's business."""

from importlib import import_module
from typing import Any

_HOMES = {
    "AIC": "zero_shot", "AIS": "win_rate", "AVAlign": "av_align", "CMMD": "kernel", "compare": "protocol",
    "CosineScore": "cosine", "CS": "cosine", "DeSync": "desync", "FrechetDistance": "frechet", "IIS": "win_rate",
    "InceptionScore": "inception", "KAD": "kernel", "KernelDistance": "kernel", "KID": "kernel", "KLDivergence": "kl",
    "krippendorff_alpha": "human", "mean_opinion": "human", "ModalityGap": "modality_gap", "PRDC": "prdc",
    "preference": "human", "Protocol": "protocol",
    "Result": "protocol", "Retrieval": "retrieval", "TagAccuracy": "tags", "WinRate": "win_rate",
}  # fmt: skip

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    # Lazily, since reading a result file must not cost the import of torchmetrics.
    if name in _HOMES:
        return getattr(import_module(f"xmodal.metrics.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
