"""Every registered tower keeps the promises of its base class, shown on the small instance of its file's tiny().

Nothing is listed here: a new file is tested by existing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.rounding import EPS, agree
from xmodal.foundation import base
from xmodal.foundation.base import (
    AudioEncoder,
    AudioGenerator,
    Classifier,
    EmbeddingPainter,
    Encoder,
    ImageEncoder,
    ImageGenerator,
    MelAutoencoder,
    Prior,
    Synchronizer,
    TextEncoder,
    Vocoder,
)
from xmodal.frozen import Frozen
from xmodal.registry import models as registry
from xmodal.registry.cards import readable
from xmodal.registry.pull import targets

SENTENCES = ["rain", "a dog barks at the gate", "two bells", "rain on a tin roof at night"]
SECONDS = 1.1  # the shortest sound that every encoder hears
TOLERANCE = 2e-5


def towers(*contracts: type) -> list[Any]:
    """Parameters (model, class) of all towers of these contracts; a file that cannot be read becomes a test that says so."""
    names = {contract.__name__ for contract in contracts}
    found = []
    for model in registry.available():
        try:
            kinds = registry.listing(model).towers
        except Exception as error:
            found.append(pytest.param(model, f"unreadable: {error}", id=model))
            continue
        found += [pytest.param(model, kind, id=f"{model}.{kind}") for kind, tower in kinds.items() if tower.contract in names]
    return found


ENCODERS = (AudioEncoder, ImageEncoder, TextEncoder, Encoder)
GENERATORS = (ImageGenerator, AudioGenerator, Prior, Vocoder)
ALL = (*ENCODERS, *GENERATORS, MelAutoencoder)


def fresh(model: str, kind: str) -> Any:
    """A new instance of a tower, with the same weights each time."""
    module = registry.resolve(model)
    assert hasattr(module, "tiny"), f"{module.__file__} has no tiny()"
    factories: dict[str, Callable[[], Frozen]] = module.tiny()
    assert kind in factories, f"tiny() of {module.__file__} offers {', '.join(factories)}, but no {kind}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        tower = factories[kind]()
    assert type(tower).__name__ == kind
    return tower


shared = cache(fresh)


def inputs(tower: Any, count: int = 3) -> Any:
    """Inputs, no two of which are alike."""
    generator = torch.Generator().manual_seed(3)
    if isinstance(tower, AudioEncoder):
        return torch.randn(count, round(SECONDS * tower.sample_rate), generator=generator) * 0.1
    if isinstance(tower, ImageEncoder):
        return torch.rand(count, 3, 40, 56, generator=generator)
    return SENTENCES[:count]


def close(actual: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


def numbers(tower: Any) -> Tensor:
    """Something differentiable that the tower computes, from inputs that ask for gradients where it has such inputs."""
    if isinstance(tower, Encoder):
        given = inputs(tower, 2)
        if isinstance(given, Tensor):
            given.requires_grad_()
        made = tower.embed(given)
        # Not the sum of squares: it is 1 for a normalized embedding, and its gradient nothing but rounding.
        tilted = (made * torch.linspace(-1, 1, made.shape[-1])).sum()
        return made if not isinstance(given, Tensor) else torch.autograd.grad(tilted, given)[0]
    if isinstance(tower, ImageGenerator):
        token = torch.randn(1, tower.token_dim, generator=torch.Generator().manual_seed(1), requires_grad=True)
        mean, _ = tower.encode(torch.rand(1, 3, tower.image_size, tower.image_size, generator=torch.Generator().manual_seed(2)))
        loss = tower.loss(mean, tower.prompt_embeds(["a {}"], token), torch.Generator().manual_seed(4))
        return torch.autograd.grad(loss, token)[0]
    if isinstance(tower, (Vocoder, MelAutoencoder)):
        mel = torch.randn(1, tower.mel.n_mels, 16, generator=torch.Generator().manual_seed(1), requires_grad=True)
        made = tower(mel) if isinstance(tower, Vocoder) else tower.decode(tower.encode(mel))
        return torch.autograd.grad(made.square().sum(), mel)[0]
    return generate(tower)


def generate(tower: Any, seed: int = 5) -> Tensor:
    """One short run of a generator, a prior, a vocoder or an autoencoder."""
    random = torch.Generator().manual_seed(seed)
    options: dict[str, Any] = {"generator": random, "num_inference_steps": 2}
    if isinstance(tower, Prior):
        return tower.sample(torch.randn(2, tower.dim, generator=random), **options)  # as projected, not normalized
    if isinstance(tower, AudioGenerator):
        return tower.generate(torch.nn.functional.normalize(torch.randn(2, tower.cond_dim, generator=random), dim=-1), **options)
    if isinstance(tower, ImageGenerator):
        return tower.generate(tower.prompt_embeds(["a b", "c"]), **options)
    mel = torch.randn(2, tower.mel.n_mels, 16, generator=random)
    return tower(mel) if isinstance(tower, Vocoder) else tower.decode(tower.encode(mel))


# ---- what comes in


@pytest.mark.parametrize(("model", "kind"), towers(AudioEncoder, ImageEncoder))
def test_odd_numbers_are_refused(model: str, kind: str) -> None:
    tower = shared(model, kind)
    good = inputs(tower, 1)
    broken, scale = good.clone(), 32768 if isinstance(tower, AudioEncoder) else 255
    broken[0, -1] = float("nan")
    cases = {"takes float": (good * scale).to(torch.int32), "NaN": broken, "scale them first": good.abs().clamp(min=0.1) * scale}
    for message, value in cases.items():
        for name in ("embed", "tokens") if isinstance(tower, AudioEncoder) else ("embed",):
            with pytest.raises(ValueError, match=message):
                getattr(tower, name)(value)


# ---- what callers read


def lacks(tower: Any) -> list[str]:
    """What the tower's contracts declare and the tower does not have: attributes, methods, and options of methods."""
    wrong = []
    for contract in (each for each in type(tower).__mro__ if each.__module__ == base.__name__):
        wrong += [name for name in vars(contract).get("__annotations__", {}) if not hasattr(tower, name)]
        for name, declared in vars(contract).items():
            if not callable(declared) or name.startswith("_"):
                continue
            own = signature(getattr(type(tower), name, None) or (lambda self: None)).parameters
            free = any(each.kind is Parameter.VAR_KEYWORD for each in own.values())
            options = [each.name for each in signature(declared).parameters.values() if each.kind is Parameter.KEYWORD_ONLY]
            wrong += [f"{name}({option})" for option in options if option not in own and not free]
            if getattr(declared, "__isabstractmethod__", False) and getattr(type(tower), name) is declared:
                wrong.append(name)
    return wrong


@pytest.mark.parametrize(("model", "kind"), towers(*ALL))
def test_a_tower_has_all_that_its_contracts_declare(model: str, kind: str) -> None:
    assert lacks(shared(model, kind)) == []


def test_a_part_that_lacks_something_is_found_out() -> None:
    class Deaf(AudioEncoder, Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.dim, self.width = 2, 2

        def tokens(self, waveform: Tensor) -> Tensor:
            return waveform

    class Painter(ImageGenerator):
        token_dim, image_size = 2, 8

        def generate(self, prompt_embeds: Tensor, guidance_scale: float = 1.0) -> Tensor:
            return prompt_embeds

    assert {"sample_rate", "labels", "embed", "class_logits"} <= set(lacks(Deaf()))
    found = set(lacks(Painter()))
    assert {"scaling_factor", "default_scheduler", "encode", "loss", "generate(latents)", "generate(callback)"} <= found
    assert "generate(guidance_scale)" not in found


# ---- encoders


@pytest.mark.parametrize(("model", "kind"), towers(*ENCODERS))
def test_embeddings_are_what_the_card_says(model: str, kind: str) -> None:
    tower = shared(model, kind)
    made = tower.embed(inputs(tower))
    assert made.dtype == torch.float32
    assert made.shape == (3, tower.dim)
    assert made.isfinite().all()
    # A tiny tower may move by no more than 1e-5 (pe_av's); the rounding of its last sum is a few eps.
    assert (made[0] - made[1]).abs().max() > 16 * EPS * made.abs().max(), "different inputs have the same embedding"
    card = next(iter(registry.listing(model).cards.values()))
    unit = (made.norm(dim=-1) - 1).abs().max().item() < 1e-4
    assert unit == bool(card.normalized), f"the first card says normalized {card.normalized}, norms are {made.norm(dim=-1)}"


@pytest.mark.parametrize(("model", "kind"), towers(AudioEncoder))
def test_tokens(model: str, kind: str) -> None:
    tower = shared(model, kind)
    waveform = inputs(tower)
    made = tower.tokens(waveform)
    assert made.ndim == 3
    assert (made.shape[0], made.shape[2]) == (3, tower.width)
    assert made.isfinite().all()
    close(tower.tokens(waveform[1:2])[0], made[1])
    rates = {card.sample_rate for card in registry.listing(model).cards.values()} - {None}
    assert rates, f"no card of {model} states a sample_rate"


@pytest.mark.parametrize(("model", "kind"), towers(*ENCODERS))
def test_an_embedding_depends_on_its_own_input_alone(model: str, kind: str) -> None:
    tower = shared(model, kind)
    batch = inputs(tower, 4)
    together = tower.embed(batch)
    assert agree(tower.embed(batch), together)
    for index in range(4):
        close(tower.embed(batch[index : index + 1])[0], together[index])
    close(
        tower.embed([batch[i] for i in (3, 1, 0, 2)] if isinstance(batch, list) else batch[[3, 1, 0, 2]]), together[[3, 1, 0, 2]]
    )


@pytest.mark.parametrize(("model", "kind"), towers(AudioEncoder, ImageEncoder))
def test_classes_beside_the_embedding(model: str, kind: str) -> None:
    tower = shared(model, kind)
    if not isinstance(tower, Classifier):
        return  # says nothing of classes
    given = inputs(tower)
    if tower.labels == [] and getattr(tower.model, "predictor", ...) is None:  # BEATs without a head, which says so
        with pytest.raises(ValueError, match="no classifier"):
            tower.class_logits(given)
        return
    logits = tower.class_logits(given)
    assert logits.shape == (3, len(tower.labels) or logits.shape[1])
    assert logits.isfinite().all()
    for both, one in zip(tower.embed_and_classify(given), (tower.embed(given), logits), strict=True):
        close(both, one)


@pytest.mark.parametrize(("model", "kind"), towers(ImageEncoder))
def test_pictures_of_any_size(model: str, kind: str) -> None:
    tower = shared(model, kind)
    for height, width in ((tower.image_size, tower.image_size), (33, 90), (2 * tower.image_size + 1, 50)):
        assert tower.embed(torch.rand(1, 3, height, width)).shape == (1, tower.dim)


# ---- generators, priors, vocoders


@pytest.mark.parametrize(("model", "kind"), towers(*GENERATORS))
def test_what_is_generated(model: str, kind: str) -> None:
    tower = shared(model, kind)
    made = generate(tower)
    assert made.dtype == torch.float32
    assert made.isfinite().all()
    if isinstance(tower, ImageGenerator):
        assert made.shape == (2, 3, tower.image_size, tower.image_size)
        assert 0 <= made.min() <= made.max() <= 1
    elif isinstance(tower, Prior):
        assert made.shape == (2, tower.dim)
        close(made.norm(dim=-1), torch.ones(2), 1e-4)
    else:
        assert made.ndim == 2
        assert len(made) == 2
    assert agree(generate(tower), made), "the same seed gives something else"
    assert not agree(generate(tower, seed=6), made)


@pytest.mark.parametrize(("model", "kind"), towers(MelAutoencoder))
def test_latents_and_back(model: str, kind: str) -> None:
    tower = shared(model, kind)
    mel = torch.randn(3, tower.mel.n_mels, 4 * tower.factor, generator=torch.Generator().manual_seed(3))
    latents = tower.encode(mel)
    assert latents.shape == (3, tower.size, 4)
    assert tower.size == tower.latent_channels * tower.mel.n_mels // tower.factor
    close(tower.encode(mel[1:2])[0], latents[1])
    assert tower.decode(latents).shape == mel.shape
    assert latents.dtype == tower.decode(latents).dtype == torch.float32


# ---- all


@pytest.mark.parametrize(("model", "kind"), towers(*ALL))
def test_frozen(model: str, kind: str) -> None:
    tower = shared(model, kind)
    parent = nn.ModuleDict({"part": tower, "own": nn.Linear(2, 2)})
    parent.train()
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert set(parent.state_dict()) == {"own.weight", "own.bias"}
    parent.load_state_dict(parent.state_dict())


@pytest.mark.parametrize(("model", "kind"), towers(*ENCODERS, ImageGenerator, Vocoder, MelAutoencoder))
def test_gradients_pass_through(model: str, kind: str) -> None:
    tower = shared(model, kind)
    gradient = numbers(tower)
    if isinstance(tower, TextEncoder):
        assert not gradient.requires_grad  # nothing before it can be trained
        return
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


DTYPES = [torch.bfloat16, torch.float16, torch.float64]


def run(tower: Any, count: int = 2) -> Tensor:
    return tower.embed(inputs(tower, count)) if isinstance(tower, Encoder) else generate(tower)


@pytest.mark.parametrize(("model", "kind"), towers(*ALL))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_cast_and_back(model: str, kind: str, dtype: torch.dtype) -> None:
    tower = fresh(model, kind)
    before = run(tower)
    assert all(value.dtype == dtype for value in tower.to(dtype).parameters())
    again = run(tower.to(torch.float32))
    assert again.dtype == torch.float32
    assert again.isfinite().all()
    if dtype == torch.float64:
        close(again, before)


@pytest.mark.parametrize(("model", "kind"), towers(*ALL))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_computing_in_another_precision(model: str, kind: str, dtype: torch.dtype) -> None:
    """What comes in and goes out stays float32; front ends may compute in it whatever the weights are."""
    tower = fresh(model, kind)
    before, there = run(tower, 1), run(tower.to(dtype), 1)  # a CPU is slow in half precision
    assert there.shape == before.shape
    assert there.dtype == torch.float32
    assert there.isfinite().all()
    if isinstance(tower, Encoder):
        assert torch.cosine_similarity(there, before).min() > 0.9
    if isinstance(tower, AudioEncoder):
        assert tower.tokens(inputs(tower, 2)).isfinite().all()


def sizes() -> list[Any]:
    """Parameters (model, card) of all cards that state a size; a card that a file takes over from another counts once."""
    found, seen = [], []
    for model in registry.available():
        for tag, card in registry.listing(model).cards.items():
            if card.parameters and card not in seen:
                found.append(pytest.param(model, tag, id=f"{model}:{tag}"))
                seen.append(card)
    return found


@pytest.mark.parametrize(("model", "tag"), sizes())
def test_parameters_of_the_full_size(model: str, tag: str) -> None:
    card = registry.card(model, tag)
    if card.shipped:
        assert stored_numbers(card.folder()) >= card.parameters  # buffers are stored, too
        return
    module = registry.resolve(model)
    assert hasattr(module, "build"), f"{module.__file__} has no build()"
    with torch.device("meta"):
        built = module.build(tag)
    assert built is not None, f"the card states {card.parameters} parameters, but build() knows no sizes"
    assert sum(parameter.numel() for parameter in built.parameters()) == card.parameters


def stored_numbers(folder: Any) -> int:
    """How many numbers lie in a folder's safetensors files, from their headers."""
    total = 0
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        total += sum(torch.Size(entry["shape"]).numel() for name, entry in header.items() if name != "__metadata__")
    return total


@pytest.mark.slow
@pytest.mark.parametrize(("model", "kind"), towers(*ALL))
def test_compiles(model: str, kind: str) -> None:
    """Encoders as a whole; of the others, whose loops call schedulers, each network."""
    tower = fresh(model, kind)
    torch._dynamo.reset()
    before = run(tower)
    if isinstance(tower, Encoder):
        close(torch.compile(tower.embed, backend="eager")(inputs(tower, 2)), before)
        return
    with torch._dynamo.config.patch(error_on_recompile=False):
        for network in tower.children():
            network.compile(backend="eager")
        close(run(tower), before)


# ---- weights that are not here


def cards() -> list[Any]:
    """Parameters (model, card) of all cards with files."""
    found = [(model, tag, card) for model in registry.available() for tag, card in registry.listing(model).cards.items()]
    return [pytest.param(model, tag, id=f"{model}:{tag}") for model, tag, card in found if card.files]


@pytest.mark.parametrize(("model", "tag"), cards())
def test_missing_weights_end_in_one_sentence(model: str, tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names files, size, source and what to do; and what it names as a command is one."""

    def refused(*arguments: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("xmodal.registry.cards.WEIGHTS", tmp_path)
    monkeypatch.setenv("XMODAL_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", refused)
    card, said = registry.card(model, tag), []
    for tower in registry.listing(model).towers.keys() - {"GriffinLim"}:  # which has no weights, only their kind of mel
        with pytest.raises((FileNotFoundError, ValueError)) as caught:
            registry.load(model, tower=tower, card=tag)
        if "not on this machine" in str(caught.value):  # else it is a card of another class of the file
            said.append(str(caught.value))
    assert said
    for text in said:
        assert "\n" not in text
        assert next(iter(card.files)) in text
        assert card.origin in text
        assert ("size" in text) or readable(card.size) in text
        command = re.search("`xmodal pull ([^`]+)`", text)
        if command:
            assert targets(command[1]) == [card]
        else:
            assert any(mend in text for mend in ("install it again", "xmodal fit --config", "by hand"))


def test_every_contract_is_looped_over() -> None:
    abstract = {
        name for name in base.__all__ if isinstance(getattr(base, name), type) and issubclass(getattr(base, name), Frozen)
    }
    # A painter from embeddings is looped over as the generator of pictures that it is; nothing here is a Synchronizer, but
    # tests/evaluation/test_av_benchmark.py holds its contract.
    assert abstract == {kind.__name__ for kind in (*ALL, Classifier, EmbeddingPainter, Synchronizer)}
