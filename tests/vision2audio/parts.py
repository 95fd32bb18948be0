"""Tiny parts of V2A-Mapper: pictures of one colour, sounds of one pitch, a generator that sings its condition."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.diffusion.sampling import draw_noise
from xmodal.foundation.base import AudioEncoder, AudioGenerator, Card, ImageEncoder
from xmodal.vision2audio import DiffusionMapper, V2AMapper

RATE = 4_000
COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0), "grey": (0.5, 0.5, 0.5)}
DIFFUSION = partial(DiffusionMapper, width=16, depth=1, heads=2, dim_head=8, timesteps=20, num_inference_steps=3)
CARDS = {
    "six": Card("six", {}, "unknown", False, "here", 0, dim=6),
    "seven": Card("seven", {}, "unknown", False, "here", 0, dim=7),
}


class Eyes(ImageEncoder):
    """The mean colour through a fixed matrix."""

    def __init__(self, dim: int = 5) -> None:
        super().__init__()
        self.dim, self.image_size = dim, 8
        self.net = nn.Linear(3, dim, bias=False)
        nn.init.orthogonal_(self.net.weight)

    def embed(self, inputs: Tensor) -> Tensor:
        return 3 * self.net(inputs.mean((2, 3)))


class Ears(AudioEncoder):
    """Loudness and how much of it lies in each of five bands; counts how often it is built."""

    built = 0

    def __init__(self, card: str = "six") -> None:
        super().__init__()
        Ears.built += 1
        self.dim, self.width, self.sample_rate = CARDS[card].dim or 0, 1, RATE

    def embed(self, inputs: Tensor) -> Tensor:
        energy = torch.fft.rfft(inputs).abs().square()[:, 1:]
        bands = [band.sum(1) for band in energy.chunk(self.dim, 1)]
        return nn.functional.normalize(torch.stack(bands, 1), dim=1)

    def tokens(self, waveform: Tensor) -> Tensor:
        return waveform[..., None]


class Voice(AudioGenerator):
    """One tone for each number of the condition, and a little noise; records what it was asked."""

    built = 0

    def __init__(self, card: str = "six") -> None:
        super().__init__()
        Voice.built += 1
        self.cond_dim, self.sample_rate, self.asked = CARDS[card].dim or 0, RATE, {}
        self.net = nn.Linear(1, 1)

    def default_scheduler(self) -> Any:
        from diffusers import DDIMScheduler

        return DDIMScheduler()

    def generate(self, embedding: Tensor, **options: Any) -> Tensor:
        self.asked = options
        count = options.get("num_waveforms_per_embedding", 1)
        samples = round(options["seconds"] * self.sample_rate)
        place = torch.arange(samples) / self.sample_rate
        hertz = (torch.arange(self.cond_dim) + 0.5) * RATE / 2 / self.cond_dim
        tones = embedding @ torch.sin(2 * torch.pi * hertz[:, None] * place) / self.cond_dim
        made = tones[:, None] + 0.1 * draw_noise((len(embedding), count, samples), options.get("generator"))
        if (ranker := options.get("ranker")) is None:
            return made.flatten(0, 1).clamp(-1, 1)
        scores = ranker(made.flatten(0, 1), embedding.repeat_interleave(count, 0)).view(-1, count)
        return made[torch.arange(len(made)), scores.argmax(1)].clamp(-1, 1)


def task(seed: int = 0, **options: Any) -> V2AMapper:
    torch.manual_seed(seed)
    parts = {"encoder": Eyes(), "target": Ears, "generator": Voice, "seconds": 0.1}
    return V2AMapper(**{**parts, **options})


def tone(hertz: float, samples: int = 400) -> Tensor:
    return 0.5 * torch.sin(2 * torch.pi * hertz * torch.arange(samples) / RATE)


def colour(name: str, size: int = 8) -> Tensor:
    return torch.tensor(COLOURS[name])[:, None, None].expand(3, size, size)


def batch(count: int = 8) -> dict[str, Any]:
    """Each colour has its pitch."""
    names = (list(COLOURS) * count)[:count]
    pitch = dict(zip(COLOURS, (200, 700, 1_200, 1_800), strict=True))
    pixels, sounds = torch.stack([colour(name) for name in names]), torch.stack([tone(pitch[name]) for name in names])
    return {"pixels": pixels, "waveform": sounds, "name": names, "id": [f"{name}-{index}" for index, name in enumerate(names)]}
