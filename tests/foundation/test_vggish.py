"""VGGish against tensors of torchvggish (tests/golden) and a direct Fourier sum, its files, and its promises."""

from __future__ import annotations

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
from xmodal.foundation.vggish import CARDS, VGGish, VGGishConfig, VGGishModel, build, import_checkpoint, log_mel, tiny

GOLDEN = Path(__file__).parent.parent / "golden"
SMALL = VGGishConfig((2, 4, 6, 8), 12, 5)
OFFICIAL = {f"features.{index}.{kind}" for index in (0, 3, 6, 8, 11, 13) for kind in ("weight", "bias")} | {
    f"embeddings.{index}.{kind}" for index in (0, 2, 4) for kind in ("weight", "bias")
}


@pytest.fixture(scope="module")
def model() -> VGGishModel:
    """Random weights that let differences between sounds through."""
    torch.manual_seed(0)
    made = VGGishModel(SMALL).eval()
    for module in made.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return made


@pytest.fixture(scope="module")
def encoder(model: VGGishModel) -> VGGish:
    return VGGish.from_model(model)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(1)


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def pca(seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {"pca_eigen_vectors": draw.normal(size=(5, 5)), "pca_means": draw.normal(size=(5, 1))}


# ---- fidelity to the original


def test_patches_against_the_original(encoder: VGGish) -> None:
    tensors = load_file(GOLDEN / "audio_frontends.safetensors")
    close(encoder.patches(tensors["wav_16k"][None])[0][:, None], tensors["vggish_examples"], 1e-4)


def test_log_mel_against_a_direct_sum() -> None:
    """In float64, with the triangles drawn one by one."""
    wave = torch.randn(1, 1000, generator=torch.Generator().manual_seed(1))
    samples, bins = np.arange(400), np.arange(257)
    wheel = np.exp(-2j * np.pi * np.outer(samples, bins) / 512) * (np.sin(np.pi * samples / 400) ** 2)[:, None]
    expected = np.zeros((4, 64))
    mel = [1127 * np.log(1 + hertz / 700) for hertz in (125, 7500)]
    edges = [mel[0] + (mel[1] - mel[0]) * index / 65 for index in range(66)]
    for frame in range(4):
        magnitude = np.abs(wave[0, 160 * frame : 160 * frame + 400].double().numpy() @ wheel)
        for band in range(64):
            for index in range(1, 257):
                place = 1127 * np.log(1 + index * 31.25 / 700)
                left, top, right = edges[band : band + 3]
                expected[frame, band] += magnitude[index] * max(
                    0, min((place - left) / (top - left), (right - place) / (right - top))
                )
    close(log_mel(wave)[0], torch.from_numpy(np.log(expected + 0.01)).float(), 1e-5)


def test_network_against_a_plain_list_of_steps(model: VGGishModel) -> None:
    """Steps as in the paper's configuration; the flattening order is time, frequency, channel."""
    weights, patches = model.state_dict(), torch.randn(3, 96, 64)
    x = patches[:, None]
    for index, pool in ((0, True), (3, True), (6, False), (8, True), (11, False), (13, True)):
        x = F.relu(F.conv2d(x, weights[f"features.{index}.weight"], weights[f"features.{index}.bias"], padding=1))
        x = F.max_pool2d(x, 2) if pool else x
    assert x.shape == (3, 8, 6, 4)
    x = torch.stack([x[:, :, time, band] for time in range(6) for band in range(4)], 1).reshape(3, -1)
    for index in (0, 2):
        x = F.relu(F.linear(x, weights[f"embeddings.{index}.weight"], weights[f"embeddings.{index}.bias"]))
    x = F.linear(x, weights["embeddings.4.weight"], weights["embeddings.4.bias"])
    close(model(patches, activation=False), x, 1e-4)
    close(model(patches), F.relu(x), 1e-4)
    assert (x[0] - x[1]).abs().max() > 1e-2
    assert (x < 0).any()


def test_parameters_of_the_full_size() -> None:
    with torch.device("meta"):
        full = build("vggish")
    count = sum(parameter.numel() for parameter in full.parameters())
    assert round(count / 1e6, 2) == 72.14
    assert count == CARDS["vggish"].parameters
    assert set(full.state_dict()) == OFFICIAL
    assert (full.config.dim, 16000) == (CARDS["vggish"].dim, CARDS["vggish"].sample_rate)


# ---- promises


def test_a_clip_is_heard_the_same_alone_and_at_any_place(encoder: VGGish) -> None:
    assert isinstance(encoder, AudioEncoder)
    wave, other = torch.randn(1, 32000) * 0.1, torch.randn(1, 32000)
    for hear in (encoder.embed, encoder.tokens):
        alone = hear(wave)
        assert (hear(other) - alone).abs().max() > 1e-2
        for batch, place in ((torch.cat((wave, other)), 0), (torch.cat((other, other, wave)), 2)):
            close(hear(batch)[place], alone[0], 1e-5)
        assert agree(hear(wave), alone)


def test_tokens_are_patches_in_time_order(model: VGGishModel) -> None:
    encoder = VGGish.from_model(model, activation=False)
    wave = torch.randn(2, 16000 * 3) * torch.linspace(0.01, 1, 48000)
    tokens = encoder.tokens(wave)
    assert tokens.shape == (2, 3, 5)
    assert (tokens[:, 1:] - tokens[:, :-1]).abs().max() > 1e-2
    assert encoder.width == encoder.dim == 5
    for index in range(3):
        close(encoder.tokens(wave[:, 15360 * index :][:, :15600])[:, 0], tokens[:, index], 1e-5)
    assert agree(encoder.embed(wave), tokens.mean(1))
    close(encoder.tokens(wave[:, : 15360 * 3 + 239]), tokens[:, :2], 1e-5)  # one sample short of a third patch
    overlapping = VGGish.from_model(model, hop=0.48, activation=False)
    close(overlapping.tokens(wave)[:, ::2], tokens, 1e-5)
    assert overlapping.tokens(wave).shape[1] == 5


def test_the_last_relu_is_a_choice(model: VGGishModel) -> None:
    wave = torch.randn(4, 15600)
    with_it, without = (VGGish.from_model(model, activation=choice).tokens(wave) for choice in (True, False))
    assert without.min() < 0
    assert agree(with_it, without.relu())


@pytest.mark.parametrize("suffix", [".npz", ".pth"])
def test_pca_and_bytes(suffix: str, model: VGGishModel, encoder: VGGish, tmp_path: Path) -> None:
    path, parameters = tmp_path / f"pca{suffix}", pca()
    if suffix == ".npz":
        np.savez(path, **parameters)
    else:
        torch.save(parameters, path, _use_new_zipfile_serialization=False)  # the age of the published file
    wave = torch.randn(2, 32000) * torch.tensor([[1.0], [0.01]])
    raw = encoder.tokens(wave).double()
    white = (raw - torch.from_numpy(parameters["pca_means"]).T) @ torch.from_numpy(parameters["pca_eigen_vectors"]).T
    made = VGGish.from_model(model, pca=str(path))
    close(made.tokens(wave).double(), white, 1e-4)
    whole = VGGish.from_model(model, pca=str(path), quantize=True).tokens(wave)
    close(whole.double(), ((white.clamp(-2, 2) + 2) * 63.75).round(), 1)  # one, where the rounding is a close call
    assert torch.equal(whole, whole.round())
    assert whole.min() >= 0
    assert whole.max() <= 255
    assert whole.unique().numel() > 5
    assert made.state_dict() == {}


def test_seconds_cut_or_pad(model: VGGishModel, encoder: VGGish) -> None:
    limited, wave = VGGish.from_model(model, seconds=2.0), torch.randn(1, 40000)
    assert agree(limited.tokens(wave), encoder.tokens(wave[:, :32000]))
    assert agree(limited.tokens(wave[:, :9000]), encoder.tokens(torch.cat((wave[:, :9000], torch.zeros(1, 23000)), 1)))


def test_frozen_but_gradients_flow_through(encoder: VGGish) -> None:
    wave = torch.cat((torch.randn(1, 15600), torch.zeros(1, 15600))).requires_grad_()
    encoder.embed(wave).sum().backward()
    assert wave.grad is not None
    assert wave.grad.isfinite().all()
    assert wave.grad[0].abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert nn.Sequential(encoder).train().state_dict() == {}
    assert not encoder.model.training


def test_front_end_stays_float32_under_autocast() -> None:
    wave = torch.randn(1, 16000)
    plain = log_mel(wave)
    with torch.autocast("cpu", torch.bfloat16):
        assert agree(log_mel(wave), plain)


# ---- files


def test_import_round_trip(model: VGGishModel, encoder: VGGish, tmp_path: Path) -> None:
    state = model.state_dict()
    torch.save(state, tmp_path / "vggish.pth", _use_new_zipfile_serialization=False)
    whole = {f"module.{key}": value for key, value in state.items()} | {"pproc.pca_matrix": torch.eye(5)}
    torch.save(whole, tmp_path / "whole.pth")
    wave = torch.randn(1, 16000)
    for source in ("vggish.pth", "whole.pth"):
        assert agree(VGGish(str(tmp_path / source)).embed(wave), encoder.embed(wave))
        folder = import_checkpoint(tmp_path / source, tmp_path / source.removesuffix(".pth"))
        loaded = VGGish(str(folder))
        assert agree(loaded.embed(wave), encoder.embed(wave))
        assert loaded.model.config == SMALL
        assert set(load_file(folder / "model.safetensors")) == OFFICIAL


@pytest.mark.parametrize(("change", "words"), [({"features.8.bias": None}, "1 missing, 0 unknown.*features.8.bias"),
                                               ({"extra": torch.zeros(1)}, "0 missing, 1 unknown"),
                                               ({"features.0.weight": None}, "not a VGGish file")])  # fmt: skip
def test_other_files_are_refused(change: dict[str, Any], words: str, model: VGGishModel, tmp_path: Path) -> None:
    state = model.state_dict() | change
    torch.save({key: value for key, value in state.items() if value is not None}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=words):
        import_checkpoint(tmp_path / "other.pth", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_files_that_are_not_there_or_not_of_this_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"vggish-10086976\.pth.*give the path as card"):
        VGGish()
    with pytest.raises(ValueError, match="no card 'vgg'.*vggish"):
        VGGish("vgg")


def test_bad_pca_files(model: VGGishModel, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        VGGish.from_model(model, pca=str(tmp_path / "none.npz"))
    np.savez(tmp_path / "other.npz", mean=np.zeros(5))
    np.savez(tmp_path / "large.npz", pca_eigen_vectors=np.eye(7), pca_means=np.zeros(7))
    (tmp_path / "broken.npz").write_bytes(b"PK no")
    for name, words in (("other", "lacks pca_eigen_vectors"), ("large", r"\(7, 7\).*5 values"), ("broken", "fetch it again")):
        with pytest.raises(ValueError, match=words):
            VGGish.from_model(model, pca=str(tmp_path / f"{name}.npz"))


def test_a_pca_file_runs_no_code(model: VGGishModel, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"pca_eigen_vectors": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="cannot be read"):
        VGGish.from_model(model, pca=str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("options", "words"), [({"quantize": True}, "pca is None"), ({"seconds": 0.96}, "at least 0.975 s"),
                                                ({"hop": 0.001}, "hop 0.001")])  # fmt: skip
def test_impossible_options(options: dict[str, Any], words: str, model: VGGishModel) -> None:
    with pytest.raises(ValueError, match=words):
        VGGish.from_model(model, **options)


def test_impossible_inputs(encoder: VGGish) -> None:
    with pytest.raises(ValueError, match="at least 15600 samples.*got 15599"):
        encoder.embed(torch.zeros(1, 15599))
    with pytest.raises(ValueError, match=r"\(batch, samples\), got \(16000,\)"):
        encoder.tokens(torch.zeros(16000))
    assert encoder.tokens(torch.zeros(1, 15600)).shape == (1, 1, 5)


def test_tiny_is_whole() -> None:
    made = tiny()["VGGish"]()
    assert isinstance(made, VGGish)
    wave = torch.randn(2, 32000)
    assert made.embed(wave).shape == (2, made.dim)
    assert made.tokens(wave).shape == (2, 2, made.width)
