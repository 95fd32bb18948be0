"""Ways of several steps, each of which takes what the one before made: `xmodal generate --to image,audio`, the page's chains."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from xmodal.data.inputs import modality
from xmodal.files import write_beside
from xmodal.routes import MADE_AS, handed_on, route

# Options of a step by what it makes; all others are every step's.
OWN = {
    "image": ("prompt", "negative_prompt", "image", "strength", "position"),
    "audio": ("audio_length_in_s", "query", "spectrogram"),
}
JUDGES = {"image": ("clip:mini", "picture_tagger:mini"), "audio": ("clap:mini", "beats:mini")}


def steps(text: str) -> tuple[str, ...]:
    """``image``, ``audio``, or several with commas between them, no two alike in a row."""
    found = tuple(text.split(","))
    if unknown := [each for each in found if each not in MADE_AS]:
        raise ArgumentTypeError(f"cannot make {unknown[0]!r}: image and audio can be made, or a chain such as image,audio")
    if any(one == two for one, two in zip(found, found[1:], strict=False)):
        raise ArgumentTypeError(f"{text} makes the same twice in a row: there is no way from {found[0]} to {found[0]}")
    return found


def adapters(to: Sequence[str], given: str | None) -> list[str | None]:
    """The adapter of each step; None where it is the built-in one. Raises ValueError for another number of names."""
    several = [] if given is None else given.split(",") if len(to) > 1 else [given]
    names = [name or None for name in several] or [None] * len(to)
    if len(names) != len(to):
        raise ValueError(
            f"{len(names)} adapters for {len(to)} steps: give one for each, with commas; an empty one is the built-in"
        )
    return [name if name or not number else route(to[number], to[number - 1]) for number, name in enumerate(names)]


def chain(
    generate: Callable[..., Iterator[Path]],
    inputs: Sequence[str | Path],
    to: Sequence[str],
    output: str | Path,
    adapter: str | None = None,
    num: int = 1,
    **options: Any,
) -> Iterator[Path]:
    """Chains of `xmodal.commands.generate.generate`: step 1 in OUTPUT/1-image, step 2 in OUTPUT/2-audio, and so on.

    ``num`` results are made of each input in the first step, and one of each of those later. Options of pictures or of sounds
    are those of the steps that make them, candidates of those whose pipelines have them.
    """
    names = adapters(to, adapter)

    def make(number: int, kind: str, given: list[Any]) -> Iterator[Path]:
        others = {name for each, own in OWN.items() if each != kind for name in own}
        mine = {name: value for name, value in options.items() if name not in others}
        if options.get("candidates") is not None:
            mine["lenient"] = ("candidates",)
        folder = Path(output) / f"{number + 1}-{kind}"
        yield from generate(given, kind, folder, names[number], num if number == 0 else 1, **mine)

    yield from handed_on(make, inputs, to)


def scores(inputs: Sequence[str | Path], results: Sequence[Path]) -> list[dict[str, Any]]:
    """How near each result of a cycle is to the input that it came from.

    ``cosine`` is that of CLIP's embeddings for pictures, of CLAP's for sounds; ``input_is`` and ``result_is`` are the tagger's
    names. The judges are the miniature's: of other data they know nothing. Raises ValueError where an end is no file, or not of
    the other's kind.
    """
    from xmodal.data.inputs import read
    from xmodal.evaluation.items import Item
    from xmodal.evaluation.judges import Extractor

    if not results:
        return []
    kind = "image" if results[0].suffix == MADE_AS["image"] else "audio"
    sources = {each.stem: Path(each.content) for each in read(inputs, (kind,))}
    pairs = [(_source(result.stem, sources), result) for result in results]
    near, tagger = (Extractor(name, kind) for name in JUDGES[kind])
    sides = [[Item(str(number), path) for number, path in enumerate(side)] for side in zip(*pairs, strict=True)]
    rows, named = ([judge(side) for side in sides] for judge in (near, tagger))
    found: list[dict[str, Any]] = []
    for number, (source, result) in enumerate(pairs):
        key = str(number)
        if any(key not in each.rows for each in (*rows, *named)):
            why = next(each.lacking[key] for each in (*rows, *named) if key in each.lacking)
            found.append({"input": str(source), "result": str(result), "left_out": why})
            continue
        one, two = (each.rows[key].double() for each in rows)
        first, last = (tagger.labels[int(each.logits[key][: len(tagger.things)].argmax())] for each in named)
        found.append(
            {
                "input": str(source),
                "result": str(result),
                "cosine": float(one @ two / (one.norm() * two.norm())),
                "input_is": first,
                "result_is": last,
            }
        )
    return found


def write_scores(found: Sequence[dict[str, Any]], folder: Path) -> list[str]:
    """Write ``scores.json`` and return a line for each result, and their mean."""
    import json

    write_beside(folder / "scores.json", lambda path: Path(path).write_text(json.dumps(list(found), indent=2) + "\n", "utf-8"))
    judged = [each for each in found if "cosine" in each]
    lines = [
        f"{each['result']}: cosine {each['cosine']:.3f} to {each['input']}, {each['input_is']} became {each['result_is']}"
        if "cosine" in each
        else f"{each['result']}: left out, {each['left_out']}"
        for each in found
    ]
    if len(judged) > 1:
        same = sum(each["input_is"] == each["result_is"] for each in judged)
        mean = sum(each["cosine"] for each in judged) / len(judged)
        lines.append(f"mean cosine {mean:.3f}; {same} of {len(judged)} keep their name")
    return lines


def closes(inputs: Sequence[str], to: Sequence[str]) -> bool:
    """Whether the way ends with the modality that all inputs have; folders are not looked into."""
    return len(to) > 1 and all(Path(each).is_dir() or modality(each) == to[-1] for each in inputs)


def _source(stem: str, sources: dict[str, Path]) -> Path:
    """The input of a result, whose number may stand behind its name."""
    return sources[stem] if stem in sources else sources[stem.rpartition("-")[0]]
