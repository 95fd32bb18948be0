"""What is left of a sound that went through a picture, and back?  python benchmarks/any_to_any.py [--count 32] [--steps 15]

For unseen clips of the miniature world, `xmodal generate` makes pictures of sounds and sounds of these pictures, and the other
way round. "named": of how many results the tagger says the clip's thing (18 things; pictures by picture_tagger:mini, sounds by
beats:mini, whose answers to the clips' own files are the ceiling). "cycle": the mean cosine of result and input in the
embeddings of clip:mini or clap:mini, and in brackets that of results and the inputs of other things.

Writes benchmarks/results/any_to_any.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from trial import save

from xmodal.commands.chaining import JUDGES, chain
from xmodal.commands.generate import generate
from xmodal.evaluation.items import Item
from xmodal.evaluation.judges import Extractor
from xmodal.metrics.features import normalized
from xmodal.miniature import world
from xmodal.miniature.render import render

SEED = 3


def named(judge: Extractor, files: list[Path], things: list[str]) -> int:
    """How many files the tagger names as their clip's thing."""
    logits = judge([Item(str(number), path) for number, path in enumerate(files)]).logits
    classes = len(judge.things)
    found = [
        judge.labels[int(logits[str(number)][:classes].argmax())] if str(number) in logits else "" for number in range(len(files))
    ]
    return sum(one == two for one, two in zip(found, things, strict=True))


def cycle(judge: Extractor, results: list[Path], inputs: list[Path], things: list[str]) -> tuple[float, float]:
    """Mean cosine of results and their inputs, and of results and inputs of other things."""
    both = []
    for files in (results, inputs):
        rows = judge([Item(str(number), path) for number, path in enumerate(files)]).rows
        both.append(normalized(torch.stack([rows[str(number)] for number in range(len(files))]).double()))
    cosines = both[0] @ both[1].T
    other = torch.tensor([[one != two for two in things] for one in things])
    return float(cosines.diagonal().mean()), float(cosines[other].mean())


def main() -> None:
    """Make, judge, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--steps", type=int, default=15)
    options = parser.parse_args()
    began = time.perf_counter()
    taggers = {kind: Extractor(names[1], kind) for kind, names in JUDGES.items()}
    nearness = {kind: Extractor(names[0], kind) for kind, names in JUDGES.items()}
    table: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = render(Path(place) / "clips", "test", options.count, SEED).parent
        files = {"image": sorted(folder.glob("*.png")), "audio": sorted(folder.glob("*.wav"))}
        things = [path.stem.split("_", 1)[1] for path in files["image"]]
        for kind, real in files.items():
            table[f"the clips' own, {kind}"] = {"adapter": "-", "named": named(taggers[kind], real, things)}

        for first, second, adapters in (
            ("audio", "image", ("audiotoken-mini", "v2a-mini")),
            ("image", "audio", ("v2a-mini", "audiotoken-mini")),
        ):
            out = Path(place) / first
            made = list(
                chain(generate, files[first], (second, first), out, ",".join(adapters), steps=options.steps, candidates=1)
            )
            steps = [sorted(path for path in made if path.parent.name[0] == step) for step in "12"]
            table[f"{first} to {second}"] = {"adapter": adapters[0], "named": named(taggers[second], steps[0], things)}
            row = {"adapter": ", ".join(adapters), "named": named(taggers[first], steps[1], things)}
            near, others = cycle(nearness[first], steps[1], files[first], things)
            table[f"{first} to {second} to {first}"] = {**row, "cycle": near, "others": others}
    seconds = time.perf_counter() - began
    print(f"{options.count} clips, {options.steps} steps, {seconds:.0f} s; chance is 1 of {len(world.THINGS)}")
    for way, row in table.items():
        near = f"   cycle {row['cycle']:.3f} ({row['others']:.3f})" if "cycle" in row else ""
        print(f"{way:<26}{row['adapter']:<28}named {row['named']:>3} of {options.count}{near}")
    save("any_to_any", {"count": options.count, "steps": options.steps, "seconds": seconds, "ways": table})


if __name__ == "__main__":
    main()
