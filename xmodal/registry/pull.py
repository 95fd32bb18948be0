"""Fetching published weights: `xmodal pull`, the only command that downloads.

Files of the hub go into the hub's own cache, where the models look for them; a file from elsewhere goes into this
library's cache, under the address of the page that describes it. What arrives is compared with the sha256 that the card
or the hub states.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from xmodal.registry import models as registry
from xmodal.registry import recipe as parts
from xmodal.registry.adapters import RECIPE
from xmodal.registry.cards import HUB, PICKLED, Card, hub_cache, instead, narrow, offline, readable, sha256, stand_ins
from xmodal.registry.recipes import bases

CHUNK = 1 << 20
SECONDS = 30  # without an answer
WHOLE = ("*.json", "*.txt", "*.model", "*.safetensors")  # of a repository whose card names no weight file


def targets(word: str) -> list[Card]:
    """Return the cards that ``MODEL``, ``MODEL:CARD``, a recipe's name or path, or an adapter's folder means.

    Raises ValueError for an unknown name.
    """
    model = word.partition(":")[0]
    if (Path(word) / RECIPE).is_file():
        word = str(Path(word) / RECIPE)
    if model not in registry.available() and (word.endswith((".yaml", ".yml")) or word.partition("+")[0] in bases()):
        found = parts.parts(parts.read([word]))
        for part in found:
            if part.problem:
                raise ValueError(f"{word}: {part.place}: {part.problem}")
        return list({part.name: part.card for part in found if part.card.name}.values())
    tag = word.partition(":")[2]
    card, listed = registry.card(model, tag or None), registry.listing(model)
    if tag and tag not in listed.cards and "card_of" in listed.functions:  # it knows better which files are needed
        card = registry.resolve(model).card_of(tag)
    return [card]


class Gone(OSError):
    """A source no longer has what a card says."""


def pull(card: Card, say: Callable[[str], object] = print, variant: str = "") -> Path:
    """Fetch a card's weights unless they are here, and return their folder or file.

    ``variant`` ("fp16") chooses the narrower files where the publisher has them. A mirror is asked where the first source
    has gone.

    Raises OSError, in one sentence, where the network is forbidden or fails, where the publisher wants its terms accepted
    first, or where the disk is too small; ValueError where what arrived is not what was announced.
    """
    here = card.find()
    if here is not None:
        card.verify()
        say(f"{card.name}: here already, {here}")
        return here
    sources = [each for each in (card.repository or card.address, *card.mirrors) if each]
    if card.shipped or not sources:
        raise FileNotFoundError(card.missing())
    if offline():
        raise OSError(f"{card.missing()}; but this is offline (--offline or HF_HUB_OFFLINE=1), so nothing was fetched")
    for source in sources:
        try:
            if "://" in source:
                return _from_address(card, source, say)
            return _from_hub(card, source, variant, say)
        except Gone as error:
            if source == sources[-1]:
                raise
            say(f"{error}; asking its mirror")
    raise AssertionError  # the last source returned or raised


# ---- the hub


def _from_hub(card: Card, repository: str, variant: str, say: Callable[[str], object]) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    page = f"{HUB}{repository}"
    revision = card.revision if card.revision and repository == card.repository else None
    with _explained(card, repository, page):
        answer = HfApi().model_info(repository, revision=revision, files_metadata=True)
    listed = {each.rfilename: each for each in answer.siblings or ()}
    wanted, known = select(card.files, listed, variant), {**card.files, **card.forms}
    if repository != card.repository:
        loose = [name for name in wanted if name.endswith((".safetensors", *PICKLED)) and not known.get(name)]
        say(f"{card.name} comes from a mirror, {page}" + (f"; no sha256 is known of {', '.join(loose)}" if loose else ""))
    _announce(card, page, {name: listed[name].size for name in wanted}, hub_cache(), say)
    with _explained(card, repository, page):
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    for name in wanted:
        published = getattr(listed[name], "lfs", None)
        _check(folder / name, known.get(name) or (published.sha256 if published else None), say)
    say(str(folder))
    return card.find() or folder


@contextmanager
def _explained(card: Card, repository: str, page: str) -> Iterator[None]:
    """Turn what the hub's library raises into one sentence with the mend."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        yield
    except GatedRepoError as error:
        mend = f"accept them at {page}, log in with `hf auth login`, and pull again"
        raise OSError(f"{card.name} is gated, its publisher wants the terms accepted first: {mend}") from error
    except RepositoryNotFoundError as error:
        mend = f"look at {page}, log in with `hf auth login` if it is private, or give a path as card"
        raise Gone(f"the hub has no repository {repository!r}, or shows it to members only: {mend}") from error
    except Exception as error:  # its network libraries' own kinds have changed from version to version
        raise OSError(
            f"{card.name} could not be fetched from {page} ({_reason(error)}): try again, what arrived is kept"
        ) from error


def select(files: Mapping[str, str | None], listed: Iterable[str], variant: str = "") -> list[str]:
    """Return which of a repository's files a card means: of weights in several forms the variant, else the newest one.

    Raises FileNotFoundError for a file, or a variant, that the repository does not have.
    """
    listed = sorted(listed)
    weights = any(name.endswith((".safetensors", "*", *PICKLED)) for name in files)
    wanted: list[str] = []
    for pattern in files if weights else (*files, *WHOLE):
        found = [name for name in listed if fnmatchcase(name, pattern)] or [name for name in listed if name == instead(pattern)]
        if not found and narrow(pattern) in listed:
            found = [narrow(pattern)]
        if not found and "*" not in pattern:
            raise FileNotFoundError(
                f"the repository has no {pattern} (it has {', '.join(listed[:8]) or 'nothing'}): the card is out of date"
            )
        wanted += found
    narrowed = {name: narrow(name, variant) for name in wanted if variant and narrow(name, variant) != name}
    if variant and not any(f".{variant}." in name for name in {*narrowed.values(), *wanted} & set(listed)):
        raise FileNotFoundError(f"the repository has no files of the variant {variant!r}: leave --variant out")
    wanted = [each if (each := narrowed.get(name, name)) in listed else name for name in wanted]
    worse = {other for name in wanted for other in stand_ins(name)}  # a pattern may mean all forms of the same weights
    return list(dict.fromkeys(name for name in wanted if name not in worse))


# ---- elsewhere


def _from_address(card: Card, address: str, say: Callable[[str], object]) -> Path:
    (name,) = card.files
    target = card.place
    partial = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        _fetch(card, address, partial, say)
    except HTTPError as error:
        kind = Gone if error.code in (404, 410) else OSError
        raise kind(f"{card.name} could not be fetched from {address} ({error.code} {error.reason}): see {card.origin}") from error
    except (URLError, TimeoutError, ConnectionError) as error:
        raise OSError(
            f"{card.name} could not be fetched from {address} ({_reason(error)}): try again, what arrived is kept"
        ) from error
    expected = card.files[name]
    if expected:
        _check(partial, expected, say)
    os.replace(partial, target)
    say(f"{target}\n  sha256 {sha256(target)}")
    return target


def _fetch(card: Card, address: str, partial: Path, say: Callable[[str], object]) -> None:
    """Write what an https address gives to ``partial``, going on where an earlier attempt stopped."""
    start = partial.stat().st_size if partial.is_file() else 0
    headers = {"User-Agent": "xmodal", **({"Range": f"bytes={start}-"} if start else {})}
    if not address.startswith("https://"):
        raise ValueError(f"{address} is no https address: nothing is fetched without encryption")
    with urlopen(Request(address, headers=headers), timeout=SECONDS) as response:
        if not response.url.startswith("https://"):
            raise ValueError(f"{address} leads to {response.url}, which is no https address: nothing was fetched")
        start = start if response.status == 206 else 0
        size = int(response.headers.get("Content-Length") or 0)
        _announce(card, address, {next(iter(card.files)): start + size if size else None}, partial.parent, say)
        done = start
        with partial.open("ab" if start else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                _progress(done, start + size)
        if size and done != start + size:
            raise ConnectionError(f"{done} of {start + size} bytes arrived")


def _announce(card: Card, source: str, sizes: Mapping[str, int | None], folder: Path, say: Callable[[str], object]) -> None:
    """Say what comes, from where and how much; raises OSError where the disk does not hold it."""
    total = sum(size or 0 for size in sizes.values())
    say(f"{card.name} from {source} ({card.licence}), {readable(total) if total else 'size unknown'} into {folder}")
    for name, size in sizes.items():
        say(f"  {name}  {readable(size) if size else '-'}")
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if total > free:
        raise OSError(
            f"{card.name} needs {readable(total)}, but {existing} has {readable(free)} of space left: free some, or set HF_HOME"
        )


def _check(path: Path, expected: str | None, say: Callable[[str], object]) -> None:
    """Compare a file with its sha256 and remove it where it differs; nothing to do where none is published."""
    if expected is None:
        return
    found = sha256(path)
    if not found.startswith(expected):
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise ValueError(f"{path} arrived with sha256 {found}, but {expected} was announced: it was removed, pull it again")
    say(f"  {path.name}  sha256 is right")


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty() and total:
        end = "\n" if done >= total else ""
        print(f"\r  {done / total:4.0%} of {readable(total)}", end=end, file=sys.stderr, flush=True)


def _reason(error: Any) -> str:
    text = " ".join(str(getattr(error, "reason", error)).split())
    return text.partition(". ")[0][:200] or type(error).__name__
