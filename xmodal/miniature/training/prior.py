"""Training of a diffusion prior: from a text's embedding to a picture's that it could be of (DALL-E 2, arXiv 2204.06125).

The towers may be any of the registry; the network and the file are those of :mod:`xmodal.foundation.diffusion_prior`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.diffusion.embedding_diffusion import EmbeddingDiffusion, scale_up
from xmodal.diffusion.prior_network import PriorConfig, PriorNetwork
from xmodal.foundation.base import ImageEncoder, TextEncoder
from xmodal.frozen import Feature
from xmodal.miniature.training.zoo import ZooTask


class TrainPrior(ZooTask):
    """Reads ``pixels`` and a text; learns the pictures' embeddings by denoising them under the texts' embeddings.

    Args:
        output: folder for ``DiffusionPrior(card=...)``.
        encoder, text_encoder: the two towers of one CLIP.
        reads: where the texts come from: ``name`` (put into the template), ``caption`` or ``full_caption``.
        template: with one ``{}``.
        depth, heads, dim_head: of the causal transformer.
        condition_dropout: share of texts hidden in training, which guidance needs.
        timesteps: of the cosine schedule.
        ema_decay, **task: see :class:`ZooTask`.

    Raises ValueError where the towers' sizes differ.
    """

    def __init__(
        self,
        output: Path,
        encoder: ImageEncoder,
        text_encoder: TextEncoder,
        reads: Literal["name", "caption", "full_caption"] = "caption",
        template: str = "a photo of {}",
        depth: int = 4,
        heads: int = 4,
        dim_head: int = 32,
        condition_dropout: float = 0.1,
        timesteps: int = 1000,
        ema_decay: float = 0.998,
        **task: Any,
    ) -> None:
        if encoder.dim != text_encoder.dim:
            raise ValueError(f"encoder has embeddings of size {encoder.dim}, text_encoder of {text_encoder.dim}: take one CLIP")
        self.config = PriorConfig(encoder.dim, depth, heads, dim_head, timesteps=timesteps)
        super().__init__(output=output, ema_decay=ema_decay, **task)
        self.encoder, self.text_encoder = encoder, text_encoder
        self.reads, self.template, self.condition_dropout = reads, template, condition_dropout
        self.diffusion = EmbeddingDiffusion(timesteps)

    def build(self) -> nn.Module:
        return PriorNetwork(self.config)

    def frozen_features(self) -> dict[str, Feature]:
        """``pixels`` (B, 3, H, W) in [0, 1] -> ``embedding`` (B, d)."""

        def see(batch: Mapping[str, Any]) -> dict[str, Tensor]:
            return {"embedding": self.encoder.embed(batch["pixels"])}

        return {"embedding": Feature(("pixels",), ("embedding",), (self.encoder,), see)}

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Squared error of the guessed clean embedding, whose numbers have about unit variance."""
        batch = {**batch, **self.features(batch)}
        texts = list(batch[self.reads])
        if self.reads == "name":
            texts = [self.template.format(name.replace("_", " ")) for name in texts]
        condition = F.normalize(self.text_encoder.embed(texts).float(), dim=-1)
        keep, generator = None, None
        if self.training:
            keep = torch.rand(len(condition), device=condition.device) >= self.condition_dropout
        else:
            generator = torch.Generator().manual_seed(0)
        network = self.net if self.training else self.published
        model = partial(network, condition=condition, keep_condition=keep)
        return {"denoising": self.diffusion.loss(model, scale_up(batch["embedding"]), generator=generator)}

    def export(self, net: nn.Module, folder: Path) -> None:
        from xmodal.foundation.diffusion_prior import DiffusionPrior, save

        save(DiffusionPrior.from_model(cast(PriorNetwork, net), self.diffusion, drop_noisy=False), folder, torch.float16)
