"""Stable unCLIP: Stable Diffusion 2.1, made to paint from a CLIP embedding of a picture beside the prompt.

After Ramesh et al. ("unCLIP", arXiv 2204.06125); the components are diffusers'. Letters as in the model stable_diffusion;
e is the width of CLIP's embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from xmodal.diffusion.sampling import Generators, draw_noise
from xmodal.foundation.base import Card, ImageGenerator
from xmodal.foundation.stable_diffusion import DTYPES, StableDiffusion, read_parts, tiny_parts
from xmodal.frozen import Frozen
from xmodal.registry.cards import any_card, locate
from xmodal.registry.checkpoint import read_module, read_scheduler

PARTS = ("image_normalizer", "image_noising_scheduler")
HUB_FILES = ["*/*.json", "tokenizer/merges.txt", "text_encoder/model.safetensors"] + [
    f"{part}/diffusion_pytorch_model.safetensors" for part in ("vae", "unet", "image_normalizer")
]


class StableUnCLIP(StableDiffusion):
    """Frozen Stable unCLIP: all that Stable Diffusion does, and `generate` takes image embeddings besides.

    An embedding of CLIP's picture tower (ViT-H/14 for the default card, ViT-L/14 for ``-small``), of a picture or of what a
    mapper made of something else, not normalized. Without one, and in `loss`, it stands empty as on guidance's other side.

    Args:
        card, dtype, local_files_only: as for Stable Diffusion; the folder holds ``image_normalizer`` and
            ``image_noising_scheduler`` besides.

    ``embedding_dim`` is e. Raises as Stable Diffusion does.
    """

    embedding_mean: Tensor
    embedding_std: Tensor

    def __init__(self, card: str = "sd-2.1-unclip", dtype: str = "float32", local_files_only: bool = True) -> None:
        ImageGenerator.__init__(self)
        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
        folder = locate(card_of(card), local_files_only)
        self._assemble(**read_parts(folder, DTYPES[dtype]))
        lacking = [part for part in PARTS if not (folder / part).is_dir()]
        if lacking:
            raise FileNotFoundError(f"{folder} lacks {', '.join(lacking)}: copy the whole folder of a Stable unCLIP")
        from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer

        self._see(read_module(StableUnCLIPImageNormalizer, folder / PARTS[0]), read_scheduler(folder / PARTS[1]))

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
        model = cls.assembled(vae, text_encoder, tokenizer, unet, scheduler)
        model._see(image_normalizer, image_noising_scheduler)
        return model

    def _see(self, normalizer: Any, noising: Any) -> None:
        if normalizer is None or noising is None:
            raise ValueError(f"a Stable unCLIP needs {' and '.join(PARTS)}: give both")
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

    def labels(self, image_embedding: Tensor, noise_level: int = 0, generator: Generators = None) -> Tensor:
        """Image embeddings (B, e) -> what the UNet reads of them (B, 2 e), float32: with noise, beside the level of noise.

        ``noise_level`` runs from 0 to the noising schedule's last step. Raises ValueError for another shape or level.
        """
        from diffusers.models.embeddings import get_timestep_embedding

        last = self.noising_scheduler.config.num_train_timesteps - 1
        if image_embedding.ndim != 2 or image_embedding.shape[1] != self.embedding_dim or not 0 <= noise_level <= last:
            expected = f"(B, {self.embedding_dim}) and a noise_level from 0 to {last}"
            raise ValueError(f"image_embedding {tuple(image_embedding.shape)}, noise_level {noise_level}: expected {expected}")
        mean, std = self.embedding_mean.float(), self.embedding_std.float()
        levels = torch.full((len(image_embedding),), noise_level, device=image_embedding.device)
        noise = draw_noise(image_embedding.shape, generator, image_embedding.device)
        noisy = self.noising_scheduler.add_noise((image_embedding.float() - mean) / std, noise, levels) * std + mean
        level = get_timestep_embedding(levels, self.embedding_dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        return torch.cat((noisy, level.float()), 1)

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
        scheduler: Any = None,
        callback: Callable[[int, int], None] | None = None,
        image_embedding: Tensor | None = None,
        noise_level: int = 0,
        latents: Tensor | None = None,
    ) -> Tensor:
        """Prompt embeddings (B, S, c), and image embeddings (B, e) -> float32 pixels (B, 3, H, W) in [0, 1].

        ``noise_level`` above 0 makes pictures that follow the embedding less closely; see `labels`. All else as in Stable
        Diffusion. Raises ValueError for arguments that cannot work, before anything is computed.
        """
        given = self._empty(prompt_embeds)
        if image_embedding is not None:
            if len(image_embedding) != len(prompt_embeds):
                counts = f"{len(image_embedding)} image embeddings and {len(prompt_embeds)} prompt embeddings"
                raise ValueError(f"{counts} were given: give one for one")
            given = self.labels(image_embedding, noise_level, generator)

        def predict(latents: Tensor, timestep: Tensor, embeds: Tensor) -> Tensor:
            rows = given if len(embeds) == len(given) else torch.cat((torch.zeros_like(given), given))
            return self._predict(latents, timestep, embeds, rows)

        size = (height, width)
        return self._paint(
            predict, prompt_embeds, negative_prompt_embeds, num_inference_steps, guidance_scale, generator, size, scheduler,
            latents, callback,
        )  # fmt: skip

    def _empty(self, prompt_embeds: Tensor) -> Tensor:
        return prompt_embeds.new_zeros(len(prompt_embeds), 2 * self.embedding_dim)

    def _predict(self, latents: Tensor, timestep: Tensor, prompt_embeds: Tensor, labels: Tensor | None = None) -> Tensor:
        dtype, labels = self.unet.dtype, self._empty(prompt_embeds) if labels is None else labels
        states = prompt_embeds.to(dtype)
        return self.unet(latents.to(dtype), timestep, encoder_hidden_states=states, class_labels=labels.to(dtype)).sample


def card_of(name: str) -> Card:
    """Return the card of a name, a hub id or a path."""
    return any_card(CARDS, name, "stable_unclip", HUB_FILES)


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


# Sizes and embedding widths stand in their folders; nobody here has counted their weights.
CARDS: dict[str, Card] = {
    "sd-2.1-unclip": _hub("stabilityai/stable-diffusion-2-1-unclip"),
    "sd-2.1-unclip-small": _hub("stabilityai/stable-diffusion-2-1-unclip-small"),
}
