"""What the commands share at the terminal: types of numbers, tables, counters, and the check before anything loads."""

from __future__ import annotations

import math
import os
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from xmodal.registry.recipe import Part

N = TypeVar("N", int, float)
WIDTH = 120  # columns that a listing may take
COMMERCIAL = "refuse parts whose licence forbids commercial use, or is unknown, before anything loads"


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return _number(text, int, "a whole number of at least 1", lambda number: number >= 1)


def count(text: str) -> int:
    """A whole number of at least 0."""
    return _number(text, int, "a whole number of at least 0", lambda number: number >= 0)


def seconds(text: str) -> float:
    """A length above 0."""
    return _number(text, float, "seconds above 0", lambda number: math.isfinite(number) and number > 0)


def finite(text: str) -> float:
    """Any number but infinity and NaN."""
    return _number(text, float, "a finite number", math.isfinite)


def named(text: str) -> tuple[str, Path]:
    """``NAME=FOLDER``."""
    name, _, folder = text.partition("=")
    if not name or not folder or Path(name).name != name:
        raise ArgumentTypeError(f"{text!r} is not NAME=FOLDER")
    return name, Path(folder)


def trust(parser: ArgumentParser) -> None:
    """Add ``--trust``."""
    text = "import the classes that the adapter's recipe names, from the working folder, too: only for what you would also run"
    parser.add_argument("--trust", action="store_true", help=text)


def consent(given: bool) -> None:
    """With ``--trust`` the working folder's modules are found, after all others."""
    if given and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def progress(what: str) -> Callable[[int, int], None] | None:
    """A counter on a terminal, nothing in a file."""
    if not sys.stderr.isatty():
        return None
    return lambda done, total: print(
        f"\r{done} of {total} {what}", end="\n" if done == total else "", file=sys.stderr, flush=True
    )


def printable(text: str) -> str:
    """A text with names of files in it as a terminal may show it: no control characters, which would steer the terminal."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape", "replace").decode() for letter in text)


def refuse_rows(wrong: Sequence[str], most: int = 20) -> None:
    """Name the rows, or clips, that were left out, on stderr; then ValueError with their number, for exit status 1."""
    for sentence in wrong[:most]:
        print(printable(f"xmodal: left out: {sentence}"), file=sys.stderr)
    raise ValueError(f"{len(wrong)} rows were left out, first {wrong[0]}")


def shortened(text: str, width: int) -> str:
    """A text in so many columns, cut between words where it has more."""
    return text if len(text) <= width else text[: width - 2].rpartition(" ")[0].rstrip(" ,.:;") + " …"


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def check(found: Sequence[Part], commercial: bool, built: Callable[[Part], bool] | None = None) -> None:
    """Refuse what cannot or must not run, before anything is imported; weights are asked for of parts that are ``built``."""
    if commercial:
        from xmodal.registry.licences import refuse_non_commercial

        refuse_non_commercial(found)
    from xmodal.registry.recipe import check_weights

    check_weights(found, built)


def _number(text: str, kind: Callable[[str], N], expected: str, good: Callable[[N], bool]) -> N:
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not good(number):
        raise ArgumentTypeError(f"{text!r} is not {expected}")
    return number
