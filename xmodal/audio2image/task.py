"""AudioToken (arXiv 2305.13050): a sound becomes a pseudo-word (or several) in a Stable Diffusion prompt.

Frozen: the audio encoder, and Stable Diffusion's VAE, text encoder and UNet. Trained: the embedder that turns audio
tokens (B, L, w) into a word embedding (B, token_dim). The denoising loss reaches it through UNet and text encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from xmodal.adapter_task import AdapterTask
from xmodal.audio2image.embedder import AudioTokenEmbedder
from xmodal.audio2image.losses import classification_loss, l1_loss, l2_loss
from xmodal.audio2image.pipeline import AudioTokenOutput, AudioTokenPipeline, _as, check_places, low_rank_on, told, with_low_rank
from xmodal.audio2image.ranking import PictureRanker
from xmodal.foundation.base import Adapter, AudioEncoder, ImageGenerator
from xmodal.frozen import Feature
from xmodal.pipelines import join


class AudioToken(AdapterTask):
    """Train an embedder that speaks Stable Diffusion's language.

    Args:
        encoder: hears; its ``tokens`` feed the embedder.
        generator: paints; its text encoder receives the pseudo-word.
        adapter: factory ``(encoder.width, generator.token_dim) -> Adapter``; default `AudioTokenEmbedder` (no default in the
            signature: the command line would pass its options on to a class that takes its place).
        prompt: training template; ``{}`` is the place of the pseudo-word.
        l1_weight: lambda of mean |token| (the public code's default).
        l2_weight: lambda of the squared norm.
        classification_weight: lambda of the distance to the label's own words. Several pseudo-words are bound one by one to as
            many of the label's last words: those of "two large bells" to all three of three, that of "bell" to the last.
        classification_target: what of the batch is the label: ``name``, or any other text that the data gives.
        seconds: length of sound that a picture is made from; longer sounds give their loudest window.
        short: what happens to shorter sounds: ``loop`` (as published) or ``pad`` with silence.
        guidance_scale, num_inference_steps, candidates: defaults of the pipeline that this adapter ships with. What a training
            paints, tests and predicts is one picture of each sound, as in the paper.
        lora_rank: above 0, low-rank weights for the generator's attention are trained beside the embedder and saved with it
            (LoRA, an option of the public code, whose rank is 4); the generator itself stays frozen.
        ranker: what ranks that pipeline's candidates; a training never builds it.
        **task: ema_decay, weights, predictions, optimizer and lr_scheduler, see :class:`xmodal.adapter_task.AdapterTask`.
    """

    pipeline_class = AudioTokenPipeline
    suite = "audio2image"

    def __init__(
        self,
        encoder: AudioEncoder,
        generator: ImageGenerator,
        adapter: Callable[[int, int], Adapter] | None = None,
        prompt: str = "a photo of {}",
        l1_weight: float = 0.01,
        l2_weight: float = 0.0,
        classification_weight: float = 0.0,
        classification_target: str = "name",
        seconds: float = 10.0,
        short: str = "loop",
        guidance_scale: float = 7.5,
        num_inference_steps: int = 25,
        lora_rank: int = 0,
        candidates: int = 1,
        ranker: Callable[[], PictureRanker] | None = None,
        **task: Any,
    ) -> None:
        super().__init__(**task)
        check_places(prompt, 1)
        self.encoder, self.generator = encoder, generator
        made = join(adapter or AudioTokenEmbedder, encoder.width, generator.token_dim)
        self.adopt(with_low_rank(made, generator, lora_rank))
        self.lora_rank = lora_rank
        self.prompt = prompt
        self.lambdas = {"l1": l1_weight, "l2": l2_weight, "classification": classification_weight}
        self.classification_target, self.seconds, self.short = classification_target, seconds, short
        self.candidates, self.ranker = candidates, ranker
        self.defaults: dict[str, Any] = {"guidance_scale": guidance_scale, "num_inference_steps": num_inference_steps}

    def frozen_features(self) -> dict[str, Feature]:
        """What a batch's sounds and pictures become before the adapter.

        ``waveform`` (B, T) -> ``audio_tokens`` (B, L, w); ``pixels`` (B, 3, H, W) in [0, 1] -> ``latent_mean`` and
        ``latent_std`` (B, C, h, w) of the VAE posterior, so that each step can still draw a sample of it.
        """

        def hear(batch: Mapping[str, Any]) -> dict[str, Tensor]:
            return {"audio_tokens": self.encoder.tokens(batch["waveform"])}

        def see(batch: Mapping[str, Any]) -> dict[str, Tensor]:
            mean, logvar = self.generator.encode(batch["pixels"])
            return {"latent_mean": mean, "latent_std": (0.5 * logvar).exp()}

        layers = self.encoder.token_options
        return {
            "audio_tokens": Feature(("waveform",), ("audio_tokens",), (self.encoder,), hear, layers),
            "latents": Feature(("pixels",), ("latent_mean", "latent_std"), (self.generator,), see),
        }

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Weighted terms of the objective; ``batch`` holds the :meth:`features`, their inputs, or some of each."""
        batch = {**batch, **self.features(batch)}
        adapter = self.adapter if self.training else self.published
        token = adapter(batch["audio_tokens"])
        latents = batch["latent_mean"] + batch["latent_std"] * torch.randn_like(batch["latent_std"])
        prompt_embeds = self.generator.prompt_embeds([self.prompt] * len(token), token)
        with low_rank_on(adapter, self.generator):
            terms = {"denoising": self.generator.loss(latents * self.generator.scaling_factor, prompt_embeds)}
        if self.lambdas["l1"]:
            terms["l1"] = self.lambdas["l1"] * l1_loss(token)
        if self.lambdas["l2"]:
            terms["l2"] = self.lambdas["l2"] * l2_loss(token)
        if self.lambdas["classification"]:
            bound = self._bound(token, batch[self.classification_target])
            terms["classification"] = self.lambdas["classification"] * classification_loss(*bound)
        return terms

    def _bound(self, token: Tensor, labels: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Pseudo-words (N, d), and the word embeddings (N, d) that they are bound to."""
        if token.ndim == 2:
            return token, self.generator.label_embeds(list(labels))
        count = token.shape[1]
        words = [(label.replace("_", " ").split() or [label])[-count:] for label in labels]
        places = [(row, count - len(own) + index) for row, own in enumerate(words) for index in range(len(own))]
        rows, columns = zip(*places, strict=True)
        return token[list(rows), list(columns)], self.generator.label_embeds([word for own in words for word in own])

    def make(self, batch: Mapping[str, Any], rows: Sequence[int], generators: list[torch.Generator]) -> AudioTokenOutput:
        """Pictures of a batch's sounds."""
        waveforms = [batch["waveform"][row] for row in rows]
        return self.pipeline()(waveforms, sampling_rate=self.encoder.sample_rate, candidates=1, generator=generators)

    def pipeline(self) -> AudioTokenPipeline:
        """The callable that users run: sound in, pictures out."""
        return AudioTokenPipeline(
            self.encoder, self.generator, self.published, self.prompt, self.seconds, self.short, lora_rank=self.lora_rank,
            candidates=self.candidates, ranker=self.ranker, **self.defaults,
        )  # fmt: skip

    @torch.no_grad()
    def ceiling(self, batch: Mapping[str, Any], folder: Path) -> None:
        """Paint each clip's label, told in words, by the same painter, prompt and settings; nothing without ``name``."""
        if "name" not in batch:
            return
        noise = [torch.Generator().manual_seed(crc32(str(name).encode())) for name in batch["id"]]
        embeds = self.generator.prompt_embeds([told(self.prompt, name) for name in batch["name"]])
        made = AudioTokenOutput(_as(self.generator.generate(embeds, generator=noise, **self.defaults), "pil"), embeds)
        for number, name in enumerate(batch["id"]):
            made.save(number, folder / f"{name}.png")
