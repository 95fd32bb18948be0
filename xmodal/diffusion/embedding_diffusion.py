"""Diffusion of embedding vectors in discrete time: the noise schedule, the training loss and the samplers of a prior.

The model guesses the clean vector (x0), not the noise. Vectors are unit vectors times sqrt(d), so that each number has
about the variance of the noise; with unit vectors the noise would bury them (lucidrains/DALLE2-pytorch, issue 60).
Letters: B batch; the remaining axes are the caller's own. Time runs from 0 (almost clean) to T - 1 (noise).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from xmodal.diffusion import sampling
from xmodal.diffusion.sampling import Generators, Model, Scheduler, draw_noise, with_guidance

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l2": F.mse_loss, "l1": F.l1_loss, "huber": F.smooth_l1_loss}
PREDICTIONS = ("sample", "epsilon", "v_prediction")
SAMPLERS = ("ddim", "ddim_original", "ddpm")


def cosine_betas(timesteps: int) -> Tensor:
    """Nichol & Dhariwal 2021, eq. 17, with s = 0.008 and betas of at most 0.999; float64 (T,)."""
    place = torch.arange(timesteps + 1, dtype=torch.float64, device="cpu") / timesteps
    kept = ((place + 0.008) / 1.008 * math.pi / 2).cos().square()
    return (1 - kept[1:] / kept[:-1]).clamp(max=0.999)


def linear_betas(timesteps: int) -> Tensor:
    """From 1e-4 to 0.02 for T = 1000 (Ho et al. 2020), steeper for fewer steps; float64 (T,)."""
    scale = 1000 / timesteps
    return torch.linspace(1e-4 * scale, 0.02 * scale, timesteps, dtype=torch.float64, device="cpu")


SCHEDULES = {"cosine": cosine_betas, "linear": linear_betas}


def scale_up(vectors: Tensor) -> Tensor:
    """(..., d) -> unit vectors times sqrt(d), float32; the argument stays as it is."""
    return F.normalize(vectors.float(), dim=-1) * math.sqrt(vectors.shape[-1])


def best_of(found: Tensor, wanted: Tensor) -> Tensor:
    """Of candidates (B, k, d) the one nearest by cosine to each of ``wanted`` (B, d); float32, normalized (B, d)."""
    found = F.normalize(found.float(), dim=-1)
    best = (found @ F.normalize(wanted.float(), dim=-1)[..., None]).argmax(1)
    return found.gather(1, best[..., None].expand(-1, 1, found.shape[-1])).squeeze(1)


def guided_model(
    guess: Callable[..., Tensor],
    conditions: Mapping[str, Tensor],
    candidates: int = 1,
    guidance_scale: float = 1.0,
    drop_noisy: bool = False,
) -> Model:
    """Bind conditions (B, ...) to a prior's network: the result takes latents (B, k, d) and a timestep ().

    Args:
        guess: as ``PriorNetwork.forward``: noisy rows, time, ``conditions`` by name, ``keep_condition``, ``keep_noisy``.
        conditions: one row for each of B; all its ``candidates`` k share it.
        guidance_scale: at most 1 switches guidance off and halves the cost.
        drop_noisy: without a condition the network does not see the noisy vector either, as dalle2-pytorch has it.
    """
    batch = len(next(iter(conditions.values())))

    def call(latents: Tensor, time: Tensor, keep: Tensor) -> Tensor:
        copies = len(latents) // batch
        rows = {
            name: value[None, :, None].expand(copies, -1, candidates, *value.shape[1:]).flatten(0, 2)
            for name, value in conditions.items()
        }
        keep = keep.repeat_interleave(candidates)
        noisy = latents.flatten(0, 1)
        return guess(noisy, time, **rows, keep_condition=keep, keep_noisy=keep if drop_noisy else None).view(latents.shape)

    on = torch.ones(batch, dtype=torch.bool, device=next(iter(conditions.values())).device)
    return with_guidance(call, on, ~on, guidance_scale)


class EmbeddingDiffusion:
    """A noise schedule and what follows from it.

    Args:
        timesteps: T.
        schedule: ``cosine`` or ``linear``.

    Raises ValueError for an unknown schedule.
    """

    def __init__(self, timesteps: int = 1000, schedule: str = "cosine") -> None:
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule {schedule!r} is not one of {', '.join(SCHEDULES)}")
        self.timesteps, self.schedule = timesteps, schedule
        self.betas = SCHEDULES[schedule](timesteps)
        self.alphas_cumprod = (1 - self.betas).cumprod(0)
        self.alphas_cumprod_prev = torch.cat((self.alphas_cumprod.new_ones(1), self.alphas_cumprod[:-1]))

    @classmethod
    def from_betas(cls, betas: Tensor) -> Self:
        """Recognise a stored schedule (T,); raises ValueError where it is none that is known here."""
        for name in SCHEDULES:
            diffusion = cls(len(betas), name)
            if torch.allclose(betas.double().cpu(), diffusion.betas, rtol=1e-3, atol=1e-6):
                return diffusion
        raise ValueError(f"its noise schedule of {len(betas)} steps is none of {', '.join(SCHEDULES)}")

    # Algebra (Ho et al. 2020)

    def _at(self, table: Tensor, times: Tensor | int, like: Tensor) -> Tensor:
        """Entries of a float64 table at times (B,) or one time, as float32 that broadcasts over ``like`` (B, ...)."""
        if isinstance(times, int):
            return table[times].float().to(like.device)
        return table.float().to(like.device)[times].view(-1, *[1] * (like.ndim - 1))

    def add_noise(self, start: Tensor, noise: Tensor, times: Tensor | int) -> Tensor:
        """Clean (B, ...) and noise of the same shape -> noisy at ``times`` (B,), eq. 4."""
        kept = self.alphas_cumprod
        return self._at(kept.sqrt(), times, start) * start + self._at((1 - kept).sqrt(), times, start) * noise

    def velocity(self, start: Tensor, noise: Tensor, times: Tensor | int) -> Tensor:
        """Salimans & Ho 2022, appendix D."""
        kept = self.alphas_cumprod
        return self._at(kept.sqrt(), times, start) * noise - self._at((1 - kept).sqrt(), times, start) * start

    def noise_of(self, noisy: Tensor, start: Tensor, times: Tensor | int) -> Tensor:
        """The noise that leads from a clean guess to the noisy vector; not defined where nothing was added."""
        kept = self.alphas_cumprod
        return (self._at(kept.rsqrt(), times, noisy) * noisy - start) / self._at((1 / kept - 1).sqrt(), times, noisy)

    def posterior(self, start: Tensor, noisy: Tensor, times: Tensor | int) -> tuple[Tensor, Tensor]:
        """Mean (B, ...) and log-variance (broadcastable) of the step before, eq. 6 and 7; variances of at least 1e-20."""
        kept, before = self.alphas_cumprod, self.alphas_cumprod_prev
        first = self._at(self.betas * before.sqrt() / (1 - kept), times, noisy)
        second = self._at((1 - before) * (1 - self.betas).sqrt() / (1 - kept), times, noisy)
        variance = (self.betas * (1 - before) / (1 - kept)).clamp(min=1e-20)
        return first * start + second * noisy, self._at(variance.log(), times, noisy)

    # Training

    def loss(
        self,
        model: Callable[[Tensor, Tensor], Tensor],
        start: Tensor,
        noise: Tensor | None = None,
        timesteps: Tensor | None = None,
        generator: torch.Generator | None = None,
        kind: str = "l2",
        prediction: str = "sample",
        clamp: bool = False,
    ) -> Tensor:
        """Scalar loss in float32 between the model's answer and its target.

        Args:
            model: ``(noisy (B, d), timesteps (B,)) -> answer (B, d)``; the condition is bound in it.
            start: clean vectors (B, d), as `scale_up` makes them.
            noise, timesteps: drawn here unless given, timesteps (B,) uniformly from 0 to T - 1.
            generator: source of what is drawn.
            kind: ``l2``, ``l1`` or ``huber`` (quadratic below 1), each a mean.
            prediction: what the model answers: the clean ``sample``, ``epsilon`` (the noise) or ``v_prediction``.
            clamp: put the answer back to length sqrt(d) before it is compared.

        Raises ValueError for an unknown kind or prediction.
        """
        if kind not in LOSSES or prediction not in PREDICTIONS:
            known = f"{', '.join(LOSSES)} and {', '.join(PREDICTIONS)}"
            raise ValueError(f"loss {kind!r} of prediction {prediction!r} is not known; known are {known}")
        start = start.float()
        noise = draw_noise(start.shape, generator, start.device) if noise is None else noise.float()
        if timesteps is None:
            source = start.device if generator is None else generator.device
            timesteps = torch.randint(self.timesteps, (len(start),), generator=generator, device=source).to(start.device)
        answer = model(self.add_noise(start, noise, timesteps), timesteps).float()
        targets = {"sample": start, "epsilon": noise, "v_prediction": self.velocity(start, noise, timesteps)}
        return LOSSES[kind](scale_up(answer) if clamp else answer, targets[prediction])

    # Sampling

    @torch.no_grad()
    def sample(
        self,
        model: Model,
        shape: Sequence[int],
        generator: Generators = None,
        device: torch.device | str = "cpu",
        num_inference_steps: int = 64,
        sampler: str = "ddim",
        eta: float = 0.0,
        scheduler: Scheduler = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Clean vectors of ``shape`` (B, ...), float32, as large as the model was trained to guess them.

        Args:
            model: ``(noisy (B, ...), timestep ()) -> clean guess (B, ...)``.
            generator: one, or one for each row, which then depends on nothing else in the batch.
            num_inference_steps: at most T; ``ddpm`` always takes all T.
            sampler: ``ddim`` (steps that end at 0); ``ddim_original``, as dalle2-pytorch takes them (see `ddim`); ``ddpm``.
            eta: 0 deterministic after the first draw, 1 as noisy as DDPM; read by both DDIMs.
            scheduler: a diffusers scheduler in place of ``sampler``, as made by :meth:`scheduler`.
            noise: what to start from; drawn unless given.

        Raises ValueError for arguments that cannot work, before anything is computed.
        """
        if not 1 <= num_inference_steps <= self.timesteps:
            raise ValueError(f"num_inference_steps must be from 1 to {self.timesteps}, not {num_inference_steps}")
        if scheduler is not None:
            self._check(scheduler, noise)
            return sampling.sample(model, scheduler, shape, num_inference_steps, generator, device)
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler {sampler!r} is not one of {', '.join(SAMPLERS)}: or give a diffusers scheduler")

        def draw() -> Tensor:
            return draw_noise(shape, generator, device)

        latents = draw() if noise is None else noise.float().to(device)
        if sampler == "ddpm":
            return self.ddpm(model, latents, draw)
        return self.ddim(model, latents, num_inference_steps, eta, draw, original=sampler == "ddim_original")

    def ddpm(self, model: Model, latents: Tensor, draw: Callable[[], Tensor]) -> Tensor:
        """All T steps of Ho et al. 2020, algorithm 2, from pure noise (B, ...); ``draw`` is called T - 1 times."""
        for time in reversed(range(self.timesteps)):
            guess = model(latents, torch.tensor(time, device=latents.device)).float()
            latents, log_variance = self.posterior(guess, latents, time)
            if time:
                latents = latents + (0.5 * log_variance).exp() * draw()
        return latents

    def ddim_steps(self, steps: int, original: bool = False) -> list[tuple[int, int]]:
        """Pairs of a time and the next one, -1 being clean.

        The last of evenly spaced times is T - 1, or below it and one fewer than asked as dalle2-pytorch has them.
        """
        if original:
            spaced = torch.linspace(-1, self.timesteps, steps + 1, device="cpu")[:-1].int().tolist()[::-1]
        else:
            spaced = [round(self.timesteps * (steps - index) / steps) - 1 for index in range(steps)] + [-1]
        return list(zip(spaced, spaced[1:], strict=False))

    def ddim(
        self, model: Model, latents: Tensor, steps: int, eta: float, draw: Callable[[], Tensor], original: bool = False
    ) -> Tensor:
        """Song et al. 2021, eq. 12 and 16, from pure noise (B, ...); ``draw`` is called where noise is added.

        ``original`` repeats dalle2-pytorch: its update reads the signal level of the time before (its estimate of the noise
        does not), which matters only to files that were tuned with it. Raises ValueError where that leaves no step to take.
        """
        pairs = self.ddim_steps(steps, original)
        if not pairs:
            raise ValueError(f"sampler 'ddim_original' takes one step fewer than asked, so ask for at least 2, not {steps}")
        table = self.alphas_cumprod_prev if original else self.alphas_cumprod
        for time, later in pairs:
            guess = model(latents, torch.tensor(time, device=latents.device)).float()
            if later < 0:
                return guess
            epsilon = self.noise_of(latents, guess, time)
            kept, kept_later = float(table[time]), float(table[later])
            sigma = eta * math.sqrt((1 - kept / kept_later) * (1 - kept_later) / (1 - kept))
            latents = math.sqrt(kept_later) * guess + math.sqrt(max(0.0, 1 - kept_later - sigma**2)) * epsilon
            if eta and (later > 0 or not original):
                latents = latents + sigma * draw()
        return latents

    def scheduler(self, name: str = "DDIMScheduler", **options: Any) -> Scheduler:
        """Build a diffusers scheduler over this noise schedule for a model that guesses x0; nothing is clipped."""
        import diffusers

        kind = getattr(diffusers, name)
        extra = {"clip_sample": False, "timestep_spacing": "trailing", "use_lu_lambdas": False}
        known = inspect.signature(kind.__init__).parameters
        defaults = {key: value for key, value in extra.items() if key in known}
        fixed = {"num_train_timesteps": self.timesteps, "trained_betas": self.betas.float().numpy(), "prediction_type": "sample"}
        return kind(**fixed | defaults | options)

    def _check(self, scheduler: Scheduler, noise: Tensor | None) -> None:
        name, mend = type(scheduler).__name__, "make it with diffusion.scheduler(name)"
        if noise is not None:
            raise ValueError("noise and scheduler exclude each other: a scheduler draws its own noise, give a generator instead")
        if scheduler.config.get("prediction_type") != "sample":
            found = scheduler.config.get("prediction_type")
            raise ValueError(f"{name} expects prediction_type {found!r}, but the model guesses the sample: {mend}")
        kept = torch.as_tensor(getattr(scheduler, "alphas_cumprod", self.alphas_cumprod)).double().cpu()
        if kept.shape != self.alphas_cumprod.shape or (kept - self.alphas_cumprod).abs().max() > 1e-3:
            raise ValueError(f"{name} has another noise schedule than the one that the model was trained with: {mend}")


class Strided:
    """Tells diffusers' UnCLIPScheduler the next timestep at every step, which loops over other schedulers do not."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scheduler, name)

    def step(self, prediction: Tensor, timestep: Tensor, latents: Tensor, generator: Any = None) -> Any:
        """As the scheduler's own."""
        times = self.scheduler.timesteps
        later = times[times < timestep]
        following = later[0] if len(later) else None
        return self.scheduler.step(prediction, timestep, latents, prev_timestep=following, generator=generator)
