"""ImageBind against the official model at tiny sizes, its files, and its promises.

tests/golden/imagebind_tiny.safetensors holds outputs of the official model classes (wheel imagebind_unofficial 0.1.1,
whose files have the official ones' sizes), computed with the weights of `weights`; sounds went through
torchaudio's Kaldi filter bank and pictures through Pillow, as in the official loaders. The published weights were not
available.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.rounding import agree, agree_log_mel
from xmodal.foundation.base import AudioEncoder, ImageEncoder, TextEncoder
from xmodal.foundation.imagebind import (
    CARDS,
    MASK,
    AudioTower,
    ImageBindConfig,
    ImageBindModel,
    ImageTower,
    TextTower,
    build,
    import_checkpoint,
    spectrogram,
    tiny,
)  # fmt: skip

GOLDEN = Path(__file__).parent.parent / "golden" / "imagebind_tiny.safetensors"
CONFIG = ImageBindConfig(
    out_embed_dim=24, vision_embed_dim=32, vision_num_blocks=2, vision_num_heads=4, audio_embed_dim=24, audio_num_blocks=3,
    audio_num_heads=3, text_embed_dim=16, text_num_blocks=2, text_num_heads=2,
)  # fmt: skip
TEXTS = ["a dog barks", "Thunder &amp; rain, 3 times!", "rain " * 100]


def weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights that any machine can make again: numpy's frozen generator, one seed per key in sorted order."""
    state = {}
    for index, key in enumerate(sorted(shapes)):
        shape = shapes[key]
        draw = np.random.RandomState(index).standard_normal(int(np.prod(shape)) if shape else 1).astype(np.float32)
        value = torch.from_numpy(draw).reshape(shape)
        if "norm" in key or ("heads" in key and value.ndim == 1) or "pre_transformer" in key:
            value = 1 + 0.3 * value if key.endswith("weight") else 0.3 * value
        elif "log_logit_scale" in key:
            value = 2.5 + 0.2 * value
        elif value.ndim < 2 or "embed" in key or "token" in key or "bias_" in key:
            value = 0.5 * value
        else:
            value = 1.5 * shape[-1] ** -0.5 * value
        state[key] = value
    return state


def waveforms() -> Tensor:
    """Five seconds at 16 kHz: a rising tone that fades, and noise."""
    time = np.arange(16000 * 5) / 16000
    tone = 0.4 * np.sin(2 * np.pi * (200 + 300 * time) * time) * np.exp(-time / 3)
    noise = 0.2 * np.random.RandomState(1000).standard_normal(len(time))
    return torch.from_numpy(np.stack([tone, noise]).astype(np.float32))


def official(model: ImageBindModel) -> dict[str, Tensor]:
    """A state dict in the form of the published file: with the mask and the towers that are left out."""
    others = [
        "modality_preprocessors.depth.depth_stem.proj.weight", "modality_trunks.thermal.blocks.0.attn.bias_k",
        "modality_heads.imu.3.weight", "modality_postprocessors.depth.1.log_logit_scale",
    ]  # fmt: skip
    mask = torch.full((77, 77), float("-inf")).triu(1)
    return model.state_dict() | {MASK: mask} | {key: torch.zeros(2) for key in others}


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def model() -> ImageBindModel:
    model = ImageBindModel(CONFIG).eval()
    model.load_state_dict(weights({key: tuple(value.shape) for key, value in model.state_dict().items()}))
    return model


@pytest.fixture
def folder(model: ImageBindModel, tmp_path: Path) -> Path:
    torch.save(official(model), tmp_path / "imagebind_huge.pth")
    return import_checkpoint(tmp_path / "imagebind_huge.pth", tmp_path / "imported", CONFIG)


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


# ---- fidelity to the official implementation


def test_sounds(golden: dict[str, Tensor], model: ImageBindModel) -> None:
    tower = AudioTower.from_model(model, normalize=False)
    close(tower.preprocess(waveforms())[..., ::4, ::4], golden["audio_in"], 1e-3)
    close(tower.embed(waveforms()), golden["audio"], 5e-5)
    close(tower.embed(waveforms()[:, :20000]), golden["short"], 5e-5)


def test_filter_bank_against_torchaudio() -> None:
    from torchaudio.compliance.kaldi import fbank

    wave = waveforms()[:, 1000:33000]
    for row, picture in zip(wave, spectrogram(wave)):
        expected = fbank(
            (row - row.mean())[None], num_mel_bins=128, sample_frequency=16000, window_type="hanning", dither=0.0, htk_compat=True
        )
        actual = (picture[0, :, :198] * 9.138 - 4.268).T
        assert agree_log_mel(actual, expected, 1e-5, dim=-1, power=2)
        close(picture[0, :, 198:], torch.full((128, 6), 4.268 / 9.138), 1e-6)


def test_sentences(golden: dict[str, Tensor], model: ImageBindModel) -> None:
    close(TextTower.from_model(model, normalize=False).embed(TEXTS), golden["text"], 5e-5)


def test_pictures(golden: dict[str, Tensor], model: ImageBindModel) -> None:
    """Pillow rounds to eight bits between its two passes: one step of 8 bits is 0.015 here."""
    tower = ImageTower.from_model(model)
    pixels = golden["pixels"].permute(2, 0, 1)[None].float() / 255
    close(tower.preprocess(pixels)[..., ::8, ::8], golden["vision_in"], 0.016)
    close(tower.embed(pixels), golden["vision"], 2e-3)


def test_parameters_of_the_published_model() -> None:
    """The numbers published for trunks, and all six towers; those left out are counted by formula."""
    with torch.device("meta"):
        model = build()

    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    trunks = {name: round(count(trunk) / 1e6, 1) for name, trunk in model.modality_trunks.items()}
    assert trunks == {"vision": 629.7, "audio": 85.1, "text": 302.3}
    assert count(model) == CARDS["huge"].parameters
    total = count(model)
    for width, blocks, stem in ((384, 12, 256 + 2 + 198), (768, 12, 256 + 2 + 198), (512, 6, 48 + 2 + 252)):
        total += blocks * (12 * width**2 + 15 * width) + stem * width + (2 + 1024) * width
    assert round(total / 1e6, 1) == 1200.8


# ---- files


def test_import_is_a_filter(model: ImageBindModel, folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    assert stored.keys() == model.state_dict().keys()
    assert all(torch.equal(value, stored[key]) for key, value in model.state_dict().items())
    tower = AudioTower(str(folder))
    assert list(tower.model.modality_trunks) == ["audio"]
    assert agree(tower.embed(waveforms()), AudioTower.from_model(model).embed(waveforms()))
    assert TextTower(str(folder)).dim == ImageTower(str(folder)).dim == 24


def test_import_strips_the_prefix_of_parallel_training(model: ImageBindModel, tmp_path: Path) -> None:
    torch.save({f"module.{key}": value for key, value in official(model).items()}, tmp_path / "a.pth")
    assert (import_checkpoint(tmp_path / "a.pth", tmp_path / "a", CONFIG) / "config.json").is_file()


@pytest.mark.parametrize("key", ["modality_trunks.smell.blocks.0.norm_1.bias", "logit_scale", "modality_necks.text.0"])
def test_unknown_keys_are_refused(key: str, model: ImageBindModel, tmp_path: Path) -> None:
    torch.save(official(model) | {key: torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=f"a.pth.*1 keys are unknown, first {key}"):
        import_checkpoint(tmp_path / "a.pth", tmp_path / "a", CONFIG)
    assert not (tmp_path / "a").exists()


def test_missing_keys_and_other_sizes_are_refused(model: ImageBindModel, tmp_path: Path) -> None:
    state = official(model)
    torch.save(state, tmp_path / "small.pth")
    with pytest.raises(ValueError, match="small.pth does not fit ImageBind"):
        TextTower(str(tmp_path / "small.pth"))
    del state["modality_heads.text.proj.0.bias"]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(ValueError, match="1 missing.*modality_heads.text.proj.0.bias"):
        import_checkpoint(tmp_path / "cut.pth", tmp_path / "a", CONFIG)


def test_cards_ask_for_a_path() -> None:
    with pytest.raises(FileNotFoundError, match="give the path as card"):
        ImageTower()
    with pytest.raises(ValueError, match="its cards are: mini, huge"):
        AudioTower("giant")


def test_folder_of_another_model(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="does not hold the sizes"):
        ImageTower(str(folder))


# ---- promises


def test_length_one_unless_told(golden: dict[str, Tensor], model: ImageBindModel) -> None:
    """The original's vectors are 1, at most 20 and the logit scale long: not comparable as they are."""
    sound, text = AudioTower.from_model(model), TextTower.from_model(model)
    for embedding in (sound.embed(waveforms()), text.embed(TEXTS)):
        close(embedding.norm(dim=-1), torch.ones(len(embedding)), 1e-5)
    close(sound.embed(waveforms()), torch.nn.functional.normalize(golden["audio"], dim=-1), 1e-5)
    assert golden["audio"].norm(dim=-1).min() > 5
    fresh = AudioTower.from_model(ImageBindModel(CONFIG, ["audio"]), normalize=False, clips=1)
    close(fresh.embed(waveforms()).norm(dim=-1), torch.full((2,), 20.0), 1e-3)


def test_clips_are_evenly_spaced(model: ImageBindModel) -> None:
    wave = torch.randn(1, 50001, generator=torch.Generator().manual_seed(0)) * 0.1
    parts = [spectrogram(wave[:, start : start + 32000])[0] for start in (0, 9000, 18001)]
    assert agree(AudioTower.from_model(model).preprocess(wave)[0], torch.stack(parts))
    assert agree(AudioTower.from_model(model, clips=1).preprocess(wave)[0, 0], parts[0])
    assert AudioTower.from_model(model).preprocess(wave[:, :32000]).shape == (1, 1, 1, 128, 204)
    with pytest.raises(ValueError, match="clips 0"):
        AudioTower.from_model(model, clips=0)


def test_tokens_run_through_time(model: ImageBindModel) -> None:
    """The 228 patches of a clip lie band by band in the network, and step by step in the tokens."""
    tower = AudioTower.from_model(model)
    wave = waveforms()[:1]
    tokens = tower.tokens(wave)
    assert tokens.shape == (1, 3 * 228, tower.width)
    raw = tower.model.tokens("audio", tower.preprocess(wave)[0, 1:2])[0, 1:]
    close(tokens[0, 228 + 5 * 12 + 7], raw[7 * 19 + 5], 1e-5)


@pytest.mark.parametrize("size", [(224, 224), (300, 225), (64, 97)])
def test_any_picture_size(size: tuple[int, int], model: ImageBindModel) -> None:
    tower = ImageTower.from_model(model)
    assert tower.preprocess(torch.rand(1, 3, *size)).shape == (1, 3, 224, 224)
    grey = tower.preprocess(torch.full((1, 3, *size), 0.5))
    close(grey[0, :, 5, 5], (0.5 - torch.tensor(CARDS["huge"].mean)) / torch.tensor(CARDS["huge"].std), 1e-5)


def test_wrong_shapes(model: ImageBindModel) -> None:
    with pytest.raises(ValueError, match=r"\(3, 64, 64\)"):
        ImageTower.from_model(model).embed(torch.zeros(3, 64, 64))
    with pytest.raises(ValueError, match="at least 400"):
        AudioTower.from_model(model).embed(torch.zeros(1, 399))
    with pytest.raises(ValueError, match=r"\(16000,\)"):
        AudioTower.from_model(model).embed(torch.zeros(16000))
    with pytest.raises(ValueError, match="list of sentences"):
        TextTower.from_model(model).embed("a dog")
    with pytest.raises(ValueError, match="needs a model with 'text'"):
        TextTower.from_model(ImageBindModel(CONFIG, ["audio"]))
    with pytest.raises(ValueError, match="audio_num_heads 5"):
        ImageBindConfig(audio_num_heads=5)


def test_independent_of_batch_mates(model: ImageBindModel) -> None:
    sound, picture, text = (tower.from_model(model) for tower in (AudioTower, ImageTower, TextTower))
    pixels = torch.rand(3, 3, 50, 60, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        close(sound.embed(waveforms())[1:], sound.embed(waveforms()[1:]), 1e-6)
        close(picture.embed(pixels)[1:2], picture.embed(pixels[1:2]), 1e-6)
        close(text.embed(TEXTS)[:1], text.embed(TEXTS[:1]), 1e-6)


def test_frozen_but_differentiable(model: ImageBindModel) -> None:
    sound, picture = AudioTower.from_model(model), ImageTower.from_model(model)
    assert not any(parameter.requires_grad for parameter in sound.parameters())
    assert sound.state_dict() == {}
    for tower, inputs in ((sound, waveforms()), (picture, torch.rand(1, 3, 40, 40)), (sound, torch.zeros(1, 8000))):
        inputs.requires_grad_()
        tower.embed(inputs)[:, 0].sum().backward()
        assert inputs.grad is not None
        assert inputs.grad.isfinite().all()
        assert inputs.grad.abs().sum() > 0 or not inputs.any()


def test_tiny_towers() -> None:
    kinds = {"ImageTower": ImageEncoder, "AudioTower": AudioEncoder, "TextTower": TextEncoder}
    towers = {name: factory() for name, factory in tiny().items()}
    assert all(isinstance(towers[name], kind) for name, kind in kinds.items())
    assert towers["TextTower"].embed(["rain"]).shape == (1, towers["TextTower"].dim)
