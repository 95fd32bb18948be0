"""Memory found without any: counts that can be made by hand, and settings that fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xmodal.__main__ import run
from xmodal.foundation import audioldm, memory, stable_diffusion

ROW = 10 * 1000 * 4  # bytes of a batch of ten thousand-wide float32 rows


def test_what_lives_at_once_is_counted() -> None:
    def chain() -> torch.Tensor:
        first = torch.zeros(10, 1000)
        second = first + 1
        del first
        return second.view(1000, 10) * 2  # a view takes nothing

    assert memory.peak(chain) == 2 * ROW
    with torch.device("meta"):
        given = torch.zeros(10, 1000)
    assert memory.peak(lambda: given.t() + 1) == ROW  # what was there before is not counted


def test_what_the_backward_pass_waits_for_is_counted() -> None:
    layers = nn.Sequential(*(nn.Linear(1000, 1000, bias=False) for _ in range(8))).to("meta").requires_grad_(False)

    def forward() -> torch.Tensor:
        rows = torch.zeros(10, 1000, requires_grad=True)
        for layer in layers:
            rows = layer(rows).tanh()
        return rows.sum()

    def without() -> torch.Tensor:
        with torch.no_grad():
            return forward()

    assert memory.peak(without) <= 3 * ROW
    assert 9 * ROW <= memory.peak(lambda: forward().backward()) <= 12 * ROW  # eight results of tanh, not one weight


def test_attention_is_counted_without_its_table() -> None:
    def attend() -> torch.Tensor:
        query = torch.zeros(1, 2, 512, 8, requires_grad=True)
        return F.scaled_dot_product_attention(query, query, query)

    assert memory.peak(attend) == 2 * 512 * 8 * 4 * 2
    assert memory.peak(lambda: attend().sum().backward()) < 512 * 512 * 4
    assert F.scaled_dot_product_attention(*[torch.zeros(1, 1, 2, 4)] * 3).device.type == "cpu"  # nothing is left replaced


def test_weights_are_counted_once() -> None:
    layer = nn.Linear(10, 10)
    twice = nn.Sequential(layer, layer, nn.BatchNorm1d(10))
    assert memory.weights(twice) == 4 * (110 + 40) + 8
    assert memory.weights(twice, torch.bfloat16) == 2 * (110 + 40) + 8


@pytest.mark.parametrize(("text", "size"), [("8GB", 8 * 10**9), ("7.5 GiB", 15 * 2**29), ("500mb", 5 * 10**8), ("12", 12)])
def test_sizes(text: str, size: int) -> None:
    assert memory.parse(text) == size


@pytest.mark.parametrize("text", ["", "0GB", "-1GB", "8 apples", "GB", "nan"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="is no size of memory: write it as 8GB or 7.5GiB"):
        memory.parse(text)


def test_the_quickest_setting_that_fits_is_chosen() -> None:
    def weigh(dtype: torch.dtype, by_layers: bool) -> dict[str, int]:
        return {"generator": (100 if by_layers else 1000) * dtype.itemsize, "encoder": 100 * dtype.itemsize, "adapter": 40}

    def chosen(budget: int) -> memory.Setting:
        work = memory.settings(
            weigh, "generator", lambda batch, slicing: 100 * (1 if slicing else batch), 8, ["float32", "bfloat16"]
        )
        return memory.choose(budget, work)

    assert chosen(5240) == memory.Setting("float32", 8, "", False, 5240)
    assert chosen(5239) == memory.Setting("float32", 8, "", True, 4540)
    assert chosen(4400).dtype == "bfloat16"
    assert chosen(2200) == memory.Setting("bfloat16", 8, "model", True, 2050)
    assert chosen(2000) == memory.Setting("float32", 8, "sequential", False, 1200)
    assert chosen(250) == memory.Setting("bfloat16", 8, "sequential", True, 250)
    with pytest.raises(ValueError, match="are not enough: the least is bfloat16, 8 at once, VAE slicing, sequential offload"):
        chosen(249)


def test_a_painter_says_what_it_needs() -> None:
    painter = stable_diffusion.tiny()["StableDiffusion"]()
    one, four = (painter.activations("unet", batch) for batch in (1, 4))
    assert 0 < one < four <= 4 * one
    assert painter.activations("vae", 2) > painter.activations("vae", 1)
    assert painter.activations("vae", 1, 64, 64) > painter.activations("vae", 1)
    assert painter.activations("text_encoder", 1) == 0
    assert next(painter.unet.parameters()).device.type == "cpu"  # nothing was moved for it


def test_slices_and_tiles_paint_the_same() -> None:
    painter = stable_diffusion.tiny()["StableDiffusion"]()
    latents = torch.randn(3, 4, 32, 32)
    whole = painter.decode(latents)
    painter.enable_vae_slicing()
    assert torch.allclose(painter.decode(latents), whole, atol=1e-5)
    painter.enable_vae_slicing(False)
    painter.enable_vae_tiling()
    assert painter.decode(latents).shape == whole.shape
    painter.enable_vae_tiling(False)
    embeds, options = painter.prompt_embeds(["a", "b"]), {"num_inference_steps": 2, "latents": latents[:2]}
    before = painter.generate(embeds, **options)
    painter.enable_attention_slicing()
    assert torch.allclose(painter.generate(embeds, **options), before, atol=1e-4)


def test_what_sounds_need() -> None:
    generator = next(iter(audioldm.tiny().values()))()
    one, four = (generator.activations("unet", batch) for batch in (1, 4))  # type: ignore[attr-defined]
    assert 0 < one < four <= 4 * one
    for part in ("unet", "vae"):
        assert generator.activations(part, 1, 4 * generator.seconds) > generator.activations(part, 1)  # type: ignore[attr-defined]
    assert all(value.device.type == "cpu" for value in generator.parameters())
    assert torch.isfinite(generator.generate(torch.randn(1, generator.cond_dim), guidance_scale=1.0, num_inference_steps=1)).all()


def test_a_copy_without_weights_touches_nothing() -> None:
    painter = stable_diffusion.tiny()["StableDiffusion"]()
    before, print_before = dict(painter.named_parameters()), painter.fingerprint()
    twin = memory.without_weights(painter, torch.bfloat16)
    assert {value.device.type for value in twin.parameters()} == {"meta"}
    assert {value.dtype for value in twin.parameters()} == {torch.bfloat16}
    embeds, latents = (torch.zeros(1, *shape, device="meta") for shape in ((77, 16), (4, 8, 8)))
    assert memory.peak(lambda: twin.loss(latents, embeds)) > 0
    assert all(value is before[name] for name, value in painter.named_parameters())
    assert painter.fingerprint() == print_before
    assert torch.isfinite(painter.loss(torch.randn(1, 4, 8, 8), torch.randn(1, 77, 16)))


@pytest.mark.slow
def test_generate_within_a_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np
    import soundfile

    soundfile.write(tmp_path / "a.wav", 0.1 * np.sin(np.arange(40_000) / 9), 16_000)
    words = ["generate", str(tmp_path / "a.wav"), "--to", "image", "--steps", "1", "--device", "cpu", "-o", str(tmp_path / "out")]
    run([*words, "--memory", "30MB"])
    assert "audiotoken-mini within 0.03 GB by bfloat16" in capsys.readouterr().err
    assert (tmp_path / "out" / "a.png").is_file()
    with pytest.raises(ValueError, match="is no size of memory"):
        run([*words, "--memory", "much"])
    picture = ["generate", str(tmp_path / "out" / "a.png"), "--to", "audio", "--steps", "1", "--device", "cpu"]
    run([*picture, "-o", str(tmp_path / "sounds"), "--memory", "60MB"])
    assert "v2a-mini within 0.06 GB by " in capsys.readouterr().err
    assert (tmp_path / "sounds" / "a.wav").is_file()
    with pytest.raises(ValueError, match="cannot tell what --candidates need"):
        run([*picture, "--memory", "60MB", "--candidates", "2"])
    with pytest.raises(ValueError, match="cannot tell what .* needs, only what Stable Diffusion and AudioLDM do"):
        run(["generate", "a bell", "--to", "audio", "--memory", "60MB", "--device", "cpu"])
