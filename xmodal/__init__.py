"""Frozen foundation models are interchangeable parts; small adapters join them.

Names are looked up on first use, so that ``import xmodal`` costs nothing and loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "available", "load", "pipeline"]

if TYPE_CHECKING:
    from xmodal.registry.models import available, load
    from xmodal.routes import pipeline


def _lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a package's ``__getattr__``: a name's module, below the package, is imported when the name is first asked for."""

    def look_up(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; public names: {', '.join(sorted(homes))}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return look_up


__getattr__ = _lazily("xmodal", {"pipeline": "routes", "load": "registry.models", "available": "registry.models"})


def __dir__() -> list[str]:
    return sorted(__all__)
