"""Stable unCLIP: Stable Diffusion 2.1, made to paint from a CLIP embedding of a picture beside the prompt.

After Ramesh et al. ("unCLIP", arXiv 2204.06125); the components are diffusers'. Letters as in the model stable_diffusion;
e is the width of CLIP's embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from xmodal.diffusion.sampling import Generators, draw_noise
from xmodal.foundation.base import Card, EmbeddingPainter
from xmodal.foundation.painter_parts import read_parts, tiny_parts
from xmodal.foundation.stable_diffusion import CARDS as PAINTERS
from xmodal.foundation.stable_diffusion import StableDiffusion
from xmodal.foundation.stable_diffusion import build as build_stable_diffusion
from xmodal.frozen import Frozen
from xmodal.registry.cards import any_card, locate
from xmodal.registry.checkpoint import CONFIG as OVER
from xmodal.registry.checkpoint import read_folder, read_module, read_scheduler, write_folder

AS_WORDS = "text_image_proj"  # diffusers' name for embeddings that stand as words beside the text
PARTS = ("image_normalizer", "image_noising_scheduler")
NORMALIZER = ("config.json", "diffusion_pytorch_model.safetensors")
NOISING = f"{PARTS[1]}/scheduler_config.json"
HUB_FILES = ["*/*.json", "tokenizer/merges.txt", "text_encoder/model.safetensors"] + [
    f"{part}/diffusion_pytorch_model.safetensors" for part in ("vae", "unet", "image_normalizer")
]


class StableUnCLIP(StableDiffusion, EmbeddingPainter):
    """Frozen Stable unCLIP: all that Stable Diffusion does, and `generate` and `loss` take image embeddings besides.

    An embedding of CLIP's picture tower (ViT-H/14 for the default card, ViT-L/14 for ``-small``), of a picture or of what a
    mapper made of something else, not normalized. Without one it stands empty as on guidance's other side.

    Args:
        card, dtype, local_files_only, algorithm_type: as for Stable Diffusion; the folder holds ``image_normalizer`` and
            ``image_noising_scheduler`` besides.

    ``embedding_dim`` is e. Raises as Stable Diffusion does.
    """

    def __init__(
        self,
        card: str = "sd-2.1-unclip",
        dtype: str = "float32",
        local_files_only: bool = True,
        algorithm_type: str | None = None,
    ) -> None:
        super().__init__(card, dtype, local_files_only, algorithm_type=algorithm_type)
        self.picture_space = SPACES.get(card, "")

    @staticmethod
    def _read(card: str, dtype: torch.dtype, local_files_only: bool) -> dict[str, Any]:
        folder = locate(card_of(card), local_files_only)
        laid_over = (folder / OVER).is_file() and not (folder / "unet").is_dir()
        parts = _read_over(folder, dtype) if laid_over else read_parts(folder, dtype)
        lacking = [part for part in PARTS if not (folder / part).is_dir()]
        if lacking:
            raise FileNotFoundError(f"{folder} lacks {', '.join(lacking)}: copy the whole folder of a Stable unCLIP")
        from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer

        normalizer = read_module(StableUnCLIPImageNormalizer, folder / PARTS[0], low_cpu_mem_usage=False)
        return {**parts, PARTS[0]: normalizer, PARTS[1]: read_scheduler(folder / PARTS[1])}

    @classmethod
    def from_parts(
        cls,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        scheduler: Any,
        image_normalizer: Any = None,
        image_noising_scheduler: Any = None,
    ) -> Self:
        """Build from components in memory, which are frozen in place; raises ValueError where they do not fit."""
        return cls.assembled(vae, text_encoder, tokenizer, unet, scheduler, image_normalizer, image_noising_scheduler)

    def _assemble(
        self, vae: Any, text_encoder: Any, tokenizer: Any, unet: Any, scheduler: Any, image_normalizer: Any,
        image_noising_scheduler: Any,
    ) -> None:  # fmt: skip
        normalizer, noising = image_normalizer, image_noising_scheduler
        if normalizer is None or noising is None:
            raise ValueError(f"a Stable unCLIP needs {' and '.join(PARTS)}: give both")
        super()._assemble(vae, text_encoder, tokenizer, unet, scheduler)
        config, self.embedding_dim = self.unet.config, normalizer.mean.shape[-1]
        found = config.projection_class_embeddings_input_dim if config.class_embed_type == "projection" else None
        if found != 2 * self.embedding_dim:
            expected = f"embeddings of {self.embedding_dim}, which make {2 * self.embedding_dim} with the level of noise"
            raise ValueError(
                f"the UNet reads labels of {found} numbers, but image_normalizer is for {expected}: take one model's"
            )
        self.register_buffer("embedding_mean", normalizer.mean.detach().clone())
        self.register_buffer("embedding_std", normalizer.std.detach().clone())
        self.noising_scheduler = noising

    def labels(
        self, image_embedding: Tensor, noise_level: int = 0, generator: Generators = None, noise: Tensor | None = None
    ) -> Tensor:
        """Image embeddings (B, e) -> what the UNet reads of them (B, 2 e), float32: with noise, beside the level of noise.

        ``noise_level`` runs from 0 to the noising schedule's last step; ``noise`` (B, e) is drawn unless given. Raises ValueError
        for another shape or level.
        """
        last = self.noising_scheduler.config.num_train_timesteps - 1
        if image_embedding.ndim != 2 or image_embedding.shape[1] != self.embedding_dim or not 0 <= noise_level <= last:
            expected = f"(B, {self.embedding_dim}) and a noise_level from 0 to {last}"
            raise ValueError(f"image_embedding {tuple(image_embedding.shape)}, noise_level {noise_level}: expected {expected}")
        levels = torch.full((len(image_embedding),), noise_level, device=image_embedding.device)
        noise = draw_noise(image_embedding.shape, generator, image_embedding.device) if noise is None else noise
        mean, std = self.embedding_mean.float(), self.embedding_std.float()
        return noised(image_embedding.float(), levels, noise, mean, std, self.noising_scheduler)

    def loss(  # type: ignore[override]
        self,
        latents: Tensor,
        prompt_embeds: Tensor,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        timesteps: Tensor | None = None,
        image_embedding: Tensor | None = None,
        noise_level: int = 0,
        embedding_noise: Tensor | None = None,
    ) -> Tensor:
        """Denoising loss as in Stable Diffusion, given image embeddings (B, e); without them they stand empty.

        ``noise_level`` and ``embedding_noise`` as in `labels`. Gradients flow to the embeddings. Raises ValueError for counts
        that differ, and as `labels`.
        """
        self._check_embeds(prompt_embeds, "prompt_embeds")
        given = self._given(prompt_embeds, image_embedding, noise_level, generator, embedding_noise)

        def predict(noisy: Tensor, timestep: Tensor, embeds: Tensor) -> Tensor:
            return self._predict(noisy, timestep, embeds, given)

        return self._loss(predict, latents, prompt_embeds, generator, noise, timesteps)

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        prompt_embeds: Tensor,
        negative_prompt_embeds: Tensor | None = None,
        num_inference_steps: int = 25,
        guidance_scale: float = 7.5,
        generator: Generators = None,
        height: int | None = None,
        width: int | None = None,
        scheduler: Any = None,
        callback: Callable[[int, int], None] | None = None,
        image_embedding: Tensor | None = None,
        noise_level: int = 0,
        latents: Tensor | None = None,
        image: Tensor | None = None,
        strength: float = 0.8,
    ) -> Tensor:
        """Prompt embeddings (B, S, c), and image embeddings (B, e) -> float32 pixels (B, 3, H, W) in [0, 1].

        ``noise_level`` above 0 makes pictures that follow the embedding less closely; see `labels`. All else as in Stable
        Diffusion. Raises ValueError for arguments that cannot work, before anything is computed.
        """
        given = self._given(prompt_embeds, image_embedding, noise_level, generator)

        def predict(latents: Tensor, timestep: Tensor, embeds: Tensor) -> Tensor:
            rows = given if len(embeds) == len(given) else torch.cat((torch.zeros_like(given), given))
            return self._predict(latents, timestep, embeds, rows)

        size = (height, width)
        return self._paint(
            predict, prompt_embeds, negative_prompt_embeds, num_inference_steps, guidance_scale, generator, size, scheduler,
            latents, callback, image, strength,
        )  # fmt: skip

    def _given(
        self,
        prompt_embeds: Tensor,
        image_embedding: Tensor | None,
        level: int,
        generator: Generators,
        noise: Tensor | None = None,
    ) -> Tensor:
        """What the UNet reads of the embeddings; raises ValueError where they are not one for one."""
        if image_embedding is None:
            return self._empty(prompt_embeds)
        if len(image_embedding) != len(prompt_embeds):
            counts = f"{len(image_embedding)} image embeddings and {len(prompt_embeds)} prompt embeddings"
            raise ValueError(f"{counts} were given: give one for one")
        return self.labels(image_embedding, level, generator, noise)

    def _empty(self, prompt_embeds: Tensor) -> Tensor:
        return prompt_embeds.new_zeros(len(prompt_embeds), 2 * self.embedding_dim)

    def _predict(self, latents: Tensor, timestep: Tensor, prompt_embeds: Tensor, labels: Tensor | None = None) -> Tensor:
        dtype, labels = self.unet.dtype, self._empty(prompt_embeds) if labels is None else labels
        states, given = prompt_embeds.to(dtype), {}
        if self.unet.config.encoder_hid_dim_type == AS_WORDS:
            given = {"added_cond_kwargs": {"image_embeds": labels[:, : self.embedding_dim].to(dtype)}}
        return self.unet(latents.to(dtype), timestep, encoder_hidden_states=states, class_labels=labels.to(dtype), **given).sample


def card_of(name: str) -> Card:
    """Return the card of a name, a hub id or a path."""
    return any_card(CARDS, name, "stable_unclip", HUB_FILES)


def noised(embedding: Tensor, levels: Tensor, noise: Tensor, mean: Tensor, std: Tensor, scheduler: Any) -> Tensor:
    """Embeddings (B, e) at levels of noise (B,) -> labels (B, 2 e): noised in units of the deviations, beside the level."""
    from diffusers.models.embeddings import get_timestep_embedding

    noisy = scheduler.add_noise((embedding - mean) / std, noise, levels) * std + mean
    level = get_timestep_embedding(levels, embedding.shape[1], flip_sin_to_cos=True, downscale_freq_shift=0)
    return torch.cat((noisy, level.float()), 1)


def with_embedding(unet: Any, dim: int) -> Any:
    """A UNet of the same weights that reads an embedding of ``dim`` numbers besides, at both places of the original
    (arXiv 2204.06125, section 2.1): beside the time, which changes nothing before training, and as words beside the text.

    Raises ValueError where ``dim`` is not the width of the text encoder's output.
    """
    from diffusers import UNet2DConditionModel

    width = unet.config.cross_attention_dim
    if width != dim:
        raise ValueError(
            f"the painter reads words of {width} numbers, which embeddings of {dim} cannot become: take one of {width}"
        )
    labels = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 2 * dim}
    words = {"encoder_hid_dim_type": AS_WORDS, "encoder_hid_dim": width}
    made: Any = UNet2DConditionModel.from_config({**unet.config, **labels, **words})
    made.load_state_dict(unet.state_dict(), strict=False)
    torch.nn.init.zeros_(made.class_embedding.linear_2.weight)
    torch.nn.init.zeros_(made.class_embedding.linear_2.bias)
    torch.nn.init.eye_(made.encoder_hid_proj.text_proj.weight)
    torch.nn.init.zeros_(made.encoder_hid_proj.text_proj.bias)
    return made


def reads_condition(name: str) -> bool:
    """Whether a parameter of a UNet reads the time, the labels or the words: what the miniature's training changes."""
    return any(part in name for part in ("class_embedding", "time_emb", "norm", "attn2", "encoder_hid_proj"))


def save_over(base: str, unet: Any, image_normalizer: Any, image_noising_scheduler: Any, folder: Path) -> None:
    """Write what differs from the Stable Diffusion card ``base`` as float16: the tensors of `reads_condition`."""
    state = {name: value for name, value in unet.state_dict().items() if reads_condition(name)}
    write_folder(folder, {"base": base, "embedding_dim": image_normalizer.mean.shape[-1]}, state)
    image_normalizer.half().save_pretrained(folder / PARTS[0])
    image_noising_scheduler.save_pretrained(folder / PARTS[1])


def _read_over(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """The five parts of the card that a folder of `save_over` lies over, its UNet's tensors replaced; ValueError for others."""
    config, state = read_folder(folder, "recipes/miniature/unclip.yaml")
    base = str(config.get("base"))
    if base not in PAINTERS:
        raise ValueError(f"{folder / OVER} lies over {base!r}, which is no card of stable_diffusion: give it anew")
    parts = read_parts(locate(PAINTERS[base]), dtype)
    unet = with_embedding(parts["unet"], int(config["embedding_dim"]))
    expected = {name for name in unet.state_dict() if reads_condition(name)}
    if expected != set(state):
        raise ValueError(f"{folder / OVER} holds {len(state)} tensors, but {base!r} takes {len(expected)}: train it anew")
    unet.load_state_dict(state, strict=False)
    return {**parts, "unet": (unet if dtype is torch.float32 else unet.to(dtype)).eval()}


def build(card: str = "sd-2.1-unclip") -> nn.ModuleDict:
    """The three networks of a published card at full size, with random weights (or none, on the meta device)."""
    from diffusers import UNet2DConditionModel

    if card == "mini":
        own = read_parts(locate(PAINTERS[card]), torch.float32)
        return nn.ModuleDict({**{name: own[name] for name in ("vae", "text_encoder")}, "unet": with_embedding(own["unet"], 128)})
    chosen = SPACES.get(card, "")
    if chosen not in WIDTHS:
        raise ValueError(f"the sizes of {card!r} stand in the config.json files of its folder alone: choose a published card")
    parts = build_stable_diffusion("sd-2.1")
    unet: Any = UNet2DConditionModel(
        cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True, sample_size=96,
        class_embed_type="projection", projection_class_embeddings_input_dim=2 * WIDTHS[chosen],
    )  # fmt: skip
    parts["unet"] = unet
    return parts


def tiny() -> dict[str, Callable[[], Frozen]]:
    """A random instance with pictures of 32x32, for tests."""

    def paints() -> Frozen:
        from diffusers import DDPMScheduler
        from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer

        parts = tiny_parts(class_embed_type="projection", projection_class_embeddings_input_dim=24)
        noising = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
        return StableUnCLIP.from_parts(**parts, image_normalizer=StableUnCLIPImageNormalizer(12), image_noising_scheduler=noising)

    return {"StableUnCLIP": paints}


def _hub(source: str) -> Card:
    return Card(
        source=source, files=dict.fromkeys(HUB_FILES), licence="CreativeML OpenRAIL++-M", commercial=True,
        origin=f"https://huggingface.co/{source}", parameters=0, dim=1024, image_size=768,
        mirrors=(f"sd2-community/{source.partition('/')[2]}",),
    )  # fmt: skip


SPACES = {
    "mini": "clip:mini",
    "sd-2.1-unclip": "clip:vit-h-14",
    "sd-2.1-unclip-small": "clip:vit-l-14",
}  # the CLIP of each card's pictures
WIDTHS = {"clip:vit-h-14": 1024, "clip:vit-l-14": 768}  # of its embeddings

# Sizes and embedding widths stand in their folders; nobody here has counted their weights.
CARDS: dict[str, Card] = {
    "mini": Card(  # some tensors over those of stable_diffusion:mini
        source="package:stable_unclip",
        licence="Apache-2.0",
        commercial=True,
        origin="recipes/miniature/unclip.yaml",
        files=dict.fromkeys(("config.json", "model.safetensors", *(f"{PARTS[0]}/{name}" for name in NORMALIZER), NOISING)),
        parameters=0,
        dim=128,
        image_size=64,
    ),
    "sd-2.1-unclip": _hub("stabilityai/stable-diffusion-2-1-unclip"),
    "sd-2.1-unclip-small": _hub("stabilityai/stable-diffusion-2-1-unclip-small"),
}
