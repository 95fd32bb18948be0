"""`xmodal import` of what others have trained: AudioToken's files, V2A mappers, textual inversions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import xmodal
from tests.audio2image.test_embedder import by_rule
from tests.foundation.test_stable_diffusion import before_step
from tests.registry.test_sharing import run
from tests.tiny import tiny_sd_parts
from tests.vision2audio.parts import Eyes, Voice
from tests.vision2audio.test_regression import public_state
from xmodal.audio2image import AudioTokenEmbedder
from xmodal.foundation.base import AudioEncoder
from xmodal.foundation.lora import LoRA, LowRank
from xmodal.foundation.stable_diffusion import ATTENTION, StableDiffusion, build
from xmodal.registry import quantized
from xmodal.registry.adapters import find
from xmodal.registry.importer import import_weights
from xmodal.registry.pull import targets

GOLDEN = Path(__file__).parent.parent / "golden"
SD = {"sd-1.4": 768, "sd-2.1": 1024}


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0, check_dtype=False)


class Ears(AudioEncoder):
    """Frames of 62.5 ms through a fixed matrix, as wide as BEATs' three layers."""

    sample_rate, dim, width = 16_000, 2304, 2304

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = nn.Linear(1000, 2304)

    def tokens(self, waveform: Tensor) -> Tensor:
        return 30 * self.net(waveform.to(self.net.weight).unflatten(1, (-1, 1000))).float()

    def embed(self, inputs: Tensor) -> Tensor:
        return self.tokens(inputs).mean(1)


def embedder(path: Path, width: int) -> dict[str, Tensor]:
    """The file as published: 13 tensors by their published names and shapes, in float32, with an attention far from uniform."""
    with torch.device("meta"):
        model = AudioTokenEmbedder(2304, width)
    state = {key: value.float() for key, value in by_rule(model).items()}
    torch.save(state, path)
    return state


def painter(width: int) -> dict[str, Any]:
    """Stable Diffusion's parts with its own four levels and names, narrow but for the words."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    parts = tiny_sd_parts()
    text = CLIPTextConfig(
        vocab_size=64, hidden_size=width, intermediate_size=64, num_hidden_layers=1, num_attention_heads=8,
        max_position_embeddings=77, bos_token_id=60, eos_token_id=61, pad_token_id=61,
    )  # fmt: skip
    second = {"use_linear_projection": True} if width == 1024 else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        parts["text_encoder"] = CLIPTextModel(text)
        parts["unet"] = UNet2DConditionModel(
            sample_size=16, block_out_channels=(8, 16, 16, 16), norm_num_groups=4, attention_head_dim=4, layers_per_block=2,
            cross_attention_dim=width, **second,
        )  # fmt: skip
    return parts


def folder_of(parts: dict[str, Any], path: Path) -> Path:
    for name, part in parts.items():
        part.save_pretrained(path / name)
    return path


def low_rank(unet: nn.Module, path: Path) -> dict[str, Tensor]:
    """The LoRA file as AudioToken's code wrote it, rank 4, for every attention of a UNet."""
    draw, state = torch.Generator().manual_seed(3), {}
    for name, module in unet.named_modules():
        if name.endswith(("attn1", "attn2")):
            for each in ("to_q", "to_k", "to_v", "to_out"):
                linear: Any = module.to_out[0] if each == "to_out" else getattr(module, each)
                shapes = {"down": (4, linear.in_features), "up": (linear.out_features, 4)}
                for half, shape in shapes.items():
                    state[f"{name}.processor.{each}_lora.{half}.weight"] = 0.2 * torch.randn(shape, generator=draw)
    torch.save(state, path)
    return state


def original(parts: dict[str, Any], state: dict[str, Tensor], lora: dict[str, Tensor], sound: Tensor, noise: Tensor) -> Tensor:
    """Latents in the order of the public code's inference: the word goes into the text encoder's table, LoRA beside layers.

    In double precision, lest rounding hide a mistake.
    """
    model = AudioTokenEmbedder(2304, state["fc2.weight"].shape[0])
    model.load_state_dict(state)
    token = model.eval()(Ears().tokens(sound[None]))[0]
    text, unet = parts["text_encoder"].eval().double(), parts["unet"].eval().double()
    table = text.get_input_embeddings()
    grown = nn.Embedding(65, table.weight.shape[1])
    grown.weight.data = torch.cat([table.weight.data, token[None]])
    text.set_input_embeddings(grown)
    tokenizer = parts["tokenizer"]
    words = tokenizer("a photo of", add_special_tokens=False).input_ids
    ids = [[60, *words, 64, 61], [60, 61]]
    hidden = text(torch.tensor([row + [61] * (77 - len(row)) for row in ids])).last_hidden_state
    modules = dict(unet.named_modules())
    for name, down in lora.items():
        if name.endswith("down.weight"):
            block, _, projection = name.removesuffix("_lora.down.weight").partition(".processor.")
            up, at = (
                lora[name.replace("_lora.down", "_lora.up")],
                f"{block}.{projection}" + (".0" if projection == "to_out" else ""),
            )
            modules[at].register_forward_hook(
                lambda _, given, out, down=down, up=up: out + given[0] @ down.double().T @ up.double().T
            )
    scheduler = StableDiffusion.from_parts(**parts).default_scheduler()
    scheduler.set_timesteps(3)
    latents = noise * scheduler.init_noise_sigma
    for step in scheduler.timesteps:
        made = unet(latents.repeat(2, 1, 1, 1), step, encoder_hidden_states=hidden).sample
        latents = scheduler.step(made[1] + 6.5 * (made[0] - made[1]), step, latents).prev_sample
    return latents


@pytest.mark.parametrize("card", SD)
@torch.no_grad()
def test_audiotokens_files_paint_as_in_the_original_order(card: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, sound = painter(SD[card]), 0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    state = embedder(tmp_path / "embedder_learned_embeds.bin", SD[card])
    lora = low_rank(parts["unet"], tmp_path / "lora_layers_learned_embeds.bin")
    assert len(lora) == 256
    plain = folder_of(parts, tmp_path / "painter")
    assert find(import_weights("audiotoken", tmp_path / "embedder_learned_embeds.bin", tmp_path / "a")).recipe["init_args"][
        "generator"
    ] == {"class_path": "xmodal.foundation.stable_diffusion.StableDiffusion", "init_args": {"card": card}}
    options = {"generator": str(plain), "lora": tmp_path / "lora_layers_learned_embeds.bin"}
    place = import_weights("audiotoken", tmp_path / "embedder_learned_embeds.bin", tmp_path / "b", **options)
    (tmp_path / "lora_layers_learned_embeds.bin").unlink()  # the folder has its own copy
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    monkeypatch.setattr(StableDiffusion, "decode", lambda _, latents: latents)
    call: dict[str, Any] = {"sampling_rate": 16_000, "num_inference_steps": 3, "guidance_scale": 6.5, "output_type": "pt"}
    found = xmodal.pipeline(place, encoder=Ears(), seconds=1.0, dtype=torch.float64)(sound, latents=noise, **call).images
    bare = xmodal.pipeline(
        tmp_path / "a", encoder=Ears(), generator=StableDiffusion(str(plain)), seconds=1.0, dtype=torch.float64
    )
    without = bare(sound, latents=noise, **call).images
    for made, expected in (
        (without, original(parts, state, {}, sound, noise)),
        (found, original(parts, state, lora, sound, noise)),
    ):
        spread = expected.std()  # of an untrained network's latents: far above the 1 of trained ones
        close(made / spread, expected / spread, 1e-5)
    assert not torch.allclose(found, without, atol=1e-2)


def test_an_imported_embedder_equals_the_public_codes_step(tmp_path: Path) -> None:
    tensors = load_file(GOLDEN / "audiotoken_train_step.safetensors")
    torch.save(before_step(tensors), tmp_path / "small.bin")
    place = import_weights("audiotoken", tmp_path / "small.bin", tmp_path / "out", encoder="mini", generator="mini")
    model = AudioTokenEmbedder(72, 32)
    model.load_state_dict(find(place).weights())
    close(model.eval()(tensors["features"]), tensors["audio_token"], 2e-5)
    with pytest.raises(ValueError, match=r"does not fit a AudioTokenEmbedder: .*size mismatch for fc1.weight"):
        xmodal.pipeline(place)


def test_the_low_rank_file_is_of_stable_diffusions_own_names_and_shapes(tmp_path: Path) -> None:
    with torch.device("meta"):
        unet: Any = build("sd-1.4")["unet"]
    state = low_rank(unet, tmp_path / "lora.bin")
    assert (len(state), sum(value.numel() for value in state.values())) == (256, 797_184)
    assert LoRA.read(tmp_path / "lora.bin").merge(unet) == 128
    with torch.device("meta"):
        other: Any = build("sd-2.1")["unet"]
    with pytest.raises(
        ValueError, match=r"attn2.to_k is \(320, 1024\) there, but the LoRA is of \(320, 768\): use the base model"
    ):
        LoRA.read(tmp_path / "lora.bin").merge(other)
    for layer in quantized.layers(unet):  # on the meta device, where nothing is encoded
        quantized._encode(layer, "nf4", None)
    with pytest.raises(ValueError, match=r"cannot be merged into quantized weights"):
        LoRA.read(tmp_path / "lora.bin").merge(unet)


LAYOUTS = {
    "lora_peft_plain": ("plain", 1.0), "lora_peft_ab_names": ("plain", 1.0), "lora_peft_processors": ("plain", 1.0),
    "lora_peft_alpha": ("alpha", 2.0),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
@torch.no_grad()
def test_low_rank_files_equal_peft(name: str) -> None:
    from diffusers import UNet2DConditionModel

    tensors = load_file(GOLDEN / "lora_peft.safetensors")
    kind, scale = LAYOUTS[name]
    lora = LoRA.read(GOLDEN / f"{name}.safetensors")
    assert (lora.scale, len(lora.pairs)) == (scale, 32)
    for strength, output in ((0.0, "output_before"), (0.5, f"{kind}.output_scale_0.5"), (1.0, f"{kind}.output_fused")):
        unet = UNet2DConditionModel(
            sample_size=16, layers_per_block=1, block_out_channels=(16, 32), cross_attention_dim=32, norm_num_groups=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=(2, 4),
        )  # fmt: skip
        unet.load_state_dict({key.removeprefix("unet."): value for key, value in tensors.items() if key.startswith("unet.")})
        lora.merge(unet, strength)
        embeds = tensors["encoder_hidden_states"]
        close(unet(tensors["sample"], tensors["timesteps"], encoder_hidden_states=embeds).sample, tensors[output], 5e-5)


@torch.no_grad()
def test_a_painter_takes_any_low_rank_file(tmp_path: Path) -> None:
    place, changed = folder_of(tiny_sd_parts(), tmp_path / "sd"), GOLDEN / "lora_peft_alpha.safetensors"
    plain, whole = StableDiffusion(str(place)), StableDiffusion(str(place), lora=changed, lora_scale=0.5)
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    down, up = LoRA.read(changed).pairs[name]
    close(whole.unet.get_submodule(name).weight, plain.unet.get_submodule(name).weight + up @ down, 1e-6)
    with pytest.raises(ValueError, match="lora_scale nan"):
        StableDiffusion(str(place), lora=changed, lora_scale=float("nan"))


def refused(kind: str, content: Any, tmp_path: Path, suffix: str = ".bin", **options: Any) -> str:
    """The sentence, when nothing is left behind."""
    file, target = tmp_path / f"file{suffix}", tmp_path / "out"
    (save_file if suffix == ".safetensors" else torch.save)(content, file)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        import_weights(kind, file, target, **options)
    assert not target.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    state = embedder(tmp_path / "e.bin", 768)
    lacking = {key: value for key, value in state.items() if key != "fc1.bias"}
    assert "fc1.bias is absent in it, but expected (2304,)" in refused("audiotoken", lacking, tmp_path)
    assert "further is (3,) in it, but expected no such" in refused("audiotoken", state | {"further": torch.ones(3)}, tmp_path)
    assert "fc2.weight is (512, 2304)" in refused("audiotoken", state | {"fc2.weight": torch.ones(512, 2304)}, tmp_path)
    assert "fc1.bias as torch.int64" in refused("audiotoken", state | {"fc1.bias": torch.ones(2304).long()}, tmp_path)
    nan = state | {"fc1.bias": torch.full((2304,), float("nan"))}
    assert "NaN or infinity in fc1.bias" in refused("audiotoken", nan, tmp_path)
    assert "holds no tensors by name" in refused("audiotoken", {"step": 3}, tmp_path)
    assert "nothing in a file is executed" in refused("audiotoken", {"a": Ears}, tmp_path)
    assert "has no option 'token'" in refused("audiotoken", state, tmp_path, token="<a>")
    low = low_rank(painter(768)["unet"], tmp_path / "low.bin")
    for wrong, said in (
        ({key: value for key, value in low.items() if "mid_block" not in key or "up" not in key}, "without the other"),
        (low | {"text_encoder.x.lora.down.weight": torch.ones(4, 4)}, "other kinds of LoRA are not read"),
        (
            {key: value[:3] if "attn1.processor.to_q_lora.down" in key else value for key, value in low.items()},
            "no rank in common",
        ),
        (
            low_rank(painter(1024)["unet"], tmp_path / "other.bin"),
            "reads words of width 1024, but the embedder makes words of width 768",
        ),
    ):
        torch.save(wrong, tmp_path / "wrong.bin")
        assert said in refused("audiotoken", state, tmp_path, lora=tmp_path / "wrong.bin")


@pytest.mark.parametrize("settings", [{"rank_pattern": {"a": 8}}, {"use_dora": True}, {"lora_alpha": 0, "r": 4}, "[", '["a"]'])
def test_settings_of_another_computation_are_refused(settings: Any, tmp_path: Path) -> None:
    header = {"lora_adapter_metadata": settings if isinstance(settings, str) else json.dumps(settings)}
    save_file(load_file(GOLDEN / "lora_peft_plain.safetensors"), tmp_path / "lora.safetensors", metadata=header)
    with pytest.raises(ValueError, match="trained with|alpha 0|cannot be read"):
        LoRA.read(tmp_path / "lora.safetensors")


# ---- textual inversion

INVERSIONS = GOLDEN / "textual_inversion"
CASES = json.loads((INVERSIONS / "cases.json").read_text())


def inversion_file(name: str, tmp_path: Path) -> Path:
    case = CASES["cases"][name]
    if case["file"]:
        return INVERSIONS / case["file"]
    vectors = nn.Parameter(load_file(INVERSIONS / "tensors.safetensors")[case["vectors"]])
    content = {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": case["name_in_file"], "step": 9}
    torch.save(content | {"sd_checkpoint": None, "sd_checkpoint_name": None}, tmp_path / "a1111.pt")
    return tmp_path / "a1111.pt"


def reader() -> StableDiffusion:
    """A painter with the golden text encoder and vocabulary."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    words = CASES["tokenizer"]
    parts = tiny_sd_parts()
    parts["text_encoder"] = CLIPTextModel(CLIPTextConfig(**CASES["text_encoder"]))
    tensors = load_file(INVERSIONS / "tensors.safetensors")
    state = {
        key.removeprefix("text_encoder.text_model."): value for key, value in tensors.items() if key.startswith("text_encoder.")
    }
    parts["text_encoder"].load_state_dict(state)
    merges = [tuple(pair.split()) if isinstance(pair, str) else tuple(pair) for pair in words["merges"]]
    parts["tokenizer"] = CLIPTokenizer(vocab=words["vocab"], merges=merges, model_max_length=77, pad_token=words["pad_token"])
    return StableDiffusion.from_parts(**parts)


@pytest.mark.parametrize("name", CASES["cases"])
@torch.no_grad()
def test_textual_inversions_read_as_in_diffusers(name: str, tmp_path: Path) -> None:
    case, expected = CASES["cases"][name], load_file(INVERSIONS / "tensors.safetensors")[f"{name}.prompt_embeds"]
    file, given = inversion_file(name, tmp_path), {"token": case["token_argument"]} if case["token_argument"] else {}
    place = import_weights("textual-inversion", file, tmp_path / "word", generator="sd-1.4", **given)
    painter = reader()
    pipe = xmodal.pipeline(place, generator=painter)
    assert pipe.token == case["token"]
    once = [row for row, prompt in enumerate(case["prompts"]) if prompt.count(case["token"]) == 1]
    prompts = [pipe.template(case["prompts"][row]) for row in once]
    close(painter.prompt_embeds(prompts, pipe.encode(prompts)), expected[once], 5e-5)
    made = pipe(f"a {case['token']}, a dog", num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    assert [picture.size for picture in made.images] == [(32, 32)]
    with pytest.raises(ValueError, match="exactly once"):
        pipe("a dog")


def test_a_word_without_a_name_or_for_another_model_is_refused(tmp_path: Path) -> None:
    nameless, pair = load_file(INVERSIONS / "file_emb_params.safetensors"), load_file(INVERSIONS / "file_sdxl_one.safetensors")
    kind = "textual-inversion"
    assert "give --token" in refused(kind, nameless, tmp_path, ".safetensors", generator="sd-1.4")
    assert "holds 2 tensors (clip_g, clip_l)" in refused(kind, pair, tmp_path, ".safetensors")
    assert "expected real numbers for words of width 768 (sd-1.4) or 1024 (sd-2.1)" in refused(
        kind, nameless, tmp_path, token="<a>"
    )
    assert "(2, 3, 768)" in refused(kind, {"<a>": torch.ones(2, 3, 768)}, tmp_path)
    assert "torch.int64" in refused(kind, {"<a>": torch.ones(768).long()}, tmp_path)
    assert "NaN or infinity in <a>" in refused(kind, {"<a>": torch.full((768,), float("inf"))}, tmp_path)


# ---- V2A mappers


def test_the_public_mapper_sounds_as_in_the_original_order(tmp_path: Path) -> None:
    state = public_state(5, 24, 6)
    torch.save(state, tmp_path / "v2a_mapper_mlps.pth")
    cards = {"encoder": "vit-b-32", "generator": "audioldm-s-full-v2"}
    place = import_weights("v2a-mapper", tmp_path / "v2a_mapper_mlps.pth", tmp_path / "v2a", **cards)
    eyes, picture = Eyes(), torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    pipe = xmodal.pipeline(place, encoder=eyes, generator=Voice())
    seen = eyes.embed(picture[None])  # not normalised, as CLIP gives it
    hidden = F.layer_norm(
        F.silu(F.linear(seen, state["linear.weight"], state["linear.bias"])),
        (24,), state["layer_norm.weight"], state["layer_norm.bias"],
    )  # fmt: skip
    mapped = F.normalize(F.linear(hidden, state["linear2.weight"], state["linear2.bias"]), dim=-1)
    close(pipe.encode(picture), mapped, 1e-5)
    recipe = find(place).recipe["init_args"]
    assert [recipe[name]["init_args"]["card"] for name in ("encoder", "target", "generator")] == [
        "vit-b-32", "audioldm", "audioldm-s-full-v2",
    ]  # fmt: skip
    assert "reads embeddings of 5 numbers, but vit-b-32 and audioldm have 512" in refused("v2a-mapper", state, tmp_path)
    assert "as torch.int64" in refused("v2a-mapper", {"linear.weight": torch.ones(2, 2).long()}, tmp_path, ".pth")
    assert "'net.weight', but expected" in refused("v2a-mapper", {"net.weight": torch.ones(2, 2)}, tmp_path, ".pth")


# ---- the command


def test_the_command_and_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    embedder(tmp_path / "embedder_learned_embeds.bin", 768)
    low_rank(painter(768)["unet"], tmp_path / "low.bin")

    bell = str(Path(__file__).parents[2] / "examples/sounds/bell.wav")
    words = ("import", "audiotoken", "embedder_learned_embeds.bin", "-o", "audiotoken-sd14")
    assert run(monkeypatch, *words, "--lora", "low.bin") == 0
    assert capsys.readouterr().out.strip() == "audiotoken-sd14"
    assert {path.name for path in Path("audiotoken-sd14").iterdir()} == {
        "adapter.safetensors", "lora.safetensors", "recipe.yaml", "README.md",
    }  # fmt: skip
    recipe = yaml.safe_load(Path("audiotoken-sd14/recipe.yaml").read_text())
    assert recipe["model"]["init_args"]["generator"]["init_args"] == {"card": "sd-1.4", "lora": "lora.safetensors"}
    card = Path("audiotoken-sd14/README.md").read_text()
    assert "8,853,507 parameters" in card
    assert "Low-rank weights that lie beside it" in card
    assert "| `embedder_learned_embeds.bin` |" in card
    assert "| `low.bin` |" in card
    assert 'xmodal.pipeline("audiotoken-sd14")' in card
    assert [each.name for each in targets("audiotoken-sd14")] == ["beats:iter3-plus-as2m-cpt2", "stable_diffusion:sd-1.4"]
    # Without the published weights of the frozen parts: one sentence that says how to get them.
    Path("a.txt").write_text("a")
    assert run(monkeypatch, "generate", bell, "--to", "image", "--adapter", words[-1]) == 1
    assert "BEATs_iter3_plus" in capsys.readouterr().err
    assert run(monkeypatch, *words) == 1
    assert "exists and is not an empty folder" in capsys.readouterr().err
    assert run(monkeypatch, "import", "audiotokn", "x.bin", "-o", "y") == 1
    assert "did you mean 'audiotoken'" in capsys.readouterr().err


def test_trainable_pairs_equal_peft() -> None:
    """Outputs, and gradients of the down and up matrices that the fixture names."""
    from diffusers import UNet2DConditionModel

    told = json.loads((GOLDEN / "lora_peft.json").read_text())
    tensors, state = load_file(GOLDEN / "lora_peft.safetensors"), load_file(GOLDEN / "lora_peft_plain.safetensors")
    unet = UNet2DConditionModel(**told["unet"])
    unet.load_state_dict({key.removeprefix("unet."): value for key, value in tensors.items() if key.startswith("unet.")})
    unet.requires_grad_(False)
    modules = {name: module for name, module in unet.named_modules() if ATTENTION.search(name)}
    made = LowRank(modules, 4)
    assert made.state_dict().keys() == state.keys()  # diffusers' own file

    def output(strength: float = 1.0) -> torch.Tensor:
        with made.on(modules, strength):
            return unet(tensors["sample"], tensors["timesteps"], encoder_hidden_states=tensors["encoder_hidden_states"]).sample

    close(output(), tensors["output_before"], 5e-5)  # up begins at zero
    made.load_state_dict(state)
    close(output(0.5), tensors["plain.output_scale_0.5"], 5e-5)
    found = output()
    close(found, tensors["plain.output_scale_1"], 5e-5)
    close(found, tensors["grad.output"], 5e-5)
    (found * tensors["cotangent"]).sum().backward()
    named = dict(made.named_parameters())
    for half, key in (("A", "down"), ("B", "up")):
        name = told["grad_of"][half].replace(f"lora_{half}", f"lora.{key}")
        close(named[name].grad, tensors[f"grad.{half}"], 5e-4)
    plain = unet(tensors["sample"], tensors["timesteps"], encoder_hidden_states=tensors["encoder_hidden_states"]).sample
    close(plain, tensors["output_before"], 5e-5)  # and nothing stays in the UNet
