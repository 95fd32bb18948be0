"""The denoising objective on models that are one line."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from xmodal.diffusion.training import denoising_loss, denoising_target, draw_timesteps

LATENTS, NOISE = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
TIMESTEPS = torch.tensor([0, 500, 999])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_right_answer_costs_nothing_and_another_does(kind: str) -> None:
    scheduler = DDPMScheduler(prediction_type=kind)
    right = denoising_target(scheduler, LATENTS, NOISE, TIMESTEPS)
    assert denoising_loss(lambda noisy, t: right, scheduler, LATENTS, NOISE, TIMESTEPS) == 0
    wrong = denoising_loss(lambda noisy, t: right + 2, scheduler, LATENTS, NOISE, TIMESTEPS)
    torch.testing.assert_close(wrong, torch.tensor(4.0))


def test_errors_count_by_their_weight() -> None:
    scheduler, weight = DDPMScheduler(), torch.zeros(len(LATENTS), *[1] * (LATENTS.dim() - 1))
    weight[0] = 3
    halves = torch.ones_like(LATENTS)
    halves[0] = 2
    loss = denoising_loss(lambda noisy, t: NOISE + halves, scheduler, LATENTS, NOISE, TIMESTEPS, weight=weight)
    assert loss.item() == pytest.approx(3 * 4 / len(LATENTS))


def test_the_model_sees_the_forward_process() -> None:
    scheduler, seen = DDPMScheduler(), []
    denoising_loss(lambda *given: seen.append(given) or given[0], scheduler, LATENTS, NOISE, TIMESTEPS)
    kept = scheduler.alphas_cumprod[TIMESTEPS][:, None, None, None]
    torch.testing.assert_close(seen[0][0], kept.sqrt() * LATENTS + (1 - kept).sqrt() * NOISE)
    assert torch.equal(seen[0][1], TIMESTEPS)


def test_half_precision_models_are_scored_in_float32() -> None:
    loss = denoising_loss(lambda noisy, t: noisy.half(), DDPMScheduler(), LATENTS.half())
    assert loss.dtype == torch.float32


def test_timesteps_are_uniform_and_repeatable() -> None:
    scheduler = DDPMScheduler(num_train_timesteps=10)
    drawn = draw_timesteps(scheduler, 10_000, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert torch.equal(drawn, draw_timesteps(scheduler, 10_000, torch.Generator().manual_seed(0), torch.device("cpu")))
    counts = drawn.bincount(minlength=10)
    assert len(counts) == 10
    assert (counts - 1000).abs().max() < 150


def test_unknown_prediction_type() -> None:
    scheduler = DDPMScheduler()
    scheduler.register_to_config(prediction_type="magic")
    with pytest.raises(ValueError, match="'magic'.*epsilon"):
        denoising_target(scheduler, LATENTS, NOISE, TIMESTEPS)
