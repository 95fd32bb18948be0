"""What do commands leave that are killed at any moment?  python benchmarks/kills.py [--kills 100] [--only generate export]

Each command runs on small inputs in a forked child, which SIGKILL ends at a random moment; the next child goes on where it
was. After every kill each file under its final name must be whole. Once a run is left alone, what is there must be what an
undisturbed run in a fresh folder gives (bytes; for `fit` the bits of weights and average), without unfinished files, neither
there nor in TMPDIR. In half of the kills TMPDIR is on another file system than the output.

Prints a line per command, ends with status 1 at the first violation, and writes benchmarks/results/kills.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random
from threading import RLock

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a process that has begun to use a GPU cannot be forked
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", MKL_CBWR="COMPATIBLE")

import soundfile  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors import safe_open  # noqa: E402
from tqdm import tqdm  # noqa: E402

import xmodal.commands.lightning as lightning  # noqa: E402
import xmodal.data.extraction as extraction  # noqa: E402
from xmodal.__main__ import run  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "kills.json"
COMMANDS = ("fit", "cache", "generate", "predict", "evaluate", "export")
CLIPS, STEPS = 12, 40
MEMORY = Path("/dev/shm")
RECIPE = """
seed_everything: 0
model:
  class_path: xmodal.vision2audio.V2AMapper
  init_args:
    encoder:   {class_path: xmodal.foundation.clip.ImageTower, init_args: {card: mini}}
    target:    {class_path: xmodal.foundation.clap.AudioTower, init_args: {card: mini}}
    generator: {class_path: xmodal.foundation.audioldm.AudioLDM, init_args: {card: mini}}
    adapter:   {class_path: xmodal.vision2audio.RegressionMapper, init_args: {depth: 2}}
    ema_decay: 0.9
    seconds: 2.5
    num_inference_steps: 1
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 1.0e-3}}
data:
  class_path: xmodal.data.PairedMedia
  init_args: {crop: loudest, seconds: 2.5, width: 64, height: 64, batch_size: 4, num_workers: 0}
trainer: {max_epochs: -1, limit_val_batches: 0, enable_progress_bar: false, enable_model_summary: false, accelerator: cpu}
"""


class Violation(Exception):
    """What a killed command must not leave."""


@dataclass(frozen=True)
class Job:
    """A command line by its output folder, what makes it go on in one that was begun, and what its results are."""

    command: str
    name: str
    words: Callable[[Path], list[str]]
    resume: tuple[str, ...] = ()


@dataclass
class Found:
    """What the kills of one command came to."""

    kills: int = 0
    files: int = 0
    ends: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    verdict: str = "whole"


def jobs(scratch: Path) -> list[Job]:
    """All command lines, over clips and a recipe below ``scratch``, which are made here."""
    world, recipe = scratch / "world", scratch / "recipe.yaml"
    run(["world", "-o", str(world), "--split", "train", "-n", str(CLIPS)])
    recipe.write_text(RECIPE)
    sounds, pictures = (sorted(map(str, world.glob(f"*.{suffix}")))[:4] for suffix in ("wav", "png"))
    common = ["--config", str(recipe), "--data.manifest", str(world / "manifest.jsonl")]
    store, made, trained = (str(place(scratch, name)) for name in ("cache", "pictures", "fit"))

    def fit(out: Path) -> list[str]:
        return ["fit", *common, "--data.cache", store, "--trainer.max_steps", str(STEPS), "--trainer.default_root_dir", str(out)]

    def generate(out: Path, to: str, inputs: list[str]) -> list[str]:
        more = ["--spectrogram"] if to == "audio" else []
        return ["generate", *inputs, "--to", to, *more, "--steps", "1", "--device", "cpu", "-o", str(out)]

    def predict(out: Path) -> list[str]:
        words = ["--model.weights", "v2a-regression-mini", "--model.predictions", str(out), "--trainer.logger", "false"]
        return ["predict", *common, *words, "--data.batch_size", "3", "--trainer.default_root_dir", str(scratch / "unused")]

    def evaluate(out: Path) -> list[str]:
        real = ["--real", str(world / "manifest.jsonl"), "--fake", made]
        return ["evaluate", "--suite", "audio2image", *real, "--draws", "0", "--clap", "none", "-o", str(out)]

    return [
        Job("cache", "cache", lambda out: ["cache", *common, "--data.cache", str(out), "--trainer.logger", "false"]),
        Job("fit", "fit", fit, ("--ckpt_path", "last")),
        Job("generate", "pictures", partial(generate, to="image", inputs=sounds), ("--resume",)),
        Job("generate", "sounds", partial(generate, to="audio", inputs=pictures), ("--resume",)),
        Job("predict", "predict", predict),
        Job("evaluate", "evaluate", evaluate),
        Job("export", "export", lambda out: ["export", trained, "-o", str(out)]),
    ]


def place(scratch: Path, name: str) -> Path:
    """Where an undisturbed run of a job ends; its results are inputs of other jobs."""
    return scratch / "undisturbed" / name


# Runs


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing is printed."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def start(words: list[str], temporary: Path, told: Path) -> int:
    """Run a command in a child and return its process id; what stops the child by itself stands in ``told``."""
    if child := os.fork():
        return child
    status = 1
    try:
        torch.set_num_threads(1)  # a child's first threads race for a new pool, and one finds none, unless it is made before them
        os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
        with quiet():
            run(words)
        status = 0
    except BaseException:
        told.write_text(f"{' '.join(words)}\n{traceback.format_exc()}")
    finally:
        os._exit(status)


def finish(child: int, told: Path) -> bool:
    """Wait for a child: True where it ended by itself, False where it was killed; Violation where it failed."""
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return False
    if status:
        raise Violation(f"a run failed: {told.read_text()}")
    return True


# What is there


def final_files(folder: Path) -> list[Path]:
    """Files under their final names."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not unfinished(path))


def unfinished(path: Path) -> bool:
    """Whether a name is that of a file that is still being written."""
    return path.name.startswith(".") or "partial" in path.name or path.name.endswith(("~", ".tmp", ".part"))


def check_whole(path: Path) -> None:
    """Read a file to its end; raises Violation where it is cut short or holds anything else."""
    readers: dict[str, Callable[[Path], object]] = {
        ".png": _picture, ".wav": soundfile.read, ".json": _json, ".safetensors": _tensors, ".ckpt": _checkpoint,
        ".yaml": _yaml, ".html": _page,
    }  # fmt: skip
    try:
        if path.suffix in readers:
            readers[path.suffix](path)
        elif path.suffix in (".md", ".tex") and not path.read_text("utf-8").endswith("\n"):
            raise ValueError("its last line has no end")
    except Exception as error:
        raise Violation(f"{path} of {path.stat().st_size} bytes is not whole: {type(error).__name__}: {error}") from error


def _picture(path: Path) -> None:
    with Image.open(path) as picture:
        picture.load()


def _json(path: Path) -> None:
    json.loads(path.read_text("utf-8"))


def _tensors(path: Path) -> None:
    with safe_open(path, "np") as file:
        for name in file.keys():  # noqa: SIM118 - it is no dict
            file.get_tensor(name)


def _checkpoint(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if (wrong := archive.testzip()) is not None:
            raise ValueError(f"{wrong} in it is damaged")
    torch.load(path, weights_only=True)


def _yaml(path: Path) -> None:
    if not isinstance(yaml.safe_load(path.read_text("utf-8")), dict):
        raise ValueError("it has no keys")


def _page(path: Path) -> None:
    if not path.read_text("utf-8").rstrip().endswith("</html>"):
        raise ValueError("it does not end")


def check_same(job: Job, folder: Path, expected: Path) -> None:
    """Raise Violation where a folder does not hold what an undisturbed run has given."""
    if job.command == "fit":
        found, other = newest(folder), newest(expected)
        if found["global_step"] != other["global_step"]:
            raise Violation(f"{job.name} ended at step {found['global_step']}, not {other['global_step']}")
        one, two = found["state_dict"], other["state_dict"]
    else:
        one, two = ({str(path.relative_to(root)): path.read_bytes() for path in final_files(root)} for root in (folder, expected))
    if one.keys() != two.keys():
        raise Violation(f"{job.name} ended with {sorted(one)}, not {sorted(two)}")
    for name, value in one.items():
        if not (torch.equal(value, two[name]) if isinstance(value, torch.Tensor) else value == two[name]):
            raise Violation(f"{job.name} ended with another {name} than an undisturbed run in {folder}")


def newest(folder: Path) -> dict:
    """The last checkpoint of a run."""
    every = [torch.load(path, weights_only=True) for path in folder.rglob("last*.ckpt")]
    return max(every, key=lambda found: found["global_step"])


def check_clean(*folders: Path) -> None:
    """Raise Violation where unfinished files are left; the last folder is TMPDIR, where everything is."""
    left = [path for folder in folders[:-1] for path in folder.rglob("*") if unfinished(path)]
    left += [path for path in folders[-1].rglob("*") if path.is_file()]
    if left:
        raise Violation(f"{len(left)} unfinished files are left: {', '.join(map(str, left[:3]))}")


# Kills


def disturb(job: Job, scratch: Path, out: Path, temporary: Path, kills: int, random: Random, found: Found) -> None:
    """Kill a job that often in one folder, going on each time, then let it end; raises Violation."""
    expected, told = place(scratch, job.name), scratch / "told.txt"
    began = time.monotonic()
    finish(start(job.words(out), temporary, told), told)
    lasts = time.monotonic() - began
    found.seconds[job.name] = round(lasts, 2)
    _check_end(job, out, expected, temporary, found)
    for _ in range(20 * kills):
        if not kills:
            break
        child = start(_going_on(job, out), temporary, told)
        time.sleep(random.uniform(0, lasts))
        os.kill(child, signal.SIGKILL)
        if finish(child, told):  # it was done before its moment: this one does not count, and the next begins anew
            _check_end(job, out, expected, temporary, found)
            continue
        kills -= 1
        found.kills += 1
        for path in final_files(out):
            check_whole(path)
            found.files += 1
    finish(start(_going_on(job, out), temporary, told), told)
    _check_end(job, out, expected, temporary, found)


def _going_on(job: Job, out: Path) -> list[str]:
    begun = any(out.rglob("config.yaml")) if job.command == "fit" else out.exists()
    return [*job.words(out), *(job.resume if begun else ())]


def _check_end(job: Job, out: Path, expected: Path, temporary: Path, found: Found) -> None:
    for path in final_files(out):
        check_whole(path)
    check_same(job, out, expected)
    check_clean(out, temporary)
    found.ends += 1
    shutil.rmtree(out)


def shares(kills: int, parts: int) -> list[int]:
    """As equal as they can be."""
    return [kills * (part + 1) // parts - kills * part // parts for part in range(parts)]


def prepare(scratch: Path) -> list[Job]:
    """Inputs, and undisturbed runs of all jobs in this very process, which so imports whatever they need."""
    torch.set_num_threads(1)
    tqdm.set_lock(RLock())  # its own is one lock of all forks: killed while it made a bar, one would hold it for ever
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    lightning.MINUTE = timedelta(microseconds=1)  # a checkpoint every step; zero would be none
    extraction.extract = partial(extraction.extract, rows_per_shard=2)
    with quiet():
        every = jobs(scratch)
        for job in every:
            run(job.words(place(scratch, job.name)))
    return every


def kill_all(every: list[Job], kills: int, scratch: Path, other: Path | None, seed: int, report: dict[str, Found]) -> None:
    """Kill commands, half of the times with TMPDIR on another file system; fills ``report``; raises Violation."""
    random = Random(seed)
    names = list(dict.fromkeys(job.command for job in every))
    for name, share in zip(names, shares(kills, len(names)), strict=True):
        found = report[name] = Found()
        mine = [job for job in every if job.command == name]
        runs = [(job, temporary) for temporary in (scratch, other or scratch) for job in mine]
        for (job, temporary), number in zip(runs, shares(share, len(runs)), strict=True):
            folder = Path(tempfile.mkdtemp(prefix="kills-", dir=temporary))
            try:
                # The folder's own name stands in a model card, so it is that of the undisturbed run.
                disturb(job, scratch, scratch / "killed" / job.name, folder, number, random, found)
            except Violation as error:
                found.verdict = str(error)
                raise
            finally:
                shutil.rmtree(folder)
        print(f"{name:<10}{found.kills:>4} kills, {found.files:>5} files read, {found.ends:>3} ends compared: {found.verdict}")


def another_file_system(folder: Path) -> Path | None:
    """A folder that is not on the file system of this one; None, and a sentence, where there is none."""
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and MEMORY.stat().st_dev != folder.stat().st_dev:
        return MEMORY
    print(f"there is no second file system ({MEMORY}): TMPDIR is on that of the output every time")
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=COMMANDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    report: dict[str, Found] = {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        other = another_file_system(scratch)
        every = [job for job in prepare(scratch) if job.command in options.only]
        try:
            kill_all(every, options.kills, scratch, other, options.seed, report)
        except Violation as error:
            sys.exit(f"violation: {error}")
        finally:
            content = {"file_systems": 1 + (other is not None), **{name: asdict(found) for name, found in report.items()}}
            options.results.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
