"""What people hand in: files, folders of them, and texts; each told by its content, then by its name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from xmodal.data.opening import is_url, located
from xmodal.files import KINDS, is_file, is_folder, kind_of, media_in, passed_over, suffix_of

LONGEST_SLUG = 80  # bytes
NAMES = {
    "audio": ("sound", "sound files"),
    "image": ("picture", "pictures"),
    "video": ("video", "videos"),
    "text": ("text", "texts"),
}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """One input: its modality, the file (or the text itself, or a URL), and the stem of what is made of it."""

    modality: str
    content: Path | str
    stem: str


def modality(asked: str | Path) -> str:
    """Return audio, image, video or text: of a file by its content first, of what is not there by its suffix, else text.

    Raises ValueError for a file that is none of these.
    """
    if not is_file(asked):
        return KINDS.get(suffix_of(asked), "text")
    kind = kind_of(asked)
    if kind == "container":
        kind = _of_container(Path(asked))
    if not kind:
        raise ValueError(
            f"cannot tell whether {asked} is a sound, a picture or a video: neither its content nor its name says it"
        )
    return kind


def read(inputs: Sequence[str | Path], takes: Sequence[str], say: Say | None = None) -> list[Asked]:
    """Files, folders of them, URLs, texts, and files with a text on every line, of the modalities that are taken.

    Where sounds are taken and no videos, a video stands for its sound. ``say`` hears what is passed over in folders. Raises
    FileNotFoundError or ValueError for what is not there, is empty, or is not taken.
    """
    found: list[Asked] = []
    for item in map(str, inputs):
        if is_folder(item):
            found += [Asked(_as(_kind_in_folder(file), takes), file, file.stem) for file in _in_folder(Path(item), takes, say)]
        elif suffix_of(item) == ".txt" and "text" in takes:
            found += [Asked("text", line, slug(line)) for line in _lines(Path(item))]
        else:
            found.append(_one(item, takes))
    return found


def slug(text: str) -> str:
    """The words of a text as a file name; texts that differ only in the rest of it get a number of their own."""
    from zlib import crc32

    words = re.sub(r"\W+", "-", text.lower()).strip("-")
    # The file system counts bytes, and a letter may take four of them.
    short = words.encode(errors="replace")[:LONGEST_SLUG].decode(errors="ignore")
    if words.replace("-", " ") == text.lower() and short == words:
        return words
    return f"{short.strip('-')}-{crc32(text.encode(errors='replace')):08x}".lstrip("-")


def _one(item: str, takes: Sequence[str]) -> Asked:
    kind = modality(item)
    if kind == "text" and is_url(item):
        raise ValueError(f"cannot tell what is at {item}: its name ends like no sound, picture or video: give its file")
    if kind == "text" and "text" in takes:
        if not item.strip():
            raise ValueError("a text to make something of is empty: say what is asked for")
        if item.endswith("/") or ("/" in item and is_folder(Path(item).parent)):
            raise FileNotFoundError(f"there is no file and no folder {item!r}; if it is a text, give it in a .txt file")
        return Asked("text", item, slug(item))
    if kind != "text" and _as(kind, takes) not in takes:
        wanted = " or ".join(NAMES[each][1] for each in takes)
        raise ValueError(f"{item} is a {NAMES[kind][0]}, of which nothing can be made here: give {wanted}")
    if is_url(item):
        place = located(item)
        if not place.is_file():
            raise FileNotFoundError(f"there is nothing at {item}")
        return Asked(_as(kind, takes), item, place.stem)
    if not is_file(item):
        what = NAMES[next(each for each in takes if each != "text") if kind == "text" else kind][0]
        raise FileNotFoundError(f"there is no {what} file {item!r}")
    return Asked(_as(kind, takes), Path(item), Path(item).stem)


def _as(kind: str, takes: Sequence[str]) -> str:
    """The modality as which a file is taken."""
    return "audio" if kind == "video" and "video" not in takes and "audio" in takes else kind


def _lines(path: Path) -> list[str]:
    """The texts of a file, each once."""
    if not is_file(path):
        raise FileNotFoundError(f"there is no file of texts {str(path)!r}")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}): save it so") from error
    if not any(lines):
        raise ValueError(f"{path} holds no text: expected one on every line")
    return list(dict.fromkeys(filter(None, lines)))


def _in_folder(folder: Path, takes: Sequence[str], say: Say | None) -> list[Path]:
    kinds = [each for each in takes if each != "text"] + ["container"] + (["video"] if "audio" in takes else [])
    found, others = media_in(folder, kinds)
    if not found:
        what = " or ".join(NAMES[each][1] for each in takes if each != "text") or "files of texts"
        raise ValueError(f"there are no {what} in {folder}" + _besides(others))
    if others and say is not None:
        say(f"passed over in {folder}: {passed_over(others)}")
    return found


def _besides(others: Counter[str]) -> str:
    return f", but {passed_over(others)}" if others else ""


def _kind_in_folder(path: Path) -> str:
    """As `modality`, but a file that is none is left to its reader, which names it and does not stop the others."""
    try:
        return modality(path)
    except (ValueError, OSError):
        return KINDS.get(suffix_of(path.name), "image")


def _of_container(path: Path) -> str:
    """Whether a container without a telling name holds moving pictures or sound alone."""
    import av

    from xmodal.data.container import opened, pictures

    try:
        with opened(path) as container:
            return "video" if pictures(container) is not None else "audio" if container.streams.audio else ""
    except (av.FFmpegError, UnicodeDecodeError):
        return ""
