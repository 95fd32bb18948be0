"""Folders named for their classes: Landscape, AVSync15 and the like."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xmodal.data.clips import SPLITS, Found, Row, clips
from xmodal.data.sets._tables import text


def rows(source: Path, found: Found) -> Iterator[Row]:
    """``videos/{train,test}/{class}/*.mp4`` or ``videos/{class}/*.mp4`` (Landscape, AVSync15), with or without lists.

    ``train.txt`` and ``test.txt`` beside ``videos`` are the lists: names of files, with or without folders; a clip that
    is in neither has no split. A class is its folder's name with spaces for underscores.
    """
    base = source / "videos" if (source / "videos").is_dir() else source
    listed = _listed(source, found)
    seen = set()
    for clip in clips(base, found):
        if not clip.folders or not clip.files:
            continue
        label = clip.folders[-1]
        split = SPLITS.get(clip.folders[0], "") if len(clip.folders) > 1 else ""
        for key in ((label, clip.stem), ("", clip.stem)):
            if key in listed:
                seen.add(key)
                split = split or listed[key]
        name = clip.stem if clip.stem.startswith(label) else f"{label}-{clip.stem}"
        yield {
            "id": found.new_id(name, clip.place),
            **found.media(clip.files),
            "label": label.replace("_", " "),
            "split": split,
        }
    found.missing += sorted(stem for _, stem in set(listed) - seen)


def _listed(source: Path, found: Found) -> dict[tuple[str, str], str]:
    """Split of each (class or nothing, stem) that ``train.txt`` and ``test.txt`` name."""
    listed: dict[tuple[str, str], str] = {}
    for split in ("train", "test"):
        table = source / f"{split}.txt"
        for line in text(table).splitlines() if table.is_file() else ():
            if not (name := line.strip()):
                continue
            key = (Path(name).parent.name, Path(name).stem)
            if listed.setdefault(key, split) != split:
                found.wrong(f"{table}: {name!r} is listed for {listed[key]}, too")
    return listed
