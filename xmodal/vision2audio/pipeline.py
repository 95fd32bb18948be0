"""Picture or video in, sound out, with diffusers' call conventions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from xmodal.data.audio import resample
from xmodal.data.pan import panned
from xmodal.data.pictures import read_pictures
from xmodal.foundation.base import AudioEncoder, AudioGenerator, ImageEncoder
from xmodal.pipelines import (
    Callback,
    Generators,
    Options,
    Pipeline,
    SoundOutput,
    check_counts,
    check_finite,
    check_output_type,
    check_seconds,
    checked,
    join,
    one_each,
)
from xmodal.vision2audio.frames import Aggregation, aggregate, check_aggregation, frames_to_read
from xmodal.vision2audio.mapper import Mapper
from xmodal.vision2audio.regression import RegressionMapper
from xmodal.vision2audio.stereo import StereoPan

Seen = Any
"""A picture's or video's path, pixels (3, H, W) in [0, 1] as tensor or array (H, W, 3), or a Pillow picture; four axes are
the frames of one clip."""

OUTPUT_TYPES = ("np", "pt")
PLAIN = ("aggregation", "frames", "seconds", "guidance_scale", "num_inference_steps")


@dataclass
class V2AMapperOutput(SoundOutput):
    """``audios``: float32 (N, T) in [-1, 1] at ``sampling_rate`` (Hz), array or tensor by ``output_type``; (N, 2, T) if stereo.

    ``embeddings`` (N, d) are the unit vectors that the mapper gave to the generator. Sounds of one picture stand together,
    in the order of the pictures. ``pans`` (N,), from left -1 to right 1, is None for a mapper that guesses none.
    """

    audios: Any
    sampling_rate: int
    embeddings: Tensor
    pans: Tensor | None = None


class V2AMapperPipeline(Pipeline):
    """Call it with a picture, a video, or a list of them.

    Args:
        encoder: sees; the mapper was trained with it.
        mapper: from its embeddings to those that the generator knows.
        generator: makes sounds of them; ``scheduler`` may be exchanged (any diffusers scheduler of its prediction type).
        target: the tower whose embeddings the mapper guesses, or what builds it: needed to rank candidates, and only then built.
        aggregation: what becomes of a video's frames, see :func:`xmodal.vision2audio.frames.aggregate`; ``per_frame`` maps each
            of them and takes the mean of the results.
        frames: of a video, evenly spaced, unless a call says otherwise.
        seconds, guidance_scale, num_inference_steps: defaults of a call.

    Raises ValueError where mapper and generator do not fit.
    """

    takes: ClassVar[tuple[str, ...]] = ("image", "video")
    makes: ClassVar[str] = "audio"
    PARTS = ("encoder", "mapper", "generator", "target")
    ADAPTER = "mapper"

    def __init__(
        self,
        encoder: ImageEncoder,
        mapper: Mapper,
        generator: AudioGenerator,
        target: AudioEncoder | Callable[[], AudioEncoder] | None = None,
        aggregation: Aggregation = "mean",
        frames: int = 4,
        seconds: float = 10.0,
        guidance_scale: float = 2.5,
        num_inference_steps: int = 25,
    ) -> None:
        check_aggregation(aggregation)
        super().__init__(generator.default_scheduler())
        if mapper.out_dim != generator.cond_dim:
            raise ValueError(
                f"the mapper gives embeddings of size {mapper.out_dim}, but the generator is conditioned on size "
                f"{generator.cond_dim}: train it for the CLAP that the generator was trained with"
            )
        self.encoder, self.mapper, self.generator, self.target = encoder, mapper, generator, target
        self.aggregation, self.frames, self.seconds = aggregation, frames, seconds
        self.guidance_scale, self.num_inference_steps = guidance_scale, num_inference_steps

    @classmethod
    def from_recipe(cls, options: Options) -> V2AMapperPipeline:
        """See :meth:`xmodal.pipelines.Pipeline.from_recipe`; the target is built only when candidates are ranked."""
        options.check("encoder", "target", "generator", "adapter", *PLAIN)
        encoder, generator = options.part("encoder", ImageEncoder), options.part("generator", AudioGenerator)
        target = options.factory("target", AudioEncoder) if "target" in options else None
        mapper = join(options.factory("adapter", Mapper, RegressionMapper), encoder.dim, generator.cond_dim)
        return cls(encoder, mapper, generator, target, **options.values(*PLAIN))

    def check_inputs(
        self, seconds: float, guidance_scale: float, output_type: str, batch_size: int | None = None, **counts: int
    ) -> None:
        """Raise ValueError for the first argument that cannot work."""
        check_seconds(seconds)
        check_counts(**counts, batch_size=batch_size)
        check_finite(guidance_scale=guidance_scale)
        check_output_type(output_type, OUTPUT_TYPES)
        if counts.get("candidates", 1) > 1 and self.target is None:
            raise ValueError("candidates are ranked by the target encoder, which this pipeline lacks: give one, or 1 candidate")

    def see(self, pictures: Seen | Sequence[Seen], frames: int | None = None) -> list[Tensor]:
        """Embeddings (F, d1) of the frames of each picture or video, as the encoder gives them; a picture has one frame."""
        several = list(pictures) if isinstance(pictures, (list, tuple)) else [pictures]
        if not several:
            raise ValueError("there is nothing to make sounds of: give at least one picture or video")
        wanted = frames_to_read(self.aggregation, self.frames if frames is None else frames)
        read = [read_pictures(each, self.encoder.image_size, wanted) for each in several]
        with self.evaluating(), self.using(self.encoder):
            return list(self.encoder.embed(torch.cat(read).to(self.device)).split([len(each) for each in read]))

    def encode(
        self,
        pictures: Seen | Sequence[Seen],
        generator: Generators = None,
        frames: int | None = None,
        mapper_options: Mapping[str, Any] | None = None,
        times: int = 1,
    ) -> Tensor:
        """Pictures or videos -> unit vectors (B * times, d2) of the space that the generator knows; arguments as in a call.

        A mapper that draws is asked ``times`` for each picture, which is looked at once.
        """
        return self.map([each for each in self.see(pictures, frames) for _ in range(times)], generator, mapper_options)

    def map(self, seen: list[Tensor], generator: Generators = None, mapper_options: Mapping[str, Any] | None = None) -> Tensor:
        """Embeddings of frames (F, d1), one tensor for each result, as `see` gives them -> unit vectors (B, d2)."""
        with self.evaluating(), self.using(self.mapper):
            return self._mapped([each.to(self.device) for each in seen], generator, mapper_options)

    def _mapped(self, seen: list[Tensor], generator: Generators, mapper_options: Mapping[str, Any] | None) -> Tensor:
        options, raw = dict(mapper_options or {}), self.mapper.source_norm == "none"
        if isinstance(generator, Sequence) and len(generator) != len(seen):
            raise ValueError(f"{len(generator)} generators for {len(seen)} sounds: give one for each, or a single one")
        own = list(generator) if isinstance(generator, Sequence) else [generator] * len(seen)  # type: ignore[list-item]
        if self.aggregation != "per_frame":
            sources = [aggregate(each[None], self.aggregation, raw, one) for each, one in zip(seen, own, strict=True)]
            return self.mapper.sample(torch.cat(sources), generator=generator, **options)
        if isinstance(generator, Sequence):  # one for each row: the frames of a clip draw from its own in turn
            generator = [one for each, one in zip(seen, generator, strict=True) for _ in each]
        made = self.mapper.sample(torch.cat(seen), generator=generator, **options)
        return F.normalize(torch.stack([each.mean(0) for each in made.split([len(each) for each in seen])]), dim=-1)

    def __call__(
        self,
        pictures: Seen | Sequence[Seen],
        *,
        negative_prompt: Seen | Sequence[Seen] | None = None,
        audio_length_in_s: float | None = None,
        num_waveforms_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: Generators = None,
        latents: Tensor | None = None,
        batch_size: int | None = None,
        candidates: int = 1,
        frames: int | None = None,
        mapper_options: Mapping[str, Any] | None = None,
        output_type: str = "np",
        callback_on_step_end: Callback | None = None,
    ) -> V2AMapperOutput:
        """Make ``num_waveforms_per_prompt`` sounds of every picture; a mapper that draws does so anew for each of them.

        Args:
            pictures: picture or video (see `Seen`), or a list of them.
            negative_prompt: a picture of what should not be heard, for all or a list with one for each; its mapped embedding
                takes the place of that of the empty text.
            audio_length_in_s: seconds; the generator has learnt only the length of its training.
            num_inference_steps, guidance_scale: of the generator; at most 1 switches guidance off at half the cost.
            generator: one for the whole call, or one for each sound, which then depends on nothing else in the call.
            latents: the noise to begin with, of the generator's own shape, in place of what ``generator`` would draw.
            batch_size: sounds at once; default all.
            candidates: made for each sound; the one that the target encoder hears nearest to the mapper's vector is kept.
            frames: of a video, evenly spaced.
            mapper_options: of `Mapper.sample`, for a mapper that draws: num_inference_steps, guidance_scale, sampler, eta.
            callback_on_step_end: called with (step, number of steps) of the generator.

        Raises ValueError, or FileNotFoundError for a missing picture, before anything is generated.
        """
        steps = self.num_inference_steps if num_inference_steps is None else num_inference_steps
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        seconds = self.seconds if audio_length_in_s is None else audio_length_in_s
        counts = {"num_inference_steps": steps, "num_waveforms_per_prompt": num_waveforms_per_prompt, "candidates": candidates}
        self.check_inputs(seconds, scale, output_type, batch_size, **counts)
        several = list(pictures) if isinstance(pictures, (list, tuple)) else [pictures]
        unwanted = None
        if negative_prompt is not None:
            asked = one_each("negative prompts", negative_prompt, len(several))
            negatives = self.encode(asked, torch.Generator().manual_seed(0), frames)  # of a mapper that draws: always the same
            unwanted = negatives.repeat_interleave(num_waveforms_per_prompt, 0)
        seen = [each for each in self.see(several, frames) for _ in range(num_waveforms_per_prompt)]
        embeddings = self.map(seen, generator, mapper_options)
        made = []
        for part, noise in self.chunks(len(seen), batch_size, generator):
            options: dict[str, Any] = {"guidance_scale": scale, "generator": noise}
            options["negative"] = None if unwanted is None else unwanted[part]
            options["latents"] = None if latents is None else latents[part]
            with self.progress(callback_on_step_end) as options["callback"]:
                made.append(self.generate(embeddings[part], seconds, steps, candidates, **options))
        audio, pans = torch.cat(made), None
        if isinstance(self.mapper, StereoPan):
            with self.evaluating(), self.using(self.mapper):
                pans = self.mapper.pan(torch.cat([aggregate(each[None], "mean") for each in seen]).to(self.device))
            audio = panned(audio, pans)
        made_of = audio if output_type == "pt" else audio.cpu().numpy()
        return V2AMapperOutput(made_of, self.generator.sample_rate, embeddings, pans)

    def generate(
        self, embeddings: Tensor, seconds: float, num_inference_steps: int, candidates: int = 1, **options: Any
    ) -> Tensor:
        """Embeddings (B, d2) of the generator's space, mapped ones or any others -> waveforms (B, T)."""
        options = {"scheduler": self.scheduler, **options}
        ranked = []
        if candidates > 1:
            options |= {"num_waveforms_per_embedding": candidates, "ranker": self.closeness}
            ranked = [self._built_target()]
        with self.evaluating(), self.using(self.generator, *ranked):
            made = self.generator.generate(
                embeddings.to(self.device), seconds=seconds, num_inference_steps=num_inference_steps, **options
            )
        return checked(made, "sound")

    def _built_target(self) -> AudioEncoder:
        if self.target is None:
            raise ValueError("this pipeline has no target encoder")
        target: AudioEncoder = self.built("target")
        return target

    def closeness(self, waveforms: Tensor, embeddings: Tensor) -> Tensor:
        """Cosine (N,) of what the target encoder hears in sounds (N, T) and the embeddings (N, d2) they were made from."""
        target = self._built_target()
        heard = target.embed(resample(waveforms, self.generator.sample_rate, target.sample_rate))
        return F.cosine_similarity(heard, embeddings)


def slerp(start: Tensor, end: Tensor, count: int = 10) -> Tensor:
    """``count`` unit vectors (count, d) on the arc from one embedding (d,) to another, both ends included.

    For `V2AMapperPipeline.generate`: sounds between two pictures, or between a picture and a text of CLAP.
    """
    if count < 2:
        raise ValueError(f"count must be at least 2, the two ends, not {count}")
    start, end = (F.normalize(each.float(), dim=-1) for each in (start, end))
    angle = torch.acos((start @ end).clamp(-1, 1))
    if float(angle.sin()) < 1e-4:
        raise ValueError("the embeddings are the same or opposite: there is no arc between them")
    share = torch.linspace(0, 1, count, device=start.device)[:, None]
    return (((1 - share) * angle).sin() * start + (share * angle).sin() * end) / angle.sin()
