"""Wav2CLIP against tensors of the original (tests/golden), torchaudio's spectrogram, its file, and its promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.rounding import agree
from xmodal.foundation.base import AudioEncoder
from xmodal.foundation.wav2clip import (
    CARDS,
    Wav2CLIP,
    Wav2CLIPConfig,
    build,
    import_checkpoint,
    log_spectrogram,
    standardise,
    tiny,
)

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "wav2clip_narrow.safetensors")


@pytest.fixture(scope="module")
def weights(golden: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in golden.items() if key.startswith(("audio_encoder.", "audio_transform."))}


@pytest.fixture(scope="module")
def file(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wav2clip") / "Wav2CLIP.pt"
    torch.save(weights, path)
    return path


@pytest.fixture(scope="module")
def encoder(file: Path) -> Wav2CLIP:
    return Wav2CLIP(str(file))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(1)


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


# ---- fidelity to the original


def test_front_end_against_the_original() -> None:
    tensors = load_file(GOLDEN / "audio_frontends.safetensors")
    close(standardise(log_spectrogram(tensors["wav_16k"][None]))[:, None], tensors["wav2clip_input"], 2e-4)


def test_spectrogram_against_torchaudio(golden: dict[str, Tensor]) -> None:
    transforms = pytest.importorskip("torchaudio.transforms")
    for wave in (golden["wav"], golden["long_wav"], torch.randn(1, 257)):
        power = transforms.Spectrogram(n_fft=512, hop_length=353, power=2)(wave)
        close(log_spectrogram(wave).exp() - 1e-7, power, 1e-5 * power.max().item())


def test_the_whole_model(golden: dict[str, Tensor], encoder: Wav2CLIP, file: Path) -> None:
    batch = Wav2CLIP(str(file), normalization="batch")
    assert ((batch.spectrogram(golden["wav"])[:, None] - golden["norm_log_spec"]).abs() < 1e-4).float().mean() > 0.999
    close(batch.model.maps(golden["norm_log_spec"][:, 0]).mean((2, 3)), golden["encoder_out"], 2e-6)
    close(batch.embed(golden["wav"]), golden["embedding"], 2e-5)
    close(encoder.embed(golden["wav"]), golden["one_by_one_embedding"], 2e-5)
    close(encoder.embed(golden["long_wav"]), golden["long_embedding"], 2e-5)
    assert (golden["embedding"] - golden["one_by_one_embedding"]).abs().max() > 1e-3  # the two rules can be told apart


def test_parameters_of_the_full_size() -> None:
    with torch.device("meta"):
        model = build("wav2clip")
    counts = [sum(parameter.numel() for parameter in part.parameters()) for part in (model.audio_encoder, model.audio_transform)]
    assert [round(count / 1e6, 2) for count in counts] == [11.17, 0.53]
    assert sum(counts) == CARDS["wav2clip"].parameters
    assert (model.config.dim, 16000) == (CARDS["wav2clip"].dim, CARDS["wav2clip"].sample_rate)


# ---- promises


def test_a_clip_is_heard_the_same_alone_and_at_any_place(encoder: Wav2CLIP, golden: dict[str, Tensor]) -> None:
    assert isinstance(encoder, AudioEncoder)
    loud, quiet = golden["wav"][:1], 0.01 * torch.randn(1, 48000)
    windowed = Wav2CLIP.from_model(encoder.model, window=0.5)
    for hear in (encoder.embed, encoder.tokens, windowed.tokens):
        alone = hear(loud)
        assert (hear(quiet) - alone).abs().max() > 1e-3
        for batch, place in ((torch.cat((loud, quiet)), 0), (torch.cat((quiet, quiet * 50, loud)), 2)):
            close(hear(batch)[place], alone[0], 1e-6)
        assert agree(hear(loud), alone)


def test_tokens_are_features_in_time_order(encoder: Wav2CLIP) -> None:
    wave = torch.randn(2, 32 * 353 * 8 - 353)
    tokens = encoder.tokens(wave)
    assert tokens.shape == (2, 8, encoder.width)
    close(encoder.model.audio_transform(tokens.mean(1)), encoder.embed(wave), 1e-5)
    long = encoder.spectrogram(torch.randn(1, 20 * 32 * 353))
    changed = long.clone()
    changed[..., -32:] += 1
    change = (encoder.model.maps(changed) - encoder.model.maps(long)).abs().amax((0, 1, 2))
    assert change[-1] > 1e-3
    assert change[:10].max() < 1e-6  # beyond the reach of the last 0.7 s


def test_tokens_of_windows_are_their_embeddings(encoder: Wav2CLIP, file: Path) -> None:
    """The original's frame mode takes the windows of one clip as a batch, standardised together."""
    wave = torch.randn(2, 40000) * torch.linspace(0.01, 1, 40000)
    tokens = Wav2CLIP.from_model(encoder.model, window=1.0, hop=0.5).tokens(wave)
    assert tokens.shape == (2, 4, encoder.dim)
    together = Wav2CLIP(str(file), normalization="batch")
    for row, clip in zip(tokens, wave, strict=True):
        close(row, together.embed(torch.stack([clip[start : start + 16000] for start in range(0, 24001, 8000)])), 1e-5)


def test_seconds_cut_or_pad(encoder: Wav2CLIP) -> None:
    limited, wave = Wav2CLIP.from_model(encoder.model, seconds=1.0), torch.randn(1, 20000)
    assert agree(limited.embed(wave), encoder.embed(wave[:, :16000]))
    assert agree(limited.embed(wave[:, :9000]), encoder.embed(torch.cat((wave[:, :9000], torch.zeros(1, 7000)), 1)))


def test_silence_is_an_ordinary_sound(encoder: Wav2CLIP) -> None:
    silence = torch.zeros(1, 16000, requires_grad=True)
    assert torch.equal(encoder.spectrogram(silence), torch.zeros(1, 257, 46))
    encoder.embed(silence).sum().backward()
    assert silence.grad is not None
    assert silence.grad.isfinite().all()


def test_frozen_but_gradients_flow_through(encoder: Wav2CLIP) -> None:
    wave = (torch.randn(1, 8000) * 0.1).requires_grad_()
    encoder.embed(wave).sum().backward()
    assert wave.grad is not None
    assert wave.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert nn.Sequential(encoder).train().state_dict() == {}
    assert not encoder.model.training


def test_front_end_stays_float32_under_autocast(golden: dict[str, Tensor]) -> None:
    plain = log_spectrogram(golden["wav"])
    with torch.autocast("cpu", torch.bfloat16):
        assert agree(log_spectrogram(golden["wav"]), plain)


# ---- files


def test_import_round_trip(weights: dict[str, Tensor], encoder: Wav2CLIP, file: Path, tmp_path: Path) -> None:
    """Nested and prefixed as trainers write it, with what the original's loader ignores too."""
    drift = {f"module.{key}": value for key, value in weights.items()}
    drift |= {"image_transform.sequential.0.weight": torch.zeros(2, 2), "audio_encoder.fc.weight": torch.zeros(3, 2)}
    torch.save({"state_dict": drift, "epoch": 3}, tmp_path / "trained.ckpt")
    wave = torch.randn(1, 16000)
    for source in (file, tmp_path / "trained.ckpt"):
        folder = import_checkpoint(source, tmp_path / source.stem)
        loaded = Wav2CLIP(str(folder))
        assert agree(loaded.embed(wave), encoder.embed(wave))
        assert loaded.model.config == Wav2CLIPConfig((8, 16, 24, 32), 32, 32)
    stored = load_file(tmp_path / "Wav2CLIP" / "model.safetensors")
    assert stored.keys() == weights.keys() - {"audio_encoder.spectrogram.window"}


STAGE = "audio_encoder.layer2.0.conv1.weight"


@pytest.mark.parametrize(("change", "words"), [({"audio_encoder.bn1.weight": None}, "1 missing, 0 unknown.*audio_encoder.bn1"),
                                               ({"audio_encoder.extra": torch.zeros(1)}, "0 missing, 1 unknown"),
                                               ({STAGE: None}, "not a Wav2CLIP file.*layer2")])  # fmt: skip
def test_other_files_are_refused(change: dict[str, Any], words: str, weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({key: value for key, value in (weights | change).items() if value is not None}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=words):
        import_checkpoint(tmp_path / "other.pt", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_files_that_are_not_there_or_not_of_this_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Wav2CLIP\.pt.*give the path as card"):
        Wav2CLIP()
    with pytest.raises(ValueError, match="no card 'wav3clip'.*wav2clip"):
        Wav2CLIP("wav3clip")
    (tmp_path / "config.json").write_text('{"cfg": {}}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"damaged|not of Wav2CLIP"):
        Wav2CLIP(str(tmp_path))


@pytest.mark.parametrize(("options", "words"), [({"normalization": "layer"}, "layer.*clip, batch"),
                                                ({"hop": 1.0}, "window is None"), ({"window": 0.0}, "window 0.0"),
                                                ({"window": 1.0, "hop": 0.0}, "hop 0.0"),
                                                ({"seconds": 0.01}, "seconds 0.01 is too short")])  # fmt: skip
def test_impossible_options(options: dict[str, Any], words: str, encoder: Wav2CLIP) -> None:
    with pytest.raises(ValueError, match=words):
        Wav2CLIP.from_model(encoder.model, **options)


def test_impossible_inputs(encoder: Wav2CLIP) -> None:
    with pytest.raises(ValueError, match="at least 257 samples.*got 256"):
        encoder.embed(torch.zeros(1, 256))
    with pytest.raises(ValueError, match=r"\(batch, samples\), got \(16000,\)"):
        encoder.tokens(torch.zeros(16000))
    with pytest.raises(ValueError, match="at least 16000 samples.*got 15999"):
        Wav2CLIP.from_model(encoder.model, window=1.0).tokens(torch.zeros(1, 15999))
    assert encoder.embed(torch.randn(1, 257)).isfinite().all()


def test_tiny_is_whole() -> None:
    made = tiny()["Wav2CLIP"]()
    assert isinstance(made, Wav2CLIP)
    wave = torch.randn(2, 24000)
    assert made.embed(wave).shape == (2, made.dim)
    assert made.tokens(wave).shape == (2, 3, made.width)
