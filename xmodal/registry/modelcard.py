"""The README.md beside a published adapter: what it joins, under which licences, what it was made from, and how good it is.

Its ``record`` holds plain values, all of them optional:

- ``imported``: files that it was made of, each with ``file``, ``bytes``, ``sha256``;
- ``data``: the recipe's section ``data``, or words; ``files``: sha256 by name of the files that it names;
- ``steps``, ``epochs``, ``seed``, ``versions`` (by package) of the training;
- ``validated``: the last losses and scores of the validation, by name;
- ``measured``: name -> a number, or ``value``, ``low``, ``high`` and ``protocol``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmodal.files import is_file
from xmodal.registry.cards import sha256
from xmodal.registry.licences import strictest
from xmodal.registry.recipe import Part, parts

if TYPE_CHECKING:
    from torch import Tensor

PACKAGES = ("xmodal", "torch", "lightning", "diffusers", "transformers")
INPUTS = {"audio": "bell.wav", "image": "dog.png", "video": "dog.mp4", "text": "rain"}
SUFFIXES = {"image": "png", "audio": "wav"}
DATA = (
    "`recipe.yaml` is data: it names classes and their options, and holds no code. Loading it imports classes of xmodal and of "
    "installed plugins alone; any other class is imported with your consent only (`trust=True`, `--trust`)."
)


def versions() -> dict[str, str]:
    """Return the versions of the packages that a training rests on, of those that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def record_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a recipe says of a training's data and seed; of places on this machine the last names alone."""
    data, digests = config.get("data"), {}
    seed = config.get("seed_everything")

    def told(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): told(inner) for key, inner in value.items() if inner is not None}
        if isinstance(value, (list, tuple)):
            return [told(inner) for inner in value]
        if isinstance(value, str) and is_file(value):
            digests[Path(value).name] = sha256(Path(value))
        return Path(value).name if isinstance(value, str) and value.startswith(("/", "~", "..")) else value

    found = {"data": told(data)} if isinstance(data, Mapping) else {}
    found |= {"files": digests} if digests else {}
    return found | ({"seed": seed} if isinstance(seed, int) and not isinstance(seed, bool) else {})


def checked(record: Any) -> dict[str, Any]:
    """Return what of a record from elsewhere is of the kinds that stand above; anything else in it is left out."""
    if not isinstance(record, Mapping):
        return {}
    texts = {name: _table(record.get(name), lambda value: isinstance(value, str)) for name in ("files", "versions")}
    numbers = {name: record[name] for name in ("steps", "epochs", "seed") if _whole(record.get(name))}
    scores = {"validated": _table(record.get("validated"), _number), "measured": _table(record.get("measured"), _scored)}
    imported = record.get("imported")
    imported = [each for each in imported if _imported(each)] if isinstance(imported, list) else []
    data = record.get("data")
    found = {"imported": imported, "data": data if isinstance(data, (str, Mapping)) else None, **texts, **numbers, **scores}
    return {name: value for name, value in found.items() if value not in (None, [], {})}


def _table(node: Any, good: Callable[[Any], bool]) -> dict[str, Any]:
    return {str(name): value for name, value in node.items() if good(value)} if isinstance(node, Mapping) else {}


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _scored(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return _number(value)
    ends = (value.get("low"), value.get("high"))
    return _number(value.get("value")) and (ends == (None, None) or all(map(_number, ends)))


def _imported(each: Any) -> bool:
    return isinstance(each, Mapping) and _whole(each.get("bytes")) and {"file", "sha256"} <= each.keys()


def model_card(name: str, section: Mapping[str, Any], weights: Mapping[str, Tensor], record: Mapping[str, Any]) -> str:
    """Return the card's text (markdown) of an adapter called ``name`` built from a recipe's ``model:`` section."""
    found = parts({"model": section})
    bases = list(dict.fromkeys(part.card.repository for part in found if part.card.repository))
    count = sum(value.numel() for value in weights.values())
    lines = ["---", "library_name: xmodal", "tags: [xmodal, adapter]"]
    lines += [f"base_model: [{', '.join(bases)}]"] if bases else []
    lines += ["---", f"# {name}", ""]
    lines += [f"Adapter of `{section['class_path']}`, {count:,} parameters. The models it joins are frozen and not included.", ""]
    lines += [*_snippet(name, section), "", DATA, ""]
    lines += ["## Parts", "", "| part | class | card | licence | commercial use |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in map(_row, found)]
    lines += ["", f"Strictest terms of these parts, which also bind what the adapter makes: {strictest(found)}.", ""]
    if [*_low_rank(section)]:
        lines += ["Low-rank weights that lie beside it are merged into a part; their terms are those of who published them.", ""]
    lines += [*_made_from(record), "## Measured", ""]
    rows = [*_measured(record)]
    return "\n".join([*lines, *(rows or ["Nothing was recorded when it was saved."])]) + "\n"


def _row(part: Part) -> tuple[str, ...]:
    commercial = "yes" if part.card.commercial else "unknown" if part.card.licence == "unknown" else "no"
    tag = part.card.name.partition(":")[2] or part.card.source
    return part.place.removeprefix("model."), f"`{part.class_path}`", f"`{tag}`", part.card.licence, commercial


def _snippet(name: str, section: Mapping[str, Any]) -> Iterator[str]:
    """The lines that load the adapter and use it once; with what has to be there before."""
    if foreign := list(dict.fromkeys(_foreign(section))):
        modules = ", ".join(f"`{each.rpartition('.')[0]}`" for each in foreign)
        yield f"It uses {', '.join(f'`{each}`' for each in foreign)}: {modules} must be there to import; look at the code first."
        yield ""
    made = _kind(section)
    yield "```python"
    if made is not None:
        yield from ("from pathlib import Path", "")
    yield from ("import xmodal", "")
    yield f'pipe = xmodal.pipeline("{name}"{", trust=True" if foreign else ""})'
    if made is not None:
        token = (section.get("init_args") or {}).get("token")
        given = f"a photo of {token}" if token else INPUTS.get(made.takes[0], "input")
        yield f'pipe("{given}").save(0, Path("result.{SUFFIXES.get(made.makes, "bin")}"))'
    yield "```"


def _foreign(node: Any) -> Iterator[str]:
    """Classes that are not xmodal's, but for those of the training, which nothing imports to use an adapter."""
    if isinstance(node, Mapping):
        path = node.get("class_path")
        if isinstance(path, str) and path.partition(".")[0] != "xmodal":
            yield path
        for key, inner in node.items():
            if key not in ("optimizer", "lr_scheduler"):
                yield from _foreign(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from _foreign(inner)


def _low_rank(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if isinstance(node.get("lora"), str):
            yield node["lora"]
        for inner in node.values():
            yield from _low_rank(inner)


def _kind(section: Mapping[str, Any]) -> Any:
    """The pipeline of one of our own tasks; None for those of others, which are not imported for a card."""
    module, _, task = str(section["class_path"]).rpartition(".")
    if not module.startswith("xmodal."):
        return None
    package = import_module(module)
    named = getattr(package, "PIPELINES", {}).get(task)
    return getattr(package, named) if named else None


def _made_from(record: Mapping[str, Any]) -> Iterator[str]:
    facts = [(name, record[name]) for name in ("steps", "epochs", "seed") if record.get(name) is not None]
    if not (facts or any(record.get(name) for name in ("imported", "data", "files", "versions"))):
        return
    yield from ("## Made from", "")
    if imported := record.get("imported"):
        yield from ("| file | bytes | sha256 |", "|---|---|---|")
        yield from (f"| `{each['file']}` | {each['bytes']:,} | `{each['sha256']}` |" for each in imported)
        yield ""
    if facts:
        yield f"Trained: {', '.join(f'{name} {value}' for name, value in facts)}."
        yield ""
    if data := record.get("data"):
        yield from _data(data)
    for name, digest in (record.get("files") or {}).items():
        yield f"- `{name}`: sha256 `{digest}`"
    if record.get("files"):
        yield ""
    if packages := record.get("versions"):
        yield f"With {', '.join(f'{name} {number}' for name, number in packages.items())}."
        yield ""


def _data(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield from (f"Data: {data}", "")
        return
    import yaml

    yield from ("Data, as in its recipe:", "", "```yaml", *yaml.safe_dump(data, sort_keys=False, allow_unicode=True).splitlines())
    yield from ("```", "")


def _measured(record: Mapping[str, Any]) -> Iterator[str]:
    plain = {name: value for name, value in (record.get("measured") or {}).items() if not isinstance(value, Mapping)}
    scored = {name: value for name, value in (record.get("measured") or {}).items() if isinstance(value, Mapping)}
    if scored:
        yield from ("| score | value | 95 % interval | protocol |", "|---|---|---|---|")
        for name, score in scored.items():
            ends = [score.get("low"), score.get("high")]
            interval = "" if None in ends else f"{ends[0]:.4g} to {ends[1]:.4g}"
            yield f"| {name} | {score['value']:.4g} | {interval} | {score.get('protocol', '')} |"
        yield ""
    yield from (f"- {key}: {value:.4g}" for key, value in plain.items())
    if validated := record.get("validated"):
        yield from ("" if plain or scored else "", "On its validation data, when it was saved:", "")
        yield from (f"- {key}: {value:.4g}" for key, value in validated.items())
