"""The prior's network, loss and samplers against tensors of dalle2-pytorch and of VoiceDiT's mapper (tests/golden)."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tests.rounding import agree
from xmodal.diffusion.embedding_diffusion import EmbeddingDiffusion, scale_up
from xmodal.diffusion.prior_network import PriorConfig, PriorNetwork, position_buckets
from xmodal.foundation.original_names import read_library_state

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = ("prior_four_tokens", "prior_padded_tokens", "prior_multi_token", "voicedit_bidirectional")
# The goldens are float32 themselves, and up to 3.5e-6 off what float64 makes of the same weights; the rest is our own rounding,
# 1.3e-6 to 3.3e-6 as processors differ.
EXACT, OUTPUT, SAMPLE, GRADIENT = 5e-6, 1e-5, 2e-5, 2e-6


@dataclass
class Case:
    config: dict[str, Any]
    io: dict[str, Tensor]
    schedule: dict[str, Tensor]
    grads: dict[str, Tensor]
    network: PriorNetwork
    diffusion: EmbeddingDiffusion

    @property
    def scale(self) -> float:
        return self.config["image_embed_scale"]

    def model(self, guidance: float = 1.0, clamp: bool = False) -> Callable[[Tensor, Tensor], Tensor]:
        """VoiceDiT's null pass drops the condition alone, the library's the noisy embedding too."""
        both = self.network.config.causal

        def call(noisy: Tensor, time: Tensor) -> Tensor:
            answer = self.network(noisy, time, self.io["clip_embed"])
            if guidance != 1:
                off = torch.zeros(len(noisy), dtype=torch.bool)
                null = self.network(noisy, time, self.io["clip_embed"], keep_condition=off, keep_noisy=off if both else None)
                answer = null + guidance * (answer - null)
            return scale_up(answer) if clamp else answer

        return call


@cache
def load(name: str) -> Case:
    path = GOLDEN / f"{name}.safetensors"
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    part = {
        head: {key.partition("/")[2]: value for key, value in tensors.items() if key.startswith(f"{head}/")}
        for head in ("io", "state", "schedule", "grads")
    }
    sizes, state = read_library_state(part["state"])
    network = PriorNetwork(sizes).eval()
    network.load_state_dict(state)
    diffusion = EmbeddingDiffusion(config["prior"]["timesteps"], config["prior"]["beta_schedule"])
    return Case(config, part["io"], part["schedule"], part["grads"], network, diffusion)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return load(request.param)


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


# ---- the network


def test_sizes_are_read_from_the_file(case: Case) -> None:
    stated, found = case.config["network"], case.network.config
    assert (found.dim, found.depth, found.heads, found.dim_head) == tuple(
        stated[k] for k in ("dim", "depth", "heads", "dim_head")
    )
    assert found.timesteps == stated["num_timesteps"]
    assert found.causal == stated.get("causal", True)
    assert found.text_tokens == stated.get("max_text_len", 0)
    assert found.condition_tokens == stated.get("num_text_embeds", 1)
    assert found.noisy_tokens == stated.get("num_image_embeds", 1)
    assert found.time_tokens == stated.get("num_time_embeds", 1)
    assert found.ff_mult == stated["ff_mult"]
    assert sum(p.numel() for p in case.network.parameters()) == case.config["n_trainable"]


@pytest.mark.parametrize(
    ("name", "dropped"),
    [
        ("net_out", ""),
        ("net_out_raw_condition", ""),
        ("net_out_drop_condition_only", "c"),
        ("net_out_drop_condition_and_noisy", "cn"),
    ],
)
def test_outputs(case: Case, name: str, dropped: str) -> None:
    io, off = case.io, torch.zeros(case.config["batch"], dtype=torch.bool)
    condition = io["clip_embed_raw" if "raw" in name else "clip_embed"]
    keep = {"keep_condition": off} if "c" in dropped else {}
    keep |= {"keep_noisy": off} if "n" in dropped else {}
    with torch.no_grad():
        close(case.network(io["x_noisy"], io["timesteps"], condition, **keep), io[name], OUTPUT)


@torch.no_grad()
def test_outputs_without_rounding_of_our_own(case: Case) -> None:
    inputs, network = (case.io["x_noisy"].double(), case.io["timesteps"], case.io["clip_embed"].double()), deepcopy(case.network)
    close(network.double()(*inputs).float(), case.io["net_out"], EXACT)


@torch.no_grad()
def test_guidance(case: Case) -> None:
    close(case.model(guidance=2.0)(case.io["x_noisy"], case.io["timesteps"]), case.io["net_out_guided_scale2"], 2 * OUTPUT)


@torch.no_grad()
def test_a_dropped_row_leaves_the_others_alone(case: Case) -> None:
    io = case.io
    keep = torch.arange(case.config["batch"]) != 1
    out = case.network(io["x_noisy"], io["timesteps"], io["clip_embed"], keep_condition=keep)
    close(out[keep], io["net_out"][keep], OUTPUT)
    close(out[1], io["net_out_drop_condition_only"][1], OUTPUT)


@torch.no_grad()
def test_words_take_the_place_of_placeholders() -> None:
    case = load("prior_padded_tokens")
    io, net = case.io, case.network
    words = torch.randn(case.config["batch"], 9, 64, generator=torch.Generator().manual_seed(0))
    call = partial(net, io["x_noisy"], io["timesteps"], io["clip_embed"])
    mask = torch.arange(9)[None] < torch.tensor([3, 7, 9, 0])[:, None]
    out = call(text=words, text_mask=mask)
    close(out[3], io["net_out"][3], OUTPUT)  # no words: placeholders only
    assert (out[:3] - io["net_out"][:3]).abs().max() > 0.01
    assert agree(call(text=words * mask[..., None]), out)  # zeros mark padding, as in the library
    assert agree(call(text=words[:, :7], text_mask=mask[:, :7]), out)  # what exceeds the room is cut off
    assert agree(call(text=words[:, :3], text_mask=mask[:, :3])[0], out[0])
    off = torch.zeros(case.config["batch"], dtype=torch.bool)
    close(call(text=words, text_mask=mask, keep_condition=off), io["net_out_drop_condition_only"], OUTPUT)
    with pytest.raises(ValueError, match="no places for word encodings"):
        load("prior_four_tokens").network(torch.ones(1, 64), torch.tensor(0), torch.ones(1, 64), text=words[:1])


def test_buckets_of_t5() -> None:
    causal, both = position_buckets(200, True), position_buckets(200, False)
    assert causal.shape == (200, 201)
    assert causal[150, 150:].tolist() == [0] * 51  # itself as the null key shifts it, and the future
    assert causal[150, 149] == 1
    assert causal[150, 10] == causal[199, 0] == 31  # 128 and more share one
    assert both[10, 8] == 2
    assert both[10, 12] == 16 + 2
    assert set(both.unique().tolist()) == set(range(32)) - {16}  # distance 0 has no sign


@pytest.mark.parametrize("wrong", [{"dim": 0}, {"text_tokens": -1}, {"timesteps": 0}, {"dim_head": 15}])
def test_impossible_sizes(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PriorConfig(**wrong)


def test_paper_size_has_the_librarys_tensors() -> None:
    expected = json.loads((GOLDEN / "paper_size_manifest.json").read_text())
    with torch.device("meta"):
        network = PriorNetwork(PriorConfig(text_tokens=77))
        four = PriorNetwork(PriorConfig())
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    known = {key.replace("causal_", ""): shape for key, shape in expected["shapes"].items() if "freqs" not in key}
    assert shapes == known
    assert sum(p.numel() for p in network.parameters()) == expected["trainable"] == 48_832_896
    assert sum(p.numel() for p in four.parameters()) == 48_793_472


def test_foreign_states_are_refused() -> None:
    with pytest.raises(ValueError, match="learned_query, null_text_embeds"):
        read_library_state({"weight": torch.ones(1)})
    state = load_file(GOLDEN / "prior_four_tokens.safetensors")
    state = {key.removeprefix("state/"): value for key, value in state.items() if key.startswith("state/")}
    state["causal_transformer.layers.0.0.rotary_emb.freqs"] = torch.zeros(8)
    with pytest.raises(ValueError, match="rotary"):
        read_library_state(state)


# ---- schedule, loss, gradients


def derived(diffusion: EmbeddingDiffusion) -> dict[str, Tensor]:
    kept, before, betas = diffusion.alphas_cumprod, diffusion.alphas_cumprod_prev, diffusion.betas
    times, one, zero = torch.arange(len(betas)), torch.ones(len(betas), 1), torch.zeros(len(betas), 1)
    variance = betas * (1 - before) / (1 - kept)
    return {
        "betas": betas, "alphas_cumprod": kept, "alphas_cumprod_prev": before, "posterior_variance": variance,
        "sqrt_alphas_cumprod": diffusion.add_noise(one, zero, times)[:, 0],
        "sqrt_one_minus_alphas_cumprod": diffusion.add_noise(zero, one, times)[:, 0],
        "posterior_mean_coef1": diffusion.posterior(one, zero, times)[0][:, 0],
        "posterior_mean_coef2": diffusion.posterior(zero, one, times)[0][:, 0],
        "posterior_log_variance_clipped": diffusion.posterior(one, one, times)[1][:, 0],
    }  # fmt: skip


def test_schedule(case: Case) -> None:
    for name, value in derived(case.diffusion).items():
        torch.testing.assert_close(value.float(), case.schedule[name], rtol=2e-5, atol=2e-7)


def test_schedule_of_a_thousand_steps() -> None:
    expected = load_file(GOLDEN / "schedule_cosine_1000.safetensors")
    for name, value in derived(EmbeddingDiffusion()).items():
        torch.testing.assert_close(value.float(), expected[name], rtol=2e-5, atol=2e-7)


def test_algebra(case: Case) -> None:
    io, diffusion, times = case.io, case.diffusion, case.io["timesteps"]
    close(scale_up(io["clap_embed"]), io["x_start_scaled"], 2e-6)
    close(diffusion.add_noise(io["x_start_scaled"], io["noise"], times), io["x_noisy"], 2e-6)
    close(diffusion.velocity(io["x_start_scaled"], io["noise"], times), io["v_target"], 2e-6)
    close(diffusion.posterior(io["net_out"], io["x_noisy"], times)[0], io["posterior_mean_at_t"], OUTPUT)
    epsilon = diffusion.noise_of(io["x_noisy"], io["net_out"], times.clamp(min=1))
    torch.testing.assert_close(epsilon, io["eps_from_x0_prediction"], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("loss_x0_l2", {}),
        ("loss_x0_l1", {"kind": "l1"}),
        ("loss_x0_huber", {"kind": "huber"}),
        ("loss_eps_l2", {"prediction": "epsilon"}),
        ("loss_v_l2", {"prediction": "v_prediction"}),
        ("loss_x0_l2_training_clamp", {"clamp": True}),
    ],
)
def test_losses(case: Case, name: str, options: dict[str, Any]) -> None:
    io = case.io
    before = io["clap_embed"].clone()
    with torch.no_grad():
        loss = case.diffusion.loss(case.model(), scale_up(io["clap_embed"]), io["noise"], io["timesteps"], **options)
    close(loss, io[name][0], OUTPUT)
    assert torch.equal(io["clap_embed"], before)  # the library scales its caller's tensor in place


def test_gradients(case: Case) -> None:
    io = case.io
    case.network.zero_grad()
    case.diffusion.loss(case.model(), io["x_start_scaled"], io["noise"], io["timesteps"]).backward()
    expected = {key.replace("causal_", ""): value for key, value in case.grads.items() if value.numel()}
    assert set(expected) == {name for name, _ in case.network.named_parameters()}
    for name, parameter in case.network.named_parameters():
        assert parameter.grad is not None, name  # also where nothing is dropped: DDP wants every parameter used
        close(parameter.grad, expected[name], GRADIENT)


def test_unknown_loss() -> None:
    with pytest.raises(ValueError, match="l2, l1, huber and sample, epsilon"):
        EmbeddingDiffusion(10).loss(lambda x, t: x, torch.ones(1, 2), kind="l3")
    with pytest.raises(ValueError, match="cosine, linear"):
        EmbeddingDiffusion(10, "square")


# ---- samplers


@pytest.mark.parametrize("eta", [0, 1])
@pytest.mark.parametrize("guidance", [1, 2])
@torch.no_grad()
def test_ddim_of_the_library(case: Case, eta: int, guidance: int) -> None:
    io, noise = case.io, iter(case.io["ddim_step_noise"])
    steps = case.config["ddim_steps"]
    assert [pair[0] for pair in case.diffusion.ddim_steps(steps, original=True)] == io["ddim_timesteps"].tolist()[:-1]
    found = case.diffusion.ddim(case.model(guidance), io["ddim_x_T"], steps, eta, lambda: next(noise), original=True)
    close(found / case.scale, io[f"ddim_eta{eta}_guidance{guidance}_out"], SAMPLE)


@torch.no_grad()
def test_ddim_with_clamps(case: Case) -> None:
    io = case.io
    ddim = partial(case.diffusion.ddim, steps=case.config["ddim_steps"], eta=0, draw=pytest.fail, original=True)
    close(ddim(case.model(clamp=True), io["ddim_x_T"]) / case.scale, io["ddim_eta0_guidance1_clamp_each_out"], SAMPLE)
    close(scale_up(ddim(case.model(), io["ddim_x_T"])) / case.scale, io["ddim_eta0_guidance1_clamp_final_out"], SAMPLE)
    close(ddim(case.model(), scale_up(io["ddim_x_T"])) / case.scale, io["ddim_eta0_guidance1_init_l2_out"], SAMPLE)


@torch.no_grad()
def test_ddpm_of_the_library(case: Case) -> None:
    noise = iter(case.io["ddpm_step_noise"])
    found = case.diffusion.ddpm(case.model(), case.io["ddpm_x_T"], lambda: next(noise))
    close(found / case.scale, case.io["ddpm_out"], SAMPLE)


@torch.no_grad()
def test_ddim_of_diffusers(case: Case) -> None:
    io, steps, model = case.io, case.config["ddim_steps"], case.model()
    scheduler = case.diffusion.scheduler()
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == io["diffusers_ddim_timesteps"].tolist()
    latents = io["ddim_x_T"]
    for time in scheduler.timesteps:
        latents = scheduler.step(model(latents, time), time, latents).prev_sample
    close(latents / case.scale, io["diffusers_ddim_eta0_out"], SAMPLE)
    if case.diffusion.timesteps % steps == 0:  # else diffusers steps past the next time
        own = case.diffusion.sample(model, io["ddim_x_T"].shape, num_inference_steps=steps, noise=io["ddim_x_T"])
        close(own / case.scale, io["diffusers_ddim_eta0_out"], SAMPLE)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "DDPMScheduler", "UniPCMultistepScheduler"])
def test_any_scheduler_finds_the_only_vector_there_is(name: str) -> None:
    diffusion = EmbeddingDiffusion()
    target = scale_up(torch.arange(1.0, 9.0))
    seeds = [torch.Generator().manual_seed(number) for number in (0, 1)]
    scheduler = diffusion.scheduler(name)
    found = diffusion.sample(lambda x, t: target.expand_as(x), (2, 8), seeds, num_inference_steps=20, scheduler=scheduler)
    close(found, target.expand(2, 8), 0.05)


@pytest.mark.parametrize("options", [{}, {"eta": 1.0}, {"sampler": "ddim_original", "eta": 1.0}, {"sampler": "ddpm"}])
def test_samplers_reach_the_distribution(options: dict[str, Any]) -> None:
    """The exact guess for two points at +-1: an equal share must arrive at each, and nothing between."""
    diffusion = EmbeddingDiffusion(200)

    def exact(noisy: Tensor, time: Tensor) -> Tensor:
        kept = diffusion.alphas_cumprod[int(time)].float()
        return torch.tanh(noisy * kept.sqrt() / (1 - kept))

    found = diffusion.sample(exact, (4000, 1), torch.Generator().manual_seed(0), num_inference_steps=50, **options)
    assert found.abs().sub(1).abs().max() < 0.1
    assert abs(found.sign().mean()) < 0.05


def test_rows_depend_on_their_own_generator_only() -> None:
    def run(*numbers: int) -> Tensor:
        seeds = [torch.Generator().manual_seed(number) for number in numbers]
        return EmbeddingDiffusion(50).sample(lambda x, t: 0.3 * x, (len(numbers), 3), seeds, num_inference_steps=5, eta=1.0)

    close(run(3, 4, 5)[1:2], run(4), 1e-6)
    assert not torch.allclose(run(3), run(4))


def test_arguments_that_cannot_work() -> None:
    diffusion = EmbeddingDiffusion(10)
    run = partial(diffusion.sample, lambda x, t: x, (1, 2), num_inference_steps=2)
    with pytest.raises(ValueError, match="from 1 to 10, not 11"):
        run(num_inference_steps=11)
    with pytest.raises(ValueError, match="ddim, ddim_original, ddpm"):
        run(sampler="euler")
    with pytest.raises(ValueError, match="at least 2, not 1"):
        run(sampler="ddim_original", num_inference_steps=1)
    with pytest.raises(ValueError, match="prediction_type 'epsilon'"):
        run(scheduler=diffusion.scheduler(prediction_type="epsilon"))
    with pytest.raises(ValueError, match="another noise schedule"):
        run(scheduler=EmbeddingDiffusion(10, "linear").scheduler())
    with pytest.raises(ValueError, match="exclude each other"):
        run(scheduler=diffusion.scheduler(), noise=torch.ones(1, 2))
