"""What is there, by name: foundation models and their cards. Listing imports none of them.

A file of ``xmodal/foundation`` with ``CARDS`` is a model and its name is the model's name. Other packages add models through the
entry-point group ``xmodal.foundation``; a name that is taken already is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from xmodal.registry.cards import HUB_ID, PICKLED, Card, find_card, readable
from xmodal.registry.catalogue import Listing, frozen_classes, read

PACKAGE = Path(__file__).parent.parent
GROUP = "xmodal.foundation"
HAS_CARDS = re.compile(r"^CARDS\b", re.MULTILINE)
COLUMNS = ("model", "card", "dim", "takes", "licence", "bytes", "here")


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
    return frozen_classes(module)


def listing(name: str) -> Listing:
    """Return cards and towers of a model, read without importing it; raises ValueError with the nearest names."""
    homes = _homes()
    if name not in homes:
        raise ValueError(f"there is no foundation model {name!r}: {suggest(name, homes)}")
    return read(name, homes[name])


def model_of(module: str) -> str | None:
    """Return the name of the model whose file is the module of this name, or None."""
    return next((name for name, home in _homes().items() if home == module), None)


def card(model: str, tag: str | None = None) -> Card:
    """Return a model's card by name (default: the first), or one for a path, a hub id or a scheme such as ``hf-hub:owner/name``.

    Raises ValueError for a name that is none of these.
    """
    cards = listing(model).cards
    tag = tag if tag is not None else next(iter(cards), "")
    if tag in cards or Path(tag).exists():
        return find_card(cards, tag, model)
    if re.fullmatch(r"[\w-]+:.+", tag) or (HUB_ID.fullmatch(tag) and not tag.endswith(PICKLED)):
        files = next((each.files for each in cards.values() if each.repository), {})
        return Card(tag, files, "unknown", False, f"https://huggingface.co/{tag}", 0, name=f"{model}:{tag}")
    return find_card(cards, tag, model)


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
    if card is None:
        import inspect  # here, since listing must be quick

        default = inspect.signature(kind).parameters.get("card")
        return (
            kind(**options)
            if default and default.default is not default.empty
            else kind(card=next(iter(module.CARDS)), **options)
        )
    return kind(card=card, **options)


def records(names: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """Return every card (of these models) as plain values, with its model, towers and place; imports no model."""
    rows = []
    for name in available() if names is None else names:
        found = listing(name)
        for tag in found.cards:
            one = card(name, tag)
            place = one.find()
            values = {key: value for key, value in vars(one).items() if key not in ("name", "options", "files", "url")}
            here = {"files": list(one.files), "weights": str(place) if place else None, "repository": one.repository}
            rows.append({"model": name, "card": tag, "towers": list(found.towers), **values, **here})
    return rows


def table() -> list[tuple[str, ...]]:
    """Return one row of ``COLUMNS`` for each card; imports no model's file."""
    return [row(record) for record in records()]


def suggest(name: str, known: Iterable[str]) -> str:
    """Return "did you mean X?" or the list of what is known."""
    known = sorted(known)
    close = get_close_matches(name, known, n=2, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else f"known are {', '.join(known) or 'none'}"


@cache
def _homes() -> dict[str, str]:
    """Module path by model name."""
    files = (path for path in (PACKAGE / "foundation").glob("*.py") if HAS_CARDS.search(path.read_text(encoding="utf-8")))
    homes = {path.stem: f"{GROUP}.{path.stem}" for path in files}
    for entry in entry_points(group=GROUP):
        if homes.get(entry.name, entry.value) != entry.value:
            raise ValueError(f"the foundation model {entry.name!r} of {entry.value} is already provided by {homes[entry.name]}")
        homes[entry.name] = entry.value
    return homes


def row(record: dict[str, Any]) -> tuple[str, ...]:
    """Return one of the `records` as the texts of ``COLUMNS``; a licence with ``*`` forbids commercial use, or is unknown."""
    takes = []
    if record["sample_rate"]:
        takes.append(f"{record['sample_rate'] / 1000:g} kHz")
    if record["image_size"]:
        takes.append(f"{record['image_size']} px")
    here = "-" if not record["weights"] else "ships" if record["source"].startswith("package:") else "yes"
    return (
        record["model"],
        record["card"],
        str(record["dim"] or "-"),
        " ".join(takes) or "-",
        record["licence"] + " *" * (not record["commercial"]),
        readable(record["size"]) if record["size"] else "-",
        here,
    )
