"""The miniature AudioLDM's parts: two steps of training each, and what is written loads through the real classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from xmodal.foundation import clap
from xmodal.foundation.audioldm import AudioLDM
from xmodal.foundation.mel import log_mel, preset
from xmodal.foundation.vocoder import CARDS, HifiGan
from xmodal.miniature.data import World
from xmodal.miniature.tokenizer import build_tokenizer
from xmodal.miniature.training.sounds import (
    FRAMES,
    MEAN,
    MEL,
    TrainAudioLDM,
    TrainMelVAE,
    TrainVocoder,
    _spectral_distance,
    to_mel,
)
from xmodal.miniature.training.zoo import ZooTask

SAMPLES = 40_960


def fit(task: ZooTask, frozen: bool = False) -> None:
    parts: dict[str, Any] = {"parts": [], "frozen_parts": ["waveform"]} if frozen else {"parts": ["waveform"]}
    data = World(train_count=4, val_count=2, batch_size=2, **parts)
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_steps=2, accelerator="cpu", enable_model_summary=False, num_sanity_val_steps=0, **options).fit(task, data)


@pytest.fixture(scope="module")
def waveform() -> torch.Tensor:
    return next(iter(World(["waveform"], train_count=2, val_count=2, batch_size=2).val_dataloader()))["waveform"]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with audioldm, vocoder and (untrained) clap, and the tasks that trained them."""
    folder = tmp_path_factory.mktemp("zoo")
    torch.manual_seed(0)
    clap.save(clap.build("mini"), build_tokenizer(), clap.MINI, folder / "clap")
    vae = TrainMelVAE(folder / "audioldm", block_out_channels=(8, 16, 32), layers_per_block=(0, 1, 1), latent_channels=4)
    fit(vae)
    vocoder = TrainVocoder(folder / "vocoder", channels=16, kernels=(3,), segment=8, resolutions=(256, 512))
    fit(vocoder)
    unet = TrainAudioLDM(
        folder / "audioldm", folder / "audioldm" / "vae", str(folder / "clap"), HifiGan(card=str(folder / "vocoder")),
        block_out_channels=(16, 32), judged=2,
    )  # fmt: skip
    fit(unet, frozen=True)
    return folder, {"vae": vae, "vocoder": vocoder, "unet": unet}


@pytest.fixture(scope="module")
def model(zoo: tuple[Path, dict[str, Any]]) -> AudioLDM:
    return AudioLDM(card=str(zoo[0] / "audioldm"), vocoder=HifiGan(card=str(zoo[0] / "vocoder")))


def test_the_kind_of_mel_is_that_of_the_vocoder_card(zoo: tuple[Path, dict[str, Any]]) -> None:
    assert HifiGan(card=str(zoo[0] / "vocoder")).mel == MEL == preset(CARDS["mini"].options["mel"])
    assert MEL.frames(SAMPLES) == FRAMES


@torch.no_grad()
def test_the_loaded_vocoder_is_the_averaged_one(zoo: tuple[Path, dict[str, Any]], waveform: torch.Tensor) -> None:
    mel = to_mel(waveform)[1]
    expected = zoo[1]["vocoder"].average.eval()(mel.transpose(1, 2))[:, :SAMPLES]
    made = HifiGan(card=str(zoo[0] / "vocoder"))(mel)
    torch.testing.assert_close(made, expected, atol=5e-3, rtol=0)
    assert expected.std() > 1e-3


@torch.no_grad()
def test_audioldm_encodes_as_the_training_did(model: AudioLDM, zoo: tuple[Path, dict[str, Any]], waveform: torch.Tensor) -> None:
    expected = zoo[1]["unet"].features({"waveform": waveform})["latents"]
    torch.testing.assert_close(model.encode(waveform), expected, atol=2e-2, rtol=0)
    assert expected.shape == (2, 4, 40, 16)


@torch.no_grad()
def test_audioldm_answers_as_the_averaged_unet(model: AudioLDM, zoo: tuple[Path, dict[str, Any]], waveform: torch.Tensor) -> None:
    features = zoo[1]["unet"].features({"waveform": waveform})
    latents, times = features["latents"], torch.tensor([999, 10])
    unet = zoo[1]["unet"].average.eval()
    expected = unet(latents, times, encoder_hidden_states=None, class_labels=features["embedding"]).sample
    found = model._predict(latents, times, features["embedding"])
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=0)
    other = model._predict(latents, times, features["embedding"].roll(1, 0))
    assert (other - found).abs().max() > 1e-4  # the embedding counts
    assert model.noise_scheduler.alphas_cumprod[-1] == 0  # the schedule ends in pure noise


def test_audioldm_generates(model: AudioLDM, zoo: tuple[Path, dict[str, Any]]) -> None:
    made = model.generate(torch.randn(2, 128), num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    assert made.shape == (2, SAMPLES)
    assert made.isfinite().all()
    assert model.seconds == 2.56
    text = clap.TextTower(str(zoo[0] / "clap")).embed([""])[0]
    torch.testing.assert_close(model.unconditional(), text)


@torch.no_grad()
def test_the_autoencoder_starts_at_the_mean_of_log_mels(tmp_path: Path, waveform: torch.Tensor) -> None:
    torch.manual_seed(0)
    task = TrainMelVAE(tmp_path, block_out_channels=(8, 16, 32), layers_per_block=(0, 1, 1), latent_channels=4)
    mel = to_mel(waveform)[1].transpose(1, 2)[:, None]
    net: Any = task.net
    assert net.decode(net.encode(mel).latent).sample.mean().item() == pytest.approx(MEAN, abs=1.5)


def test_segments_of_sound_and_mel_belong_together(tmp_path: Path, waveform: torch.Tensor) -> None:
    task = TrainVocoder(tmp_path, channels=16, kernels=(3,), segment=24)
    padded, mel = to_mel(waveform)
    sound, cut = task._cut(padded, mel)
    assert sound.shape == (2, 24 * MEL.hop_length)
    # Away from the ends, where each transform mirrors what it has.
    torch.testing.assert_close(log_mel(sound, MEL)[..., 3:-3], cut[..., 3:-3], atol=1e-3, rtol=1e-3)


def test_spectral_distance_is_zero_for_equals_and_steep_from_silence(waveform: torch.Tensor) -> None:
    assert _spectral_distance(waveform, waveform, 512).item() < 1e-6
    silence = torch.zeros_like(waveform, requires_grad=True)
    distance = _spectral_distance(silence, waveform, 512)
    distance.backward()
    assert distance > 1
    assert silence.grad is not None
    assert silence.grad.isfinite().all()
