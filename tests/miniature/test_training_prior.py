"""The training of a prior: it learns what there is to learn, and what is written loads as any other prior."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.text2audio.parts import COLOURS, Eyes, Reader
from xmodal.foundation.diffusion_prior import DiffusionPrior
from xmodal.miniature.training.prior import TrainPrior


def pairs() -> list[dict[str, Any]]:
    def pixels(name: str) -> Tensor:
        return torch.tensor(COLOURS[name])[:, None, None].expand(3, 8, 8).clone()

    return [{"pixels": pixels(name), "name": name, "caption": f"a {name} one"} for name in COLOURS] * 8


def train(folder: Path, steps: int, **options: Any) -> TrainPrior:
    torch.manual_seed(0)
    eyes = Eyes(dim=8)
    task = TrainPrior(
        output=folder, encoder=eyes, text_encoder=Reader(eyes, gap=1.0), depth=1, heads=2, dim_head=8, timesteps=50,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, 5e-3), ema_decay=0.9, **options,
    )  # fmt: skip
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_steps=steps, accelerator="cpu", enable_model_summary=False, **quiet).fit(task, DataLoader(pairs(), 16))
    return task


@pytest.mark.parametrize("reads", ["name", "caption"])
def test_texts_lead_to_their_pictures(tmp_path: Path, reads: str) -> None:
    task = train(tmp_path / "prior", 150, reads=reads)
    prior = DiffusionPrior(str(tmp_path / "prior"))
    texts = [f"a photo of {name}" for name in COLOURS] if reads == "name" else [f"a {name} one" for name in COLOURS]
    seen = F.normalize(task.encoder.embed(torch.stack([pair["pixels"] for pair in pairs()[:2]])), dim=-1)
    said = F.normalize(task.text_encoder.embed(texts), dim=-1)
    made = prior.sample(said, generator=torch.Generator().manual_seed(0), num_inference_steps=10)
    after, before = (made * seen).sum(1), (said * seen).sum(1)
    assert (after > 0.95).all(), after
    assert (before < 0.9).all(), before  # so that there was something to learn


def test_frozen_towers_are_not_saved(tmp_path: Path) -> None:
    task = train(tmp_path / "prior", 1)
    assert not [key for key in task.state_dict() if "encoder" in key]


def test_towers_of_two_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="take one CLIP"):
        TrainPrior(tmp_path, Eyes(dim=8), Reader(Eyes(dim=6)))
