"""CLIP: both back-ends against each other and against their own front ends, its files, and its promises to the rest of xmodal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.transforms.functional import to_tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from tests.rounding import agree
from xmodal.foundation import clip
from xmodal.foundation.base import Card
from xmodal.foundation.clip import CARDS, MEAN, STD, ImageTower, Preprocess, TextTower, build, save, tiny
from xmodal.miniature.tokenizer import build_tokenizer

SIZES: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 128, "layers": 2},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
SENTENCES = ["rain on a roof", "A dog's bark, loudly!", "", "naïve  café\n über 42"]


def to_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a plain open_clip CLIP."""
    names = {
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.proj": "visual_projection.weight",
        "visual.ln_pre.": "vision_model.pre_layrnorm.",
        "visual.ln_post.": "vision_model.post_layernorm.",
        "visual.transformer.resblocks.": "vision_model.encoder.layers.",
        "transformer.resblocks.": "text_model.encoder.layers.",
        "token_embedding.": "text_model.embeddings.token_embedding.",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "ln_final.": "text_model.final_layer_norm.",
        "text_projection": "text_projection.weight",
    }
    inner = {
        ".ln_1.": ".layer_norm1.",
        ".ln_2.": ".layer_norm2.",
        ".attn.": ".self_attn.",
        ".c_fc.": ".fc1.",
        ".c_proj.": ".fc2.",
    }
    renamed = {}
    for key, value in state.items():
        start = next((name for name in names if key.startswith(name)), None)
        name = key if start is None else names[start] + key.removeprefix(start)
        for old, new in inner.items():
            name = name.replace(old, new)
        if "in_proj_" in name:
            for letter, part in zip("qkv", value.chunk(3)):
                renamed[name.replace("in_proj_", f"{letter}_proj.")] = part
        else:
            renamed[name] = value.T if key in ("visual.proj", "text_projection") else value
    return renamed


def transformers_config(act: str) -> CLIPConfig:
    vision, text = SIZES["vision_cfg"], SIZES["text_cfg"]
    return CLIPConfig(
        vision_config={"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "image_size": vision["image_size"], "patch_size": vision["patch_size"], "hidden_act": act},
        text_config={"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2,
                     "max_position_embeddings": text["context_length"], "hidden_act": act},
        projection_dim=24,
    )  # fmt: skip


def original_tokenizer() -> CLIPTokenizer:
    source = SimpleTokenizer()
    vocabulary = {token: index for token, index in source.encoder.items() if index < 49406}
    special = {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    return CLIPTokenizer(vocab=vocabulary | special, merges=list(source.bpe_ranks), model_max_length=77)


def open_clip_folder(folder: Path, model: torch.nn.Module, sizes: dict[str, Any], **preprocess: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"mean": MEAN, "std": STD} | preprocess
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": sizes, "preprocess_cfg": settings}))
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder


Twins = tuple[open_clip.CLIP, Path, Path]


def make_twins(root: Path, act: str) -> Twins:
    """One random CLIP: in memory, as a folder of open_clip, as a folder of transformers."""
    sizes = SIZES | {"quick_gelu": act == "quick_gelu"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(**sizes).eval()
        for weight in model.parameters():  # large enough for the activations' difference to show
            weight.data.add_(0.1 * torch.randn_like(weight))
    open_clip_folder(root / "open_clip", model, sizes)
    twin = CLIPModel(transformers_config(act))
    twin.load_state_dict(to_transformers(model.state_dict()))
    twin.save_pretrained(root / "transformers")
    original_tokenizer().save_pretrained(root / "transformers")
    settings = {"size": 32, "crop_size": 32, "resample": 3, "image_mean": MEAN, "image_std": STD}
    (root / "transformers" / "preprocessor_config.json").write_text(json.dumps(settings))
    return model, root / "open_clip", root / "transformers"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Twins]:
    return {act: make_twins(tmp_path_factory.mktemp(act), act) for act in ("quick_gelu", "gelu")}


@pytest.fixture
def twins(both: dict[str, Twins]) -> Twins:
    return both["gelu"]


@pytest.fixture
def folder(twins: Twins, tmp_path: Path) -> Path:
    return Path(shutil.copytree(twins[2], tmp_path / "copy"))


def photograph(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth shapes with sharp edges and noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 7, 9, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    sharp = (smooth > 0.5).float() * 0.6 + 0.3 * smooth + 0.1 * torch.rand(1, 3, height, width, generator=generator)
    return Image.fromarray((sharp[0] * 255).byte().permute(1, 2, 0).numpy())


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


# ---- one model, two back-ends


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_images_agree(both: dict[str, Twins], act: str, normalize: bool) -> None:
    model, ours, theirs = both[act]
    pixels = torch.rand(3, 3, 32, 32)
    colours = [torch.tensor(value)[:, None, None] for value in (MEAN, STD)]
    with torch.no_grad():
        expected = model.encode_image((pixels - colours[0]) / colours[1], normalize=normalize)
    for card in (f"local-dir:{ours}", str(theirs)):
        tower = ImageTower(card, normalize=normalize)
        assert (tower.dim, tower.width, tower.image_size) == (24, 128, 32)
        close(tower.embed(pixels), expected, 5e-6)
    close(ImageTower(f"local-dir:{ours}").patches(pixels), ImageTower(str(theirs)).patches(pixels), 2e-5)
    assert ImageTower(str(theirs)).patches(pixels).shape == (3, 1 + 16, 128)


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_texts_agree(both: dict[str, Twins], act: str) -> None:
    model, ours, theirs = both[act]
    tokenizer = SimpleTokenizer(context_length=16)
    with torch.no_grad():
        expected = model.encode_text(tokenizer(SENTENCES))
    towers = [TextTower(f"local-dir:{ours}"), TextTower(str(theirs))]
    states = []
    for tower in towers:
        assert (tower.dim, tower.width, tower.max_length) == (24, 64, 16)
        close(tower.embed(SENTENCES), expected, 5e-6)
        hidden, mask = tower.states(SENTENCES)
        assert hidden.shape == (4, 16, 64)
        assert mask.sum(1).tolist() == [len(tokenizer.encode(text)) + 2 for text in SENTENCES]
        assert not hidden[~mask].any()
        states.append((hidden, mask))
    close(states[0][0], states[1][0], 2e-5)
    assert torch.equal(states[0][1], states[1][1])
    # the last state under the mask is what the projection reads
    hidden, mask = states[1]
    last = hidden[torch.arange(4), mask.sum(1) - 1]
    close(last @ towers[1].model.text_projection.weight.T, expected, 5e-6)


def test_the_wrong_activation_would_show(twins: Twins, tmp_path: Path) -> None:
    _, ours, _ = twins
    other = Path(shutil.copytree(ours, tmp_path / "other"))
    content = json.loads((other / "open_clip_config.json").read_text())
    content["model_cfg"]["quick_gelu"] ^= True
    (other / "open_clip_config.json").write_text(json.dumps(content))
    pixels = torch.rand(1, 3, 32, 32)
    difference = ImageTower(f"local-dir:{other}").embed(pixels) - ImageTower(f"local-dir:{ours}").embed(pixels)
    assert difference.abs().max().item() > 1e-3


def test_the_tag_decides_on_the_activation() -> None:
    for tag, quick in (("openai", True), ("laion2b_s34b_b79k", False)):
        assert clip._release(clip.card_of(f"open_clip:ViT-B-32/{tag}"), True).config["quick_gelu"] is quick


@pytest.mark.parametrize("part", ["visual", "text"])
def test_open_clip_towers_of_the_custom_layout(part: str, twins: Twins, tmp_path: Path) -> None:
    """open_clip lists the text tower below "text." in its newer classes."""
    model, ours, _ = twins
    sizes = json.loads((ours / "open_clip_config.json").read_text())["model_cfg"]
    state = {key if key.startswith(("visual.", "logit")) else f"text.{key}": value for key, value in model.state_dict().items()}
    custom = open_clip.CustomTextCLIP(**sizes)
    custom.load_state_dict(state)
    folder = open_clip_folder(tmp_path / "custom", custom, sizes)
    if part == "visual":
        pixels = torch.rand(1, 3, 32, 32)
        assert agree(ImageTower(f"local-dir:{folder}").embed(pixels), ImageTower(f"local-dir:{ours}").embed(pixels))
    else:
        assert agree(TextTower(f"local-dir:{folder}").embed(["rain"]), TextTower(f"local-dir:{ours}").embed(["rain"]))


def test_open_clip_towers_that_are_no_vit(tmp_path: Path) -> None:
    resnet = SIZES | {"vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}}
    timm = SIZES | {"vision_cfg": {"image_size": 32, "timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "linear"}}
    for name, sizes in {"resnet": resnet, "timm": timm}.items():
        model = open_clip.CustomTextCLIP(**sizes).eval()
        tower = ImageTower(f"local-dir:{open_clip_folder(tmp_path / name, model, sizes)}")
        pixels = torch.rand(2, 3, 32, 32)
        with torch.no_grad():
            close(tower.embed(pixels), model.encode_image(tower.preprocess(pixels)), 1e-5)
        assert (tower.dim, tower.width) == (24, 0)
        with pytest.raises(ValueError, match="no plain ViT"):
            tower.patches(pixels)


# ---- preprocessing


@pytest.mark.parametrize("size", [(32, 32), (33, 32), (45, 80), (80, 45), (301, 224), (20, 27), (64, 35)])
@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_preprocessing_is_that_of_open_clip(size: tuple[int, int], mode: str) -> None:
    picture = photograph(*size)
    expected = open_clip.image_transform(32, is_train=False, mean=MEAN, std=STD, interpolation="bicubic", resize_mode=mode)(
        picture
    )
    made = Preprocess(32, MEAN, STD, resize=mode)(to_tensor(picture)[None])[0]
    error = ((made - expected) * torch.tensor(STD)[:, None, None]).abs() * 255
    # open_clip rounds to 8 bits twice, after each axis
    assert error.max().item() < 1.1
    assert error.mean().item() < 0.35


def test_bilinear_preprocessing() -> None:
    picture = photograph(50, 70)
    expected = open_clip.image_transform(32, is_train=False, mean=MEAN, std=STD, interpolation="bilinear")(picture)
    made = Preprocess(32, MEAN, STD, interpolation="bilinear")(to_tensor(picture)[None])[0]
    assert ((made - expected) * torch.tensor(STD)[:, None, None]).abs().max().item() * 255 < 1.1


def test_settings_come_from_the_folder(folder: Path) -> None:
    path = folder / "preprocessor_config.json"
    new = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "resample": 2}
    path.write_text(json.dumps(new | {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}))
    preprocess = ImageTower(str(folder)).preprocess
    assert (preprocess.size, preprocess.interpolation, preprocess.resize) == (32, "bilinear", "shortest")
    close(preprocess.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]), 0)
    close(preprocess.std.flatten(), torch.tensor([0.5, 0.6, 0.7]), 0)
    squash = {"size": {"height": 32, "width": 32}, "do_center_crop": False, "image_mean": MEAN, "image_std": STD}
    path.write_text(json.dumps(squash))
    assert ImageTower(str(folder)).preprocess.resize == "squash"


@pytest.mark.parametrize(
    "change", [{"image_mean": None}, {"size": {"shortest_edge": 40}}, {"resample": 1}, {"crop_size": {"height": 32, "width": 40}}]
)
def test_preprocessing_is_never_guessed(change: dict[str, Any], folder: Path) -> None:
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match="does not say how its pictures are prepared|cannot be resized"):
        ImageTower(str(folder))
    path.unlink()
    with pytest.raises(FileNotFoundError, match="preprocessor_config.json does not exist"):
        ImageTower(str(folder))


def test_pixels_of_another_form_are_refused() -> None:
    tower = tiny()["ImageTower"]()
    for wrong in (torch.rand(3, 32, 32), torch.rand(1, 1, 32, 32), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="float pixels"):
            tower.embed(wrong)


# ---- promises of every encoder


def test_pictures_do_not_know_their_batch() -> None:
    tower = tiny()["ImageTower"]()
    pixels = torch.rand(4, 3, 40, 52)
    together = tower.embed(pixels)
    close(torch.cat([tower.embed(each[None]) for each in pixels]), together, 2e-6)
    close(tower.embed(pixels.flip(0)).flip(0), together, 2e-6)
    assert agree(tower.embed(pixels), together)
    assert (together[0] - together[1]).abs().max().item() > 1e-4


def test_sentences_do_not_know_their_batch() -> None:
    tower = tiny()["TextTower"]()
    texts = ["rain on a roof", "bell", "a very much longer sentence about bees"]
    together, (states, _) = tower.embed(texts), tower.states(texts)
    close(torch.cat([tower.embed([each]) for each in texts]), together, 2e-6)
    close(torch.cat([tower.states([each])[0] for each in texts]), states, 2e-5)
    assert agree(tower.embed(texts), together)
    assert (together[0] - together[1]).abs().max().item() > 1e-4


def test_normalize() -> None:
    image, text = tiny()["ImageTower"](), tiny()["TextTower"]()
    unit = ImageTower.from_model(image.model, normalize=True)
    pixels = torch.rand(2, 3, 32, 32)
    close(unit.embed(pixels), torch.nn.functional.normalize(image.embed(pixels), dim=-1), 1e-6)
    close(TextTower.from_parts(text.model, text.tokenizer, normalize=True).embed(["a", "b"]).norm(dim=-1), torch.ones(2), 1e-6)
    assert (image.embed(pixels).norm(dim=-1) - 1).abs().min().item() > 1e-3


def test_gradients_flow_to_the_pixels_and_no_further(twins: Twins) -> None:
    for card in (f"local-dir:{twins[1]}", str(twins[2])):
        tower = ImageTower(card)
        pixels = torch.rand(1, 3, 45, 40, requires_grad=True)
        tower.embed(pixels).square().sum().backward()
        assert pixels.grad is not None
        # every pixel inside the crop matters
        assert (pixels.grad.abs().sum(1) > 0).float().mean().item() > 0.85
        assert all(weight.grad is None and not weight.requires_grad for weight in tower.parameters())
        assert tower.state_dict() == {}


def test_gradients_flow_to_a_word(twins: Twins) -> None:
    tower = TextTower(str(twins[2]))
    word = torch.zeros(64, requires_grad=True)
    table = tower.model.get_input_embeddings()
    table.register_forward_hook(lambda module, args, output: torch.cat([output[:, :1], word.expand(1, 1, -1), output[:, 2:]], 1))
    tower.embed(["rain on a roof"]).sum().backward()
    assert word.grad is not None
    assert word.grad.abs().sum().item() > 0


def test_half_precision(twins: Twins) -> None:
    pixels = torch.rand(1, 3, 32, 32)
    for card in (f"local-dir:{twins[1]}", str(twins[2])):
        expected, made = ImageTower(card).embed(pixels), ImageTower(card).bfloat16().embed(pixels)
        assert made.dtype == torch.float32
        assert torch.cosine_similarity(made, expected).item() > 0.99
        with torch.autocast("cpu", torch.bfloat16):
            assert ImageTower(card).embed(pixels).dtype == torch.float32


# ---- files


def test_a_tower_holds_its_own_weights_only(twins: Twins) -> None:
    model, ours, theirs = twins
    image = sum(weight.numel() for weight in model.visual.parameters())
    text = sum(weight.numel() for weight in model.parameters()) - image - 1
    for card in (f"local-dir:{ours}", str(theirs)):
        assert sum(weight.numel() for weight in ImageTower(card).parameters()) == image
        assert sum(weight.numel() for weight in TextTower(card).parameters()) == text


def test_folders_of_one_tower(twins: Twins, tmp_path: Path) -> None:
    """As diffusers pipelines hold them: image_encoder, text_encoder."""
    theirs = twins[2]
    for name, part in {"vision": ImageTower(str(theirs)).model, "text": TextTower(str(theirs)).model}.items():
        part.save_pretrained(tmp_path / name)
        for path in theirs.glob("*token*"):
            shutil.copy(path, tmp_path / name)
        shutil.copy(theirs / "preprocessor_config.json", tmp_path / name)
    pixels = torch.rand(1, 3, 32, 32)
    assert agree(ImageTower(str(tmp_path / "vision")).embed(pixels), ImageTower(str(theirs)).embed(pixels))
    assert agree(TextTower(str(tmp_path / "text")).embed(["a bee"]), TextTower(str(theirs)).embed(["a bee"]))
    with pytest.raises(ValueError, match="'clip_text_model', not 'clip' or 'clip_vision_model'"):
        ImageTower(str(tmp_path / "text"))


def test_old_files(folder: Path, twins: Twins) -> None:
    """A pickle with index tables among the weights, a config from before the end mark was named, a tokenizer in two files."""
    state = load_file(folder / "model.safetensors")
    state["text_model.embeddings.position_ids"] = torch.arange(16)[None]
    state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    words = json.loads((folder / "tokenizer.json").read_text())["model"]
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "vocab.json").write_text(json.dumps(words["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in words["merges"]) + "\n")
    pixels = torch.rand(1, 3, 32, 32)
    assert agree(ImageTower(str(folder)).embed(pixels), ImageTower(str(twins[2])).embed(pixels))
    assert agree(TextTower(str(folder)).embed(SENTENCES), TextTower(str(twins[2])).embed(SENTENCES))


def test_open_clip_training_checkpoint(twins: Twins, tmp_path: Path) -> None:
    model, ours, _ = twins
    shutil.copy(ours / "open_clip_config.json", tmp_path)
    content = {"epoch": 3, "name": "mine", "state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}
    torch.save(content, tmp_path / "open_clip_pytorch_model.bin")
    pixels = torch.rand(1, 3, 32, 32)
    assert agree(ImageTower(f"local-dir:{tmp_path}").embed(pixels), ImageTower(f"local-dir:{ours}").embed(pixels))


def test_mini_is_what_save_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xmodal.registry.cards.WEIGHTS", tmp_path)
    for tower in (ImageTower, TextTower):
        with pytest.raises(FileNotFoundError, match="'package:clip' are not on this machine"):
            tower()
    tokenizer = build_tokenizer()
    model: Any = build("mini", vocabulary=len(tokenizer))
    save(model, tokenizer, tmp_path / "clip")
    assert {path.name for path in (tmp_path / "clip").iterdir()} == set(CARDS["mini"].files)
    image, text = ImageTower(), TextTower()
    assert (image.dim, text.dim, image.image_size, text.max_length) == (128, 128, 64, 24)
    pixels = torch.rand(2, 3, 64, 64)
    named, by_path = image.embed(pixels), ImageTower(str(tmp_path / "clip")).embed(pixels)
    assert agree(named, by_path)
    with torch.no_grad():
        ids = tokenizer(["a bell on the left"], padding="max_length", return_tensors="pt").input_ids
        close(named, model.get_image_features(image.preprocess(pixels)).pooler_output, 5e-3)
        close(text.embed(["a bell on the left"]), model.get_text_features(ids).pooler_output, 5e-3)
    # transformers reads the same folder
    assert CLIPModel.from_pretrained(tmp_path / "clip").config.projection_dim == 128


def cached(cache: Path, repository: str, folder: Path) -> None:
    """Lay a folder into a hub cache."""
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, place / "snapshots" / ("0" * 40))


def test_hub_cache(twins: Twins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached(tmp_path, "somebody/clip", twins[2])
    cached(tmp_path, "somebody/open-clip", twins[1])
    cached(tmp_path, "openai/clip-vit-base-patch32", twins[2])
    pixels = torch.rand(1, 3, 32, 32)
    close(ImageTower("somebody/clip").embed(pixels), ImageTower("hf-hub:somebody/open-clip").embed(pixels), 5e-6)
    assert TextTower("somebody/clip").dim == TextTower("hf-hub:somebody/open-clip").dim == 24
    with pytest.raises(ValueError, match="resized to 224 pixels, but the model sees 32"):
        ImageTower("vit-b-32")


@pytest.mark.parametrize(
    "card",
    ["nobody/nothing", "hf-hub:nobody/nothing", "open_clip:ViT-B-32/laion2b_s34b_b79k", "open_clip:RN50/openai", "vit-l-14"],
)
def test_nothing_is_downloaded_unasked(card: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for tower in (ImageTower, TextTower):
        with pytest.raises(FileNotFoundError, match=f"are not on this machine .*huggingface.co/.*`xmodal pull clip:{card}`"):
            tower(card)


def test_downloads_on_request(twins: Twins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def snapshot(source: str, revision: str | None, allow_patterns: list[str]) -> str:
        """The publisher has the older form of the weights alone."""
        asked.append((source, allow_patterns))
        place = tmp_path / "models--somebody--clip"
        folder = Path(shutil.copytree(twins[2], place / "snapshots" / "c0ffee", dirs_exist_ok=True))
        (folder / "model.safetensors").unlink()
        if "pytorch_model.bin" in allow_patterns:
            torch.save(load_file(twins[2] / "model.safetensors"), folder / "pytorch_model.bin")
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / "main").write_text("c0ffee")
        return str(folder)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert ImageTower("somebody/clip", local_files_only=False).dim == 24
    assert asked == [("somebody/clip", ["*.json", "*.txt", "model.safetensors"]), ("somebody/clip", ["pytorch_model.bin"])]


def test_a_refused_download_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(source: str, revision: str | None, allow_patterns: list[str]) -> str:
        raise ConnectionError("no route\nto host. And more")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(FileNotFoundError, match=r"'openai/clip-vit-base-patch32' .*did not give them \(no route to host\)$"):
        ImageTower("vit-b-32", local_files_only=False)


# ---- what cannot work


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="clip has no card 'vit-b-33'.*vit-b-32"):
        ImageTower("vit-b-33")
    with pytest.raises(ValueError, match="no weights 'laion' of 'ViT-B-32': its tags are .*laion2b_s34b_b79k"):
        ImageTower("open_clip:ViT-B-32/laion")
    with pytest.raises(ValueError, match="no weights 'openai' of 'ViT-B-33': give ARCHITECTURE/TAG"):
        ImageTower("open_clip:ViT-B-33/openai")
    (tmp_path / "model.pt").touch()
    with pytest.raises(FileNotFoundError, match="no transformers folder.*local-dir:"):
        ImageTower(str(tmp_path / "model.pt"))
    with pytest.raises(FileNotFoundError, match="open_clip_config.json does not exist"):
        ImageTower(f"local-dir:{tmp_path}")


def test_an_empty_tokenizer_is_noticed(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(ValueError, match="knows 2 tokens, but the text tower 49408"):
        TextTower(str(folder))
    assert ImageTower(str(folder)).dim == 24


def test_a_wrong_end_mark_is_noticed(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 7
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="ends with id 49407, but the text tower looks for 7"):
        TextTower(str(folder))


def test_weights_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    del state["vision_model.post_layernorm.bias"]
    save_file(state, path)
    with pytest.raises(ValueError, match=r"does not fit the vision tower .* \(1 missing, 0 unknown\)"):
        ImageTower(str(folder))
    assert TextTower(str(folder)).dim == 24
    path.write_bytes(b"no safetensors")
    with pytest.raises(ValueError, match="damaged or not a safetensors file"):
        TextTower(str(folder))
    path.unlink()
    with pytest.raises(FileNotFoundError, match="has no weights: expected model.safetensors or pytorch_model.bin"):
        TextTower(str(folder))


class Intruder:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("intruder"),))


def test_pickles_are_not_executed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({"vision_model.x": Intruder()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be read"):
        ImageTower(str(folder))
    assert not (tmp_path / "intruder").exists()


def test_long_sentences(twins: Twins) -> None:
    long = "a bee " * 20
    for card in (f"local-dir:{twins[1]}", str(twins[2])):
        with pytest.raises(ValueError, match="has 42 tokens with its start and end, but the text tower reads 16"):
            TextTower(card).embed(["a bee", long])
        cut = TextTower(card, truncate=True)
        assert agree(cut.embed([long]), cut.embed(["a bee " * 7]))
        assert cut.states([long])[1].all()
    with pytest.raises(ValueError, match="a list of at least one sentence, got 'a bee'"):
        cut.embed("a bee")


def test_texts_that_open_clip_reads_otherwise(tmp_path: Path) -> None:
    everywhere = SIZES | {"text_cfg": SIZES["text_cfg"] | {"no_causal_mask": True}}
    folder = open_clip_folder(tmp_path / "everywhere", open_clip.CLIP(**everywhere), everywhere)
    with pytest.raises(ValueError, match="not causal"):
        TextTower(f"local-dir:{folder}").states(["rain"])
    with pytest.raises(ValueError, match="needs roberta-base"):
        TextTower("open_clip:roberta-ViT-B-32/laion2b_s12b_b32k")


# ---- cards


@pytest.mark.parametrize("name", CARDS)
def test_parameters_of_the_cards(name: str) -> None:
    with torch.device("meta"):
        model = build(name)
    assert sum(weight.numel() for weight in model.parameters()) == CARDS[name].parameters


@pytest.mark.parametrize("name", [name for name in CARDS if name.startswith("open_clip:")])
def test_cards_agree_with_open_clip(name: str) -> None:
    architecture, tag = name.removeprefix("open_clip:").split("/")
    published, config = open_clip.get_pretrained_cfg(architecture, tag), open_clip.get_model_config(architecture)
    card: Card = CARDS[name]
    assert (card.mean, card.std) == (tuple(published["mean"]), tuple(published["std"]))
    assert (published["interpolation"], published["resize_mode"]) == ("bicubic", "shortest")
    assert card.origin == f"https://huggingface.co/{published['hf_hub'].rstrip('/')}"
    assert (card.image_size, card.dim) == (config["vision_cfg"]["image_size"], config["embed_dim"])


def test_unlisted_tags_bring_their_own_preprocessing() -> None:
    name = "open_clip:ViT-H-14-378-quickgelu/dfn5b"
    card = clip.card_of(name)
    made = clip._preprocess(card, clip._release(card, True).preprocessing)
    assert (made.size, made.resize, made.interpolation) == (378, "squash", "bicubic")
