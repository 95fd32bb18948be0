"""Stable Diffusion XL (Podell et al., arXiv 2307.01952): two text encoders, their pooled vector, and sizes as conditions.

A pseudo-word enters both text encoders, with a vector of its own in each. Letters as in the model stable_diffusion; p is the
width of the pooled vector, and c the sum of the two encoders' widths.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from xmodal.diffusion.sampling import Generators
from xmodal.foundation.base import Card, check_vocabulary, find_card
from xmodal.foundation.painter_parts import check_widths, read_parts, tiny_parts
from xmodal.foundation.stable_diffusion import StableDiffusion, spliced
from xmodal.frozen import Frozen
from xmodal.registry.cards import any_card, locate
from xmodal.registry.checkpoint import read_module

PARTS = ("text_encoder_2", "tokenizer_2")
HUB_FILES = ["*/*.json", "tokenizer/merges.txt", "tokenizer_2/merges.txt"] + [
    f"{part}/model.safetensors" for part in ("text_encoder", "text_encoder_2")
] + [f"{part}/diffusion_pytorch_model.safetensors" for part in ("vae", "unet")]  # fmt: skip
Pair = tuple[int, int]


class StableDiffusionXL(StableDiffusion):
    """Frozen Stable Diffusion XL. This differs from `StableDiffusion`.

    ``token_dim`` is the sum of both encoders' word widths, and a pseudo-word is the first encoder's vector, then the second's.
    `prompt_embeds` gives (B, S + 1, c): the states before the encoders' last layers, and behind them a row that begins with the
    pooled vector (p numbers, then zeros). That vector is read at the prompt's true end-of-text, whatever ``eos_token_id`` the
    weights' configuration states: where it says 2, transformers reads at the highest id, which an added word would be.

    Args:
        card, dtype, local_files_only, lora, lora_scale, algorithm_type: as for Stable Diffusion; the folder holds
            ``text_encoder_2`` and ``tokenizer_2`` besides. In float16 the VAE stays in float32 where its configuration asks
            for it.

    Raises as Stable Diffusion does.
    """

    streamed = ("unet", "text_encoder", "text_encoder_2", "vae")

    def __init__(
        self,
        card: str = "sdxl-base-1.0",
        dtype: str = "float32",
        local_files_only: bool = True,
        lora: Path | None = None,
        lora_scale: float = 1.0,
        algorithm_type: str | None = None,
    ) -> None:
        super().__init__(card, dtype, local_files_only, lora, lora_scale, algorithm_type)

    @staticmethod
    def _read(card: str, dtype: torch.dtype, local_files_only: bool) -> dict[str, Any]:
        folder = locate(card_of(card), local_files_only)
        lacking = [part for part in PARTS if not (folder / part).is_dir()]
        if lacking:
            raise FileNotFoundError(f"{folder} lacks {', '.join(lacking)}: copy the whole folder of a Stable Diffusion XL")
        from transformers import CLIPTextModelWithProjection, CLIPTokenizer

        second = read_module(CLIPTextModelWithProjection, folder / PARTS[0], dtype=dtype)
        tokenizer = CLIPTokenizer.from_pretrained(folder / PARTS[1], local_files_only=True)
        return {**read_parts(folder, dtype), "text_encoder_2": second, "tokenizer_2": tokenizer}

    @classmethod
    def from_parts(
        cls,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        scheduler: Any,
        text_encoder_2: Any = None,
        tokenizer_2: Any = None,
    ) -> Self:
        """Build from components in memory, which are frozen in place; raises ValueError where they do not fit."""
        return cls.assembled(vae, text_encoder, tokenizer, unet, scheduler, text_encoder_2, tokenizer_2)

    def _assemble(
        self, vae: Any, text_encoder: Any, tokenizer: Any, unet: Any, scheduler: Any, text_encoder_2: Any, tokenizer_2: Any
    ) -> None:
        if text_encoder_2 is None or tokenizer_2 is None:
            raise ValueError(f"a Stable Diffusion XL needs {' and '.join(PARTS)}: give both")
        self.text_encoder_2, self.tokenizer_2 = text_encoder_2, tokenizer_2
        super()._assemble(vae, text_encoder, tokenizer, unet, scheduler)
        self.widths = (text_encoder.config.hidden_size, text_encoder_2.config.hidden_size)
        self.pooled_dim: int = text_encoder_2.config.projection_dim
        self.token_dim = sum(self.widths)
        self.max_length = min(self.max_length, tokenizer_2.model_max_length, text_encoder_2.config.max_position_embeddings)

    def _check_parts(self, vae: Any, text_encoder: Any, tokenizer: Any, unet: Any) -> None:
        second = self.text_encoder_2.config
        check_widths(vae, tokenizer, text_encoder, unet, text_encoder.config.hidden_size + second.hidden_size)
        check_vocabulary(len(self.tokenizer_2), second.vocab_size, "second text encoder")
        sizes, expected = 6 * (unet.config.addition_time_embed_dim or 0), unet.config.projection_class_embeddings_input_dim
        if unet.config.addition_embed_type != "text_time" or second.projection_dim + sizes != expected:
            found = f"a pooled vector of {second.projection_dim} numbers and six sizes of {sizes} in all"
            raise ValueError(f"the second text encoder gives {found}, but the UNet reads {expected}: take all parts of one model")

    # Text

    def prompt_embeds(self, prompts: list[str], tokens: Tensor | None = None) -> Tensor:
        """Encode B prompts to (B, S + 1, c), see the class; ``{}`` and errors as in Stable Diffusion.

        ``tokens`` are (B, token_dim) or (B, k, token_dim).
        """
        tokens = self._in_a_row(tokens, len(prompts))
        words = (None, None) if tokens is None else tokens.split(self.widths, -1)
        states, ends = [], []
        for tokenizer, encoder, word in zip(
            (self.tokenizer, self.tokenizer_2), (self.text_encoder, self.text_encoder_2), words, strict=True
        ):
            count = 0 if word is None else word.shape[1]
            known = {prompt: self._token_ids(prompt, count, tokenizer) for prompt in dict.fromkeys(prompts)}
            ids = torch.tensor([known[prompt][0] for prompt in prompts], device=self.unet.device)
            places = torch.tensor([known[prompt][1] for prompt in prompts], device=ids.device)
            with spliced(encoder.get_input_embeddings(), ids.new_zeros(len(ids), 0, 1) if word is None else word, places):
                made = encoder(ids, output_hidden_states=True)
            states.append(made.hidden_states[-2])
            ends = [known[prompt][0].index(tokenizer.eos_token_id) for prompt in prompts]
        pooled = self.text_encoder_2.text_projection(made.last_hidden_state[torch.arange(len(prompts)), ends])
        joined = torch.cat(states, -1)
        row = nn.functional.pad(pooled, (0, joined.shape[-1] - pooled.shape[-1]))
        return torch.cat((joined, row[:, None]), 1)

    def empty_embeds(self) -> Tensor:
        """Zeros, as the published pipeline gives where no negative prompt is given: (1, S + 1, c)."""
        width = self.unet.config.cross_attention_dim
        return torch.zeros(1, self.max_length + 1, width, device=self.unet.device, dtype=self.unet.dtype)

    def pooled(self, prompt_embeds: Tensor) -> Tensor:
        """The pooled vectors (B, p) of prompt embeddings (B, S + 1, c)."""
        return prompt_embeds[:, -1, : self.pooled_dim]

    def label_embeds(self, labels: list[str]) -> Tensor:
        """Mean word embedding of each label's tokens in both encoders: (B, token_dim); ValueError for an empty label."""
        return torch.cat([self._mean_words(labels, each) for each in (self.text_encoder, self.text_encoder_2)], -1)

    # Pictures

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """As in Stable Diffusion."""
        self._upcast()
        return super().encode(pixels)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """As in Stable Diffusion."""
        self._upcast()
        return super().decode(latents)

    def _upcast(self) -> None:
        if self.vae.dtype == torch.float16 and self.vae.config.get("force_upcast"):
            self.vae.float()  # its activations overflow in float16

    def time_ids(self, count: int, original_size: Pair, crops_coords_top_left: Pair, target_size: Pair) -> Tensor:
        """Original height and width, crop from top and left, target height and width, as (count, 6) float32."""
        row = torch.tensor([*original_size, *crops_coords_top_left, *target_size], dtype=torch.float32, device=self.unet.device)
        return row.expand(count, -1)

    def loss(  # type: ignore[override]
        self,
        latents: Tensor,
        prompt_embeds: Tensor,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        timesteps: Tensor | None = None,
        time_ids: Tensor | None = None,
    ) -> Tensor:
        """Denoising loss as in Stable Diffusion; ``time_ids`` (B, 6) are by default the latents' own size, uncropped."""
        size = (latents.shape[2] * self.factor, latents.shape[3] * self.factor)
        ids = self.time_ids(len(latents), size, (0, 0), size) if time_ids is None else time_ids

        def predict(noisy: Tensor, timestep: Tensor, embeds: Tensor) -> Tensor:
            return self._predict(noisy, timestep, embeds, ids)

        return self._loss(predict, latents, prompt_embeds, generator, noise, timesteps)

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        prompt_embeds: Tensor,
        negative_prompt_embeds: Tensor | None = None,
        num_inference_steps: int = 25,
        guidance_scale: float = 5.0,
        generator: Generators = None,
        height: int | None = None,
        width: int | None = None,
        scheduler: Any = None,
        latents: Tensor | None = None,
        callback: Callable[[int, int], None] | None = None,
        original_size: Pair | None = None,
        crops_coords_top_left: Pair = (0, 0),
        target_size: Pair | None = None,
        negative_original_size: Pair | None = None,
        negative_crops_coords_top_left: Pair = (0, 0),
        negative_target_size: Pair | None = None,
        image: Tensor | None = None,
        strength: float = 0.8,
    ) -> Tensor:
        """Prompt embeddings (B, S + 1, c) -> float32 pixels (B, 3, H, W) in [0, 1].

        The sizes (height, width) that the picture is told to have: by default its own, uncropped; those of guidance's other side
        are by default the same, or, where one of them is given, that one. All else as in Stable Diffusion.
        """
        size = (self.image_size if height is None else height, self.image_size if width is None else width)
        own = (original_size or size, crops_coords_top_left, target_size or size)
        other = (negative_original_size or own[0], negative_crops_coords_top_left, negative_target_size or own[2])
        if negative_original_size is None and negative_target_size is None:
            other = own
        ids, negative_ids = (self.time_ids(len(prompt_embeds), *each) for each in (own, other))

        def predict(latents: Tensor, timestep: Tensor, embeds: Tensor) -> Tensor:
            rows = ids if len(embeds) == len(ids) else torch.cat((negative_ids, ids))
            return self._predict(latents, timestep, embeds, rows)

        return self._paint(
            predict, prompt_embeds, negative_prompt_embeds, num_inference_steps, guidance_scale, generator, size, scheduler,
            latents, callback, image, strength,
        )  # fmt: skip

    def _predict(self, latents: Tensor, timestep: Tensor, prompt_embeds: Tensor, time_ids: Tensor | None = None) -> Tensor:
        dtype = self.unet.dtype
        if time_ids is None:
            size = (latents.shape[2] * self.factor, latents.shape[3] * self.factor)
            time_ids = self.time_ids(len(latents), size, (0, 0), size)
        added = {"text_embeds": self.pooled(prompt_embeds).to(dtype), "time_ids": time_ids}
        states = prompt_embeds[:, :-1].to(dtype)
        return self.unet(latents.to(dtype), timestep, encoder_hidden_states=states, added_cond_kwargs=added).sample


def card_of(name: str) -> Card:
    """Return the card of a name, a hub id or a path."""
    return any_card(CARDS, name, "stable_diffusion_xl", HUB_FILES)


def build(card: str = "sdxl-base-1.0") -> nn.ModuleDict:
    """The four networks of a published card at full size, with random weights (or none, on the meta device)."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    find_card(CARDS, card, "stable_diffusion_xl")
    first: dict[str, Any] = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    second: dict[str, Any] = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20, "intermediate_size": 5120}
    kinds: dict[str, Any] = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    unet: dict[str, Any] = {
        "sample_size": 128, "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048, "use_linear_projection": True, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    }  # fmt: skip
    parts: dict[str, Any] = {
        "vae": AutoencoderKL(**kinds, block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**first)),
        "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**second, hidden_act="gelu", projection_dim=1280)),
        "unet": UNet2DConditionModel(**unet),
    }
    return nn.ModuleDict(parts)


def tiny() -> dict[str, Callable[[], Frozen]]:
    """A random instance with pictures of 32x32, for tests."""

    def paints() -> Frozen:
        from transformers import CLIPTextConfig, CLIPTextModelWithProjection

        parts = tiny_parts(
            cross_attention_dim=40, addition_embed_type="text_time", addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=36,
        )  # fmt: skip
        sizes: dict[str, Any] = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        first = parts["text_encoder"].config
        ends = {name: getattr(first, name) for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
        second = CLIPTextModelWithProjection(CLIPTextConfig(**sizes, **ends, projection_dim=12))
        return StableDiffusionXL.from_parts(**parts, text_encoder_2=second, tokenizer_2=parts["tokenizer"])

    return {"StableDiffusionXL": paints}


CARDS: dict[str, Card] = {
    "sdxl-base-1.0": Card(
        source="stabilityai/stable-diffusion-xl-base-1.0", files=dict.fromkeys(HUB_FILES), licence="CreativeML OpenRAIL++-M",
        commercial=True, origin="https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0", parameters=3_468_837_867,
        dim=2048, image_size=1024,
    ),
}  # fmt: skip
