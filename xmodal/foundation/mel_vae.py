"""Autoencoders of log-mel spectrograms: AudioLDM's (Liu et al., arXiv 2301.12503), and the miniature's, without the rest of it.

Letters: B batch, M bands and L frames of the log-mel, C latent channels, m = M / factor, l = L / factor.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from xmodal.foundation.base import Card, MelAutoencoder, find_card
from xmodal.foundation.mel import MelSpec, preset
from xmodal.frozen import Frozen
from xmodal.registry.cards import locate
from xmodal.registry.checkpoint import CONFIG, read_json, read_module

AUTOENCODERS = ("AutoencoderKL", "AutoencoderDC")


class MelVAE(MelAutoencoder):
    """Frozen autoencoder over log-mels of one kind.

    All channels of all bands stand in one axis, C * m numbers a frame, so that latents have the axes of a spectrogram.

    Args:
        card: a name in `CARDS`, a diffusers folder of an AutoencoderKL or AutoencoderDC (or one with it below ``vae``).
        mel: the kind of mel by its name in ``xmodal.foundation.mel.PRESETS``; default the card's, and AudioLDM's for a folder,
            which does not tell.
        local_files_only: a card is looked up in the local hub cache only; False permits the download.

    Raises ValueError for an unknown card or weights that do not fit, FileNotFoundError where they are missing.
    """

    def __init__(self, card: str = "mini", mel: str | None = None, local_files_only: bool = True) -> None:
        super().__init__()
        kind = preset(mel or (CARDS[card].options["mel"] if card in CARDS else "audioldm"))
        folder = locate(find_card(CARDS, card, "mel_vae"), local_files_only)
        self._assemble(read_autoencoder(folder / "vae" if (folder / "vae").is_dir() else folder), kind)

    @classmethod
    def from_model(cls, model: Any, mel: MelSpec) -> Self:
        """Build from an autoencoder in memory, which is frozen in place."""
        return cls.assembled(model, mel)

    def _assemble(self, model: Any, mel: MelSpec) -> None:
        self.model, self.mel = model, mel
        self.factor = factor_of(model)
        self.latent_channels = model.config.latent_channels
        if model.config.in_channels != 1:
            raise ValueError(f"the autoencoder takes {model.config.in_channels} channels, but a log-mel has 1: give another")
        if mel.n_mels % self.factor:
            raise ValueError(f"the autoencoder divides bands by {self.factor}, which cannot be done with {mel}")

    def encode(self, log_mel: Tensor) -> Tensor:
        """(B, M, L) -> scaled latents (B, C * m, l) float32, of a posterior its mean; ValueError for another shape."""
        if log_mel.ndim != 3 or log_mel.shape[1] != self.mel.n_mels or log_mel.shape[2] % self.factor:
            raise ValueError(
                f"log-mels have the shape {tuple(log_mel.shape)}, but the autoencoder takes (B, {self.mel.n_mels}, L), L a "
                f"multiple of {self.factor}"
            )
        encoded = self.model.encode(log_mel.transpose(1, 2)[:, None].to(self.model.dtype))
        latents = encoded.latent if hasattr(encoded, "latent") else encoded.latent_dist.mean
        return (latents.float() * self.model.config.scaling_factor).transpose(2, 3).flatten(1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, C * m, l) -> log-mels (B, M, L), float32; ValueError for another shape."""
        if latents.ndim != 3 or latents.shape[1] != self.size:
            raise ValueError(f"latents have the shape {tuple(latents.shape)}, but the autoencoder takes (B, {self.size}, l)")
        unscaled = latents.unflatten(1, (self.latent_channels, -1)).transpose(2, 3) / self.model.config.scaling_factor
        return self.model.decode(unscaled.to(self.model.dtype)).sample[:, 0].float().transpose(1, 2)  # type: ignore[no-any-return]


def factor_of(model: Any) -> int:
    """How many bands, and frames, become one in the latents of an autoencoder of diffusers."""
    ratio = getattr(model, "spatial_compression_ratio", None)  # which AutoencoderKL does not have
    return int(ratio or 2 ** (len(model.config.block_out_channels) - 1))


def read_autoencoder(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Read the AutoencoderKL or AutoencoderDC of a diffusers folder; raises ValueError for another class or damaged files."""
    import diffusers

    kind = read_json(folder / CONFIG, "its publisher").get("_class_name")
    if kind not in AUTOENCODERS:
        raise ValueError(f"{folder} holds a {kind}, but expected {' or '.join(AUTOENCODERS)}: give the folder of the autoencoder")
    return read_module(getattr(diffusers, kind), folder, torch_dtype=dtype, low_cpu_mem_usage=False)


def kl(channels: tuple[int, ...] = (128, 256, 512), latent: int = 8, layers: int = 2, groups: int = 32) -> Any:
    """AudioLDM's AutoencoderKL, or one of other sizes, with random weights."""
    from diffusers import AutoencoderKL

    levels = len(channels)
    return AutoencoderKL(
        in_channels=1, out_channels=1, block_out_channels=channels, latent_channels=latent, sample_size=512,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=layers, norm_num_groups=groups,
    )  # fmt: skip


def build(card: str) -> Any:
    """AudioLDM's autoencoder with random weights; None for the miniature."""
    coder = find_card(CARDS, card, "mel_vae").options.get("channels")
    return None if coder is None else kl(coder)


def tiny() -> dict[str, Callable[[], Frozen]]:
    """Small random instances by class name."""
    return {"MelVAE": lambda: MelVAE.from_model(kl((4, 8), latent=2, layers=1, groups=4), preset("miniature"))}


_FILES = ("vae/config.json", "vae/diffusion_pytorch_model.safetensors")
CARDS: dict[str, Card] = {
    "mini": Card(
        "package:audioldm", dict.fromkeys(_FILES), "Apache-2.0", True, "recipes/miniature/mel_vae.yaml", 421_804,
        sample_rate=16_000, options={"mel": "miniature"},
    ),
    "audioldm": Card(
        "cvssp/audioldm-s-full-v2",
        {_FILES[0]: None, _FILES[1]: "42f64f7565b23eabde68c9694e39f18b8bba5f7a14f477e7ed4b51e0ea7de8a5"},
        "CC-BY-NC-SA-4.0", False,
        "https://huggingface.co/cvssp/audioldm-s-full-v2", 55_376_873, sample_rate=16_000,
        options={"mel": "audioldm", "channels": (128, 256, 512)}, revision="feeb3d14203495a4b6ac0893cbdedb2159b4819c",
    ),
}  # fmt: skip
