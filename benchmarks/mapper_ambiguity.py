"""When is a mapper that draws better than one that regresses?  python benchmarks/mapper_ambiguity.py [--seeds 0 1 2]

The paper finds the diffusion mapper ahead in FD and the regression mapper in the CLIP-score. The reason would be that one picture
has many sounds: their mean is the best guess, and like none of them. In the miniature world a picture tells thing, size and
count, which is nearly all that a sound has. So both mappers are trained twice, with the settings of recipes/miniature/v2a_*.yaml:

    as seen      on the pictures' CLIP embeddings
    thing only   with size and count taken away: each embedding is replaced by the mean of its thing's

and asked for unseen pictures. FD is between the mapped embeddings and CLAP's of the real sounds, "cosine" of the mapped embedding
and that of the picture's own sound, "spread" the mean distance from the mean of its thing's, over that of real sounds: 0 means
one sound for each thing. --sounds makes sounds of them (seed by seed, the first --count pictures) for FD and CLIP-score (CS) as
in benchmarks/v2a_mini.py. Intervals: 95 %, Student's t over the seeds. Writes benchmarks/results/mapper_ambiguity.json.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from trial import (
    Panel,
    featured,
    load_recipe,
    over_seeds,
    pixels,
    save,
    spoken_score,
    streams,
    things,
    trained,
    unseen,
    waveforms,
)
from v2a_mini import MAPPERS, Voice, spread

from xmodal.foundation.clap import AudioTower
from xmodal.foundation.clip import ImageTower
from xmodal.metrics.frechet import frechet_from_samples
from xmodal.miniature import world

KINDS = ("as seen", "thing only")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--embeddings", type=int, default=2000, help="unseen pictures that are mapped")
    parser.add_argument("--sounds", action="store_true", help="make sounds, too")
    parser.add_argument("--count", type=int, default=256, help="of which so many become sounds")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--guidance", type=float, default=2.5)
    parser.add_argument("--weights", type=Path, default=Path("outputs/v2a_mini"), help="keeps the trained mappers")
    options = parser.parse_args()
    options.weights.mkdir(parents=True, exist_ok=True)

    recipes = {kind: load_recipe(f"miniature/v2a_{kind}") for kind in MAPPERS}
    features = featured(recipes["regression"], options.weights / "features.pt")
    clips = unseen(options.embeddings)
    seen, heard = embedded(clips)
    known = things([world.sample("train", index) for index in range(len(features["image_embedding"]))])
    centres = F.normalize(
        torch.stack([F.normalize(features["image_embedding"][known == each].float(), dim=-1).mean(0) for each in range(18)]),
        dim=-1,
    )
    given = {"as seen": (features, seen), "thing only": ({**features, "image_embedding": centres[known]}, centres[things(clips)])}

    chosen = clips[: options.count]
    panel, voice = (Panel("vision2audio", chosen), Voice(options.guidance, options.steps)) if options.sounds else (None, None)
    rows: dict[str, dict[str, list[float]]] = {}
    for seed in options.seeds:
        for what, (train, test) in given.items():
            for mapper in MAPPERS:
                name = f"{mapper}_{seed}" if what == "as seen" else f"{mapper}_thing_{seed}"
                task: Any = trained(recipes[mapper], train, seed, options.weights / f"{name}.ckpt")
                with torch.no_grad():
                    mapped = task.published.sample(test, generator=streams(len(test), 1 + seed))
                values = judged(mapped, heard, clips)
                if panel is not None and voice is not None:
                    scores = panel.score(voice(mapped[: options.count]), ("FD", "CS"))
                    values |= {"FD of sounds": scores["FD"].value, "CS of sounds": scores["CS"].value}
                for key, value in values.items():
                    rows.setdefault(f"{what}, {mapper}", {}).setdefault(key, []).append(value)
                print(f"seed {seed}  {what}, {mapper:<11}" + "  ".join(f"{k} {v:.4f}" for k, v in values.items()), flush=True)
                write(rows, options)
    report(rows)
    write(rows, options)


@torch.no_grad()
def embedded(clips: list[world.Clip]) -> tuple[Tensor, Tensor]:
    """CLIP's embeddings of the pictures and CLAP's of the sounds (N, d)."""
    eye, ear = ImageTower(), AudioTower()
    parts = [clips[start : start + 100] for start in range(0, len(clips), 100)]
    return torch.cat([eye.embed(pixels(part)) for part in parts]), torch.cat([ear.embed(waveforms(part)) for part in parts])


def judged(mapped: Tensor, heard: Tensor, clips: list[world.Clip]) -> dict[str, float]:
    """Mapped embeddings beside those of the real sounds."""
    made, real = F.normalize(mapped, dim=-1), F.normalize(heard, dim=-1)
    return {
        "FD": float(frechet_from_samples(real.double(), made.double())),
        "cosine": float((made * real).sum(-1).mean()),
        "spread": spread(made, clips) / spread(real, clips),
    }


def report(rows: dict[str, dict[str, list[float]]]) -> None:
    """Means over the seeds, and the difference of both mappers, paired by seed."""
    for what in KINDS:
        for key in rows[f"{what}, diffusion"]:
            drawn, guessed = rows[f"{what}, diffusion"][key], rows[f"{what}, regression"][key]
            gap = over_seeds([a - b for a, b in zip(drawn, guessed, strict=True)])
            each = f"diffusion {spoken_score(over_seeds(drawn), 4)}, regression {spoken_score(over_seeds(guessed), 4)}"
            print(f"{what:<11} {key:<12} {each}, difference {spoken_score(gap, 4)}")


def write(rows: dict[str, dict[str, list[float]]], options: argparse.Namespace) -> None:
    """After every row, so that a run that was stopped leaves what it found."""
    means = {name: {key: asdict(over_seeds(values)) for key, values in each.items()} for name, each in rows.items()}
    settings = {"world": world.VERSION, **{k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}}
    save("mapper_ambiguity", {**settings, "rows": rows, "over seeds": means})


if __name__ == "__main__":
    main()
