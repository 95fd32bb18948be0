"""Autoencoders of log-mels: against AudioLDM, whose part they are, and the embedded one on sounds of the world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tests.rounding import agree
from xmodal.foundation import audioldm, mel_vae
from xmodal.foundation.mel import AUDIOLDM, MINIATURE, MelSpec, log_mel
from xmodal.foundation.mel_vae import CARDS, MelVAE
from xmodal.miniature import world
from xmodal.miniature.training.zoo import autoencoder
from xmodal.registry.cards import WEIGHTS

GOLDEN = Path(__file__).parent.parent / "golden" / "audioldm_tiny.safetensors"
SMALL = MelSpec(16_000, 1024, 1024, 160, 16, 0.0, 8_000.0)


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def flat(latents: Tensor) -> Tensor:
    """AudioLDM's layout (B, C, l, m) to this one."""
    return latents.transpose(2, 3).flatten(1, 2)


@pytest.fixture
def small() -> Any:
    """A deep-compression autoencoder of factor 2 with 4 channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return autoencoder((4, 8), (0, 1), 4, in_channels=1)


def test_latents_are_audioldms_own_in_another_layout() -> None:
    torch.manual_seed(0)
    generator: Any = audioldm.tiny()["AudioLDM"]()
    vae = MelVAE.from_model(generator.vae, generator.mel)
    waveform = torch.randn(2, 2_560) * 0.1
    wanted, mel = generator.encode(waveform), log_mel(waveform, generator.mel)[..., :16]
    found = vae.encode(mel)
    assert (vae.latent_channels, vae.factor, found.shape) == (4, 2, (2, 4 * generator.mel.n_mels // 2, 8))
    close(found, flat(wanted), 1e-6)
    close(vae.decode(found), generator.decode_mel(wanted), 1e-5)


def test_decoding_equals_the_golden_log_mel() -> None:
    from diffusers import AutoencoderKL

    golden = load_file(GOLDEN)
    with safe_open(GOLDEN, "pt") as file:
        model = AutoencoderKL(**json.loads(file.metadata()["vae"]))
    model.load_state_dict({key.removeprefix("vae."): value.float() for key, value in golden.items() if key.startswith("vae.")})
    close(
        MelVAE.from_model(model, SMALL).decode(flat(golden["latents_trajectory"][-1])), golden["mel"][:, 0].transpose(1, 2), 1e-5
    )


def test_embedded_autoencoder_on_sounds_of_the_world() -> None:
    vae = MelVAE()
    assert (vae.mel, vae.factor, vae.size) == (MINIATURE, 4, 128)
    sounds = torch.stack([torch.from_numpy(world.sound(world.sample("test", index)).mean(0)) for index in range(6)])
    mel = log_mel(torch.nn.functional.pad(sounds, (0, 960)), MINIATURE)
    latents = vae.encode(mel)
    assert latents.shape == (6, 128, 40)
    assert 0.8 < latents.std() < 1.25
    assert 8.686 * (vae.decode(latents) - mel).abs().mean() < 1.2
    assert sum(parameter.numel() for parameter in vae.parameters()) == CARDS["mini"].parameters


def test_folder_of_either_class_and_its_kind_of_mel(small: Any, tmp_path: Path) -> None:
    small.register_to_config(scaling_factor=2.0)
    small.save_pretrained(tmp_path / "ldm" / "vae")
    audio, mini = MelVAE(str(tmp_path / "ldm")), MelVAE(str(tmp_path / "ldm" / "vae"), mel="miniature")
    assert (audio.mel, mini.mel) == (AUDIOLDM, MINIATURE)
    made = MelVAE.from_model(small, MINIATURE)
    assert mini.fingerprint() == made.fingerprint() == audio.fingerprint()
    mel = torch.randn(2, 64, 6)
    assert agree(mini.encode(mel), made.encode(mel))
    close(mini.encode(mel), 2 * flat(small.encode(mel.transpose(1, 2)[:, None]).latent), 1e-6)
    kl = mel_vae.tiny()["MelVAE"]()
    kl.model.save_pretrained(tmp_path / "kl")
    assert MelVAE(str(tmp_path / "kl")).fingerprint() == kl.fingerprint()


def test_shapes_that_do_not_fit(small: Any) -> None:
    vae = MelVAE.from_model(small, SMALL)
    for shape in ((2, 15, 8), (2, 16, 7), (16, 8), (2, 1, 16, 8)):
        with pytest.raises(ValueError, match=r"takes \(B, 16, L\), L a multiple of 2"):
            vae.encode(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"\(2, 16, 8\), but the autoencoder takes \(B, 32, l\)"):
        vae.decode(torch.zeros(2, 16, 8))
    with pytest.raises(ValueError, match="divides bands by 2, which cannot be done with .*n_mels=15"):
        MelVAE.from_model(small, MelSpec(16_000, 1024, 1024, 160, 15, 0.0, 8_000.0))


def test_what_is_no_autoencoder_of_log_mels(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes 3 channels, but a log-mel has 1"):
        MelVAE(str(WEIGHTS / "stable_diffusion"))
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(ValueError, match="holds a UNet2DModel, but expected AutoencoderKL or AutoencoderDC"):
        MelVAE(str(tmp_path))
    with pytest.raises(ValueError, match="mel_vae has no card 'nothing'.*mini, audioldm"):
        MelVAE("nothing")
    with pytest.raises(ValueError, match="there is no mel spectrogram 'nothing'"):
        MelVAE(mel="nothing")


def test_a_draw_is_never_made() -> None:
    """A posterior's mean: the same log-mel always gives the same latents."""
    vae: Any = mel_vae.tiny()["MelVAE"]()
    mel = torch.randn(1, 64, 8)
    assert agree(vae.encode(mel), vae.encode(mel))
    mean = vae.model.encode(mel.transpose(1, 2)[:, None]).latent_dist.mean
    close(vae.encode(mel), flat(mean) * vae.model.config.scaling_factor, 1e-6)
