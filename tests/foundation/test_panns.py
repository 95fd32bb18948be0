"""CNN14 against torchlibrosa's front end (tests/golden), torchaudio's filters, its files, and its promises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from tests.rounding import agree
from xmodal.foundation.base import AudioEncoder
from xmodal.foundation.panns import CARDS, RATE_16K, Cnn14Config, Cnn14Model, PANNs, build, import_checkpoint, tiny

GOLDEN = Path(__file__).parent.parent / "golden"
WIDTHS = (4, 4, 6, 6, 8, 10)
SMALL = Cnn14Config(**RATE_16K, widths=WIDTHS, classes=7)
SMALL_32K = Cnn14Config(widths=WIDTHS, classes=7)
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
BLOCK = {f"{conv}.weight" for conv in ("conv1", "conv2")} | {f"{norm}.{kind}" for norm in ("bn1", "bn2") for kind in NORM}
OFFICIAL = (
    {f"bn0.{kind}" for kind in NORM}
    | {f"conv_block{index}.{key}" for index in range(1, 7) for key in BLOCK}
    | {f"{linear}.{kind}" for linear in ("fc1", "fc_audioset") for kind in ("weight", "bias")}
)


def lively(config: Cnn14Config) -> Cnn14Model:
    """Random weights whose normalizations are not the identity."""
    torch.manual_seed(0)
    model = Cnn14Model(config).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, std=0.1)
    nn.init.constant_(model.bn0.running_mean, -30)
    nn.init.constant_(model.bn0.running_var, 400)
    return model


@pytest.fixture(scope="module")
def model() -> Cnn14Model:
    return lively(SMALL)


@pytest.fixture(scope="module")
def encoder(model: Cnn14Model) -> PANNs:
    return PANNs.from_model(model)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(1)


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def slaney(config: Cnn14Config) -> Tensor:
    functional = pytest.importorskip("torchaudio.functional")
    return functional.melscale_fbanks(
        config.window // 2 + 1, config.low, config.high, config.mel_bins, config.sample_rate, norm="slaney", mel_scale="slaney"
    )


def published(model: Cnn14Model) -> dict[str, Any]:
    """The form of the published files: the front end among the tensors, the sampler's arrays beside them."""
    config = model.config
    window = torch.hann_window(config.window, dtype=torch.float64)
    transform = torch.fft.fft(torch.diag(window))[:, : config.window // 2 + 1].T[:, None]
    front = {
        "spectrogram_extractor.stft.conv_real.weight": transform.real.float(),
        "spectrogram_extractor.stft.conv_imag.weight": transform.imag.float(),
        "logmel_extractor.melW": slaney(config),
    }
    sampler = {"indexes_per_class": [np.arange(5)], "pointers_of_classes": [0], "queue": []}
    return {"iteration": 600000, "model": front | model.state_dict(), "sampler": sampler}


# ---- fidelity to the original


def test_log_mel_against_the_original(model: Cnn14Model) -> None:
    tensors = load_file(GOLDEN / "audio_frontends.safetensors")
    close(model.log_mel(tensors["wav_16k"][None])[:, None], tensors["panns16k_logmel"], 2e-4)


@pytest.mark.parametrize("config", [SMALL, SMALL_32K], ids=["16k", "32k"])
def test_log_mel_against_torchaudio(config: Cnn14Config) -> None:
    transforms = pytest.importorskip("torchaudio.transforms")
    wave = torch.randn(2, config.sample_rate, generator=torch.Generator().manual_seed(1)) * torch.tensor([[0.3], [1e-7]])
    power = transforms.Spectrogram(n_fft=config.window, hop_length=config.hop, power=2)(wave)
    expected = 10 * (power.transpose(1, 2) @ slaney(config)).clamp(min=1e-10).log10()
    made = Cnn14Model(config).log_mel(wave)
    assert made.shape == (2, 101, 64)
    close(made, expected, 1e-3)
    assert made[1].min() == -100  # the floor


def test_network_against_a_plain_list_of_steps(model: Cnn14Model) -> None:
    weights, decibels = model.state_dict(), torch.randn(2, 70, 64) * 20 - 30

    def norm(x: Tensor, name: str, dim: int) -> Tensor:
        mean, var, gain, bias = (
            weights[f"{name}.{kind}"].view([-1 if axis == dim else 1 for axis in range(x.ndim)])
            for kind in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * gain + bias

    x = norm(decibels, "bn0", 2)[:, None]
    for index in range(1, 7):
        for layer in (1, 2):
            convolved = F.conv2d(x, weights[f"conv_block{index}.conv{layer}.weight"], padding=1)
            x = norm(convolved, f"conv_block{index}.bn{layer}", 1).clamp(min=0)
        if index < 6:
            height, width = x.shape[2] // 2 * 2, x.shape[3]
            x = x[:, :, :height].reshape(2, -1, height // 2, 2, width // 2, 2).mean((3, 5))
    assert x.shape == (2, 10, 2, 2)
    x = x.mean(3)
    close(model.tokens(decibels), x.transpose(1, 2), 1e-4)
    pooled = x.max(2).values + x.mean(2)
    embedding = F.relu(F.linear(pooled, weights["fc1.weight"], weights["fc1.bias"]))
    close(model.embedding(decibels), embedding, 1e-4)
    assert embedding.abs().max() > 0.1


@pytest.mark.parametrize(("card", "rate", "stft"), [("cnn14", 32000, 1024), ("cnn14-16k", 16000, 512)])
def test_parameters_of_the_full_size(card: str, rate: int, stft: int) -> None:
    with torch.device("meta"):
        full = build(card)
    count = sum(parameter.numel() for parameter in full.parameters())
    assert count == CARDS[card].parameters
    assert round(count / 1e6, 2) == 80.75
    assert (full.config.sample_rate, full.config.window, full.config.classes) == (rate, stft, 527)
    assert (CARDS[card].sample_rate, CARDS[card].dim, full.config.widths[-1]) == (rate, 2048, 2048)
    assert set(full.state_dict()) == OFFICIAL
    if card == "cnn14":  # with the spectrogram and mel matrices that the published file stores
        assert round((count + 513 * 1024 * 2 + 513 * 64) / 1e6, 2) == 81.84


# ---- promises


def test_a_clip_is_heard_the_same_alone_and_at_any_place(encoder: PANNs) -> None:
    assert isinstance(encoder, AudioEncoder)
    wave, other = torch.randn(1, 16000) * 0.1, torch.randn(1, 16000)
    for hear in (encoder.embed, encoder.tokens, encoder.tag):
        alone = hear(wave)
        for batch, place in ((torch.cat((wave, other)), 0), (torch.cat((other, other, wave)), 2)):
            close(hear(batch)[place], alone[0], 1e-5)
        assert agree(hear(wave), alone)


def test_tokens_are_features_in_time_order(encoder: PANNs) -> None:
    wave = torch.randn(1, 20 * 5120)
    tokens = encoder.tokens(wave)
    assert tokens.shape == (1, 20, 10)
    assert encoder.width == encoder.dim == 10
    wave[:, -5120:] *= 0.1
    change = (encoder.tokens(wave) - tokens).abs().amax((0, 2))
    assert change[-1] > 1e-3
    assert change[:12].max() < 1e-6


def test_tags_are_probabilities_of_the_embedding(encoder: PANNs) -> None:
    wave = torch.randn(3, 16000)
    logits = encoder.model.fc_audioset(encoder.embed(wave))
    assert agree(encoder.class_logits(wave), logits)
    assert agree(encoder.model(wave), logits)
    assert agree(encoder.tag(wave), logits.sigmoid())
    assert encoder.embed(wave).min() >= 0


def test_seconds_cut_or_pad(model: Cnn14Model, encoder: PANNs) -> None:
    limited, wave = PANNs.from_model(model, seconds=1.0), torch.randn(1, 20000)
    assert agree(limited.embed(wave), encoder.embed(wave[:, :16000]))
    assert agree(limited.tokens(wave[:, :2000]), encoder.tokens(torch.cat((wave[:, :2000], torch.zeros(1, 14000)), 1)))


def test_frozen_but_gradients_flow_through(encoder: PANNs) -> None:
    wave = torch.cat((torch.randn(1, 8000), torch.zeros(1, 8000))).requires_grad_()
    encoder.class_logits(wave).sum().backward()
    assert wave.grad is not None
    assert wave.grad.isfinite().all()
    assert wave.grad[0].abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert nn.Sequential(encoder).train().state_dict() == {}
    assert not encoder.model.training


def test_front_end_stays_float32_under_autocast(model: Cnn14Model) -> None:
    wave = torch.randn(1, 16000)
    plain = model.log_mel(wave)
    with torch.autocast("cpu", torch.bfloat16):
        assert agree(model.log_mel(wave), plain)


# ---- files


@pytest.mark.parametrize("config", [SMALL, SMALL_32K], ids=["16k", "32k"])
def test_import_round_trip(config: Cnn14Config, tmp_path: Path) -> None:
    source, file = lively(config), tmp_path / "Cnn14.pth"
    torch.save(published(source), file, _use_new_zipfile_serialization=False)
    loaded = PANNs(str(import_checkpoint(file, tmp_path / "folder")))
    wave = torch.randn(1, 16000)
    for encoder in (PANNs(str(file)), loaded):
        assert encoder.sample_rate == config.sample_rate
        assert encoder.model.config == config
        assert agree(encoder.class_logits(wave), PANNs.from_model(source).class_logits(wave))
    assert set(load_file(tmp_path / "folder" / "model.safetensors")) == OFFICIAL


def test_import_forgives_the_prefix_of_parallel_training(model: Cnn14Model, tmp_path: Path) -> None:
    content = {f"module.{key}": value for key, value in published(model)["model"].items()}
    torch.save({"model": content}, tmp_path / "parallel.pth")
    wave = torch.randn(1, 8000)
    assert agree(PANNs(str(tmp_path / "parallel.pth")).embed(wave), PANNs.from_model(model).embed(wave))


MEL, STFT = "logmel_extractor.melW", "spectrogram_extractor.stft.conv_real.weight"


@pytest.mark.parametrize(("change", "words"), [({"bn0.bias": None}, "1 missing, 0 unknown.*bn0.bias"),
                                               ({"extra": torch.zeros(1)}, "0 missing, 1 unknown"),
                                               ({"conv_block3.conv1.weight": None}, "not a CNN14 file"),
                                               ({MEL: torch.rand(257, 64)}, "another spectrogram than 16000 Hz.*melW"),
                                               ({MEL: torch.rand(257, 32)}, "another spectrogram"),
                                               ({STFT: torch.rand(257, 1, 512)}, "another spectrogram.*conv_real"),
                                               ({STFT: torch.rand(201, 1, 400)}, "window of 400 samples.*1024, 512"),
                                               ({STFT: None}, "lacks .*conv_real")])  # fmt: skip
def test_other_files_are_refused(change: dict[str, Any], words: str, model: Cnn14Model, tmp_path: Path) -> None:
    state = published(model)["model"] | change
    torch.save({"model": {key: value for key, value in state.items() if value is not None}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=words):
        import_checkpoint(tmp_path / "other.pth", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_files_that_are_not_there_or_not_of_this_model(model: Cnn14Model, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Cnn14_16k_mAP=0\.438\.pth.*give the path as card"):
        PANNs("cnn14-16k")
    with pytest.raises(ValueError, match="no card 'cnn6'.*cnn14, cnn14-16k"):
        PANNs("cnn6")
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    with pytest.raises(ValueError, match="below 'model'"):
        PANNs(str(tmp_path / "bare.pth"))


def test_a_card_refuses_the_file_of_another_rate(model: Cnn14Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(published(model), tmp_path / "Cnn14_mAP=0.431.pth")
    monkeypatch.chdir(tmp_path)
    for card, known in CARDS.items():  # the hash of the published file would refuse this one first
        monkeypatch.setitem(CARDS, card, replace(known, files=dict.fromkeys(known.files)))
    with pytest.raises(ValueError, match="for 16000 Hz, but the card 'cnn14' is for 32000 Hz"):
        PANNs("cnn14")
    (tmp_path / "Cnn14_mAP=0.431.pth").rename(tmp_path / "Cnn14_16k_mAP=0.438.pth")
    assert PANNs("cnn14-16k").sample_rate == 16000


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"model": {}, "sampler": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="cannot be read"):
        PANNs(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("options", "words"), [({"widths": (4, 4)}, "2 entries.*6 blocks"), ({"mel_bins": 16}, "mel_bins 16"),
                                                ({"high": 9000}, "9000 Hz do not fit.*16000")])  # fmt: skip
def test_impossible_configs(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Cnn14Config(**(RATE_16K | options))


def test_impossible_inputs(encoder: PANNs, model: Cnn14Model) -> None:
    with pytest.raises(ValueError, match="at least 4960 samples.*got 4959"):
        encoder.embed(torch.zeros(1, 4959))
    with pytest.raises(ValueError, match=r"\(batch, samples\), got \(16000,\)"):
        PANNs.from_model(model, seconds=1.0).tokens(torch.zeros(16000))
    assert encoder.tokens(torch.zeros(1, 4960)).shape == (1, 1, 10)
    with pytest.raises(ValueError, match="seconds 0.3 is too short"):
        PANNs.from_model(model, seconds=0.3)
    with pytest.raises(ValueError, match="2 labels.*7 classes"):
        PANNs.from_model(model, labels=["bell", "drum"])


def test_tiny_is_whole() -> None:
    made = tiny()["PANNs"]()
    assert isinstance(made, PANNs)
    wave = torch.randn(2, 16000)
    assert made.embed(wave).shape == (2, made.dim)
    assert made.tokens(wave).shape == (2, 3, made.width)
    assert made.tag(wave).shape == (2, 5)
