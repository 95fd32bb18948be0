"""`xmodal import`: a published checkpoint becomes a folder that ``card`` takes, with a note of where it came from."""

from __future__ import annotations

import shutil
from pathlib import Path

from xmodal.registry import models as registry
from xmodal.registry.cards import readable, sha256

NOTE = "README.md"


def kinds() -> list[str]:
    """Return the models whose file can import checkpoints; imports none of them."""
    return [name for name in registry.available() if "import_checkpoint" in registry.listing(name).functions]


def import_weights(kind: str, file: Path, folder: Path) -> Path:
    """Convert a checkpoint and write README.md with the sha256 of what was read and written; returns the folder.

    Nothing in the file is executed. Raises ValueError for an unknown kind, a file that does not fit or a folder that
    holds something already, FileNotFoundError where there is no such file; then the folder is not left half-written.
    """
    if kind not in kinds():
        raise ValueError(f"weights of {kind!r} cannot be imported: {registry.suggest(kind, kinds())}")
    if not file.is_file():
        what = "is a folder, not a file" if file.is_dir() else "does not exist"
        raise FileNotFoundError(f"{file} {what}: give the checkpoint as its publisher offers it ({_origins(kind)})")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder: name another one with -o, or remove it first")
    existed = folder.exists()
    try:
        registry.resolve(kind).import_checkpoint(file, folder)
        (folder / NOTE).write_text(_note(kind, file, folder), encoding="utf-8")
    except BaseException:
        for path in folder.iterdir() if folder.is_dir() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if folder.is_dir() and not existed:
            folder.rmdir()
        raise
    return folder


def _origins(kind: str) -> str:
    cards = registry.listing(kind).cards.values()
    return ", ".join(dict.fromkeys(card.origin for card in cards if not card.shipped)) or "its documentation"


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
