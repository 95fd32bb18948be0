"""Guided sampling with diffusers' schedulers: a model is a call, guidance is a wrapper of calls, a sampler is a loop.

Letters: B batch; the remaining axes of latents are the model's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Scheduler = Any
"""A diffusers scheduler: ``set_timesteps``, ``scale_model_input``, ``step``, ``init_noise_sigma``."""

Generators = torch.Generator | Sequence[torch.Generator] | None
Model = Callable[[Tensor, Tensor], Tensor]
"""``(latents (B, ...), timestep ()) -> prediction (B, ...)``."""


def children(generator: torch.Generator, count: int) -> list[torch.Generator]:
    """``count`` generators that this one seeds."""
    seeds = torch.randint(2**62, (count,), generator=generator, device=generator.device).tolist()
    return [torch.Generator(generator.device).manual_seed(seed) for seed in seeds]


def draw_noise(shape: Sequence[int], generator: Generators = None, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal float32 of ``shape`` on ``device``.

    One generator draws the whole batch; a sequence holds one for each row, so that a row depends on nothing but its
    own. A generator draws on its own device: a CPU generator gives the same noise whatever the device.
    Raises ValueError if a sequence does not hold one generator for each row.
    """
    if generator is None or isinstance(generator, torch.Generator):
        source = device if generator is None else generator.device
        return torch.randn(tuple(shape), generator=generator, device=source).to(device)
    if len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators for a batch of {shape[0]}: give one for each row, or a single one")
    return torch.cat([draw_noise((1, *shape[1:]), one, device) for one in generator])


def with_guidance(
    model_call: Callable[[Tensor, Tensor, Tensor], Tensor],
    condition: Tensor,
    unconditional: Tensor | None,
    guidance_scale: float,
) -> Model:
    """Bind a condition to a model, with classifier-free guidance (Ho & Salimans 2022, eq. 6, scale = 1 + w).

    Args:
        model_call: ``(latents, timestep, condition) -> prediction``.
        condition: (B, ...).
        unconditional: (B, ...) like ``condition``; evaluated in the same call, as the first half of a batch of 2B.
        guidance_scale: at most 1, or no ``unconditional``: the condition alone, at half the cost.

    Raises ValueError if the two conditions differ in shape.
    """
    if unconditional is None or guidance_scale <= 1:
        return lambda latents, timestep: model_call(latents, timestep, condition)
    if unconditional.shape != condition.shape:
        shapes = f"{tuple(unconditional.shape)} and {tuple(condition.shape)}"
        raise ValueError(f"unconditional and conditional embeddings have the shapes {shapes}: give two of the same shape")
    both = torch.cat((unconditional, condition))

    def guided(latents: Tensor, timestep: Tensor) -> Tensor:
        without, given = model_call(torch.cat((latents, latents)), timestep, both).float().chunk(2)
        return without + guidance_scale * (given - without)

    return guided


@torch.no_grad()
def sample(
    model: Model,
    scheduler: Scheduler,
    shape: Sequence[int],
    num_inference_steps: int,
    generator: Generators = None,
    device: torch.device | str = "cpu",
    callback: Callable[[int, int], None] | None = None,
    latents: Tensor | None = None,
    start: Tensor | None = None,
    strength: float = 0.8,
) -> Tensor:
    """Run the reverse process from noise; returns float32 latents of ``shape``.

    Args:
        model: see :func:`with_guidance`.
        scheduler: any diffusers scheduler; its timesteps are set here.
        shape: (B, ...).
        num_inference_steps: asked of the scheduler; some evaluate the model more often (PNDM once more, Heun twice).
        generator: one, or one for each row; feeds the initial noise and whatever the scheduler adds.
        callback: called after each evaluation with (evaluations done, evaluations in all).
        latents: the noise to begin with, of ``shape`` and unit variance; default drawn.
        start: clean latents of ``shape`` to change in place of pure noise (Meng et al., "SDEdit", arXiv 2108.01073).
        strength: of that change: the share of the steps that is made, above 0, at most 1.

    Raises ValueError if ``num_inference_steps`` is below 1, and for latents of another shape.
    """
    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps must be at least 1, not {num_inference_steps}")
    if latents is not None and tuple(latents.shape) != tuple(shape):
        raise ValueError(f"latents have the shape {tuple(latents.shape)}, but expected {tuple(shape)}")
    noise = draw_noise(shape, generator, device) if latents is None else latents.to(device, torch.float32)
    scheduler.set_timesteps(num_inference_steps, device=device)
    timesteps = scheduler.timesteps
    if start is None:
        latents = noise * scheduler.init_noise_sigma  # only known after set_timesteps
    else:
        latents, timesteps = _partly(scheduler, start.to(noise), noise, strength)
    options = _step_options(scheduler, generator)
    for done, timestep in enumerate(timesteps, start=1):
        prediction = model(scheduler.scale_model_input(latents, timestep), timestep).float()
        latents = scheduler.step(prediction, timestep, latents, **options).prev_sample
        if callback is not None:
            callback(done, len(timesteps))
    return latents


def _partly(scheduler: Scheduler, start: Tensor, noise: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Latents under the noise of the first of the steps that are made, and these; raises ValueError where that cannot be."""
    if start.shape != noise.shape:
        raise ValueError(f"the latents to start from have the shape {tuple(start.shape)}, but expected {tuple(noise.shape)}")
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be above 0 and at most 1, not {strength}")
    order = getattr(scheduler, "order", 1)
    steps = len(scheduler.timesteps) // order
    first = order * (steps - max(1, round(steps * strength)))
    timesteps = scheduler.timesteps[first:]
    if hasattr(scheduler, "set_begin_index"):  # those that count their steps
        scheduler.set_begin_index(first)
    return scheduler.add_noise(start, noise, timesteps[:1].expand(len(start))), timesteps


def _step_options(scheduler: Scheduler, generator: Generators) -> dict[str, Any]:
    """Stochastic schedulers take a generator, deterministic ones (PNDM) refuse the argument."""
    if "generator" not in inspect.signature(scheduler.step).parameters:
        return {}
    single = generator is None or isinstance(generator, torch.Generator)
    return {"generator": generator if single else list(generator)}  # type: ignore[arg-type]
