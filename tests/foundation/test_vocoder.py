"""Vocoders: HiFi-GAN against AudioLDM's golden sound, BigVGAN's files, and Griffin-Lim."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.rounding import agree
from xmodal.foundation import vocoder
from xmodal.foundation.base import Vocoder
from xmodal.foundation.mel import AUDIOLDM, PRESETS, MelSpec, log_mel, preset
from xmodal.foundation.vocoder import BIGVGAN, CARDS, BigVGAN, GriffinLim, HifiGan, fuse_weight_norm, import_checkpoint, save
from xmodal.miniature import world

GOLDEN = Path(__file__).parent.parent / "golden" / "audioldm_tiny.safetensors"
SPEC = MelSpec(8_000, 256, 256, 64, 32, 0.0, 4_000.0, padding="hop")
BIGVGAN_CONFIG = {
    "resblock": "1", "num_mels": 80, "upsample_initial_channel": 16, "upsample_rates": [16, 16],
    "upsample_kernel_sizes": [32, 32], "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3]],
    "activation": "snakebeta", "snake_logscale": True,
    "use_tanh_at_final": False, "use_bias_at_final": False, "sampling_rate": 22050, "n_fft": 1024, "win_size": 1024,
    "hop_size": 256, "fmin": 0, "fmax": None, "segment_size": 65536,
}  # fmt: skip


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def hifigan(golden: dict[str, Tensor]) -> Any:
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    with safe_open(GOLDEN, "pt") as file:
        config = json.loads(file.metadata()["vocoder"])
    model = SpeechT5HifiGan(SpeechT5HifiGanConfig(**config))
    model.load_state_dict({k.removeprefix("vocoder."): v for k, v in golden.items() if k.startswith("vocoder.")})
    return model


def decaying_noise(spec: MelSpec, batch: int = 1) -> Tensor:
    time = torch.arange(spec.sample_rate // spec.hop_length * spec.hop_length) / spec.sample_rate
    return torch.randn(batch, len(time), generator=torch.Generator().manual_seed(0)) * 0.1 * torch.exp(-2 * time)


# ---- HiFi-GAN


def test_hifigan_equals_the_golden_sound_without_its_tail(golden: dict[str, Tensor], hifigan: Any) -> None:
    model = HifiGan.from_model(hifigan)
    assert model.mel == replace(AUDIOLDM, n_mels=16)
    assert model.sample_rate == 16_000
    assert golden["audio_untrimmed"].shape[1] == 128 * 160 + 32
    sound = model(golden["mel"][:, 0].transpose(1, 2))
    torch.testing.assert_close(sound, golden["audio_untrimmed"][:, : 128 * 160], rtol=0, atol=1e-5)


def test_hifigan_folder_keeps_its_mel(golden: dict[str, Tensor], hifigan: Any, tmp_path: Path) -> None:
    spec = replace(AUDIOLDM, n_mels=16, f_max=7_000.0)
    save(hifigan, spec, tmp_path / "a", dtype=None)
    save(hifigan, spec, tmp_path / "all" / "vocoder")
    mel = golden["mel"][:, 0].transpose(1, 2)
    whole, half = HifiGan(str(tmp_path / "a")), HifiGan(str(tmp_path / "all"))
    assert whole.mel == half.mel == vocoder.mel_of(str(tmp_path / "a")) == spec
    torch.testing.assert_close(whole(mel), golden["audio_untrimmed"][:, : 128 * 160], rtol=0, atol=1e-5)
    torch.testing.assert_close(half(mel), whole(mel), rtol=0, atol=1e-2)
    assert next(half.parameters()).dtype == torch.float32


def test_hifigan_refuses_what_does_not_fit(hifigan: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="disagree on hop_length, n_mels"):
        HifiGan.from_model(hifigan, preset("miniature"))
    with pytest.raises(ValueError, match="disagree on sample_rate"):
        HifiGan.from_model(hifigan, replace(AUDIOLDM, n_mels=16, sample_rate=22_050))
    with pytest.raises(ValueError, match=r"\(batch, 16, frames\).*\(2, 128, 16\)"):
        HifiGan.from_model(hifigan)(torch.zeros(2, 128, 16))
    with pytest.raises(ValueError, match="its cards are: mini, audioldm"):
        HifiGan("bigvgan-22k-80")
    with pytest.raises(FileNotFoundError, match="config.json"):
        HifiGan(str(tmp_path))
    save(hifigan, replace(AUDIOLDM, n_mels=16), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"resblock_kernel_sizes": [3, 5]}))
    with pytest.raises(ValueError, match="do not fit its config.json"):
        HifiGan(str(tmp_path))


# ---- BigVGAN


def tiny_bigvgan(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return vocoder._bigvgan(BIGVGAN_CONFIG, Path("here")).eval()


def write(folder: Path, state: dict[str, Tensor], **config: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(BIGVGAN_CONFIG | config))
    torch.save({"generator": state}, folder / "bigvgan_generator.pt")
    return folder


def with_weight_norm(model: nn.Module, old_names: bool) -> dict[str, Tensor]:
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
            norm = nn.utils.weight_norm if old_names else nn.utils.parametrizations.weight_norm
            norm(module)
    return model.state_dict()


def test_bigvgan_files_plain_and_with_weight_norm(tmp_path: Path) -> None:
    model = tiny_bigvgan()
    mel = torch.randn(2, 80, 6, generator=torch.Generator().manual_seed(1)) - 4
    with torch.no_grad():
        expected = model(mel).sample[:, 0]
    plain = BigVGAN(str(write(tmp_path / "plain", model.state_dict())))
    assert plain.mel == PRESETS["bigvgan-22k-80"]
    assert agree(plain(mel), expected)
    assert expected.shape == (2, 6 * 256)
    assert expected.std() > 0
    for name, old_names in (("old", True), ("new", False)):
        state = with_weight_norm(tiny_bigvgan(), old_names)
        assert set(state) != set(model.state_dict())
        assert set(fuse_weight_norm(state)) == set(model.state_dict())
        torch.testing.assert_close(BigVGAN(str(write(tmp_path / name, state)))(mel), expected, rtol=0, atol=1e-6)
    folder = import_checkpoint(tmp_path / "old" / "bigvgan_generator.pt", tmp_path / "imported")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    torch.testing.assert_close(BigVGAN(str(folder))(mel), expected, rtol=0, atol=1e-6)


def test_bigvgan_refuses_other_files(tmp_path: Path) -> None:
    state = tiny_bigvgan().state_dict()
    with pytest.raises(ValueError, match="not of BigVGAN version 2.*snake"):
        BigVGAN(str(write(tmp_path / "one", state, activation="snake")))
    with pytest.raises(ValueError, match="version 2.*use_tanh_at_final"):
        BigVGAN(str(write(tmp_path / "tanh", state, use_tanh_at_final=True)))
    with pytest.raises(ValueError, match="disagree on hop_length"):
        BigVGAN(str(write(tmp_path / "hop", state, hop_size=128)))
    wrong = dict(state)
    wrong["conv_last.weight"] = wrong.pop("conv_post.weight")
    folder = write(tmp_path / "wrong", wrong)
    with pytest.raises(ValueError, match="1 missing, 1 unknown"):
        BigVGAN(str(folder))
    (folder / "bigvgan_generator.pt").unlink()
    with pytest.raises(FileNotFoundError, match="bigvgan_generator.pt"):
        BigVGAN(str(folder))
    with pytest.raises(FileNotFoundError, match="config.json"):
        import_checkpoint(tmp_path / "bigvgan_generator.pt", tmp_path / "out")


# ---- Griffin-Lim


@pytest.mark.parametrize("padding", ["hop", "centre"])
def test_griffin_lim_finds_a_sound_of_that_mel(padding: str) -> None:
    spec = replace(SPEC, padding=padding)
    waveform = decaying_noise(spec)
    frames = waveform.shape[1] // spec.hop_length
    wanted = log_mel(waveform, spec)[..., :frames]
    errors = []
    for iterations in (1, 32):
        sound = GriffinLim.from_spec(spec, iterations)(wanted)
        assert sound.shape == waveform.shape
        errors.append((log_mel(sound, spec)[..., :frames] - wanted).abs().mean().item())
    assert errors[1] < 0.1
    assert errors[1] < errors[0] / 2


def test_griffin_lim_keeps_pitch_and_place() -> None:
    spec = preset("miniature")
    time = torch.arange(16_384) / 16_000
    waveform = torch.where(time > 0.5, torch.sin(2 * torch.pi * 440 * time), 0.0)[None] * 0.5
    sound = GriffinLim()(log_mel(waveform, spec))
    loud = sound[0, 9_000:]
    peak = torch.fft.rfft(loud * torch.hann_window(len(loud))).abs().argmax().item() * 16_000 / len(loud)
    assert abs(peak - 440) < 24  # half of a band's width there
    assert sound[0, :7_000].square().mean() < 1e-3 * loud.square().mean()


def test_griffin_lim_is_the_same_whatever_the_batch_and_the_seed() -> None:
    model = GriffinLim.from_spec(SPEC, 4)
    mel = log_mel(decaying_noise(SPEC, 3), SPEC)
    together = model(mel)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    torch.testing.assert_close(model(mel[1:2])[0], together[1], rtol=0, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), before)


def test_griffin_lim_passes_gradients() -> None:
    mel = log_mel(decaying_noise(SPEC), SPEC).requires_grad_()
    GriffinLim.from_spec(SPEC, 2)(mel).square().mean().backward()
    assert mel.grad is not None
    assert mel.grad.isfinite().all()
    assert mel.grad.abs().sum() > 0


def test_griffin_lim_reads_any_cards_mel() -> None:
    for name, card in CARDS.items():
        model = GriffinLim(name)
        assert model.mel == PRESETS[card.options["mel"]]
        assert model.sample_rate == card.sample_rate
    assert GriffinLim(mel="vocos-24k-100").mel.scale == "htk"
    with pytest.raises(ValueError, match="must be one of mini"):
        GriffinLim("wavenet")
    with pytest.raises(ValueError, match="iterations 0"):
        GriffinLim(iterations=0)
    with pytest.raises(ValueError, match="overlap by less than half"):
        GriffinLim.from_spec(replace(SPEC, hop_length=200))


def test_what_other_cards_name_as_their_vocoder() -> None:
    """The embedded HiFi-GAN, or Griffin-Lim for the same log-mels, whose kind is known before either is built."""
    network, tin = vocoder.of_card("mini"), vocoder.of_card("gl")
    assert (type(network), type(tin)) == (HifiGan, GriffinLim)
    assert network.mel == tin.mel == vocoder.mel_of("mini") == vocoder.mel_of("gl") == preset("miniature")
    assert sum(p.numel() for p in network.parameters()) == CARDS["mini"].parameters
    mel = log_mel(torch.from_numpy(world.sound(world.sample("test", 1)).mean(0))[None], network.mel)
    for made in (network, tin):
        assert (log_mel(made(mel), network.mel)[..., : mel.shape[-1]] - mel).abs().mean() < 0.35  # 3 dB
    with pytest.raises(ValueError, match="has no card 'tin'"):
        vocoder.of_card("tin")


# ---- promises


def test_weightless_card_lies_in_the_package() -> None:
    card = CARDS["gl"]
    assert (card.parameters, dict(card.files)) == (0, {})
    assert card.folder().is_dir()


def test_published_sizes() -> None:
    counted = {"audioldm", *BIGVGAN}
    for name in CARDS:
        with torch.device("meta"):
            model = vocoder.build(name)
        assert (model is not None) == (name in counted)
        if model is not None:
            assert sum(p.numel() for p in model.parameters()) == CARDS[name].parameters
    with pytest.raises(FileNotFoundError, match="vocoder:bigvgan-24k-100|give the path as card"):
        BigVGAN("bigvgan-24k-100")


@pytest.mark.parametrize("name", ["HifiGan", "BigVGAN", "GriffinLim"])
def test_tiny_instances_keep_the_contract(name: str) -> None:
    model = vocoder.tiny()[name]()
    assert isinstance(model, Vocoder)
    assert model.state_dict() == {}
    mel = (torch.randn(3, model.mel.n_mels, 9) - 5).requires_grad_()
    together = model(mel)
    assert together.shape == (3, 9 * model.mel.hop_length)
    assert together.abs().max() <= 1
    torch.testing.assert_close(model(mel[2:])[0], together[2], rtol=0, atol=1e-5)
    together.sum().backward()
    assert mel.grad is not None
    assert mel.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in model.parameters())
