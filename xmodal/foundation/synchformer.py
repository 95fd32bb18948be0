"""Synchformer's synchronisation module: by which of 21 offsets sound and picture are apart (Iashin et al., arXiv 2401.16423).

Pictures and sound of 0.64 s segments, every 0.32 s -> features of two towers -> one transformer over a mark, the tokens of
14 segments of both -> class of the offset. Module names equal those of the published checkpoint (vproj, aproj,
transformer). The towers are given: no weights of theirs are read here.

Letters: B batch, F pictures, T samples, S segments, V and A tokens a segment, D width, C offsets.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.foundation.base import Synchronizer
from xmodal.registry.checkpoint import assign, unfilled

FRAME_RATE, SAMPLE_RATE, IMAGE_SIZE, SECONDS = 25.0, 16_000, 224, 8.0
PICTURES, PICTURE_STEP = 16, 8  # of a segment, 0.64 s, and from one to the next
SAMPLES, SAMPLE_STEP = 10_240, 5_120
SEGMENTS = 14  # of a window: the first and the last of a clip are judged
HEAD = 64  # width of an attention head in the published model
OWN = ("vproj.", "aproj.", "transformer.")


class Attention(nn.Module):
    """Self-attention with three matrices, under minGPT's names."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        query, key, value = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln1, self.ln2, self.attn = nn.LayerNorm(width), nn.LayerNorm(width), Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class Joined(nn.Module):
    """One transformer over the tokens of both: a mark, the pictures', a divider, the sound's."""

    def __init__(self, width: int, layers: int, heads: int, places: int, classes: int) -> None:
        super().__init__()
        self.OFF_tok, self.MOD_tok = (nn.Parameter(torch.randn(1, 1, width) * 0.02) for _ in range(2))
        self.vis_in_lnorm, self.aud_in_lnorm, self.ln_f = (nn.LayerNorm(width) for _ in range(3))
        self.pos_emb_cfg = nn.ParameterDict({"pos_emb": nn.Parameter(torch.randn(1, places, width) * 0.02)})
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.off_head = nn.Linear(width, classes)

    def forward(self, pictures: Tensor, sound: Tensor) -> Tensor:
        """Tokens (B, L, D) of both -> logits (B, C); ValueError where the places do not suffice."""
        marks = (mark.expand(len(pictures), -1, -1) for mark in (self.OFF_tok, self.MOD_tok))
        off, divider = marks
        x = torch.cat((off, self.vis_in_lnorm(pictures), divider, self.aud_in_lnorm(sound)), 1)
        places = self.pos_emb_cfg["pos_emb"]
        if x.shape[1] != places.shape[1]:
            raise ValueError(f"the synchronisation module has {places.shape[1]} places, got {x.shape[1]} tokens")
        return self.off_head(self.ln_f(self.blocks(x + places)[:, 0]))


class SyncModule(nn.Module):
    """From features of both towers to logits. State dict keys are the published ones."""

    def __init__(
        self, picture_width: int, sound_width: int, width: int, layers: int, heads: int, places: int, classes: int
    ) -> None:
        super().__init__()
        self.vproj, self.aproj = nn.Linear(picture_width, width), nn.Linear(sound_width, width)
        self.transformer = Joined(width, layers, heads, places, classes)

    @classmethod
    def of(cls, state: Mapping[str, Tensor], path: Path, heads: int | None = None) -> Self:
        """Build from a published state dict, whose towers are left out; ``heads`` only for other widths of a head than 64.

        Raises ValueError with the file, what was expected and the mend.
        """
        own = {key.removeprefix("module."): value for key, value in state.items()}
        own = {key: value for key, value in own.items() if key.startswith(OWN)}
        try:
            places, width = own["transformer.pos_emb_cfg.pos_emb"].shape[1:]
            classes, pictures, sound = len(own["transformer.off_head.weight"]), own["vproj.weight"], own["aproj.weight"]
        except KeyError as error:
            raise ValueError(f"{path} is no synchronisation module of Synchformer: it lacks {error}") from error
        layers = sum(key.endswith("ln1.weight") for key in own)
        with unfilled():
            made = cls(pictures.shape[1], sound.shape[1], width, layers, heads or max(width // HEAD, 1), places, classes)
        assign(made, own, path, "Synchformer's synchronisation module")
        return made.eval()

    def forward(self, pictures: Tensor, sound: Tensor) -> Tensor:
        """Features (B, S, V, D) and (B, S, A, D) of one window's segments -> logits (B, C)."""
        return self.transformer(self.vproj(pictures.flatten(1, 2)), self.aproj(sound.flatten(1, 2)))

    def windows(self, pictures: Tensor, sound: Tensor) -> Tensor:
        """Features of all segments of a clip -> logits (B, 2, C) of its first and its last 14 segments."""
        if pictures.shape[1] != sound.shape[1] or pictures.shape[1] < SEGMENTS:
            raise ValueError(
                f"got {pictures.shape[1]} segments of pictures and {sound.shape[1]} of sound, but expected as many of both, "
                f"at least {SEGMENTS}"
            )
        both = ((pictures[:, part], sound[:, part]) for part in (slice(None, SEGMENTS), slice(-SEGMENTS, None)))
        return torch.stack([self(*pair) for pair in both], 1).float()


class Synchformer(Synchronizer):
    """Frozen synchronisation module with the two towers that feed it.

    ``picture_tower`` takes segments (N, 16, 3, H, W) of pixels in [0, 1] and gives (N, V, D), ``sound_tower`` takes (N, 10240) of
    waveform and gives (N, A, D).
    """

    sample_rate, frame_rate, seconds = SAMPLE_RATE, FRAME_RATE, SECONDS

    @classmethod
    def from_parts(
        cls, picture_tower: nn.Module, sound_tower: nn.Module, module: SyncModule, image_size: int = IMAGE_SIZE
    ) -> Self:
        """Build from parts in memory, which are frozen in place."""
        return cls.assembled(picture_tower, sound_tower, module, image_size)

    def _assemble(self, picture_tower: nn.Module, sound_tower: nn.Module, module: SyncModule, image_size: int) -> None:
        self.picture_tower, self.sound_tower, self.module, self.image_size = picture_tower, sound_tower, module, image_size

    def offsets(self, frames: Tensor, waveform: Tensor) -> Tensor:
        """Pixels (B, F, 3, H, W) at 25 a second and waveforms (B, T) at 16 kHz -> logits (B, 2, C); 8 s have 24 segments."""
        shown = frames.unfold(1, PICTURES, PICTURE_STEP).movedim(-1, 2)
        heard = waveform.unfold(1, SAMPLES, SAMPLE_STEP)
        pictures = self.picture_tower(shown.flatten(0, 1)).unflatten(0, shown.shape[:2])
        return self.module.windows(pictures, self.sound_tower(heard.flatten(0, 1)).unflatten(0, heard.shape[:2]))
