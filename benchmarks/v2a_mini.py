"""Does a picture become its sound?  python benchmarks/v2a_mini.py [--seeds 0 1 2] [--count 256]

For unseen pictures of the miniature world, V2A-Mapper makes sounds with the mappers of recipes/miniature/v2a_regression.yaml and
v2a_diffusion.yaml, trained here once for each seed, and with two ablation floors. "best of 3": of three sounds CLAP keeps the one
that is nearest to the mapper's embedding. The tagger, which was trained on rendered sounds, says what it hears (chance: 1 in 18).

Ceilings: what is left of the real sounds after AudioLDM's autoencoder and vocoder; AudioLDM under CLAP's embeddings of the very
sounds, and of sentences about them. Floors: the picture's CLIP vector as if it were of CLAP; sounds of other pictures.

FD is in CLAP's space, FAD in the tagger's. CS, the CLIP-score, compares picture and sound through sentences about the labels,
since the miniature CLIP hears nothing. "spread" is the mean distance of an embedding from the mean of its thing's, over that of
real sounds: 1 means as varied as they are, 0 one sound for each thing. "readable" is how often a small classifier, fitted to
embeddings of sounds, finds the thing in the embedding: no sound can do much better.

Intervals: 95 %, bootstrap over clips for one row, Student's t over the seeds. Writes benchmarks/results/v2a_mini.json.
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
    Reader,
    featured,
    in_batches,
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

import xmodal
from xmodal.foundation.clap import AudioTower, TextTower
from xmodal.foundation.clip import ImageTower
from xmodal.foundation.vocoder import GriffinLim, HifiGan
from xmodal.miniature import world
from xmodal.miniature.data import heard_caption
from xmodal.miniature.training.sounds import to_mel
from xmodal.vision2audio import LinearMapper, MeanShift

METRICS = ("tags", "FD", "FAD", "CS", "KL")
COLUMNS = ("tag_top1", "FD", "FAD", "CS", "KL")
MAPPERS = ("regression", "diffusion")


class Voice:
    """The embedded AudioLDM with fixed settings; of several ``candidates`` CLAP keeps the nearest to the embedding."""

    def __init__(self, guidance_scale: float, steps: int) -> None:
        self.pipe = xmodal.pipeline("v2a-regression-mini")
        self.model, self.guidance_scale, self.steps = self.pipe.generator, guidance_scale, steps

    def __call__(self, embeddings: Tensor, candidates: int = 1) -> Tensor:
        def make(rows: Tensor, noise: list[torch.Generator]) -> Tensor:
            options = {"guidance_scale": self.guidance_scale, "generator": noise}
            return self.pipe.generate(rows, 2.5, self.steps, candidates, **options)  # type: ignore[no-any-return]

        return in_batches(make, embeddings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--guidance", type=float, default=2.5)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--candidates", type=int, default=3, help="for the rows where the best of several is kept")
    parser.add_argument("--weights", type=Path, default=Path("outputs/v2a_mini"), help="keeps the trained mappers")
    options = parser.parse_args()
    options.weights.mkdir(parents=True, exist_ok=True)

    clips = unseen(options.count)
    panel, voice = Panel("vision2audio", clips), Voice(options.guidance, options.steps)
    sounds, pictures = waveforms(clips), pixels(clips)
    with torch.no_grad():
        heard, seen = AudioTower().embed(sounds), ImageTower().embed(pictures)
        told = TextTower().embed([heard_caption(clip) for clip in clips])
        kept = voice.model.decode(voice.model.encode(sounds))[:, : sounds.shape[1]]

    report: dict[str, Any] = {}
    settings = {"count": len(clips), "world": world.VERSION, "guidance_scale": options.guidance, "steps": options.steps}
    settings["candidates"] = options.candidates

    recipes = {kind: load_recipe(f"miniature/v2a_{kind}") for kind in MAPPERS}
    features = featured(recipes["regression"], options.weights / "features.pt")
    embedded = features["audio_embedding"]
    read = Reader(embedded, [world.sample("train", index) for index in range(len(embedded))])

    def row(name: str, made: Tensor, embeddings: Tensor | None = None) -> None:
        scores = panel.score(made, METRICS)
        report[name] = {"scores": {key: asdict(scores[key]) | {"values": None, "replicates": None} for key in COLUMNS}}
        line = f"{name:<34}" + "  ".join(f"{key} {spoken_score(scores[key])}" for key in COLUMNS)
        if embeddings is not None:
            report[name] |= {"cosine": float(F.cosine_similarity(embeddings, heard).mean()), "spread": spread(embeddings, clips)}
            report[name]["spread"] /= spread(heard, clips)
            report[name]["readable"] = read(embeddings, clips)
            line += "".join(f"  {key} {report[name][key]:.3f}" for key in ("cosine", "spread", "readable"))
        print(line, flush=True)
        save("v2a_mini", {**settings, "rows": report})

    print(f"{len(clips)} unseen clips, world {world.VERSION}, guidance {options.guidance}, {options.steps} steps")
    row("real sounds", sounds, heard)
    row("real, autoencoder and vocoder", kept)
    for name, vocoder in {"real, Griffin-Lim": GriffinLim(), "real, HiFi-GAN": HifiGan()}.items():
        with torch.no_grad():
            row(name, vocoder(to_mel(sounds)[1])[:, : sounds.shape[1]])
    row("CLAP of the sound (ceiling)", voice(heard), heard)
    row("CLAP of a sentence", voice(told), told)
    row("CLIP as it is (floor)", voice(seen), F.normalize(seen, dim=-1))

    made: dict[tuple[str, int], Tensor] = {}
    first: dict[str, Tensor] = {}
    for seed in options.seeds:
        for kind in MAPPERS:
            task: Any = trained(recipes[kind], features, seed, options.weights / f"{kind}_{seed}.ckpt")
            with torch.no_grad():
                mapped = task.published.sample(seen, generator=streams(len(seen), 1 + seed))
            made[kind, seed] = voice(mapped)
            first.setdefault(kind, mapped)
            row(f"{kind} mapper, seed {seed}", made[kind, seed], mapped)
    row("diffusion, other pictures (floor)", made["diffusion", options.seeds[0]].roll(1, 0))
    for kind, mapped in first.items():
        row(f"{kind}, best of {options.candidates}", voice(mapped, options.candidates), mapped)
    for name, floor in {"linear mapper": LinearMapper, "mean shift": MeanShift}.items():
        recipe = load_recipe("miniature/v2a_regression")
        recipe["model"]["init_args"]["adapter"] = {"class_path": f"xmodal.vision2audio.{floor.__name__}"}
        task = trained(recipe, features, 0, options.weights / f"{floor.__name__}.ckpt")
        with torch.no_grad():
            mapped = task.published.sample(seen)
        row(name, voice(mapped), mapped)

    report["over seeds"] = compare(report, options.seeds)
    save("v2a_mini", {**settings, "rows": report})


def spread(embeddings: Tensor, clips: list[world.Clip]) -> float:
    """Mean distance of unit vectors from the mean of their thing's."""
    unit = F.normalize(embeddings.float(), dim=-1)
    known = things(clips)
    centres = torch.stack([unit[known == each].mean(0) if (known == each).any() else unit[0] * 0 for each in range(18)])
    return float((unit - centres[known]).norm(dim=-1).mean())


def compare(report: dict[str, Any], seeds: list[int]) -> dict[str, Any]:
    """Means over the seeds, and of the difference diffusion less regression, which is paired by seed."""
    found: dict[str, Any] = {}
    for key in COLUMNS:
        values = {kind: [report[f"{kind} mapper, seed {seed}"]["scores"][key]["value"] for seed in seeds] for kind in MAPPERS}
        values["diffusion - regression"] = [d - r for d, r in zip(values["diffusion"], values["regression"], strict=True)]
        found[key] = {name: asdict(over_seeds(each)) for name, each in values.items()}
        print(f"{key:<9} over {len(seeds)} seeds: " + "; ".join(f"{n} {spoken_score(over_seeds(v))}" for n, v in values.items()))
    return found


if __name__ == "__main__":
    main()
