"""Files that appear whole or not at all, whatever stops the writer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from io import BufferedWriter
from pathlib import Path
from uuid import uuid4

try:
    import fcntl
except ImportError:  # Windows has no such locks: nothing is cleaned up there
    fcntl = None  # type: ignore[assignment]

PARTIAL = ".partial"


def write_whole(target: Path, pieces: Iterable[bytes]) -> Path:
    """Write beside the target, flush to the disk, rename; returns ``target``.

    What cannot be finished leaves nothing. The writer holds a lock on its unfinished file, by which `clean_up` knows it
    from what a killed writer has left. Raises OSError in one sentence: a full disk, a folder that cannot be written to.
    """
    partial = target.with_name(f".{target.name}.{uuid4().hex[:12]}{PARTIAL}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(partial) as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:
                file.close()  # Windows renames no open file
            partial.replace(target)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        _remove(partial)
    return target


def write_beside(target: Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a file of the same suffix beside the target, then rename it; returns ``target``."""
    partial = target.with_name(f".partial-{os.getpid()}-{target.name}")
    try:
        write(partial)
        return partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


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
                path.unlink()
                removed += 1
        except OSError:  # its writer holds the lock, or it has just been finished, or the folder is read-only
            continue
    return removed


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
