"""CLAP against tensors of LAION's own code (tests/golden), its files and folders, and its promises to the rest of xmodal.

The goldens' weights are random: no published ones were at hand.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchaudio.functional import resample
from torchaudio.transforms import AmplitudeToDB, MelSpectrogram
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, RobertaConfig, RobertaModel

from tests.rounding import agree
from xmodal.foundation import clap, laion_clap
from xmodal.foundation.base import AudioEncoder, TextEncoder
from xmodal.foundation.clap import CARDS, MINI, AudioTower, FrontEnd, TextTower, build, import_checkpoint, save, tiny, to_int16
from xmodal.miniature.tokenizer import build_tokenizer

GOLDEN = Path(__file__).parent.parent / "golden"
PUBLISHED = FrontEnd()
TINY = tiny()["AudioTower"]().front
TEXTS = ["a dog barks", "rain", "a small bell at the left, twice"]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def golden(kind: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"clap_htsat_{kind}.safetensors")


def write_pt(file: Path, state: dict[str, Tensor], **beside: Any) -> Path:
    torch.save(
        {"epoch": 45, "name": "made", "state_dict": {f"module.{key}": value for key, value in state.items()}, **beside}, file
    )
    return file


def laion_state(kind: str) -> dict[str, Tensor]:
    """The golden's audio half beside a random RoBERTa of 64 dimensions, as LAION lists them."""
    state = {key: value for key, value in golden(kind).items() if key.startswith(("audio_branch.", "audio_projection."))}
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 96}
    text = RobertaModel(
        RobertaConfig(vocab_size=300, max_position_embeddings=40, layer_norm_eps=1e-5, type_vocab_size=1, **sizes)
    )
    state |= {f"text_branch.{key}": value for key, value in text.state_dict().items()}
    state["text_branch.embeddings.position_ids"] = torch.arange(40)[None]
    for index, width in (("0", 64), ("2", 24)):
        state |= {f"text_projection.{index}.weight": torch.randn(24, width), f"text_projection.{index}.bias": torch.randn(24)}
    for part in ("audio", "text"):
        for index in ("0", "3"):
            state |= {
                f"{part}_transform.sequential.{index}.weight": torch.randn(24, 24),
                f"{part}_transform.sequential.{index}.bias": torch.randn(24),
            }
    state["audio_branch.spectrogram_extractor.stft.conv_real.weight"] = torch.randn(5, 1, 4)
    state["audio_branch.logmel_extractor.melW"] = torch.randn(5, 4)
    state["audio_branch.layers.0.blocks.1.attn_mask"] = torch.zeros(64, 64, 64)
    return state | {"logit_scale_a": torch.tensor(2.6), "logit_scale_t": torch.tensor(2.7)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """LAION files of both kinds."""
    folder = tmp_path_factory.mktemp("laion")
    return {kind: write_pt(folder / f"{kind}.pt", laion_state(kind)) for kind in ("unfused", "fused")}


@pytest.fixture(scope="module")
def unfused(files: dict[str, Path]) -> AudioTower:
    return AudioTower(str(files["unfused"]), normalize=False, int16=True)


@pytest.fixture(scope="module")
def fused(files: dict[str, Path]) -> AudioTower:
    return AudioTower(str(files["fused"]), normalize=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a tiny CLAP with its own rate, as the miniature's recipe will write it."""
    tokenizer, path = build_tokenizer(), tmp_path_factory.mktemp("clap")
    sizes = clap.SIZES["tiny"]
    model = ClapModel(ClapConfig(audio_config=sizes[0], text_config=sizes[1] | {"vocab_size": len(tokenizer)}, projection_dim=12))
    return save(model, tokenizer, TINY, path, dtype=None)


def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


# ---- front end


def test_log_mel_is_laions(unfused: AudioTower) -> None:
    known = golden("unfused")
    waves = [known["raw_wav_4s"], known["raw_wav_13s_first10s"]]
    mel, longer, counts = unfused.front(waves, "centre", int16=True)
    assert (mel.shape, counts, longer.any().item()) == ((2, 1, 1001, 64), [1, 1], False)
    close(mel[:, 0], known["log_mel"], 1e-3)


@pytest.mark.parametrize("fused", [False, True])
def test_log_mel_is_that_of_transformers(fused: bool) -> None:
    front = FrontEnd(fused=fused)
    waves = [torch.randn(31_000) * 0.1, torch.randn(480_000) * 0.1]
    extractor = ClapFeatureExtractor(**front.settings())
    theirs = extractor([wave.numpy() for wave in waves], sampling_rate=48_000, return_tensors="pt")
    ours, longer, _ = front(waves, "centre")
    close(ours, theirs["input_features"].float(), 1e-3)
    assert not longer.any()  # transformers draws one and calls it long


def test_htk_log_mel_is_torchaudios() -> None:
    front = FrontEnd(fused=True)
    wave = torch.randn(1, 50_000, generator=torch.Generator().manual_seed(1)) * 0.1
    mel = MelSpectrogram(48_000, 1024, hop_length=480, f_min=50, f_max=14_000, n_mels=64, power=2.0, norm=None)
    close(front.log_mel(wave), AmplitudeToDB(top_db=None)(mel(wave)).transpose(1, 2), 2e-3)


def test_short_sounds_are_repeated_whole() -> None:
    sound = torch.randn(7000)
    clip = TINY.clips(sound, "centre")[0]
    assert torch.equal(clip, torch.cat([sound, sound, torch.zeros(2000)]))
    assert torch.equal(TINY.clips(sound.repeat(3)[:16_000], "centre")[0], sound.repeat(3)[:16_000])


def test_crops() -> None:
    sound = torch.arange(40_000.0)
    assert TINY.clips(sound, "start")[0, 0] == 0
    assert TINY.clips(sound, "centre")[0, 0] == 12_000
    windows = TINY.clips(sound, "windows")
    assert windows[:, 0].tolist() == [0, 12_000, 24_000]
    assert windows[-1, -1] == 39_999
    fused = FrontEnd(**{**vars(TINY), "fused": True})
    assert fused.clips(sound, "centre").shape == (1, 40_000)
    assert torch.equal(fused.clips(sound, "windows"), windows)


def test_int16() -> None:
    wave = torch.tensor([-1.5, -0.5, -1e-5, 0.0, 1e-5, 0.33333, 0.99999, 1.0, 2.0], requires_grad=True)
    theirs = (np.clip(wave.detach().numpy(), -1, 1) * 32767.0).astype(np.int16) / 32767.0
    made = to_int16(wave)
    assert np.array_equal(made.detach().numpy(), theirs.astype(np.float32))
    assert torch.equal(torch.autograd.grad(made.sum(), wave)[0], torch.ones(9))


def test_fused_parts_lie_where_the_original_may_draw_them() -> None:
    """The same thirds as in transformers, whose draws are made to return what they should."""
    front = FrontEnd(fused=True)
    extractor = ClapFeatureExtractor(**front.settings())
    mel = torch.randn(1, 1400, 64)
    for crop, place in (("start", 0), ("centre", 66)):
        ours, longer = front._fuse(mel, crop)
        thirds = np.array_split(np.arange(400), 3)
        starts = [third[min(place, (len(third) - 1) // 2)] for third in thirds]
        theirs = torch.stack([mel[0, start : start + 1001] for start in starts])
        assert longer
        assert torch.equal(ours[0, 1:], theirs)
    whole = extractor._random_mel_fusion(mel[0].numpy(), 1400, 1001)[0]
    close(ours[0, 0], torch.from_numpy(whole), 1e-5)
    barely, longer = front._fuse(torch.randn(1, 1001, 64), "centre")
    assert not longer
    assert torch.equal(barely[:, 0], barely[:, 3])
    assert front._fuse(torch.randn(1, 1002, 64), "centre")[0].shape == (1, 4, 1001, 64)


def test_settings_round_trip(tmp_path: Path) -> None:
    for front in (PUBLISHED, TINY, MINI, FrontEnd(fused=True)):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(front.settings()))
        assert FrontEnd.read(tmp_path / "preprocessor_config.json", front.fused) == front


def test_impossible_front_ends() -> None:
    for wrong in ({"high": 30_000.0}, {"low": 15_000.0}, {"hop": 2048}, {"samples": 100}, {"bands": 0}):
        with pytest.raises(ValueError, match="must hold"):
            FrontEnd(**wrong)


# ---- the networks


def test_unfused_htsat_is_laions(unfused: AudioTower) -> None:
    known = golden("unfused")
    waves = [known["raw_wav_4s"], known["raw_wav_13s_first10s"]]
    close(unfused.embed(waves), known["projected"], 1e-5)
    close(unfused.model(input_features=known["log_mel"][:, None]).audio_embeds, known["projected"], 1e-5)
    tokens = unfused.tokens(waves)
    assert (unfused.dim, unfused.width, unfused.sample_rate, tokens.shape) == (24, 128, 48_000, (2, 64, 128))
    close(tokens.mean(1), known["embedding"], 1e-5)
    # LAION lists each of the 32 time steps 32 times and averages the two bands; the golden holds every 64th of those
    close(tokens.unflatten(1, (32, 2)).mean(2)[:, ::2], known["fine_grained_embedding"], 2e-5)
    unit = AudioTower.from_model(unfused.model, int16=True)
    close(unit.embed(waves), known["projected_normalised"], 1e-5)


def test_fused_htsat_is_laions(fused: AudioTower) -> None:
    known = golden("fused")
    short = known["mel_fusion_short"].expand(4, -1, -1)
    pair, longer = torch.stack([short, known["mel_fusion_long"]]), torch.tensor([[False], [True]])
    close(fused.model(input_features=pair, is_longer=longer).audio_embeds, known["projected"], 1e-5)
    alone = fused.model.audio_model(input_features=short[None], is_longer=torch.tensor([[False]])).pooler_output
    close(alone, known["short_alone_embedding"], 1e-5)
    wrong = fused.model(input_features=pair, is_longer=torch.tensor([[True], [True]])).audio_embeds
    assert (wrong - known["projected"])[0].abs().max() > 0.1


def test_a_long_sound_is_fused(fused: AudioTower) -> None:
    long, short = torch.randn(600_000) * 0.1, torch.randn(100_000) * 0.1
    together = fused.embed([short, long])
    close(fused.embed([long]), together[1:], 1e-5)
    close(fused.embed(short[None]), together[:1], 1e-5)
    start = AudioTower.from_model(fused.model, crop="start", normalize=False)
    assert (start.embed([long]) - together[1:]).abs().max() > 1e-4


@pytest.mark.skipif(find_spec("laion_clap") is None, reason="laion-clap is not installed")
@pytest.mark.parametrize("kind", ["unfused", "fused"])
def test_laions_own_network_agrees(kind: str, tmp_path: Path) -> None:
    """The package computes spectrogram and network by itself."""
    state = {key: value for key, value in golden(kind).items() if key.startswith("audio_")}
    file, before = write_pt(tmp_path / "audio.pt", state), (list(sys.path), {name for name in sys.modules if "laion" in name})
    theirs, ours = laion_clap.AudioTower(str(file)), AudioTower(str(file))
    assert before == (sys.path, {name for name in sys.modules if "laion" in name})
    sounds = [torch.randn(200_000) * 0.1, torch.randn(480_000) * 0.1] + [torch.randn(700_000) * 0.1] * (kind == "fused")
    close(ours.embed(sounds), theirs.embed(sounds), 1e-5)
    steps = ours.tokens(sounds[:1]).unflatten(1, (32, 2)).mean(2)
    close(steps, theirs.tokens(sounds[:1]), 2e-5)


@pytest.mark.skipif(find_spec("laion_clap") is None, reason="laion-clap is not installed")
def test_pann_runs_in_the_package(tmp_path: Path) -> None:
    networks = laion_clap.networks()
    branch = networks["pann_model"].Cnn14(48_000, 1024, 480, 64, 50, 14_000, 7)
    model = laion_clap.PackageModel(branch, 2048, 24)
    tower = laion_clap.AudioTower(str(write_pt(tmp_path / "pann.pt", model.state_dict())))
    assert (tower.dim, tower.width) == (24, 2048)
    close(tower.embed(torch.randn(1, 96_000) * 0.1).norm(dim=-1), torch.ones(1), 1e-5)


# ---- LAION's files


@pytest.mark.parametrize("kind", ["unfused", "fused"])
def test_import_round_trip(kind: str, files: dict[str, Path], tmp_path: Path) -> None:
    made = import_checkpoint(files[kind], tmp_path / "made")
    sound = torch.randn(1, 200_000) * 0.1
    assert agree(AudioTower(str(made)).embed(sound), AudioTower(str(files[kind])).embed(sound))
    assert json.loads((made / "preprocessor_config.json").read_text())["truncation"] == (
        "fusion" if kind == "fused" else "rand_trunc"
    )
    state = laion_state(kind)
    model = ClapModel.from_pretrained(made)  # transformers itself finds every tensor
    assert torch.equal(model.logit_scale_t, state["logit_scale_t"])
    qkv = state["audio_branch.layers.1.blocks.1.attn.qkv.weight"]
    attention = model.audio_model.audio_encoder.layers[1].blocks[1].attention.self
    assert torch.equal(torch.cat([attention.query.weight, attention.key.weight, attention.value.weight]), qkv)


def test_the_text_half_is_roberta(files: dict[str, Path]) -> None:
    state = laion_state("unfused")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 96}
    roberta = RobertaModel(
        RobertaConfig(vocab_size=300, max_position_embeddings=40, layer_norm_eps=1e-5, type_vocab_size=1, **sizes)
    )
    ours: Any = clap._tower(files["unfused"], "text", "made")
    written = torch.load(files["unfused"], weights_only=True)["state_dict"]
    roberta.load_state_dict(
        {
            key.removeprefix("module.text_branch."): value
            for key, value in written.items()
            if ".text_branch." in key and "position_ids" not in key
        }
    )
    ids, mask = torch.tensor([[0, 17, 44, 9, 2], [0, 5, 2, 1, 1]]), torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    pooled = roberta.eval()(ids, mask).pooler_output
    layers = [written[f"module.text_projection.{index}.{kind}"] for index in ("0", "2") for kind in ("weight", "bias")]
    expected = torch.relu(pooled @ layers[0].T + layers[1]) @ layers[2].T + layers[3]
    close(ours(ids, mask).text_embeds, expected, 1e-4)
    assert ours.config.layer_norm_eps == 1e-5
    assert len(state) > 100


def test_files_with_numbers_of_numpy(files: dict[str, Path], tmp_path: Path) -> None:
    scores = {"best": np.float64(0.9), "step": np.int64(3), "loss": np.float32(0.5)}
    file = write_pt(tmp_path / "scores.pt", laion_state("unfused"), **scores)
    assert AudioTower(str(file)).dim == 24


class Unsafe:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    file = write_pt(tmp_path / "bad.pt", {"audio_projection.0.bias": torch.zeros(2)}, more=Unsafe())
    with pytest.raises(ValueError, match="cannot be read as a PyTorch file"):
        AudioTower(str(file))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio_branch.extra.weight": torch.zeros(3)}, r"1 unknown"),
        ({"novelty": torch.zeros(3)}, r"1 unknown"),
        ({"audio_branch.norm.bias": None}, r"1 missing"),
        ({"logit_scale_a": None}, r"1 missing"),
        ({"text_projection.2.bias": torch.zeros(5)}, r"1 tensors disagree"),
        ({"audio_branch.patch_embed.proj.weight": None}, "no CLAP with HTSAT"),
        ({"text_branch.embeddings.word_embeddings.weight": None}, "no CLAP with RoBERTa"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Tensor | None], message: str, tmp_path: Path) -> None:
    state: dict[str, Any] = {**laion_state("unfused"), **change}
    file = write_pt(tmp_path / "changed.pt", {key: value for key, value in state.items() if value is not None})
    with pytest.raises(ValueError, match=message):
        import_checkpoint(file, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_pann_is_named(tmp_path: Path) -> None:
    state = {"audio_branch.conv_block1.conv1.weight": torch.zeros(2), "audio_projection.2.weight": torch.zeros(2, 2)}
    with pytest.raises(ValueError, match="PANN, which only the model laion_clap loads"):
        AudioTower(str(write_pt(tmp_path / "pann.pt", state)))
    with pytest.raises(ValueError, match="only Cnn14 without fusion"):
        laion_clap.AudioTower(str(tmp_path / "pann.pt"))


@pytest.mark.skipif(find_spec("laion_clap") is not None, reason="laion-clap is installed")
def test_the_missing_package_is_named(files: dict[str, Path]) -> None:
    with pytest.raises(ImportError, match=r'pip install "xmodal\[clap\]"'):
        laion_clap.AudioTower(str(files["unfused"]))


def test_only_the_packages_networks_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose own code fails, and whose networks import one another relatively."""
    inner = tmp_path / "laion_clap" / "clap_module"
    inner.mkdir(parents=True)
    for path in (tmp_path / "laion_clap" / "__init__.py", inner / "__init__.py"):
        path.write_text("raise RuntimeError('this downloads')")
    (inner / "sizes.py").write_text("SIZE = 3")
    for name in ("htsat", "pann_model"):
        (inner / f"{name}.py").write_text("from .sizes import SIZE")
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(sys.modules)
    assert {name: module.SIZE for name, module in laion_clap.networks().items()} == {"htsat": 3, "pann_model": 3}
    assert not [name for name in sys.modules.keys() - before.keys() if name.startswith("laion_clap")]


# ---- folders and cards


def test_a_folder_with_its_own_rate(folder: Path) -> None:
    audio, text = AudioTower(str(folder)), TextTower(str(folder))
    assert (audio.sample_rate, audio.front, audio.dim, text.dim) == (16_000, TINY, 12, 12)
    assert not [name for name, _ in audio.named_parameters() if "text" in name]
    assert not [name for name, _ in text.named_parameters() if "audio" in name]
    whole = ClapModel.from_pretrained(folder).eval()
    features, longer, _ = audio.front([torch.randn(9000)], "centre")
    ids = text.tokenizer(TEXTS, padding=True)
    expected = whole.get_text_features(torch.tensor(ids.input_ids), torch.tensor(ids.attention_mask)).pooler_output
    close(text.embed(TEXTS), expected, 1e-5)
    own = torch.nn.functional.normalize(audio.model(input_features=features, is_longer=longer).audio_embeds, dim=-1)
    close(own, whole.get_audio_features(features, is_longer=longer).pooler_output, 1e-6)


def test_the_folder_of_an_audioldm(folder: Path, tmp_path: Path) -> None:
    """Its text encoder is half a CLAP in a folder of its own, beside the tokenizer's."""
    whole = ClapModel.from_pretrained(folder)
    from transformers import ClapTextModelWithProjection

    half = ClapTextModelWithProjection(whole.config.text_config)
    half.load_state_dict({key: value for key, value in whole.state_dict().items() if key.startswith("text_")})
    half.save_pretrained(tmp_path / "text_encoder")
    build_tokenizer().save_pretrained(tmp_path / "tokenizer")
    assert agree(TextTower(str(tmp_path)).embed(TEXTS), TextTower(str(folder)).embed(TEXTS))
    for place in (tmp_path, tmp_path / "text_encoder"):
        with pytest.raises(ValueError, match="no audio tower"):
            AudioTower(str(place))


def test_pickled_weights(folder: Path, tmp_path: Path) -> None:
    other = copy(folder, tmp_path)
    state = load_file(other / "model.safetensors")
    torch.save({key: value for key, value in state.items() if "position_ids" not in key}, other / "pytorch_model.bin")
    (other / "model.safetensors").unlink()
    assert agree(TextTower(str(other)).embed(TEXTS), TextTower(str(folder)).embed(TEXTS))


def test_damaged_folders(folder: Path, tmp_path: Path) -> None:
    other = copy(folder, tmp_path)
    settings = json.loads((other / "preprocessor_config.json").read_text())
    del settings["frequency_min"]  # transformers would take 0
    (other / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="lacks frequency_min"):
        AudioTower(str(other))
    (other / "preprocessor_config.json").write_text(json.dumps(settings | {"frequency_min": 50, "padding": "pad"}))
    with pytest.raises(ValueError, match="another padding"):
        AudioTower(str(other))
    (other / "preprocessor_config.json").write_text(json.dumps(settings | {"frequency_min": 50, "feature_size": 16}))
    with pytest.raises(ValueError, match="32 bands"):
        AudioTower(str(other))
    (other / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match="preprocessor_config.json does not exist"):
        AudioTower(str(other))
    (other / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is damaged"):
        TextTower(str(other))
    (other / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="config.json does not exist"):
        TextTower(str(other))


def test_an_empty_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    other = copy(folder, tmp_path)
    (other / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="tokenizer"):
        TextTower(str(other))
    (other / "tokenizer_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"laion/clap-htsat-unfused"):
        TextTower(str(other))
    assert agree(TextTower(str(other), tokenizer=str(folder)).embed(TEXTS), TextTower(str(folder)).embed(TEXTS))


@pytest.mark.parametrize("name", ["htsat-unfused", "630k-audioset-best", "someone/else"])
def test_weights_that_are_not_here(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="not on this machine"):
        AudioTower(name)
    with pytest.raises(ValueError, match="its cards are: mini"):
        AudioTower("no-such-card")


def test_cards_of_16_khz_sounds(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AudioLDM's CLAP heard what a 16 kHz recording holds, resampled to its own rate."""
    place = import_checkpoint(files["unfused"], tmp_path / "made")
    monkeypatch.setitem(CARDS, "audioldm", clap.Card(str(place), {}, "made", False, "made", 0, sample_rate=16_000))
    tower = AudioTower("audioldm")
    assert tower.sample_rate == CARDS["audioldm"].sample_rate == 16_000
    sound = torch.randn(1, 60_000) * 0.1
    own = AudioTower("audioldm", sample_rate=48_000)
    close(tower.embed(sound), own.embed(resample(sound, 16_000, 48_000)), 1e-6)
    mel = tower.front(tower._rows(torch.randn(1, 160_000)), "centre")[0]
    assert mel[..., 58:].mean() < mel[..., :40].mean() - 30  # next to nothing above 10 kHz


@pytest.mark.parametrize("name", ["mini", "tiny", "htsat-unfused", "htsat-fused", "larger-general", "music-speech"])
def test_parameter_counts(name: str) -> None:
    with torch.device("meta"):
        model = build(name)
    assert sum(weight.numel() for weight in model.parameters()) == (
        CARDS[name].parameters if name in CARDS else clap.SIZES[name][3]
    )


def test_the_miniature_reads_the_worlds_words() -> None:
    text = clap.SIZES["mini"][1]
    tokenizer = build_tokenizer()
    assert (text["vocab_size"], text["max_position_embeddings"]) == (len(tokenizer), tokenizer.model_max_length + 1)
    model: Any = build("mini")
    audio = AudioTower.from_model(SimpleTower(model), MINI)
    assert audio.embed(torch.randn(1, 40_000)).shape == (1, 128)
    assert audio.tokens(torch.randn(1, 40_000)).shape == (1, 64, 128)


class SimpleTower(torch.nn.Module):
    """What a training recipe may hand over: the audio half of a whole ClapModel."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.config, self.whole = model.config.audio_config, model

    def forward(self, input_features: Tensor, is_longer: Tensor) -> SimpleNamespace:
        made = self.whole.audio_model(input_features=input_features, is_longer=is_longer)
        return SimpleNamespace(
            audio_embeds=self.whole.audio_projection(made.pooler_output), last_hidden_state=made.last_hidden_state
        )


# ---- promises of every encoder


@pytest.mark.parametrize("module", [clap, laion_clap])
def test_sounds_do_not_know_their_batch(module: Any) -> None:
    tower = module.tiny()["AudioTower"]()
    sounds = [torch.randn(length) * 0.3 for length in (16_000, 5000, 30_000, 700)]
    together = tower.embed(sounds)
    assert together.shape == (4, tower.dim)
    close(torch.cat([tower.embed(sound[None]) for sound in sounds]), together, 2e-6)
    close(tower.embed(sounds[::-1]).flip(0), together, 2e-6)
    assert agree(tower.embed(sounds), together)
    assert (together[0] - together[1]).abs().max() > 1e-5
    close(together.norm(dim=-1), torch.ones(4), 1e-5)


def test_fused_sounds_do_not_know_their_batch() -> None:
    sizes = clap.SIZES["tiny"]
    config: Any = ClapConfig(
        audio_config=sizes[0] | {"enable_fusion": True, "fusion_type": "aff_2d"}, text_config=sizes[1], projection_dim=12
    )
    from transformers import ClapAudioModelWithProjection

    tower = AudioTower.from_model(ClapAudioModelWithProjection(config.audio_config), FrontEnd(**{**vars(TINY), "fused": True}))
    sounds = [torch.randn(length) * 0.3 for length in (30_000, 5000, 16_100)]
    together = tower.embed(sounds)
    close(torch.cat([tower.embed(sound[None]) for sound in sounds]), together, 2e-6)
    wave = (torch.randn(1, 30_000) * 0.3).requires_grad_()
    assert torch.autograd.grad(tower.embed(wave)[0, 0], wave)[0].abs().max() > 0


def test_windows_are_averaged() -> None:
    tower = AudioTower.from_model(tiny()["AudioTower"]().model, TINY, crop="windows")
    parts = torch.randn(3, 16_000) * 0.3
    mean = torch.nn.functional.normalize(tower.embed(parts).mean(0), dim=0)
    close(tower.embed([parts.flatten()])[0], mean, 2e-6)
    close(tower.tokens(parts.flatten()[None])[0], tower.tokens(parts).flatten(0, 1), 2e-6)
    with pytest.raises(ValueError, match="windows"):
        tower.tokens([parts.flatten(), parts[0]])


def test_time_runs_through_the_tokens() -> None:
    """A click late in the clip changes late tokens most."""
    tower = tiny()["AudioTower"]()
    quiet = torch.randn(1, 16_000) * 1e-4
    peaks = []
    for place in (1000, 8000, 15_000):
        loud = quiet.clone()
        loud[:, place : place + 200] += torch.randn(200)
        change = (tower.tokens(loud) - tower.tokens(quiet))[0].norm(dim=-1)
        steps = change.unflatten(0, (-1, tower.model.audio_model.audio_encoder.freq_ratio * 2))
        peaks.append(steps.sum(1).argmax().item() / len(steps))
    assert peaks == sorted(peaks)
    assert peaks[0] < peaks[-1]


def test_sentences_do_not_know_their_batch() -> None:
    tower = tiny()["TextTower"]()
    texts = ["rain on a roof", "bell", "many bees, loudly"]
    together = tower.embed(texts)
    close(torch.cat([tower.embed([text]) for text in texts]), together, 2e-6)
    assert agree(tower.embed(texts), together)
    assert (together[0] - together[1]).abs().max() > 1e-5
    close(together.norm(dim=-1), torch.ones(3), 1e-5)


def test_long_sentences() -> None:
    tower = tiny()["TextTower"]()
    assert tower.max_length == 39
    with pytest.raises(ValueError, match="has 202 tokens"):
        tower.embed(["a" * 200])
    short = TextTower.from_parts(tower.model, tower.tokenizer, truncate=True)
    ids = short._ids("a" * 200)
    assert (len(ids), ids[0], ids[-1]) == (39, 512, 513)
    assert short.embed(["a" * 200]).isfinite().all()


def test_gradients_reach_the_waveform() -> None:
    for crop in ("centre", "windows"):
        tower = AudioTower.from_model(tiny()["AudioTower"]().model, TINY, crop=crop, int16=True)
        wave = (torch.randn(2, 20_000) * 0.2).requires_grad_()
        gradient = torch.autograd.grad(tower.embed(wave)[0, 0], wave)[0]
        assert gradient[0].abs().max() > 0
        assert not gradient[1].any()
        assert not any(weight.requires_grad for weight in tower.parameters())


def test_towers_keep_the_contract() -> None:
    towers = tiny()
    assert isinstance(towers["AudioTower"](), AudioEncoder)
    assert isinstance(towers["TextTower"](), TextEncoder)
    assert towers["AudioTower"]().state_dict() == {}


def test_inputs_of_another_form_are_refused() -> None:
    tower = tiny()["AudioTower"]()
    for wrong in (torch.randn(100), torch.randn(1, 2, 100), torch.zeros(1, 100, dtype=torch.int16), torch.zeros(2, 0), []):
        with pytest.raises(ValueError, match="float waveforms"):
            tower.embed(wrong)
    with pytest.raises(ValueError, match="crop 'middle' is unknown"):
        AudioTower.from_model(tower.model, TINY, crop="middle")  # type: ignore[arg-type]
    for words in ("rain", []):
        with pytest.raises(ValueError, match="list of at least one sentence"):
            tiny()["TextTower"]().embed(words)
