"""Recipes of earlier versions still load, and say which name is old."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.commands.test_lightning import xmodal
from xmodal.foundation.base import Adapter, AudioEncoder
from xmodal.foundation.clap import AudioTower
from xmodal.registry import renamed
from xmodal.registry.build import Builder, by_todays_names
from xmodal.text2audio import MelUNet

OLD = {
    "class_path": "xmodal.text2audio.MelUNet",
    "init_args": {"preset": "mini", "channels": [16, 32], "attention": [False, True], "layers": 1, "head": 8, "groups": 8}
    | {"patch": 1, "planes": 2},
}


def test_an_adapters_recipe_by_old_names() -> None:
    with pytest.warns(FutureWarning, match="MelUNet: the option channels is called block_out_channels today"):
        network = Builder("recipe.yaml").factory(OLD, Adapter)(6, 14)
    assert isinstance(network, MelUNet)
    assert (network.sizes.block_out_channels, network.sizes.attention_head_dim, network.latent_channels) == ((16, 32), 8, 2)
    with pytest.warns(FutureWarning, match="normalise is called normalize"):
        tower = Builder("recipe.yaml").build(
            {"class_path": "xmodal.foundation.clap.AudioTower", "init_args": {"normalise": False}}, AudioEncoder
        )
    assert isinstance(tower, AudioTower)
    assert not tower.normalize


def test_both_names_are_refused() -> None:
    with pytest.raises(ValueError, match="MelUNet is given both planes and latent_channels"):
        renamed.options({"planes": 1, "latent_channels": 2}, {"latent_channels"}, "MelUNet")


def test_only_what_is_ours_is_renamed() -> None:
    own: dict[str, Any] = {"class_path": "mine.Net", "init_args": {"channels": 3, "part": OLD}}
    vocoder = {"class_path": "xmodal.miniature.training_sound.TrainVocoder", "init_args": {"channels": 3}}
    with pytest.warns(FutureWarning):
        read = by_todays_names({"model": [own], **vocoder})
    assert read["model"][0]["init_args"]["channels"] == 3
    assert read["model"][0]["init_args"]["part"]["init_args"]["latent_channels"] == 2
    assert read["class_path"] == "xmodal.miniature.training.TrainVocoder"
    assert read["init_args"] == {"channels": 3}, "a vocoder's own option of that name"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert by_todays_names({"class_path": "xmodal.nothing.Here", "init_args": {"layers": 1}})["init_args"] == {"layers": 1}


def test_the_command_line_reads_old_names(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(
        """
model:
  class_path: xmodal.vision2audio.V2AMapper
  init_args:
    encoder: {class_path: xmodal.foundation.clip.ImageTower, init_args: {card: mini, normalise: true}}
    target: {class_path: xmodal.foundation.clap.AudioTower, init_args: {card: mini}}
    generator: {class_path: xmodal.foundation.audioldm.AudioLDM, init_args: {card: mini}}
    adapter: {class_path: xmodal.vision2audio.RegressionMapper, init_args: {hidden_dim: 8}}
    optimizer: torch.optim.AdamW
data:
  class_path: xmodal.miniature.data.World
  init_args: {parts: [], frozen_parts: [waveform, pixels], train_count: 4, val_count: 2, batch_size: 2}
trainer: {accelerator: cpu}
"""
    )
    done = xmodal("fit", "--config", "old.yaml", "--print_config", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "normalize: true" in done.stdout
    assert "normalise" not in done.stdout
    assert "normalise is called normalize today" in done.stderr
