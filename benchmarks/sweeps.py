"""Guidance and steps of AudioToken, and the size of a mapper's data.  python benchmarks/sweeps.py [--count 128] [--seeds 0 1 2]

The shipped AudioToken paints unseen sounds with several guidance scales and numbers of steps, judged as in audiotoken_table.py.
The regression mapper is trained on some of the pairs of the miniature world and judged on the embeddings of unseen ones (FD in
CLAP's space, and one minus the cosine), means over seeds. Writes benchmarks/results/sweeps.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mapper_ambiguity import embedded, judged
from torch import Tensor
from trial import Panel, featured, in_batches, load_recipe, save, trained, unseen, waveforms

import xmodal
from xmodal.miniature import world

GUIDANCE, STEPS, PAIRS = (1.0, 1.5, 2.0, 3.0, 5.0), (3, 5, 10, 15, 25), (50, 200, 1000, 6000)
COLUMNS = ("AIC_top1", "IIS", "tag_top1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--training-steps", type=int, default=600, help="of each mapper")
    parser.add_argument("--weights", type=Path, default=Path("outputs/v2a_mini"), help="keeps the features, and trained mappers")
    options = parser.parse_args()
    options.weights.mkdir(parents=True, exist_ok=True)

    clips, pipe = unseen(options.count), xmodal.pipeline("audiotoken-mini")
    panel, heard = Panel("audio2image", clips), waveforms(clips)

    def painted(guidance: float, steps: int) -> dict[str, Any]:
        def paint(rows: Tensor, noise: list[torch.Generator]) -> Tensor:
            told = {"guidance_scale": guidance, "num_inference_steps": steps, "candidates": 1}
            images: Tensor = pipe(list(rows), sampling_rate=16_000, generator=noise, output_type="pt", **told).images
            return images

        scores = panel.score(in_batches(paint, heard, 0, 64), ("AIC", "IIS", "tags"), draws=0)
        row = {"guidance": guidance, "steps": steps, **{name: scores[name].value for name in COLUMNS}}
        print(row, flush=True)
        return row

    report: dict[str, Any] = {"world": world.VERSION, "guidance": [painted(each, 15) for each in GUIDANCE]}
    report["steps"] = [painted(2.0, each) for each in STEPS]
    report["data"] = [sized(pairs, options) for pairs in PAIRS]
    report["about"] = (
        f"`benchmarks/sweeps.py`: {options.count} unseen sounds, 15 steps while guidance varies, guidance 2 while steps do, "
        f"one seed; the "
        f"mapper is trained for {options.training_steps} steps, and judged on 1,000 unseen pairs, means over "
        f"{len(options.seeds)} seeds."
    )
    save("sweeps", report)


def sized(pairs: int, options: argparse.Namespace) -> dict[str, Any]:
    """A mapper of so many pairs."""
    recipe = load_recipe("miniature/v2a_regression", steps=options.training_steps)
    features = featured(recipe, options.weights / "features.pt")
    recipe["data"]["init_args"] |= {"train_count": pairs, "batch_size": min(128, pairs)}
    some, clips = {name: rows[:pairs] for name, rows in features.items()}, unseen(1000, seed=4)
    seen, heard = embedded(clips)
    found: dict[str, list[float]] = {}
    for seed in options.seeds:
        task: Any = trained(recipe, some, seed, options.weights / f"regression_{pairs}_{options.training_steps}_{seed}.ckpt")
        with torch.no_grad():
            scores = judged(task.published.sample(seen), heard, clips)
        found.setdefault("FD", []).append(scores["FD"])
        found.setdefault("1 - cosine", []).append(1 - scores["cosine"])
    row = {"pairs": pairs, **{name: float(np.mean(values)) for name, values in found.items()}}
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
