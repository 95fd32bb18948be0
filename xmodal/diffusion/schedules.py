"""Schedules of noise in diffusers' words: the two that training and sampling need, and what a user may exchange them for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from xmodal.diffusion.sampling import Model, Scheduler

KARRAS_WITH_COSINE = (
    "use_karras_sigmas with the cosine schedule (squaredcos_cap_v2) samples worse than fewer steps without them: "
    "set use_karras_sigmas to False, or use_lu_lambdas to True"
)


def scheduler_for(
    prediction_type: str, beta_schedule: str = "squaredcos_cap_v2", num_train_timesteps: int = 1000, training: bool = False
) -> Scheduler:
    """Return the forward process for training, or DPM-Solver++ of order 2 for sampling."""
    from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

    options: Any = {
        "num_train_timesteps": num_train_timesteps, "beta_schedule": beta_schedule, "prediction_type": prediction_type,
    }  # fmt: skip
    return DDPMScheduler(**options) if training else DPMSolverMultistepScheduler(**options, timestep_spacing="trailing")


def within(model: Model, shares: Tensor, limit: float) -> Model:
    """A model that answers noise, changed so that its guess of what lies under the noise stays in [-limit, limit].

    At the cosine schedule's first step the guess is the answer's error divided by next to nothing. ``shares`` (timesteps,)
    are the shares of what lies under it in the variance.
    """

    def bounded(noisy: Tensor, timestep: Tensor) -> Tensor:
        share = shares[timestep.round().long()]
        signal, noise = share.sqrt(), (1 - share).sqrt()
        guess = (noisy - noise * model(noisy, timestep)) / signal
        return (noisy - signal * guess.clamp(-limit, limit)) / noise

    return bounded


def prediction_of(scheduler: Scheduler) -> dict[str, Any]:
    """What a model that was trained with this scheduler answers, in the words of `check_scheduler`."""
    return {"prediction_type": scheduler.config.get("prediction_type")}


def check_scheduler(scheduler: Scheduler, trained: Mapping[str, Any], bounded: bool = True) -> None:
    """Raise ValueError for a scheduler that is not of the noise that was trained with, or known to do harm.

    What is made is ``bounded`` by [-1, 1], or else must not be cut to it.
    """
    wrong = {name: scheduler.config.get(name) for name, value in trained.items() if scheduler.config.get(name) != value}
    if wrong:
        raise ValueError(
            f"the scheduler has {wrong}, but the generator was trained with {dict(trained)}: "
            f"make it by from_config(pipe.scheduler.config)"
        )
    if scheduler.config.get("use_karras_sigmas") and trained.get("beta_schedule") == "squaredcos_cap_v2":
        raise ValueError(KARRAS_WITH_COSINE)
    cuts = [name for name in ("clip_sample", "thresholding") if scheduler.config.get(name)]
    if cuts and not bounded:
        raise ValueError(f"{cuts[0]} cuts what is made to [-1, 1], but latents are larger: set it to False")
