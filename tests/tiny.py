"""Tiny random parts for tests: built in microseconds, offline."""

from __future__ import annotations

from collections.abc import Callable
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from xmodal.adapter_task import AdapterTask
from xmodal.foundation.base import Adapter, Encoder
from xmodal.registry.build import Builder

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from xmodal.foundation.stable_diffusion import StableDiffusion


def build(section: dict[str, Any], kind: type, **parts: Any) -> Any:
    """What a recipe's section describes, ready to be trained."""
    return Builder("the recipe", trust=True, training=True).build(section, kind, **parts)


class TinyEncoder(Encoder):
    """A random projection followed by a normalization with running statistics."""

    def __init__(self, dim: int = 4, hidden: int = 3) -> None:
        super().__init__()
        self.dim = dim
        self.net = nn.Sequential(nn.Linear(6, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, dim))

    def embed(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)


class OtherEncoder(TinyEncoder):
    """Draws a different amount of random numbers."""

    def __init__(self, dim: int = 4, hidden: int = 17) -> None:
        super().__init__(dim, hidden)
        self.more = nn.Linear(50, 50)


class TinyAdapter(Adapter):
    def __init__(self, in_dim: int, out_dim: int, bias: bool = True) -> None:
        super().__init__()
        if out_dim < 1:
            raise ValueError("nothing to predict")
        self.linear = nn.Linear(in_dim, out_dim, bias=bias)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(inputs)


class TinyTask(AdapterTask):
    """Regress the targets from the encoder's embedding.

    Args:
        encoder: turns (B, 6) into (B, d).
        adapter: factory (d, 2).
        weight: of the second loss term.
    """

    def __init__(
        self,
        encoder: Encoder,
        adapter: Callable[[int, int], Adapter] = TinyAdapter,
        weight: float = 0.5,
        **task: object,
    ) -> None:
        super().__init__(**task)  # type: ignore[arg-type]
        self.encoder = encoder
        self.adopt(self.build_adapter(adapter, encoder.dim, 2))
        self.weight = weight

    def losses(self, batch: list[Tensor]) -> dict[str, Tensor]:
        made = self.adapter(self.encoder.embed(batch[0]))
        return {"error": (made - batch[1]).square().mean(), "size": self.weight * made.abs().mean()}

    def make(self, batch: Any, rows: Any, generators: Any) -> Any:
        raise ValueError("tiny tasks make nothing that is written")

    def pipeline(self) -> Callable[[Tensor], Tensor]:
        return lambda inputs: self.adapter(self.encoder.embed(inputs))


class TinyData(LightningDataModule):
    def __init__(self, batch_size: int = 4, count: int = 16) -> None:
        super().__init__()
        self.batch_size = batch_size
        generator = torch.Generator().manual_seed(1)
        self.items = TensorDataset(torch.randn(count, 6, generator=generator), torch.randn(count, 2, generator=generator))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.items, batch_size=self.batch_size)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.items, batch_size=self.batch_size)


SECTION = {
    "class_path": "tests.tiny.TinyTask",
    "init_args": {
        "encoder": {"class_path": "tests.tiny.TinyEncoder", "init_args": {"dim": 4}},
        "adapter": {"class_path": "tests.tiny.TinyAdapter", "init_args": {"bias": True}},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
        "lr_scheduler": {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1, "gamma": 0.5}},
    },
}

RECIPE = """# A tiny recipe
seed_everything: 0
vars: {lr: 0.1, steps: 3}
model:
  class_path: tests.tiny.TinyTask
  init_args:
    encoder: {class_path: tests.tiny.TinyEncoder, init_args: {dim: 4}}
    adapter: {class_path: tests.tiny.TinyAdapter}
    optimizer: {class_path: torch.optim.SGD, init_args: {lr: "${vars.lr}"}}
    lr_scheduler: {class_path: torch.optim.lr_scheduler.StepLR, init_args: {step_size: 1, gamma: 0.9}}
data: {class_path: tests.tiny.TinyData}
trainer:
  max_steps: ${vars.steps}
  accelerator: cpu
  log_every_n_steps: 1
  enable_progress_bar: false
"""


def tiny_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's byte-pair format in 64 tokens; start 60 and end 61, the ids 5-16, 21, 33 and 40 are words of one letter."""
    merges = [("o", "f</w>"), ("a", "n</w>"), ("t", "h"), ("th", "e</w>"), ("p", "h"), ("d", "o"), ("do", "g</w>")]
    words = [f"{letter}</w>" for letter in (*ascii_lowercase, ",", ".", "4")]
    first = [*range(5, 17), 21, 33, 40]
    rest = [index for index in range(64) if index not in (*first, 60, 61)]
    tokens = [*words, *ascii_lowercase, *("".join(merge) for merge in merges)]
    return {**dict(zip(tokens, first + rest, strict=True)), "<|startoftext|>": 60, "<|endoftext|>": 61}, merges


def tiny_tokenizer(max_length: int = 77, **options: Any) -> CLIPTokenizer:
    from transformers import CLIPTokenizer

    vocabulary, merges = tiny_vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=max_length, **options)


def tiny_sd_parts(seed: int = 0, **scheduler: Any) -> dict[str, Any]:
    """Random parts of a Stable Diffusion with pictures of 32x32 and latents of 4x16x16; the seed leaves no trace."""
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    text = CLIPTextConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=77, hidden_act="quick_gelu", bos_token_id=60, eos_token_id=61, pad_token_id=61,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {
            "vae": AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                block_out_channels=(8, 16), latent_channels=4, norm_num_groups=8, sample_size=32,
            ),
            "text_encoder": CLIPTextModel(text),
            "tokenizer": tiny_tokenizer(),
            "unet": UNet2DConditionModel(
                sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(16, 32),
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                cross_attention_dim=32, attention_head_dim=4, norm_num_groups=8,
            ),
            "scheduler": PNDMScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1,
                set_alpha_to_one=False, **scheduler,
            ),
        }  # fmt: skip


def tiny_stable_diffusion(seed: int = 0, **scheduler: Any) -> StableDiffusion:
    from xmodal.foundation.stable_diffusion import StableDiffusion

    return StableDiffusion.from_parts(**tiny_sd_parts(seed, **scheduler))
