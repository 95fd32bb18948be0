"""Where weights come from. Free of torch, so that listing the models costs nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WEIGHTS = Path(__file__).parent.parent / "miniature" / "weights"


@dataclass(frozen=True)
class Card:
    """Where a model's weights come from, and what they demand.

    ``source`` is a hub id, a path, or ``package:FOLDER`` for weights shipped under ``xmodal/miniature/weights``.
    ``files`` maps file names to their sha256 (``None`` where it is not known). ``options`` are constructor options
    that belong to these weights (token layers, attention heads, ...). ``size`` is the download in bytes, 0 where unknown.
    """

    source: str
    files: Mapping[str, str | None]
    licence: str
    commercial: bool
    origin: str
    parameters: int
    dim: int | None = None
    sample_rate: int | None = None
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    normalised: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    size: int = 0

    def folder(self) -> Path:
        """Return the local folder (or file) that the source names; raises FileNotFoundError for a hub id not given as a path."""
        path = WEIGHTS / self.source.removeprefix("package:") if self.source.startswith("package:") else Path(self.source)
        if path.exists():
            return path
        raise FileNotFoundError(
            f"the weights of {self.source!r} are not on this machine (looked at {path}): download "
            f"{', '.join(self.files) or 'them'} from {self.origin} and give the path as card"
        )

    def verify(self) -> None:
        """Compare the sha256 of every file whose hash the card knows; raises ValueError on the first difference."""
        folder = self.folder()
        for name, expected in self.files.items():
            path = folder / name if folder.is_dir() else folder
            if expected and hashlib.sha256(path.read_bytes()).hexdigest() != expected:
                raise ValueError(f"{path} is damaged or not the published file: its sha256 is not {expected}")


def find_card(cards: Mapping[str, Card], name: str, kind: str) -> Card:
    """Return the card called ``name``, or a card for a local path; raises ValueError that lists the known names."""
    if name in cards:
        return cards[name]
    if Path(name).exists():
        return Card(source=name, files={}, licence="unknown", commercial=False, origin=name, parameters=0)
    raise ValueError(f"{kind} has no card {name!r} and no such path exists; its cards are: {', '.join(cards)}")
