"""`xmodal import`: a published checkpoint becomes a folder, with a note of where it came from.

Of a model it is one that ``card`` takes. Of an adapter it is one that `xmodal.pipeline` takes; the package of its task reads it,
by the function that its ``IMPORTS`` names.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from functools import cache
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from xmodal.registry import models as registry
from xmodal.registry.cards import readable, sha256

NOTE = "README.md"
HAS_IMPORTS = re.compile(r"^IMPORTS\b", re.MULTILINE)


def kinds() -> list[str]:
    """Return the models whose file can import checkpoints; imports none of them."""
    return [name for name in registry.available() if "import_checkpoint" in registry.listing(name).functions]


@cache
def adapters() -> dict[str, str]:
    """Return the kinds of adapters that can be imported: name -> module and function of what reads them."""
    files = (path for path in registry.PACKAGE.glob("*/__init__.py") if HAS_IMPORTS.search(path.read_text(encoding="utf-8")))
    packages = [import_module(f"xmodal.{path.parent.name}") for path in sorted(files)]
    return {kind: f"{package.__name__}.{home}" for package in packages for kind, home in package.IMPORTS.items()}


def import_weights(kind: str, file: Path, folder: Path, **options: Any) -> Path:
    """Convert a checkpoint and write README.md with the sha256 of what was read and written; returns the folder.

    Nothing in the file is executed. ``options`` are those of the kind's own function (``generator``, ``lora``, ...). Raises
    ValueError for an unknown kind or option, a file that does not fit or a folder that holds something already,
    FileNotFoundError where there is no such file; then the folder is not left half-written.
    """
    if kind not in (known := [*kinds(), *adapters()]):
        raise ValueError(f"weights of {kind!r} cannot be imported: {registry.suggest(kind, known)}")
    if not file.is_file():
        what = "is a folder, not a file" if file.is_dir() else "does not exist"
        raise FileNotFoundError(f"{file} {what}: give the checkpoint as its publisher offers it{_origins(kind)}")
    read = _reader(kind, options)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder: name another one with -o, or remove it first")
    existed = folder.exists()
    try:
        if read is not None:
            return _import_adapter(read, file, folder, options)
        registry.resolve(kind).import_checkpoint(file, folder)
        (folder / NOTE).write_text(_note(kind, file, folder), encoding="utf-8")
    except BaseException:
        for path in folder.iterdir() if folder.is_dir() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if folder.is_dir() and not existed:
            folder.rmdir()
        raise
    return folder


def _reader(kind: str, options: dict[str, Any]) -> Callable[..., Any] | None:
    """What reads an adapter of this kind, None for a model; raises ValueError for an option that it does not have."""
    read: Callable[..., Any] | None = None
    known: set[str] = set()
    if kind in adapters():
        module, _, name = adapters()[kind].rpartition(".")
        read = getattr(import_module(module), name)
        known = {each.name for each in signature(read).parameters.values() if each.default is not Parameter.empty}
    for option in options:
        if option not in known:
            raise ValueError(f"the import of {kind} has no option {option!r}: it has {', '.join(sorted(known)) or 'none'}")
    return read


def _import_adapter(read: Callable[..., Any], file: Path, folder: Path, options: dict[str, Any]) -> Path:
    from xmodal.registry.publishing import publish

    section, weights = read(file, **options)
    files = [file, *(value for value in options.values() if isinstance(value, Path))]
    imported = [{"file": each.name, "bytes": each.stat().st_size, "sha256": sha256(each)} for each in files]
    return publish(folder, section, weights, {"imported": imported})


def _origins(kind: str) -> str:
    if kind in adapters():
        return ""
    cards = registry.listing(kind).cards.values()
    return f" ({', '.join(dict.fromkeys(card.origin for card in cards if not card.shipped)) or 'its documentation'})"


def _note(kind: str, file: Path, folder: Path) -> str:
    cards = [card for card in registry.listing(kind).cards.values() if any(Path(name).name == file.name for name in card.files)]
    cards = cards or [card for card in registry.listing(kind).cards.values() if not card.shipped]
    licences = ", ".join(dict.fromkeys(f"{card.licence}, {card.origin}" for card in cards)) or "unknown"
    rows = [(file.name, file, "read")] + [(path.name, path, "written") for path in sorted(folder.iterdir()) if path.name != NOTE]
    lines = [f"# {kind}: imported weights", "", f"Terms of the published weights: {licences}.", ""]
    lines += ["| file | | bytes | sha256 |", "|---|---|---|---|"]
    lines += [
        f"| `{name}` | {what} | {path.stat().st_size:,} ({readable(path.stat().st_size)}) | `{sha256(path)}` |"
        for name, path, what in rows
    ]
    lines += ["", "```python", "import xmodal", "", f'model = xmodal.load("{kind}", card="{folder}")', "```", ""]
    return "\n".join(lines)
