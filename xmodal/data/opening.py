"""Where the bytes of media come from: a file, a member of a tar, or a URL. The one place that opens them.

Readers get a `Path`, or a `Source`, which has the methods of a `Path` that they use. Members of tars are written
``TAR#OFFSET+SIZE:NAME`` in manifests (where the member's bytes begin, and how many they are), or ``TAR#NAME``, which is looked
for. Nothing is unpacked, and what a member is called never becomes the name of a file.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any

MEMBER = re.compile(r"(?P<tar>.+?\.tar)#(?:(?P<at>\d+)\+(?P<size>\d+):)?(?P<name>.+)", re.DOTALL)
BLOCK = tarfile.BLOCKSIZE

# Type checkers are told that a source is a path: it has what readers use of one, and they take either.
Base: Any = Path if TYPE_CHECKING else object


class Source(Base):
    """Media that is no file of its own; ``text`` is what names it, ``name`` its last part."""

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name = text, name
        self.stem, self.suffix = os.path.splitext(name)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and str(other) == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def is_dir(self) -> bool:
        """A source is no folder."""
        return False

    def exists(self) -> bool:
        """As `is_file`."""
        return self.is_file()


class Member(Source):
    """A member of an uncompressed tar; ``at`` and ``size`` are where its bytes begin and how many they are, where that is known.

    Raises ValueError for a name that would lie outside a folder; opening it does for a tar that does not hold it.
    """

    def __init__(self, tar: Path, member: str, at: int | None = None, size: int = 0) -> None:
        if is_outside(member):
            raise ValueError(f"{tar} has the member {member!r}, which would land outside its folder: do not use this file")
        self.tar, self.member, self.at, self.size = tar, member, at, size
        super().__init__(f"{tar}{self.place()}", PurePosixPath(member).name)

    def place(self) -> str:
        """What stands behind the name of the tar in a manifest."""
        return f"#{self.member}" if self.at is None else f"#{self.at}+{self.size}:{self.member}"

    def is_file(self) -> bool:
        """Whether the tar is there; opening tells whether it holds the member."""
        return self.tar.is_file()

    def relative_to(self, root: Any) -> str:  # type: ignore[override]
        """The member as a manifest in ``root`` names it."""
        return f"{self.tar.relative_to(root)}{self.place()}"

    def is_relative_to(self, root: Any) -> bool:  # type: ignore[override]
        """Whether a manifest in ``root`` can name it."""
        return self.tar.is_relative_to(root)

    def stat(self) -> Any:
        """Size of the member, and time of the tar."""
        return SimpleNamespace(st_size=self._found()[1], st_mtime_ns=self.tar.stat().st_mtime_ns)

    def open(self, mode: str = "rb") -> Any:
        """A file of the member's bytes alone, which knows its own name. Each call opens the tar anew: nothing is shared."""
        at, size = self._found()
        file = self.tar.open("rb")
        try:
            self._check(file, at, size)
            return io.BufferedReader(_Stretch(file, at, size, self.name))
        except BaseException:
            file.close()
            raise

    def _found(self) -> tuple[int, int]:
        if self.at is not None:
            return self.at, self.size
        state = self.tar.stat()
        found = _members(self.tar, state.st_size, state.st_mtime_ns).get(self.member)
        if found is None:
            raise ValueError(f"{self.tar} has no file {self.member!r}: is it another tar now?")
        return found

    def _check(self, file: IO[bytes], at: int, size: int) -> None:
        """The member's own header stands before its bytes: they are what the manifest says."""
        wrong = f"{self.tar} holds no file {self.member!r} of {size} bytes at {at}: it is another tar than the manifest's"
        try:
            file.seek(at - BLOCK)
            header = tarfile.TarInfo.frombuf(file.read(BLOCK), tarfile.ENCODING, "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            raise ValueError(f"{wrong}, or damaged: run `xmodal data prepare webdataset FOLDER --in-place` again") from error
        # Of long names the header holds the beginning alone.
        named = header.name == self.member or not self.member.isascii() or len(self.member) >= tarfile.LENGTH_NAME
        if not (header.isreg() and header.size == size and named):
            raise ValueError(f"{wrong}: run `xmodal data prepare webdataset FOLDER --in-place` again")
        if file.seek(0, os.SEEK_END) < at + size:
            raise ValueError(f"{self.tar} ends in the middle of {self.member!r}: fetch it again")


class _Stretch(io.RawIOBase):
    """Some bytes of an open file, as a file, which is closed with it."""

    def __init__(self, file: IO[bytes], begin: int, size: int, name: str) -> None:
        self._file, self._begin, self._size, self._at, self.name = file, begin, size, 0, name

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._at))
        self._file.seek(self._begin + self._at)
        read = self._file.read(wanted)
        buffer[: len(read)] = read
        self._at += len(read)
        return len(read)

    def close(self) -> None:
        self._file.close()
        super().close()


def located(path: str | Path) -> Path:
    """What a path, or a text in its place, names: a file, or a `Source`."""
    if isinstance(path, Source):
        return path
    if match := MEMBER.fullmatch(str(path)):
        at = match["at"]
        return Member(Path(match["tar"]), match["name"], None if at is None else int(at), int(match["size"] or 0))
    return Path(path)


@contextmanager
def handed(path: Path) -> Iterator[Any]:
    """What a library opens: the name of a file, or an open file of a source's bytes."""
    if not isinstance(path, Source):
        yield str(path)
        return
    with path.open("rb") as file:
        yield file


def state_of(path: Path) -> str:
    """Size and time of what holds the bytes: another one is another clip. Raises OSError for what is not there."""
    state = (path.tar if isinstance(path, Member) else path).stat()
    return f"{state.st_size}|{state.st_mtime_ns}"


def is_outside(name: str) -> bool:
    """Whether the name of a member would lead out of the folder that it is unpacked into."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name


@lru_cache(maxsize=8)
def _members(tar: Path, size: int, changed: int) -> dict[str, tuple[int, int]]:
    """Where the files of a tar of this size and time begin, and how many bytes they are, by name."""
    with tar.open("rb") as file, in_place(tar, file) as members:
        return {member.name: (member.offset_data, member.size) for member in members if member.isreg()}


@contextmanager
def in_place(tar: Path, file: IO[bytes]) -> Iterator[tarfile.TarFile]:
    """An uncompressed tar; ValueError for one that is compressed or damaged, here or while it is read."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as opened:
            yield opened
    except (tarfile.TarError, EOFError, UnicodeDecodeError, RecursionError) as error:
        mend = "fetch it again, or, if it is compressed, leave --in-place out"
        raise ValueError(f"{tar} is not a readable tar file without compression ({error}): {mend}") from error
