"""Picture or video in, sound out, with diffusers' call conventions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xmodal.data.audio import resample
from xmodal.data.pan import panned
from xmodal.data.pictures import read_pictures
from xmodal.data.values import finite
from xmodal.diffusion.sampling import Generators, Scheduler
from xmodal.foundation.base import AudioEncoder, AudioGenerator, ImageEncoder
from xmodal.vision2audio.frames import Aggregation, aggregate, check_aggregation, frames_to_read
from xmodal.vision2audio.regression import Mapper
from xmodal.vision2audio.stereo import StereoPan

Seen = Any
"""A picture's or video's path, pixels (3, H, W) in [0, 1] as tensor or array (H, W, 3), or a Pillow picture; four axes are
the frames of one clip."""

OUTPUT_TYPES = ("np", "pt")


@dataclass
class V2AMapperOutput:
    """``audios``: float32 (N, T) in [-1, 1] at ``sampling_rate`` (Hz), array or tensor by ``output_type``; (N, 2, T) if stereo.

    ``embeddings`` (N, d) are the unit vectors that the mapper gave to the generator. Sounds of one picture stand together,
    in the order of the pictures. ``pans`` (N,), from left -1 to right 1, is None for a mapper that guesses none.
    """

    audios: Any
    sampling_rate: int
    embeddings: Tensor
    pans: Tensor | None = None


class V2AMapperPipeline:
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
        if mapper.out_dim != generator.cond_dim:
            raise ValueError(
                f"the mapper gives embeddings of size {mapper.out_dim}, but the generator is conditioned on size "
                f"{generator.cond_dim}: train it for the CLAP that the generator was trained with"
            )
        self.encoder, self.mapper, self.generator, self.target = encoder, mapper.eval(), generator, target
        self.aggregation, self.frames, self.seconds = aggregation, frames, seconds
        self.guidance_scale, self.num_inference_steps = guidance_scale, num_inference_steps
        self.scheduler: Scheduler = None

    @property
    def device(self) -> torch.device:
        """Where the parts are."""
        return next(self.mapper.parameters()).device

    def to(self, device: str | torch.device) -> V2AMapperPipeline:
        """Move all parts."""
        for part in (self.encoder, self.mapper, self.generator, self.target):
            if isinstance(part, torch.nn.Module):
                part.to(device)
        return self

    def check_inputs(self, seconds: float, output_type: str, **counts: int) -> None:
        """Raise ValueError for the first argument that cannot work."""
        if not (math.isfinite(seconds) and seconds > 0):
            raise ValueError(f"audio_length_in_s must be above 0, not {seconds}")
        for name, number in counts.items():
            if number < 1:
                raise ValueError(f"{name} must be at least 1, not {number}")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, not {output_type!r}")
        if counts.get("candidates", 1) > 1 and self.target is None:
            raise ValueError("candidates are ranked by the target encoder, which this pipeline lacks: give one, or 1 candidate")

    @torch.no_grad()
    def see(self, pictures: Seen | Sequence[Seen], frames: int | None = None) -> list[Tensor]:
        """Embeddings (F, d1) of the frames of each picture or video, as the encoder gives them; a picture has one frame."""
        several = list(pictures) if isinstance(pictures, (list, tuple)) else [pictures]
        if not several:
            raise ValueError("there is nothing to make sounds of: give at least one picture or video")
        wanted = frames_to_read(self.aggregation, self.frames if frames is None else frames)
        read = [read_pictures(each, self.encoder.image_size, wanted) for each in several]
        return list(self.encoder.embed(torch.cat(read).to(self.device)).split([len(each) for each in read]))

    @torch.no_grad()
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

    @torch.no_grad()
    def map(self, seen: list[Tensor], generator: Generators = None, mapper_options: Mapping[str, Any] | None = None) -> Tensor:
        """Embeddings of frames (F, d1), one tensor for each result, as `see` gives them -> unit vectors (B, d2)."""
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

    @torch.no_grad()
    def __call__(
        self,
        pictures: Seen | Sequence[Seen],
        *,
        audio_length_in_s: float | None = None,
        num_waveforms_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        candidates: int = 1,
        frames: int | None = None,
        mapper_options: Mapping[str, Any] | None = None,
        output_type: str = "np",
        callback_on_step_end: Callable[[int, int], None] | None = None,
    ) -> V2AMapperOutput:
        """Make ``num_waveforms_per_prompt`` sounds of every picture; a mapper that draws does so anew for each of them.

        Args:
            pictures: picture or video (see `Seen`), or a list of them.
            audio_length_in_s: seconds; the generator has learnt only the length of its training.
            num_inference_steps, guidance_scale: of the generator; at most 1 switches guidance off at half the cost.
            generator: one for the whole call, or one for each sound, which then depends on nothing else in the call.
            candidates: made for each sound; the one that the target encoder hears nearest to the mapper's vector is kept.
            frames: of a video, evenly spaced.
            mapper_options: of `Mapper.sample`, for a mapper that draws: num_inference_steps, guidance_scale, sampler, eta.
            callback_on_step_end: called with (step, number of steps) of the generator.

        Raises ValueError, or FileNotFoundError for a missing picture, before anything is generated.
        """
        steps = self.num_inference_steps if num_inference_steps is None else num_inference_steps
        scale = finite("guidance_scale", self.guidance_scale if guidance_scale is None else guidance_scale)
        seconds = self.seconds if audio_length_in_s is None else audio_length_in_s
        counts = {"num_inference_steps": steps, "num_waveforms_per_prompt": num_waveforms_per_prompt, "candidates": candidates}
        self.check_inputs(seconds, output_type, **counts)
        seen = [each for each in self.see(pictures, frames) for _ in range(num_waveforms_per_prompt)]
        embeddings = self.map(seen, generator, mapper_options)
        options = {"guidance_scale": scale, "generator": generator, "callback": callback_on_step_end}
        audio = self.generate(embeddings, seconds, steps, candidates, **options)
        pans = None
        if isinstance(self.mapper, StereoPan):
            pans = self.mapper.pan(torch.cat([aggregate(each[None], "mean") for each in seen]))
            audio = panned(audio, pans)
        made = audio if output_type == "pt" else audio.cpu().numpy()
        return V2AMapperOutput(made, self.generator.sample_rate, embeddings, pans)

    @torch.no_grad()
    def generate(
        self, embeddings: Tensor, seconds: float, num_inference_steps: int, candidates: int = 1, **options: Any
    ) -> Tensor:
        """Embeddings (B, d2) of the generator's space, mapped ones or any others -> waveforms (B, T)."""
        if self.scheduler is not None:
            options["scheduler"] = self.scheduler
        if candidates > 1:
            options |= {"num_waveforms_per_embedding": candidates, "ranker": self.closeness}
        return self.generator.generate(embeddings, seconds=seconds, num_inference_steps=num_inference_steps, **options)

    def closeness(self, waveforms: Tensor, embeddings: Tensor) -> Tensor:
        """Cosine (N,) of what the target encoder hears in sounds (N, T) and the embeddings (N, d2) they were made from."""
        if not isinstance(self.target, AudioEncoder):
            if self.target is None:
                raise ValueError("this pipeline has no target encoder")
            self.target = self.target().to(self.device)
        heard = self.target.embed(resample(waveforms, self.generator.sample_rate, self.target.sample_rate))
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
