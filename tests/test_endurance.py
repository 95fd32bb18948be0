"""Training that diverges stops; training that is stopped goes on as if nothing had happened, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from tests.commands.test_lightning import ROOT, xmodal
from tests.tiny import RECIPE, TinyData, TinyEncoder, TinyTask


def test_a_loss_that_is_not_finite_stops_training_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    assert xmodal("fit", "--config", "tiny.yaml", cwd=tmp_path).returncode == 0
    done = xmodal("fit", "--config", "tiny.yaml", "--vars.lr", "1e30", "--vars.steps", "400", cwd=tmp_path)
    assert done.returncode == 1
    assert "xmodal: error: the loss is no longer finite (step " in done.stderr.splitlines()[-1]
    for path in tmp_path.glob("outputs/**/*.ckpt"):
        assert all(value.isfinite().all() for value in torch.load(path, weights_only=True)["state_dict"].values())


def test_no_checkpoint_is_written_of_weights_that_are_not_finite(tmp_path: Path) -> None:
    task = TinyTask(TinyEncoder())
    trainer = Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(task, TinyData())
    task.adapter.linear.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="adapter.linear.bias is not finite: no checkpoint is written"):
        trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())


RESUMED = """
import sys
from pathlib import Path
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from tests.tiny import TinyData, TinyEncoder, TinyTask

class Batches(torch.utils.data.DataLoader):
    at = 0
    def __iter__(self):
        items = list(super().__iter__())
        while self.at < len(items):
            self.at += 1
            yield items[self.at - 1]
        self.at = 0
    def state_dict(self):
        return {"at": self.at}
    def load_state_dict(self, state):
        self.at = state["at"]

class Data(TinyData):
    def train_dataloader(self):
        return Batches(self.items, batch_size=self.batch_size)

def fit(folder, steps, resume=None):
    seed_everything(0, verbose=False)
    task = TinyTask(TinyEncoder(), ema_decay=0.9, optimizer=lambda weights: torch.optim.Adam(weights, 0.05))
    saving = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    trainer = Trainer(max_steps=steps, accelerator="cpu", logger=False, callbacks=[saving], limit_val_batches=0,
                      enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder)
    trainer.fit(task, Data(count=20), ckpt_path=resume)  # epochs of five steps
    return {name: value.clone() for name, value in task.state_dict().items()}

root = Path(sys.argv[1])
whole = fit(root / "whole", 14)
fit(root / "stopped", 8)
resumed = fit(root / "resumed", 14, root / "stopped" / "step=3.ckpt")
assert any(name.startswith("average.") for name in whole)
assert not torch.equal(whole["average.linear.weight"], whole["adapter.linear.weight"])
print(all(torch.equal(whole[name], resumed[name]) for name in whole))
"""


def test_going_on_within_an_epoch_gives_the_same_bits_of_weights_and_average(tmp_path: Path) -> None:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MKL_CBWR": "COMPATIBLE"}
    command = [sys.executable, "-c", RESUMED, str(tmp_path)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "True", done.stderr
