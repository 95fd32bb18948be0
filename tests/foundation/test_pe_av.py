"""PE-AV's towers against transformers' whole model at tiny sizes. The published weights were not available."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.rounding import agree
from xmodal.foundation import pe_av
from xmodal.foundation.base import AudioEncoder, ImageEncoder, TextEncoder
from xmodal.foundation.pe_av import CARDS, AudioTower, ImageTower, TextTower, build, tiny

TEXTS = ["A DOG", "RAIN ON A ROOF", "X"]


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return pe_av._tiny_model()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return pe_av._tiny_tokenizer()


@pytest.fixture(scope="module")
def wave() -> Tensor:
    return torch.randn(3, 1920 * 6 + 700, generator=torch.Generator().manual_seed(1)) * 0.1


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def reference(model: Any, tokenizer: Any, wave: Tensor, pixels: Tensor) -> Any:
    """The whole model's forward on what transformers' own feature extractor makes of the sounds."""
    from transformers import PeAudioFeatureExtractor

    sounds = PeAudioFeatureExtractor()([np.asarray(row) for row in wave], sampling_rate=48000, return_tensors="pt")
    text = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return copy.deepcopy(model)(
            input_ids=text["input_ids"], attention_mask=text["attention_mask"], input_values=sounds["input_values"],
            padding_mask=sounds["padding_mask"], pixel_values_videos=(pixels[:, None] - 0.5) / 0.5,
        )  # fmt: skip


@pytest.fixture(scope="module")
def folder(model: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pe_av")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def close(actual: Tensor, expected: Tensor, atol: float = 2e-6) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def test_every_tower_equals_the_whole_model(model: Any, tokenizer: Any, reference: Any, wave: Tensor, pixels: Tensor) -> None:
    close(AudioTower.from_model(model).embed(wave), reference.audio_embeds)
    close(ImageTower.from_model(model).embed(pixels), reference.video_embeds)
    for partner in ("audio", "video", "audio_video"):
        text = TextTower.from_model(model, tokenizer, partner).embed(TEXTS)
        close(text, reference[f"text_{partner}_embeds"])
    assert (reference.text_audio_embeds - reference.text_video_embeds).abs().max() > 0.01


def test_towers_from_a_folder(folder: Path, reference: Any, wave: Tensor, pixels: Tensor) -> None:
    sound, picture = AudioTower(str(folder)), ImageTower(str(folder))
    close(sound.embed(wave), reference.audio_embeds)
    close(picture.embed(pixels), reference.video_embeds)
    close(TextTower(str(folder), partner="video").embed(TEXTS), reference.text_video_embeds)
    assert not any("text" in name or "video" in name for name, _ in sound.named_modules())


def test_encoder_stored_under_its_other_name(folder: Path, reference: Any, wave: Tensor, tmp_path: Path) -> None:
    old, new = "audio_model.audio_encoder.", "audio_video_encoder.embedder.audio_encoder."
    state = {key.replace(old, new): value for key, value in load_file(folder / "model.safetensors").items()}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    close(AudioTower(str(tmp_path)).embed(wave), reference.audio_embeds)
    del state["audio_model.audio_head.proj.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="1 missing.*head.proj.weight"):
        AudioTower(str(tmp_path))


def test_video_and_repeated_frames(model: Any, pixels: Tensor) -> None:
    tower = ImageTower.from_model(model)
    videos = torch.stack((pixels, pixels.flip(-1), pixels.flip(-2)), 1)
    with torch.no_grad():
        inner = model.video_model.video_encoder((videos - 0.5) / 0.5).pooler_output
        close(tower.embed_video(videos), model.video_model.video_head(inner))
        still = pixels[:, None].expand(-1, 4, -1, -1, -1)
        close(ImageTower.from_model(model, frames=4).embed(pixels), tower.embed_video(still))
    close(tower.embed(torch.rand(1, 3, 90, 130)).isfinite().float(), torch.ones(1, tower.dim))


def test_end_of_a_sound_is_mirrored(model: Any) -> None:
    tower = AudioTower.from_model(model)
    for samples in (2, 500, 1920, 2500, 3840):
        wave = torch.arange(samples, dtype=torch.float32)[None]
        expected = np.pad(wave[0].numpy(), (0, -samples % 1920), "reflect")
        assert torch.equal(tower.preprocess(wave)[0, 0], torch.from_numpy(expected))


def test_middle_of_long_sounds(model: Any, wave: Tensor) -> None:
    tower = AudioTower.from_model(model, seconds=0.08)
    start = (wave.shape[1] - 3840) // 2
    assert torch.equal(tower.preprocess(wave)[:, 0], wave[:, start : start + 3840])
    with pytest.raises(ValueError, match="seconds 0"):
        AudioTower.from_model(model, seconds=0)


def test_tokens(model: Any, wave: Tensor) -> None:
    tower = AudioTower.from_model(model)
    assert tower.tokens(wave).shape == (3, 7, tower.width)


def test_length_as_trained_unless_told(model: Any, wave: Tensor) -> None:
    raw, unit = (AudioTower.from_model(model, normalize=flag).embed(wave) for flag in (False, True))
    assert (raw.norm(dim=-1) - 1).abs().min() > 0.05
    close(unit, raw / raw.norm(dim=-1, keepdim=True))


def test_gradients_reach_waveform_and_pixels(model: Any, wave: Tensor, pixels: Tensor) -> None:
    """Transformers computes the codec without a graph; the tower does not."""
    for tower, inputs in ((AudioTower.from_model(model), wave.clone()), (ImageTower.from_model(model), pixels.clone())):
        inputs.requires_grad_()
        tower.embed(inputs)[:, 0].sum().backward()
        assert inputs.grad is not None
        assert inputs.grad.isfinite().all()
        assert inputs.grad.abs().sum() > 0
        assert not any(parameter.requires_grad for parameter in tower.parameters())
        assert tower.state_dict() == {}


def test_a_copy_computes_with_its_own_weights(model: Any, wave: Tensor) -> None:
    tower = AudioTower.from_model(model)
    other = copy.deepcopy(tower)
    before = tower.embed(wave)
    for parameter in other.encoder.embedder.parameters():
        parameter.data.zero_()
    assert not agree(other.embed(wave), before)
    assert agree(tower.embed(wave), before)


def test_independent_of_batch_mates(model: Any, tokenizer: Any, wave: Tensor, pixels: Tensor) -> None:
    sound, picture, text = AudioTower.from_model(model), ImageTower.from_model(model), TextTower.from_model(model, tokenizer)
    with torch.no_grad():
        close(sound.embed(wave)[1:2], sound.embed(wave[1:2]))
        close(picture.embed(pixels)[2:], picture.embed(pixels[2:]))
        close(text.embed(TEXTS)[:1], text.embed(TEXTS[:1]))


def test_an_empty_tokenizer_is_refused(model: Any) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    empty = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")))
    with pytest.raises(ValueError, match="knows 1 tokens, but the model 64"):
        TextTower.from_model(model, empty)


def test_wrong_arguments(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="partner 'picture'"):
        TextTower.from_model(model, tokenizer, "picture")
    with pytest.raises(ValueError, match="frames 0"):
        ImageTower.from_model(model, frames=0)
    with pytest.raises(ValueError, match=r"\(64, 64\)"):
        ImageTower.from_model(model).embed(torch.zeros(64, 64))
    with pytest.raises(ValueError, match=r"\(3, 3, 64, 64\)"):
        ImageTower.from_model(model).embed_video(torch.zeros(3, 3, 64, 64))
    with pytest.raises(ValueError, match=r"\(1920,\)"):
        AudioTower.from_model(model).embed(torch.zeros(1920))
    with pytest.raises(ValueError, match="list of sentences"):
        TextTower.from_model(model, tokenizer).embed("RAIN")
    with pytest.raises(FileNotFoundError, match="config.json"):
        AudioTower(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ValueError, match="'clip', but expected 'pe_audio_video'"):
        AudioTower(str(tmp_path))
    with pytest.raises(ValueError, match="its cards are: small, base, large"):
        AudioTower("tiny")


def test_weights_are_not_downloaded_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for card in ("small", "facebook/pe-av-other"):
        with pytest.raises(FileNotFoundError, match="`xmodal pull pe_av:"):
            AudioTower(card)


def test_processor_file_is_obeyed(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    content = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.25, 0.2], "resample": 3, "size": {"height": 64, "width": 64}}
    (tmp_path / "processor_config.json").write_text(json.dumps({"video_processor": content}))
    tower = ImageTower(str(tmp_path))
    close(tower.preprocess(torch.full((1, 3, 30, 40), 0.6))[0, :, 3, 3], torch.tensor([1.0, 1.6, 1.5]))
    assert tower.mode == "bicubic"
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content | {"size": {"shortest_edge": 64}}))
    with pytest.raises(ValueError, match="asks for a crop"):
        ImageTower(str(tmp_path))


def test_full_size_on_the_meta_device() -> None:
    """The class's default config has 1,458,747,854: its frames pass through 2 numbers where 1024 are meant."""
    with torch.device("meta"):
        model = build("large")
    assert model.video_model.video_encoder.embedder.proj.weight.shape == (1792, 1024)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == CARDS["large"].parameters
    assert count - 1_458_747_854 == (1024 - 2) * (1792 + 1024 + 1)  # projection, and the picture model's last layer
    with pytest.raises(ValueError, match="sizes of 'small'"):
        build("small")


def test_tiny_towers() -> None:
    kinds = {"ImageTower": ImageEncoder, "AudioTower": AudioEncoder, "TextTower": TextEncoder}
    towers = {name: factory() for name, factory in tiny().items()}
    assert all(isinstance(towers[name], kind) for name, kind in kinds.items())
