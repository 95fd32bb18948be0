"""Training of the miniature zoo, one file a trade; recipes name the classes by this package alone.

Nothing is imported before a class is asked for: a task of pictures needs none of the sounds' libraries.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "TrainVAE": "pictures", "TrainDiffusion": "pictures", "TrainHearing": "pictures", "TrainSeeing": "pictures",
    "TrainMelVAE": "sounds", "TrainVocoder": "sounds", "TrainAudioLDM": "sounds",
    "TrainCLIP": "embeddings", "TrainCLAP": "embeddings",
    "TrainPrior": "prior",
}  # fmt: skip
__all__ = [*_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
