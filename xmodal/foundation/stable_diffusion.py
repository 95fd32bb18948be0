"""Stable Diffusion 1.x and 2.x (Rombach et al., arXiv 2112.10752) over diffusers: paints, and can be trained through.

Letters: B batch, S tokens of a prompt, c width of the text encoder's output, C latent channels, H and W pixels,
h and w latent rows and columns.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.diffusion.sampling import Generators, sample, with_guidance
from xmodal.diffusion.schedules import check_scheduler, prediction_of
from xmodal.diffusion.training import denoising_loss
from xmodal.foundation.base import Card, ImageGenerator, find_card
from xmodal.foundation.lora import LoRA
from xmodal.foundation.memory import peak
from xmodal.foundation.painter_parts import check_widths, read_parts, tiny_parts
from xmodal.foundation.published import STABLE_DIFFUSION
from xmodal.frozen import Frozen
from xmodal.registry.cards import any_card, locate
from xmodal.registry.checkpoint import unfilled

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HUB_FILES = ["*/*.json", "tokenizer/merges.txt", "text_encoder/model.safetensors"] + [
    f"{part}/diffusion_pytorch_model.safetensors" for part in ("vae", "unet")
]
ALGORITHMS = ("dpmsolver++", "sde-dpmsolver++")  # names of diffusers' DPMSolverMultistepScheduler
MARK = "{}"
ATTENTION = re.compile(r"\.(to_[qkv]|to_out\.0)$")
TEXT_SIZES = {768: (12, 12, 3072), 1024: (23, 16, 4096)}  # layers, heads and width of the MLP, by the width of a token


class StableDiffusion(ImageGenerator):
    """Frozen Stable Diffusion. Gradients pass through UNet and text encoder; the VAE is always run without a graph.

    Args:
        card: a name in `CARDS`, the path of a diffusers folder (``vae``, ``text_encoder``, ``tokenizer``, ``unet``,
            ``scheduler``), or a hub id ``owner/name``.
        dtype: of the weights in memory: float32 (leave lower precision to the trainer's autocast), bfloat16, float16.
        local_files_only: a hub id is looked up in the local hub cache only; False permits the download (some 5 GB).
        lora: a file of low-rank weights that is merged into the UNet (`xmodal.foundation.lora`); default none.
        lora_scale: how much of it.
        algorithm_type: of `default_scheduler`: "dpmsolver++", or "sde-dpmsolver++", which draws new noise in each step, so that
            an early error does not stay, and wants more steps. Default what the folder's own scheduler says, else the former.

    Raises ValueError for an unknown card or parts that do not fit, FileNotFoundError where weights are missing.
    """

    exact: ClassVar[tuple[str, ...]] = ("vae",)
    streamed: ClassVar[tuple[str, ...]] = ("unet", "text_encoder", "vae")
    repeated: ClassVar[tuple[str, ...]] = ("unet",)
    algorithm_type: str | None = None

    def __init__(
        self,
        card: str = "mini",
        dtype: str = "float32",
        local_files_only: bool = True,
        lora: Path | None = None,
        lora_scale: float = 1.0,
        algorithm_type: str | None = None,
    ) -> None:
        super().__init__()
        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
        if not math.isfinite(lora_scale):
            raise ValueError(f"lora_scale {lora_scale} is not a finite number")
        if algorithm_type not in (None, *ALGORITHMS):
            raise ValueError(f"algorithm_type {algorithm_type!r} is not one of {', '.join(ALGORITHMS)}")
        self.algorithm_type = algorithm_type
        low_rank = None if lora is None else LoRA.read(Path(lora))  # before gigabytes are
        self._assemble(**self._read(card, DTYPES[dtype], local_files_only))
        if low_rank is not None:
            low_rank.merge(self.unet, lora_scale)

    @staticmethod
    def _read(card: str, dtype: torch.dtype, local_files_only: bool) -> dict[str, Any]:
        """What `_assemble` takes, of a card."""
        return read_parts(locate(card_of(card), local_files_only), dtype)

    @classmethod
    def from_parts(
        cls,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
    ) -> Self:
        """Build from components in memory, which are frozen in place; raises ValueError where they do not fit."""
        return cls.assembled(vae, text_encoder, tokenizer, unet, scheduler)

    def _assemble(self, vae: Any, text_encoder: Any, tokenizer: Any, unet: Any, scheduler: Any) -> None:
        from diffusers import DDPMScheduler

        self._check_parts(vae, text_encoder, tokenizer, unet)
        self.vae, self.text_encoder, self.tokenizer, self.unet = vae, text_encoder, tokenizer, unet
        self.scheduler = scheduler
        self.noise_scheduler = DDPMScheduler.from_config(scheduler.config)
        self.token_dim: int = text_encoder.config.hidden_size
        self.max_length = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
        self.scaling_factor: float = vae.config.scaling_factor
        self.factor = getattr(vae, "spatial_compression_ratio", None) or 2 ** (len(vae.config.block_out_channels) - 1)
        size = unet.config.sample_size
        self.image_size = self.factor * (max(size) if isinstance(size, (list, tuple)) else size)

    def _check_parts(self, vae: Any, text_encoder: Any, tokenizer: Any, unet: Any) -> None:
        check_widths(vae, tokenizer, text_encoder, unet, text_encoder.config.hidden_size)

    def projections(self) -> dict[str, nn.Module]:
        """Queries, keys, values and outputs of all the UNet's attention, by the UNet's own names.

        Raises ValueError under gradient checkpointing, which would compute without what was added to them.
        """
        if self.unet.is_gradient_checkpointing:
            raise ValueError("low-rank weights and gradient checkpointing cannot go together: leave one of them off")
        return {name: module for name, module in self.unet.named_modules() if ATTENTION.search(name)}

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the UNet's activations in the backward pass: a fraction of the memory for one more forward pass."""
        self.unet.enable_gradient_checkpointing()

    def enable_vae_slicing(self, enabled: bool = True) -> None:
        """Have the VAE work on one picture at a time: the memory of one, and the same pictures."""
        self.vae.enable_slicing() if enabled else self.vae.disable_slicing()

    def enable_vae_tiling(self, enabled: bool = True) -> None:
        """Have the VAE work on overlapping tiles of large pictures: less memory, and seams that are blended."""
        self.vae.enable_tiling() if enabled else self.vae.disable_tiling()

    def enable_attention_slicing(self, slice_size: str | int | None = "auto") -> None:
        """Compute the UNet's attention head by head (diffusers' own option): slower, for devices without fused attention."""
        self.unet.set_attention_slice(slice_size)

    def activations(self, part: str, batch: int, height: int | None = None, width: int | None = None) -> int:
        """Bytes, in float32, that ``unet`` or ``vae`` need for a batch of pictures besides weights; 0 for other parts.

        The UNet is counted with guidance, two passes in one. Found by a run on the meta device, which takes seconds.
        """
        if part not in ("unet", "vae"):
            return 0
        own = getattr(self, part)
        with unfilled():
            twin = type(own).from_config(own.config).eval().requires_grad_(False)
        rows = batch * 2 if part == "unet" else batch
        sides = ((self.image_size if side is None else side) // self.factor for side in (height, width))
        latents = torch.empty(rows, self.unet.config.in_channels, *sides, device="meta")
        text = torch.empty(rows, self.max_length, self.unet.config.cross_attention_dim, device="meta")
        compute = partial(twin.decode, latents) if part == "vae" else partial(twin, latents, 1, text)
        with torch.no_grad():
            return peak(compute)

    # Text

    def prompt_embeds(self, prompts: list[str], tokens: Tensor | None = None) -> Tensor:
        """Encode B prompts to (B, S, c), S being the tokenizer's maximal length.

        Each prompt holds one ``{}`` where row b of ``tokens``, (B, token_dim) or (B, k, token_dim), stands in for one word
        embedding, or for k in a row; without ``tokens`` it holds none. Text before and after ``{}`` is tokenised apart, so
        the place is exact by construction. Gradients flow to ``tokens``. Raises ValueError for counts or widths that disagree,
        a missing or surplus ``{}``, and a prompt that is too long (nothing is cut off in silence).
        """
        tokens = self._in_a_row(tokens, len(prompts))
        count = 0 if tokens is None else tokens.shape[1]
        known = {prompt: self._token_ids(prompt, count) for prompt in dict.fromkeys(prompts)}
        ids = torch.tensor([known[prompt][0] for prompt in prompts], device=self.unet.device)
        if tokens is None:
            return self.text_encoder(ids).last_hidden_state
        places = torch.tensor([known[prompt][1] for prompt in prompts], device=ids.device)
        with spliced(self.text_encoder.get_input_embeddings(), tokens, places):
            return self.text_encoder(ids).last_hidden_state

    def _in_a_row(self, tokens: Tensor | None, count: int) -> Tensor | None:
        """Pseudo-words of ``count`` prompts as (count, k, token_dim); raises ValueError for another shape."""
        if tokens is None:
            return None
        tokens = tokens[:, None] if tokens.ndim == 2 else tokens
        if tokens.ndim != 3 or tokens.shape[::2] != (count, self.token_dim) or not tokens.shape[1]:
            expected = f"({count}, k, {self.token_dim}): one row for each prompt, as wide as the word embeddings"
            raise ValueError(f"tokens have the shape {tuple(tokens.shape)}, but expected {expected}")
        return tokens

    def _token_ids(self, prompt: str, count: int, tokenizer: Any = None) -> tuple[list[int], int]:
        """``max_length`` ids of a prompt, and the index of the first of its ``count`` pseudo-words (their ids mean nothing)."""
        if prompt.count(MARK) != bool(count):
            wish = "exactly one {} as the place of its token" if count else "no {}, as no tokens are given"
            raise ValueError(f"prompt {prompt!r} holds {prompt.count(MARK)} {{}}, but it must hold {wish}")
        tokenizer = self.tokenizer if tokenizer is None else tokenizer
        before, *after = ([*tokenizer(text, add_special_tokens=False).input_ids] for text in prompt.split(MARK))
        ids = [tokenizer.bos_token_id, *before]
        for rest in after:
            ids += [tokenizer.bos_token_id] * count + rest
        ids.append(tokenizer.eos_token_id)
        if len(ids) > self.max_length:
            limit = f"but the text encoder reads {self.max_length}: shorten it"
            raise ValueError(f"prompt {prompt!r} has {len(ids)} tokens with its start and end, {limit}")
        return ids + [tokenizer.pad_token_id] * (self.max_length - len(ids)), len(before) + 1

    def label_embeds(self, labels: list[str]) -> Tensor:
        """Mean word embedding of each label's tokens, without start and end: (B, token_dim); ValueError for an empty label."""
        return self._mean_words(labels, self.text_encoder)

    def _mean_words(self, labels: list[str], text_encoder: Any) -> Tensor:
        ids = [self.tokenizer(label, add_special_tokens=False).input_ids for label in labels]
        if not all(ids):
            raise ValueError(f"label {labels[ids.index([])]!r} has no tokens: give each label at least one word")
        table = text_encoder.get_input_embeddings().weight
        return torch.stack([F.embedding(torch.tensor(row, device=table.device), table).mean(0) for row in ids])

    # Pictures

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W) in [0, 1] -> mean and log-variance of the VAE posterior, float32 (B, C, h, w) each, unscaled.

        Multiply a sample by ``scaling_factor`` before `loss`. Raises ValueError if H or W is no multiple of ``factor``.
        """
        self._check_size(*pixels.shape[-2:])
        encoded = self.vae.encode(pixels.to(self.vae.dtype) * 2 - 1)
        if hasattr(encoded, "latent"):  # AutoencoderDC has no posterior: its latents are certain
            return encoded.latent.float(), torch.full_like(encoded.latent, -30.0, dtype=torch.float32)
        return encoded.latent_dist.mean.float(), encoded.latent_dist.logvar.float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) -> float32 pixels (B, 3, H, W) in [0, 1]."""
        pixels = self.vae.decode((latents / self.scaling_factor).to(self.vae.dtype)).sample
        return (pixels.float() / 2 + 0.5).clamp(0, 1)

    def loss(
        self,
        latents: Tensor,
        prompt_embeds: Tensor,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        timesteps: Tensor | None = None,
    ) -> Tensor:
        """Denoising loss (scalar, float32) of scaled latents (B, C, h, w) under prompt embeddings (B, S, c).

        The target (noise or velocity) is the scheduler's ``prediction_type``. Unless given, ``noise`` (like the latents)
        and ``timesteps`` (B,) are drawn, from ``generator`` if there is one. Raises ValueError if the batch sizes differ.
        """
        return self._loss(self._predict, latents, prompt_embeds, generator, noise, timesteps)

    def _loss(
        self,
        predict: Callable[[Tensor, Tensor, Tensor], Tensor],
        latents: Tensor,
        prompt_embeds: Tensor,
        generator: torch.Generator | None,
        noise: Tensor | None,
        timesteps: Tensor | None,
    ) -> Tensor:
        self._check_embeds(prompt_embeds, "prompt_embeds")
        if len(latents) != len(prompt_embeds):
            raise ValueError(f"{len(latents)} latents and {len(prompt_embeds)} prompt embeddings were given: give one for one")

        def model_call(noisy: Tensor, timestep: Tensor) -> Tensor:
            return predict(noisy, timestep, prompt_embeds)

        return denoising_loss(model_call, self.noise_scheduler, latents, noise, timesteps, generator)

    @torch.no_grad()
    def generate(
        self,
        prompt_embeds: Tensor,
        negative_prompt_embeds: Tensor | None = None,
        num_inference_steps: int = 25,
        guidance_scale: float = 7.5,
        generator: Generators = None,
        height: int | None = None,
        width: int | None = None,
        scheduler: SchedulerMixin | None = None,
        latents: Tensor | None = None,
        callback: Callable[[int, int], None] | None = None,
        image: Tensor | None = None,
        strength: float = 0.8,
    ) -> Tensor:
        """Prompt embeddings (B, S, c) -> float32 pixels (B, 3, H, W) in [0, 1].

        Args:
            prompt_embeds: see `prompt_embeds`.
            negative_prompt_embeds: (B, S, c) or (1, S, c), what to move away from; default the empty prompt, encoded once a call.
            num_inference_steps: solver steps.
            guidance_scale: weight of classifier-free guidance; at most 1 switches it off and halves the cost.
            generator: one for the batch, or one for each picture, which then depends on nothing else in the batch.
            height, width: pixels, multiples of ``factor``; default ``image_size``.
            scheduler: any diffusers scheduler with this model's ``prediction_type``; default see `default_scheduler`.
            latents: the noise to begin with, (B, C, height / factor, width / factor); default drawn.
            callback: called with (steps done, steps in all).
            image: pictures (B or 1, 3, H', W') in [0, 1] to change, in place of noise; squeezed to height and width.
            strength: how much of them is changed: the share of the steps that is made, above 0, at most 1.

        Raises ValueError for arguments that cannot work, before anything is computed.
        """
        size = (height, width)
        return self._paint(
            self._predict, prompt_embeds, negative_prompt_embeds, num_inference_steps, guidance_scale, generator, size, scheduler,
            latents, callback, image, strength,
        )  # fmt: skip

    def _paint(
        self,
        predict: Callable[[Tensor, Tensor, Tensor], Tensor],
        prompt_embeds: Tensor,
        negative_prompt_embeds: Tensor | None,
        num_inference_steps: int,
        guidance_scale: float,
        generator: Generators,
        size: tuple[int | None, int | None],
        scheduler: SchedulerMixin | None,
        latents: Tensor | None,
        callback: Callable[[int, int], None] | None,
        image: Tensor | None = None,
        strength: float = 0.8,
    ) -> Tensor:
        height, width = (self.image_size if each is None else each for each in size)
        self._check_size(height, width)
        scheduler = self.default_scheduler() if scheduler is None else scheduler
        check_scheduler(scheduler, prediction_of(self.scheduler))
        self._check_embeds(prompt_embeds, "prompt_embeds")
        unconditional = None
        if guidance_scale > 1:
            unconditional = self.empty_embeds() if negative_prompt_embeds is None else negative_prompt_embeds
            self._check_embeds(unconditional, "negative_prompt_embeds")
            unconditional = unconditional.expand(len(prompt_embeds), -1, -1) if len(unconditional) == 1 else unconditional
        shape = (len(prompt_embeds), self.unet.config.in_channels, height // self.factor, width // self.factor)
        model = with_guidance(predict, prompt_embeds, unconditional, guidance_scale)
        start = None if image is None else self._start(image, height, width, len(prompt_embeds))
        made = sample(
            model, scheduler, shape, num_inference_steps, generator, self.unet.device, callback, latents, start, strength
        )  # fmt: skip
        return self.decode(made)

    def _start(self, image: Tensor, height: int, width: int, count: int) -> Tensor:
        """Scaled latents (count, C, h, w) of pictures (count or 1, 3, H', W') in [0, 1], squeezed to height and width."""
        if image.ndim != 4 or image.shape[1] != 3 or len(image) not in (1, count):
            raise ValueError(f"image has the shape {tuple(image.shape)}, but expected ({count}, 3, H, W), or one for all")
        pixels = image.to(self.unet.device, torch.float32)
        if pixels.shape[-2:] != (height, width):
            pixels = F.interpolate(pixels, (height, width), mode="bicubic", antialias=True).clamp(0, 1)
        mean, _ = self.encode(pixels)
        return (mean * self.scaling_factor).expand(count, -1, -1, -1)

    def default_scheduler(self) -> SchedulerMixin:
        """DPM-Solver++ (Lu et al., arXiv 2211.01095), second order multistep, over the folder's own noise schedule.

        It needs about half the steps of the PNDM scheduler that Stable Diffusion 1.x comes with. The spacing is set
        to ``linspace``, which starts at the last training step, where latents are noise; recent diffusers versions
        write the default of another class (``leading``) into saved folders, which starts earlier.
        Of ``algorithm_type`` "sde-dpmsolver++" each row's generator draws in each step.
        """
        from diffusers import DPMSolverMultistepScheduler

        options = {} if self.algorithm_type is None else {"algorithm_type": self.algorithm_type}
        return DPMSolverMultistepScheduler.from_config(self.scheduler.config, timestep_spacing="linspace", **options)

    def _predict(self, latents: Tensor, timestep: Tensor, prompt_embeds: Tensor) -> Tensor:
        dtype = self.unet.dtype
        return self.unet(latents.to(dtype), timestep, encoder_hidden_states=prompt_embeds.to(dtype)).sample

    def _check_size(self, height: int, width: int) -> None:
        if height % self.factor or width % self.factor or height < 1 or width < 1:
            raise ValueError(f"height {height} and width {width} must both be multiples of {self.factor} pixels")

    def _check_embeds(self, embeds: Tensor, name: str) -> None:
        width = self.unet.config.cross_attention_dim
        if embeds.ndim != 3 or embeds.shape[-1] != width:
            expected = f"the UNet expects (B, S, {width}): make it with prompt_embeds()"
            raise ValueError(f"{name} has the shape {tuple(embeds.shape)}, but {expected}")


@contextmanager
def spliced(embedding: nn.Module, tokens: Tensor, places: Tensor) -> Iterator[None]:
    """While open, rows ``places[b] + i`` of sentence b leave the word embedding as ``tokens[b, i]``; the table is not touched."""

    def swap(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        index = torch.arange(output.shape[1], device=output.device) - places[:, None]
        for word, token in enumerate(tokens.to(output).unbind(1)):
            output = torch.where((index == word)[..., None], token[:, None], output)
        return output

    handle = embedding.register_forward_hook(swap)
    try:
        yield
    finally:
        handle.remove()


def card_of(name: str) -> Card:
    """Return the card of a name, a hub id or a path."""
    return any_card(CARDS, name, "stable_diffusion", HUB_FILES)


def build(card: str = "sd-1.4") -> nn.ModuleDict:
    """The three networks of a published card at full size, with random weights (or none, on the meta device)."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    width = find_card(CARDS, card, "stable_diffusion").dim
    if width not in TEXT_SIZES:
        raise ValueError(f"the sizes of {card!r} stand in the config.json files of its folder alone: choose a published card")
    text: dict[str, Any] = dict(
        zip(("num_hidden_layers", "num_attention_heads", "intermediate_size"), TEXT_SIZES[width], strict=True)
    )
    second: dict[str, Any] = {"attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True} if width == 1024 else {}
    levels: dict[str, Any] = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
    kinds: dict[str, Any] = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    parts: dict[str, Any] = {
        "vae": AutoencoderKL(**levels, **kinds, latent_channels=4),
        "text_encoder": CLIPTextModel(CLIPTextConfig(hidden_size=width, **text)),
        "unet": UNet2DConditionModel(cross_attention_dim=width, **second),
    }
    return nn.ModuleDict(parts)


def tiny() -> dict[str, Callable[[], Frozen]]:
    """A random instance with pictures of 32x32, for tests."""
    return {"StableDiffusion": lambda: StableDiffusion.from_parts(**tiny_parts())}


def _hub(source: str, licence: str, image_size: int, dim: int, parameters: int) -> Card:
    revision, size, known = STABLE_DIFFUSION[source]
    owner, _, name = source.partition("/")
    # Stability AI took its repositories of version 2 away; others have put the same files up again.
    mirrors = (f"sd2-community/{name}",) if owner == "stabilityai" else ()
    return Card(
        source=source, files={file: known.get(file) for file in HUB_FILES}, licence=licence, commercial=True,
        origin=f"https://huggingface.co/{source}", parameters=parameters, dim=dim, image_size=image_size, revision=revision,
        size=size, mirrors=mirrors,
    )  # fmt: skip


_V1, _V2 = 1_066_235_307, 1_289_952_427

CARDS: dict[str, Card] = {
    "mini": Card(
        source="package:stable_diffusion",
        files=dict.fromkeys(name for name in HUB_FILES if not name.endswith(".txt")),
        licence="Apache-2.0",
        commercial=True,
        origin="recipes/miniature",
        parameters=8_053_748,
        dim=128,
        image_size=64,
    ),  # fmt: skip
    "sd-1.4": _hub("CompVis/stable-diffusion-v1-4", "CreativeML OpenRAIL-M", 512, 768, _V1),
    "sd-1.5": _hub("stable-diffusion-v1-5/stable-diffusion-v1-5", "CreativeML OpenRAIL-M", 512, 768, _V1),
    "sd-2.1": _hub("stabilityai/stable-diffusion-2-1", "CreativeML OpenRAIL++-M", 768, 1024, _V2),
    "sd-2.1-base": _hub("stabilityai/stable-diffusion-2-1-base", "CreativeML OpenRAIL++-M", 512, 1024, _V2),
}
