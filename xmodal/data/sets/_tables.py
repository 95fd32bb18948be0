"""Reading of the lists that data sets come with."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from xmodal.data.clips import SPLITS, Found


def only(source: Path, name: str) -> Path:
    """The one list of this name below a folder; raises FileNotFoundError without one."""
    tables = sorted(source.rglob(name))
    if not tables:
        raise FileNotFoundError(f"{source} has no {name}: put the data set's own list beside its clips")
    return tables[0]


def lines(path: Path, columns: Iterable[str], found: Found) -> Iterator[tuple[int, dict[str, str]]]:
    """Lines of a CSV file with their numbers; those with more or fewer fields than its header has are errors."""
    reader = csv.DictReader(io.StringIO(text(path), newline=""))
    if absent := [column for column in columns if column not in (reader.fieldnames or ())]:
        raise ValueError(f"{path} lacks the columns {', '.join(absent)}: is it the data set's own list?")
    for row in reader:
        if None in row or None in row.values():
            expected = len(reader.fieldnames or ())
            found.wrong(f"{path}:{reader.line_num}: expected {expected} fields, is there a comma without quotation marks?")
            continue
        yield reader.line_num, row


def text(path: Path) -> str:
    """A list's text, without a byte order mark; ValueError that names the file for another encoding than UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}): save it so") from error


def literal(name: str) -> str:
    """A file's name as a glob pattern that means just itself."""
    return re.sub(r"([*?[])", r"[\1]", name)


def split_of(name: str) -> str:
    """Our name of a split; another one as it is."""
    return SPLITS.get(name, name)
