"""The baselines of AudioToken's table (arXiv 2305.13050) in use: sound in, pictures out, called as `AudioTokenPipeline` is.

`SoundUnCLIPPipeline` takes a sound's embedding for a picture's (Wav2CLIP, ImageBind), `LabelTextPipeline` tells the painter
the label in words, which is the ceiling. Their tasks (`xmodal.audio2image.baseline_tasks`) say how to use them.
Letters: B sounds, e width of CLIP's embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from xmodal.audio2image.bridges import NoAdapter, PictureSpace
from xmodal.audio2image.pipeline import AudioTokenOutput, AudioTokenPipeline, Sound, check_places, ranker_of, told
from xmodal.audio2image.ranking import PictureRanker, check_ear
from xmodal.foundation.base import Adapter, AudioEncoder, Classifier, EmbeddingPainter, ImageGenerator
from xmodal.pipelines import Callback, Generators, Options, Pipeline, join, one_each

PLAIN = ("prompt", "seconds", "short", "guidance_scale", "num_inference_steps", "candidates")


def check_spaces(encoder: AudioEncoder, generator: EmbeddingPainter, adapter: Adapter) -> None:
    """Raise ValueError for a training-free adapter between an ear and a painter whose spaces are known to be others."""
    if not getattr(adapter, "same_space", False):
        return
    heard, painted = encoder.picture_space, generator.picture_space
    mend = "or learn the way with xmodal.audio2image.LinearBridge"
    check_ear(encoder, f", {mend}")
    if heard and painted and heard != painted:
        raise ValueError(
            f"{type(encoder).__name__} hears in the space of {heard}, but the painter sees in that of {painted}: take the "
            f"painter of the encoder's own CLIP, {mend}"
        )


class SoundUnCLIPPipeline(AudioTokenPipeline):
    """Pictures from an audio embedding in the place of a picture's; ``tokens`` of its output are those embeddings (B, e).

    Args:
        encoder, generator, adapter: the parts; the adapter gives picture embeddings.
        prompt: what is told beside the sound, without ``{}``; default nothing.
        noise_level: of the embedding, from 0; above, pictures follow it less closely.
        seconds, short, guidance_scale, num_inference_steps, candidates, ranker: as of `AudioTokenPipeline`.

    Raises ValueError for parts whose spaces are known to differ.
    """

    generator: EmbeddingPainter
    places: ClassVar[int] = 0

    def __init__(
        self,
        encoder: AudioEncoder,
        generator: EmbeddingPainter,
        adapter: Adapter,
        prompt: str = "",
        seconds: float = 10.0,
        short: str = "loop",
        guidance_scale: float = 7.5,
        num_inference_steps: int = 25,
        noise_level: int = 0,
        candidates: int = 1,
        ranker: PictureRanker | Callable[[], PictureRanker] | None = None,
    ) -> None:
        check_spaces(encoder, generator, adapter)
        super().__init__(
            encoder, generator, adapter, prompt, seconds, short, guidance_scale, num_inference_steps, 0, candidates, ranker
        )
        self.noise_level = noise_level

    @property
    def device(self) -> torch.device:
        """As of every pipeline; an adapter may have no parameters."""
        return self._offload or next(self.generator.parameters()).device

    @classmethod
    def from_recipe(cls, options: Options) -> SoundUnCLIPPipeline:
        """See :meth:`xmodal.pipelines.Pipeline.from_recipe`."""
        options.check("encoder", "generator", "adapter", "noise_level", "ranker", *PLAIN)
        encoder, generator = options.part("encoder", AudioEncoder), options.part("generator", EmbeddingPainter)
        adapter = join(options.factory("adapter", Adapter, PictureSpace), encoder.dim, generator.embedding_dim)
        return cls(encoder, generator, adapter, ranker=ranker_of(options), **options.values("noise_level", *PLAIN))

    def encode(self, sounds: Any, sampling_rate: int | None = None) -> Tensor:
        """Sounds -> picture embeddings (B, e)."""
        several = sounds if isinstance(sounds, (list, tuple)) else [sounds]
        waveforms = torch.stack([self.waveform(sound, sampling_rate) for sound in several])
        with self.evaluating(), self.using(self.encoder, self.adapter):
            return self.adapter(self.encoder.embed(waveforms.to(self.device)))

    def condition(self, prompts: list[str], tokens: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """See `AudioTokenPipeline.condition`."""
        return self.generator.prompt_embeds(prompts), {"image_embedding": tokens, "noise_level": self.noise_level}


class LabelTextPipeline(AudioTokenPipeline):
    """Pictures of a sound's label, told in words; ``tokens`` of its output are empty.

    Args:
        generator, adapter: the parts; the adapter does nothing.
        encoder: names sounds whose label is not given; None: labels must be given.
        prompt: template, ``{}`` is the place of the label.
        seconds, short: of what is named, as of `AudioTokenPipeline`.
        guidance_scale, num_inference_steps, candidates: defaults of a call.
        ranker: what ranks candidates by the prompts, or what builds it, when it is first needed.
    """

    def __init__(
        self,
        generator: ImageGenerator,
        adapter: Adapter | None = None,
        encoder: Classifier | None = None,
        prompt: str = "a photo of {}",
        seconds: float = 10.0,
        short: str = "loop",
        guidance_scale: float = 7.5,
        num_inference_steps: int = 25,
        candidates: int = 1,
        ranker: PictureRanker | Callable[[], PictureRanker] | None = None,
    ) -> None:
        Pipeline.__init__(self, generator.default_scheduler())
        self.generator, self.adapter = generator, NoAdapter() if adapter is None else adapter
        self.encoder: Any = encoder
        self.prompt, self.seconds, self.short = prompt, seconds, short
        self.guidance_scale, self.num_inference_steps = guidance_scale, num_inference_steps
        self._rank_by(candidates, ranker)

    @property
    def device(self) -> torch.device:
        """Where the painter is, or with offloading goes for its work."""
        return self._offload or next(self.generator.parameters()).device

    @classmethod
    def from_recipe(cls, options: Options) -> LabelTextPipeline:
        """See :meth:`xmodal.pipelines.Pipeline.from_recipe`."""
        options.check("encoder", "generator", "adapter", "ranker", *PLAIN)
        encoder, generator = options.part("encoder", Classifier), options.part("generator", ImageGenerator)
        adapter = join(options.factory("adapter", Adapter, NoAdapter), 0, 0)
        return cls(generator, adapter, encoder, ranker=ranker_of(options), **options.values(*PLAIN))

    def labels(self, sounds: Sequence[Sound], sampling_rate: int | None = None) -> list[str]:
        """What the encoder takes each sound for; raises ValueError without one, or where its weights name no classes."""
        if self.encoder is None or not self.encoder.labels:
            raise ValueError(
                "no label was given for the sounds, and there is no encoder that names them: give labels=[...], or an encoder "
                "whose weights name classes (BEATs, PANNs)"
            )
        waveforms = torch.stack([self.waveform(sound, sampling_rate) for sound in sounds])
        with self.evaluating(), self.using(self.encoder):
            found = self.encoder.class_logits(waveforms.to(self.device)).argmax(-1).tolist()
        names = [self.encoder.labels[each] for each in found]
        if codes := [name for name in names if name.startswith("/")]:
            raise ValueError(
                f"the encoder names classes by codes such as {codes[0]!r}, which no painter reads: give labels=[...]"
            )
        return names

    def encode(self, sounds: Any, sampling_rate: int | None = None) -> Tensor:
        """Nothing, (B, 0): the words are in the prompt."""
        return torch.zeros(len(sounds) if isinstance(sounds, (list, tuple)) else 1, 0, device=self.device)

    def check_prompt(self, prompt: str) -> None:
        """Nothing: the templates were checked before the labels came into them."""

    def check_ranker(self, ranker: PictureRanker) -> None:
        """Raise ValueError for a ranker that does not read."""
        if ranker.hears:
            raise ValueError("this pipeline's pictures are made of words: give a ranker whose reader is a TextEncoder")

    def wanted(self, ranker: PictureRanker, sounds: list[Any], prompts: list[str], sampling_rate: int | None) -> Tensor:
        """See `AudioTokenPipeline.wanted`; here of the prompts."""
        return ranker.read(prompts)

    def condition(self, prompts: list[str], tokens: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """See `AudioTokenPipeline.condition`."""
        return self.generator.prompt_embeds(prompts), {}

    def __call__(
        self,
        sounds: Sound | Sequence[Sound],
        prompt: str | Sequence[str] | None = None,
        *,
        labels: str | Sequence[str] | None = None,
        sampling_rate: int | None = None,
        negative_prompt: str | Sequence[str] = "",
        num_images_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        height: int | None = None,
        width: int | None = None,
        generator: Generators = None,
        latents: Tensor | None = None,
        batch_size: int | None = None,
        candidates: int | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callback | None = None,
    ) -> AudioTokenOutput:
        """Paint the labels of sounds; ``labels`` are for all or one for each, else the encoder names each sound.

        All else as of `AudioTokenPipeline`. Raises as it does, and as :meth:`labels`.
        """
        several: list[Any] = list(sounds) if isinstance(sounds, (list, tuple)) else [sounds]
        templates = one_each("prompts", self.prompt if prompt is None else prompt, len(several))
        for template in templates:
            check_places(template, 1)
        names = self.labels(several, sampling_rate) if labels is None else one_each("labels", labels, len(several))
        return super().__call__(
            several, [told(template, name) for template, name in zip(templates, names, strict=True)],
            sampling_rate=sampling_rate, negative_prompt=negative_prompt, num_images_per_prompt=num_images_per_prompt,
            num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, height=height, width=width,
            generator=generator, latents=latents, batch_size=batch_size, candidates=candidates,
            output_type=output_type, callback_on_step_end=callback_on_step_end,
        )  # fmt: skip


class TextPainterPipeline(LabelTextPipeline):
    """The painter itself: texts in, pictures out; called as `LabelTextPipeline` is, with texts in the place of sounds."""

    takes: ClassVar[tuple[str, ...]] = ("text",)
    baseline: ClassVar[bool] = True

    def __call__(  # type: ignore[override]
        self,
        texts: str | Sequence[str],
        prompt: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | Sequence[str] = "",
        num_images_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        height: int | None = None,
        width: int | None = None,
        generator: Generators = None,
        latents: Tensor | None = None,
        batch_size: int | None = None,
        candidates: int | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callback | None = None,
    ) -> AudioTokenOutput:
        """Paint ``num_images_per_prompt`` pictures of every text; ``prompt`` is a template around it (recipes: ``{}`` alone).

        All else as of `AudioTokenPipeline`. Raises as it does, and ValueError for an empty text.
        """
        several = [texts] if isinstance(texts, str) else list(texts)
        if not all(text.strip() for text in several):
            raise ValueError("a text to paint is empty: say what should be seen")
        return super().__call__(
            several, prompt, labels=several, negative_prompt=negative_prompt, num_images_per_prompt=num_images_per_prompt,
            num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, height=height, width=width,
            generator=generator, latents=latents, batch_size=batch_size, candidates=candidates,
            output_type=output_type, callback_on_step_end=callback_on_step_end,
        )  # fmt: skip
