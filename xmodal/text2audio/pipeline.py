"""Picture or text in, sound out, with diffusers' call conventions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any, ClassVar, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from xmodal.data.pictures import is_picture, read_pictures
from xmodal.diffusion.sampling import sample, with_guidance
from xmodal.diffusion.schedules import check_scheduler, scheduler_for, within
from xmodal.foundation.base import Encoder, ImageEncoder, MelAutoencoder, Prior, TextEncoder, Vocoder
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
    one_each,
)
from xmodal.text2audio.network import MelNetwork, build_network
from xmodal.text2audio.unet import MelUNet

Query = Literal["image", "text", "prior"]
Asked = Any
"""Text, a picture's or video's path, pixels (3, H, W) in [0, 1] as tensor or array (H, W, 3), or a Pillow picture; four axes
are the frames of one video."""

OUTPUT_TYPES = ("np", "pt")
PARTS_OF_RECIPE = ("encoder", "vocoder", "adapter", "autoencoder", "text_encoder", "prior")
PLAIN = (
    "query", "seconds", "prediction_type", "beta_schedule", "num_train_timesteps", "guidance_scale", "num_inference_steps",
    "prior_options",
)  # fmt: skip
LIMITS = {"spectrograms": 1.0, "latents": 8.0}  # latents have about unit variance, and a few lie far out


@dataclass
class CLIPSonicOutput(SoundOutput):
    """``audios``: float32 (N, T) in [-1, 1] at ``sampling_rate`` (Hz), array or tensor by ``output_type``.

    ``mels`` (N, M, L) are the log-mels they were made from, ``embeddings`` (N, d) the unit vectors that entered the
    generator. Sounds of one query stand together, in the order of the queries.
    """

    audios: Any
    sampling_rate: int
    mels: Tensor
    embeddings: Tensor


class CLIPSonicPipeline(Pipeline):
    """Call it with a text, a picture, a video, or a list of one of these kinds.

    Args:
        encoder: what the generator was trained with.
        generator: answers noisy spectrograms.
        vocoder: turns spectrograms into sound; ValueError if its kind of mel is not the generator's.
        autoencoder: where the generator makes latents of spectrograms, what decodes them.
        text_encoder: for texts, where ``encoder`` is no text tower itself.
        prior: from its embeddings to those of ``encoder``.
        query: default of a call: None takes pictures as pictures, and texts through the prior if there is one.
        seconds: default length.
        guided: whether the generator was trained with hidden conditions.
        prediction_type, beta_schedule, num_train_timesteps: as trained.
        guidance_scale, num_inference_steps, prior_options: defaults of a call.
    """

    takes: ClassVar[tuple[str, ...]] = ("text", "image", "video")
    makes: ClassVar[str] = "audio"
    PARTS = ("encoder", "generator", "vocoder", "autoencoder", "text_encoder", "prior")
    ADAPTER = "generator"

    def __init__(
        self,
        encoder: Encoder,
        generator: MelNetwork,
        vocoder: Vocoder,
        autoencoder: MelAutoencoder | None = None,
        text_encoder: TextEncoder | None = None,
        prior: Prior | None = None,
        query: Query | None = None,
        seconds: float = 10.0,
        guided: bool = True,
        prediction_type: str = "v_prediction",
        beta_schedule: str = "squaredcos_cap_v2",
        num_train_timesteps: int = 1000,
        guidance_scale: float = 3.0,
        num_inference_steps: int = 25,
        prior_options: Mapping[str, Any] | None = None,
    ) -> None:
        scheduler = scheduler_for(prediction_type, beta_schedule, num_train_timesteps)
        scheduler.register_to_config(clip_sample=autoencoder is None)  # other kinds that are made from its config read it
        super().__init__(scheduler)
        if generator.mel is None:
            raise ValueError("the generator does not know its kind of mel: call its bind() first")
        generator.mel.require(vocoder.mel, "the mel of the generator", "the mel of the vocoder")
        if bool(generator.latents) != (autoencoder is not None):
            made = "latents, so it needs the autoencoder" if generator.latents else "spectrograms, so it takes no autoencoder"
            raise ValueError(f"the generator makes {made}: build the pipeline as it was trained")
        if autoencoder is not None:
            autoencoder.mel.require(vocoder.mel, "the mel of the autoencoder", "the mel of the vocoder")
            if autoencoder.size != generator.n_mels:
                sizes = f"{generator.n_mels} numbers a frame, but the autoencoder's have {autoencoder.size}"
                raise ValueError(f"the generator makes latents of {sizes}: give the one that it was trained with")
        for name, part in {"text_encoder": text_encoder, "prior": prior}.items():
            if part is not None and part.dim != encoder.dim:
                spaces = f"{name} has embeddings of size {part.dim}, but the generator was trained with size {encoder.dim}"
                raise ValueError(f"{spaces}: take the towers and the prior of one CLIP")
        self.encoder, self.generator, self.vocoder, self.autoencoder = encoder, generator, vocoder, autoencoder
        self.text_encoder = encoder if isinstance(encoder, TextEncoder) else text_encoder
        self.prior, self.query, self.seconds, self.guided = prior, query, seconds, guided
        self.guidance_scale, self.num_inference_steps = guidance_scale, num_inference_steps
        self.prior_options = dict(prior_options or {})
        self._trained = {"prediction_type": prediction_type, "beta_schedule": beta_schedule}
        self._trained["num_train_timesteps"] = num_train_timesteps  # type: ignore[assignment]
        self._limit = LIMITS["spectrograms" if autoencoder is None else "latents"]
        self._shares = scheduler.alphas_cumprod

    @classmethod
    def from_recipe(cls, options: Options) -> CLIPSonicPipeline:
        """See :meth:`xmodal.pipelines.Pipeline.from_recipe`."""
        options.check(*PARTS_OF_RECIPE, *PLAIN, "condition_dropout", "mel_low", "mel_high")
        encoder, vocoder = options.part("encoder", Encoder), options.part("vocoder", Vocoder)
        autoencoder = options.part("autoencoder", MelAutoencoder)
        ends = options.values("mel_low", "mel_high")
        generator = build_network(options.factory("adapter", MelNetwork, MelUNet), encoder.dim, vocoder, autoencoder, **ends)
        text_encoder, prior = options.part("text_encoder", TextEncoder), options.part("prior", Prior)
        guided = options.values("condition_dropout").get("condition_dropout", 0.1) > 0
        return cls(encoder, generator, vocoder, autoencoder, text_encoder, prior, guided=guided, **options.values(*PLAIN))

    def check_scheduler(self, scheduler: Any) -> None:
        """Raise ValueError for a scheduler that is not of the noise that was trained with, or known to do harm."""
        check_scheduler(scheduler, self._trained, self.autoencoder is None)

    def check_inputs(
        self,
        seconds: float,
        num_inference_steps: int,
        num_waveforms_per_prompt: int,
        guidance_scale: float,
        output_type: str,
        batch_size: int | None = None,
    ) -> None:
        """Raise ValueError for the first argument that cannot work."""
        check_seconds(seconds)
        counts = {"num_inference_steps": num_inference_steps, "num_waveforms_per_prompt": num_waveforms_per_prompt}
        check_counts(**counts, batch_size=batch_size)
        check_finite(guidance_scale=guidance_scale)
        if guidance_scale > 1 and not self.guided:
            raise ValueError(f"guidance_scale {guidance_scale} needs a generator trained with condition_dropout above 0")
        check_output_type(output_type, OUTPUT_TYPES)

    def kind(self, asked: Asked, query: str | None = None) -> Query:
        """How a query is read; raises ValueError where this pipeline cannot read it so."""
        chosen = query or self.query
        if chosen is None:
            chosen = "image" if is_picture(asked) else "text" if self.prior is None else "prior"
        if chosen not in get_args(Query):
            raise ValueError(f"query must be one of {', '.join(get_args(Query))}, not {chosen!r}")
        if chosen == "image" and not isinstance(self.encoder, ImageEncoder):
            raise ValueError(f"this generator was trained with a {type(self.encoder).__name__}, which sees nothing: ask by text")
        if chosen != "image":
            if not isinstance(asked, str):
                raise ValueError(f"query {chosen} takes texts, got a {type(asked).__name__}: ask by image")
            if self.text_encoder is None:
                raise ValueError("this pipeline has no text_encoder: give it the text tower of the CLIP that the generator knows")
        if chosen == "prior" and self.prior is None:
            raise ValueError("query prior needs a prior: load with one, see recipes/overlays/clipsonic_pd.yaml")
        return chosen  # type: ignore[return-value]

    def encode(
        self,
        asked: Asked | Sequence[Asked],
        query: Query | None = None,
        generator: Generators = None,
        frames: int = 4,
        prior_options: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Queries -> unit vectors (B, d) of the space that the generator knows; arguments as in a call."""
        several = list(asked) if isinstance(asked, (list, tuple)) else [asked]
        if not several:
            raise ValueError("there is nothing to make sounds of: give at least one text or picture")
        kinds = {self.kind(each, query) for each in several}
        if len(kinds) > 1:
            raise ValueError(f"one call takes queries of one kind, these are {' and '.join(sorted(kinds))}: call once for each")
        kind = kinds.pop()
        with self.evaluating(), self.using(self.encoder, self.text_encoder, self.prior):
            return self._encoded(several, kind, generator, frames, prior_options)

    def _encoded(
        self, several: list[Asked], kind: Query, generator: Generators, frames: int, prior_options: Mapping[str, Any] | None
    ) -> Tensor:
        if kind == "image":
            return F.normalize(torch.stack([self._see(each, frames) for each in several]), dim=-1)
        if self.text_encoder is None:
            raise ValueError("this pipeline has no text_encoder")
        text = self.text_encoder.embed([str(each) for each in several])
        if kind == "prior" and self.prior is not None:
            options = {**self.prior_options, **(prior_options or {})}
            _check_options(self.prior, options)
            if self.prior.reads_tokens:
                options["tokens"], options["mask"] = self.text_encoder.states(several)
            text = self.prior.sample(text, generator=generator, **options)
        return F.normalize(text.float(), dim=-1)

    def _see(self, asked: Asked, frames: int) -> Tensor:
        """One picture, or the mean of a video's evenly spaced frames -> (d,)."""
        pixels = read_pictures(asked, cast(ImageEncoder, self.encoder).image_size, frames)
        return F.normalize(self.encoder.embed(pixels.to(self.device)).float(), dim=-1).mean(0)

    def __call__(
        self,
        prompt: Asked | Sequence[Asked],
        *,
        query: Query | None = None,
        negative_prompt: Asked | Sequence[Asked] | None = None,
        audio_length_in_s: float | None = None,
        num_waveforms_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: Generators = None,
        latents: Tensor | None = None,
        batch_size: int | None = None,
        frames: int = 4,
        prior_options: Mapping[str, Any] | None = None,
        output_type: str = "np",
        callback_on_step_end: Callback | None = None,
    ) -> CLIPSonicOutput:
        """Make ``num_waveforms_per_prompt`` sounds of every query.

        Args:
            prompt: text, picture or video (see `Asked`), or a list of them. A string is a path if such a file exists or it
                ends like a picture or a video, else a text.
            query: ``image``, ``text`` (its embedding as it is) or ``prior``; default as constructed.
            negative_prompt: what should not be heard, of the kinds of ``prompt``, for all or a list with one for each.
            audio_length_in_s: seconds; any length, but the generator has learnt only that of its training.
            guidance_scale: at most 1 asks the generator once a step instead of twice.
            generator: one for the whole call, or one for each sound, which then depends on nothing else in the call.
            latents: the noise to begin with, of the generator's own shape, in place of what ``generator`` would draw.
            batch_size: sounds at once; default all.
            frames: of a video, evenly spaced, whose embeddings are averaged.
            prior_options: of ``Prior.sample``: candidates, guidance_scale, num_inference_steps; they go before the defaults.
            callback_on_step_end: called with (step, number of steps).

        Raises ValueError, or FileNotFoundError for a missing picture, before anything is generated.
        """
        steps = self.num_inference_steps if num_inference_steps is None else num_inference_steps
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        seconds = self.seconds if audio_length_in_s is None else audio_length_in_s
        self.check_inputs(seconds, steps, num_waveforms_per_prompt, scale, output_type, batch_size)
        several = list(prompt) if isinstance(prompt, (list, tuple)) else [prompt]
        total = len(several) * num_waveforms_per_prompt
        parts = list(self.chunks(total, batch_size, generator))  # refuses a wrong number of generators before anything is read
        condition = self._encode_once(several, num_waveforms_per_prompt, query, generator, frames, prior_options)
        unwanted = None
        if negative_prompt is not None:
            asked = one_each("negative prompts", negative_prompt, len(several))
            fixed = torch.Generator().manual_seed(0)  # of a prior: the same for every call
            unwanted = self.encode(asked, None, fixed, frames, prior_options).repeat_interleave(num_waveforms_per_prompt, 0)
        samples = round(seconds * self.vocoder.sample_rate)
        length = -(-samples // self.vocoder.mel.hop_length)
        mels, audios = [], []
        for rows, noise in parts:
            given = {"negative": unwanted, "latents": latents}
            chosen = {name: None if value is None else value[rows] for name, value in given.items()}
            with self.progress(callback_on_step_end) as callback:
                mels.append(self.generate(condition[rows], length, steps, scale, noise, callback, **chosen))
            with self.evaluating(), self.using(self.vocoder):
                audios.append(checked(self.vocoder(mels[-1])[:, :samples], "sound").clamp(-1, 1))
        audio = torch.cat(audios)
        made = audio if output_type == "pt" else audio.cpu().numpy()
        return CLIPSonicOutput(made, self.vocoder.sample_rate, torch.cat(mels), condition)

    def _encode_once(self, several: list[Asked], times: int, query: Query | None, *options: Any) -> Tensor:
        """A picture's or text's own embedding is computed once for all its sounds; the prior draws anew for each."""
        if all(self.kind(each, query) == "prior" for each in several):
            return self.encode([each for each in several for _ in range(times)], query, *options)
        return self.encode(several, query, *options).repeat_interleave(times, 0)

    def generate(
        self,
        condition: Tensor,
        frames: int,
        num_inference_steps: int,
        guidance_scale: float,
        generator: Generators = None,
        callback: Callback | None = None,
        negative: Tensor | None = None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """Conditions (B, d) -> log-mels (B, M, frames), float32; ``negative`` (B, d) takes the place of "no condition"."""
        with self.evaluating(), self.using(self.generator, self.autoencoder):
            steps = frames if self.autoencoder is None else -(-frames // self.autoencoder.factor)
            shape = (len(condition), self.generator.n_mels, steps)
            condition = condition.to(self.device)
            given = self.generator.prepare(condition)
            hidden = torch.zeros(len(condition), dtype=torch.bool, device=condition.device)
            other = self.generator.prepare(condition, hidden)
            if negative is not None:
                other = self.generator.prepare(negative.to(condition))
            model = with_guidance(self.generator, given, other, guidance_scale)
            if self._trained["prediction_type"] == "epsilon":
                model = within(model, self._shares.to(condition.device), self._limit)
            made = sample(
                model, self.scheduler, shape, num_inference_steps, generator, condition.device, callback, latents=latents
            )
            if self.autoencoder is not None:
                return self.autoencoder.decode(made)[..., :frames]
            return self.generator.denormalize(made.clamp(-1, 1))


def _check_options(prior: Prior, options: Mapping[str, Any]) -> None:
    """Raise ValueError for an option that the prior does not know; the free ones take all and need none."""
    known = signature(prior.sample).parameters
    if any(each.kind is Parameter.VAR_KEYWORD for each in known.values()):
        return
    unknown = [name for name in options if name not in known]
    if unknown:
        names = ", ".join(name for name in known if name not in ("text_embedding", "tokens", "mask", "generator"))
        raise ValueError(f"prior_options has no {unknown[0]!r} for a {type(prior).__name__}: choose from {names}")
