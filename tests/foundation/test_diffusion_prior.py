"""Priors: published layouts of files, parity with the library and with diffusers' pipeline, and what each class promises."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import packaging.version
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from tests.rounding import agree
from xmodal.diffusion.embedding_diffusion import EmbeddingDiffusion, best_of
from xmodal.diffusion.prior_network import PriorConfig, PriorNetwork
from xmodal.foundation import diffusion_prior
from xmodal.foundation.base import Prior
from xmodal.foundation.diffusion_prior import (
    CARDS,
    MLP,
    DiffusionPrior,
    Identity,
    KandinskyPrior,
    KarloPrior,
    Linear,
    MeanShift,
    Retrieval,
    build,
    import_checkpoint,
    save,
    tiny,
)  # fmt: skip
from xmodal.foundation.original_names import read_library_state
from xmodal.registry import models as registry

GOLDEN = Path(__file__).parent.parent / "golden"
CLIP = {"clip.clip.visual.proj": torch.zeros(2, 2)}


@cache
def golden(name: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Config, tensors, and the flat state dict of the whole prior as the library saves it."""
    path = GOLDEN / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    tensors = load_file(path)
    io = {key.removeprefix("io/"): value for key, value in tensors.items() if key.startswith("io/")}
    flat = {f"net.{key.removeprefix('state/')}": value for key, value in tensors.items() if key.startswith("state/")}
    flat |= {f"noise_scheduler.{key.removeprefix('schedule/')}": v for key, v in tensors.items() if key.startswith("schedule/")}
    return config, io, flat | CLIP


def trainer_file(state: dict[str, Tensor]) -> dict[str, Any]:
    """All keys that the library's trainer writes, the package version among them."""
    worse = {key: value + 1 if value.is_floating_point() else value for key, value in state.items()}
    return {
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.99)}]},
        "scheduler": None, "warmup_scheduler": None, "model": worse, "version": packaging.version.Version("1.15.6"),
        "step": torch.tensor([3]), "ema": {"initted": torch.tensor([True])}, "ema_model": state,
    }  # fmt: skip


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


# ---- files of the library


@pytest.mark.parametrize("layout", ["flat", "trainer", "saved", "fp16", "safe"])
def test_published_layouts(tmp_path: Path, layout: str) -> None:
    config, io, flat = golden("prior_padded_tokens")
    model_only = {"version": "1.15.6", "step": 3, "model": {k: v for k, v in flat.items() if "clip." not in k}}
    half = {key: value.half() if value.is_floating_point() else value for key, value in flat.items()}
    contents = {"flat": flat, "trainer": trainer_file(flat), "saved": model_only, "fp16": half, "safe": flat}
    torch.save(contents[layout], tmp_path / "best.pth")
    folder = import_checkpoint(tmp_path / "best.pth", tmp_path / "laion") if layout != "safe" else tmp_path / "best.pth"
    prior = DiffusionPrior(str(folder))
    assert (prior.diffusion.timesteps, prior.diffusion.schedule) == (50, "linear")
    assert (prior.dim, prior.network.config.text_tokens, prior.reads_tokens) == (64, 7, True)
    found = prior.network(io["x_noisy"], io["timesteps"], io["clip_embed"])
    close(found, io["net_out"], 0.02 if layout == "fp16" else 1e-5)  # see tests/diffusion/test_prior_network.py
    assert config["n_trainable"] == sum(p.numel() for p in prior.parameters())
    assert not any(p.requires_grad for p in prior.parameters())


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    _, _, flat = golden("prior_four_tokens")
    path = tmp_path / "best.pth"
    without = {key: value for key, value in flat.items() if key != "net.null_text_embeds"}
    for content, said in [
        ({"epoch": 3}, "holds no tensors by name"),
        (without, "null_text_embeds missing"),
        (flat | {"net.more": torch.ones(1)}, "1 tensors disagree .0 missing, 1 unknown., first more"),
        (flat | {"noise_scheduler.betas": torch.rand(100)}, "noise schedule of 100 steps is none of cosine, linear"),
        ({key: value for key, value in flat.items() if "layers.0.0.to_q" not in key}, r"\(1 missing, 0 unknown\)"),
    ]:
        torch.save(content, path)
        with pytest.raises(ValueError, match=said):
            import_checkpoint(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Rogue:
    def __reduce__(self) -> Any:
        return print, ("executed",)


def test_nothing_in_a_file_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(trainer_file(golden("prior_four_tokens")[2]) | {"version": Rogue()}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="cannot be read"):
        import_checkpoint(tmp_path / "x.pth", tmp_path / "out")
    assert "executed" not in capsys.readouterr().out


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    folder = MeanShift.fit(torch.randn(4, 8), torch.randn(4, 8)).save(tmp_path / "shift")
    with pytest.raises(ValueError, match="holds a MeanShift, not a DiffusionPrior"):
        DiffusionPrior(str(folder))
    with pytest.raises(ValueError, match="holds a MeanShift, not a Linear"):
        Linear(str(folder))
    (folder / "config.json").write_text('{"class": "DiffusionPrior", "network": {"size": 3}}')
    with pytest.raises(ValueError, match="import the checkpoint again"):
        DiffusionPrior(str(folder))
    with pytest.raises(ValueError, match="its cards are: mini, mini_names, laion, laion-24, conditioned-prior"):
        DiffusionPrior("karlo")


def test_missing_weights_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"prior/best.pth; 1.34 GB; .*`xmodal pull diffusion_prior:laion`"):
        DiffusionPrior("laion")
    with pytest.raises(FileNotFoundError, match=r"karlo-v1-alpha' are not on this machine .*4.09 GB if in float32"):
        KarloPrior()
    with pytest.raises(FileNotFoundError, match="'acme/prior' are not .*`xmodal pull diffusion_prior:acme/prior`"):
        KandinskyPrior("acme/prior")
    with pytest.raises(FileNotFoundError, match="lacks prior or prior_scheduler"):
        KandinskyPrior(str(tmp_path))


@pytest.mark.parametrize("card", ["mini", "mini_names"])
def test_embedded_priors(card: str) -> None:
    prior = DiffusionPrior(card)
    assert prior.dim == CARDS[card].dim == 128
    assert sum(parameter.numel() for parameter in prior.parameters()) == CARDS[card].parameters
    made = prior.sample(torch.randn(2, 128), num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    close(made.norm(dim=-1), torch.ones(2), 1e-4)


# ---- sampling as LAION does


@pytest.mark.parametrize("name", ["prior_four_tokens", "voicedit_bidirectional"])
def test_equals_the_librarys_samples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole of `sample`, fed with the noise of the library's run."""
    config, io, flat = golden(name)
    sizes, state = read_library_state(flat)
    network = PriorNetwork(sizes)
    network.load_state_dict(state)
    prior = DiffusionPrior.from_model(network, EmbeddingDiffusion(100), drop_noisy=sizes.causal)
    for eta, scale in ((1, 1), (1, 2), (0, 2)):
        noise = iter([io["ddim_x_T"], *io["ddim_step_noise"]])
        monkeypatch.setattr("xmodal.diffusion.embedding_diffusion.draw_noise", lambda *a, n=noise: next(n)[:, None])
        found = prior.sample(
            3 * io["clip_embed"], num_inference_steps=config["ddim_steps"], guidance_scale=scale, candidates=1, eta=eta
        )
        close(found, F.normalize(io[f"ddim_eta{eta}_guidance{scale}_out"], dim=-1), 2e-5)


def small(**options: Any) -> DiffusionPrior:
    torch.manual_seed(0)
    sizes = {"dim": 16, "depth": 2, "heads": 2, "dim_head": 8, "ff_mult": 2, "timesteps": 50} | options
    return DiffusionPrior.from_model(PriorNetwork(PriorConfig(**sizes)))


def test_the_better_of_two_candidates() -> None:
    found = torch.tensor([[[1.0, 0.0], [0.6, 0.8]], [[0.0, -3.0], [0.1, -1.0]]])
    close(best_of(found, torch.tensor([[0.0, 5.0], [0.0, -1.0]])), torch.tensor([[0.6, 0.8], [0.0, -1.0]]), 1e-6)
    prior, text = small(), torch.randn(40, 16)
    one, four = (prior.sample(text, candidates=k, num_inference_steps=5) for k in (1, 4))
    score = [F.cosine_similarity(found, text).mean() for found in (one, four)]
    assert score[1] > score[0]


def test_rows_depend_on_their_own_generator_only() -> None:
    prior, text = small(), torch.randn(3, 16)
    seeds = [torch.Generator().manual_seed(number) for number in range(3)]
    found = prior.sample(text, generator=seeds, num_inference_steps=5)
    alone = prior.sample(text[1:2], generator=[torch.Generator().manual_seed(1)], num_inference_steps=5)
    close(alone, found[1:2], 1e-5)


def test_words_are_read() -> None:
    prior = small(text_tokens=5)
    text, tokens = torch.randn(2, 16), torch.randn(2, 4, 16)
    with pytest.raises(ValueError, match="also reads the words"):
        prior.sample(text)
    with pytest.raises(ValueError, match=r"tokens have the shape \(2, 16\)"):
        prior.sample(text, tokens=text)

    def run(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        return prior.sample(text, tokens, mask, torch.Generator().manual_seed(0), num_inference_steps=5, guidance_scale=2.0)

    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]).bool()
    first = run(tokens, mask)
    assert agree(run(tokens * mask[..., None]), first)
    assert not torch.allclose(run(tokens), first, atol=1e-4)
    other = torch.where(mask[..., None], tokens, torch.randn(2, 4, 16))
    assert agree(run(other, mask), first)


def test_any_scheduler() -> None:
    prior, text = small(), torch.randn(2, 16)
    scheduler = prior.diffusion.scheduler("DPMSolverMultistepScheduler")
    close(prior.sample(text, scheduler=scheduler, num_inference_steps=4).norm(dim=-1), torch.ones(2), 1e-5)


def test_saved_and_loaded(tmp_path: Path) -> None:
    prior, text = small(causal=False), torch.randn(2, 16)
    again = DiffusionPrior(str(save(prior, tmp_path / "own")))
    assert again.network.config == prior.network.config
    assert again.drop_noisy
    found = [each.sample(text, generator=torch.Generator().manual_seed(0), num_inference_steps=4) for each in (prior, again)]
    assert agree(*found)


# ---- diffusers' priors


def unclip_parts(clip_std: float = 0.5) -> dict[str, Any]:
    from diffusers import PriorTransformer, UnCLIPScheduler

    torch.manual_seed(0)
    prior = PriorTransformer(
        num_attention_heads=2, attention_head_dim=8, num_layers=2, embedding_dim=24, num_embeddings=77, additional_embeddings=4
    ).eval()
    torch.nn.init.normal_(prior.positional_embedding)
    torch.nn.init.normal_(prior.clip_mean)
    prior.clip_std.data.fill_(clip_std)
    return {"prior": prior, "scheduler": UnCLIPScheduler(prediction_type="sample", clip_sample_range=5.0)}


@pytest.fixture(scope="module")
def texts() -> dict[str, Any]:
    """The text tower's outputs for three prompts and for none, and the tower itself."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    from tests.tiny import tiny_tokenizer

    torch.manual_seed(1)
    config = CLIPTextConfig(
        vocab_size=64, hidden_size=24, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, projection_dim=24,
        max_position_embeddings=77, bos_token_id=60, eos_token_id=61, pad_token_id=61, initializer_factor=3.0,
    )  # fmt: skip
    tower, tokenizer = CLIPTextModelWithProjection(config).eval(), tiny_tokenizer()
    prompts = ["a dog", "the photo of a dog", "an a"]
    ids = tokenizer([*prompts, ""], padding="max_length", max_length=77, return_tensors="pt")
    with torch.no_grad():
        out = tower(ids.input_ids)
    names = ("embedding", "tokens", "mask")
    parts = dict(zip(names, (out.text_embeds, out.last_hidden_state, ids.attention_mask.bool()), strict=True))
    given = {"text_embedding" if name == "embedding" else name: value[:3] for name, value in parts.items()}
    negative = {f"negative_{name}": value[3:] for name, value in parts.items()}
    return {"prompts": prompts, "tower": tower, "tokenizer": tokenizer, "given": given, "negative": negative}


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_equals_the_pipeline(texts: dict[str, Any], scale: float) -> None:
    from diffusers import KandinskyPriorPipeline
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    parts = unclip_parts()
    eye = CLIPVisionModelWithProjection(
        CLIPVisionConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=8,
                         patch_size=8, projection_dim=24)
    )  # fmt: skip
    pipeline = KandinskyPriorPipeline(
        **parts, image_encoder=eye, text_encoder=texts["tower"], tokenizer=texts["tokenizer"], image_processor=None
    )
    pipeline.set_progress_bar_config(disable=True)
    draw = torch.Generator().manual_seed(3)
    expected = pipeline(texts["prompts"], num_inference_steps=6, guidance_scale=scale, generator=draw).image_embeds
    prior = KandinskyPrior.from_parts(**parts)
    negative = texts["negative"] if scale > 1 else {}
    found = prior.sample(
        **texts["given"], **negative, generator=torch.Generator().manual_seed(3), num_inference_steps=6, candidates=1
    )
    close(found, F.normalize(expected, dim=-1), 1e-5)


def test_unclip_from_a_folder(texts: dict[str, Any], tmp_path: Path) -> None:
    parts = unclip_parts()
    parts["prior"].save_pretrained(tmp_path / "karlo" / "prior")
    parts["scheduler"].save_pretrained(tmp_path / "karlo" / "prior_scheduler")
    prior, own = KarloPrior(str(tmp_path / "karlo")), KarloPrior.from_parts(**parts)
    assert (prior.dim, prior.reads_tokens) == (24, True)

    def run(prior: KarloPrior) -> Tensor:
        seeds = [torch.Generator().manual_seed(number) for number in range(3)]
        return prior.sample(**texts["given"], **texts["negative"], generator=seeds, num_inference_steps=3)

    assert agree(run(prior), run(own))
    close(run(prior).norm(dim=-1), torch.ones(3), 1e-5)
    first = {name: value[1:2] for name, value in texts["given"].items()}
    alone = prior.sample(**first, **texts["negative"], generator=[torch.Generator().manual_seed(1)], num_inference_steps=3)
    close(alone, run(prior)[1:2], 1e-5)


def test_unclip_arguments_that_cannot_work(texts: dict[str, Any]) -> None:
    from diffusers import DDIMScheduler

    with pytest.raises(ValueError, match="clip_std is all zero"):
        KarloPrior.from_parts(**unclip_parts(clip_std=0.0))
    prior, given = KarloPrior.from_parts(**unclip_parts()), texts["given"]
    with pytest.raises(ValueError, match="reads text embeddings as projected"):
        prior.sample(**given | {"text_embedding": F.normalize(given["text_embedding"], dim=-1)})
    with pytest.raises(ValueError, match=r"guidance_scale 3\.0 needs the empty text"):
        prior.sample(**given, guidance_scale=3.0)
    with pytest.raises(ValueError, match="empty text's encoder_hidden_states like"):
        prior.sample(**given, negative_embedding=texts["negative"]["negative_embedding"])
    with pytest.raises(ValueError, match="also reads the words"):
        prior.sample(given["text_embedding"])
    with pytest.raises(ValueError, match="'prediction_type': 'epsilon'}, but the generator was trained with .*'sample'"):
        prior.sample(**given, scheduler=DDIMScheduler())
    with pytest.raises(ValueError, match="at least 2 steps, not 1"):
        prior.sample(**given, num_inference_steps=1)


# ---- baselines


def pairs(count: int = 400, dim: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Images are turned texts in another corner of the sphere: what a shift, a line and more can mend."""
    torch.manual_seed(0)
    text = F.normalize(torch.randn(count, dim), dim=-1)
    turn = torch.linalg.qr(torch.randn(dim, dim))[0]
    return text, text @ turn + 1.0, turn


def test_baselines_learn_what_they_can(tmp_path: Path) -> None:
    text, image, _ = pairs()
    shift, line, net = MeanShift.fit(text, image), Linear.fit(text, image), MLP.fit(text, image, hidden=32, steps=150)
    score = {
        type(prior).__name__: F.cosine_similarity(prior.sample(text), image).mean().item()
        for prior in (Identity(dim=12), shift, line, net)
    }
    assert score["Identity"] < 0.3 < 0.5 < score["MeanShift"] < 0.8
    assert min(score["Linear"], score["MLP"]) > 0.95
    for prior in (shift, line, net):
        again = type(prior)(str(prior.save(tmp_path / type(prior).__name__)))
        assert agree(again.sample(text), prior.sample(text))
        assert not any(p.requires_grad for p in again.parameters())


def test_retrieval_gives_the_nearest_known_pictures(tmp_path: Path) -> None:
    text, image, _ = pairs()
    known = F.normalize(image, dim=-1)
    near = F.normalize(text, dim=-1) @ known.T
    nearest = Retrieval.fit(image, temperature=1e-7)
    close(nearest.sample(3 * text), known[near.argmax(1)], 1e-5)
    soft = Retrieval.fit(image, temperature=0.3)
    close(soft.sample(text), F.normalize((near / 0.3).softmax(1) @ known, dim=-1), 1e-6)
    again = Retrieval(str(soft.save(tmp_path / "bank")))
    assert agree(again.sample(text), soft.sample(text))
    with pytest.raises(ValueError, match="temperature 0 must be above 0"):
        Retrieval.fit(image, temperature=0)


def test_mean_shift_is_the_formula() -> None:
    text, image, _ = pairs()
    unit_text, unit_image = F.normalize(text, dim=-1), F.normalize(image, dim=-1)
    expected = F.normalize(unit_text - unit_text.mean(0) + unit_image.mean(0), dim=-1)
    close(MeanShift.fit(text, image).sample(5 * text), expected, 1e-6)


def test_least_squares_recovers_a_rotation() -> None:
    text, _, turn = pairs()
    prior = Linear.fit(text, text @ turn, ridge=0.0)
    close(prior.sample(text), text @ turn, 1e-5)


def test_a_fit_leaves_the_random_state_alone() -> None:
    text, image, _ = pairs(20)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = MLP.fit(text, image, steps=2)
    assert torch.equal(torch.rand(3), expected)
    assert agree(MLP.fit(text, image, steps=2).sample(text), first.sample(text))


def test_weights_that_are_not_there() -> None:
    with pytest.raises(ValueError, match="Identity has no weights"):
        Identity("laion")
    with pytest.raises(FileNotFoundError, match="Linear has no published weights"):
        Linear("laion")


# ---- what every class promises


@pytest.mark.parametrize("name", tiny())
def test_contract(name: str) -> None:
    prior = tiny()[name]()
    assert type(prior).__name__ == name
    assert isinstance(prior, Prior)
    assert prior.state_dict() == {}
    text = torch.randn(3, prior.dim)
    found = prior.sample(text, num_inference_steps=3)
    assert found.shape == text.shape
    assert found.dtype == torch.float32
    close(found.norm(dim=-1), torch.ones(3), 1e-5)
    with pytest.raises(ValueError, match=r"but the prior expects \(B, 24\)"):
        prior.sample(torch.ones(2, 5))


def test_every_class_is_in_the_registry() -> None:
    assert set(tiny()) == set(registry.towers(diffusion_prior))


@pytest.mark.parametrize("card", [name for name in CARDS if name != "conditioned-prior"])
def test_parameters_of_the_cards(card: str) -> None:
    with torch.device("meta"):
        network = build(card)
    assert sum(p.numel() for p in network.parameters()) == CARDS[card].parameters
