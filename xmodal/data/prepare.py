"""`xmodal data prepare`: manifests from folders and public data sets as they lie on disk. Nothing is decoded.

Nothing is copied either, but from WebDataset shards, which are unpacked beside the manifest.

A builder is a function ``(source, root) -> rows``, where paths in rows are relative to ``root``, the manifest's folder.
Facts of the layouts stand with each builder; a clip whose file is missing is counted, not invented.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from zlib import crc32

from xmodal.data.clips import SPLITS, Found, Row, add, by_stem, clips
from xmodal.data.manifest import write_manifest
from xmodal.data.shards import unpack
from xmodal.files import KINDS, is_hidden, media_in

SECONDS = 10.0  # length of a clip of VGGSound, AudioCaps and MUSIC windows
Builder = Callable[[Path, Found], Iterator[Row]]


def prepare(
    kind: str, source: Path, manifest: Path, validation: float = 0.0, test: float = 0.0, found: Found | None = None
) -> tuple[int, list[str]]:
    """Write the manifest of a data set; returns the number of clips and the names of those whose files are missing.

    ``validation`` and ``test`` are the shares that these splits get of the clips which have none; the others are for
    training then. A clip's split depends on its id alone, so it stays where it is when others are added; only of a few clips,
    where the dice give a split none, it gets the nearest one. ``found`` takes in what is wrong with single clips, which are
    left out then; without it the first is raised.

    Raises ValueError for an unknown kind, a layout that does not fit, or where nothing is found; FileNotFoundError.
    """
    if not (min(validation, test) >= 0 and validation + test < 1):
        raise ValueError(f"validation {validation} and test {test} are shares of 1, and something must be left for training")
    if kind not in BUILDERS:
        raise ValueError(f"there is no data set kind {kind!r}: known are {', '.join(BUILDERS)}")
    if not source.exists():
        raise FileNotFoundError(f"there is no folder {source}")
    found = Found(manifest.parent.resolve()) if found is None else found
    rows: dict[str, Row] = {}
    for row in BUILDERS[kind](source, found):
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
    """Deal clips without a split to the splits, by their ids alone, and none of the asked ones empty where there are enough."""
    if not (validation or test):
        return
    places = sorted(rows, key=_place)
    for row in places:
        row["split"] = "validation" if _place(row) < validation else "test" if _place(row) < validation + test else "train"
    wanted = [name for name, share in (("validation", validation), ("test", test), ("train", 1.0)) if share]
    for name in wanted:
        counts = Counter(row["split"] for row in rows)
        if not counts[name] and counts.most_common(1)[0][1] > 1 and len(rows) >= len(wanted):
            largest = [row for row in places if row["split"] == counts.most_common(1)[0][0]]
            largest[-1 if name == "train" else 0]["split"] = name


def _place(row: Row) -> float:
    return crc32(row["id"].encode()) / 2**32


def folder(source: Path, found: Found) -> Iterator[Row]:
    """Any folder: files of one stem in one place are one clip (see :mod:`xmodal.data.clips`), a folder's name is their label.

    Pictures alone and sounds alone are clips too. Folders named ``train``, ``validation`` or ``test`` at the top are splits.
    """
    for clip in clips(source, found):
        if not clip.files:
            continue
        split = SPLITS.get(clip.folders[0].lower(), "") if clip.folders else ""
        classes = clip.folders[1:] if split else clip.folders
        label = classes[-1].replace("_", " ") if classes else ""
        name = found.new_id("-".join((*clip.folders, clip.stem)), clip.place)
        yield {"id": name, **found.media(clip.files), "label": label, "split": split}


def class_folders(source: Path, found: Found) -> Iterator[Row]:
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
        for line in _text(table).splitlines() if table.is_file() else ():
            if not (name := line.strip()):
                continue
            key = (Path(name).parent.name, Path(name).stem)
            if listed.setdefault(key, split) != split:
                found.wrong(f"{table}: {name!r} is listed for {listed[key]}, too")
    return listed


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


def vggsound(source: Path, found: Found) -> Iterator[Row]:
    """``vggsound.csv`` (no header: id, start, label, split; labels may hold commas) beside videos or wav + jpg of any depth."""
    table = _only(source, "vggsound.csv")
    files: dict[tuple[str, int], dict[str, Path]] = {}
    for stem, media in by_stem(source, found).items():
        if (key := clip_key(stem)) is not None:
            for kind, path in media.items():
                add(files.setdefault(key, {}), kind, path, found)
    for number, fields in enumerate(csv.reader(io.StringIO(_text(table), newline=""), skipinitialspace=True), 1):
        if len(fields) != 4 or not (fields[1].isascii() and fields[1].isdigit()) or fields[3] not in ("train", "test"):
            found.wrong(f"{table}:{number}: expected id, start seconds, label, train or test; found {fields}")
            continue
        identity, start, label, split = fields
        name = f"{identity}_{int(start):06d}"
        if (identity, int(start)) not in files:
            found.missing.append(name)
            continue
        yield {"id": name, **found.media(files[identity, int(start)]), "label": label, "split": split}


def audiocaps(source: Path, found: Found) -> Iterator[Row]:
    """``{train,val,test}.csv`` (audiocap_id, youtube_id, start_time, caption) and sounds of any depth.

    They are named ``Y{id}.wav``, ``{id}.wav`` or ``{id}_{start}.wav``. A clip of several captions becomes one row for
    each: its id ends in the caption's number.
    """
    files = {stem: media for stem, media in by_stem(source, found).items() if "audio" in media or "video" in media}
    for split in ("train", "val", "test"):
        for table in sorted(source.rglob(f"{split}.csv")):
            for number, row in _table(table, ("audiocap_id", "youtube_id", "start_time", "caption"), found):
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
                yield {"id": name, **found.media(media), "text": row["caption"], "split": _split(split)}


def clotho(source: Path, found: Found) -> Iterator[Row]:
    """``clotho_captions_{development,validation,evaluation}.csv`` and a folder of sounds for each.

    Columns: file_name, caption_1 … caption_5; each caption is a row.
    """
    splits = {"development": "train", "validation": "validation", "evaluation": "test"}
    for part, split in splits.items():
        for table in sorted(source.rglob(f"*{part}*.csv")):
            if "caption" not in table.name:
                continue
            for line, row in _table(table, ("file_name", *(f"caption_{number}" for number in range(1, 6))), found):
                paths = sorted(source.rglob(f"{part}/{_literal(row['file_name'])}")) if row["file_name"] else []
                if len(paths) > 1:
                    found.wrong(f"{table}:{line}: {paths[0]} and {paths[1]} have the same name: take one of them away")
                if len(paths) != 1:
                    found.missing.append(row["file_name"])
                    continue
                path = paths[0]
                for number in range(1, 6):
                    name = f"{path.stem}-{number}"
                    yield {"id": name, "audio": found.relative(path), "text": row[f"caption_{number}"], "split": split}


def music(source: Path, found: Found) -> Iterator[Row]:
    """``*.json`` ({"videos": {instrument: [ids]}}) beside ``{solo,duet}/{instrument}/{id}.mp4`` or any folder of such names."""
    files = by_stem(source, found)
    seen: dict[str, str] = {}
    for table in sorted(source.rglob("*.json")):
        try:
            videos = json.loads(_text(table))["videos"]
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


def imagehear(source: Path, found: Found) -> Iterator[Row]:
    """Flat folder of ``{class}{number}.jpg``; a test set of pictures without sound."""
    pictures: dict[str, dict[str, Path]] = {}
    paths, found.passed_over = media_in(source, ("image",))
    for path in paths:
        add(pictures.setdefault(path.stem, {}), "image", path, found)
    for stem, files in pictures.items():
        label = stem.rstrip("0123456789").replace("_", " ").strip()
        yield {"id": stem, **found.media(files), "label": label, "split": "test"}


def webdataset(source: Path, found: Found) -> Iterator[Row]:
    """``*.tar`` shards of any depth, unpacked into ``media/SHARD/`` beside the manifest.

    ``KEY.json`` may hold text (or caption), label (or class), split, start and duration; ``KEY.txt`` is the text and
    ``KEY.cls`` the label. Without a split of its own a clip has that of its shard's name (``train-0003.tar``). A shard that is
    unpacked already is not unpacked again; a key that another shard has used gets its shard's name in front.
    """
    seen: set[str] = set()
    for shard in sorted(each for each in source.rglob("*.tar") if not is_hidden(each.name)):
        place = "-".join(shard.relative_to(source).with_suffix("").parts)
        try:
            unpacked = unpack(shard, found.root / "media" / place, KINDS)
        except ValueError as error:
            found.wrong(str(error))
            continue
        for row in unpacked:
            if row["id"] in seen:
                row["id"] = f"{place}-{row['id']}"
            seen.add(row["id"])
            media: dict[str, Path] = {key: row.pop(key) for key in ("audio", "image", "video") if key in row}
            yield {**row, **found.media(media)}


BUILDERS: dict[str, Builder] = {
    "folder": folder,
    "class-folders": class_folders,
    "vggsound": vggsound,
    "audiocaps": audiocaps,
    "clotho": clotho,
    "music": music,
    "imagehear": imagehear,
    "webdataset": webdataset,
}


def _only(source: Path, name: str) -> Path:
    tables = sorted(source.rglob(name))
    if not tables:
        raise FileNotFoundError(f"{source} has no {name}: put the data set's own list beside its clips")
    return tables[0]


def _table(path: Path, columns: Iterable[str], found: Found) -> Iterator[tuple[int, dict[str, str]]]:
    """Lines of a CSV file with their numbers; those with more or fewer fields than its header has are errors."""
    reader = csv.DictReader(io.StringIO(_text(path), newline=""))
    if absent := [column for column in columns if column not in (reader.fieldnames or ())]:
        raise ValueError(f"{path} lacks the columns {', '.join(absent)}: is it the data set's own list?")
    for row in reader:
        if None in row or None in row.values():
            expected = len(reader.fieldnames or ())
            found.wrong(f"{path}:{reader.line_num}: expected {expected} fields, is there a comma without quotation marks?")
            continue
        yield reader.line_num, row


def _text(path: Path) -> str:
    """A list's text, without a byte order mark; ValueError that names the file for another encoding than UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}): save it so") from error


def _literal(name: str) -> str:
    """A file's name as a glob pattern that means just itself."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _split(name: str) -> str:
    return SPLITS.get(name, name)
