"""Weights in fewer bits: what they take, how near the results are, and that gradients pass through."""

from __future__ import annotations

import math
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import xmodal
from tests.tiny import TinyEncoder, TinyTask, tiny_stable_diffusion
from xmodal.__main__ import run
from xmodal.adapter_task import AdapterTask
from xmodal.audio2image import AudioToken, AudioTokenEmbedder
from xmodal.foundation import memory, stable_diffusion
from xmodal.foundation.base import AudioEncoder
from xmodal.foundation.vocoder import tiny as tiny_vocoders
from xmodal.frozen import Frozen
from xmodal.miniature import world
from xmodal.registry import quantized
from xmodal.registry.checkpoint import unfilled

HERE = find_spec("bitsandbytes") is not None
needed = pytest.mark.skipif(not HERE, reason='bitsandbytes is not installed: pip install "xmodal[quantize]"')
KINDS = list(quantized.BLOCKS)
NEAR = {"int8": (0.01, 0.05, 0.995), "nf4": (0.11, 0.6, 0.9)}  # of text embeddings, of gradients, of their direction


class Net(Frozen):
    """Layers of every kind."""

    exact = ("kept",)

    def __init__(self) -> None:
        super().__init__()
        self.line, self.seen = nn.Linear(31, 48), nn.Conv2d(3, 8, 3, padding=1, stride=2, groups=1)
        self.heard, self.kept = nn.Conv1d(4, 6, 5, dilation=2, bias=False), nn.Linear(10, 10)
        self.words, self.edge = nn.Embedding(10, 10), nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular")

    def forward(self, rows: Tensor, pixels: Tensor, steps: Tensor) -> Tensor:
        return self.line(rows).sum() + self.seen(pixels).square().sum() + self.heard(steps).square().sum()


class Ear(AudioEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.dim = self.width = 8
        self.sample_rate, self.net = 16_000, nn.Linear(4, 8)

    def embed(self, inputs: Tensor) -> Tensor:
        return self.tokens(inputs).mean(1)

    def tokens(self, waveform: Tensor) -> Tensor:
        return self.net(waveform[:, :64].unflatten(1, (16, 4)))


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def test_without_the_package_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    for attempt in (
        lambda: quantized.quantize(Net(), "int8"),
        lambda: xmodal.pipeline("audiotoken-mini", quantize="nf4"),
        lambda: TinyTask(TinyEncoder(), quantize="int8"),
    ):
        with pytest.raises(ImportError, match=r'needs the package bitsandbytes: pip install "xmodal\[quantize\]"'):
            attempt()


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="quantize 'int3' is not one of int8, nf4"):
        quantized.quantize(Net(), "int3")


@pytest.mark.parametrize(("kind", "rate"), [("int8", 1 + 4 / 256), ("nf4", 0.5 + 4 / 64)])
def test_bytes_are_counted_without_any(kind: str, rate: float) -> None:
    with unfilled():
        unet = stable_diffusion.build("sd-1.4")["unet"]
    held, numbers = memory.weights(unet), sum(layer.weight.numel() for layer in quantized.layers(unet))
    assert numbers > 0.99 * held / 4
    assert sum(quantized.size(layer.weight.numel(), kind) for layer in quantized.layers(unet)) == pytest.approx(
        rate * numbers, 1e-3
    )
    part = Frozen.assembled.__func__(_Holder, unet)  # type: ignore[attr-defined]
    quantized.quantize(part, kind)
    assert memory.weights(part) == pytest.approx(rate * numbers + held - 4 * numbers, rel=1e-3)
    part.to(torch.bfloat16)
    assert memory.weights(part) == pytest.approx(rate * numbers + (held - 4 * numbers) / 2, rel=1e-3)
    assert quantized.largest(part) == 1280 * 2560 * 9


class _Holder(Frozen):
    def _assemble(self, unet: nn.Module) -> None:  # type: ignore[override]
        self.unet = unet


def test_a_graph_holds_no_restored_weight() -> None:
    """Counted on the meta device: eight layers hold what they made, not eight weights."""

    def peak(kind: str | None) -> int:
        with unfilled():
            part = Frozen.assembled.__func__(_Holder, nn.Sequential(*(nn.Linear(1000, 1000) for _ in range(8))))  # type: ignore[attr-defined]
        if kind:
            quantized.quantize(part, kind)
        rows = torch.zeros(10, 1000, device="meta")
        return memory.peak(lambda: part.unet(rows.clone().requires_grad_()).tanh().sum().backward())

    assert peak(None) < 4e6 <= peak("int8") < 2 * 4e6 + 4e5


@needed
@pytest.mark.parametrize("kind", KINDS)
def test_layers_compute_and_turn_back_what_their_restored_weights_do(kind: str) -> None:
    part, twin = Net(), Net()
    inputs = [torch.randn(5, 7, 31), torch.randn(2, 3, 9, 8), torch.randn(2, 4, 20)]
    kept = {name: part.get_submodule(name).weight for name in ("kept", "words", "edge")}
    quantized.quantize(part, kind)
    assert quantized.quantize(part, kind) is part  # once is enough
    other = next(each for each in KINDS if each != kind)
    with pytest.raises(ValueError, match=f"Net is quantized to {kind} already: load it anew for {other}"):
        quantized.quantize(part, other)
    assert all(part.get_submodule(name).weight is weight for name, weight in kept.items())
    twin.load_state_dict({}, strict=False)
    for name in ("line", "seen", "heard"):
        mine, plain = part.get_submodule(name), twin.get_submodule(name)
        assert isinstance(mine, type(plain))
        plain.weight.data, plain.bias = mine.weight, mine.bias
    found, expected = ([each.clone().requires_grad_() for each in inputs] for _ in range(2))
    one, two = part(*found), twin(*expected)
    one.backward()
    two.backward()
    assert torch.allclose(one, two, rtol=1e-4)
    for mine, plain in zip(found, expected, strict=True):
        assert torch.allclose(mine.grad, plain.grad, rtol=1e-4, atol=1e-5)
    assert not any(value.requires_grad for value in part.parameters())


@needed
@pytest.mark.parametrize("kind", KINDS)
def test_precision_of_what_is_computed(kind: str) -> None:
    part = quantized.quantize(Net(), kind)
    line, rows = part.line, torch.randn(3, 31)
    with torch.autocast("cpu", torch.bfloat16):
        assert line(rows).dtype == torch.bfloat16
    plain, scales = line(rows), line.scales.clone()
    part.to(torch.bfloat16)
    assert line.weight.dtype == line(rows.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(line.scales, scales)  # casting leaves them whole
    assert torch.allclose(line(rows.bfloat16()).float(), plain, atol=0.05)


@needed
@pytest.mark.parametrize("kind", KINDS)
def test_the_miniature_is_near_and_trained_through(kind: str) -> None:
    task: Any = AdapterTask.from_pretrained("audiotoken-mini", classification_weight=0.0)
    painter, clips = task.generator, [world.sample("test", index, seed=1) for index in range(8)]
    batch = {
        "waveform": torch.stack([torch.from_numpy(world.sound(clip)).mean(0) for clip in clips]),
        "pixels": torch.stack([torch.tensor(world.picture(clip)).permute(2, 0, 1) / 255 for clip in clips]),
    }
    batch = {**batch, **task.features(batch)}

    def step() -> Tensor:
        task.zero_grad()
        torch.manual_seed(0)
        task.losses(batch)["denoising"].backward()
        return torch.cat([each.grad.flatten() for each in task.adapter.parameters() if each.grad is not None])

    embeds, gradient = painter.prompt_embeds([f"a photo of {clip.thing}" for clip in clips]), step()
    vae, before, print_before = memory.weights(painter.vae), memory.weights(painter), painter.fingerprint()
    quantized.quantize(painter, kind)
    assert memory.weights(painter.vae) == vae  # pictures are not made of fewer bits
    assert memory.weights(painter) - vae < {"int8": 0.3, "nf4": 0.18}[kind] * (before - vae)
    embeds_now, gradient_now = painter.prompt_embeds([f"a photo of {clip.thing}" for clip in clips]), step()
    near, reached, aligned = NEAR[kind]
    assert 0 < relative(embeds_now, embeds) < near
    assert relative(gradient_now, gradient) < reached
    assert float(torch.cosine_similarity(gradient_now, gradient, 0)) > aligned
    assert painter.fingerprint() != print_before  # what it makes is stored apart


def audio_token(**options: Any) -> AudioToken:
    torch.manual_seed(0)
    return AudioToken(Ear(), tiny_stable_diffusion(), partial(AudioTokenEmbedder, dropout=0.0), **options)


@needed
def test_an_adapter_is_the_same_thing_with_and_without() -> None:
    plain, small = audio_token(), audio_token(quantize="int8")
    assert small.encoder.quantized == small.generator.quantized == "int8"
    assert plain.state_dict().keys() == small.state_dict().keys()
    assert all(torch.equal(one, two) for one, two in zip(plain.state_dict().values(), small.state_dict().values(), strict=True))
    batch = {"waveform": torch.randn(2, 100), "pixels": torch.rand(2, 3, 32, 32)}
    gradients = []
    for task in (plain, small):
        torch.manual_seed(1)
        sum(task.losses(batch).values()).backward()  # type: ignore[union-attr]
        gradients.append(torch.cat([each.grad.flatten() for each in task.adapter.parameters() if each.grad is not None]))
    assert 0 < relative(gradients[1], gradients[0]) < 0.2
    keys = [{name: [part.fingerprint() for part in feature.built()] for name, feature in task.frozen_features().items()}
            for task in (plain, small)]  # fmt: skip
    assert all(keys[0][name] != keys[1][name] for name in keys[0])  # a store serves neither to the other
    plain.load_state_dict(small.state_dict())


@needed
def test_a_published_adapter_loads_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = AdapterTask.from_pretrained("audiotoken-mini", quantize="nf4")
    assert trained.generator.quantized == "nf4"  # type: ignore[union-attr]
    folder = trained.save_adapter(tmp_path / "adapter")
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    recipe = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(recipe.replace("  init_args:\n", "  init_args:\n    quantize: nf4\n", 1))
    for found in (AdapterTask.from_pretrained(folder), xmodal.pipeline(folder)):
        assert found.generator.quantized is None
        assert all(torch.equal(one, two) for one, two in zip(
            found.adapter.state_dict().values(), trained.adapter.state_dict().values(), strict=True))  # fmt: skip


@needed
def test_a_pipeline_generates(tmp_path: Path) -> None:
    import numpy as np
    import soundfile

    soundfile.write(tmp_path / "a.wav", 0.1 * np.sin(np.arange(40_000) / 9), 16_000)
    words = ["generate", str(tmp_path / "a.wav"), "--to", "image", "--steps", "1", "--device", "cpu", "-o", str(tmp_path / "out")]
    run([*words, "--quantize", "int8"])
    assert (tmp_path / "out" / "a.png").is_file()
    pipe = xmodal.pipeline("v2a-regression-mini", quantize="nf4")
    assert pipe.generator.quantized == pipe.encoder.quantized == "nf4"
    assert not list(quantized.layers(pipe.mapper)) or not hasattr(pipe.mapper, "quantized")
    options: dict[str, Any] = {"num_inference_steps": 1, "output_type": "pt"}
    pixels, noise = torch.rand(3, 64, 64), torch.Generator()
    sound = pipe(pixels, generator=noise.manual_seed(0), **options).audios
    assert torch.isfinite(sound).all()
    pipe.enable_sequential_cpu_offload("cpu")
    assert torch.equal(pipe(pixels, generator=noise.manual_seed(0), **options).audios, sound)


def test_what_is_heard_is_not_made_of_fewer_bits() -> None:
    for build in tiny_vocoders().values():
        assert list(quantized.layers(build())) == []


def test_whole_blocks() -> None:
    assert quantized.size(1, "int8") == 260
    assert quantized.size(257, "int8") == 520
    assert quantized.size(65, "nf4") == 2 * 36
    assert math.isclose(quantized.size(10**6, "nf4") / 10**6, 0.5625, rel_tol=1e-3)
