"""The generator over an autoencoder's latents: features, training, sampling, and that weights remember the autoencoder."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.rounding import agree
from tests.text2audio.parts import MEL, UNET, Eyes, Oracle, Reader, Squares, batch, task
from tests.text2audio.test_task import Data, trainer
from tests.tiny import build
from xmodal.adapter_task import AdapterTask
from xmodal.foundation import mel_vae
from xmodal.foundation.mel_vae import MelVAE
from xmodal.foundation.vocoder import GriffinLim
from xmodal.text2audio import CLIPSonic, CLIPSonicPipeline

FOLDED = partial(UNET, latent_channels=4, patch_size=1)


def latent_task(autoencoder: Any = None, **options: Any) -> CLIPSonic:
    return task(**{"autoencoder": autoencoder or Squares(), "adapter": FOLDED, **options})


def pipeline(oracle: Oracle, kind: str = "v_prediction") -> CLIPSonicPipeline:
    return CLIPSonicPipeline(Eyes(), oracle, GriffinLim.from_spec(MEL, 1), Squares(), prediction_type=kind)


def noise(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_features_are_latents_of_whole_frames() -> None:
    one, items = latent_task(), batch()
    found = one.features(items)
    assert set(found) == {"condition", "latents"}
    assert found["latents"].shape == (4, 28, 16)  # 7 bands of 4 channels
    assert agree(found["latents"], one.autoencoder.encode(one.spectrogram(items["waveform"])))
    assert one.features({**items, **found}) == {}
    feature = one.frozen_features()["latents"]
    assert (feature.inputs, feature.outputs) == (("waveform",), ("latents",))
    assert feature.parts == (one.vocoder, one.autoencoder)
    longer = latent_task(seconds=0.52)  # 33 frames of sound, 34 of latents
    assert longer.samples == 34 * 64
    assert longer.features(items)["latents"].shape == (4, 28, 17)


def test_stored_latents_give_the_same_loss() -> None:
    one, items = latent_task().eval(), batch()
    loss = one.losses(items)["denoising"]
    assert agree(one.losses(one.features(items))["denoising"], loss)
    other = {**one.features(items), "latents": one.features(items)["latents"].flip(0)}
    assert not agree(one.losses(other)["denoising"], loss)


def test_training_learns(tmp_path: Path) -> None:
    one = latent_task(optimizer=lambda found: torch.optim.AdamW(found, lr=3e-3), ema_decay=0.9).eval()
    before = one.losses(batch())["denoising"]
    one.train()
    trainer(tmp_path, steps=40, max_epochs=-1, limit_val_batches=0).fit(one, Data())
    one.eval()
    assert one.losses(batch())["denoising"] < 0.6 * before
    assert {name.partition(".")[0] for name in one.state_dict()} == {"adapter", "average"}


@pytest.mark.parametrize(("seconds", "frames"), [(0.5, 32), (0.3, 19), (0.004, 1)])
def test_sounds_of_any_length(seconds: float, frames: int) -> None:
    eyes = Eyes()
    pipe = latent_task(encoder=eyes, text_encoder=Reader(eyes), num_inference_steps=2).eval().pipeline()
    made = pipe(["red", "green"], audio_length_in_s=seconds, generator=noise(0, 1))
    assert made.audios.shape == (2, round(seconds * 4_000))
    assert made.mels.shape == (2, 14, frames)
    assert np.isfinite(made.audios).all()
    alone = pipe("green", audio_length_in_s=seconds, generator=noise(1))
    assert torch.allclose(alone.mels[0], made.mels[1], atol=1e-3)


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_latents_beyond_one_are_not_cut(kind: str) -> None:
    """As spectrograms are: an exact network gives the exact latents of 2, and with guidance of 4."""
    pipe = pipeline(Oracle(kind, 2.5, "any"), kind)
    condition = torch.tensor([[0.8, 0.6, 0, 0, 0, 0]])
    for scale, expected in ((1.0, 2.0), (2.0, 4.0)):
        made = pipe.generate(condition, 9, 25, scale, noise(0))
        assert made.shape == (1, 14, 9)
        assert ((made + 6) / 3).mean() == pytest.approx(expected, abs=0.05)


def test_other_schedulers_do_not_cut_them_either() -> None:
    from diffusers import DDIMScheduler

    pipe, condition = pipeline(Oracle(gain=2.5, latents="any")), torch.tensor([[0.8, 0.6, 0, 0, 0, 0]])
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    assert ((pipe.generate(condition, 8, 25, 1.0, noise(0)) + 6) / 3).mean() == pytest.approx(2.0, abs=0.05)
    for option in ("clip_sample", "thresholding"):
        with pytest.raises(ValueError, match=f"{option} cuts what is made to .-1, 1., but latents are larger"):
            pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **{option: True})
    whole = task().eval().pipeline()
    whole.scheduler = DDIMScheduler.from_config(whole.scheduler.config)
    assert whole.scheduler.config.clip_sample


def test_weights_remember_the_autoencoder_through_safetensors_and_half_precision(tmp_path: Path) -> None:
    one = latent_task()
    assert one.adapter.latents == one.autoencoder.fingerprint()
    state = {name: value.half() if value.is_floating_point() else value for name, value in one.adapter.state_dict().items()}
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "a.safetensors")
    stored = load_file(tmp_path / "a.safetensors")
    latent_task().adapter.load_state_dict(stored)
    unbound = FOLDED(6, 28)
    unbound.load_state_dict(stored)
    assert (unbound.mel, unbound.latents) == (MEL, one.autoencoder.fingerprint())
    own, other = (Squares(scale).fingerprint()[:12] for scale in (3.0, 2.0))
    with pytest.raises(ValueError, match=f"latents of the autoencoder {own}, this one latents of the autoencoder {other}: set"):
        latent_task(Squares(2.0)).adapter.load_state_dict(stored)
    with pytest.raises(ValueError, match=f"makes latents of the autoencoder {own}, this one spectrograms: set autoencoder"):
        task().adapter.load_state_dict(stored)
    with pytest.raises(ValueError, match=f"makes spectrograms, this one latents of the autoencoder {own}: set autoencoder"):
        latent_task().adapter.load_state_dict(task().adapter.state_dict())


SECTION = """
class_path: xmodal.text2audio.CLIPSonic
init_args:
  encoder: {class_path: tests.text2audio.parts.Eyes}
  vocoder: {class_path: xmodal.foundation.vocoder.GriffinLim, init_args: {mel: miniature, iterations: 1}}
  autoencoder: {class_path: xmodal.foundation.mel_vae.MelVAE, init_args: {card: mini}}
  adapter:
    class_path: xmodal.text2audio.MelUNet
    init_args:
      {preset: mini, block_out_channels: [16, 16], attention: [false, true], attention_head_dim: 16, norm_num_groups: 8,
       patch_size: 1, latent_channels: 8}
  seconds: 0.3
  num_inference_steps: 1
"""


def test_a_published_folder_finds_its_autoencoder_and_refuses_another(tmp_path: Path) -> None:
    one = build(yaml.safe_load(SECTION), CLIPSonic)
    one.recipe = yaml.safe_dump({"model": yaml.safe_load(SECTION)})
    folder = one.save_adapter(tmp_path / "mini", dtype=torch.float16)
    made = AdapterTask.from_folder(folder).pipeline()(torch.rand(3, 8, 8), generator=noise(0))
    assert made.audios.shape == (1, 4_800)
    assert made.mels.shape == (1, 64, 19)
    model = MelVAE().model
    next(model.parameters()).data += 1e-3
    with pytest.raises(ValueError, match="set autoencoder as it was trained"):
        AdapterTask.from_folder(folder, autoencoder=MelVAE.from_model(model, one.vocoder.mel))


def test_parts_that_do_not_fit_together() -> None:
    one = latent_task()
    with pytest.raises(ValueError, match="makes latents, so it needs the autoencoder"):
        CLIPSonicPipeline(one.encoder, one.average, one.vocoder)
    with pytest.raises(ValueError, match="makes spectrograms, so it takes no autoencoder"):
        CLIPSonicPipeline(one.encoder, task().average, one.vocoder, Squares())
    narrow = Squares()
    narrow.latent_channels = 3
    with pytest.raises(ValueError, match="latents of 28 numbers a frame, but the autoencoder's have 21"):
        CLIPSonicPipeline(one.encoder, one.average, one.vocoder, narrow)
    for refused in (latent_task, partial(CLIPSonicPipeline, one.encoder, one.average, one.vocoder)):
        with pytest.raises(ValueError, match="the mel of the autoencoder and the mel of the vocoder disagree on f_max"):
            refused(autoencoder=Squares(mel=replace(MEL, f_max=1_900.0)))
    with pytest.raises(ValueError, match="latent_channels is 1, but what the network makes has 4 channels: set it"):
        latent_task(adapter=UNET)
    with pytest.raises(ValueError, match="latent_channels is 2, but what the network makes has 1 channels"):
        task(adapter=partial(UNET, latent_channels=2))
    with pytest.raises(ValueError, match="28 numbers a frame are not 5 latent_channels"):
        FOLDED(6, 28, latent_channels=5)


def test_any_registered_autoencoder_will_do() -> None:
    vae = mel_vae.tiny()["MelVAE"]()
    network = partial(UNET, latent_channels=vae.latent_channels, patch_size=1)
    one = task(autoencoder=vae, adapter=network, vocoder=GriffinLim.from_spec(vae.mel, 1), seconds=0.1).eval()
    items = {"pixels": torch.rand(2, 3, 8, 8), "waveform": torch.randn(2, 1_600) * 0.1}
    assert one.features(items)["latents"].shape == (2, vae.size, 4)
    assert torch.isfinite(one.losses(items)["denoising"])
