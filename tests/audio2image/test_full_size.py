"""The full-size recipe's model, with random weights: BEATs iter3+ and Stable Diffusion 1.4 as published, one training step."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import CLIPTokenizer

from tests.foundation.test_beats import FULL
from xmodal.audio2image import AudioToken, AudioTokenEmbedder
from xmodal.foundation.base import Adapter
from xmodal.foundation.beats import BEATs, BEATsModel
from xmodal.foundation.stable_diffusion import StableDiffusion
from xmodal.registry import models as registry
from xmodal.registry.build import Builder
from xmodal.registry.recipe import parts, read

ROOT = Path(__file__).parent.parent.parent


def clip_tokenizer() -> CLIPTokenizer:
    """OpenAI's vocabulary of 49408 tokens, from the file that the open_clip package ships."""
    import open_clip
    from tokenizers import pre_tokenizers

    packed = (Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=merges, model_max_length=77)


def stable_diffusion() -> StableDiffusion:
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    text = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    return StableDiffusion.from_parts(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=clip_tokenizer(),
        unet=UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, sample_size=64),
        scheduler=PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    )


@pytest.fixture
def quick_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights from one short draw: a billion draws would take longer than the step."""
    noise = 0.02 * torch.randn(1 << 20)

    def fill(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        with torch.no_grad():
            return tensor.copy_(noise.repeat(tensor.numel() // len(noise) + 1)[: tensor.numel()].view(tensor.shape))

    for name in ("kaiming_uniform_", "uniform_", "normal_", "xavier_normal_", "xavier_uniform_", "trunc_normal_"):
        monkeypatch.setattr(torch.nn.init, name, fill)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_weights")
def test_the_full_size_recipe_builds_and_takes_a_step() -> None:
    section = yaml.safe_load((ROOT / "recipes/audio2image/audiotoken.yaml").read_text())["model"]["init_args"]
    encoder = BEATs.from_model(BEATsModel(FULL), layers=[4, 8, 12])
    options = {name: section[name] for name in ("prompt", "l1_weight", "classification_weight", "seconds", "short")}
    task = AudioToken(encoder, stable_diffusion(), AudioTokenEmbedder, **options)
    trained = sum(parameter.numel() for parameter in task.parameters() if parameter.requires_grad)
    assert trained == 8_853_507  # AudioToken's embedder for Stable Diffusion 1.x
    assert set(task.state_dict()) == {f"adapter.{key}" for key in task.adapter.state_dict()}
    batch = {"waveform": 0.1 * torch.randn(1, 80000), "pixels": torch.rand(1, 3, 64, 64), "name": ["dog barking"]}
    assert task.features(batch)["audio_tokens"].shape == (1, 248, 2304)
    loss = sum(task.losses(batch).values())
    loss.backward()
    assert torch.isfinite(loss)
    assert task.adapter.fc1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("name", "trained"), [("imagebind-unclip", 0), ("wav2clip-unclip", 512 * 768 + 768), ("label-text", 0)])
def test_baselines_on_the_meta_device(name: str, trained: int) -> None:
    """Of the parts that the recipe names, at the sizes of its cards; the painter's labels are as wide as the adapter's."""
    recipe = read([name])
    cards = {part.class_path.rpartition(".")[2]: part.card for part in parts(recipe)}
    with torch.device("meta"):
        names = {kind: card.name.split(":") for kind, card in cards.items()}
        built = {kind: registry.resolve(model).build(card) for kind, (model, card) in names.items()}
    assert all(sum(each.numel() for each in one.parameters()) > 1e7 for one in built.values())
    if "StableUnCLIP" not in built:
        return
    width = built["StableUnCLIP"]["unet"].config.projection_class_embeddings_input_dim // 2
    heard = cards["AudioTower" if "AudioTower" in cards else "Wav2CLIP"].dim
    section = recipe["model"]["init_args"]["adapter"]
    adapter = Builder(name).factory(section, Adapter)(heard, width)
    assert sum(each.numel() for each in adapter.parameters()) == trained
