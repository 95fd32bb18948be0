"""The network: sizes, padding, condition, and that weights remember their kind of mel."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.rounding import agree
from tests.text2audio.parts import MEL, UNET
from xmodal.text2audio.unet import PRESETS, MelUNet


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("preset", "millions"), [("base", 26.3), ("paper-size", 143.4)])
def test_sizes_without_the_condition_path(preset: str, millions: float) -> None:
    with torch.device("meta"):
        network = MelUNet(768, 80, preset=preset)
    assert round(parameters(network.unet) / 1e6, 1) == millions
    width = 4 * PRESETS[preset].block_out_channels[0]
    assert parameters(network) - parameters(network.unet) == 768 + 769 * width + (width + 1) * width


@pytest.mark.parametrize("shape", [(14, 31), (14, 1), (16, 40)])
def test_any_number_of_frames_and_bands_comes_back(shape: tuple[int, int]) -> None:
    network = UNET(6, shape[0])
    made = network(torch.randn(2, *shape), torch.tensor([0, 999]), network.prepare(torch.randn(2, 6)))
    assert made.shape == (2, *shape)
    assert torch.isfinite(made).all()
    assert network.multiple == 4


def test_a_row_depends_on_itself_alone() -> None:
    network = UNET(6, 14).eval()
    noisy, times, condition = torch.randn(3, 14, 30), torch.tensor([5, 500, 900]), torch.randn(3, 6)
    together = network(noisy, times, network.prepare(condition))
    alone = network(noisy[1:2], times[1:2], network.prepare(condition[1:2]))
    assert torch.allclose(together[1:2], alone, atol=1e-5)


def test_the_length_of_a_condition_does_not_matter_but_its_direction_does() -> None:
    network = UNET(6, 14)
    condition = torch.randn(2, 6)
    assert torch.allclose(network.prepare(condition), network.prepare(7 * condition), atol=1e-6)
    assert (network.prepare(condition) - network.prepare(-condition)).abs().max() > 1e-3


def test_hidden_rows_see_the_learned_vector_which_learns() -> None:
    network = UNET(6, 14)
    torch.nn.init.normal_(network.null)
    keep = torch.tensor([True, False])
    one, two = (network.prepare(condition, keep) for condition in torch.randn(2, 2, 6))
    assert agree(one[1], two[1])
    assert not agree(one[0], two[0])
    assert torch.allclose(one[1], network.read(network.null), atol=1e-5)
    one[1].square().sum().backward()
    assert network.null.grad is not None
    assert network.null.grad.abs().sum() > 0


def test_normalized_range_and_the_way_back() -> None:
    network = UNET(6, 14)
    network.bind(MEL, MEL.silence, 2.5)
    values = torch.tensor([[[MEL.silence, 2.5, -4.0]]])
    assert torch.allclose(network.normalize(values)[0, 0, :2], torch.tensor([-1.0, 1.0]))
    assert torch.allclose(network.denormalize(network.normalize(values)), values, atol=1e-5)
    assert network.denormalize(torch.tensor(-2.0)) == pytest.approx(MEL.silence)


def test_weights_remember_their_mel_through_safetensors_and_half_precision(tmp_path: object) -> None:
    network, other = UNET(6, 14), UNET(6, 14)
    network.bind(MEL, MEL.silence, 2.5)
    state = {name: value.half() if value.is_floating_point() else value for name, value in network.state_dict().items()}
    save_file({name: value.contiguous() for name, value in state.items()}, f"{tmp_path}/a.safetensors")
    other.load_state_dict(load_file(f"{tmp_path}/a.safetensors"))
    assert (other.mel, other.low, other.high) == (MEL, MEL.silence, 2.5)


def test_another_mel_is_refused_with_both_printed() -> None:
    network, other = UNET(6, 14), UNET(6, 14)
    network.bind(MEL, MEL.silence, 2.5)
    other.bind(replace(MEL, hop_length=32), MEL.silence, 2.5)
    with pytest.raises(ValueError, match="disagree on hop_length") as caught:
        other.load_state_dict(network.state_dict())
    assert "hop_length=64" in str(caught.value)
    assert "hop_length=32" in str(caught.value)
    other.bind(MEL, MEL.silence, 3.3)
    with pytest.raises(ValueError, match="set mel_low and mel_high as it was trained"):
        other.load_state_dict(network.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "huge"}, "there is no preset 'huge'; known are mini, base, paper-size"),
        ({"block_out_channels": [16], "attention": [True, False]}, "one entry for each level"),
        ({"block_out_channels": [17, 32]}, "17 channels cannot be divided into 8 groups"),
        ({"patch_size": -1}, "must be at least 1"),
    ],
)
def test_sizes_that_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNET(6, 14, **options)


def test_wrong_shapes() -> None:
    network = UNET(6, 14)
    with pytest.raises(ValueError, match=r"the network expects \(B, 6\)"):
        network.prepare(torch.randn(2, 5))
    with pytest.raises(ValueError, match=r"the network expects \(B, 14, L\)"):
        network(torch.randn(2, 13, 8), torch.tensor(3), network.prepare(torch.randn(2, 6)))
    with pytest.raises(ValueError, match="built for 14 mel bands"):
        network.bind(replace(MEL, n_mels=20), -11.0, 2.5)
    with pytest.raises(ValueError, match="must rise"):
        network.bind(MEL, 2.5, 2.5)


@pytest.mark.slow
def test_paper_size_at_80x864_takes_a_training_step() -> None:
    """Shapes of forward, backward and update for the full network at a clip of 10 s; nothing is computed."""
    with torch.device("meta"):
        network = MelUNet(768, 80, preset="paper-size", gradient_checkpointing=True)
        noisy, condition = torch.randn(2, 80, 864), torch.randn(2, 768)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
        made = network(noisy, torch.zeros(2, dtype=torch.long), network.prepare(condition))
        assert made.shape == noisy.shape
        made.square().mean().backward()
        assert all(parameter.grad is not None for name, parameter in network.named_parameters() if name != "null")
        optimizer.step()
    assert parameters(network) == 144_343_809
