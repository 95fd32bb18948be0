"""The trained part of CLIPSonic: a U-Net over log-mel spectrograms, told what to sound like by one vector.

The layout of the paper's network (arXiv 2306.09635) is not public; the sizes here are ours, see `PRESETS`.
Letters: B batch, M mel bands, L frames, d embedding width, D width of the network's time embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.foundation.mel import MelSpec
from xmodal.text2audio.network import MelNetwork


@dataclass(frozen=True)
class Sizes:
    """Sizes of a `MelUNet`: channels and attention by level from fine to coarse, blocks in each, width of an attention head.

    ``patch_size`` x ``patch_size`` values of the spectrogram are one position of the first level.
    """

    block_out_channels: tuple[int, ...]
    attention: tuple[bool, ...]
    layers_per_block: int = 2
    attention_head_dim: int = 64
    norm_num_groups: int = 32
    patch_size: int = 1


PRESETS: dict[str, Sizes] = {
    "mini": Sizes(
        (64, 96, 128), (False, True, True), layers_per_block=1, attention_head_dim=32, norm_num_groups=16, patch_size=4
    ),
    "base": Sizes((64, 128, 256, 256), (False, False, False, True)),
    # As large as the 142.58 M that V2A-Mapper's authors print for CLIPSonic; that is all that is known of the original.
    "paper-size": Sizes((160, 320, 480, 640), (False, False, True, True)),
}


class MelUNet(MelNetwork):
    """diffusers' UNet2DModel over (1, M, L), or over (C, m, l) of latents.

    The condition is made of length sqrt(d), so that its numbers have about unit variance, goes through two linear layers and is
    added to the time embedding, which scales and shifts each block; a learned vector stands for "no condition". Bands and frames
    are padded with zeros to what the levels demand (multiples of patch_size * 2^(levels - 1)), and cut again: any length fits.

    Args:
        in_dim, n_mels: see `MelNetwork`.
        preset: a name in `PRESETS`: mini, base (26 M parameters) or paper-size (143 M); the following replace its values.
        block_out_channels: of each level, multiples of ``norm_num_groups``.
        attention: of each level.
        layers_per_block: blocks in a level.
        attention_head_dim: width of an attention head.
        norm_num_groups: of the group norms.
        patch_size: side of the squares that are folded into channels first; 1 folds nothing. Larger ones cost less and blur more.
        latent_channels: C, where the network makes latents: their n_mels numbers a frame are C channels of n_mels / C bands.
        dropout: in the blocks, in training.
        gradient_checkpointing: a quarter to a third more computation for much less memory in training.

    Raises ValueError for an unknown preset or sizes that do not fit together.
    """

    def __init__(
        self,
        in_dim: int,
        n_mels: int,
        preset: str = "base",
        block_out_channels: list[int] | None = None,
        attention: list[bool] | None = None,
        layers_per_block: int | None = None,
        attention_head_dim: int | None = None,
        norm_num_groups: int | None = None,
        patch_size: int | None = None,
        latent_channels: int = 1,
        dropout: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(in_dim, n_mels)
        if preset not in PRESETS:
            raise ValueError(f"there is no preset {preset!r}; known are {', '.join(PRESETS)}")
        base = PRESETS[preset]
        self.sizes = sizes = Sizes(
            tuple(block_out_channels or base.block_out_channels),
            tuple(attention or base.attention),
            layers_per_block or base.layers_per_block,
            attention_head_dim or base.attention_head_dim,
            norm_num_groups or base.norm_num_groups,
            patch_size or base.patch_size,
        )
        _check(sizes)
        if latent_channels < 1 or n_mels % latent_channels:
            mend = "set them to those of the latents"
            raise ValueError(f"{n_mels} numbers a frame are not {latent_channels} latent_channels: {mend}")
        self.latent_channels = latent_channels
        width = 4 * sizes.block_out_channels[0]
        self.null = nn.Parameter(torch.zeros(in_dim))
        self.read = nn.Sequential(nn.Linear(in_dim, width), nn.SiLU(), nn.Linear(width, width))
        self.unet = _unet(sizes, latent_channels, dropout)
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    def bind(self, mel: MelSpec, low: float, high: float, latents: str = "", channels: int = 1) -> None:
        """See `MelNetwork.bind`; raises ValueError if ``latent_channels`` is another number than that of the channels, too."""
        if channels != self.latent_channels:
            made = f"but what the network makes has {channels} channels: set it to that"
            raise ValueError(f"latent_channels is {self.latent_channels}, {made}")
        super().bind(mel, low, high, latents, channels)

    @property
    def multiple(self) -> int:
        """What bands and frames are padded to a multiple of."""
        return self.sizes.patch_size * 2 ** (len(self.sizes.block_out_channels) - 1)

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
        bands, frames = self.n_mels // self.latent_channels, noisy.shape[2]
        planes = noisy.unflatten(1, (self.latent_channels, bands)).to(self.null.dtype)
        padded = F.pad(planes, (0, -frames % self.multiple, 0, -bands % self.multiple))
        folded = F.pixel_unshuffle(padded, self.sizes.patch_size).contiguous(memory_format=torch.channels_last)
        made = self.unet(folded, timesteps, class_labels=condition).sample
        return F.pixel_shuffle(made, self.sizes.patch_size)[:, :, :bands, :frames].flatten(1, 2)


def _check(sizes: Sizes) -> None:
    if len(sizes.block_out_channels) != len(sizes.attention) or not sizes.block_out_channels:
        both = f"block_out_channels {list(sizes.block_out_channels)} and attention {list(sizes.attention)}"
        raise ValueError(f"{both} must have one entry for each level")
    if min(sizes.layers_per_block, sizes.patch_size, sizes.attention_head_dim, sizes.norm_num_groups) < 1:
        named = "layers_per_block, patch_size, attention_head_dim and norm_num_groups"
        raise ValueError(f"{named} must be at least 1, but this is {sizes}")
    for channels, attends in zip(sizes.block_out_channels, sizes.attention, strict=True):
        if channels % sizes.norm_num_groups or (attends and channels < sizes.attention_head_dim):
            parts = f"{sizes.norm_num_groups} groups and heads of {sizes.attention_head_dim}"
            raise ValueError(f"{channels} channels cannot be divided into {parts}")


def _unet(sizes: Sizes, planes: int, dropout: float) -> Any:
    from diffusers import UNet2DModel

    kinds = ["Attn" if attends else "" for attends in sizes.attention]
    unet = UNet2DModel(
        in_channels=planes * sizes.patch_size**2,
        out_channels=planes * sizes.patch_size**2,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        block_out_channels=sizes.block_out_channels,
        layers_per_block=sizes.layers_per_block,
        attention_head_dim=sizes.attention_head_dim,
        norm_num_groups=sizes.norm_num_groups,
        dropout=dropout,
        class_embed_type="identity",
        resnet_time_scale_shift="scale_shift",
    )
    return unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload,attr-defined]
