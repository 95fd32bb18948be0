"""Runs that are stopped: the status of the signal, what is kept, and the command that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.commands.test_lightning import ROOT, xmodal
from tests.tiny import RECIPE
from xmodal.commands.stopping import going_on


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("fit --config a.yaml", "fit --config a.yaml --ckpt_path last"),
        ("fit --ckpt_path last --config a.yaml", "fit --config a.yaml --ckpt_path last"),
        ("fit --ckpt_path=old.ckpt --config a.yaml", "fit --config a.yaml --ckpt_path last"),
        ("cache --config a.yaml", "cache --config a.yaml"),
        ("predict --ckpt_path last", "predict --ckpt_path last"),
    ],
)
def test_the_command_that_goes_on(words: str, expected: str) -> None:
    assert going_on(words.split()) == expected.split()


SLOW = """
import time
from tests.tiny import TinyTask
class Slow(TinyTask):
    def training_step(self, batch, index):
        if index:  # one step is done
            open("begun", "w").close()
        time.sleep(0.02)
        return super().training_step(batch, index)
    def test_step(self, batch, index):
        return self.training_step(batch, index)
    def predict_step(self, batch, index):
        if index:
            open("begun", "w").close()
        time.sleep(0.02)
"""


def stopped(folder: Path, command: str, number: signal.Signals) -> subprocess.CompletedProcess[str]:
    (folder / "slowly.py").write_text(SLOW)
    recipe = RECIPE.replace("tests.tiny.TinyTask", "slowly.Slow").replace("tests.tiny.TinyData", "endless.Data")
    (folder / "tiny.yaml").write_text(recipe.replace("steps: 3", "steps: 4000"))
    (folder / "endless.py").write_text(
        "from tests.tiny import TinyData\nclass Data(TinyData):\n    def __init__(self): super().__init__(4, 16000)\n"
        "    test_dataloader = predict_dataloader = TinyData.train_dataloader\n"
    )
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "xmodal", command, "--config", "tiny.yaml"]
    process = subprocess.Popen(words, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (folder / "begun").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "number", "status"),
    [
        ("fit", signal.SIGTERM, 143),
        ("fit", signal.SIGINT, 130),
        ("test", signal.SIGTERM, 143),
        ("predict", signal.SIGINT, 130),
        ("predict", signal.SIGTERM, 143),
    ],
)
def test_a_signal_ends_a_run_with_its_status(tmp_path: Path, command: str, number: signal.Signals, status: int) -> None:
    done = stopped(tmp_path, command, number)
    assert done.returncode == status, done.stderr
    expected = f"xmodal {command} --config tiny.yaml" + " --ckpt_path last" * (command == "fit")
    assert done.stderr.splitlines()[-1] == f"xmodal: stopped; this goes on: {expected}"
    if command == "fit":
        (last,) = tmp_path.glob("outputs/tiny/**/last.ckpt")
        step = torch.load(last, weights_only=True)["global_step"]
        assert step > 0
        words = ["--ckpt_path", "last", "--vars.steps", str(step + 2)]
        resumed = xmodal("fit", "--config", "tiny.yaml", *words, cwd=tmp_path)
        assert resumed.returncode == 0, resumed.stderr
