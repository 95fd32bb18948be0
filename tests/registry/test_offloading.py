"""Parts that wait on the CPU: the same results, and no layer on the device but the one that works."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.tiny import tiny_stable_diffusion
from xmodal.foundation import memory
from xmodal.foundation.base import AudioEncoder
from xmodal.registry import offloading

DEVICE = torch.device("cpu")


class Log:
    """Which tensors of ours are on the device."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there: dict[int, int] = {}
        self.most = self.fetched = 0
        load, unload = offloading._load, offloading._unload

        def loading(module: nn.Module, device: torch.device) -> Any:
            kept = load(module, device)
            for value, data in kept:
                assert id(value) not in self.there  # nothing is fetched twice
                value.data = data.clone()  # as a device of its own would
                self.there[id(value)] = data.nbytes
            self.fetched += 1
            self.most = max(self.most, sum(self.there.values()))
            return kept

        def unloading(kept: Any) -> None:
            for value, _ in kept:
                self.there.pop(id(value))
            unload(kept)

        monkeypatch.setattr(offloading, "_load", loading)
        monkeypatch.setattr(offloading, "_unload", unloading)


def test_a_device_that_is_full_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    painter = tiny_stable_diffusion()
    load, calls = offloading._load, []

    def full(module: nn.Module, device: torch.device) -> Any:
        calls.append(module)
        if len(calls) == 3:
            raise MemoryError("full")
        return load(module, device)

    monkeypatch.setattr(offloading, "_load", full)
    with pytest.raises(MemoryError), offloading.on_device(painter, DEVICE, by_layers=True, small=1000):
        pass
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in painter.modules())


def test_layers_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    painter = tiny_stable_diffusion()
    latents = torch.randn(2, 4, 16, 16)

    def paint() -> torch.Tensor:
        return painter.generate(painter.prompt_embeds(["a", "b"]), num_inference_steps=2, latents=latents)

    before, places = paint(), {name: value.data_ptr() for name, value in painter.named_parameters()}
    log, small = Log(monkeypatch), 1000
    with offloading.on_device(painter, DEVICE, by_layers=True, small=small):
        assert torch.equal(paint(), before)
        assert log.fetched > 2 * len(offloading.layers(painter, small))  # each step fetched them anew
    assert not log.there
    sizes = [sum(value.nbytes for value in offloading._own(module)) for module in offloading.layers(painter, small)]
    rest = memory.weights(painter) - sum(sizes)
    assert rest < log.most <= rest + max(sizes) < memory.weights(painter) / 2
    assert {name: value.data_ptr() for name, value in painter.named_parameters()} == places  # the very weights came back
    assert torch.equal(paint(), before)


def test_after_an_error_everything_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    painter, log = tiny_stable_diffusion(), Log(monkeypatch)
    with pytest.raises(RuntimeError), offloading.on_device(painter, DEVICE, by_layers=True, small=0):
        painter.unet(torch.zeros(1, 4, 8, 8), 1, torch.zeros(1, 77, 3))
    assert not log.there
    assert not any(module._forward_pre_hooks for module in painter.modules())


def test_what_is_counted_is_what_is_there() -> None:
    painter = tiny_stable_diffusion()
    assert offloading.resident(painter, torch.float32) == memory.weights(painter)
    assert offloading.resident(painter, torch.bfloat16) < memory.weights(painter)
    assert offloading.layers(nn.Linear(1000, 1000)) == []  # it names no networks
    assert offloading.resident(nn.Linear(1000, 1000), torch.float32, by_layers=True) == 4 * 1001 * 1000


def test_the_first_layer_of_any_unet_stays() -> None:
    for channels, width in ((4, 320), (8, 128), (8, 256)):  # Stable Diffusion, AudioLDM small and large
        assert memory.weights(nn.Conv2d(channels, width, 3)) < offloading.SMALL


def test_a_pipeline_works_layer_by_layer() -> None:
    import xmodal

    pipe = xmodal.pipeline("audiotoken-mini")
    assert isinstance(pipe.encoder, AudioEncoder)
    assert offloading.layers(pipe.generator)  # some of the miniature's are large
    sound, options = torch.randn(16_000) / 9, {"num_inference_steps": 2, "sampling_rate": 16_000, "output_type": "pt"}
    before = pipe(sound, generator=torch.Generator().manual_seed(0), **options).images
    pipe.enable_sequential_cpu_offload("cpu")
    assert torch.equal(pipe(sound, generator=torch.Generator().manual_seed(0), **options).images, before)
