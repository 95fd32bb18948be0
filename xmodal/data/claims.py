"""Claims: files that a folder shall hold, dealt to whoever works there, with nothing but the folder between them.

Who is about to make a file creates a claim beside it, which only one can, touches it for as long as it lives, and removes it
when the file is there. A claim is free again when its holder is dead: at once on the holder's own machine, where the system
lets go of its lock; elsewhere when it was not touched for ``STALE`` seconds, by the clock of the file server that writes both
times. Locks that a network file system does not have are done without.

A claim spares work and does no more: two that make one file write the same bytes, and the file appears whole. So whatever
may happen between two looks at a folder costs time, and never a wrong result.
"""

from __future__ import annotations

import os
import platform
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import randbelow
from threading import Event, Thread
from typing import IO, Any, Self

from xmodal.files import PARTIAL, cannot_write, fcntl

CLAIM = ".claim"
BEAT, STALE = 15.0, 120.0  # seconds; what a client of NFS shows of another's files may be a minute old
PATIENCE = 900.0  # seconds in which nothing was computed: a process that hangs gives no more signs of life
FIRST_PAUSE, PAUSE = 0.05, 2.0  # seconds between two looks at what others are making


class Claims:
    """The files of a list that are not there yet, dealt to all who have the same list.

    Nobody needs to know of the others: they may come and go at any time. Each begins with a file of its own choice, so that
    many seldom ask for the same.

    Args:
        folder: where the files belong; it is made by the first claim.
        names: of the files.
        stale: seconds after which an untouched claim of another machine is free.
        seen: is told the number of each file that another has made since.
    """

    def __init__(
        self, folder: Path, names: Sequence[str], stale: float = STALE, seen: Callable[[int], object] = lambda number: None
    ) -> None:
        self.folder, self.names, self.stale, self.seen = folder, names, stale, seen
        self._held: dict[int, int | None] = {}
        self._pause, self._now, self._worked = FIRST_PAUSE, 0.0, time.monotonic()
        self._beating: Event | None = None
        present = set(os.listdir(folder)) if folder.is_dir() else set()
        absent = [number for number, name in enumerate(names) if name not in present]
        start = randbelow(len(absent)) if absent else 0
        self.pending = deque(absent[start:] + absent[:start])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[int]:
        """Numbers of files to be made, one after the other, until all are there, those of others too."""
        while self.pending:
            number = self.take()
            if number is not None:
                yield number
                self.done(number)
            elif self.pending:
                self.wait()

    def take(self) -> int | None:
        """Claim a file that is not there and not in the work of another, and return its number; None where there is none now.

        ``pending`` then holds those that others are making. Raises OSError where the folder cannot be written to.
        """
        self._now = 0.0
        for _ in range(len(self.pending)):
            number = self.pending.popleft()
            if self._is_there(number):
                continue
            if not self._claim(number):
                self.pending.append(number)
            elif self._is_there(number):  # made between the two looks
                self.done(number)
            else:
                self._pause = FIRST_PAUSE
                return number
        return None

    def done(self, number: int) -> None:
        """Remove the claim on a file, which is there now, or is given up."""
        self.working()
        _release(self._claim_of(number), self._held.pop(number))

    def working(self) -> None:
        """Say that something has been computed: claims are touched as long as that happens every ``PATIENCE`` seconds."""
        self._worked = time.monotonic()

    def wait(self) -> float:
        """Sleep before the next look at what others are making, longer each time; returns the seconds."""
        slept, self._pause = self._pause, min(2 * self._pause, PAUSE)
        time.sleep(slept)
        return slept

    def close(self) -> None:
        """Give up what is held."""
        if self._beating is not None:
            self._beating.set()
            self._beating = None
        for number in list(self._held):
            self.done(number)

    def _is_there(self, number: int) -> bool:
        if not (self.folder / self.names[number]).exists():
            return False
        self.seen(number)
        return True

    def _claim_of(self, number: int) -> Path:
        return self.folder / f".{self.names[number]}{CLAIM}"

    def _claim(self, number: int) -> bool:
        path = self._claim_of(number)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            while True:
                try:
                    self._held[number] = _create(path)
                    break
                except FileExistsError:
                    if not _freed(path, self.stale, self._clock):
                        return False
        except OSError as error:
            raise cannot_write(path, error) from error
        self.working()
        if self._beating is None:
            self._beating = Event()
            Thread(target=self._beat, args=(self._beating,), daemon=True).start()
        return True

    def _clock(self) -> float:
        """The file server's, once for each `take`."""
        self._now = self._now or clock_of(self.folder)
        return self._now

    def _beat(self, ended: Event) -> None:
        while not ended.wait(BEAT):
            if time.monotonic() - self._worked < PATIENCE:
                for number in list(self._held):
                    with suppress(OSError):
                        os.utime(self._claim_of(number))  # as of now, by the server's clock


def clear(folder: Path, stale: float = STALE) -> int:
    """Remove the claims of a folder whose holders are dead; returns their number."""
    removed = 0
    for path in folder.glob(f".*{CLAIM}"):
        with suppress(OSError):  # it is in use, or the folder is read-only
            removed += path.exists() and _freed(path, stale, lambda: clock_of(folder))
    return removed


def clock_of(folder: Path) -> float:
    """What the clock that writes the times of this folder's files shows now, in seconds; it need not be that of this machine."""
    probe = folder / f".clock.{uuid.uuid4().hex[:12]}{PARTIAL}"
    descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    try:
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
        probe.unlink(missing_ok=True)


def _machine() -> str:
    """A name for what locks are valid on: one running kernel."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{uuid.getnode():x}"


def _create(path: Path) -> int | None:
    """Create a claim and return what `_signed` does; raises FileExistsError.

    It is locked and signed before it gets its name. Whose holder was killed before it had signed nobody could tell: all would
    wait until it is old. Where a file cannot have two names, that may happen.
    """
    if path.exists():
        raise FileExistsError(path)
    fresh = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}{PARTIAL}")
    try:
        held = _signed(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
        try:
            os.link(fresh, path)
        except OSError as error:
            if held is not None:
                os.close(held)
            if isinstance(error, FileExistsError):
                raise
            held = _signed(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
    finally:
        fresh.unlink(missing_ok=True)
    return held


def _signed(descriptor: int) -> int | None:
    """Lock a new claim, then write into it whose it is; returns what must stay open for as long as it is held."""
    locked = _locked(descriptor)
    os.write(descriptor, f"{_machine() if locked else '-'} {platform.node()} {os.getpid()} {uuid.uuid4().hex}\n".encode())
    if locked:
        return descriptor
    os.close(descriptor)
    return None


def _locked(descriptor: int) -> bool:
    """Lock a file if that is possible now; False also where there are no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _freed(path: Path, stale: float, clock: Callable[[], float]) -> bool:
    """Remove a claim whose holder is dead or silent; returns whether it is gone."""
    try:
        # Opening it makes a client of NFS ask for its time anew, and to lock it there it must be open for writing.
        with _turn(path.parent), path.open("rb+" if os.access(path, os.W_OK) else "rb") as file:
            state = os.fstat(file.fileno())
            # It is locked before it is signed: who has not signed yet (see `_create`) is not judged by a lock.
            dead = _is_signed_here(file) and _locked(file.fileno())
            if not dead and clock() - state.st_mtime <= stale:
                return False
            if path.stat().st_ino != state.st_ino:
                return False
            if fcntl is None:
                file.close()  # Windows removes no open file
            path.unlink()
    except FileNotFoundError:
        pass
    except BlockingIOError:
        return False
    return True


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Judge claims one at a time, or the next holder's might be removed for the last one's; raises BlockingIOError.

    Where folders cannot be locked, that may happen, and a file is made twice.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)


def _is_signed_here(file: IO[Any]) -> bool:
    return file.read().startswith(f"{_machine()} ".encode())


def _release(path: Path, descriptor: int | None) -> None:
    """Remove a claim of one's own."""
    with suppress(OSError):
        if descriptor is None or path.stat().st_ino == os.fstat(descriptor).st_ino:  # otherwise it was taken over
            path.unlink()
    if descriptor is not None:
        os.close(descriptor)
