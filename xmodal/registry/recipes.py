"""Recipes by name, one file each. A base is an experiment, an overlay a few lines over one: ``audiotoken+clap+few``.

A base is called as its file, ``-mini`` behind it where it joins the embedded models. An overlay is called as its file, or by
the end of that name where it fits the base: ``clap`` over ``audiotoken`` is ``audiotoken-clap``. Nothing heavy is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from xmodal.registry.models import PACKAGE, suggest

OVERLAYS, MINIATURE = "overlays", "miniature"
BASE = re.compile(r"^# Base: *(.+)$", re.MULTILINE)
RESOLVER = re.compile(r"\$\{[\w.]+:")
SHARED = re.compile(r"\$\{vars\.([\w.]+)\}")
NUMBER = re.compile(r"^(?:[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)|[-+]?\.[0-9_]+(?:[eE][-+]?[0-9]+)?)$")
CONFIG = "config.yaml"  # in the folder of a run


class NoSuchRecipe(ValueError):
    """A name that is no recipe, or an overlay that does not fit; one sentence, of bad usage."""

    status = 2


def folder() -> Path:
    """Return the folder of recipes: inside an installed package, beside an editable one."""
    for place in (PACKAGE / "recipes", PACKAGE.parent / "recipes"):
        if place.is_dir():
            return place
    raise FileNotFoundError(f"no recipes found beside {PACKAGE}: is the installation complete?")


def bases() -> dict[str, Path]:
    """Return the files of all experiments by name."""
    found = [path for path in sorted(folder().rglob("*.yaml")) if path.parent.name != OVERLAYS]
    return {_plain(path.stem) + ("-mini" if path.parent.name == MINIATURE else ""): path for path in found}


def overlays() -> dict[str, Path]:
    """Return the files of all overlays by name."""
    return {_plain(path.stem): path for path in sorted((folder() / OVERLAYS).glob("*.yaml"))}


def title(path: Path) -> str:
    """Return the first line of a recipe's comment."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def files(words: Iterable[str | Path]) -> list[Path]:
    """Return the files that the values of ``--config`` stand for: names, joined by ``+``, and paths, the base first.

    Raises NoSuchRecipe for what is neither, with the nearest names.
    """
    found: list[Path] = []
    for word in map(str, words):
        for piece in [word] if Path(word).is_file() else word.split("+"):
            found.append(_file(piece, found))
    return found


def name_of(words: Iterable[str | Path]) -> str:
    """Return what an experiment of these values of ``--config`` is called: ``audiotoken+clap``, by the files' names."""
    known = {path: name for name, path in bases().items()}
    known |= {path: _shortest(name, [name]) for name, path in overlays().items()}
    return "+".join(known.get(path, path.stem) for path in files(words))


def fits(overlay: Path, base: Path, document: Mapping[str, Any] | None = None, known: Mapping[str, Path] | None = None) -> bool:
    """Tell whether an overlay goes over a base (whose ``document`` may hold other overlays by now; ``known`` are the `bases`).

    It does where its header names the base (``# Base: NAME, NAME``). Else it must find there what it found in the first of
    those: the same task, the data's class, the class of each part whose options alone it changes, the ``${vars...}``; and
    both are of the embedded models, or neither.
    """
    known = bases() if known is None else known
    named = [known[name] for name in _named_bases(overlay) if name in known]
    if base in named or not named:
        return base in named
    if base in known.values() and (base.parent.name == MINIATURE) != (named[0].parent.name == MINIATURE):
        return False
    own, content = load(named[0]), load(overlay)
    document = load(base) if document is None else document
    shared = {*SHARED.findall(overlay.read_text(encoding="utf-8")), *(content.get("vars") or {})}
    if not shared <= set(document.get("vars") or {}):
        return False
    same = all(_class_at(own, place) == _class_at(document, place) for place in _needed(content, own))
    return same and all(_class_at(document, place) for place in _classless(content))


def fitting(base: Path) -> dict[str, Path]:
    """Return the overlays that fit a base, by the shortest name that each has there."""
    every, known = overlays(), bases()
    found = [name for name, path in every.items() if fits(path, base, known=known)]
    return {_shortest(name, found): every[name] for name in found}


def load(path: Path) -> dict[str, Any]:
    """Return what a recipe holds; raises ValueError that names a file which is no YAML mapping, or reads this machine."""
    return _load(path, path.stat().st_mtime_ns)


@cache
def _load(path: Path, time: int) -> dict[str, Any]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, Loader=_yaml()[0])
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, but expected a recipe: sections model, data, trainer")
    check_resolvers(text, str(path))
    return content


def check_resolvers(text: str, origin: str) -> None:
    """Raise ValueError for ``${oc.env:NAME}`` and the like: what they give would be written into config and checkpoints."""
    found = RESOLVER.search(text)
    if found:
        raise ValueError(
            f"{origin}: {found[0]}...}} would write a value of this machine into configuration, checkpoints and the published "
            "recipe: give it as an option instead; only names of the recipe's own sections, ${vars.NAME}, are resolved"
        )


def merge(under: Any, over: Any, key: str = "") -> Any:
    """Return one recipe over another.

    Where a class takes another's place, it keeps none of the other's options, which mean something else there (a card!); an
    optimizer keeps the learning rate. ``callbacks+: [...]`` adds to a list.
    """
    if isinstance(under, Mapping) and "class_path" in under and isinstance(over, str):
        over = {"class_path": over}
    if not (isinstance(under, Mapping) and isinstance(over, Mapping)):
        return over
    if "class_path" in under and over.get("class_path", under["class_path"]) != under["class_path"]:
        options = under.get("init_args") or {}
        kept = {"lr": options["lr"]} if key == "optimizer" and "lr" in options else {}
        under = {"init_args": kept} if kept else {}
    made = dict(under)
    for name, value in over.items():
        if name.endswith("+"):
            before = made.get(name[:-1]) or []
            more = value if isinstance(value, list) else [value]
            made[name[:-1]] = [*(before if isinstance(before, list) else [before]), *more]
        else:
            made[name] = merge(under.get(name), value, name)
    return made


def dump(document: Mapping[str, Any]) -> str:
    """Return a recipe as text that is read back as it is."""
    import yaml

    return yaml.dump(dict(document), Dumper=_yaml()[1], sort_keys=False, allow_unicode=True, width=float("inf"))


@cache
def _yaml() -> tuple[Any, Any]:
    """YAML's loader and dumper as the command line's: 1e-4 is a number, and a text of that kind is written in quotes."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    for each in (Loader, Dumper):
        each.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+0123456789."))
    return Loader, Dumper


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def _named_bases(overlay: Path) -> list[str]:
    found = BASE.search(overlay.read_text(encoding="utf-8"))
    return [_plain(name.strip()) for name in found[1].split(",")] if found else []


def _file(piece: str, before: Sequence[Path]) -> Path:
    if Path(piece).is_file():
        return Path(piece)
    name = _plain(Path(piece).stem if piece.endswith((".yaml", ".yml")) else piece)
    if piece.endswith((".yaml", ".yml", ".json")) or "/" in piece:
        raise NoSuchRecipe(f"there is no recipe {piece!r}: {_near(name, bases() if not before else overlays())}")
    if before:
        return _overlay(piece, name, before)
    if name in (known := bases()):
        return known[name]
    near = [each for each in known if fits(overlays()[name], known[each])] if name in overlays() else []
    if near:
        raise NoSuchRecipe(f"{piece!r} is an overlay, which stands behind a base: {near[0]}+{piece}")
    raise NoSuchRecipe(f"there is no recipe {piece!r}: {_near(name, known)}")


def _near(name: str, known: Iterable[str]) -> str:
    found = get_close_matches(name, sorted(known), n=2, cutoff=0.5)
    return (f"did you mean {' or '.join(map(repr, found))}? " if found else "") + "`xmodal recipes` lists them all"


def _overlay(piece: str, name: str, before: Sequence[Path]) -> Path:
    known = overlays()
    if name in known:
        return known[name]
    ending = [each for each in known if each.endswith(f"-{name}")]
    document: Any = {}
    for path in before:
        document = merge(document, load(path))
    if good := [each for each in ending if fits(known[each], before[0], document)]:
        return known[min(good, key=len)]
    base = "+".join(name_of([path]) for path in before)
    if ending:
        others = sorted({each for one in ending for each, path in bases().items() if fits(known[one], path)})
        raise NoSuchRecipe(f"the overlay {piece!r} does not fit {base}: it fits {', '.join(others)}")
    raise NoSuchRecipe(f"there is no overlay {piece!r} over {base}: {suggest(name, fitting(before[0]))}")


def _shortest(name: str, fitting: Sequence[str]) -> str:
    """An overlay's name without what its base is called, too: ``clap`` for ``audiotoken-clap``, where that means this one."""
    words, base = name.split("-"), _named_bases(overlays()[name])[0].split("-")
    while len(words) > 1 and base and words[0] == base[0]:
        words, base = words[1:], base[1:]
    end = "-".join(words)
    same = [each for each in fitting if each.endswith(f"-{end}")]
    return end if same and min(same, key=len) == name else name


def _needed(content: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The places whose class an overlay takes for granted: the task, the data, and parts that it names as its base does."""

    def walk(node: Any, place: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if isinstance(node, Mapping):
            if node.get("class_path") and node["class_path"] == _class_at(own, place):
                yield place
            for key, inner in node.items():
                yield from walk(inner, (*place, key))

    yield from walk(content, ())
    for section in ("model", "data"):
        if section in content and "class_path" not in content[section]:
            yield (section,)


def _classless(node: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The places where an overlay gives options to whatever class stands there."""
    if isinstance(node, Mapping):
        if "init_args" in node and "class_path" not in node:
            yield place
        for key, inner in node.items():
            yield from _classless(inner, (*place, key))


def _class_at(document: Any, place: Sequence[str]) -> Any:
    for key in place:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document.get("class_path") if isinstance(document, Mapping) else None
