"""Where weights come from, and where they lie on this machine. Free of torch, so that listing the models costs nothing."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from xmodal.files import own_cache

WEIGHTS = Path(__file__).parent.parent / "miniature" / "weights"
HUB = "https://huggingface.co/"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
VARIANT = "fp16"
PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".th", ".npz")
# What a publisher may give in place of a file that a card names.
INSTEAD = {
    "model.safetensors": "pytorch_model.bin",
    "diffusion_pytorch_model.safetensors": "diffusion_pytorch_model.bin",
    "open_clip_model.safetensors": "open_clip_pytorch_model.bin",
}


@dataclass(frozen=True)
class Card:
    """Where a model's weights come from, and what they demand.

    ``source`` is a hub id, a path, ``package:FOLDER`` for weights shipped under ``xmodal/miniature/weights``, or
    ``recipe:FOLDER`` for weights that the recipe named by ``origin`` trains into that place.
    ``files`` maps file names (on the hub also patterns) to their sha256 (``None`` where it is not known). ``options`` are
    constructor options that belong to these weights (token layers, attention heads, ...). ``size`` is the download in
    bytes, 0 where unknown. ``url`` is the address of the one file where ``origin`` is a page about it. ``name``
    (``MODEL:CARD``) is filled in by `find_card`, for messages.

    ``revision`` is the hub's commit, 40 digits, that all this was said of; "" where it is not known. ``forms`` are the sha256
    of files that may stand for those in ``files`` (`stand_ins`); a sha256 of less than 64 digits is its beginning.
    ``mirrors`` are hub ids or, of a single file, https addresses, for when the first source is gone.
    """

    source: str
    files: Mapping[str, str | None]
    licence: str
    commercial: bool
    origin: str
    parameters: int
    dim: int | None = None
    sample_rate: int | None = None
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    normalized: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    size: int = 0
    url: str = ""
    name: str = ""
    revision: str = ""
    forms: Mapping[str, str] = field(default_factory=dict)
    mirrors: tuple[str, ...] = ()

    @property
    def shipped(self) -> bool:
        """Whether the weights come with the package."""
        return self.source.startswith("package:")

    @property
    def repository(self) -> str | None:
        """``owner/name`` of the hub repository, or None where the weights are published elsewhere."""
        source = self.source.removeprefix("hf-hub:")
        if HUB_ID.fullmatch(source) and not source.endswith(PICKLED):
            return source
        named = self.origin.removeprefix(HUB)
        return named if source.startswith("open_clip:") and named != self.origin and HUB_ID.fullmatch(named) else None

    @property
    def address(self) -> str | None:
        """The https address of the one file: ``url``, or what GitHub's releases and Zenodo make of ``origin``; or None."""
        if self.url or len(self.files) != 1:
            return self.url or None
        page, (name,) = self._page, self.files
        if page.endswith(f"/{name}"):
            return page
        if "/releases/tag/" in page:
            return f"{page.replace('/releases/tag/', '/releases/download/')}/{quote(name)}"
        record = re.fullmatch(r"https://zenodo\.org/records?/(\d+)", page)
        return f"https://zenodo.org/records/{record[1]}/files/{quote(name)}?download=1" if record else None

    @property
    def _page(self) -> str:
        return (self.origin.split() or [""])[0].rstrip("/")

    @property
    def place(self) -> Path:
        """Where the weights belong on this machine: the package, the hub's cache, this library's cache, or the path itself."""
        if self.shipped or self.source.startswith("recipe:"):
            return WEIGHTS / self.source.partition(":")[2]
        if Path(self.source).exists():
            return Path(self.source)
        if self.repository:
            return _hub_place(self.repository)
        page = re.sub(r"[^\w./-]", "_", self._page.partition("://")[2]).removesuffix(f"/{self.source}")
        return own_cache() / "weights" / page / self.source if page and not Path(self.source).is_absolute() else Path(self.source)

    def find(self) -> Path | None:
        """Return the folder (or file) with the weights, whole, or None; asks no network.

        Of a hub repository that is the snapshot in the hub's cache, or the file in it where the card has only one,
        a pickled one.
        """
        place = self.place
        if not self.repository or place == Path(self.source):
            return place if place.exists() else None
        hubs = [_hub_place(each) for each in self.mirrors if not each.startswith("https:")]
        folder = next((found for each in (place, *hubs) if (found := self._snapshot(each))), None)
        if folder is None:
            return None
        only = next(iter(self.files)) if len(self.files) == 1 else ""
        return folder / only if only.endswith(PICKLED) else folder

    def _snapshot(self, place: Path) -> Path | None:
        """The whole snapshot of the card's revision, or of the main branch, or else the newest whole one of another revision."""
        main = place / "refs" / "main"
        found = sorted((place / "snapshots").glob("*"), key=lambda path: path.stat().st_mtime, reverse=True)
        if main.is_file():
            found.insert(0, place / "snapshots" / main.read_text(encoding="utf-8").strip())
        if self.revision:
            found.insert(0, place / "snapshots" / self.revision)
        return next((folder for folder in found if folder.is_dir() and not self.lacking(folder)), None)

    def lacking(self, folder: Path) -> list[str]:
        """Return which of the card's files the folder lacks; of patterns only one needs to be met."""
        absent = [name for name in self.files if not any(_holds(folder, each) for each in (name, *stand_ins(name)))]
        patterns = [name for name in self.files if "*" in name]
        return absent if patterns == [name for name in absent if "*" in name] else [name for name in absent if "*" not in name]

    def folder(self) -> Path:
        """Return the local folder (or file) as `find` does; raises FileNotFoundError that says what to do without one."""
        found = self.find()
        if found is None:
            raise FileNotFoundError(self.missing())
        return found

    def missing(self) -> str:
        """Return the sentence for weights that are not here: files, size, source, and the command that fetches them."""
        names = ", ".join([*self.files][:3]) + (f" and {len(self.files) - 3} more" if len(self.files) > 3 else "")
        what = f"{names or 'all files'}; {self.weight}"
        start = f"the weights of {self.source!r} are not on this machine ({what}; from {self.origin}; looked at {self.place})"
        if self.shipped:
            return f"{start}: they come with the package, so install it again"
        if self.source.startswith("recipe:"):
            return f"{start}: train them with `xmodal fit --config {self.origin}`"
        if self.name and (self.repository or self.address or self.mirrors):
            return f"{start}: run `xmodal pull {self.name}`, or give the path as card"
        return f"{start}: download them by hand and give the path as card, or put them where it was looked"

    @property
    def weight(self) -> str:
        """The size of the download as people say it: as published, or what the parameters weigh, or that it is unknown."""
        if self.size:
            return readable(self.size)
        return f"size not published, {readable(4 * self.parameters)} if in float32" if self.parameters else "size unknown"

    def verify(self, fully: bool = False) -> None:
        """Compare the sha256 of every file whose hash the card knows; raises ValueError on the first difference.

        A file in the hub's cache lies under its sha256 as name, which is read instead, unless it is to be done ``fully``.
        """
        for path, expected in self.hashes(self.folder()).items():
            blob = path.resolve().name
            if not (blob if len(blob) == 64 and path.is_symlink() and not fully else sha256(path)).startswith(expected):
                raise ValueError(f"{path} is damaged or not the published file: its sha256 is not {expected}")

    def hashes(self, place: Path) -> dict[Path, str]:
        """Return the sha256 that files of this folder, or this file, should have, as far as it is known."""
        known = {**self.files, **self.forms}
        found = {place / name if place.is_dir() else place: each for name, each in known.items() if each}
        return {path: each for path, each in found.items() if path.is_file()}


def find_card(cards: Mapping[str, Card], name: str, kind: str) -> Card:
    """Return the card called ``name``, or a card for a local path; raises ValueError that lists the known names."""
    if name in cards:
        return replace(cards[name], name=f"{kind.lower()}:{name}")
    if Path(name).exists():
        return Card(source=name, files={}, licence="unknown", commercial=False, origin=name, parameters=0)
    raise ValueError(f"{kind} has no card {name!r} and no such path exists; its cards are: {', '.join(cards)}")


def any_card(cards: Mapping[str, Card], name: str, kind: str, files: Iterable[str]) -> Card:
    """Return what `find_card` does or, for a hub id ``owner/name``, a card of unknown terms with these files."""
    if name in cards or Path(name).exists() or not HUB_ID.fullmatch(name) or name.endswith(PICKLED):
        return find_card(cards, name, kind)
    return Card(name, dict.fromkeys(files), "unknown", False, f"{HUB}{name}", 0, name=f"{kind.lower()}:{name}")


def locate(card: Card, local_files_only: bool = True) -> Path:
    """Return the folder (or file) of a card's weights, their hashes compared.

    Only ``local_files_only`` false permits a download, from the hub alone. Raises FileNotFoundError that says what to do
    where the weights are not here, or cannot be fetched; ValueError where a hash differs.
    """
    if not local_files_only and card.repository and card.find() is None:
        from huggingface_hub import snapshot_download

        try:
            revision = card.revision or None
            folder = Path(snapshot_download(card.repository, revision=revision, allow_patterns=[*card.files]))
            if lacking := card.lacking(folder):
                others = [instead(name) for name in lacking]
                snapshot_download(card.repository, revision=revision, allow_patterns=others)
        except Exception as error:  # its network libraries' own kinds have changed from version to version
            reason = (" ".join(str(error).split()) or type(error).__name__).partition(". ")[0][:200]
            raise FileNotFoundError(f"{card.missing()}; the hub did not give them ({reason})") from error
    card.verify()
    return card.folder()


def sha256(path: Path) -> str:
    """Return the sha256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def readable(size: float) -> str:
    """Return bytes as people write them: ``1.3 GB``."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def offline() -> bool:
    """Tell whether the environment forbids the network (``HF_HUB_OFFLINE``, which `--offline` sets)."""
    return any(
        os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def hub_cache() -> Path:
    """Return the folder of the hub's cache, by the rules of huggingface_hub, which need not be imported for it."""
    loaded = sys.modules.get("huggingface_hub.constants")
    if loaded is not None:
        return Path(loaded.HF_HUB_CACHE)
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or Path(home) / "hub"
    return Path(os.path.expandvars(named)).expanduser()


def instead(name: str) -> str:
    """Return the file that may stand for ``name``: the same weights in the older form."""
    path = Path(name)
    return str(path.with_name(INSTEAD.get(path.name, path.name)))


def stand_ins(name: str) -> list[str]:
    """Return the files that may stand for ``name``: half as wide, or in the older form."""
    older = instead(name)
    return [each for each in (narrow(name), older, narrow(older)) if each != name]


def narrow(name: str, variant: str = VARIANT) -> str:
    """Return the name of a weight file's variant, as the hub's libraries make it: ``model.fp16.safetensors``."""
    path = Path(name)
    return str(path.with_name(f"{path.stem}.{variant}{path.suffix}")) if path.name in (*INSTEAD, *INSTEAD.values()) else name


def _hub_place(repository: str) -> Path:
    return hub_cache() / f"models--{repository.replace('/', '--')}"


def _holds(folder: Path, pattern: str) -> bool:
    return next(folder.glob(pattern), None) is not None
