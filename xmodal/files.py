"""Files: what kind a file is, by content and by name, and files that appear whole or not at all, whatever stops the writer."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from glob import escape
from io import BufferedWriter
from pathlib import Path
from uuid import uuid4

try:
    import fcntl
except ImportError:  # Windows has no such locks: nothing is cleaned up there
    fcntl = None  # type: ignore[assignment]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PARTIAL = ".partial"
_visited: set[Path] = set()
AUDIO = _words(
    ".wav .wave .w64 .aiff .aif .aifc .au .snd .caf .flac .ogg .oga .opus .mp3 .mp2 .m4a .m4b .aac .ac3 .wma .mka .weba .amr"
)
IMAGE = _words(".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .avif")
VIDEO = _words(".mp4 .m4v .mov .qt .mkv .webm .avi .ts .mts .m2ts .mpg .mpeg .vob .wmv .asf .flv .f4v .3gp .3g2 .ogv")
KINDS = {**dict.fromkeys(AUDIO, "audio"), **dict.fromkeys(IMAGE, "image"), **dict.fromkeys(VIDEO, "video")}
# How files begin: offset, bytes, kind. A container holds sound, pictures or both: its first bytes do not tell.
BEGINNINGS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "image"), (0, b"\x89PNG\r\n", "image"), (0, b"GIF8", "image"), (8, b"WEBP", "image"),
    (0, b"II*\0", "image"), (0, b"MM\0*", "image"), (4, b"ftypavi", "image"),
    (8, b"WAVE", "audio"), (8, b"AIF", "audio"), (0, b"fLaC", "audio"), (0, b"ID3", "audio"), (0, b".snd", "audio"),
    (0, b"caff", "audio"), (0, b"#!AMR", "audio"), (0, b"riff\x2e\x91\xcf\x11", "audio"),
    (8, b"AVI ", "video"), (0, b"FLV\x01", "video"), (0, b"\0\0\x01\xba", "video"), (0, b"\0\0\x01\xb3", "video"),
    (4, b"ftyp", "container"), (4, b"moov", "container"), (4, b"mdat", "container"), (4, b"wide", "container"),
    (0, b"\x1a\x45\xdf\xa3", "container"), (0, b"\x30\x26\xb2\x75", "container"),
)  # fmt: skip
TS_PACKET = 188  # bytes
SHARED = (".ts", ".mts")  # suffixes that TypeScript has, too


def is_file(word: object) -> bool:
    """Whether a word that may as well be a text names a file; never raises, whatever the word holds."""
    try:
        return os.path.isfile(os.fspath(word))  # type: ignore[call-overload]
    except (TypeError, ValueError, OSError):  # no path at all, a NUL, a name that the file system does not take
        return False


def is_folder(word: object) -> bool:
    """Whether a word that may as well be a text names a folder; never raises."""
    try:
        return os.path.isdir(os.fspath(word))  # type: ignore[call-overload]
    except (TypeError, ValueError, OSError):
        return False


def suffix_of(name: str | os.PathLike[str]) -> str:
    """The suffix in small letters, as the tables here have it."""
    return os.path.splitext(name)[1].lower()


def sniffed(path: str | os.PathLike[str]) -> str:
    """What the first bytes of a file say: audio, image, video, container (which may hold any of them), or nothing."""
    with open(path, "rb") as file:
        head = file.read(512)
    if head[:4] == b"OggS":
        return "video" if b"theora" in head[:64] else "audio"
    for offset, begin, kind in BEGINNINGS:
        if head[offset : offset + len(begin)] == begin and (offset != 8 or head[:4] in (b"RIFF", b"RF64", b"RIFX", b"FORM")):
            return kind
    if any(head[at : at + 1] == head[at + each : at + each + 1] == b"G" for at, each in ((0, TS_PACKET), (4, TS_PACKET + 4))):
        return "video"
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "image"
    # Eleven set bits begin a frame of mp3 or aac; a layer and a rate that do not exist are another file's bytes.
    mpeg = len(head) > 3 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x18 != 0x08 and head[2] & 0xF0 != 0xF0
    return "audio" if mpeg else ""


def kind_of(path: str | os.PathLike[str]) -> str:
    """``audio``, ``image`` or ``video`` of a file, by its content first and its name second; empty for anything else.

    A container is what its name says, or ``container`` where that says nothing. Raises OSError for what cannot be opened.
    """
    named = KINDS.get(suffix_of(path), "")
    found = sniffed(path)
    if found == "container":
        return named if named in ("audio", "video") else found
    return found or named


def media_in(folder: Path, kinds: Sequence[str] = ("audio", "image", "video", "container")) -> tuple[list[Path], Counter[str]]:
    """Files of these kinds directly inside a folder, sorted, and how often which other suffix was passed over.

    The suffix decides; where there is none that is known, the content does. Hidden files, and the ``._`` files that macOS
    leaves beside others, are no media and are not counted.
    """
    found: list[Path] = []
    others: Counter[str] = Counter()
    for path in sorted(folder.iterdir()):
        if is_hidden(path.name) or path.is_dir():
            continue
        suffix = suffix_of(path.name)
        kind = KINDS.get(suffix, "")
        if not kind or suffix in SHARED:
            kind = _sniffed_or_none(path)
        if kind in kinds:
            found.append(path)
        else:
            others[suffix or "without suffix"] += 1
    return found, others


def stems(folder: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    """The files of a folder with one of these suffixes, by stem; ValueError for two of one stem."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if suffix_of(path) in suffixes and not is_hidden(path.name):
            if path.stem in found:
                raise ValueError(
                    f"two files of {folder} have the same stem ({found[path.stem]} and {path}): each item needs a name of its own"
                )
            found[path.stem] = path
    return found


def is_hidden(name: str) -> bool:
    """Whether a file's name hides it; so do the ``._`` names of macOS."""
    return name.startswith(".")


def passed_over(others: Counter[str]) -> str:
    """``3 .txt, 1 .json`` for people; the most frequent first."""
    return ", ".join(f"{number} {suffix}" for suffix, number in others.most_common(8)) + (" and more" if len(others) > 8 else "")


def _sniffed_or_none(path: Path) -> str:
    try:
        return sniffed(path)
    except OSError:
        return ""


def own_cache() -> Path:
    """The folder for what is downloaded or found once: ``XMODAL_CACHE``, else ``~/.cache/xmodal``."""
    named = os.environ.get("XMODAL_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "xmodal"
    return Path(named).expanduser()


def write_whole(target: Path, pieces: Iterable[bytes | memoryview]) -> Path:
    """Write beside the target, flush to the disk, rename; returns ``target``.

    What cannot be finished leaves nothing. The writer holds a lock on its unfinished file, by which `clean_up` knows it
    from what a killed writer has left. Raises OSError in one sentence: a full disk, a folder that cannot be written to.
    """
    partial = _partial(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        visit(target.parent)
        with _locked(partial) as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:
                file.close()  # Windows renames no open file
            partial.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        _remove(partial)
    return target


def write_beside(target: Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a new file of the same suffix beside the target, flush it, then rename it; returns ``target``.

    ``write`` opens the file by its name, so the lock that spares it from `clean_up` is on an empty file of nearly that name.
    Raises whatever ``write`` does, and leaves nothing then.
    """
    lock = _partial(target)
    filled = lock.with_name(lock.name + target.suffix)
    visit(target.parent)
    with _locked(lock) as held:
        mode = os.fstat(held.fileno()).st_mode
        try:
            write(filled)
            with filled.open("rb+") as file:
                os.fsync(file.fileno())
            filled.chmod(mode)  # as the umask says, whatever the writer made of it
            filled.replace(target)
        finally:
            _remove(filled)
            if fcntl is not None:
                _remove(lock)
    _remove(lock)
    _sync_folder(target.parent)
    return target


def readable_as_new(folder: Path) -> Path:
    """Give every file below ``folder`` the mode of a new file: what safetensors writes is its owner's alone. Returns it."""
    new = _partial(folder / "mode")
    new.touch()
    mode = new.stat().st_mode
    new.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
    return folder


def clean_up(folder: Path) -> int:
    """Remove the unfinished files of writers that were killed, directly inside ``folder``; returns their number.

    Files whose writer lives are left alone, and so is everything in a folder that cannot be written to.
    """
    removed = 0
    if fcntl is None or not folder.is_dir():
        return removed
    for path in folder.glob(f".*{PARTIAL}"):
        try:
            with path.open("rb+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for filled in folder.glob(f"{escape(path.name)}.*"):
                    filled.unlink()
                path.unlink()
                removed += 1
        except OSError:  # its writer holds the lock, or it has just been finished, or the folder is read-only
            continue
    return removed


def visit(folder: Path) -> None:
    """Clean a folder up before this process writes into it for the first time.

    Writers call it themselves; a command that may find everything written already, and so writes nothing, calls it, too.
    """
    if folder not in _visited:
        _visited.add(folder)
        clean_up(folder)


def _partial(target: Path) -> Path:
    """A new name: of this call, whatever other threads, processes and machines write."""
    return target.with_name(f".{target.name}.{uuid4().hex[:12]}{PARTIAL}")


def _sync_folder(folder: Path) -> None:
    """Make a new name last through a loss of power, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    except OSError:  # a mount that knows no such thing
        return
    finally:
        os.close(descriptor)


def cannot_write(target: Path, error: OSError) -> OSError:
    """The error in one sentence, with what to do about it."""
    reason = error.strerror or str(error)
    return OSError(f"{target} cannot be written ({reason}): free the disk or choose another folder")


def _locked(path: Path) -> BufferedWriter:
    """A new file, open and locked; made again where `clean_up` was between the two."""
    while True:
        file = path.open("xb")
        if fcntl is None:
            return file
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                return file
        except FileNotFoundError:
            pass
        file.close()


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # on a folder that cannot be written to, nothing was begun
