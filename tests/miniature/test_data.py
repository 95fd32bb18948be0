"""The pan that the world's clips give is the one that is heard, and reaches the head that learns it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from tests.rounding import agree
from tests.vision2audio.parts import task
from xmodal.data.pan import pan_of
from xmodal.miniature import world
from xmodal.miniature.data import Clips, World
from xmodal.vision2audio import StereoPan


def test_pan_is_read_from_the_stereo_sound_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = Clips("test", 48, ("pan", "waveform"), seed=3)
    items = [clips[index] for index in range(len(clips))]
    drawn = [world.sample("test", index, seed=3) for index in range(len(clips))]
    sound = world.sound(drawn[5])
    assert items[5]["pan"].dtype == torch.float32
    assert items[5]["pan"].shape == ()
    assert agree(items[5]["pan"], pan_of(torch.from_numpy(sound)))
    assert np.array_equal(items[5]["waveform"].numpy(), sound.mean(0))
    by_place = {place: [float(i["pan"]) for i, c in zip(items, drawn, strict=True) if c.place == place] for place in world.PLACES}
    assert max(by_place["left"]) < -0.375 < min(by_place["centre"])
    assert max(by_place["centre"]) < 0.375 < min(by_place["right"])
    monkeypatch.setattr(world, "sound", lambda clip: np.zeros((2, 8), np.float32))
    clips.parts = ("pan",)
    assert torch.equal(clips[5]["pan"], items[5]["pan"])


@pytest.mark.parametrize("frozen", [False, True])
def test_a_pan_head_learns_from_the_world(tmp_path: Path, frozen: bool) -> None:
    parts = {"parts": ["pan"], "frozen_parts": ["waveform", "pixels"]}
    if frozen:
        parts = {"parts": [], "frozen_parts": ["waveform", "pixels", "pan"]}
    one = task(adapter=partial(StereoPan, hidden_dim=4))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", max_steps=2, limit_val_batches=1, **quiet)
    trainer.fit(one, World(train_count=4, val_count=2, batch_size=2, **parts))
    assert 0 < float(trainer.callback_metrics["train/pan"]) < 4
