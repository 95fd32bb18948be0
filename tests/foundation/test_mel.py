"""Log-mels against the published front ends and torchaudio, and what two descriptions have to agree on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchaudio
from safetensors.torch import load_file

from tests.rounding import agree, agree_log_mel
from xmodal.foundation.mel import AUDIOLDM, MINIATURE, PRESETS, MelSpec, from_log_mel, log_mel, mel_filters, preset

SMALL = MelSpec(8_000, 256, 256, 64, 20, 0.0, 4_000.0)


GOLDEN = load_file(Path(__file__).parent.parent / "golden" / "mel.safetensors")


def noise(samples: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, samples, generator=torch.Generator().manual_seed(0)) * 0.1


def reference(waveform: torch.Tensor, spec: MelSpec) -> torch.Tensor:
    transform = torchaudio.transforms.MelSpectrogram(
        spec.sample_rate, spec.n_fft, spec.win_length, spec.hop_length, spec.f_min, spec.f_max, n_mels=spec.n_mels,
        power=spec.power, center=False, norm=spec.norm, mel_scale=spec.scale,
    )  # fmt: skip
    padded = torch.nn.functional.pad(waveform, (spec.pad, spec.pad), mode="reflect")
    return transform(padded).clamp(min=spec.floor).log()


@pytest.mark.parametrize("name", sorted({key.rpartition(".")[0] for key in GOLDEN}))
def test_published_front_ends(name: str) -> None:
    """BigVGAN's and AudioLDM's own functions over librosa's triangles: a fading tone, noise, then next to nothing."""
    spec = preset(name)
    torch.testing.assert_close(mel_filters(spec)[:, ::7], GOLDEN[f"{name}.filters"], rtol=0, atol=1e-8)
    wanted = GOLDEN[f"{name}.log_mel"]
    assert wanted.min() < spec.silence + 1e-4 < wanted.max() - 5
    assert agree_log_mel(log_mel(GOLDEN[f"{name}.waveform"], spec), wanted, 2e-5, dim=1, power=spec.power)


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"bigvgan-44k-128-256x"}))
def test_against_torchaudio(name: str) -> None:
    spec = preset(name)
    waveform = noise(spec.sample_rate // 2)
    found = log_mel(waveform, spec)
    assert found.shape == (1, spec.n_mels, spec.frames(waveform.shape[1]))
    torch.testing.assert_close(found, reference(waveform, spec), rtol=0, atol=2e-5)


def test_bands_of_a_sliver_of_one_bin() -> None:
    """128 bands of a 1024-point transform: torchaudio's float32 triangles are themselves that inexact there."""
    spec = preset("bigvgan-44k-128-256x")
    torch.testing.assert_close(log_mel(noise(20_000), spec), reference(noise(20_000), spec), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_triangles(name: str) -> None:
    spec = PRESETS[name]
    expected = torchaudio.functional.melscale_fbanks(
        spec.n_fft // 2 + 1, spec.f_min, spec.f_max, spec.n_mels, spec.sample_rate, spec.norm, spec.scale
    )
    # torchaudio computes HTK's corners in float32
    torch.testing.assert_close(mel_filters(spec), expected.T, rtol=0, atol=2e-7 if spec.scale == "slaney" else 1e-5)


@pytest.mark.parametrize("options", [{"win_length": 200}, {"power": 2.0}, {"f_min": 55.0, "f_max": 3_000.0}, {"norm": None}])
def test_other_settings(options: dict[str, float]) -> None:
    spec = replace(SMALL, **options)
    torch.testing.assert_close(log_mel(noise(4_000), spec), reference(noise(4_000), spec), rtol=0, atol=2e-5)


def test_decimal_logarithm() -> None:
    natural, decimal = (log_mel(noise(2_000), replace(SMALL, log=base)) for base in ("ln", "log10"))
    torch.testing.assert_close(decimal * math.log(10), natural, rtol=0, atol=1e-5)


def test_counts_of_frames() -> None:
    assert AUDIOLDM.frames(163_840) == 1025  # of which AudioLDM drops the last
    assert MINIATURE.frames(40_960) == 160
    assert preset("bigvgan-24k-100").frames(240_000) == 937
    for spec in (SMALL, replace(SMALL, padding="hop")):
        for samples in (spec.min_samples, 1_000, 1_023, 1_024):
            assert log_mel(noise(samples), spec).shape[-1] == spec.frames(samples) >= 1


def test_silence_is_the_floor_and_gradients_are_finite() -> None:
    waveform = torch.zeros(1, 2_000, requires_grad=True)
    found = log_mel(waveform, SMALL)
    torch.testing.assert_close(found, torch.full_like(found, SMALL.silence))
    found.sum().backward()
    assert waveform.grad is not None
    assert waveform.grad.isfinite().all()
    loud = noise(2_000).requires_grad_()
    log_mel(loud, SMALL).sum().backward()
    assert loud.grad is not None
    assert loud.grad.abs().min() > 0


def test_each_row_alone_and_under_autocast() -> None:
    batch = noise(3_000, 3)
    together = log_mel(batch, SMALL)
    torch.testing.assert_close(log_mel(batch[1:2], SMALL)[0], together[1], rtol=0, atol=2e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert agree(log_mel(batch, SMALL), together)


def test_cached_filters_serve_training_after_inference_mode() -> None:
    spec = replace(SMALL, f_min=31.0)
    with torch.inference_mode():
        log_mel(noise(2_000), spec)
    waveform = noise(2_000).requires_grad_()
    log_mel(waveform, spec).sum().backward()
    assert waveform.grad is not None


@pytest.mark.parametrize("log", ["ln", "log10"])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_way_back_gives_the_same_bands(log: str, power: float) -> None:
    spec = replace(SMALL, log=log, power=power, n_mels=12, f_max=3_900.0)
    magnitude = from_log_mel(log_mel(noise(2_000), spec), spec)
    assert magnitude.shape == (1, 129, spec.frames(2_000))
    assert magnitude.min() >= 0
    bands = mel_filters(spec) @ magnitude**power
    error = ((bands.log() if log == "ln" else bands.log10()) - log_mel(noise(2_000), spec)).abs()
    assert error.mean() < 0.01  # where the least squares are negative they are raised to 0
    assert error.max() < 0.3


def test_disagreement_names_the_fields_and_prints_both() -> None:
    vocos, bigvgan = preset("vocos-24k-100"), preset("bigvgan-24k-100")
    with pytest.raises(
        ValueError, match="the vocoder and the generator disagree on scale, norm, offset, floor, padding"
    ) as caught:
        vocos.require(bigvgan, "the vocoder", "the generator")
    assert str(vocos) in str(caught.value)
    assert str(bigvgan) in str(caught.value)
    vocos.require(replace(vocos))


def test_config_round_trip() -> None:
    assert MelSpec.of(AUDIOLDM.to_dict(), "here") == AUDIOLDM
    with pytest.raises(ValueError, match=r"here describes no mel.*bands"):
        MelSpec.of({"bands": 3}, "here")
    with pytest.raises(ValueError, match="here does not describe.*n_mels"):
        MelSpec.of({"sample_rate": 3}, "here")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"hop_length": 0}, "hop_length"), ({"win_length": 300}, "n_fft"), ({"f_max": 5_000.0}, "sample rate"),
        ({"f_min": 4_000.0}, "f_min"), ({"floor": 0.0}, "floor"), ({"n_mels": 0}, "n_mels"), ({"power": 3.0}, "power"),
        ({"scale": "bark"}, "slaney, htk"), ({"log": "db"}, "ln, log10"), ({"padding": "none"}, "centre, hop"),
        ({"norm": "htk"}, "norm"), ({"padding": "hop", "hop_length": 65}, "even"),
    ],
)  # fmt: skip
def test_impossible_descriptions(options: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word) as caught:
        replace(SMALL, **options)
    assert "MelSpec(" in str(caught.value)


def test_impossible_waveforms_and_names() -> None:
    with pytest.raises(ValueError, match=r"\(2000,\)"):
        log_mel(noise(2_000)[0], SMALL)
    with pytest.raises(ValueError, match="at least 129 samples, got 128"):
        log_mel(noise(128), SMALL)
    with pytest.raises(ValueError, match="known are audioldm"):
        preset("audioldm2")
