"""Picture or text in, sound out, with diffusers' call conventions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from xmodal.data.pictures import is_picture, read_pictures
from xmodal.data.values import finite
from xmodal.diffusion.sampling import Generators, Model, Scheduler, sample, with_guidance
from xmodal.foundation.base import Encoder, ImageEncoder, MelAutoencoder, Prior, TextEncoder, Vocoder
from xmodal.text2audio.unet import MelNetwork

Query = Literal["image", "text", "prior"]
Asked = Any
"""Text, a picture's or video's path, pixels (3, H, W) in [0, 1] as tensor or array (H, W, 3), or a Pillow picture; four axes
are the frames of one video."""

OUTPUT_TYPES = ("np", "pt")
LIMITS = {"spectrograms": 1.0, "latents": 8.0}  # latents have about unit variance, and a few lie far out
KARRAS_WITH_COSINE = (
    "use_karras_sigmas with the cosine schedule (squaredcos_cap_v2) samples worse than fewer steps without them: "
    "set use_karras_sigmas to False, or use_lu_lambdas to True"
)


@dataclass
class CLIPSonicOutput:
    """``audios``: float32 (N, T) in [-1, 1] at ``sampling_rate`` (Hz), array or tensor by ``output_type``.

    ``mels`` (N, M, L) are the log-mels they were made from, ``embeddings`` (N, d) the unit vectors that entered the
    generator. Sounds of one query stand together, in the order of the queries.
    """

    audios: Any
    sampling_rate: int
    mels: Tensor
    embeddings: Tensor


class CLIPSonicPipeline:
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
        self.encoder, self.generator, self.vocoder, self.autoencoder = encoder, generator.eval(), vocoder, autoencoder
        self.text_encoder = encoder if isinstance(encoder, TextEncoder) else text_encoder
        self.prior, self.query, self.seconds, self.guided = prior, query, seconds, guided
        self.guidance_scale, self.num_inference_steps = guidance_scale, num_inference_steps
        self.prior_options = dict(prior_options or {})
        self._trained = {"prediction_type": prediction_type, "beta_schedule": beta_schedule}
        self._trained["num_train_timesteps"] = num_train_timesteps  # type: ignore[assignment]
        self._limit = LIMITS["spectrograms" if autoencoder is None else "latents"]
        self._scheduler = scheduler_for(prediction_type, beta_schedule, num_train_timesteps)
        self._scheduler.register_to_config(clip_sample=autoencoder is None)  # other kinds that are made from its config read it
        self._shares = self._scheduler.alphas_cumprod

    @property
    def scheduler(self) -> Scheduler:
        """Any diffusers scheduler, made by ``Kind.from_config(pipe.scheduler.config)``; DPM-Solver++ unless exchanged."""
        return self._scheduler

    @scheduler.setter
    def scheduler(self, scheduler: Scheduler) -> None:
        check_scheduler(scheduler, self._trained, self.autoencoder is None)
        self._scheduler = scheduler

    @property
    def device(self) -> torch.device:
        """Where the parts are."""
        return next(self.generator.parameters()).device

    def to(self, device: str | torch.device) -> CLIPSonicPipeline:
        """Move all parts."""
        for part in (self.encoder, self.generator, self.vocoder, self.autoencoder, self.text_encoder, self.prior):
            if part is not None:
                part.to(device)
        return self

    def check_inputs(
        self, seconds: float, num_inference_steps: int, num_waveforms_per_prompt: int, guidance_scale: float, output_type: str
    ) -> None:
        """Raise ValueError for the first argument that cannot work."""
        if not (math.isfinite(seconds) and seconds > 0):
            raise ValueError(f"audio_length_in_s must be above 0, not {seconds}")
        for name, number in {
            "num_inference_steps": num_inference_steps,
            "num_waveforms_per_prompt": num_waveforms_per_prompt,
        }.items():
            if number < 1:
                raise ValueError(f"{name} must be at least 1, not {number}")
        if guidance_scale > 1 and not self.guided:
            raise ValueError(f"guidance_scale {guidance_scale} needs a generator trained with condition_dropout above 0")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, not {output_type!r}")

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

    @torch.no_grad()
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
        if kind == "image":
            return F.normalize(torch.stack([self._see(each, frames) for each in several]), dim=-1)
        if self.text_encoder is None:
            raise ValueError("this pipeline has no text_encoder")
        text = self.text_encoder.embed([str(each) for each in several])
        if kind == "prior" and self.prior is not None:
            options = {**self.prior_options, **(prior_options or {})}
            _check_options(self.prior, options)
            if getattr(self.prior, "reads_tokens", False):
                options["tokens"], options["mask"] = self.text_encoder.states(several)
            text = self.prior.sample(text, generator=generator, **options)
        return F.normalize(text.float(), dim=-1)

    def _see(self, asked: Asked, frames: int) -> Tensor:
        """One picture, or the mean of a video's evenly spaced frames -> (d,)."""
        pixels = read_pictures(asked, cast(ImageEncoder, self.encoder).image_size, frames)
        return F.normalize(self.encoder.embed(pixels.to(self.device)).float(), dim=-1).mean(0)

    @torch.no_grad()
    def __call__(
        self,
        prompt: Asked | Sequence[Asked],
        *,
        query: Query | None = None,
        audio_length_in_s: float | None = None,
        num_waveforms_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        frames: int = 4,
        prior_options: Mapping[str, Any] | None = None,
        output_type: str = "np",
        callback_on_step_end: Callable[[int, int], None] | None = None,
    ) -> CLIPSonicOutput:
        """Make ``num_waveforms_per_prompt`` sounds of every query.

        Args:
            prompt: text, picture or video (see `Asked`), or a list of them. A string is a path if such a file exists or it
                ends like a picture or a video, else a text.
            query: ``image``, ``text`` (its embedding as it is) or ``prior``; default as constructed.
            audio_length_in_s: seconds; any length, but the generator has learnt only that of its training.
            guidance_scale: at most 1 asks the generator once a step instead of twice.
            generator: one for the whole call, or one for each sound, which then depends on nothing else in the call.
            frames: of a video, evenly spaced, whose embeddings are averaged.
            prior_options: of ``Prior.sample``: candidates, guidance_scale, num_inference_steps; they go before the defaults.
            callback_on_step_end: called with (step, number of steps).

        Raises ValueError, or FileNotFoundError for a missing picture, before anything is generated.
        """
        steps = self.num_inference_steps if num_inference_steps is None else num_inference_steps
        scale = finite("guidance_scale", self.guidance_scale if guidance_scale is None else guidance_scale)
        seconds = self.seconds if audio_length_in_s is None else audio_length_in_s
        self.check_inputs(seconds, steps, num_waveforms_per_prompt, scale, output_type)
        several = list(prompt) if isinstance(prompt, (list, tuple)) else [prompt]
        repeated = [each for each in several for _ in range(num_waveforms_per_prompt)]
        if isinstance(generator, (list, tuple)) and len(generator) != len(repeated):
            raise ValueError(f"{len(generator)} generators for {len(repeated)} sounds: give one for each, or a single one")
        condition = self._encode_once(several, num_waveforms_per_prompt, query, generator, frames, prior_options)
        samples = round(seconds * self.vocoder.sample_rate)
        mel = self.generate(condition, -(-samples // self.vocoder.mel.hop_length), steps, scale, generator, callback_on_step_end)
        audio = self.vocoder(mel)[:, :samples].clamp(-1, 1)
        made = audio if output_type == "pt" else audio.cpu().numpy()
        return CLIPSonicOutput(made, self.vocoder.sample_rate, mel, condition)

    def _encode_once(self, several: list[Asked], times: int, query: Query | None, *options: Any) -> Tensor:
        """A picture's or text's own embedding is computed once for all its sounds; the prior draws anew for each."""
        if all(self.kind(each, query) == "prior" for each in several):
            return self.encode([each for each in several for _ in range(times)], query, *options)
        return self.encode(several, query, *options).repeat_interleave(times, 0)

    @torch.no_grad()
    def generate(
        self,
        condition: Tensor,
        frames: int,
        num_inference_steps: int,
        guidance_scale: float,
        generator: Generators = None,
        callback: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Conditions (B, d) -> log-mels (B, M, frames), float32."""
        steps = frames if self.autoencoder is None else -(-frames // self.autoencoder.factor)
        shape = (len(condition), self.generator.n_mels, steps)
        given = self.generator.prepare(condition)
        nothing = self.generator.prepare(condition, torch.zeros(len(condition), dtype=torch.bool, device=condition.device))
        model = with_guidance(self.generator, given, nothing, guidance_scale)
        if self._trained["prediction_type"] == "epsilon":
            model = within(model, self._shares.to(condition.device), self._limit)
        made = sample(model, self.scheduler, shape, num_inference_steps, generator, condition.device, callback)
        if self.autoencoder is not None:
            return self.autoencoder.decode(made)[..., :frames]
        return self.generator.denormalise(made.clamp(-1, 1))


def _check_options(prior: Prior, options: Mapping[str, Any]) -> None:
    """Raise ValueError for an option that the prior does not know; the free ones take all and need none."""
    known = signature(prior.sample).parameters
    if any(each.kind is Parameter.VAR_KEYWORD for each in known.values()):
        return
    unknown = [name for name in options if name not in known]
    if unknown:
        names = ", ".join(name for name in known if name not in ("text_embedding", "tokens", "mask", "generator"))
        raise ValueError(f"prior_options has no {unknown[0]!r} for a {type(prior).__name__}: choose from {names}")


def scheduler_for(
    prediction_type: str, beta_schedule: str = "squaredcos_cap_v2", num_train_timesteps: int = 1000, training: bool = False
) -> Scheduler:
    """Return the forward process for training, or DPM-Solver++ of order 2 for sampling."""
    from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

    options: Any = {
        "num_train_timesteps": num_train_timesteps, "beta_schedule": beta_schedule, "prediction_type": prediction_type,
    }  # fmt: skip
    return DDPMScheduler(**options) if training else DPMSolverMultistepScheduler(**options, timestep_spacing="trailing")


def within(model: Model, shares: Tensor, limit: float) -> Model:
    """A model that answers noise, changed so that its guess of what lies under the noise stays in [-limit, limit].

    At the cosine schedule's first step the guess is the answer's error divided by next to nothing. ``shares`` (timesteps,)
    are the shares of what lies under it in the variance.
    """

    def bounded(noisy: Tensor, timestep: Tensor) -> Tensor:
        share = shares[timestep.round().long()]
        signal, noise = share.sqrt(), (1 - share).sqrt()
        guess = (noisy - noise * model(noisy, timestep)) / signal
        return (noisy - signal * guess.clamp(-limit, limit)) / noise

    return bounded


def check_scheduler(scheduler: Scheduler, trained: Mapping[str, Any], bounded: bool = True) -> None:
    """Raise ValueError for a scheduler that is not of the noise that was trained with, or known to do harm.

    What is made is ``bounded`` by [-1, 1], or else must not be cut to it.
    """
    wrong = {name: scheduler.config.get(name) for name, value in trained.items() if scheduler.config.get(name) != value}
    if wrong:
        raise ValueError(
            f"the scheduler has {wrong}, but the generator was trained with {dict(trained)}: "
            f"make it by from_config(pipe.scheduler.config)"
        )
    if scheduler.config.get("use_karras_sigmas") and trained["beta_schedule"] == "squaredcos_cap_v2":
        raise ValueError(KARRAS_WITH_COSINE)
    cuts = [name for name in ("clip_sample", "thresholding") if scheduler.config.get(name)]
    if cuts and not bounded:
        raise ValueError(f"{cuts[0]} cuts what is made to [-1, 1], but latents are larger: set it to False")
