"""What tells, without building a part, that its weights are those of the last time."""

from __future__ import annotations

import hashlib
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from xmodal.foundation.base import Card
from xmodal.frozen import Frozen


def kind_of(part: Any) -> type[Frozen] | None:
    """The frozen class that a factory calls; None where that cannot be known."""
    made = [each for each in (part, getattr(part, "func", None), *getattr(part, "args", ())) if isinstance(each, type)]
    return made[0] if made and issubclass(made[0], Frozen) else None


def card_of(part: Any) -> Card | None:
    """The card that a factory's part will load; None where it names none of its model's own."""
    kind = kind_of(part)
    if kind is None:
        return None
    cards = getattr(sys.modules[kind.__module__], "CARDS", {})
    return cards.get(getattr(part, "keywords", {}).get("card", next(iter(cards), None)))


def identity(part: Any) -> str | None:
    """A hash of class, options and the weights' files (names, sizes, times); None where no such files are here.

    The code that reads the files is part of it: the class's module, and the libraries that build networks.
    """
    kind, card = kind_of(part), card_of(part)
    place = card.find() if card is not None else None
    source = getattr(sys.modules[kind.__module__], "__file__", None) if kind is not None else None
    if kind is None or place is None or source is None:
        return None
    files = sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]
    states = [[str(path.relative_to(place)), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    options = {name: repr(value) for name, value in getattr(part, "keywords", {}).items()}
    code = hashlib.sha256(Path(source).read_bytes()).hexdigest()
    libraries = [version(name) for name in ("torch", "transformers")]
    text = json.dumps([kind.__module__, kind.__qualname__, options, states, code, libraries], sort_keys=True)
    return f"{kind.__qualname__}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
