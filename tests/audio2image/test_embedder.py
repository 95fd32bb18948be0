"""AudioToken's embedder against tensors of its public code (tests/golden)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from tests.rounding import agree
from xmodal.audio2image.embedder import AudioTokenEmbedder, MeanPoolEmbedder

GOLDEN = Path(__file__).parent.parent / "golden"
SILENT = "fga.un_models.0.feature_reduce.bias"  # softmax ignores it: its gradient is rounding noise


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Equal to ``tolerance``, of numbers above 1 to as much of the number: float32 rounds them by more."""
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@pytest.fixture
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "audiotoken_embedder_small.safetensors")


def small(golden: dict[str, Tensor], **options: bool) -> AudioTokenEmbedder:
    embedder = AudioTokenEmbedder(24, 16, **options)
    embedder.load_state_dict({k.removeprefix("state."): v for k, v in golden.items() if k.startswith("state.")})
    return embedder.eval()


def test_output_and_gradients(golden: dict[str, Tensor]) -> None:
    embedder, features = small(golden), golden["input"].requires_grad_()
    output = embedder(features)
    close(output, golden["output"], 1e-6)
    (output * golden["cotangent"]).sum().backward()
    close(features.grad, golden["grad.input"], 5e-6)
    for name, parameter in embedder.named_parameters():
        close(parameter.grad, golden[f"grad.{name}"], 1e-6 if name == SILENT else 5e-6)


def test_stages(golden: dict[str, Tensor]) -> None:
    embedder = small(golden)
    values = embedder.project(golden["input"])
    close(values, golden["probe.hidden"], 1e-6)
    close(embedder.fga.un_models[0](values.mT), golden["probe.unary"], 1e-6)
    close(embedder.fga.pp_models[0](values.mT), golden["probe.pairwise"], 1e-6)
    close(embedder.fga.attention(values), golden["probe.attention"], 1e-6)


def test_dropout_as_in_the_public_code(golden: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    mask = golden["dropout_keep_mask"]

    def fixed(values: Tensor, probability: float, active: bool) -> Tensor:
        return values * mask / (1 - probability) if active else values

    monkeypatch.setattr(F, "dropout", fixed)
    close(small(golden, dropout_at_inference=True)(golden["input"]), golden["output_with_dropout"], 1e-6)
    close(small(golden).train()(golden["input"]), golden["output_with_dropout"], 1e-6)
    close(small(golden)(golden["input"]), golden["output"], 1e-6)


def uniform(count: int, number: int) -> Tensor:
    """The fixture's integer rule: ``count`` values in [-0.5, 0.5) for tensor ``number``, float64."""
    mask = 2**32 - 1
    x = (torch.arange(count, dtype=torch.int64) * 2654435761 + number * 40503) & mask
    x = ((x ^ (x >> 16)) * 2246822519) & mask  # the product wraps in int64; its low 32 bits do not care
    x = ((x ^ (x >> 13)) * 3266489917) & mask
    return (x ^ (x >> 16)).double() / 2**32 - 0.5


def by_rule(embedder: AudioTokenEmbedder) -> dict[str, Tensor]:
    state = {}
    for position, (name, value) in enumerate(sorted(embedder.state_dict().items())):
        u = uniform(value.numel(), 1 + position).reshape(value.shape)
        if name.endswith("bias"):
            state[name] = 0.2 * u
        elif name == "fga.reduce_potentials.0.weight":
            state[name] = torch.tensor([1.3, 4.0], dtype=torch.float64).reshape(1, 2, 1) + 0.4 * u
        elif name == "fga.un_models.0.feature_reduce.weight":
            state[name] = u * 4 / 768**0.5
        else:
            state[name] = u * 2 * 3**0.5 / value.shape[1] ** 0.5
    return state


def test_real_shapes() -> None:
    golden = load_file(GOLDEN / "audiotoken_embedder_real_formula.safetensors")
    embedder = AudioTokenEmbedder(2304, 768).eval()
    embedder.load_state_dict(by_rule(embedder))
    features = (uniform(2 * 248 * 2304, 101) * 2 * 3**0.5).reshape(2, 248, 2304)
    close(embedder.fc1.weight[0, :8], golden["check.fc1_weight_head"], 0)
    close(features.float().flatten()[:8], golden["check.input_head"].flatten()[:8], 0)
    values = embedder.project(features.float())
    close(embedder.fga.attention(values), golden["attention"], 2e-5)
    close(embedder(features.float()), golden["output"], 2e-5)
    embedder.double().load_state_dict({k: v.float().double() for k, v in by_rule(embedder).items()})
    close(embedder(features.float().double()), golden["output_f64"], 1e-9)


def test_keys_shapes_and_parameter_counts() -> None:
    shapes = {name: tuple(value.shape) for name, value in AudioTokenEmbedder(2304, 768).state_dict().items()}
    assert shapes == {
        "fc1.weight": (2304, 2304), "fc1.bias": (2304,), "fc2.weight": (768, 2304), "fc2.bias": (768,),
        "fga.un_models.0.embed.weight": (768, 768, 1), "fga.un_models.0.embed.bias": (768,),
        "fga.un_models.0.feature_reduce.weight": (1, 768, 1), "fga.un_models.0.feature_reduce.bias": (1,),
        "fga.pp_models.0.embed_X.weight": (768, 768, 1), "fga.pp_models.0.embed_X.bias": (768,),
        "fga.pp_models.0.embed_Y.weight": (768, 768, 1), "fga.pp_models.0.embed_Y.bias": (768,),
        "fga.reduce_potentials.0.weight": (1, 2, 1),
    }  # fmt: skip
    for width, count in ((768, 8_853_507), (1024, 10_820_867)):
        with torch.device("meta"):
            assert sum(value.numel() for value in AudioTokenEmbedder(2304, width).parameters()) == count


def test_dropout_follows_the_mode() -> None:
    features, kept = torch.randn(2, 9, 8), AudioTokenEmbedder(8, 16, dropout_at_inference=True).eval()
    embedder = AudioTokenEmbedder(8, 16).train()
    assert not agree(embedder(features), embedder(features))
    assert agree(embedder.eval()(features), embedder(features))
    assert not agree(kept(features), kept(features))


def test_mean_pooling_is_the_same_network_without_attention() -> None:
    mean, attentive = MeanPoolEmbedder(8, 4, hidden_dim=6), AudioTokenEmbedder(8, 4, hidden_dim=6).eval()
    attentive.load_state_dict(mean.state_dict(), strict=False)
    torch.nn.init.zeros_(attentive.fga.reduce_potentials[0].weight)
    features = torch.randn(3, 5, 8)
    assert mean.fc1.out_features == 6
    close(mean(features), attentive(features), 1e-6)


@pytest.mark.parametrize("kind", [MeanPoolEmbedder, AudioTokenEmbedder])
def test_several_words_are_several_embedders_over_one_hidden_layer(kind: type[MeanPoolEmbedder]) -> None:
    several = kind(8, 4, num_tokens=3).eval()
    features = torch.randn(2, 5, 8)
    words = several(features)
    assert words.shape == (2, 3, 4)
    for word in range(3):
        one = kind(8, 4).eval()
        own = f"further_fga.{word - 1}." if word else "fga."
        state = {name.replace(own, "fga."): value for name, value in several.state_dict().items() if name.startswith((own, "fc"))}
        mine = slice(4 * word, 4 * word + 4)
        one.load_state_dict({**state, "fc2.weight": state["fc2.weight"][mine], "fc2.bias": state["fc2.bias"][mine]})
        close(words[:, word], one(features), 1e-6)
    with pytest.raises(ValueError, match="num_tokens 0"):
        kind(8, 4, num_tokens=0)


@pytest.mark.parametrize("kind", [MeanPoolEmbedder, AudioTokenEmbedder])
def test_pseudo_words_may_be_as_long_as_words(kind: type[MeanPoolEmbedder]) -> None:
    features = torch.randn(2, 5, 8)
    for count in (1, 3):
        free = kind(8, 4, num_tokens=count).eval()
        scaled = kind(8, 4, num_tokens=count, token_norm=0.8).eval()
        scaled.load_state_dict(free.state_dict())
        words = scaled(features)
        close(words.norm(dim=-1), torch.full(words.shape[:-1], 0.8), 1e-6)
        close(torch.nn.functional.cosine_similarity(words, free(features), dim=-1), torch.ones(words.shape[:-1]), 1e-6)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="token_norm"):
            kind(8, 4, token_norm=wrong)


@pytest.mark.parametrize("shape", [(2, 5, 7), (5, 8), (2, 0, 8)])
def test_wrong_features(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expects \(B, L, 8\)"):
        AudioTokenEmbedder(8, 4)(torch.zeros(shape))
    with pytest.raises(ValueError, match="dropout 1.5"):
        AudioTokenEmbedder(8, 4, dropout=1.5)
