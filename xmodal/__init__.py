"""Frozen foundation models are interchangeable parts; small adapters join them.

Names are looked up on first use, so that ``import xmodal`` costs nothing and loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "available", "load", "pipeline"]

if TYPE_CHECKING:
    from xmodal.registry.models import available, load
    from xmodal.routes import pipeline


_HOMES = {"pipeline": "xmodal.routes", "load": "xmodal.registry.models", "available": "xmodal.registry.models"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'xmodal' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
