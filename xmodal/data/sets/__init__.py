"""Public data sets as they lie on disk, one file each: ``rows(source, found)`` yields a manifest's rows.

Other packages add theirs through the entry-point group ``xmodal.datasets``, one function each. Facts of the layouts stand with
each; a clip whose file is missing is counted, not invented.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xmodal.data.clips import Found, Row

GROUP = "xmodal.datasets"
Builder = Callable[[Path, "Found"], Iterator["Row"]]


def kinds() -> list[str]:
    """Return the names of all data sets; imports none of them."""
    own = [path.stem.replace("_", "-") for path in Path(__file__).parent.glob("[!_]*.py")]
    return sorted({*own, *(entry.name for entry in entry_points(group=GROUP))})


def builder(kind: str) -> Builder:
    """Return the function of a data set; raises ValueError with the known names for another."""
    if kind not in kinds():
        raise ValueError(f"there is no data set kind {kind!r}: known are {', '.join(kinds())}")
    for entry in entry_points(group=GROUP):
        if entry.name == kind:
            return entry.load()
    return import_module(f"{__name__}.{kind.replace('-', '_')}").rows
