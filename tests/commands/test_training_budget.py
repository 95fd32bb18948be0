"""`fit --memory`: what is chosen, that it trains the same batch, and that nothing is left without its weights."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from tests.tiny import TinyData, tiny_stable_diffusion
from xmodal.audio2image import AudioToken
from xmodal.commands import training_budget as budget
from xmodal.foundation import beats
from xmodal.miniature.data import World

GB = 10**9


def setup(whole: int = 4) -> tuple[Any, Any]:
    torch.manual_seed(0)
    ear = next(iter(beats.tiny().values()))()
    return AudioToken(ear, tiny_stable_diffusion()), World(["waveform", "pixels"], train_count=8, val_count=2, batch_size=whole)


def test_settings_go_from_the_quickest_to_the_most_frugal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "find_spec", lambda name: None)
    task, data = setup(8)
    before = dict(task.named_parameters())
    found = list(budget.settings(task, data))
    assert all(value is before[name] and value.device.type == "cpu" for name, value in task.named_parameters())
    assert not task.generator.unet.is_gradient_checkpointing
    shapes = [(each.dtype, each.checkpointing, each.batch_size) for each in found]
    one = [(False, 8), (False, 4), (True, 8), (True, 4), (True, 2), (True, 1)]
    assert shapes == [(dtype, *rest) for dtype in (torch.float32, torch.bfloat16) for rest in one]
    for group in (found[:2], found[2:6], found[6:8], found[8:]):
        assert all(more.bytes > less.bytes for more, less in pairwise(group))
    assert found[2].bytes < found[0].bytes  # checkpointing
    assert found[6].bytes < found[0].bytes  # half precision
    held = 4 * sum(value.numel() * (4 if value.requires_grad else 1) for value in task.state_dict(keep_vars=True).values())
    assert all(each.bytes > held for each in found)


def test_the_effective_batch_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    task, data = setup(8)
    monkeypatch.setattr(budget, "_step", lambda task, item, dtype, saves: (4_000_000 if saves else 9_000_000, 1_000_000))
    wanted = next(each for each in budget.settings(task, data) if each.checkpointing and each.batch_size == 2)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        max_steps=1, accelerator="cpu", limit_train_batches=1, limit_val_batches=0, enable_model_summary=False, **quiet
    )
    torch.manual_seed(1)
    noise = torch.get_rng_state()
    said = budget.fit_into(f"{wanted.bytes + 1000}", task, data, trainer)
    assert torch.equal(torch.get_rng_state(), noise)  # the training is the same one
    assert "float32 frozen weights, gradient checkpointing, 4 x 2 accumulated" in said
    assert data.batch_size * trainer.accumulate_grad_batches == 8
    assert task.generator.unet.is_gradient_checkpointing
    seen: list[int] = []
    losses = task.losses
    monkeypatch.setattr(task, "losses", lambda batch: seen.append(len(batch["pixels"])) or losses(batch))
    before = [value.clone() for value in task.adapter.parameters()]
    trainer.fit(task, data)
    assert seen == [2, 2, 2, 2]
    assert trainer.global_step == 1
    assert any(not torch.equal(one, two) for one, two in zip(before, task.adapter.parameters(), strict=True))


def test_what_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "find_spec", lambda name: None)
    task, data = setup(1)
    trainer, step = SimpleNamespace(accumulate_grad_batches=1), budget._step
    monkeypatch.setattr(budget, "_step", lambda *given: (1_000_000, 1000))
    least = r"0.001 GB are not enough for this training: the least is bfloat16 frozen weights.*1 at once: 0.*xmodal\[quantize\]"
    with pytest.raises(ValueError, match=least):
        budget.fit_into("1MB", task, data, trainer)
    with pytest.raises(ValueError, match="cannot tell what is in a batch of TinyData: leave it out"):
        budget.fit_into("1GB", task, TinyData(), trainer)
    monkeypatch.setattr(budget, "_step", step)
    monkeypatch.setattr(task, "losses", lambda batch: {"loss": torch.tensor(float(batch["pixels"].sum()))})
    with pytest.raises(ValueError, match="--memory cannot tell what AudioToken takes .*leave it out"):
        budget.fit_into("1GB", task, data, trainer)
    assert all(value.device.type == "cpu" for value in task.parameters())


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason='bitsandbytes is not installed: pip install "xmodal[quantize]"')
def test_quantization_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "_step", lambda *given: (1_000_000, 1000))
    task, data = setup(1)
    found = list(budget.settings(task, data))
    assert list(dict.fromkeys(each.quantize for each in found)) == [None, "int8", "nf4"]
    by_kind = {each.quantize: each.bytes for each in found}  # the last of each
    assert by_kind["nf4"] < by_kind["int8"] < by_kind[None]
    said = budget.fit_into(f"{by_kind['nf4']}", task, data, SimpleNamespace(accumulate_grad_batches=1))
    assert task.generator.quantized == task.encoder.quantized == "nf4"
    assert "nf4 frozen weights computed with in bfloat16" in said
    batch = {"waveform": torch.randn(1, 40_000) / 9, "pixels": torch.rand(1, 3, 64, 64)}
    sum(task.losses(batch).values()).backward()
    assert any(value.grad is not None and value.grad.abs().sum() > 0 for value in task.adapter.parameters())


@pytest.mark.slow
def test_the_command_says_what_it_chose(tmp_path: Path) -> None:
    words = ["fit", "v2a-regression-mini", "--data.train_count", "128", "--data.val_count", "2", "--trainer.max_steps", "1"]
    command = [sys.executable, "-W", "ignore", "-m", "xmodal", *words, "--trainer.accelerator", "cpu", "--memory", "60MB"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "xmodal: within 0.06 GB by float32 frozen weights, 8 x 16 accumulated: 0.05 GB" in done.stderr
