"""What a recipe is made of: its frozen models and their cards, found by reading, before anything is imported or built.

A recipe from elsewhere, one that came with an adapter, is read by `parse`, which takes plain data alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from xmodal.registry import models as registry
from xmodal.registry.cards import Card
from xmodal.registry.recipes import check_resolvers, dump, files, load, merge

LIMIT = 1 << 18  # characters of a recipe from elsewhere
DEEPEST = 64  # levels of one
CLASS = re.compile(r"[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Part:
    """One frozen model of a recipe: where it stands there, its class and its card.

    ``downloads`` says whether it may fetch its weights by itself, ``problem`` why there is no such card.
    """

    place: str
    class_path: str
    card: Card
    downloads: bool = False
    problem: str = ""

    @property
    def name(self) -> str:
        """``MODEL:CARD``, as `xmodal pull` takes it; a path as it is."""
        return self.card.name or self.card.source


def read(words: Sequence[str | Path], overrides: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """Return the recipe that names and paths make, a later one over the ones before, and then options ``(key, value)``.

    Raises what `xmodal.registry.recipes.files` and `load` do.
    """
    import yaml

    document: dict[str, Any] = {}
    for path in files(words):
        document = merge(document, load(path))
    for key, value in overrides:
        check_resolvers(value, f"--{key}")
        try:
            document = merge(document, _nest(document, key.split("."), yaml.safe_load(value)))
        except yaml.YAMLError:
            continue
    return document


def parse(text: str, origin: str) -> dict[str, Any]:
    """Return the section ``model`` of a recipe from elsewhere; errors as of `parse_document`."""
    return parse_document(text, origin)["model"]


def parse_document(text: str, origin: str) -> dict[str, Any]:
    """Return a recipe from elsewhere, which is plain data, by its sections; one that is a section ``model`` alone becomes that.

    Raises ValueError for what is more than that (anchors, aliases, tags, ``${...}``), too large or too deep.
    """
    import yaml

    if len(text) > LIMIT:
        raise ValueError(f"{origin}: the recipe has {len(text)} characters, but at most {LIMIT} are read")
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if reason := _more_than_data(event, depth):
                raise ValueError(f"{origin}: line {event.start_mark.line + 1} of the recipe {reason}, but it must be plain data")
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{origin}: the recipe is not YAML: {' '.join(str(error).split())[:200]}") from error
    document = content if isinstance(content, dict) and "model" in content else {"model": content}
    section = document["model"]
    if not isinstance(section, dict) or not isinstance(section.get("class_path"), str):
        raise ValueError(f"{origin}: the recipe names no class in its section model")
    return document


def _more_than_data(event: Any, depth: int) -> str:
    import yaml

    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
        return "has an anchor or an alias"
    if getattr(event, "tag", None):
        return f"has the tag {str(event.tag)[:40]}"
    if isinstance(event, yaml.ScalarEvent) and "${" in event.value:
        return "has an interpolation"
    return f"is nested in more than {DEEPEST} levels" if depth > DEEPEST else ""


def parts(document: Mapping[str, Any]) -> list[Part]:
    """Return the frozen models that a recipe names, in its order; those without weights are left out."""
    return list(_walk(document, "", document.get("vars") or {}))


def of_command(arguments: Sequence[str]) -> list[Part]:
    """Return the parts of a command line of `xmodal fit`: ``--config FILE`` any number of times, and ``--key value``."""
    return parts(document_of(arguments))


def document_of(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the recipe of such a command line."""
    words, overrides, _ = _split(arguments)
    return read(words, overrides)


def recipes_of(arguments: Sequence[str]) -> list[str]:
    """Return the values of ``--config`` of a command line, in their order."""
    return _split(arguments)[0]


def in_one(arguments: Sequence[str]) -> list[str]:
    """Return a command line with the text of one recipe in place of all the names and files that its ``--config`` give.

    A class that an option puts in the place of another stands in that text already, without the other's options.
    """
    words, overrides, others = _split(arguments)
    if not words:
        return [*arguments]
    document: Any = read(words)
    for key, value in overrides:
        keys = key.removesuffix(".class_path").split(".")
        there = _at(document, keys)
        if there and CLASS.fullmatch(value) and value not in (there, there.rpartition(".")[2]):
            # Of a short name the command line finds the class.
            document = _put(document, keys, {"class_path": value if "." in value else there})
    first = [word for word in others[:1] if not word.startswith("-")]  # a subcommand
    return [*first, "--config", dump(document), *others[len(first) :]]


def _at(node: Any, keys: Sequence[str]) -> str | None:
    """The class at the place that an option names; None where there is none."""
    for step in keys:
        node = node.get("init_args", node) if isinstance(node, Mapping) and "class_path" in node else node
        node = node.get(step) if isinstance(node, Mapping) else None
    return node.get("class_path") if isinstance(node, Mapping) else None


def _put(node: Any, keys: Sequence[str], value: Any, key: str = "") -> Any:
    if not keys:
        return merge({**node, "class_path": "the former"}, value, key)
    if "class_path" in node:
        return {**node, "init_args": _put(node["init_args"], keys, value)}
    return {**node, keys[0]: _put(node[keys[0]], keys[1:], value, keys[0])}


def _split(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str]], list[str]]:
    """The values of ``--config``, the options with a dot in their name, and all words but those of ``--config``."""
    configs: list[str] = []
    overrides: list[tuple[str, str]] = []
    others: list[str] = []
    words = iter(arguments)
    for word in words:
        key, given, value = word.lstrip("-").partition("=")
        named = word.startswith("-") and (key in ("config", "c") or "." in key)
        if named and not given:
            value = next(words, "")
        if named and key in ("config", "c"):
            configs.append(value)
            continue
        if named:
            overrides.append((key, value))
        others += [word, value] if named and not given else [word]
    return configs, overrides, others


def in_training(arguments: Sequence[str]) -> Callable[[Part], bool]:
    """Return what tells whether a training builds a part for certain.

    It does not build what the task's constructor takes as ``Callable[[], ...]``: that is made when it is first needed. To
    know those, the task's module is imported, at the first part that is asked about.
    """

    @cache
    def late() -> frozenset[str]:
        from xmodal.registry.build import late_parts

        section = document_of(arguments).get("model")
        return late_parts(section.get("class_path")) if isinstance(section, Mapping) else frozenset()

    return lambda part: part.place.removeprefix("model.").partition(".")[0] not in late()


def check_weights(found: Sequence[Part], built: Callable[[Part], bool] | None = None) -> None:
    """Raise ValueError for the first part without a card, FileNotFoundError for one whose weights are not all on this machine.

    ``built`` tells whether this command builds a part for certain; others are not asked for. Only parts that lack weights
    are shown to it.
    """
    for part in found:
        if part.problem:
            raise ValueError(f"{part.place}: {part.problem}")
        scheme = ":" in part.card.source.removeprefix("package:").removeprefix("recipe:")
        if part.card.find() is None and not part.downloads and not scheme and (built is None or built(part)):
            raise FileNotFoundError(f"{part.place}: {part.card.missing()}")


def _nest(node: Any, keys: Sequence[str], value: Any) -> Any:
    """Return ``value`` under ``keys``, with the class's ``init_args`` where the key leaves them out."""
    if not keys:
        return {"class_path": value} if isinstance(node, Mapping) and "class_path" in node and isinstance(value, str) else value
    step, *rest = keys
    inner = node.get(step) if isinstance(node, Mapping) else None
    if isinstance(node, Mapping) and "class_path" in node and step not in ("class_path", "init_args", "dict_kwargs"):
        return {"init_args": _nest(node.get("init_args") or {}, keys, value)}
    return {step: _nest(inner, rest, value)}


def _walk(node: Any, place: str, values: Any) -> Iterator[Part]:
    if isinstance(node, Mapping):
        class_path = node.get("class_path")
        if isinstance(class_path, str):
            yield from _part(class_path, node.get("init_args") or {}, place, values)
        for key, inner in node.items():
            name = place if key == "init_args" else f"{place}.{key}".lstrip(".")
            yield from _walk(inner, name, values)
    elif isinstance(node, list):
        for index, inner in enumerate(node):
            yield from _walk(inner, f"{place}[{index}]", values)


def _part(class_path: str, options: Mapping[str, Any], place: str, values: Any) -> Iterator[Part]:
    module, _, kind = class_path.rpartition(".")
    model = registry.model_of(module)
    tower = registry.listing(model).towers.get(kind) if model else None
    if model is None or tower is None:
        return
    tag = _resolve(options.get("card"), values) or tower.card
    weightless = tag == tower.card and tag not in registry.listing(model).cards
    if not isinstance(tag, str) or weightless or "${" in tag:
        return
    try:
        yield Part(place, class_path, registry.card(model, tag), options.get("local_files_only") is False)
    except ValueError as error:
        unknown = Card(tag, {}, "unknown", False, tag, 0)
        yield Part(place, class_path, unknown, problem=str(error))


def _resolve(value: Any, values: Any) -> Any:
    """Return what ``${vars.name}`` stands for; what is more than that is left as it is."""
    if isinstance(value, str) and value.startswith("${vars.") and value.endswith("}"):
        for key in value[len("${vars.") : -1].split("."):
            values = values.get(key) if isinstance(values, Mapping) else None
        return value if values is None else values
    return value
