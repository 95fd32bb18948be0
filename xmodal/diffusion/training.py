"""The denoising objective of latent diffusion, for any model that is a call and any diffusers scheduler.

Letters: B batch; the remaining axes of latents are the model's own (channels, height, width or channels, time, mel).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xmodal.diffusion.sampling import draw_noise

Scheduler = Any
"""A diffusers scheduler: ``config``, ``add_noise`` and, for velocity targets, ``get_velocity``."""


def denoising_target(scheduler: Scheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the model should answer: the noise (Ho et al. 2020, eq. 14), the velocity (Salimans & Ho 2022, app. D) or the latents.

    The scheduler's ``prediction_type`` decides; raises ValueError for one that is none of the three.
    """
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(latents, noise, timesteps)
    if kind == "sample":
        return latents
    raise ValueError(f"prediction_type {kind!r} cannot be trained; set epsilon, v_prediction or sample in the scheduler's config")


def draw_timesteps(scheduler: Scheduler, batch: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """B integers, uniform over the scheduler's training steps."""
    source = device if generator is None else generator.device
    steps = scheduler.config.num_train_timesteps
    return torch.randint(steps, (batch,), generator=generator, device=source).to(device)


def denoising_loss(
    model_call: Callable[[Tensor, Tensor], Tensor],
    scheduler: Scheduler,
    latents: Tensor,
    noise: Tensor | None = None,
    timesteps: Tensor | None = None,
    generator: torch.Generator | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Mean squared error in float32 between the model's answer and its target, as a scalar.

    Args:
        model_call: ``(noisy latents (B, ...), timesteps (B,)) -> prediction (B, ...)``; the condition is bound in it.
        scheduler: the forward process (``DDPMScheduler`` for Stable Diffusion and AudioLDM).
        latents: clean and scaled (B, ...).
        noise, timesteps: drawn here unless given; timesteps are uniform integers (B,).
        generator: source of what is drawn.
        weight: of each squared error, as far as it broadcasts to (B, ...); 1 for all unless given.
    """
    latents = latents.float()
    noise = draw_noise(latents.shape, generator, latents.device) if noise is None else noise.float()
    if timesteps is None:
        timesteps = draw_timesteps(scheduler, len(latents), generator, latents.device)
    prediction = model_call(scheduler.add_noise(latents, noise, timesteps), timesteps)
    target = denoising_target(scheduler, latents, noise, timesteps)
    error = (prediction.float() - target).square()
    return (error if weight is None else weight * error).mean()
