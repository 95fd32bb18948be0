"""VGGSound."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from xmodal.data.clips import Found, Row, add, by_stem
from xmodal.data.sets._tables import only, text

CLIP = re.compile(r"(?P<id>.{11})_(?P<start>\d+)(?:_(?P<end>\d+))?$")


def clip_key(stem: str) -> tuple[str, int] | None:
    """(YouTube id, start in seconds) of a clip's name in either public form; None if it is in neither.

    ``ID_000012`` counts seconds, ``ID_12000_22000`` milliseconds. Ids have eleven characters, among them ``_`` and ``-``.
    """
    match = CLIP.match(stem)
    if match is None:
        return None
    start = int(match["start"])
    return match["id"], start // 1000 if match["end"] is not None else start


def rows(source: Path, found: Found) -> Iterator[Row]:
    """``vggsound.csv`` (no header: id, start, label, split; labels may hold commas) beside videos or wav + jpg of any depth."""
    table = only(source, "vggsound.csv")
    files: dict[tuple[str, int], dict[str, Path]] = {}
    for stem, media in by_stem(source, found).items():
        if (key := clip_key(stem)) is not None:
            for kind, path in media.items():
                add(files.setdefault(key, {}), kind, path, found)
    for number, fields in enumerate(csv.reader(io.StringIO(text(table), newline=""), skipinitialspace=True), 1):
        if len(fields) != 4 or not (fields[1].isascii() and fields[1].isdigit()) or fields[3] not in ("train", "test"):
            found.wrong(f"{table}:{number}: expected id, start seconds, label, train or test; found {fields}")
            continue
        identity, start, label, split = fields
        name = f"{identity}_{int(start):06d}"
        if (identity, int(start)) not in files:
            found.missing.append(name)
            continue
        yield {"id": name, **found.media(files[identity, int(start)]), "label": label, "split": split}
