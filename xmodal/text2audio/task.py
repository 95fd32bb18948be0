"""CLIPSonic (arXiv 2306.09635): a mel diffusion model learns the sounds of pictures, and then answers texts.

Frozen: the encoder of the condition and the vocoder. Trained: the generator. Text needs no pair in training: it comes in
through CLIP's other tower, as it is or through a prior, when the model is used; text tower and prior are built only then.
The supervised baselines (CLIP-TTA, CLAP-TTA) are the same task with a text tower as ``encoder``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from xmodal.adapter_task import AdapterTask
from xmodal.data.audio import resample
from xmodal.diffusion.schedules import scheduler_for
from xmodal.diffusion.training import denoising_loss
from xmodal.foundation.base import AudioEncoder, Encoder, ImageEncoder, MelAutoencoder, Prior, TextEncoder, Vocoder
from xmodal.foundation.mel import log_mel
from xmodal.frozen import Feature
from xmodal.text2audio.network import MelNetwork, build_network
from xmodal.text2audio.pipeline import CLIPSonicOutput, CLIPSonicPipeline, Query
from xmodal.text2audio.unet import MelUNet


class CLIPSonic(AdapterTask):
    """Train a generator of spectrograms on pairs of picture and sound.

    Args:
        encoder: gives the condition. An image tower is CLIPSonic; a text tower (of CLIP or CLAP) makes it a supervised
            baseline that reads ``text`` from the batch; an audio tower (of CLAP) hears the very sound it asks for.
        vocoder: turns spectrograms into sound; the kind of mel is its own.
        adapter: factory ``(encoder.dim, vocoder.mel.n_mels) -> MelNetwork``; with an autoencoder its ``size`` is the second.
        autoencoder: of the vocoder's kind of mel; the generator then makes its latents, at a fraction of the cost.
        text_encoder: the text tower beside ``encoder``, for text queries; never built in training.
        prior: what turns its embeddings into those of ``encoder``; never built in training.
        query: default of the pipeline: ``image``, ``text`` (as it is), ``prior`` (text through it); None chooses by input.
        text: what a text tower reads of a batch in training and in `predict_step`: ``name`` or ``caption``.
        template: with one ``{}``, the place of a ``name``; captions are read as they are.
        seconds: length of the sounds; shorter ones are followed by silence.
        prediction_type: what the network answers.
        beta_schedule, num_train_timesteps: of the noise, in diffusers' words.
        condition_dropout: share of conditions hidden in training, which guidance needs.
        condition_noise: standard deviation, over all numbers of a unit vector together, of noise added to conditions in
            training; makes the generator less particular about where an embedding comes from.
        ema_decay: of the averaged weights that are validated, published and used; lower at the beginning.
        mel_low, mel_high: log-mel values that become -1 and 1; default silence, and 2.5 (3.3 from 44.1 kHz).
        guidance_scale, num_inference_steps: defaults of the pipeline that this generator ships with.
        prior_options: likewise, of ``Prior.sample``: candidates, guidance_scale, num_inference_steps.
        **task: weights, predictions, optimizer and lr_scheduler, see :class:`xmodal.adapter_task.AdapterTask`.

    Raises ValueError for options that cannot work.
    """

    adapter: MelNetwork
    pipeline_class = CLIPSonicPipeline
    suite = "text2audio"

    def __init__(
        self,
        encoder: Encoder,
        vocoder: Vocoder,
        adapter: Callable[[int, int], MelNetwork] | None = None,
        autoencoder: MelAutoencoder | None = None,
        text_encoder: Callable[[], TextEncoder] | None = None,
        prior: Callable[[], Prior] | None = None,
        query: Query | None = None,
        text: Literal["name", "caption"] = "name",
        template: str = "a photo of {}",
        seconds: float = 10.0,
        prediction_type: Literal["v_prediction", "epsilon", "sample"] = "v_prediction",
        beta_schedule: str = "squaredcos_cap_v2",
        num_train_timesteps: int = 1000,
        condition_dropout: float = 0.1,
        condition_noise: float = 0.0,
        ema_decay: float = 0.9999,
        mel_low: float | None = None,
        mel_high: float | None = None,
        guidance_scale: float = 3.0,
        num_inference_steps: int = 25,
        prior_options: dict[str, Any] | None = None,
        **task: Any,
    ) -> None:
        super().__init__(ema_decay=ema_decay, **task)
        _check(template, seconds, condition_dropout, condition_noise)
        self.encoder, self.vocoder, self.autoencoder, self.query = encoder, vocoder, autoencoder, query
        self._text_encoder: Any = text_encoder
        self._prior: Any = prior
        self.adopt(build_network(adapter or MelUNet, encoder.dim, vocoder, autoencoder, mel_low, mel_high))
        self.text, self.template, self.seconds = text, template, seconds
        self.condition_dropout, self.condition_noise = condition_dropout, condition_noise
        self.noise_options: dict[str, Any] = {
            "prediction_type": prediction_type, "beta_schedule": beta_schedule, "num_train_timesteps": num_train_timesteps,
        }  # fmt: skip
        self.scheduler = scheduler_for(**self.noise_options, training=True)
        self.defaults: dict[str, Any] = {"guidance_scale": guidance_scale, "num_inference_steps": num_inference_steps}
        self.defaults["prior_options"] = prior_options

    @property
    def samples(self) -> int:
        """Length of a sound at the vocoder's rate: whole frames of the spectrogram (of the latents), the last one begun."""
        hop = self.vocoder.mel.hop_length * (1 if self.autoencoder is None else self.autoencoder.factor)
        return -(-round(self.seconds * self.vocoder.sample_rate) // hop) * hop

    def frozen_features(self) -> dict[str, Feature]:
        """What a batch's pictures and sounds become before the generator.

        ``pixels`` (B, 3, H, W) in [0, 1], or ``waveform`` for an audio tower -> ``condition`` (B, d), which no feature
        stands for where text is read. ``waveform`` (B, T) at the vocoder's rate -> ``mel`` (B, M, L), in logarithms, or with an
        autoencoder ``latents`` (B, C m, l).
        """
        name = "mel" if self.autoencoder is None else "latents"

        def hear(batch: Mapping[str, Any]) -> dict[str, Tensor]:
            mel = self.spectrogram(batch["waveform"])
            return {name: mel if self.autoencoder is None else self.autoencoder.encode(mel)}

        def condition(batch: Mapping[str, Any]) -> dict[str, Tensor]:
            return {"condition": self.condition(batch)}

        options = {"mel": self.vocoder.mel.to_dict(), "seconds": self.seconds}
        parts = (self.vocoder,) if self.autoencoder is None else (self.vocoder, self.autoencoder)
        found = {name: Feature(("waveform",), (name,), parts, hear, options)}
        if isinstance(self.encoder, TextEncoder):
            return found
        if isinstance(self.encoder, ImageEncoder):
            return {"condition": Feature(("pixels",), ("condition",), (self.encoder,), condition), **found}
        rate = {"from": self.vocoder.sample_rate}
        return {"condition": Feature(("waveform",), ("condition",), (self.encoder,), condition, rate), **found}

    def spectrogram(self, waveform: Tensor) -> Tensor:
        """Sounds (B, T) at the vocoder's rate -> log-mels (B, M, L) of `samples`; ValueError for longer sounds."""
        if waveform.shape[-1] > self.samples:
            seconds = waveform.shape[-1] / self.vocoder.sample_rate
            raise ValueError(
                f"the batch holds sounds of {seconds:.2f} s at {self.vocoder.sample_rate} Hz, but the task is for "
                f"{self.seconds} s: set data.seconds and data.sample_rate to those of the task and its vocoder"
            )
        padded = F.pad(waveform, (0, self.samples - waveform.shape[-1]))
        return log_mel(padded, self.vocoder.mel)[..., : self.samples // self.vocoder.mel.hop_length]

    @torch.no_grad()
    def condition(self, batch: Mapping[str, Any]) -> Tensor:
        """Conditions (B, d) of a batch: from its pictures, its sounds or its texts, by the kind of ``encoder``."""
        if isinstance(self.encoder, TextEncoder):
            return self.encoder.embed(self.texts(batch))
        if isinstance(self.encoder, AudioEncoder):
            heard = resample(batch["waveform"], self.vocoder.sample_rate, self.encoder.sample_rate)
            return self.encoder.embed(heard)
        return self.encoder.embed(batch["pixels"])

    def texts(self, batch: Mapping[str, Any]) -> list[str]:
        """What is read of a batch: names in the template (underscores are spaces), or captions as they are."""
        if self.text not in batch:
            raise ValueError(f"the batch holds no {self.text!r}, only {', '.join(batch)}: set text, or let the data give it")
        if self.text == "caption":
            return list(batch["caption"])
        return [self.template.format(name.replace("_", " ")) for name in batch["name"]]

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The denoising loss; ``batch`` holds the :meth:`features`, their inputs, or some of each.

        In training a share of the conditions is hidden. Otherwise the averaged weights answer, under the same noise each time.
        """
        batch = {**batch, **self.features(batch)}
        condition = batch["condition"] if "condition" in batch else self.condition(batch)
        network = self.adapter if self.training else self.published
        keep, generator = None, None
        if self.training:
            keep = torch.rand(len(condition), device=condition.device) >= self.condition_dropout
            condition = self._disturbed(condition)
        else:
            generator = torch.Generator().manual_seed(0)
        model = partial(network, condition=network.prepare(condition, keep))
        clean = batch["latents"] if self.autoencoder is not None else network.normalize(batch["mel"])
        return {"denoising": denoising_loss(model, self.scheduler, clean, generator=generator)}

    def _disturbed(self, condition: Tensor) -> Tensor:
        if not self.condition_noise:
            return condition
        unit = F.normalize(condition.float(), dim=-1)
        return unit + self.condition_noise / unit.shape[1] ** 0.5 * torch.randn_like(unit)

    @property
    def _predicted(self) -> Query:
        """How `predict_step` asks."""
        return self.query or ("image" if isinstance(self.encoder, ImageEncoder) else "text")

    @property
    def predict_inputs(self) -> tuple[str, ...]:
        """What `PairedMedia` gives `predict_step` besides the texts: pictures for a picture query, no media for a text query."""
        return ("pixels",) if self._predicted == "image" else ()

    def make(self, batch: Mapping[str, Any], rows: Sequence[int], generators: list[torch.Generator]) -> CLIPSonicOutput:
        """Sounds of a batch, asked for as ``query`` says."""
        kind = self._predicted
        if kind == "image" and "pixels" not in batch:
            raise ValueError("the query is a picture, but the data gives none: let it give pixels, or set query to text or prior")
        asked = list(batch["pixels"]) if kind == "image" else self.texts(batch)
        return self.pipeline()([asked[row] for row in rows], query=kind, generator=generators)

    def pipeline(self) -> CLIPSonicPipeline:
        """The callable that users run: picture or text in, sound out. The text tower and the prior are built here, once."""
        self._text_encoder, self._prior = _built(self._text_encoder), _built(self._prior)
        return CLIPSonicPipeline(
            self.encoder,
            self.published,
            self.vocoder,
            autoencoder=self.autoencoder,
            text_encoder=self._text_encoder,
            prior=self._prior,
            query=self.query,
            seconds=self.seconds,
            guided=self.condition_dropout > 0,
            **self.noise_options,
            **self.defaults,
        ).to(self.device)


def _built(part: Any) -> Any:
    """A part, or what its factory makes."""
    return part if part is None or isinstance(part, (Encoder, Prior)) else part()


def _check(template: str, seconds: float, dropout: float, noise: float) -> None:
    if template.count("{}") != 1:
        raise ValueError(f"template {template!r} must hold exactly one {{}}, the place of the name")
    if seconds <= 0:
        raise ValueError(f"seconds must be above 0, not {seconds}")
    if not 0 <= dropout < 1:
        raise ValueError(f"condition_dropout {dropout} is not a share from 0 to below 1")
    if noise < 0:
        raise ValueError(f"condition_noise must be at least 0, not {noise}")
