"""AudioCaps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xmodal.data.clips import Found, Row, by_stem
from xmodal.data.sets._tables import lines, split_of


def rows(source: Path, found: Found) -> Iterator[Row]:
    """``{train,val,test}.csv`` (audiocap_id, youtube_id, start_time, caption) and sounds of any depth.

    They are named ``Y{id}.wav``, ``{id}.wav`` or ``{id}_{start}.wav``. A clip of several captions becomes one row for
    each: its id ends in the caption's number.
    """
    files = {stem: media for stem, media in by_stem(source, found).items() if "audio" in media or "video" in media}
    for split in ("train", "val", "test"):
        for table in sorted(source.rglob(f"{split}.csv")):
            for number, row in lines(table, ("audiocap_id", "youtube_id", "start_time", "caption"), found):
                identity, start = row["youtube_id"], row["start_time"]
                if not start.replace(".", "", 1).isdecimal():
                    found.wrong(f"{table}:{number}: start_time is {start!r}, but expected seconds")
                    continue
                forms = (f"{identity}_{start}", f"{identity}_{int(float(start)):06d}", f"Y{identity}", identity)
                media = next((files[form] for form in forms if form in files), None)
                if media is None:
                    found.missing.append(f"{identity}_{start}")
                    continue
                name = f"{identity}_{start}-{row['audiocap_id']}"
                yield {"id": name, **found.media(media), "text": row["caption"], "split": split_of(split)}
