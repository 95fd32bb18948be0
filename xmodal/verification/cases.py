"""One known answer: what was published, or recorded, of a model's weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmodal.files import own_cache
from xmodal.registry.cards import sha256


def media_folder() -> Path:
    """Return where media of published answers are looked for."""
    return own_cache() / "media"


@dataclass(frozen=True)
class Answer:
    """What was published of a card's weights: ``compute(card)`` gives the numbers that ``expected`` lists.

    ``card`` is a name or a path. ``tolerance`` is absolute, or with ``relative`` a part of each number. ``source`` says who
    published it, ``media`` which files it needs (name -> beginning of their sha256), below `media_folder`.
    """

    case: str
    compute: Callable[[str], Any]
    expected: Sequence[float]
    tolerance: float
    source: str
    relative: bool = False
    media: Mapping[str, str] | None = None

    def lacking(self) -> str:
        """Return the sentence for media that are not here or are not those, or ""."""
        folder = media_folder()
        for name, digest in (self.media or {}).items():
            if not (folder / name).is_file():
                return f"needs {name} of {self.source} in {folder}"
            if not sha256(folder / name).startswith(digest):
                return f"{folder / name} is not the file of {self.source}: its sha256 begins otherwise than {digest}"
        return ""
