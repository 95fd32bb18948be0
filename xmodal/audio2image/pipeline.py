"""Sound in, pictures out, with diffusers' call conventions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from xmodal.audio2image.embedder import AudioTokenEmbedder
from xmodal.audio2image.position import placed
from xmodal.audio2image.ranking import PictureRanker, own_generators
from xmodal.data import values
from xmodal.data.audio import load_audio, load_channels, resample
from xmodal.data.pictures import read_pictures
from xmodal.data.window import window
from xmodal.files import write_beside
from xmodal.foundation.base import Adapter, AudioEncoder, ImageGenerator
from xmodal.foundation.lora import LowRank
from xmodal.pipelines import (
    Callback,
    Generators,
    Options,
    Output,
    Pipeline,
    check_counts,
    check_finite,
    check_output_type,
    checked,
    join,
    one_each,
)

if TYPE_CHECKING:
    from PIL import Image

Sound = str | Path | Tensor | np.ndarray
OUTPUT_TYPES = ("pil", "np", "pt")
PLAIN = ("prompt", "seconds", "short", "guidance_scale", "num_inference_steps", "candidates", "lora_rank")


@dataclass
class AudioTokenOutput(Output):
    """``images``: a list of Pillow pictures, float32 (N, H, W, 3) or (N, 3, H, W) in [0, 1], by ``output_type``.

    ``tokens``: the pseudo-words, (sounds, token_dim) or (sounds, k, token_dim). Pictures of one sound stand together, in the
    order of the sounds.
    """

    images: Any
    tokens: Tensor

    def save(self, number: int, path: Path) -> Path:
        """Write picture ``number`` as PNG; raises ValueError for other output types than "pil"."""
        if not isinstance(self.images, list):
            raise ValueError('only pictures of output_type "pil" are written to files')
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_beside(path, lambda partial: self.images[number].save(partial, format="PNG"))


class AudioTokenPipeline(Pipeline):
    """Call it with a file, a waveform or a list of them.

    Args:
        encoder, generator, adapter: the parts; ``scheduler`` may be exchanged (any diffusers scheduler).
        prompt: default template.
        seconds, short: see :class:`xmodal.audio2image.AudioToken`.
        guidance_scale, num_inference_steps, candidates: defaults of a call.
        lora_rank: of the low-rank weights that the adapter holds for the generator; default none.
        ranker: what ranks candidates, or what builds it, when it is first needed.
    """

    takes: ClassVar[tuple[str, ...]] = ("audio",)
    makes: ClassVar[str] = "image"
    PARTS: ClassVar[tuple[str, ...]] = ("encoder", "generator", "adapter", "ranker")
    places: ClassVar[int] = 1  # how many {} a prompt holds
    candidates: int = 1
    ranker: PictureRanker | Callable[[], PictureRanker] | None = None

    def __init__(
        self,
        encoder: AudioEncoder,
        generator: ImageGenerator,
        adapter: Adapter,
        prompt: str = "a photo of {}",
        seconds: float = 10.0,
        short: str = "loop",
        guidance_scale: float = 7.5,
        num_inference_steps: int = 25,
        lora_rank: int = 0,
        candidates: int = 1,
        ranker: PictureRanker | Callable[[], PictureRanker] | None = None,
    ) -> None:
        super().__init__(generator.default_scheduler())
        self.encoder, self.generator, self.adapter = encoder, generator, with_low_rank(adapter, generator, lora_rank)
        self.prompt, self.seconds, self.short = prompt, seconds, short
        self.guidance_scale, self.num_inference_steps = guidance_scale, num_inference_steps
        self._rank_by(candidates, ranker)

    @classmethod
    def from_recipe(cls, options: Options) -> AudioTokenPipeline:
        """See :meth:`xmodal.pipelines.Pipeline.from_recipe`; the ranker is built only when candidates are ranked."""
        options.check("encoder", "generator", "adapter", "ranker", *PLAIN)
        encoder, generator = options.part("encoder", AudioEncoder), options.part("generator", ImageGenerator)
        adapter = join(options.factory("adapter", Adapter, AudioTokenEmbedder), encoder.width, generator.token_dim)
        return cls(encoder, generator, adapter, ranker=ranker_of(options), **options.values(*PLAIN))

    def check_inputs(
        self,
        prompts: Sequence[str],
        num_inference_steps: int,
        num_images_per_prompt: int,
        guidance_scale: float,
        output_type: str,
        batch_size: int | None = None,
        candidates: int = 1,
    ) -> None:
        """Raise ValueError for the first argument that cannot work."""
        for prompt in prompts:
            self.check_prompt(prompt)
        counts = {"num_inference_steps": num_inference_steps, "num_images_per_prompt": num_images_per_prompt}
        check_counts(**counts, candidates=candidates, batch_size=batch_size)
        check_finite(guidance_scale=guidance_scale)
        check_output_type(output_type, OUTPUT_TYPES)

    def check_prompt(self, prompt: str) -> None:
        """Raise ValueError for a prompt without the place of the sound, or with several."""
        check_places(prompt, self.places)

    def waveform(self, sound: Sound, sampling_rate: int | None = None) -> Tensor:
        """Read one sound as the encoder wants it: mono float32 (T,) of exactly ``seconds``.

        Arrays are (T,), (channels, T) or (T, channels) and need their ``sampling_rate`` in Hz (`xmodal.data.values`).
        """
        return window(self.mono(sound, sampling_rate), round(self.seconds * self.encoder.sample_rate), self.short)

    def mono(self, sound: Sound, sampling_rate: int | None = None) -> Tensor:
        """Read one sound whole, mono float32 (T,) at the encoder's rate; as :meth:`waveform`."""
        rate = self.encoder.sample_rate
        if isinstance(sound, (str, Path)):
            return load_audio(sound, rate)
        return resample(values.waveform(sound, sampling_rate), int(sampling_rate or 0), rate)

    def encode(self, sounds: Any, sampling_rate: int | None = None) -> Tensor:
        """Sounds -> pseudo-words, (B, token_dim) or (B, k, token_dim), in the space of the text encoder's word embeddings."""
        several = sounds if isinstance(sounds, (list, tuple)) else [sounds]
        waveforms = torch.stack([self.waveform(sound, sampling_rate) for sound in several])
        with self.evaluating(), self.using(self.encoder, self.adapter):
            return self.adapter(self.encoder.tokens(waveforms.to(self.device)))

    def _pictures(self, image: Any, count: int) -> Tensor:
        """Pictures to change, (count, 3, H, W) in [0, 1], squeezed to the generator's own size."""
        size = self.generator.image_size
        return torch.cat([read_pictures(each, size)[:1] for each in one_each("images", image, count)])

    def _negative(self, unwanted: list[str]) -> Tensor | None:
        """Embeddings of negative prompts (B, S, c); empty ones are as if none were given. None where all are."""
        if not any(unwanted):
            return None
        known = {text: self.generator.prompt_embeds([text]) if text else self.generator.empty_embeds() for text in unwanted}
        return torch.cat([known[text] for text in unwanted])

    def _placed(self, prompts: list[str], sounds: list[Sound] | None, sampling_rate: int | None) -> list[str]:
        """Prompts that say where their sounds stand; ValueError where there are no sounds, or no place in the prompt."""
        if sounds is None or not self.places:
            raise ValueError("position needs sounds, and a prompt with {}: leave it out where there are only tokens or no {}")
        told = []
        for prompt, sound in zip(prompts, sounds, strict=True):
            if isinstance(sound, (str, Path)):
                channels, rate = load_channels(sound)
            else:
                channels, rate = values.channels(sound, sampling_rate), int(sampling_rate or 0)
            told.append(placed(prompt, channels, round(self.seconds * rate)))  # the stretch that is heard
        return told

    def condition(self, prompts: list[str], tokens: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Prompt embeddings (B, S, c) of B prompts and what the sounds became, and further options of the generator's call."""
        return self.generator.prompt_embeds(prompts, tokens), {}

    def _rank_by(self, candidates: int, ranker: PictureRanker | Callable[[], PictureRanker] | None) -> None:
        """Keep these defaults; ValueError for several candidates that nothing ranks."""
        if isinstance(candidates, bool) or not isinstance(candidates, int) or candidates < 1:
            raise ValueError(f"candidates must be a whole number of at least 1, not {candidates!r}")
        if candidates > 1 and ranker is None:
            raise ValueError(f"{candidates} candidates need a ranker: give one, or 1 candidate")
        self.candidates, self.ranker = candidates, ranker

    def _best_of(self, candidates: int | None, rankable: bool) -> int:
        """How many pictures are painted for one that is kept."""
        if candidates is None:
            return self.candidates if rankable else 1
        if candidates > 1 and not rankable:
            raise ValueError(
                "candidates have each their own noise and are ranked by what was asked: with latents or tokens there is 1"
            )
        return candidates

    def built_ranker(self) -> PictureRanker:
        """What ranks candidates, built when it is first needed; raises ValueError where there is none, or one that cannot."""
        if self.ranker is None:
            lacks = f"{type(self).__name__} has no ranker, which would choose from candidates"
            raise ValueError(f"{lacks}: add one (docs/audio2image.md), or leave candidates out")
        ranker: PictureRanker = self.built("ranker")
        self.check_ranker(ranker)
        return ranker

    def check_ranker(self, ranker: PictureRanker) -> None:
        """Raise ValueError for a ranker that cannot be asked with what this pipeline is given."""
        if not ranker.hears:
            raise ValueError("this pipeline's pictures are made of sounds: give a ranker whose reader is an AudioEncoder")

    def wanted(self, ranker: PictureRanker, sounds: list[Any], prompts: list[str], sampling_rate: int | None) -> Tensor:
        """What candidates are compared with, (B, d): of the sounds, as far as the encoder hears them, or of the prompts."""
        heard = torch.stack([self.waveform(sound, sampling_rate) for sound in sounds]).to(self.device)
        return ranker.heard(heard, self.encoder.sample_rate)

    def _keeper(
        self, sounds: list[Any], prompts: list[str], sampling_rate: int | None, rows: list[int]
    ) -> Callable[[Tensor, int | None], Tensor]:
        """What keeps the best picture of each row; what is wanted is heard or read here, before anything is painted."""
        ranker = self.built_ranker()
        with self.evaluating(), self.using(ranker):
            wanted = self.wanted(ranker, sounds, prompts, sampling_rate)[rows]

        def keep(pixels: Tensor, batch_size: int | None) -> Tensor:
            with self.evaluating(), self.using(ranker):
                return ranker.best(pixels, wanted, batch_size)

        return keep

    def mix(self, sounds: Sequence[Sound], weights: Sequence[float] | None = None, sampling_rate: int | None = None) -> Tensor:
        """What several sounds become together: the weighted mean of their pseudo-words, (1, ...) as of :meth:`encode`.

        ``weights`` are by default equal, and made to sum to one. Hand it on as ``tokens``. Raises ValueError for weights that are
        not finite or below 0, or whose number or sum cannot be.
        """
        given = [1.0] * len(sounds) if weights is None else [float(each) for each in weights]
        if len(given) != len(sounds) or not all(math.isfinite(each) and each >= 0 for each in given) or not sum(given):
            raise ValueError(f"{len(sounds)} sounds need {len(sounds)} weights from 0 that are not all 0, not {given}")
        tokens = self.encode(list(sounds), sampling_rate)
        share = torch.tensor(given, device=tokens.device, dtype=tokens.dtype) / sum(given)
        return torch.tensordot(share, tokens, 1)[None]

    def between(self, first: Sound, second: Sound, count: int, sampling_rate: int | None = None) -> Tensor:
        """``count`` steps of equal size from one sound's pseudo-words to another's, both ends included, as ``tokens``.

        Raises ValueError for a count below 2. Give all pictures the same noise, so that only the sound changes.
        """
        if count < 2:
            raise ValueError(f"count must be at least 2, the two ends, not {count}")
        start, end = self.encode([first, second], sampling_rate)
        return torch.stack([torch.lerp(start, end, share) for share in torch.linspace(0, 1, count).tolist()])

    def windows(self, sound: Sound, seconds: float | None = None, sampling_rate: int | None = None) -> list[Tensor]:
        """A long recording in stretches of ``seconds`` (default the adapter's own), each (T,) at the encoder's rate.

        A rest shorter than half a stretch stays with none, unless it is all there is. Raises ValueError for a length of 0.
        """
        length = round((self.seconds if seconds is None else seconds) * self.encoder.sample_rate)
        if length < 1:
            raise ValueError(f"seconds must be above 0, not {seconds}")
        parts = list(self.mono(sound, sampling_rate).split(length))
        return parts[:-1] if len(parts) > 1 and len(parts[-1]) < length / 2 else parts

    def __call__(
        self,
        sounds: Sound | Sequence[Sound] | None = None,
        prompt: str | Sequence[str] | None = None,
        *,
        tokens: Tensor | None = None,
        image: Any = None,
        strength: float = 0.8,
        position: bool = False,
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
        """Paint ``num_images_per_prompt`` pictures of every sound.

        Args:
            sounds: file, waveform (T,) or (channels, T), or a list of them.
            prompt: template with one ``{}``, for all sounds or one for each; default as trained.
            tokens: in place of sounds, what :meth:`encode`, :meth:`mix` or :meth:`between` made of them.
            image: a picture (path, Pillow, array or tensor), or a list with one for each sound, to change in place of noise.
            strength: how much of it changes: the share of the steps that is made, above 0, at most 1.
            position: say in the prompt where a stereo sound stands (`xmodal.audio2image.position`).
            sampling_rate: Hz, needed for waveforms, ignored for files.
            negative_prompt: what the picture should not show, for all sounds or one for each.
            height, width: pixels; default the generator's own.
            generator: one for the whole call, or one for each picture: a picture's own generator makes it independent
                of what else is in the call.
            latents: the noise to begin with, (N, C, h, w) of unit variance, in place of what ``generator`` would draw; what the
                sampler draws in its steps, if it does, comes of ``generator`` still.
            batch_size: pictures at once, candidates counted; default all.
            candidates: painted for each picture; the one that the ranker finds nearest to the sound is kept. Default the
                pipeline's own, but 1 with ``tokens``, which cannot be heard, and with ``latents``, which are one picture's.
            callback_on_step_end: called with (step, number of steps).

        Raises ValueError, or FileNotFoundError for a missing file, before anything is computed.
        """
        if (sounds is None) == (tokens is None):
            raise ValueError("give sounds, or tokens that were made of sounds: one of the two")
        several: list[Any] = list(sounds if isinstance(sounds, (list, tuple)) else [sounds] if tokens is None else tokens)
        prompts = one_each("prompts", self.prompt if prompt is None else prompt, len(several))
        negatives = one_each("negative prompts", negative_prompt, len(several))
        steps = self.num_inference_steps if num_inference_steps is None else num_inference_steps
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        best_of = self._best_of(candidates, tokens is None and latents is None)
        self.check_inputs(prompts, steps, num_images_per_prompt, scale, output_type, batch_size, best_of)
        check_finite(strength=strength)
        if position:
            prompts = self._placed(prompts, several if tokens is None else None, sampling_rate)
        rows = [row for row in range(len(several)) for _ in range(num_images_per_prompt)]
        keep = self._keeper(several, prompts, sampling_rate, rows) if best_of > 1 else None
        shown = None if image is None else self._pictures(image, len(several))
        tokens = self.encode(several, sampling_rate) if tokens is None else tokens.to(self.device)
        painted = [row for row in rows for _ in range(best_of)]
        own, pixels = own_generators(generator, len(rows), best_of), []
        for part, noise in self.chunks(len(painted), batch_size, own):
            chosen = painted[part]
            unwanted = [negatives[row] for row in chosen]
            with self.evaluating(), self.using(self.generator, self.adapter), self.progress(callback_on_step_end) as callback:
                changed: dict[str, Any] = {} if shown is None else {"image": shown[chosen], "strength": strength}
                embeds, given = self.condition([prompts[row] for row in chosen], tokens[chosen])
                negative = self._negative(unwanted)
                with low_rank_on(self.adapter, self.generator):
                    made = self.generator.generate(
                        embeds, negative, num_inference_steps=steps, guidance_scale=scale, generator=noise, height=height,
                        width=width, scheduler=self.scheduler, latents=None if latents is None else latents[part],
                        callback=callback, **given, **changed,
                    )  # fmt: skip
            pixels.append(checked(made, "picture"))
        if keep is not None:
            pixels = [keep(torch.cat(pixels), batch_size)]
        return AudioTokenOutput(_as(torch.cat(pixels), output_type), tokens)


def ranker_of(options: Options) -> Callable[[], PictureRanker] | None:
    """What builds a recipe's ranker; None where it has none."""
    return (lambda: options.part("ranker", PictureRanker)) if "ranker" in options else None


def with_low_rank(adapter: Adapter, generator: ImageGenerator, rank: int) -> Adapter:
    """The adapter, with low-rank weights for the generator's attention as its part ``low_rank`` where rank is above 0."""
    if rank and not hasattr(adapter, "low_rank"):
        adapter.low_rank = LowRank(generator.projections(), rank)
    return adapter


def low_rank_on(adapter: Adapter, generator: ImageGenerator) -> AbstractContextManager[None]:
    """While open, the generator has the adapter's low-rank weights, where there are any."""
    low_rank: Any = getattr(adapter, "low_rank", None)
    return nullcontext() if low_rank is None else low_rank.on(generator.projections())


def check_places(prompt: str, places: int) -> None:
    """Raise ValueError for a prompt that holds other than so many ``{}`` (one or none), the place of the sound."""
    if prompt.count("{}") != places:
        wish = "exactly one {}, the place of the sound" if places else "no {}: the sound has its own way into this painter"
        raise ValueError(f"prompt {prompt!r} must hold {wish}")


def told(prompt: str, label: str) -> str:
    """A prompt with a label's words in the place of the sound."""
    return prompt.replace("{}", label.replace("_", " "))


def _as(pixels: Tensor, output_type: str) -> list[Image.Image] | np.ndarray | Tensor:
    """Pixels (N, 3, H, W) in [0, 1] in the asked form."""
    if output_type == "pt":
        return pixels
    array = pixels.permute(0, 2, 3, 1).float().cpu().numpy()
    if output_type == "np":
        return array
    from PIL import Image

    return [Image.fromarray(picture) for picture in (array * 255).round().astype(np.uint8)]
