"""The trained part of CLIPSonic: a U-Net over log-mel spectrograms, told what to sound like by one vector.

The layout of the paper's network (arXiv 2306.09635) is not public; the sizes here are ours, see `PRESETS`.
Letters: B batch, M mel bands, L frames, d embedding width, D width of the network's time embedding.
"""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.foundation.base import Adapter
from xmodal.foundation.mel import MelSpec


@dataclass(frozen=True)
class Sizes:
    """Sizes of a `MelUNet`: channels and attention by level from fine to coarse, blocks in each, width of an attention head.

    ``patch`` x ``patch`` values of the spectrogram are one position of the first level.
    """

    channels: tuple[int, ...]
    attention: tuple[bool, ...]
    layers: int = 2
    head: int = 64
    groups: int = 32
    patch: int = 1


PRESETS: dict[str, Sizes] = {
    "mini": Sizes((64, 96, 128), (False, True, True), layers=1, head=32, groups=16, patch=4),
    "base": Sizes((64, 128, 256, 256), (False, False, False, True)),
    # As large as the 142.58 M that V2A-Mapper's authors print for CLIPSonic; that is all that is known of the original.
    "paper-size": Sizes((160, 320, 480, 640), (False, False, True, True)),
}


class MelNetwork(Adapter):
    """What CLIPSonic trains: a denoiser of mel spectrograms, or of their latents, that remembers of which kind they are.

    Networks see spectrograms whose values from ``low`` to ``high`` are spread over [-1, 1]; latents as they are. Kind, range
    and autoencoder are stored with the weights; weights of another kind are refused.

    Args:
        in_dim: d, of the condition.
        n_mels: M; of latents the numbers of a latent frame, channels times bands.
    """

    def __init__(self, in_dim: int, n_mels: int) -> None:
        super().__init__()
        self.in_dim, self.n_mels = in_dim, n_mels
        self.mel: MelSpec | None = None
        self.low, self.high = -1.0, 1.0
        self.latents = ""

    @abstractmethod
    def prepare(self, condition: Tensor, keep: Tensor | None = None) -> Tensor:
        """Conditions (B, d) of any length -> what `forward` takes; "no condition" in rows where ``keep`` (B,) is false."""

    @abstractmethod
    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """Answer noisy spectrograms (B, M, L) at times (B,) or () under what `prepare` made, in the same shape."""

    def bind(self, mel: MelSpec, low: float, high: float, latents: str = "", channels: int = 1) -> None:
        """Say of which kind the spectrograms are, and which values become -1 and 1; raises ValueError if they cannot be.

        ``latents`` is the fingerprint of the autoencoder whose latents of such spectrograms are made ("" is none), and
        ``channels`` how many those have.
        """
        if not latents and mel.n_mels != self.n_mels:
            raise ValueError(f"the network was built for {self.n_mels} mel bands, but the vocoder takes {mel}")
        if not low < high:
            raise ValueError(f"the range of mel values must rise, but it is from {low} to {high}")
        self.mel, self.low, self.high, self.latents = mel, float(low), float(high), latents

    def normalise(self, log_mel: Tensor) -> Tensor:
        """Log-mels (B, M, L) -> about [-1, 1], float32."""
        return 2 * (log_mel.float() - self.low) / (self.high - self.low) - 1

    def denormalise(self, normalised: Tensor) -> Tensor:
        """The way back; nothing below the floor of the logarithm comes out."""
        return ((normalised.float() + 1) / 2 * (self.high - self.low) + self.low).clamp(min=self.low)

    def get_extra_state(self) -> Tensor:
        """Kind and range as JSON in bytes, which safetensors can hold and no cast can round."""
        kind = {"mel": None if self.mel is None else self.mel.to_dict(), "low": self.low, "high": self.high}
        text = json.dumps({**kind, "latents": self.latents} if self.latents else kind)
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Raise ValueError, with both printed, where the stored weights are for other spectrograms than this network."""
        stored = json.loads(bytes(state.tolist()).decode())
        mel = None if stored["mel"] is None else MelSpec.of(stored["mel"], "the stored network")
        if mel is None or self.mel is None:
            self.mel = self.mel or mel
            self.low, self.high, self.latents = stored["low"], stored["high"], stored.get("latents", "")
            return
        mel.require(self.mel, "the mel of the stored generator", "the mel of the vocoder")
        if stored.get("latents", "") != self.latents:
            makes = f"makes {_made(stored.get('latents', ''))}, this one {_made(self.latents)}"
            raise ValueError(f"the stored generator {makes}: set autoencoder as it was trained")
        if (stored["low"], stored["high"]) != (self.low, self.high):
            own = f"from {self.low} to {self.high}"
            raise ValueError(
                f"the stored generator spreads mel values from {stored['low']} to {stored['high']}, this one {own}: "
                f"set mel_low and mel_high as it was trained"
            )


def _made(latents: str) -> str:
    return f"latents of the autoencoder {latents[:12]}" if latents else "spectrograms"


class MelUNet(MelNetwork):
    """diffusers' UNet2DModel over (1, M, L), or over (C, m, l) of latents.

    The condition is made of length sqrt(d), so that its numbers have about unit variance, goes through two linear layers and is
    added to the time embedding, which scales and shifts each block; a learned vector stands for "no condition". Bands and frames
    are padded with zeros to what the levels demand (multiples of patch * 2^(levels - 1)) and cut again: any length goes in.

    Args:
        in_dim, n_mels: see `MelNetwork`.
        preset: a name in `PRESETS`: mini, base (26 M parameters) or paper-size (143 M); the following replace its values.
        channels: of each level, multiples of ``groups``.
        attention: of each level.
        layers: blocks in a level.
        head: width of an attention head.
        groups: of the group norms.
        patch: side of the squares that are folded into channels first; 1 folds nothing. Larger ones cost less and blur more.
        planes: C, where the network makes latents: their n_mels numbers a frame are C channels of n_mels / C bands.
        dropout: in the blocks, in training.
        gradient_checkpointing: a quarter to a third more computation for much less memory in training.

    Raises ValueError for an unknown preset or sizes that do not fit together.
    """

    def __init__(
        self,
        in_dim: int,
        n_mels: int,
        preset: str = "base",
        channels: list[int] | None = None,
        attention: list[bool] | None = None,
        layers: int | None = None,
        head: int | None = None,
        groups: int | None = None,
        patch: int | None = None,
        planes: int = 1,
        dropout: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(in_dim, n_mels)
        if preset not in PRESETS:
            raise ValueError(f"there is no preset {preset!r}; known are {', '.join(PRESETS)}")
        base = PRESETS[preset]
        self.sizes = sizes = Sizes(
            tuple(channels or base.channels),
            tuple(attention or base.attention),
            layers or base.layers,
            head or base.head,
            groups or base.groups,
            patch or base.patch,
        )
        _check(sizes)
        if planes < 1 or n_mels % planes:
            raise ValueError(f"{n_mels} numbers a frame are not {planes} planes: set planes to the latents' channels")
        self.planes = planes
        width = 4 * sizes.channels[0]
        self.null = nn.Parameter(torch.zeros(in_dim))
        self.read = nn.Sequential(nn.Linear(in_dim, width), nn.SiLU(), nn.Linear(width, width))
        self.unet = _unet(sizes, planes, dropout)
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    def bind(self, mel: MelSpec, low: float, high: float, latents: str = "", channels: int = 1) -> None:
        """See `MelNetwork.bind`; raises ValueError if ``planes`` is another number than that of the channels, too."""
        if channels != self.planes:
            raise ValueError(f"planes is {self.planes}, but what the network makes has {channels} channels: set planes to that")
        super().bind(mel, low, high, latents, channels)

    @property
    def multiple(self) -> int:
        """What bands and frames are padded to a multiple of."""
        return self.sizes.patch * 2 ** (len(self.sizes.channels) - 1)

    def prepare(self, condition: Tensor, keep: Tensor | None = None) -> Tensor:
        """Conditions (B, d) of any length -> what is added to the time embedding (B, D); raises ValueError for another shape."""
        if condition.ndim != 2 or condition.shape[1] != self.in_dim:
            raise ValueError(f"conditions have the shape {tuple(condition.shape)}, but the network expects (B, {self.in_dim})")
        scaled = F.normalize(condition.float(), dim=-1) * math.sqrt(self.in_dim)
        if keep is not None:
            scaled = torch.where(keep[:, None], scaled, self.null)
        return self.read(scaled.to(self.null.dtype))

    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """See `MelNetwork.forward`; raises ValueError for another number of bands."""
        if noisy.ndim != 3 or noisy.shape[1] != self.n_mels:
            raise ValueError(f"spectrograms have the shape {tuple(noisy.shape)}, but the network expects (B, {self.n_mels}, L)")
        bands, frames = self.n_mels // self.planes, noisy.shape[2]
        planes = noisy.unflatten(1, (self.planes, bands)).to(self.null.dtype)
        padded = F.pad(planes, (0, -frames % self.multiple, 0, -bands % self.multiple))
        folded = F.pixel_unshuffle(padded, self.sizes.patch).contiguous(memory_format=torch.channels_last)
        made = self.unet(folded, timesteps, class_labels=condition).sample
        return F.pixel_shuffle(made, self.sizes.patch)[:, :, :bands, :frames].flatten(1, 2)


def _check(sizes: Sizes) -> None:
    if len(sizes.channels) != len(sizes.attention) or not sizes.channels:
        both = f"channels {list(sizes.channels)} and attention {list(sizes.attention)}"
        raise ValueError(f"{both} must have one entry for each level")
    if min(sizes.layers, sizes.patch, sizes.head, sizes.groups) < 1:
        raise ValueError(f"layers, patch, head and groups must be at least 1, but this is {sizes}")
    for channels, attends in zip(sizes.channels, sizes.attention, strict=True):
        if channels % sizes.groups or (attends and channels < sizes.head):
            raise ValueError(f"{channels} channels cannot be divided into {sizes.groups} groups and heads of {sizes.head}")


def _unet(sizes: Sizes, planes: int, dropout: float) -> Any:
    from diffusers import UNet2DModel

    kinds = ["Attn" if attends else "" for attends in sizes.attention]
    unet = UNet2DModel(
        in_channels=planes * sizes.patch**2,
        out_channels=planes * sizes.patch**2,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        block_out_channels=sizes.channels,
        layers_per_block=sizes.layers,
        attention_head_dim=sizes.head,
        norm_num_groups=sizes.groups,
        dropout=dropout,
        class_embed_type="identity",
        resnet_time_scale_shift="scale_shift",
    )
    return unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload,attr-defined]
