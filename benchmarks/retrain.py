"""The miniature from nothing: every part in its order, with the options of the shipped weights, and what each costs.

python benchmarks/retrain.py [--only NAME ...]     trains into xmodal/miniature/weights, some 22 core-hours. Run again after a
                                                   stop: what has ended is passed over, and what was begun goes on
python benchmarks/retrain.py --cost [--only ...]   trains nothing: a few steps of each part into a scratch folder. Prints
                                                   core-seconds of a step, and times the steps core-hours, and writes
                                                   benchmarks/results/retrain.json

What is rendered and what the frozen parts make of it before the first step is not in the cost; validation is not, either.
The ear of strangers' sounds needs their recordings: python benchmarks/real_sounds.py fetch --split train
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).parent / "results"
WEIGHTS = Path("xmodal/miniature/weights")
RECORDINGS = Path("outputs/real_sounds/train")
RECORDED = f"--data.recorded 0.1 --data.recordings {RECORDINGS}"
PAINTER = WEIGHTS / "stable_diffusion"
ON = f"--model.weights {PAINTER} --model.reading_weight 0 --model.ema_decay 0.998"  # from what the run before exported
FINER = f"{ON} --model.layers_per_block [3,1,1] --model.perceptual 1 --model.detail 0.7 --data.train_count 8000"
STEPS = (5, 45)  # of a short and a longer run: their difference is steps alone


class Part(NamedTuple):
    """A recipe and its runs: steps and further options of each; each begins with the averaged weights of the one before."""

    recipe: str
    runs: tuple[tuple[int, str], ...]
    adapter: str = ""  # of the weights' folder; a task's checkpoint is exported there


PARTS = {
    "vae": Part("vae-mini", ((3000, ""),)),
    "picture_tagger": Part("picture-tagger-mini", ((1500, ""),)),
    "beats": Part("beats-mini", ((600, ""),)),
    "clip": Part("clip-mini", ((1000, ""), (850, "--data.seed 1"), (3000, "--data.seed 2"))),
    "clap": Part("clap-mini", ((500, ""), (700, "--data.seed 1"))),
    "stable_diffusion": Part(
        "stable-diffusion-mini",
        (
            (6000, ""),
            (1600, "--vars.lr 6e-4 --data.seed 1 --data.train_count 12000"),
            (3500, "--vars.lr 6e-4 --data.seed 7"),
            (4700, "--vars.lr 5e-4 --data.seed 8"),
            (4800, "--vars.lr 5e-4 --model.ema_decay 0.999 --data.seed 41"),
            (5500, "--vars.lr 4e-4 --model.ema_decay 0.999 --data.seed 42"),
        ),
    ),
    "vae_decoder": Part("vae-decoder-mini", ((4000, ""),)),
    "vae_wider": Part("vae-wider-mini", ((3000, f"--model.output {PAINTER}"),)),
    "painter_wider": Part(
        "stable-diffusion-mini",
        (
            (4500, f"{ON} --vars.lr 5e-4 --data.train_count 12000 --data.seed 50"),
            (700, f"{ON} --vars.lr 2e-4 --model.perceptual 1 --data.train_count 8000 --data.seed 51"),
            (1900, f"{FINER} --vars.lr 4e-4 --data.seed 53"),
            (1500, f"{FINER} --vars.lr 3e-4 --data.seed 54"),
        ),
    ),
    "beats_wild": Part("beats-wild-mini", ((6500, ""), (14000, "--data.seed 31"))),
    "mel_vae": Part("mel-vae-mini", ((2000, ""),)),
    "audioldm": Part(
        "audioldm-mini",
        (
            (2500, ""),
            (2000, "--vars.lr 6e-4 --data.seed 1"),
            (1200, "--vars.lr 6e-4 --data.seed 2 --data.train_count 4000"),
            (3400, "--vars.lr 6e-4 --data.seed 3"),
            (7000, "--vars.lr 6e-4 --data.seed 4 --data.train_count 8000"),
        ),
    ),
    "vocoder": Part("vocoder-mini", ((1500, ""),)),
    "prior": Part("prior-mini", ((1500, ""),)),
    "prior_names": Part("prior-names-mini", ((1500, ""),)),
    "wav2clip": Part("wav2clip-mini", ((1200, ""),)),
    "imagebind": Part("imagebind-mini", ((1200, ""),)),
    "unclip": Part("unclip-mini", ((1000, ""),)),
    "audiotoken": Part(
        "audiotoken-mini",
        (
            (2000, ""),
            (1000, f"--vars.lr 1e-3 --data.seed 1 --data.strange 0.45 {RECORDED}"),
            (1500, f"--vars.lr 1e-3 --data.seed 5 --data.train_count 8000 --model.classification_weight 4 {RECORDED}"),
            (1300, f"--vars.lr 8e-4 --data.seed 6 --data.train_count 8000 --model.classification_weight 4 {RECORDED}"),
            (1300, f"--vars.lr 8e-4 --data.seed 7 --data.train_count 8000 --model.classification_weight 4 {RECORDED}"),
        ),
        "audiotoken-mini",
    ),
    "v2a_regression": Part("v2a-regression-mini", ((2000, ""),), "v2a-regression-mini"),
    "v2a_diffusion": Part("v2a-diffusion-mini", ((1500, ""),), "v2a-mini"),
    "clipsonic": Part(
        "clipsonic-mini",
        (
            (3000, ""),
            (1300, "--vars.lr 6e-4 --data.seed 1 --data.train_count 4000"),
            (3200, "--vars.lr 6e-4 --data.seed 2"),
            (4000, "--vars.lr 6e-4 --data.seed 3"),
        ),
        "clipsonic-mini",
    ),
}


def xmodal(*words: str | Path) -> None:
    """Run a command of ours; a failure ends all."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-m", "xmodal", *map(str, words)], check=True, env=environment)


def train(name: str, part: Part, folder: Path) -> None:
    """Make the runs of a part that have not ended, and put what came out into its place."""
    before: Path | None = None
    for number, (steps, options) in enumerate(part.runs):
        run = folder / f"{name}-{number}"
        if not (run / "ended").exists():
            words: list[str | Path] = ["fit", "--config", part.recipe, "--vars.steps", str(steps), *options.split()]
            words += ["--trainer.default_root_dir", run]
            if list(run.glob("**/last*.ckpt")):
                words += ["--ckpt_path", "last"]
            elif before is not None and "--model.weights" not in options:
                words += start(part, before)
            xmodal(*words)
            (run / "ended").touch()
        before = run
    target = WEIGHTS / "adapters" / part.adapter
    if part.adapter and before is not None:
        xmodal("export", before, "--dtype", "float16", "-o", target)


def start(part: Part, before: Path) -> list[str | Path]:
    """Options that begin with the weights of an earlier run: a part's from its checkpoint, an adapter's as exported."""
    if not part.adapter:
        return ["--model.start", max(before.glob("**/last.ckpt"), key=lambda path: path.stat().st_mtime)]
    if not (before / "exported").exists():
        xmodal("export", before, "-o", before / "exported")
    return ["--model.weights", before / "exported"]


def core_seconds(name: str, part: Part) -> float:
    """Core-seconds of a step."""
    took = []
    for steps in STEPS:
        with tempfile.TemporaryDirectory() as scratch:
            words = ["fit", "--config", part.recipe, "--vars.steps", str(steps), "--trainer.default_root_dir", scratch]
            words += [] if part.adapter else part.runs[-1][1].split()  # an adapter's may need the recordings
            words += ["--data.train_count", "512", "--trainer.limit_val_batches", "0", "--trainer.enable_progress_bar", "false"]
            words += ["--trainer.max_epochs", "-1"]
            words += [] if part.adapter else ["--model.output", f"{scratch}/weights"]
            if name == "beats_wild" and not RECORDINGS.is_dir():
                words += ["--data.recordings", "null"]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-m", "xmodal", *words]
            subprocess.run(command, check=True, env=quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return (took[1] - took[0]) / (STEPS[1] - STEPS[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--runs", type=Path, default=Path("outputs/retrain"), help="folder of the runs")
    options = parser.parse_args()
    if not options.cost:
        for name in options.only:
            train(name, PARTS[name], options.runs)
        return
    file = RESULTS / "retrain.json"
    report = json.loads(file.read_text())["parts"] if file.exists() else {}
    for name in options.only:
        each = core_seconds(name, PARTS[name])
        report[name] = {"core_seconds_per_step": round(each, 3)}
        print(f"{name}: {each:.2f} core-seconds a step", flush=True)
    print("\n| part | steps | core-seconds a step | core-hours |\n|---|---|---|---|")
    for name, part in PARTS.items():
        if name in report:
            row, steps = report[name], sum(run[0] for run in part.runs)
            row |= {"steps": steps, "core_hours": round(row["core_seconds_per_step"] * steps / 3600, 2)}
            print(f"| {name} | {steps:,} | {row['core_seconds_per_step']:.2f} | {row['core_hours']:.2f} |")
    hours = sum(row["core_hours"] for row in report.values())
    print(f"| all | | | {hours:.1f} |")
    RESULTS.mkdir(exist_ok=True)
    file.write_text(json.dumps({"parts": report, "core_hours": round(hours, 1)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
