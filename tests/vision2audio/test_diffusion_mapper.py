"""The generative mapper: parity with the library's network, both of two right answers, and its promises to a task."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from tests.rounding import agree
from xmodal.foundation.original_names import read_library_state
from xmodal.vision2audio import DiffusionMapper, RegressionMapper

GOLDEN = Path(__file__).parent.parent / "golden"
SMALL = {"width": 16, "depth": 2, "heads": 2, "dim_head": 8, "ff_mult": 2, "timesteps": 50, "num_inference_steps": 5}
small = partial(DiffusionMapper, **SMALL)


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def golden(name: str, **options: Any) -> tuple[DiffusionMapper, dict[str, Tensor]]:
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    io, state = (
        {key.removeprefix(f"{head}/"): value for key, value in tensors.items() if key.startswith(f"{head}/")}
        for head in ("io", "state")
    )
    config, state = read_library_state(state)
    sizes = {"width": 64, "depth": 2, "heads": 4, "dim_head": 16, "timesteps": 100, "causal": config.causal}
    mapper = DiffusionMapper(64, 64, **sizes, **options)
    mapper.network.load_state_dict(state)
    return mapper.eval(), io


@pytest.mark.parametrize(("name", "drop_noisy"), [("prior_four_tokens", True), ("voicedit_bidirectional", False)])
def test_equals_the_public_mappers(name: str, drop_noisy: bool) -> None:
    mapper, io = golden(name, drop_noisy=drop_noisy)
    close(
        mapper.loss(io["clip_embed_raw"], io["clap_embed"], noise=io["noise"], timesteps=io["timesteps"]),
        io["loss_x0_l2"][0],
        5e-6,
    )
    draw = partial(
        mapper.sample, io["clip_embed"], sampler="ddim_original", eta=0.0, num_inference_steps=10, noise=io["ddim_x_T"]
    )
    for scale in (1, 2):
        expected = F.normalize(io[f"ddim_eta0_guidance{scale}_out"], dim=-1)
        close(draw(guidance_scale=scale), expected, 2e-5)
    trailing = mapper.sample(io["clip_embed"], sampler="ddim", eta=0.0, num_inference_steps=10, noise=io["ddim_x_T"])
    close(trailing, F.normalize(io["diffusers_ddim_eta0_out"], dim=-1), 2e-5)


def test_paper_size() -> None:
    paper = json.loads((GOLDEN / "paper_size_manifest.json").read_text())["trainable"]
    with torch.device("meta"):
        count = {tokens: sum(p.numel() for p in DiffusionMapper(512, 512, null_tokens=tokens).parameters()) for tokens in (0, 77)}
    assert count == {0: 48_793_472, 77: paper}
    assert round(paper / 1e6, 2) == 48.83
    assert DiffusionMapper(4, 4, width=4, depth=1, heads=1, dim_head=4).network.config.tokens == 4


@pytest.mark.parametrize("widths", [(16, 16), (6, 16), (16, 10), (6, 10)])
def test_any_pair_of_widths(widths: tuple[int, int]) -> None:
    mapper = small(*widths)
    source, target = torch.randn(3, widths[0]), torch.randn(3, widths[1])
    loss = mapper.loss(source, target)
    loss.backward()
    assert loss.ndim == 0
    assert [name for name, p in mapper.named_parameters() if p.grad is None] == []
    found = mapper.sample(source)
    assert found.shape == target.shape
    close(found.norm(dim=-1), torch.ones(3), 1e-5)


def test_a_cached_batch_stays_as_it_is() -> None:
    mapper, source, target = small(6, 10), torch.randn(4, 6), torch.randn(4, 10)
    kept = source.clone(), target.clone()
    mapper.loss(source, target)
    mapper.sample(source)
    assert torch.equal(source, kept[0])
    assert torch.equal(target, kept[1])


def test_the_length_of_vectors_is_not_learned() -> None:
    mapper, source, target = small(6, 10).eval(), torch.randn(4, 6), torch.randn(4, 10)
    given = {"noise": torch.randn(4, 10), "timesteps": torch.tensor([0, 10, 30, 49])}
    expected = mapper.loss(source, target, **given).detach()
    close(mapper.loss(3 * source, 0.1 * target, **given).detach(), expected, 1e-5)


def test_generators() -> None:
    mapper, source = small(6, 10), torch.randn(4, 6)
    seeds = [torch.Generator().manual_seed(number) for number in range(4)]
    found = mapper.sample(source, seeds)
    alone = mapper.sample(source[2:3], [torch.Generator().manual_seed(2)])
    close(found[2:3], alone, 1e-5)
    assert agree(mapper.sample(source, torch.Generator().manual_seed(7)), mapper.sample(source, torch.Generator().manual_seed(7)))
    losses = [mapper.loss(source, torch.ones(4, 10), torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    assert not agree(losses[0], losses[1])
    many = mapper.sample(source[:1].expand(6, -1), torch.Generator().manual_seed(0))
    assert (many @ many.T).min() < 0.999  # one source, several answers


def test_sampling_is_without_dropout_and_leaves_the_mode() -> None:
    mapper = small(6, 10, ff_dropout=0.5, attention_dropout=0.5).train()
    source, noise = torch.randn(3, 6), torch.randn(3, 10)
    first = mapper.sample(source, noise=noise, eta=0.0)
    assert mapper.training
    assert mapper.network.training
    assert agree(mapper.eval().sample(source, noise=noise, eta=0.0), first)
    assert not mapper.training
    assert not first.requires_grad


def test_conditions_are_hidden_in_training_only() -> None:
    mapper = small(6, 10, condition_dropout=0.5, ff_dropout=0.0, attention_dropout=0.0)
    target, given = torch.randn(64, 10), {"noise": torch.randn(64, 10), "timesteps": torch.arange(64) % 50}

    def depends(row: int) -> bool:
        draw = torch.Generator().manual_seed(5)
        source = torch.ones(64, 6, requires_grad=True)
        mapper.loss(source, target, draw, **given).backward()
        return bool(source.grad[row].abs().sum() > 0)

    hidden = [row for row in range(64) if not depends(row)]
    assert 20 < len(hidden) < 44
    mapper.eval()
    assert depends(hidden[0])


def test_guidance_moves_the_answer() -> None:
    mapper, source = small(6, 10).eval(), torch.randn(3, 6)
    noise = torch.randn(3, 10)
    plain, guided = (mapper.sample(source, noise=noise, eta=0.0, guidance_scale=scale) for scale in (1.0, 4.0))
    assert not torch.allclose(plain, guided, atol=1e-3)
    with pytest.raises(ValueError, match="condition_dropout above 0"):
        small(6, 10, condition_dropout=0.0).sample(source, guidance_scale=2.0)


def test_a_diffusers_scheduler() -> None:
    mapper, source = small(6, 10), torch.randn(3, 6)
    scheduler = mapper.diffusion.scheduler("DPMSolverMultistepScheduler")
    found = mapper.sample(source, torch.Generator().manual_seed(0), scheduler=scheduler)
    close(found.norm(dim=-1), torch.ones(3), 1e-5)
    own = mapper.sample(source, torch.Generator().manual_seed(0), eta=0.0)
    ddim = mapper.sample(source, torch.Generator().manual_seed(0), scheduler=mapper.diffusion.scheduler())
    close(ddim, own, 1e-5)


def test_shapes_and_options_that_cannot_work() -> None:
    mapper = small(6, 10)
    with pytest.raises(ValueError, match=r"sources have the shape \(2, 10\), but the mapper expects \(B, 6\)"):
        mapper.sample(torch.ones(2, 10))
    with pytest.raises(ValueError, match=r"targets have the shape \(2, 6\)"):
        mapper.loss(torch.ones(2, 6), torch.ones(2, 6))
    with pytest.raises(ValueError, match="2 sources and 3 targets"):
        mapper.loss(torch.ones(2, 6), torch.ones(3, 10))
    with pytest.raises(ValueError, match=r"condition_dropout 1\.5"):
        small(6, 10, condition_dropout=1.5)


def test_copies_and_state_dicts() -> None:
    """EMA deep-copies a mapper; a checkpoint holds parameters alone."""
    mapper = small(6, 10)
    twin = copy.deepcopy(mapper)
    assert set(mapper.state_dict()) == {name for name, _ in mapper.named_parameters()}
    twin.load_state_dict(mapper.state_dict())
    noise, source = torch.randn(2, 10), torch.randn(2, 6)
    assert agree(twin.sample(source, noise=noise, eta=0.0), mapper.sample(source, noise=noise, eta=0.0))


def test_two_right_answers() -> None:
    """Each source has two targets, 90 degrees apart: the diffusion mapper draws both, the regression answers with their mean."""
    torch.manual_seed(0)
    sources = torch.eye(4)
    first, second = torch.eye(8)[:4], torch.eye(8)[4:]
    pick = torch.arange(512) % 4
    target = torch.where((torch.arange(512) // 4 % 2 == 0)[:, None], first[pick], second[pick])
    drawing = DiffusionMapper(
        4, 8, width=32, depth=2, heads=2, dim_head=16, ff_mult=2, timesteps=100, ff_dropout=0, attention_dropout=0
    )
    regression = RegressionMapper(4, 8, hidden_dim=32)
    for mapper, steps in ((drawing, 250), (regression, 200)):
        optimizer = torch.optim.Adam(mapper.parameters(), 3e-3)
        for _ in range(steps):
            rows = torch.randint(512, (128,)) if mapper is drawing else torch.arange(512)
            optimizer.zero_grad()
            mapper.loss(sources[pick[rows]], target[rows]).backward()
            optimizer.step()
    asked = torch.arange(400) % 4
    drawn = drawing.sample(sources[asked], torch.Generator().manual_seed(0), num_inference_steps=20)
    near = torch.stack([(drawn * ends[asked]).sum(-1) for ends in (first, second)])
    assert (near.amax(0) > 0.95).float().mean() > 0.9
    assert 0.3 < (near[0] > near[1]).float().mean() < 0.7
    with torch.no_grad():
        mean = regression.sample(sources)
    close((mean * first).sum(-1), torch.full((4,), 0.5**0.5), 0.05)
    close((mean * second).sum(-1), torch.full((4,), 0.5**0.5), 0.05)
