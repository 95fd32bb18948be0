"""AudioToken's table in the miniature.  python benchmarks/audiotoken_table.py [--seeds 0 1 2] [--steps 300] [--rows ...]

Pictures of unseen sounds of the miniature world, painted by each row, judged as `xmodal evaluate` does: AIC (the miniature CLIP's
zero-shot accuracy), FID (in the picture tagger's space), AIS and IIS (win rates against a bank), and how often the tagger finds
the thing (chance: 1 in 18). One picture of each sound. What is trained is trained with each seed; what is not gets other noise.

    label         the painter told the thing's name: the ceiling
    wav2clip      Wav2CLIP's embedding for a picture's in Stable unCLIP;  imagebind  the same of an ImageBind-like tower
    ... moments   the same, each number moved to the pictures' mean and deviation (training-free)
    audiotoken    as the paper has it: one pseudo-word, the denoising loss alone, which needs more steps: --plain-steps
    classified    with the classification loss, --steps;  tokens  with three pseudo-words that are bound to a phrase, too
    short         `classified` after --short-steps, as all that follow:
    small, whole, scratch   an eighth of the embedder's width; the whole painter trained, too, from its weights or from nothing
    ear ...       other ears

Adapters are kept under --weights and serve the next call. Intervals: 95 %, Student's t over seeds. Writes
benchmarks/results/audiotoken_table.json and the picture docs/images/audiotoken_table.png.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trial import RESULTS, Panel, featured, in_batches, load_recipe, over_seeds, pixels, save, spoken_score, trained, unseen
from trial import waveforms as sounds_of

from xmodal.audio2image import SoundUnCLIP
from xmodal.foundation.imagebind import AudioTower
from xmodal.foundation.stable_diffusion import StableDiffusion
from xmodal.foundation.stable_unclip import StableUnCLIP
from xmodal.foundation.wav2clip import Wav2CLIP
from xmodal.miniature import world
from xmodal.miniature.data import Clips

METRICS = ("AIC", "FID", "AIS", "IIS", "tags")
COLUMNS = ("AIC_top1", "FID", "AIS", "IIS", "tag_top1")
EARS: dict[str, dict[str, Any]] = {
    "clap": {"class_path": "xmodal.foundation.clap.AudioTower", "init_args": {"card": "mini"}},
    "wav2clip": {"class_path": "xmodal.foundation.wav2clip.Wav2CLIP", "init_args": {"card": "mini"}},
    "imagebind": {"class_path": "xmodal.foundation.imagebind.AudioTower", "init_args": {"card": "mini"}},
}
CLIPS = 3000  # for training
EMBEDDER = "xmodal.audio2image.AudioTokenEmbedder"
WHOLE = "whole_painter.WholePainter"
CLASSIFIED = {"classification_weight": 1.0, "classification_target": "name"}
ONE, SMALL = {"class_path": EMBEDDER, "init_args": {}}, {"class_path": EMBEDDER, "init_args": {"hidden_dim": 16}}
PLAIN: dict[str, Any] = {"adapter": ONE, "classification_weight": 0.0}
# By row: the class, and what differs from recipes/miniature/audiotoken.yaml.
TRAINED: dict[str, tuple[str, dict[str, Any]]] = {
    "audiotoken": ("", PLAIN),
    "classified": ("", {"adapter": ONE, **CLASSIFIED}),
    "tokens": ("", {}),
    "short": ("", {"adapter": ONE, **CLASSIFIED}),
    "small": ("", {"adapter": SMALL, **CLASSIFIED}),
    "whole": (WHOLE, {"adapter": ONE, **CLASSIFIED}),
    "scratch": (WHOLE, {"adapter": ONE, **CLASSIFIED, "scratch": True}),
    **{f"ear {name}": ("", {"adapter": ONE, **CLASSIFIED, "encoder": ear}) for name, ear in EARS.items()},
}
LONG = ("audiotoken", "classified", "tokens")  # the others of those that are trained get fewer steps
UNTRAINED = ("label", "wav2clip", "wav2clip moments", "imagebind", "imagebind moments")
ROWS = ("label", "wav2clip", "imagebind", *LONG, *UNTRAINED[2::2], *list(TRAINED)[len(LONG) :])


def recipe_of(row: str, steps: int) -> dict[str, Any]:
    """The miniature recipe with a row's changes, on rendered sounds alone."""
    recipe = load_recipe("miniature/audiotoken", steps=steps)
    kind, changes = TRAINED[row]
    recipe["model"]["class_path"] = kind or recipe["model"]["class_path"]
    recipe["model"]["init_args"] |= changes
    recipe["data"]["init_args"]["train_count"] = CLIPS
    return recipe


def painter_of(row: str, seed: int, options: argparse.Namespace) -> tuple[Callable[[Tensor, list[torch.Generator]], Tensor], int]:
    """What paints sounds (B, T), and how many numbers were trained for it."""
    if row in TRAINED:
        steps = options.plain_steps if row == "audiotoken" else options.steps if row in LONG else options.short_steps
        recipe = recipe_of(row, steps)
        ear = row.removeprefix("ear ") if row.startswith("ear ") else "beats"
        features = featured(recipe, options.weights / f"features-{ear}.pt")
        name = f"{row.replace(' ', '-')}-{steps}-{seed}.ckpt"
        task: Any = trained(recipe, features, seed, options.weights / name)
        return _calls(task.pipeline()), sum(part.numel() for part in task.parameters() if part.requires_grad)
    name, _, match = row.partition(" ")
    ear = {"wav2clip": Wav2CLIP, "imagebind": AudioTower}[name]("mini")
    baseline = SoundUnCLIP(ear, StableUnCLIP("mini"), _matching(match), seconds=2.5, short="pad", guidance_scale=options.guidance)
    if match:
        heard = Clips("train", 512, ("waveform",))
        baseline.adapter.observe(ear.embed(torch.stack([heard[index]["waveform"] for index in range(len(heard))])))
    return _calls(baseline.eval().pipeline()), 0


def _matching(match: str) -> Any:
    from xmodal.audio2image import PictureSpace

    return (lambda in_dim, out_dim: PictureSpace(in_dim, out_dim, match)) if match else None  # type: ignore[arg-type]


def _calls(pipe: Any) -> Callable[[Tensor, list[torch.Generator]], Tensor]:
    # One candidate: CLIP must not judge what CLIP chose.
    settings = {"sampling_rate": 16_000, "num_inference_steps": 15, "candidates": 1, "output_type": "pt"}

    def paint(rows: Tensor, noise: list[torch.Generator]) -> Tensor:
        return pipe(list(rows), generator=noise, **settings).images

    return paint


@torch.no_grad()
def told(clips: list[world.Clip], seed: int, guidance: float) -> Tensor:
    """The ceiling: pictures of "a photo of bell"."""
    painter = StableDiffusion("mini")
    embeds = painter.prompt_embeds([f"a photo of {clip.thing}" for clip in clips])

    def paint(rows: Tensor, noise: list[torch.Generator]) -> Tensor:
        return painter.generate(rows, num_inference_steps=15, guidance_scale=guidance, generator=noise)

    return in_batches(paint, embeds, seed, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--plain-steps", type=int, default=1000)
    parser.add_argument("--short-steps", type=int, default=150)
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--weights", type=Path, default=Path("outputs/audiotoken_table"))
    parser.add_argument("--output", default="audiotoken_table", help="name under benchmarks/results; rows there are kept")
    options = parser.parse_args()

    options.weights.mkdir(parents=True, exist_ok=True)
    clips = unseen(options.count)
    panel, heard = Panel("audio2image", clips), sounds_of(clips)
    same = {name: getattr(options, name) for name in ("count", "steps", "short_steps", "plain_steps", "guidance")}
    same["world"] = world.VERSION
    file = RESULTS / f"{options.output}.json"
    report: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if any(report.get(key) != value for key, value in same.items()):
        report = {**same, "rows": {"real pictures": {"0": _kept(panel, pixels(clips))}}, "trained": {}}
    for seed in options.seeds:  # a whole table of the first seed comes first
        for row in options.rows:
            begun = time.monotonic()
            if row == "label":
                made, numbers = told(clips, seed, options.guidance), 0
            else:
                paint, numbers = painter_of(row, seed, options)
                made = in_batches(paint, heard, seed, 64)
            report["rows"].setdefault(row, {})[str(seed)] = _kept(panel, made)
            report["trained"][row] = numbers
            save(options.output, report)
            print(f"seed {seed} {row}: {report['rows'][row][str(seed)]} in {time.monotonic() - begun:.0f} s", flush=True)
            if seed == options.seeds[0]:
                torch.save((made[:18] * 255).round().byte(), options.weights / f"pictures-{row.replace(' ', '-')}.pt")
    grid(clips, options.weights, RESULTS.parent.parent / "docs" / "images" / "audiotoken_table.png")
    print(f"{options.count} unseen sounds, seeds {options.seeds}; numbers trained, means [95 % over seeds]")
    for row, seeds in report["rows"].items():
        cells = (f"{name} {spoken_score(over_seeds([each[name] for each in seeds.values()]), 2)}" for name in COLUMNS)
        print(f"{row:<20}{report['trained'].get(row, 0):>10,}  " + "  ".join(cells))


def grid(clips: list[world.Clip], folder: Path, place: Path) -> None:
    """The first pictures of the first seed, a row of the table in a row, below the real ones."""
    from PIL import Image, ImageDraw

    shown, size, left = 12, 96, 150
    rows = {"real": (pixels(clips[:shown]) * 255).round().byte()}
    for row in ROWS[:8]:
        file = folder / f"pictures-{row.replace(' ', '-')}.pt"
        if file.is_file():
            rows[row] = torch.load(file, weights_only=True)[:shown]
    sheet = Image.new("RGB", (left + shown * size, len(rows) * size), "white")
    for down, (row, pictures) in enumerate(rows.items()):
        ImageDraw.Draw(sheet).text((8, down * size + size // 2 - 6), row, "black", font_size=15)
        for across, picture in enumerate(pictures):
            tile = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize((size - 4, size - 4), Image.Resampling.BICUBIC)
            sheet.paste(tile, (left + across * size, down * size + 2))
    sheet.quantize(200).save(place, optimize=True)


def _kept(panel: Panel, made: Tensor) -> dict[str, float]:
    return {name: round(score.value, 5) for name, score in panel.score(made, METRICS, draws=0).items() if name in COLUMNS}


if __name__ == "__main__":
    main()
