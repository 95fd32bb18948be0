"""The miniature CLIP and CLAP: two steps of training, and what is written loads through the real classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.nn import functional as F

from xmodal.foundation import clap, clip
from xmodal.miniature import world
from xmodal.miniature.data import World, heard_caption
from xmodal.miniature.training.embeddings import SHARPEST, TrainCLAP, TrainCLIP, TrainPair

PARTS = {
    TrainCLIP: ["pixels", "caption", "full_caption", "factors"],
    TrainCLAP: ["waveform", "heard_caption", "full_heard_caption", "factors"],
}
TEXTS = ["a photo of a bell", "the sound of two large rain clouds", "three small red drums on the left, white background"]


@dataclass
class Trained:
    task: Any
    batch: dict[str, Any]
    folder: Path
    printed: str


@pytest.fixture(scope="module", params=[TrainCLIP, TrainCLAP], ids=["clip", "clap"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp(request.param.__name__) / "weights"
    torch.manual_seed(0)
    task = request.param(output=folder)
    data = World(PARTS[request.param], train_count=8, val_count=6, batch_size=3)
    printed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *words, **_: printed.append(" ".join(map(str, words))))
        options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        Trainer(max_steps=2, accelerator="cpu", enable_model_summary=False, num_sanity_val_steps=0, **options).fit(task, data)
    return Trained(task.eval(), next(iter(data.val_dataloader())), folder, "\n".join(printed))


def towers_of(trained: Trained) -> tuple[Any, Any]:
    if isinstance(trained.task, TrainCLIP):
        return clip.ImageTower(str(trained.folder), normalize=True), clip.TextTower(str(trained.folder), normalize=True)
    return clap.AudioTower(str(trained.folder)), clap.TextTower(str(trained.folder))


@torch.no_grad()
def test_the_loaded_towers_are_the_averaged_ones(trained: Trained) -> None:
    perceiving, reading = towers_of(trained)
    assert perceiving.dim == reading.dim == 128
    averaged = trained.task.average["towers"].eval()
    inputs = trained.batch["pixels" if isinstance(trained.task, TrainCLIP) else "waveform"]
    expected = F.normalize(trained.task.perceive(averaged, trained.batch), dim=-1)
    torch.testing.assert_close(perceiving.embed(inputs), expected, atol=2e-3, rtol=0)  # 16-bit weights
    expected = F.normalize(trained.task.read(averaged, TEXTS), dim=-1)
    torch.testing.assert_close(reading.embed(TEXTS), expected, atol=2e-3, rtol=0)


def test_what_is_written_is_small_and_complete(trained: Trained) -> None:
    size = sum(path.stat().st_size for path in trained.folder.rglob("*") if path.is_file())
    assert size <= 4e6
    card = (clip if isinstance(trained.task, TrainCLIP) else clap).CARDS["mini"]
    assert card.lacking(trained.folder) == []
    assert "recall@1" in trained.printed
    assert "thing named right" in trained.printed
    assert "6 validation clips" in trained.printed


def test_every_weight_of_both_towers_learns(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained.task, "log", lambda *_, **__: None)
    losses = trained.task.train().losses(trained.batch)
    assert set(losses) == {"forth", "back", "reading"}
    torch.stack(list(losses.values())).sum().backward()
    idle = [name for name, value in trained.task.net.named_parameters() if value.grad is None or not value.grad.isfinite().all()]
    trained.task.net.zero_grad(set_to_none=True)
    trained.task.eval()
    assert idle == []


def test_training_reads_shortened_sentences_and_validation_whole_ones(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    task: TrainPair = trained.task
    said: list[list[str]] = []
    read = task.read
    monkeypatch.setattr(task, "read", lambda towers, texts: said.append(texts) or read(towers, texts))
    monkeypatch.setattr(task, "log", lambda *_, **__: None)
    monkeypatch.setattr(task, "whole", 0.0)
    with torch.no_grad():
        task.train().losses(trained.batch)
        task.eval().losses(trained.batch)
    assert said == [list(trained.batch[task.caption]), list(trained.batch[task.whole_caption])]


def test_temperatures_are_bounded(trained: Trained) -> None:
    towers = trained.task.net["towers"]
    for temperature in trained.task.temperatures(towers):
        before = temperature.item()
        temperature.data.fill_(9.0)
        trained.task._move_average(1)
        assert temperature.item() == pytest.approx(SHARPEST) == pytest.approx(math.log(100))
        temperature.data.fill_(before)


def test_heard_captions_tell_only_what_mono_sounds_do() -> None:
    silent = {*world.COLOURS, *world.BACKGROUNDS, "background", "left", "right", "centre"}
    data = World(["heard_caption", "full_heard_caption"], train_count=60, batch_size=60)
    batch = next(iter(data.train_dataloader()))
    for text in (*batch["heard_caption"], *batch["full_heard_caption"]):
        assert not silent & set(text.replace(",", "").split()), text
    clip_ = world.Clip("bell", "large", "left", 2, "red", "white", 0)
    assert heard_caption(clip_) == "the sound of two large bells"
