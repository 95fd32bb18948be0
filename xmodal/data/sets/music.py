"""MUSIC."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from xmodal.data.clips import Found, Row, by_stem
from xmodal.data.sets._tables import text


def rows(source: Path, found: Found) -> Iterator[Row]:
    """``*.json`` ({"videos": {instrument: [ids]}}) beside ``{solo,duet}/{instrument}/{id}.mp4`` or any folder of such names."""
    files = by_stem(source, found)
    seen: dict[str, str] = {}
    for table in sorted(source.rglob("*.json")):
        try:
            videos = json.loads(text(table))["videos"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # another file of the folder
        for instrument, identities in videos.items():
            for identity in identities:
                if identity in seen:
                    if seen[identity] != instrument:
                        found.wrong(f"{table}: the clip {identity!r} is listed under {seen[identity]} and under {instrument}")
                    continue
                seen[identity] = instrument
                if identity not in files:
                    found.missing.append(identity)
                    continue
                yield {"id": identity, **found.media(files[identity]), "label": instrument.replace("_", " ")}
