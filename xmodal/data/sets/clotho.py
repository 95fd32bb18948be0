"""Clotho."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xmodal.data.clips import Found, Row
from xmodal.data.sets._tables import lines, literal


def rows(source: Path, found: Found) -> Iterator[Row]:
    """``clotho_captions_{development,validation,evaluation}.csv`` and a folder of sounds for each.

    Columns: file_name, caption_1 … caption_5; each caption is a row.
    """
    splits = {"development": "train", "validation": "validation", "evaluation": "test"}
    for part, split in splits.items():
        for table in sorted(source.rglob(f"*{part}*.csv")):
            if "caption" not in table.name:
                continue
            for line, row in lines(table, ("file_name", *(f"caption_{number}" for number in range(1, 6))), found):
                paths = sorted(source.rglob(f"{part}/{literal(row['file_name'])}")) if row["file_name"] else []
                if len(paths) > 1:
                    found.wrong(f"{table}:{line}: {paths[0]} and {paths[1]} have the same name: take one of them away")
                if len(paths) != 1:
                    found.missing.append(row["file_name"])
                    continue
                path = paths[0]
                for number in range(1, 6):
                    name = f"{path.stem}-{number}"
                    yield {"id": name, "audio": found.relative(path), "text": row[f"caption_{number}"], "split": split}
