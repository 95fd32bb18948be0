"""Tiny parts of CLIPSonic: pictures of one colour, texts that name a colour, sounds of one pitch."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.diffusion.schedules import scheduler_for
from xmodal.foundation.base import ImageEncoder, MelAutoencoder, Prior, TextEncoder
from xmodal.foundation.mel import MelSpec
from xmodal.foundation.vocoder import GriffinLim
from xmodal.text2audio import CLIPSonic, MelNetwork, MelUNet

MEL = MelSpec(4_000, 256, 256, 64, 14, 0.0, 2_000.0, padding="hop")
UNET = partial(
    MelUNet,
    preset="mini",
    block_out_channels=[16, 32],
    attention=[False, True],
    attention_head_dim=16,
    norm_num_groups=8,
    patch_size=2,
)
COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0)}


class Eyes(ImageEncoder):
    """The mean colour through a fixed matrix."""

    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.dim, self.image_size = dim, 8
        self.net = nn.Linear(3, dim, bias=False)
        nn.init.orthogonal_(self.net.weight)

    def embed(self, inputs: Tensor) -> Tensor:
        return self.net(inputs.mean((2, 3)))


class Reader(TextEncoder):
    """Another place of the same space: the named colour's embedding, moved and longer."""

    built = 0

    def __init__(self, eyes: Eyes, gap: float = 0.0) -> None:
        super().__init__()
        Reader.built += 1
        self.dim, self.net, self.gap = eyes.dim, eyes, gap

    def embed(self, inputs: list[str]) -> Tensor:
        rows = torch.tensor([next(v for k, v in COLOURS.items() if k in text) for text in inputs])
        moved = self.net.embed(rows[:, :, None, None]) + self.gap
        return 3 * moved / moved.norm(dim=1, keepdim=True)

    def states(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        return torch.ones(len(texts), 5, self.dim), torch.ones(len(texts), 5, dtype=torch.bool)


class Guess(Prior):
    """Takes the gap away again, plus a little noise from the generator; records what it was asked."""

    def __init__(self, dim: int = 6, gap: float = 0.0, reads_tokens: bool = False) -> None:
        super().__init__()
        self.dim, self.gap, self.reads_tokens = dim, gap, reads_tokens
        self.asked: dict[str, Any] = {}

    def sample(self, text_embedding: Tensor, **options: Any) -> Tensor:
        from xmodal.diffusion.sampling import draw_noise

        self.asked = options
        return text_embedding - self.gap + 0.01 * draw_noise(text_embedding.shape, options.get("generator"))


class Squares(MelAutoencoder):
    """Folds squares of 2 x 2 into 4 channels and brings their values near 0: nothing is lost."""

    def __init__(self, scale: float = 3.0, mel: MelSpec = MEL) -> None:
        super().__init__()
        self.mel, self.factor, self.latent_channels = mel, 2, 4
        self.scale = nn.Parameter(torch.tensor(scale))

    def encode(self, log_mel: Tensor) -> Tensor:
        return F.pixel_unshuffle((log_mel[:, None] + 6) / self.scale, 2).flatten(1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(latents.unflatten(1, (4, -1)), 2)[:, 0] * self.scale - 6


class Oracle(MelNetwork):
    """Knows the sound: answers towards a spectrogram, or its latents, that only the condition decides."""

    def __init__(self, kind: str = "v_prediction", gain: float = 0.5, latents: str = "") -> None:
        super().__init__(6, 28 if latents else 14)
        self.bind(MEL, MEL.silence, 2.5, latents, 4 if latents else 1)
        self.alphas, self.gain = scheduler_for(kind, training=True).alphas_cumprod, gain
        self.anchor, self.kind, self.batches = nn.Parameter(torch.zeros(1)), kind, []

    def prepare(self, condition: Tensor, keep: Tensor | None = None) -> Tensor:
        return condition if keep is None else condition * keep[:, None]

    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        self.batches.append(len(noisy))
        clean = self.gain * condition[:, :1, None].expand_as(noisy)
        alpha = self.alphas[timesteps.long()].view(-1, 1, 1)
        guess = (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        return guess if self.kind == "epsilon" else alpha.sqrt() * guess - (1 - alpha).sqrt() * clean


def task(seed: int = 0, **options: Any) -> CLIPSonic:
    """A generator of half a second of sound, under ten thousand numbers a batch."""
    torch.manual_seed(seed)
    parts = {"encoder": Eyes(), "vocoder": GriffinLim.from_spec(MEL, iterations=2), "adapter": UNET, "seconds": 0.5}
    return CLIPSonic(**{**parts, **options})


def tone(hertz: float, samples: int = 2_000) -> Tensor:
    return 0.5 * torch.sin(2 * torch.pi * hertz * torch.arange(samples) / MEL.sample_rate)


def batch(count: int = 4) -> dict[str, Any]:
    """Red pictures hum at 250 Hz, green ones whistle at 1500 Hz."""
    names = ["red", "green"] * (count // 2)
    pixels = torch.stack([torch.tensor(COLOURS[name])[:, None, None].expand(3, 8, 8) for name in names])
    return {"pixels": pixels, "waveform": torch.stack([tone({"red": 250, "green": 1500}[name]) for name in names]), "name": names}
