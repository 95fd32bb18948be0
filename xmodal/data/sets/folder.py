"""Any folder of media."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xmodal.data.clips import SPLITS, Found, Row, clips


def rows(source: Path, found: Found) -> Iterator[Row]:
    """Any folder: files of one stem in one place are one clip (see :mod:`xmodal.data.clips`), a folder's name is their label.

    Pictures alone and sounds alone are clips too. Folders named ``train``, ``validation`` or ``test`` at the top are splits,
    but a single one of them among others is a class: trains are things that are seen and heard.
    """
    every = clips(source, found)
    tops = {clip.folders[0].lower() for clip in every if clip.folders}
    splits = SPLITS if len(tops & SPLITS.keys()) > 1 or tops <= SPLITS.keys() else {}
    for clip in every:
        if not clip.files:
            continue
        split = splits.get(clip.folders[0].lower(), "") if clip.folders else ""
        classes = clip.folders[1:] if split else clip.folders
        label = classes[-1].replace("_", " ") if classes else ""
        name = found.new_id("-".join((*clip.folders, clip.stem)), clip.place)
        yield {"id": name, **found.media(clip.files), "label": label, "split": split}
