"""BEATs against tensors of the official implementation (tests/golden), its files, and its promises to the rest of xmodal."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tests.rounding import agree, agree_log_mel
from xmodal.foundation.base import AudioEncoder
from xmodal.foundation.beats import CARDS, FBANK_STD, BEATs, BEATsConfig, BEATsModel, position_buckets, save
from xmodal.foundation.kaldi import _filters
from xmodal.foundation.kaldi import fbank as kaldi_fbank

GOLDEN = Path(__file__).parent.parent / "golden"
POSITION = "self_attn.relative_attention_bias.weight"
FULL = BEATsConfig(deep_norm=True, relative_position_embedding=True, gru_rel_pos=True, max_distance=800)
SMALL = replace(FULL, embed_dim=16, encoder_layers=3, encoder_embed_dim=24, encoder_ffn_embed_dim=48,
                encoder_attention_heads=4, conv_pos=16, conv_pos_groups=4, num_buckets=32,
                max_distance=80, finetuned_model=True, predictor_class=5)  # fmt: skip
AUDIOTOKEN = replace(SMALL, encoder_layers=12, finetuned_model=False)


def golden_cfg() -> dict[str, Any]:
    with safe_open(GOLDEN / "beats_tiny.safetensors", "pt") as file:
        return json.loads(file.metadata()["cfg"])


def strip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def checkpoint(path: Path, cfg: dict[str, Any], weights: dict[str, Tensor], labels: dict[int, str] | None = None) -> str:
    """Write the form of the official files: the shared position table listed under every layer."""
    table = weights[f"encoder.layers.0.{POSITION}"]
    listed = weights | {f"encoder.layers.{i}.{POSITION}": table for i in range(cfg["encoder_layers"])}
    torch.save({"cfg": cfg, "model": listed} | ({"label_dict": labels} if labels else {}), path)
    return str(path)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "beats_tiny.safetensors")


@pytest.fixture(scope="module")
def encoder(golden: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> BEATs:
    path = tmp_path_factory.mktemp("beats") / "ssl.pt"
    return BEATs(checkpoint(path, golden_cfg(), strip(golden, "weights.")), layers=[2, 4])


@pytest.fixture(scope="module")
def tagger(golden: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> BEATs:
    labels = {10 - i: f"/m/{10 - i:02d}" for i in range(11)}
    path = tmp_path_factory.mktemp("beats") / "finetuned.pt"
    return BEATs(checkpoint(path, golden_cfg() | {"finetuned_model": True}, strip(golden, "finetuned.weights."), labels))


@pytest.fixture
def small(tmp_path: Path) -> tuple[BEATsModel, BEATs]:
    torch.manual_seed(0)
    model = BEATsModel(SMALL).eval()
    save(model, ["bell", "drum", "bird", "rain", "bee"], tmp_path / "mini")
    return model, BEATs(str(tmp_path / "mini"))


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


# ---- fidelity to the official implementation


def same_fbank(actual: Tensor, expected: Tensor) -> bool:
    return agree_log_mel(actual, expected, 5e-6, dim=-1, power=2, unit=2 * FBANK_STD)


@pytest.mark.parametrize("case", ["10s", "5s", "odd"])
def test_fbank(case: str, encoder: BEATs) -> None:
    tensors = load_file(GOLDEN / "beats_fbank.safetensors")
    assert same_fbank(encoder.model.fbank(tensors[f"wav_{case}"]), tensors[f"fbank_{case}"])


def test_fbank_is_torchaudios_on_any_processor() -> None:
    """Window and triangles bit for bit; so on one processor the numbers are torchaudio's, whatever its transform."""
    from torchaudio.compliance.kaldi import fbank, get_mel_banks

    curve, triangles = _filters("povey")
    window = torch.hann_window(400, periodic=False).pow(0.85)
    assert torch.equal(torch.from_numpy(curve), window)
    assert torch.equal(torch.from_numpy(triangles[:256].T), get_mel_banks(128, 512, 16_000.0, 20.0, 0.0, 100.0, -500.0, 1.0)[0])
    assert not triangles[256].any()
    wave = load_file(GOLDEN / "audiotoken_beats_tiny.safetensors")["waveform"] * 2**15
    for row, found in zip(wave, kaldi_fbank(wave)):
        expected = fbank(row[None], num_mel_bins=128, sample_frequency=16_000, frame_length=25, frame_shift=10)
        assert agree_log_mel(found, expected, 1e-5, dim=-1, power=2)


def test_fbank_of_silence(encoder: BEATs) -> None:
    close(encoder.model.fbank(torch.zeros(1, 16000)), load_file(GOLDEN / "beats_fbank.safetensors")["fbank_silence"], 5e-6)


def test_fbank_stays_float32_under_autocast(golden: dict[str, Tensor], encoder: BEATs) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert same_fbank(encoder.model.fbank(golden["wav"]), golden["fbank"])


def test_every_hidden_state(golden: dict[str, Tensor], encoder: BEATs) -> None:
    model = encoder.model
    assert model.post_extract_proj is not None
    close(model.post_extract_proj(model.patches(golden["fbank"])), golden["patch_embedding"], 2e-5)
    hidden = model.encode(golden["fbank"])
    close(torch.stack(hidden), golden["hidden_states"], 2e-5)
    close(hidden[-1], golden["features"], 2e-5)


def test_from_the_waveform(golden: dict[str, Tensor], encoder: BEATs) -> None:
    model = encoder.model
    close(torch.stack(model.hidden_states(golden["wav"])), golden["hidden_states"], 2e-5)
    close(model.features(golden["long_wav"]), golden["long_features"], 2e-5)
    close(encoder.tokens(golden["wav"]), golden["concat_layers_2_4"], 2e-5)
    close(encoder.embed(golden["wav"]), golden["features"].mean(1), 2e-5)


def test_padding_mask(golden: dict[str, Tensor], encoder: BEATs) -> None:
    mask = golden["padding_mask"].bool()
    assert torch.equal(encoder.model.token_mask(mask), golden["padded_frame_mask"].bool())
    close(encoder.model.features(golden["padded_wav"], mask), golden["padded_features"], 2e-5)


def test_position_bias_and_buckets(golden: dict[str, Tensor], encoder: BEATs) -> None:
    assert torch.equal(torch.from_numpy(position_buckets(1501, 320, 800)), golden["bucket_of_distance"].long())
    bias = encoder.model.encoder.position_bias(300)
    assert bias is not None
    close(bias[:, ::7, ::5], golden["position_bias_300"], 1e-6)


def test_probabilities(golden: dict[str, Tensor], tagger: BEATs) -> None:
    close(tagger.tag(golden["wav"]), golden["finetuned.probs"], 2e-5)
    padded = tagger.model.logits(golden["padded_wav"], golden["padding_mask"].bool()).sigmoid()
    close(padded, golden["finetuned.padded_probs"], 2e-5)
    assert tagger.labels == [f"/m/{i:02d}" for i in range(11)]


def test_audiotoken_variant(tmp_path: Path) -> None:
    tensors = load_file(GOLDEN / "audiotoken_beats_tiny.safetensors")
    encoder = BEATs(checkpoint(tmp_path / "cpt2.pt", asdict(AUDIOTOKEN), strip(tensors, "state.")))
    assert encoder.layers == [4, 8, 12]
    assert encoder.width == 72
    close(encoder.model.patches(tensors["fbank"]), tensors["patch_embedding_normed"], 2e-5)
    hidden = encoder.model.encode(tensors["fbank"])
    close(torch.cat([hidden[layer] for layer in encoder.layers], -1), tensors["features"], 2e-5)
    close(hidden[-1], tensors["last"], 2e-5)
    assert same_fbank(encoder.model.fbank(tensors["waveform"]), tensors["fbank"])
    hidden = encoder.model.encode(encoder.model.fbank(tensors["waveform"]))
    assert agree(encoder.tokens(tensors["waveform"]), torch.cat([hidden[layer] for layer in encoder.layers], -1))
    # This clip has a fifth of its bins next to silent: with another processor's transform they move the features by 7e-4.
    close(encoder.tokens(tensors["waveform"]), tensors["features"], 1e-3)


def test_full_size_on_the_meta_device() -> None:
    with torch.device("meta"):
        model, tagger = BEATsModel(FULL), BEATsModel(replace(FULL, finetuned_model=True))
        hidden = model.hidden_states(torch.empty(1, 160_000))
    sizes = [sum(p.numel() for p in m.parameters()) for m in (model, tagger)]
    assert [state.shape for state in hidden] == [(1, 496, 768)] * 13
    assert round(sizes[0] / 1e6, 2) == 90.31
    assert round((sizes[1] - sizes[0]) / 1e6, 2) == 0.41
    assert len(model.state_dict()) == 250
    assert CARDS["iter3-plus-as2m"].parameters == sizes[0]
    assert CARDS["iter3-plus-as2m-cpt2"].parameters == sizes[1]


# ---- files


def test_unknown_and_missing_cfg_keys(golden: dict[str, Tensor], tmp_path: Path) -> None:
    cfg = golden_cfg() | {"finetuned_model": True, "a_new_option": 7}  # AudioToken drops the head but keeps the flag
    del cfg["predictor_dropout"], cfg["activation_fn"]
    encoder = BEATs(checkpoint(tmp_path / "a.pt", cfg, strip(golden, "weights.")), layers=[4])
    close(encoder.tokens(golden["wav"]), golden["features"], 2e-5)
    with pytest.raises(ValueError, match="no classifier"):
        encoder.tag(golden["wav"])


def test_shipped_form_round_trip(small: tuple[BEATsModel, BEATs], tmp_path: Path) -> None:
    model, encoder = small
    waveform = torch.randn(2, 16000) * 0.1
    assert sorted(path.name for path in (tmp_path / "mini").iterdir()) == ["config.json", "model.safetensors"]
    stored = load_file(tmp_path / "mini" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert [key for key in stored if key.endswith(POSITION)] == [f"encoder.layers.0.{POSITION}"]
    assert {value.dtype for value in encoder.model.parameters()} == {torch.float32}
    assert encoder.labels == ["bell", "drum", "bird", "rain", "bee"]
    assert encoder.layers == [1, 2, 3]
    close(encoder.model.features(waveform), model.features(waveform), 1e-2)
    exact = BEATsModel(SMALL).eval()
    exact.load_state_dict({key: value.half().float() for key, value in model.state_dict().items()})
    close(encoder.tag(waveform), exact.logits(waveform).sigmoid(), 1e-6)


def test_save_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    model = BEATsModel(SMALL)
    with pytest.raises(ValueError, match="2 labels.*5 classes"):
        save(model, ["bell", "drum"], tmp_path)
    model.predictor.bias.data[0] = 1e6
    with pytest.raises(ValueError, match="predictor.bias is not finite in float16"):
        save(model, [], tmp_path)
    assert not list(tmp_path.iterdir())


def test_wrong_files(golden: dict[str, Tensor], tmp_path: Path) -> None:
    def refused(name: str, *words: str, kind: type[Exception] = ValueError) -> None:
        with pytest.raises(kind) as caught:
            BEATs(str(tmp_path / name))
        assert all(word in str(caught.value) for word in (name, *words))
        assert "\n" not in str(caught.value)

    refused("absent.pt", "iter3-plus-as2m")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    refused("text.pt", "cannot be read", "again")
    (tmp_path / "empty.pt").touch()
    refused("empty.pt", "cannot be read")
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "other.pt")
    refused("other.pt", "not a BEATs checkpoint", "cfg and model", "epoch, state_dict")
    torch.save(torch.zeros(2), tmp_path / "tensor.pt")
    refused("tensor.pt", "Tensor")
    whole = Path(checkpoint(tmp_path / "whole.pt", golden_cfg(), strip(golden, "weights."))).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    refused("cut.pt", "cannot be read")
    checkpoint(tmp_path / "sizes.pt", golden_cfg() | {"embed_dim": 40}, strip(golden, "weights."))
    refused("sizes.pt", "disagree", "(32,)", "(40,)")
    weights = strip(golden, "weights.")
    del weights["layer_norm.bias"]
    checkpoint(tmp_path / "lacks.pt", golden_cfg(), weights)
    refused("lacks.pt", "layer_norm.bias", "lacks it")
    (tmp_path / "hollow").mkdir()
    refused("hollow", "config.json", "copy the whole folder", kind=FileNotFoundError)


def test_damaged_folder(small: tuple[BEATsModel, BEATs], tmp_path: Path) -> None:
    weights, config = tmp_path / "mini" / "model.safetensors", tmp_path / "mini" / "config.json"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match="model.safetensors is damaged"):
        BEATs(str(tmp_path / "mini"))
    config.write_text("{")
    with pytest.raises(ValueError, match="config.json is damaged"):
        BEATs(str(tmp_path / "mini"))


def test_official_cards_ask_for_a_path() -> None:
    with pytest.raises(FileNotFoundError, match="give the path as card"):
        BEATs("iter3-plus-as2m-cpt2")
    with pytest.raises(ValueError, match="iter3-plus-as2m-cpt1"):
        BEATs("iter4")


# ---- promises


@pytest.mark.parametrize("layers", [[0], [2, 5], []])
def test_layers_out_of_range(layers: list[int], golden: dict[str, Tensor], tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.pt", golden_cfg(), strip(golden, "weights."))
    with pytest.raises(ValueError, match=r"from 1 to 4"):
        BEATs(path, layers=layers)


def test_sizes_and_too_short(encoder: BEATs) -> None:
    assert isinstance(encoder, AudioEncoder)
    assert (encoder.dim, encoder.width, encoder.sample_rate, encoder.labels) == (48, 96, 16000, [])
    assert encoder.tokens(torch.zeros(1, 2800)).shape == (1, 8, 96)
    with pytest.raises(ValueError, match="2800.*2799"):
        encoder.tokens(torch.zeros(1, 2799))
    with pytest.raises(ValueError, match=r"\(16000,\)"):
        encoder.embed(torch.zeros(16000))


def test_same_input_same_embedding_whatever_the_batch(encoder: BEATs) -> None:
    batch = torch.randn(5, 20000, generator=torch.Generator().manual_seed(3)) * 0.1
    together = encoder.tokens(batch)
    for index in (0, 2, 4):
        close(encoder.tokens(batch[index : index + 1])[0], together[index], 5e-6)
    assert agree(encoder.train().tokens(batch), together)


def test_frozen_but_differentiable(encoder: BEATs) -> None:
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert encoder.state_dict() == {}
    assert not encoder.train().model.training
    with torch.inference_mode():  # nothing that inference mode makes may be kept for later
        encoder.embed(torch.zeros(1, 12345))
    waveform = (torch.randn(2, 12345) * 0.1).requires_grad_()
    encoder.tokens(waveform).square().mean().backward()
    assert waveform.grad is not None
    assert waveform.grad.isfinite().all()
    assert waveform.grad.abs().sum() > 0


def test_silence_has_finite_gradients(encoder: BEATs) -> None:
    waveform = torch.zeros(1, 8000, requires_grad=True)
    encoder.embed(waveform).sum().backward()
    assert waveform.grad is not None
    assert waveform.grad.isfinite().all()


def test_small_model_learns_and_every_parameter_has_a_gradient() -> None:
    torch.manual_seed(0)
    config = replace(SMALL, dropout=0.0, attention_dropout=0.0, predictor_dropout=0.0, layer_wise_gradient_decay_ratio=0.9)
    model = BEATsModel(config).train()
    time = torch.arange(8000) / 16000
    waveform = torch.stack([torch.sin(2 * torch.pi * hertz * time) * 0.3 for hertz in (200, 500, 1100, 2300, 4700)])
    optimizer, losses = torch.optim.AdamW(model.parameters(), 3e-3), []
    for _ in range(30):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model.logits(waveform), torch.arange(5))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert losses[0] > 1.2
    assert losses[-1] < 0.3


def test_dropout_and_layerdrop_act_in_training_only() -> None:
    torch.manual_seed(0)
    model, waveform = BEATsModel(replace(SMALL, encoder_layerdrop=0.5)), torch.randn(1, 8000) * 0.1
    assert not agree(model.train().features(waveform), model.features(waveform))
    assert agree(model.eval().features(waveform), model.features(waveform))


@pytest.mark.parametrize("change", [{"layer_norm_first": True, "deep_norm": False}, {"gru_rel_pos": False},
                                    {"relative_position_embedding": False, "activation_fn": "relu"}])  # fmt: skip
def test_other_switches_run_and_ignore_padding(change: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = BEATsModel(replace(SMALL, **change)).eval()
    mask = torch.zeros(2, 16000, dtype=torch.bool)
    mask[1, 8000:] = True
    first, second = (torch.randn(2, 16000) * 0.1).masked_fill(mask, 0), torch.zeros(2, 16000)
    second[:, :8000] = first[:, :8000]
    second[0] = first[0]
    second[1, 12000:] = 0.2  # not nearer: the original rounds masks, one time step may be masked in part
    close(model.logits(first, mask), model.logits(second, mask), 1e-5)


@pytest.mark.parametrize(("change", "words"), [({"encoder_attention_heads": 5}, "5.*24"), ({"conv_pos_groups": 7}, "7.*24"),
                                               ({"input_patch_size": -1}, "-1.*128"), ({"activation_fn": "swish"}, "swish"),
                                               ({"layer_norm_first": True}, "deep_norm")])  # fmt: skip
def test_impossible_configs(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **change)


def test_one_pass_gives_embedding_and_logits() -> None:
    torch.manual_seed(0)
    ears, waveform = BEATs.from_model(BEATsModel(SMALL), [str(n) for n in range(5)]), torch.randn(2, 8000) * 0.1
    embedding, logits = ears.embed_and_classify(waveform)
    assert agree(embedding, ears.embed(waveform))
    assert agree(logits, ears.class_logits(waveform))
