"""PaSST against hear21passt 0.0.26 (tests/golden), its files, and its promises."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from xmodal.foundation.passt import (
    CARDS,
    LONGEST,
    MIN_SAMPLES,
    PaSST,
    PaSSTConfig,
    PaSSTModel,
    build,
    import_checkpoint,
    spectrogram,
)
from xmodal.registry.checkpoint import unfilled

GOLDEN = load_file(Path(__file__).parent.parent / "golden" / "passt.safetensors")
NET = {name.removeprefix("net."): value for name, value in GOLDEN.items() if name.startswith("net.")}
NARROW = PaSSTConfig(width=48, layers=3, heads=4, classes=37)


@pytest.fixture(scope="module")
def model() -> PaSSTModel:
    with unfilled():
        made = PaSSTModel(NARROW)
    made.load_state_dict(NET, assign=True)
    return made.eval()


@pytest.fixture(scope="module")
def ear(model: PaSSTModel) -> PaSST:
    return PaSST.from_model(model)


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@pytest.mark.parametrize(("wave", "mel"), [("waveform", "mel"), ("short_wave", "mel_of_short_wave")])
def test_front_end(wave: str, mel: str) -> None:
    close(spectrogram(GOLDEN[wave]), GOLDEN[mel], 1e-3)


def test_every_stage(model: PaSSTModel, ear: PaSST) -> None:
    mels = spectrogram(GOLDEN["waveform"])
    with torch.no_grad():
        close(model.patch_embed["proj"](mels[:, None]), GOLDEN["patch_embedding"], 5e-4)
        kept = []
        hook = model.blocks[0].register_forward_hook(lambda module, given, made: kept.append(made))
        tokens = model(mels)
        hook.remove()
    close(kept[0][:, :4], GOLDEN["block0_first_four_tokens"], 5e-4)
    close(tokens[:, :2], GOLDEN["tokens_after_norm_first_two"], 1e-4)
    embedding, logits = ear.embed_and_classify(GOLDEN["waveform"])
    close(embedding, GOLDEN["embedding"], 1e-4)
    close(logits, GOLDEN["logits"], 1e-4)


def test_short_padded_and_long(model: PaSSTModel, ear: PaSST) -> None:
    def everything(ear: PaSST, wave: str) -> Tensor:
        embedding, logits = ear.embed_and_classify(GOLDEN[wave])
        return torch.cat((logits, embedding), 1)

    padded = PaSST.from_model(model, seconds=10)
    close(everything(ear, "short_wave"), GOLDEN["short.all"], 1e-4)
    close(everything(padded, "short_wave"), GOLDEN["short_padded_to_10s.all"], 1e-4)
    close(everything(ear, "long_wave"), GOLDEN["long.scene"], 1e-4)
    assert (GOLDEN["short.all"] - GOLDEN["short_padded_to_10s.all"]).abs().max() > 1e-2


def by_rule(name: str, shape: tuple[int, ...], number: int) -> Tensor:
    """The golden file's weights for the real size: a hash of the index, scaled by kind."""
    mask = 2**32 - 1
    x = (torch.arange(torch.Size(shape).numel()) * 2654435761 + number * 40503) & mask
    x = x ^ (x >> 16)
    x = _times(x, 2246822519)
    x = x ^ (x >> 13)
    x = _times(x, 3266489917)
    u = ((x ^ (x >> 16)).double() / 2**32 - 0.5).reshape(shape)
    if name.endswith(".bias"):
        return (0.2 * u).float()
    if name.endswith("pos_embed") or name in ("cls_token", "dist_token"):
        return u.float()
    return (1 + 0.3 * u if len(shape) == 1 else u * 2 * 3**0.5 / (u.numel() / shape[0]) ** 0.5).float()


def _times(x: Tensor, factor: int) -> Tensor:
    """The product's lowest 32 bits; in halves, since the whole would leave 63 bits."""
    low, high = factor & 0xFFFF, factor >> 16
    return (x * low + (((x * high) & 0xFFFFFFFF) << 16)) & 0xFFFFFFFF


def test_real_size() -> None:
    with unfilled():
        model = build()
    state = model.state_dict()
    names = sorted(state)
    model.load_state_dict({name: by_rule(name, tuple(state[name].shape), 31 + k) for k, name in enumerate(names)}, assign=True)
    first = model.blocks[0].attn.qkv.weight[0, :8]
    close(first.detach(), torch.tensor([0.0403, 0.0463, -0.0107, -0.0238, -0.0030, -0.0196, -0.0489, -0.0022]), 6e-5)
    assert sum(each.numel() for each in model.parameters()) == CARDS["passt-s"].parameters
    embedding, logits = PaSST.from_model(model).embed_and_classify(GOLDEN["waveform"])
    close(embedding, GOLDEN["real_size.embedding"], 5e-5)
    close(logits, GOLDEN["real_size.logits"], 5e-5)


def test_file_and_folder(tmp_path: Path, model: PaSSTModel) -> None:
    torch.manual_seed(0)
    small = PaSSTModel(PaSSTConfig(width=64, layers=1, heads=1, classes=5)).eval()
    torch.save(small.state_dict(), tmp_path / "published.pt")
    sound = torch.randn(1, 20_000) * 0.1
    expected = PaSST.from_model(small).class_logits(sound)
    read = PaSST(str(tmp_path / "published.pt"))
    close(read.class_logits(sound), expected, 1e-6)
    close(PaSST(str(import_checkpoint(tmp_path / "published.pt", tmp_path / "folder"))).class_logits(sound), expected, 1e-6)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="is not a PaSST file: it lacks 'cls_token'"):
        PaSST(str(tmp_path / "other.pt"))


def test_lengths(ear: PaSST) -> None:
    assert ear.tokens(torch.zeros(1, MIN_SAMPLES)).shape == (1, 1, 48)
    assert ear.tokens(torch.zeros(1, LONGEST + 20_000)).shape == (1, 99 + 5, 48)
    with pytest.raises(ValueError, match=f"at least {MIN_SAMPLES} samples at 32000 Hz"):
        ear.embed(torch.zeros(1, MIN_SAMPLES - 1))
    with pytest.raises(ValueError, match="seconds 0.1 is too short"):
        PaSST.from_model(ear.model, seconds=0.1)
