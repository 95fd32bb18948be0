"""ImageHear."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xmodal.data.clips import Found, Row, add
from xmodal.files import media_in


def rows(source: Path, found: Found) -> Iterator[Row]:
    """Flat folder of ``{class}{number}.jpg``; a test set of pictures without sound."""
    pictures: dict[str, dict[str, Path]] = {}
    paths, found.passed_over = media_in(source, ("image",))
    for path in paths:
        add(pictures.setdefault(path.stem, {}), "image", path, found)
    for stem, files in pictures.items():
        label = stem.rstrip("0123456789").replace("_", " ").strip()
        yield {"id": stem, **found.media(files), "label": label, "split": "test"}
