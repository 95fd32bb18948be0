"""Manifests: one clip per line of JSON, paths relative to the manifest and never outside its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One clip. ``audio`` and ``image`` are absolute paths; ``start`` and ``duration`` are seconds within the audio."""

    id: str
    audio: Path | None = None
    image: Path | None = None
    text: str = ""
    label: str = ""
    split: str = ""
    start: float = 0.0
    duration: float | None = None


def read_manifest(path: str | Path, split: str | None = None) -> list[Row]:
    """Read the rows of ``split`` (all rows if None, and rows that name no split always).

    Raises FileNotFoundError for a missing manifest and ValueError, with file and line, for a row that is not JSON, has
    no or a repeated id, or names a path outside the manifest's folder; also where no row is left.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no manifest {path}: expected a JSON-lines file with id, audio and image per line")
    rows, seen = [], set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        row = _row(line, path.parent.resolve(), f"{path}:{number}")
        if row.id in seen:
            raise ValueError(f"{path}:{number}: the id {row.id!r} stands on an earlier line too; ids must be unique")
        seen.add(row.id)
        if split is None or row.split in ("", split):
            rows.append(row)
    if not rows:
        raise ValueError(f"{path} has no rows" + (f" of split {split!r}" if split else ""))
    return rows


def _row(line: str, root: Path, place: str) -> Row:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not a line of JSON ({error.msg})") from error
    name = fields.get("id") if isinstance(fields, dict) else None
    if not isinstance(name, str) or not name:
        raise ValueError(f'{place}: expected an object with a text "id", found {line[:60]!r}')
    if Path(name).name != name or name in (".", ".."):
        raise ValueError(f"{place}: the id {name!r} cannot be a file name; leave out slashes")
    return Row(
        id=name,
        audio=_inside(fields.get("audio"), root, place),
        image=_inside(fields.get("image"), root, place),
        **{key: str(fields.get(key) or "") for key in ("text", "label", "split")},
        start=float(fields.get("start") or 0.0),
        duration=None if fields.get("duration") is None else float(fields["duration"]),
    )


def _inside(name: str | None, root: Path, place: str) -> Path | None:
    if not name:
        return None
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise ValueError(f"{place}: {name!r} lies outside the manifest's folder {root}")
    return path
