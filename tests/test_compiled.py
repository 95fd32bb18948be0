"""Compiled networks: the same results, the same gradients, and the same checkpoints. No compiler of C++ is asked for."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import xmodal
from tests.tiny import tiny_stable_diffusion
from xmodal.audio2image import AudioToken, AudioTokenEmbedder
from xmodal.foundation import beats
from xmodal.frozen import Frozen


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Dynamo's graphs, run as they are; the modes that were asked for."""
    asked: list[str] = []
    own = nn.Module.compile

    def compile_eagerly(module: nn.Module, mode: str = "", backend: str = "") -> None:
        asked.append(mode)
        own(module, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", compile_eagerly)
    torch._dynamo.reset()
    return asked


def audio_token(**options: Any) -> AudioToken:
    torch.manual_seed(0)
    ear = next(iter(beats.tiny().values()))()
    return AudioToken(ear, tiny_stable_diffusion(), partial(AudioTokenEmbedder, dropout=0.0), **options)


def test_a_task_trains_the_same_through_compiled_networks(eager: list[str]) -> None:
    plain, quick = audio_token(), audio_token(compile="reduce-overhead")
    assert eager == ["reduce-overhead"]
    assert quick.generator.unet._compiled_call_impl is not None  # type: ignore[union-attr]
    assert list(plain.state_dict()) == list(quick.state_dict())
    assert plain.generator.fingerprint() == quick.generator.fingerprint()  # features of one serve the other
    batch = {"waveform": torch.randn(2, 8000) / 9, "pixels": torch.rand(2, 3, 32, 32)}
    gradients: list[Tensor] = []
    for task in (plain, quick):
        torch.manual_seed(1)
        sum(task.losses(batch).values()).backward()  # type: ignore[union-attr]
        gradients.append(torch.cat([each.grad.flatten() for each in task.adapter.parameters() if each.grad is not None]))
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)
    plain.load_state_dict(quick.state_dict())


def test_a_pipeline_paints_the_same_and_is_published_the_same(eager: list[str], tmp_path: Path) -> None:
    pipe = xmodal.pipeline("audiotoken-mini", candidates=1)
    sound = torch.randn(16_000) / 9

    def paint() -> Tensor:
        return pipe(
            sound, sampling_rate=16_000, generator=torch.Generator().manual_seed(0), num_inference_steps=2, output_type="pt"
        ).images

    before, keys = paint(), list(pipe.generator.unet.state_dict())
    first = (pipe.save_pretrained(tmp_path / "plain") / "adapter.safetensors").read_bytes()
    pipe.compile()
    assert torch.allclose(paint(), before, atol=1e-4)
    assert list(pipe.generator.unet.state_dict()) == keys
    assert (pipe.save_pretrained(tmp_path / "quick") / "adapter.safetensors").read_bytes() == first
    with pytest.raises(ValueError, match="compiled networks and sequential offload cannot go together"):
        pipe.enable_sequential_cpu_offload("cpu")


def test_what_cannot_be_compiled(eager: list[str]) -> None:
    with pytest.raises(ValueError, match="compiled networks and low-rank weights cannot go together: leave one of them off"):
        audio_token(compile="default", lora_rank=2)
    pipe = audio_token(lora_rank=2).pipeline()
    with pytest.raises(ValueError, match="low-rank weights cannot go together"):
        pipe.compile()
    with pytest.raises(ValueError, match="sequential offload cannot go together"):
        audio_token().pipeline().enable_sequential_cpu_offload("cpu").compile()
    assert eager == []


def test_parts_name_networks_that_they_have() -> None:
    from xmodal.registry import models

    for name in models.available():
        for build in getattr(models.resolve(name), "tiny", dict)().values():
            part = build()
            if isinstance(part, Frozen):
                for network in (*part.repeated, *part.streamed, *filter(None, part.exact)):
                    assert isinstance(part.get_submodule(network), nn.Module), (name, network)
