"""What is there, by name: foundation models, adapters, recipes. Listing imports none of them.

A file of ``xmodal/foundation`` is a model and its name is the model's name. Other packages add models through the
entry-point group ``xmodal.foundation``; a name that is taken already is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xmodal.foundation.card import Card

PACKAGE = Path(__file__).parent
GROUP = "xmodal.foundation"
COLUMNS = ("model", "card", "towers", "licence", "commercial", "parameters", "dim", "weights")
NOT_MODELS = {"__init__", "base", "card", "checkpoint"}


def available() -> list[str]:
    """Return the sorted names of all foundation models; imports none of them and no torch."""
    return sorted(_homes())


def resolve(name: str) -> ModuleType:
    """Import the model's file; raises ValueError with the nearest names where there is none."""
    homes = _homes()
    if name not in homes:
        raise ValueError(f"there is no foundation model {name!r}: {suggest(name, homes)}")
    return import_module(homes[name])


def towers(module: ModuleType) -> dict[str, type]:
    """Return the frozen classes that a model's file defines itself, in the order of the file, by class name."""
    from xmodal.frozen import Frozen

    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, Frozen) and value.__module__ == module.__name__ and name[0] != "_"
    }


def load(name: str, card: str | None = None, tower: str | None = None, **options: Any) -> Any:
    """Build a frozen model: ``load("clip", tower="ImageTower", card="vit-b-32")``.

    ``card`` names published weights or a local path (default: the file's first card), ``tower`` a class of the file;
    it may be left out where there is one. Raises ValueError for unknown names, with the nearest ones.
    """
    module = resolve(name)
    classes = towers(module)
    if tower is None and len(classes) != 1:
        raise ValueError(f"{name} has several towers, so name one: tower={' | '.join(classes)}")
    if tower is not None and tower not in classes:
        raise ValueError(f"{name} has no tower {tower!r}: {suggest(tower, classes)}")
    kind = classes[tower] if tower else next(iter(classes.values()))
    return kind(card=card or next(iter(module.CARDS)), **options)


def table() -> list[tuple[str, ...]]:
    """Return one row of ``COLUMNS`` for each card; imports the models' files but builds nothing."""
    rows = []
    for name in available():
        module = resolve(name)
        kinds = ",".join(towers(module))
        rows += [_row(name, tag, kinds, card) for tag, card in getattr(module, "CARDS", {}).items()]
    return rows


def adapters() -> dict[str, Path]:
    """Return the built-in adapters' folders by name."""
    folder = PACKAGE / "miniature" / "weights" / "adapters"
    return {path.parent.name: path.parent for path in sorted(folder.glob("*/adapter.safetensors"))}


def recipes() -> Iterator[tuple[str, str]]:
    """Yield the path of each recipe and the first line of its comment."""
    root = recipes_folder()
    for path in sorted(root.rglob("*.yaml")):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        yield _shorten(path), first.removeprefix("#").strip() if first.startswith("#") else ""


def recipes_folder() -> Path:
    """Return the folder of recipes: inside an installed package, beside an editable one."""
    for folder in (PACKAGE / "recipes", PACKAGE.parent / "recipes"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no recipes found beside {PACKAGE}: is the installation complete?")


def suggest(name: str, known: Iterable[str]) -> str:
    """Return "did you mean X?" or the list of what is known."""
    known = sorted(known)
    close = get_close_matches(name, known, n=2, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else f"known are {', '.join(known) or 'none'}"


@cache
def _homes() -> dict[str, str]:
    """Module path by model name."""
    files = (path.stem for path in (PACKAGE / "foundation").glob("*.py"))
    homes = {name: f"{GROUP}.{name}" for name in files if name not in NOT_MODELS}
    for entry in entry_points(group=GROUP):
        if homes.get(entry.name, entry.value) != entry.value:
            raise ValueError(f"the foundation model {entry.name!r} of {entry.value} is already provided by {homes[entry.name]}")
        homes[entry.name] = entry.value
    return homes


def _row(name: str, tag: str, kinds: str, card: Card) -> tuple[str, ...]:
    try:
        card.folder()
        weights = "here"
    except FileNotFoundError:
        weights = card.origin
    size = f"{card.parameters / 1e6:.1f} M" if card.parameters else "-"
    return name, tag, kinds, card.licence, "yes" if card.commercial else "no", size, str(card.dim or "-"), weights


def _shorten(path: Path) -> str:
    """Return the path from the working folder where it lies below it, else the whole path."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
