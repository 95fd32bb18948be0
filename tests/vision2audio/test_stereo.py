"""The pan head: learnt from pans, heard in the channels, and no part of the mapper's own learning."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import soundfile
import torch
import yaml

from tests.rounding import agree
from tests.tiny import build
from tests.vision2audio.parts import batch, colour, task
from xmodal.data.pan import pan_of, panned
from xmodal.foundation.base import Adapter
from xmodal.vision2audio import RegressionMapper, StereoPan, V2AMapper

PANS = {"red": -0.7, "green": 0.0, "blue": 0.7, "grey": 0.3}


def test_panning_keeps_the_power_and_can_be_read_back() -> None:
    mono, pan = torch.randn(5, 300), torch.tensor([-1.0, -0.4, 0.0, 0.5, 1.0])
    stereo = panned(mono, pan)
    assert stereo.shape == (5, 2, 300)
    torch.testing.assert_close(stereo.square().sum((1, 2)), mono.square().sum(1))
    torch.testing.assert_close(pan_of(stereo), pan, atol=1e-5, rtol=0)
    assert stereo[0, 1].abs().max() < 1e-6
    assert pan_of(torch.zeros(2, 2, 8)).isnan().all()


def test_learns_where_things_are_and_writes_stereo(tmp_path: Path) -> None:
    one = task(adapter=partial(StereoPan, hidden_dim=16), predictions=tmp_path, ema_decay=0.9)
    items = batch()
    items["pan"] = torch.tensor([PANS[name] for name in items["name"]])
    items["pan"][4:] = torch.nan
    optimizer = torch.optim.AdamW(one.adapter.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        losses = one.train().losses(items)
        sum(losses.values()).backward()  # type: ignore[union-attr]
        optimizer.step()
    assert set(losses) == {"mapping", "pan"}
    one.average.load_state_dict(one.adapter.state_dict())  # type: ignore[union-attr]
    made = one.eval().pipeline()([colour(name) for name in PANS])
    assert made.audios.shape == (4, 2, 400)
    assert made.pans is not None
    torch.testing.assert_close(made.pans, torch.tensor(list(PANS.values())), atol=0.1, rtol=0)
    torch.testing.assert_close(pan_of(torch.from_numpy(made.audios)), made.pans, atol=1e-3, rtol=0)
    paths = one.predict_step(items, 0)
    assert soundfile.info(paths[0]).channels == 2
    assert soundfile.info(paths[0]).frames == 400


def test_the_mapper_learns_as_it_would_alone() -> None:
    torch.manual_seed(0)
    adapter = StereoPan(5, 6, partial(RegressionMapper, hidden_dim=8))
    assert isinstance(adapter, Adapter)
    source, target = torch.randn(4, 5), torch.randn(4, 6)
    assert agree(adapter.loss(source, target), adapter.mapper.loss(source, target))
    adapter.pan_loss(source, torch.zeros(4)).backward()
    assert all(value.grad is None for value in adapter.mapper.parameters())
    assert all(value.grad is not None for value in adapter.head.parameters())
    nothing = adapter.pan_loss(source, torch.full((4,), torch.nan))
    assert nothing == 0
    with pytest.raises(ValueError, match="weight 0 above 0"):
        StereoPan(5, 6, weight=0)


def test_recipe_with_a_mapper_inside_a_mapper() -> None:
    section = """
    class_path: xmodal.vision2audio.V2AMapper
    init_args:
      encoder: {class_path: tests.vision2audio.parts.Eyes}
      target: {class_path: tests.vision2audio.parts.Ears}
      generator: {class_path: tests.vision2audio.parts.Voice}
      adapter:
        class_path: xmodal.vision2audio.StereoPan
        init_args: {mapper: {class_path: xmodal.vision2audio.LinearMapper}, hidden_dim: 4}
    """
    one = build(yaml.safe_load(section), V2AMapper)
    assert isinstance(one.adapter, StereoPan)
    assert one.adapter.mapper.net.weight.shape == (6, 5)
    assert torch.isfinite(one.losses(batch())["mapping"])
