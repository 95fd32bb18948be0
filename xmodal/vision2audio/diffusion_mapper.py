"""V2A-Mapper's generative variant (arXiv 2308.09300, section 3.3): a small diffusion model that draws a target embedding.

Four tokens go in, the condition, the time, the noisy target and a learned query, and the query's output is the clean target.
One picture has many right sounds: where a regression can only answer with their mean, this draws one of them.
Letters: B batch, d1 source width, d2 target width.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.diffusion.embedding_diffusion import EmbeddingDiffusion, guided_model, scale_up
from xmodal.diffusion.prior_network import PriorConfig, PriorNetwork
from xmodal.diffusion.sampling import Generators, Scheduler
from xmodal.vision2audio.mapper import Mapper, SourceNorm

VALIDATION_STEPS = 8  # of a guess in validation; what is tested and used takes all of its steps


class DiffusionMapper(Mapper):
    """Draws CLAP-like embeddings from CLIP-like ones; 48,793,472 parameters from 512 to 512, the paper states 48.83 M.

    With ``null_tokens`` 77 it has 48,832,896, which is the paper's number: the library that the authors very likely used
    always puts its 77 text placeholders in front. They carry nothing and cost 20.8 times the computation, so the default is none.

    Args:
        in_dim, out_dim: d1 and d2; where one differs from ``width``, linear layers stand between.
        width: of a token.
        depth, heads, dim_head, ff_mult: of the transformer.
        null_tokens: learned placeholders in front.
        causal: each token sees only those before it, as in dalle2-pytorch; VoiceDiT's mapper is not causal.
        normformer, final_proj: switches of the network, see ``PriorConfig``.
        attention_dropout, ff_dropout: in training.
        timesteps, schedule: of the noise, see ``EmbeddingDiffusion``.
        condition_dropout: share of sources hidden in training, which guidance needs.
        drop_noisy: hide the noisy target too, by its own draw in training and in guidance's null pass, as dalle2-pytorch
            does; else guidance is the standard one.
        source_norm: see `Mapper`; dalle2-pytorch conditions on unit vectors.
        loss: ``l2``, ``l1`` or ``huber``.
        num_inference_steps, guidance_scale, sampler, eta: defaults of `sample`.

    Raises ValueError for options that cannot work.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        width: int = 512,
        depth: int = 12,
        heads: int = 12,
        dim_head: int = 64,
        ff_mult: int = 4,
        null_tokens: int = 0,
        causal: bool = True,
        normformer: bool = True,
        final_proj: bool = True,
        attention_dropout: float = 0.05,
        ff_dropout: float = 0.05,
        timesteps: int = 1000,
        schedule: Literal["cosine", "linear"] = "cosine",
        condition_dropout: float = 0.1,
        drop_noisy: bool = False,
        source_norm: SourceNorm = "unit",
        loss: Literal["l2", "l1", "huber"] = "l2",
        num_inference_steps: int = 64,
        guidance_scale: float = 1.0,
        sampler: Literal["ddim", "ddim_original", "ddpm"] = "ddim",
        eta: float = 1.0,
    ) -> None:
        super().__init__(in_dim, out_dim, source_norm)
        for name, value in {
            "condition_dropout": condition_dropout,
            "attention_dropout": attention_dropout,
            "ff_dropout": ff_dropout,
        }.items():
            if not 0 <= value < 1:
                raise ValueError(f"{name} {value} is not a probability below 1")
        config = PriorConfig(
            dim=width, depth=depth, heads=heads, dim_head=dim_head, ff_mult=ff_mult, timesteps=timesteps,
            text_tokens=null_tokens, causal=causal, normformer=normformer, final_proj=final_proj,
            attention_dropout=attention_dropout, ff_dropout=ff_dropout,
        )  # fmt: skip
        self.network, self.diffusion = PriorNetwork(config), EmbeddingDiffusion(timesteps, schedule)
        self.read_source, self.read_target, self.write_target = (
            nn.Identity() if before == after else nn.Linear(before, after)
            for before, after in ((in_dim, width), (out_dim, width), (width, out_dim))
        )
        self.condition_dropout, self.drop_noisy, self.loss_kind = condition_dropout, drop_noisy, loss
        self.defaults = {
            "num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, "sampler": sampler, "eta": eta,
        }  # fmt: skip

    def forward(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        condition: Tensor,
        keep_condition: Tensor | None = None,
        keep_noisy: Tensor | None = None,
    ) -> Tensor:
        """Guess the clean target, of length sqrt(d2) when learnt: noisy (B, d2), time (B,) or (), prepared source (B, d1).

        Rows where ``keep_condition`` (B,) is false see a learned token in place of the source; ``keep_noisy`` likewise.
        """
        keep = {"keep_condition": keep_condition, "keep_noisy": keep_noisy}
        return self.write_target(self.network(self.read_target(noisy), timesteps, self.read_source(condition), **keep))

    def loss(
        self,
        source: Tensor,
        target: Tensor,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        timesteps: Tensor | None = None,
    ) -> Tensor:
        """Denoising loss (scalar, float32) of targets (B, d2) scaled to length sqrt(d2), under their sources (B, d1).

        ``noise`` (B, d2) and ``timesteps`` (B,) are drawn unless given, from ``generator`` if there is one. In training mode
        a share of the conditions is hidden. Raises ValueError for shapes that do not fit.
        """
        self.check_pair(source, target)
        condition = self.prepare(source)
        keep = self._keep(len(source), generator, source.device)
        keep_noisy = self._keep(len(source), generator, source.device) if self.drop_noisy else None
        model = partial(self.forward, condition=condition, keep_condition=keep, keep_noisy=keep_noisy)
        return self.diffusion.loss(model, scale_up(target), noise, timesteps, generator, self.loss_kind)

    def _keep(self, batch: int, generator: torch.Generator | None, device: torch.device) -> Tensor | None:
        if not self.training or not self.condition_dropout:
            return None
        place = device if generator is None else generator.device
        return torch.rand(batch, generator=generator, device=place).to(device) >= self.condition_dropout

    @property
    def quick(self) -> dict[str, Any]:
        """At most `VALIDATION_STEPS` steps."""
        return {"num_inference_steps": min(VALIDATION_STEPS, self.defaults["num_inference_steps"])}

    def sample(
        self,
        source: Tensor,
        generator: Generators = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | None = None,
        eta: float | None = None,
        scheduler: Scheduler = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Sources (B, d1) -> normalized targets (B, d2), one drawn for each, float32; without dropout in any mode.

        Args:
            generator: one, or one for each row, which then depends on nothing else in the batch.
            num_inference_steps, guidance_scale, sampler, eta: default as constructed; guidance above 1 was found to do harm
                in a prior of this kind (LAION).
            scheduler: a diffusers scheduler, made by ``mapper.diffusion.scheduler(name)``.
            noise: (B, d2) to start from.

        Raises ValueError for arguments that cannot work.
        """
        condition = self.prepare(source)
        given = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, "sampler": sampler, "eta": eta}
        chosen = cast("dict[str, Any]", self.defaults | {name: value for name, value in given.items() if value is not None})
        scale = chosen.pop("guidance_scale")
        if scale > 1 and not self.condition_dropout:
            raise ValueError(f"guidance_scale {scale} needs a mapper trained with condition_dropout above 0, this one has 0")
        model = guided_model(self, {"condition": condition}, 1, scale, self.drop_noisy)
        shape = (len(source), 1, self.out_dim)
        start = None if noise is None else noise.view(shape)
        training = self.training
        self.eval()
        try:
            found = self.diffusion.sample(model, shape, generator, source.device, scheduler=scheduler, noise=start, **chosen)
        finally:
            self.train(training)
        return F.normalize(found.squeeze(1), dim=-1)
