"""Two processes from the installed script, in a folder that is not ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from tests.commands.test_lightning import ROOT
from tests.tiny import RECIPE
from xmodal.registry.adapters import find

SCRIPT = "import sys\nfrom xmodal.__main__ import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
TRAP = "open('trapped', 'w').close()\nraise SystemExit(3)\n"
TASK = """
from lightning.pytorch import LightningDataModule
from tests.data.test_extraction import Ear, Eye, Match
from tests.tiny import TinyData
from xmodal.data.loading import Loader

class Pair(Match):
    def __init__(self):
        super().__init__(Ear(), Eye())

class Data(TinyData):
    def test_dataloader(self):
        return self.train_dataloader()
    predict_dataloader = test_dataloader

class Items:
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def batch(self, rows, epoch=0):
        return [values[rows] for values in self.items.tensors]

class Dealt(TinyData):
    def train_dataloader(self):
        ranks = {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
        return Loader(Items(self.items), self.batch_size, shuffle=True, **ranks)
"""
CACHE = """
model: {class_path: two_tasks.Pair}
data:
  class_path: xmodal.data.PairedMedia
  init_args: {manifest: manifest.jsonl, cache: cache, seconds: 0.4, width: 32, height: 32, crop: loudest, num_workers: 0}
trainer: {accelerator: cpu, enable_progress_bar: false}
"""
PREDICT = (
    "class Task(__import__('tests.tiny').tiny.TinyTask):\n    def predict_step(self, batch, batch_idx):\n        return None\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With recipes, a script as pip installs it, and files that a careless child process would run."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "xmodal").write_text(SCRIPT)
    work = tmp_path / "work"
    work.mkdir()
    (work / "two_tasks.py").write_text(TASK)
    (work / "predicting.py").write_text(PREDICT)
    recipe = RECIPE.replace("tests.tiny.TinyData", "two_tasks.Data").replace("tests.tiny.TinyTask", "predicting.Task")
    (work / "tiny.yaml").write_text(recipe)
    (work / "cache.yaml").write_text(CACHE)
    for name in ("xmodal", "xmodal.py"):
        (work / name).write_text(TRAP)
    return work


def run(folder: Path, *words: str, devices: int = 2) -> subprocess.CompletedProcess[str]:
    ours = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    lent = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    variables = {name: value for name, value in os.environ.items() if name not in lent} | ours
    command = [sys.executable, str(folder.parent / "bin" / "xmodal"), *words]
    command += ["--trainer.devices", str(devices), "--trainer.strategy", "ddp" if devices > 1 else "auto"]
    command += ["--trainer.accelerator", "cpu"]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert not (folder / "trapped").exists(), "a file named xmodal in the working folder was run"
    return done


@pytest.mark.slow
@pytest.mark.parametrize("command", ["fit", "test", "predict"])
def test_lightning_on_two_processes(folder: Path, command: str) -> None:
    done = run(folder, command, "--config", "tiny.yaml")
    assert done.returncode == 0, done.stderr
    assert "MEMBER: 2/2" in done.stderr
    if command == "fit":
        assert list(folder.glob("outputs/tiny/**/last.ckpt"))


@pytest.mark.slow
def test_two_processes_train_to_the_weights_of_one(folder: Path) -> None:
    found, recipe = {}, (folder / "tiny.yaml").read_text()
    (folder / "tiny.yaml").write_text(recipe.replace("two_tasks.Data", "two_tasks.Dealt"))
    for devices in (1, 2):
        options = ["--data.batch_size", str(8 // devices), "--vars.steps", "6", "--trainer.default_root_dir", f"out{devices}"]
        done = run(folder, "fit", "--config", "tiny.yaml", *options, devices=devices)
        assert done.returncode == 0, done.stderr
        found[devices] = find(folder / f"out{devices}").weights()
    for name, value in found[1].items():
        torch.testing.assert_close(found[2][name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run(folder: Path) -> None:
    recipe = (folder / "tiny.yaml").read_text().replace("predicting.Task", "dying.Task")
    (folder / "dying.yaml").write_text(recipe)
    (folder / "dying.py").write_text(
        "import os\nfrom tests.tiny import TinyTask\nclass Task(TinyTask):\n    def training_step(self, batch, batch_idx):\n"
        "        if self.global_rank == 1:\n            os._exit(9)\n        return super().training_step(batch, batch_idx)\n"
    )
    done = run(folder, "fit", "--config", "dying.yaml")
    assert done.returncode not in (0, 2)
    assert done.stderr.strip()


@pytest.mark.slow
def test_cache_on_two_processes(folder: Path) -> None:
    random, lines = np.random.default_rng(0), []
    for number in range(600):
        soundfile.write(folder / f"{number}.wav", 0.1 * random.standard_normal(8000), 16000)
        Image.fromarray(np.full((32, 32, 3), number % 255, np.uint8)).save(folder / f"{number}.png")
        lines.append(json.dumps({"id": f"c{number}", "audio": f"{number}.wav", "image": f"{number}.png", "split": "train"}))
    (folder / "manifest.jsonl").write_text("\n".join(lines))
    done = run(folder, "cache", "--config", "cache.yaml")
    assert done.returncode == 0, done.stderr
    assert "MEMBER: 2/2" in done.stderr
    assert [line.partition(" in ")[0] for line in done.stdout.splitlines() if line.startswith("train")] == [
        "train: heard of 600 clips", "train: colour of 600 clips"
    ]  # fmt: skip
    assert len(list(folder.glob("cache/*/*.safetensors"))) == 6
    alone = run(folder, "cache", "--config", "cache.yaml", "--data.cache", "alone", devices=1)
    assert alone.returncode == 0, alone.stderr
    shards = {name: {path.relative_to(folder / name): path.read_bytes() for path in (folder / name).rglob("*.safetensors")}
              for name in ("cache", "alone")}  # fmt: skip
    assert shards["cache"] == shards["alone"]
