"""Guided sampling on models whose answer is known in closed form."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import xmodal.diffusion
from xmodal.diffusion.sampling import draw_noise, sample, with_guidance

SCHEDULERS = ("DPMSolverMultistepScheduler", "DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler",
              "EulerAncestralDiscreteScheduler", "DDPMScheduler", "HeunDiscreteScheduler")  # fmt: skip
CENTRE = 0.7


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


def point_model(alphas: Tensor) -> Any:
    """The exact noise when all data sit at one point."""

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        kept = alphas[timestep.long()]
        return (latents - kept.sqrt() * CENTRE) / (1 - kept).sqrt()

    return predict


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_finds_the_only_picture_there_is(name: str) -> None:
    last = {"set_alpha_to_one": True} if name == "PNDMScheduler" else {}  # its default stops where some noise is left
    scheduler = getattr(diffusers, name)(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **last)
    if "clip_sample" in scheduler.config:
        scheduler.register_to_config(clip_sample=False)
    model = point_model(torch.as_tensor(scheduler.alphas_cumprod))
    steps = []
    found = sample(model, scheduler, (2, 1, 4, 4), 50, seeds(0, 1), callback=lambda *step: steps.append(step))
    torch.testing.assert_close(found, torch.full_like(found, CENTRE), atol=0.05, rtol=0)
    total = len(scheduler.timesteps)
    assert steps == [(step, total) for step in range(1, total + 1)]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_rows_depend_on_their_own_generator_only(name: str) -> None:
    def run(*numbers: int) -> Tensor:
        scheduler = getattr(diffusers, name)()
        return sample(lambda latents, t: 0.3 * latents, scheduler, (len(numbers), 1, 4, 4), 5, seeds(*numbers))

    many = run(3, 4, 5)
    torch.testing.assert_close(many[1:2], run(4), atol=1e-6, rtol=1e-6)
    assert not torch.allclose(many[0], many[1])


def test_noise_of_one_generator_and_of_many() -> None:
    one = draw_noise((2, 3), torch.Generator().manual_seed(0))
    assert torch.equal(one, torch.randn(2, 3, generator=torch.Generator().manual_seed(0)))
    many = draw_noise((2, 3), seeds(0, 1))
    assert torch.equal(many[:1], torch.randn(1, 3, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ValueError, match="1 generators for a batch of 2"):
        draw_noise((2, 3), seeds(0))


def test_guidance_is_one_call_and_linear() -> None:
    calls = []

    def model(latents: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        calls.append(len(latents))
        return latents + condition

    latents, given, without = torch.ones(2, 3), torch.full((2, 3), 5.0), torch.full((2, 3), 1.0)
    step = torch.tensor(0)
    assert torch.equal(with_guidance(model, given, without, 3.0)(latents, step), torch.full((2, 3), 1 + 1 + 3.0 * 4))
    assert torch.equal(with_guidance(model, given, without, 1.0)(latents, step), torch.full((2, 3), 6.0))
    assert torch.equal(with_guidance(model, given, None, 9.0)(latents, step), torch.full((2, 3), 6.0))
    assert calls == [4, 2, 2]
    with pytest.raises(ValueError, match=r"\(1, 3\) and \(2, 3\)"):
        with_guidance(model, given, without[:1], 3.0)


def test_no_steps() -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        sample(lambda latents, t: latents, diffusers.DDIMScheduler(), (1, 1), 0)


def test_the_package_knows_no_model_and_nothing_else_of_xmodal() -> None:
    for path in Path(xmodal.diffusion.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not node.module.startswith("xmodal") or node.module.startswith("xmodal.diffusion")


@pytest.mark.parametrize("kind", ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "PNDMScheduler"])
@pytest.mark.parametrize(("strength", "calls"), [(0.1, 2), (0.5, 10), (1.0, 20)])
def test_a_start_is_noised_for_the_steps_that_are_made(kind: str, strength: float, calls: int) -> None:
    """A model that knows the start comes back to it from wherever it begins, in that share of the steps."""
    options = {"skip_prk_steps": True} if kind == "PNDMScheduler" else {}
    scheduler = getattr(diffusers, kind)(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **options)
    kept = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod
    start, seen = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1, []  # DDIM clips beyond

    def model(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        share = kept[int(timestep)]
        seen.append((latents - share.sqrt() * start) / (1 - share).sqrt())
        return seen[-1]

    made = sample(model, scheduler, start.shape, 20, torch.Generator().manual_seed(2), start=start, strength=strength)
    assert len(seen) == calls + (kind == "PNDMScheduler" and strength == 1.0)  # which evaluates its second step twice
    assert 0.8 < float(seen[0].std()) < 1.2  # of unit variance: the noise of just that step
    assert torch.allclose(made, start, atol=0.1)
    with pytest.raises(ValueError, match="strength must be above 0 and at most 1"):
        sample(model, scheduler, start.shape, 20, start=start, strength=0.0)
    with pytest.raises(ValueError, match="to start from have the shape"):
        sample(model, scheduler, start.shape, 20, start=start[:1])
