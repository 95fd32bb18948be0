"""WebDataset shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xmodal.data.clips import Found, Row
from xmodal.data.shards import describe, unpack
from xmodal.files import KINDS, is_hidden


def rows(source: Path, found: Found) -> Iterator[Row]:
    """``*.tar`` shards of any depth, unpacked into ``media/SHARD/`` beside the manifest.

    ``KEY.json`` may hold text (or caption), label (or class), split, start and duration; ``KEY.txt`` is the text and
    ``KEY.cls`` the label. Without a split of its own a clip has that of its shard's name (``train-0003.tar``). A shard that is
    unpacked already is not unpacked again; a key that another shard has used gets its shard's name in front. With
    ``found.in_place`` nothing is unpacked, and rows name the members.
    """
    seen: set[str] = set()
    for shard in sorted(each for each in source.rglob("*.tar") if not is_hidden(each.name)):
        place = "-".join(shard.relative_to(source).with_suffix("").parts)
        try:
            media_of = describe(shard, KINDS) if found.in_place else unpack(shard, found.root / "media" / place, KINDS)
        except ValueError as error:
            found.wrong(str(error))
            continue
        for row in media_of:
            if row["id"] in seen:
                row["id"] = f"{place}-{row['id']}"
            seen.add(row["id"])
            media: dict[str, Path] = {key: row.pop(key) for key in ("audio", "image", "video") if key in row}
            yield {**row, **found.media(media)}
