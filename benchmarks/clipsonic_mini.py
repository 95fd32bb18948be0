"""Text becomes sound that was learnt from pictures.  python benchmarks/clipsonic_mini.py [--seeds 0 1 2] [--count 256]

Asks the shipped generator, which was trained on pictures and sounds of the miniature world, for unseen clips:

    IQ   by the picture                        ZS   by the caption as it is
    PD   by the caption, through the prior that was trained on captions of all kinds
    SD   by the thing's name, through the prior that was trained on the names alone
    MS   by the caption, moved by the difference of both means;  RB  by the known pictures that are nearest to it (1,000 of them)
    NI   by the caption as it is, after --training-steps more in which noise lay on the pictures' embeddings

and two supervised baselines by the caption: CLIP-TTA and CLAP-TTA start from the same generator and go on with pairs of caption
and sound, for --training-steps.

"readable" is how often a small classifier, fitted to pictures, finds the thing in what the generator is told: no sound can do
much better. FAD is in the space of the tagger, tag_top1 is how often it hears the thing (chance: 1 in 18), CLAP the cosine of the
sound with a sentence about what is to be heard. "gap closed": how much of the way from ZS to IQ a prior goes. The seeds are of
the noise (of generator and prior); intervals: 95 %, Student's t over them. Also prints the gap of both modalities before and
after a prior. --paths measures some alone and keeps the rest of an earlier report. Writes benchmarks/results/clipsonic_mini.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from trial import (
    RESULTS,
    Panel,
    Reader,
    captions,
    featured,
    in_batches,
    load_recipe,
    over_seeds,
    pixels,
    save,
    spoken_score,
    streams,
    trained,
    unseen,
    waveforms,
)

import xmodal
from xmodal.foundation.clap import TextTower as ClapText
from xmodal.foundation.clip import ImageTower
from xmodal.foundation.clip import TextTower as ClipText
from xmodal.foundation.diffusion_prior import DiffusionPrior, MeanShift, Retrieval
from xmodal.metrics.modality_gap import ModalityGap
from xmodal.miniature import world
from xmodal.miniature.training.sounds import FRAMES

COLUMNS = ("tag_top1", "FAD", "CLAP")
BASELINES = {
    "CLIP-TTA": "overlays/clipsonic_mini_clip_tta",
    "CLAP-TTA": "overlays/clipsonic_mini_clap_tta",
    "NI": "overlays/clipsonic_noise",
}
UNHEARD = ("PD unguided", "SD by captions")  # only looked at, no sounds are made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--training-steps", type=int, default=500, help="of each supervised baseline")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--weights", type=Path, default=Path("outputs/clipsonic_mini"), help="keeps the trained baselines")
    parser.add_argument("--paths", nargs="+", default=[], metavar="PATH", help="default: all")
    options = parser.parse_args()
    options.weights.mkdir(parents=True, exist_ok=True)
    asked_for = [name for name in BASELINES if not options.paths or name in options.paths]
    pipes = {name: baseline(name, options.training_steps, options.weights) for name in asked_for}
    pipes["CLIPSonic"] = xmodal.pipeline("clipsonic-mini")

    clips = unseen(options.count)
    asked = captions(clips)
    panel = Panel("text2audio", clips)
    guidance = pipes["CLIPSonic"].guidance_scale
    print(f"{len(clips)} unseen clips, world {world.VERSION}, guidance {guidance}, {options.steps} steps")
    settings = {"count": len(clips), "world": world.VERSION, "training_steps": options.training_steps}
    settings |= {"guidance_scale": guidance, "steps": options.steps, "seeds": options.seeds}
    report: dict[str, Any] = {"real sounds": one(panel, waveforms(clips))}
    print("real sounds  " + "  ".join(f"{key} {value['value']:.3f}" for key, value in report["real sounds"].items()))
    values: dict[str, list[dict[str, Any]]] = kept(settings, options.paths) if options.paths else {}
    fixed = embedded(clips, asked)
    for seed in options.seeds:
        queries = conditions(fixed, seed, pipes["CLIPSonic"].prior_options)
        if seed == options.seeds[0]:
            report["modality gap"], report["readable"] = gaps(queries), readable(queries, clips)
        queries |= {name: fixed[name] for name in asked_for}
        for path, condition in queries.items():
            if path in UNHEARD or (options.paths and path not in options.paths):
                continue
            pipe = pipes.get(path, pipes["CLIPSonic"])
            values.setdefault(path, []).append(one(panel, voiced(pipe, condition, options.steps, guidance, seed)))
            print(
                f"seed {seed}  {path:<9}" + "  ".join(f"{key} {values[path][-1][key]['value']:.3f}" for key in COLUMNS),
                flush=True,
            )
    report |= {"paths": values, "over seeds": {}}
    for path, rows in values.items():
        means = {key: over_seeds([row[key]["value"] for row in rows]) for key in COLUMNS}
        report["over seeds"][path] = {key: asdict(score) for key, score in means.items()}
        print(f"{path:<9} " + "  ".join(f"{key} {spoken_score(score)}" for key, score in means.items()))
    report["gap closed"] = closed(values)
    save("clipsonic_mini", {**settings, **report})


def kept(settings: dict[str, Any], measured_again: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The paths of the last report that are not measured again; ValueError where it was made with other settings."""
    found = json.loads((RESULTS / "clipsonic_mini.json").read_text("utf-8"))
    if any(found[key] != value for key, value in settings.items()):
        raise ValueError(f"the last report was not made with {settings}: leave out --paths")
    return {path: rows for path, rows in found["paths"].items() if path not in measured_again}


def baseline(name: str, steps: int, folder: Path) -> Any:
    """The pipeline of a supervised baseline, trained on the way unless it lies in the folder."""
    recipe = load_recipe("miniature/clipsonic", BASELINES[name], steps=steps)
    recipe["model"]["init_args"]["weights"] = "clipsonic-mini"
    file = folder / f"{name}_{steps}.ckpt"
    told = "pictures" if name == "NI" else "texts"  # what is computed of a clip before the first step
    return trained(recipe, featured(recipe, folder / f"features_{told}.pt"), 0, file).pipeline()


@torch.no_grad()
def embedded(clips: list[world.Clip], asked: list[str]) -> dict[str, Tensor]:
    """What the towers make of the clips, their captions and their names, by query path where it is one: (N, d)."""
    eyes, reader = ImageTower(), ClipText()
    others = [world.sample("train", index) for index in range(1000)]
    text = F.normalize(reader.embed(asked), dim=-1)
    known = eyes.embed(pixels(others))
    shift = MeanShift.fit(reader.embed(captions(others)), known)
    return {
        "IQ": F.normalize(eyes.embed(pixels(clips)), dim=-1),
        "ZS": text,
        "MS": shift.sample(text),
        "RB": Retrieval.fit(known).sample(text),
        "NI": text,
        "names": F.normalize(reader.embed([f"a photo of {clip.thing}" for clip in clips]), dim=-1),
        "CLIP-TTA": text,
        "CLAP-TTA": ClapText().embed(asked),
    }


def conditions(fixed: dict[str, Tensor], seed: int, options: dict[str, Any]) -> dict[str, Tensor]:
    """What CLIPSonic is asked with, by query path: unit vectors (N, d)."""
    captions_prior, names_prior, text = DiffusionPrior("mini"), DiffusionPrior("mini_names"), fixed["ZS"]

    def noise() -> list[torch.Generator]:
        return streams(len(text), 10 + seed)

    return {
        "IQ": fixed["IQ"],
        "ZS": text,
        "PD": captions_prior.sample(text, generator=noise(), **options),
        "SD": names_prior.sample(fixed["names"], generator=noise(), **options),
        "PD unguided": captions_prior.sample(text, generator=noise()),
        "SD by captions": names_prior.sample(text, generator=noise(), **options),
        "MS": fixed["MS"],
        "RB": fixed["RB"],
    }


def readable(queries: dict[str, Tensor], clips: list[world.Clip]) -> dict[str, float]:
    """How often the thing is found in each kind of condition."""
    eyes, others = ImageTower(), [world.sample("train", index, seed=3) for index in range(4000)]
    with torch.no_grad():
        seen = torch.cat([eyes.embed(pixels(others[start : start + 250])) for start in range(0, len(others), 250)])
    read = Reader(seen, others)
    found = {path: read(given, clips) for path, given in queries.items()}
    print("the thing is readable in " + "  ".join(f"{path} {share:.3f}" for path, share in found.items()))
    return found


def gaps(queries: dict[str, Tensor]) -> dict[str, Any]:
    """Distance of the means, mean cosines, and how well a line tells one cloud from the pictures' (1: wholly; 0.5: not)."""
    found = {}
    for path, rows in queries.items():
        if path == "IQ":
            continue
        metric = ModalityGap(sync_on_compute=False)
        metric.update(rows, queries["IQ"])
        scores = {name: float(value) for name, value in metric.compute().items()}
        found[path] = scores | {"separable": separable(rows, queries["IQ"])}
        print(f"pictures and {path}: " + "  ".join(f"{name} {value:.3f}" for name, value in found[path].items()))
    return found


def separable(first: Tensor, second: Tensor) -> float:
    """Accuracy of a logistic regression on the half that it was not fitted to."""
    rows = torch.cat([first, second]).float()
    sides = torch.cat([torch.zeros(len(first)), torch.ones(len(second))])
    fit = torch.arange(len(rows)) % 2 == 0
    line = torch.nn.Linear(rows.shape[1], 1)
    torch.nn.init.zeros_(line.weight)
    torch.nn.init.zeros_(line.bias)
    optimizer = torch.optim.AdamW(line.parameters(), 0.05, weight_decay=0.01)
    for _ in range(500):
        loss = F.binary_cross_entropy_with_logits(line(rows[fit])[:, 0], sides[fit])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(((line(rows[~fit])[:, 0] > 0) == sides[~fit].bool()).float().mean())


def voiced(pipe: Any, condition: Tensor, steps: int, guidance: float, seed: int = 0) -> Tensor:
    """One sound for each condition."""

    def make(rows: Tensor, noise: list[torch.Generator]) -> Tensor:
        return pipe.vocoder(pipe.generate(rows, FRAMES, steps, guidance, noise))[:, :40_000]  # type: ignore[no-any-return]

    return in_batches(make, condition, seed)


def one(panel: Panel, made: Tensor) -> dict[str, Any]:
    scores = panel.score(made, ("tags", "FAD", "CLAP"))
    return {key: {"value": scores[key].value, "low": scores[key].low, "high": scores[key].high} for key in COLUMNS}


def closed(values: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Share of the way from ZS to IQ that each other path of the same generator goes, by seed."""
    found: dict[str, Any] = {}

    def share(zs: float, iq: float, it: float) -> float:
        return (it - zs) / (iq - zs) if iq != zs else float("nan")

    for key in COLUMNS:
        for path in ("PD", "SD", "MS", "RB"):
            if path not in values:
                continue
            rows = zip(values["ZS"], values["IQ"], values[path], strict=True)
            score = over_seeds([share(*(each[key]["value"] for each in row)) for row in rows])
            found[f"{path} {key}"] = asdict(score)
            print(f"gap closed by {path} in {key}: {spoken_score(score, 2)}")
    return found


if __name__ == "__main__":
    main()
