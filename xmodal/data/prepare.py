"""`xmodal data prepare`: manifests from folders and public data sets as they lie on disk. Nothing is decoded.

Nothing is copied either, but from WebDataset shards, which are unpacked beside the manifest.

The layouts stand in `xmodal.data.sets`.
"""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

from xmodal.data.clips import Found, Row
from xmodal.data.manifest import write_manifest
from xmodal.data.sets import builder

FEW = 200  # clips


def prepare(
    kind: str, source: Path, manifest: Path, validation: float = 0.0, test: float = 0.0, found: Found | None = None
) -> tuple[int, list[str]]:
    """Write the manifest of a data set; returns the number of clips and the names of those whose files are missing.

    ``validation`` and ``test`` are the shares that these splits get of the clips which have none; the others are for
    training then. A clip's split depends on its id alone, so it stays where it is when others are added; of at most `FEW` clips
    each split gets its very share, and one at the border may move then. ``found`` takes in what is wrong with single clips,
    which are left out then; without it the first is raised.

    Raises ValueError for an unknown kind, a layout that does not fit, or where nothing is found; FileNotFoundError.
    """
    if not (min(validation, test) >= 0 and validation + test < 1):
        raise ValueError(f"validation {validation} and test {test} are shares of 1, and something must be left for training")
    build = builder(kind)
    if not source.exists():
        raise FileNotFoundError(f"there is no folder {source}")
    found = Found(manifest.parent.resolve()) if found is None else found
    rows: dict[str, Row] = {}
    for row in build(source, found):
        if row["id"] in rows:
            found.wrong(f"{source}: the clip {row['id']!r} is listed twice")
        else:
            rows[row["id"]] = row
    if not rows:
        hint = f": {len(found.missing)} clips are listed, none of their files is there" if found.missing else ""
        wrong = f"; {found.errors[0]}" if found.errors else ""
        raise ValueError(f"nothing of kind {kind!r} was found in {source}{hint} (see docs/data.md for the layout){wrong}")
    _deal([row for row in rows.values() if not row.get("split")], validation, test)
    return write_manifest(manifest, rows.values()), found.missing


def _deal(rows: list[Row], validation: float, test: float) -> None:
    """Deal clips without a split to the splits, by their ids alone; of `FEW` by the order of the ids' dice, so that each
    split gets its share, and at least one clip where there are enough.
    """
    if not (validation or test):
        return
    places = sorted(rows, key=_place)
    for row in places:
        row["split"] = "validation" if _place(row) < validation else "test" if _place(row) < validation + test else "train"
    if len(rows) > FEW:
        return
    counts = [max(1, round(share * len(rows))) if share else 0 for share in (validation, test)]
    while sum(counts) >= len(rows) and max(counts):  # something is left for training
        counts[counts[1] >= counts[0]] -= 1
    for index, row in enumerate(places):
        row["split"] = "validation" if index < counts[0] else "test" if index < sum(counts) else "train"


def _place(row: Row) -> float:
    return crc32(row["id"].encode()) / 2**32
