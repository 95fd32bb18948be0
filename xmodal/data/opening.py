"""Where the bytes of media come from: a file, a member of a tar, or a URL. The one place that opens them.

Readers get a `Path`, or a `Source`, which has the methods of a `Path` that they use. Members of tars are written
``TAR#OFFSET+SIZE:NAME`` in manifests (where the member's bytes begin, and how many they are), or ``TAR#NAME``, which is looked
for. Nothing is unpacked, and what a member is called never becomes the name of a file. URLs go through fsspec, which is imported
for them alone.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from xmodal.files import write_whole

MEMBER = re.compile(r"(?P<tar>.+?\.tar)#(?:(?P<at>\d+)\+(?P<size>\d+):)?(?P<name>.+)", re.DOTALL)
BLOCK = tarfile.BLOCKSIZE
# Those that stand for another machine; fsspec knows more, and some of them open files of this one.
PROTOCOLS = ("http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "hf", "memory")
URL = re.compile(rf"({'|'.join(PROTOCOLS)})://(?!.*::).+", re.DOTALL)
BROKEN = re.compile(rf"({'|'.join(PROTOCOLS)}):/")  # what `Path` makes of a URL
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
# What servers say of a file's version, the surest first.
VERSIONS = (
    *("ETag", "etag", "Content-MD5", "md5Hash", "blob_id", "Last-Modified", "LastModified", "last_modified", "updated"),
    *("mtime", "created"),
)
WHOLE = 1 << 25  # bytes; what is larger is read in pieces
PIECE = 1 << 20  # bytes
TRIES, PAUSE = 3, 0.5  # seconds before the second one; the next waits twice as long

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

    def resolve(self, strict: bool = False) -> Any:
        """Itself: it is no link."""
        return self


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

    def state(self) -> str:
        """That of the tar."""
        return state_of(self.tar)

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
        """Size of the member."""
        return SimpleNamespace(st_size=self._found()[1])

    def open(self, mode: str = "rb") -> Any:
        """A file of the member's bytes alone, which knows its own name. Each call opens the tar anew: nothing is shared."""
        at, size = self._found()
        if isinstance(self.tar, Remote) and size < WHOLE and at + size <= self.tar.stat().st_size:  # one request
            file: Any = io.BytesIO(self.tar.read(max(0, at - BLOCK), at + size))
            self._check(file, min(at, BLOCK), size)
            return _named(file.getvalue()[min(at, BLOCK) :], self.name)
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
        found = _members(self.tar, state_of(self.tar)).get(self.member)
        if found is None:
            raise ValueError(f"{self.tar} has no file {self.member!r}: is it another tar now?")
        return found

    def _check(self, file: IO[bytes], at: int, size: int) -> None:
        """The member's own header stands before its bytes: they are what the manifest says."""
        wrong = f"{self.tar} has no file at {self.place()}: it is another tar than the manifest's"
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


class Remote(Source):
    """What a URL names, through fsspec. What is known of it, and a small file's bytes, are asked for once in a process.

    A request that fails is tried again; then it is OSError, in one sentence. ImportError where a package for it is missing.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url, os.path.basename(url.partition("?")[0]))

    @property
    def parent(self) -> Any:
        """The folder that holds it."""
        return Remote(self.text.partition("?")[0].rpartition("/")[0])

    def inside(self, name: str) -> Remote | None:
        """What a manifest in this folder calls ``name``; None for what would lie elsewhere."""
        if is_outside(name) or PurePosixPath(name).name in ("", "."):
            return None
        return Remote(f"{self.text}/{quote(name) if self.text.startswith('http') else name}")

    def holds(self, other: Remote) -> bool:
        """Whether this folder holds another URL."""
        return other.text.startswith(f"{self.text}/") and ".." not in PurePosixPath(unquote(other.text)).parts

    def relative_to(self, root: Any) -> str:  # type: ignore[override]
        """As a manifest in ``root`` names it: elsewhere by the whole URL."""
        return self.text.removeprefix(f"{root}/")

    def is_relative_to(self, root: Any) -> bool:  # type: ignore[override]
        """Any manifest can name a URL."""
        return True

    def is_file(self) -> bool:
        """Whether it is there."""
        try:
            return _info(self.text).get("type", "file") == "file"
        except FileNotFoundError:
            return False

    def state(self) -> str:
        """Size, and what the server says of the version."""
        info = _info(self.text)
        return f"{info.get('size')}|{next((info[mark] for mark in VERSIONS if info.get(mark)), '')}"

    def stat(self) -> Any:
        """Size."""
        size = _info(self.text).get("size")
        return SimpleNamespace(st_size=len(_whole(self.text, self.state())) if size is None else size)

    def open(self, mode: str = "rb") -> Any:
        """A file of its bytes: in memory where it is small, else read in pieces."""
        size = _info(self.text).get("size")
        if size is None or size < WHOLE:
            return _named(_whole(self.text, self.state()), self.name)
        files, path = _files(self.text)
        opened = _tried(self.text, lambda: files.open(path, "rb", block_size=PIECE, cache_type="readahead"))
        return io.BufferedReader(_Stretch(opened, 0, size, self.name), PIECE)

    def read(self, begin: int, end: int) -> bytes:
        """Some of its bytes."""
        files, path = _files(self.text)
        return _tried(self.text, lambda: files.cat_file(path, start=begin, end=end))

    def fetched(self, folder: Path) -> Path:
        """A copy in a folder of this machine, made where there is none of this state, and each time where no version is told."""
        target = folder / hashlib.sha256(f"{self.text}|{self.state()}".encode()).hexdigest()[:16] / self.name
        if self.state().endswith("|") or not target.is_file():
            with self.open("rb") as file:
                write_whole(target, iter(lambda: file.read(PIECE), b""))
        return target


def _files(url: str) -> tuple[Any, str]:
    """The file system of a URL, which is made anew in each process, and the path within it."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = PACKAGES.get(url.partition(":")[0], "the package that it names")
        raise ImportError(f"{url} needs {package}: pip install {package} ({error})") from error


@lru_cache(maxsize=1 << 16)
def _info(url: str) -> dict[str, Any]:
    files, path = _files(url)
    return _tried(url, lambda: files.info(path))


@lru_cache(maxsize=2)
def _whole(url: str, state: str) -> bytes:
    files, path = _files(url)
    return _tried(url, lambda: files.cat_file(path))


def _tried(url: str, ask: Callable[[], Any]) -> Any:
    """What a request gives; networks fail now and then, so it is made up to `TRIES` times."""
    for number in range(TRIES):
        try:
            return ask()
        except Exception as error:  # of aiohttp, botocore and others, which share no class
            # fsspec says "not found" of any failure of a web server; what it was stands behind.
            status = getattr(error.__cause__, "status", None) if error.__cause__ else 404
            if isinstance(error, FileNotFoundError) and status in (404, 410):
                raise FileNotFoundError(f"there is nothing at {url}") from error
            if number == TRIES - 1 or isinstance(error, PermissionError):
                reason = " ".join(str(error.__cause__ or error).split())[:200] or type(error).__name__
                raise OSError(f"{url} cannot be read ({reason}): is the network there, and may you read it?") from error
            time.sleep(PAUSE * 2**number)
    raise OSError(url)  # not reached: the last try returns or raises


def _named(content: bytes, name: str) -> io.BytesIO:
    file = io.BytesIO(content)
    file.name = name  # type: ignore[attr-defined]
    return file


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
        return Member(located(match["tar"]), match["name"], None if at is None else int(at), int(match["size"] or 0))
    return Remote(str(path)) if is_url(path) else Path(path)


def is_url(path: object) -> bool:
    """Whether a text names something on another machine."""
    return isinstance(path, str) and URL.fullmatch(path) is not None


def check_here(path: str | Path, what: str) -> None:
    """Raise ValueError for a URL where a folder of this machine must stand."""
    if BROKEN.match(str(path)):
        raise ValueError(f"{what} must lie in a folder of this machine, not at {path}: mount it, or copy it here")


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
    if isinstance(path, (Member, Remote)):
        return path.state()
    state = path.stat()
    return f"{state.st_size}|{state.st_mtime_ns}"


def is_outside(name: str) -> bool:
    """Whether the name of a member would lead out of the folder that it is unpacked into."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name


@lru_cache(maxsize=8)
def _members(tar: Path, state: str) -> dict[str, tuple[int, int]]:
    """Where the files of a tar in this state begin, and how many bytes they are, by name."""
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
