"""The baselines of AudioToken's table (arXiv 2305.13050) as tasks: `SoundUnCLIP` (Wav2CLIP, ImageBind) and `LabelText` (ceiling).

Both are used as AudioToken is: recipes ``imagebind-unclip``, ``wav2clip-unclip`` and ``label-text`` (with overlays such as
``+mean-shift``) for `xmodal fit`, ``test``, ``predict`` and ``generate --adapter RUN``. In Python:
``SoundUnCLIP(encoder, painter).pipeline()("bell.wav")``, or ``LabelText(painter).pipeline()("bell.wav", labels="bell")``.
What is training-free "fits" without an optimizer: `fit` makes one pass over the training data that gathers statistics where
the adapter's ``match`` asks for them (``trainer.max_epochs: 1``), and writes a run's folder, an adapter like any other.
Letters: B batch, d width of the audio embedding, e width of CLIP's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from xmodal.adapter_task import AdapterTask
from xmodal.audio2image.baselines import LabelTextPipeline, SoundUnCLIPPipeline, check_spaces
from xmodal.audio2image.bridges import NoAdapter, PictureSpace
from xmodal.audio2image.pipeline import AudioTokenOutput, check_places, told
from xmodal.audio2image.ranking import PictureRanker
from xmodal.foundation.base import Adapter, AudioEncoder, Classifier, EmbeddingPainter, ImageEncoder, ImageGenerator
from xmodal.frozen import Feature, Frozen
from xmodal.pipelines import join


class _Baseline(AdapterTask):
    """A task whose adapter may have nothing to train."""

    generator: ImageGenerator
    suite = "audio2image"

    @property
    def learns(self) -> bool:
        """Whether the adapter has parameters."""
        return any(parameter.requires_grad for parameter in self.adapter.parameters())

    def observe(self, batch: Mapping[str, Any]) -> None:
        """Gather what is needed of a batch; by default nothing."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """A step as of any task; without parameters the batch is only looked at."""
        if self.learns:
            return super().training_step(batch, batch_idx)
        if self._trainer is not None and self.trainer.world_size > 1:
            raise ValueError("statistics are gathered by one process: give --trainer.devices 1")
        self.observe(batch)
        return None

    def configure_optimizers(self) -> Any:
        """As of any task; None without parameters."""
        return super().configure_optimizers() if self.learns else None

    def latents(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """``pixels`` (B, 3, H, W) in [0, 1] -> ``latent_mean`` and ``latent_std`` (B, C, h, w) of the VAE posterior."""
        mean, logvar = self.generator.encode(batch["pixels"])
        return {"latent_mean": mean, "latent_std": (0.5 * logvar).exp()}

    def drawn(self, batch: Mapping[str, Any]) -> Tensor:
        """A scaled sample (B, C, h, w) of the posterior."""
        sample = batch["latent_mean"] + batch["latent_std"] * torch.randn_like(batch["latent_std"])
        return sample * self.generator.scaling_factor


class SoundUnCLIP(_Baseline):
    """A sound's embedding takes the place of a picture's in Stable unCLIP, as it is or through a bridge.

    Args:
        encoder: hears; its ``embed`` lies with pictures (or the adapter learns the way).
        generator: paints from embeddings.
        adapter: factory ``(encoder.dim, generator.embedding_dim) -> Adapter``; default `PictureSpace`, training-free.
        target: sees; the picture tower of the painter's CLIP, for ``embedding`` and for statistics of your pictures. A part, or
            what builds it; default none, and statistics of pictures are the painter's own.
        objective: what a bridge learns by: ``denoising`` through the painter, or ``embedding``, the mean squared error to the
            target's embeddings in units of the painter's deviations.
        prompt: what is told beside the sound, without ``{}``; default nothing.
        noise_level: of the embedding, from 0.
        seconds, short, guidance_scale, num_inference_steps, candidates, ranker: as of `AudioToken`.
        **task: ema_decay, weights, predictions, optimizer and lr_scheduler, see :class:`xmodal.adapter_task.AdapterTask`.

    Raises ValueError for options, or pairs of parts, that cannot work: embeddings of another width or of another CLIP.
    """

    pipeline_class = SoundUnCLIPPipeline
    generator: EmbeddingPainter

    def __init__(
        self,
        encoder: AudioEncoder,
        generator: EmbeddingPainter,
        adapter: Callable[[int, int], Adapter] | None = None,
        target: Callable[[], ImageEncoder] | None = None,
        objective: Literal["denoising", "embedding"] = "denoising",
        prompt: str = "",
        noise_level: int = 0,
        seconds: float = 10.0,
        short: str = "loop",
        guidance_scale: float = 7.5,
        num_inference_steps: int = 25,
        candidates: int = 1,
        ranker: Callable[[], PictureRanker] | None = None,
        **task: Any,
    ) -> None:
        super().__init__(**task)
        check_places(prompt, 0)
        if objective not in ("denoising", "embedding") or (objective == "embedding" and target is None):
            raise ValueError(f"objective {objective!r} is not denoising, nor embedding with a target, which sees the pictures")
        self.encoder, self.generator = encoder, generator
        adapter = join(adapter or PictureSpace, encoder.dim, generator.embedding_dim)
        check_spaces(encoder, generator, adapter)  # type: ignore[arg-type]
        if isinstance(adapter, PictureSpace):
            adapter.begin(generator.embedding_mean, generator.embedding_std)
        self.adopt(adapter)
        self._target: Any = target
        self.objective, self.prompt, self.noise_level = objective, prompt, noise_level
        self.seconds, self.short = seconds, short
        self.candidates, self.ranker = candidates, ranker
        self.defaults: dict[str, Any] = {"guidance_scale": guidance_scale, "num_inference_steps": num_inference_steps}

    @property
    def target(self) -> ImageEncoder:
        """The picture tower, built when it is first needed; ValueError where its embeddings are not what the painter reads."""
        if not isinstance(self._target, Frozen):
            self._target = self._target().to(self.device)
        target, expected = cast(ImageEncoder, self._target), self.generator.embedding_dim
        if target.dim != expected:
            raise ValueError(
                f"target gives embeddings of {target.dim} numbers, but the painter reads {expected}: take its own CLIP"
            )
        return target

    def hear(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """``waveform`` (B, T) -> ``audio_embedding`` (B, d)."""
        return {"audio_embedding": self.encoder.embed(batch["waveform"])}

    def see(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """``pixels`` (B, 3, H, W) in [0, 1] -> ``image_embedding`` (B, e), as the painter's CLIP gives it."""
        return {"image_embedding": self.target.embed(batch["pixels"])}

    def frozen_features(self) -> dict[str, Feature]:
        """What a batch's sounds and pictures become before the adapter; pictures latents or embeddings, by the objective."""
        found = {"audio_embedding": Feature(("waveform",), ("audio_embedding",), (self.encoder,), self.hear)}
        if self._target is not None:
            found["image_embedding"] = Feature(("pixels",), ("image_embedding",), (self.target,), self.see)
        if self.objective == "denoising":
            found["latents"] = Feature(("pixels",), ("latent_mean", "latent_std"), (self.generator,), self.latents)
        return found

    @torch.no_grad()
    def observe(self, batch: Mapping[str, Any]) -> None:
        """Gather statistics of a batch's sounds, and with a target of its pictures."""
        if isinstance(self.adapter, PictureSpace) and self.adapter.gathers:
            heard = batch if "audio_embedding" in batch else self.hear(batch)
            seen = {} if self._target is None else batch if "image_embedding" in batch else self.see(batch)
            self.adapter.observe(heard["audio_embedding"], seen.get("image_embedding"))

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """As of any task, once there are statistics."""
        ready = not isinstance(self.adapter, PictureSpace) or self.adapter.ready
        return super().validation_step(batch, batch_idx) if ready else None

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The objective's one term; ``batch`` holds the :meth:`features`, their inputs, or some of each."""
        batch = {**batch, **self.features(batch)}
        made = (self.adapter if self.training else self.published)(batch["audio_embedding"])
        if self.objective == "embedding":
            return {"embedding": F.mse_loss(*(each / self.generator.embedding_std for each in (made, batch["image_embedding"])))}
        embeds = self.generator.prompt_embeds([self.prompt]).expand(len(made), -1, -1)
        loss = self.generator.loss(self.drawn(batch), embeds, image_embedding=made, noise_level=self.noise_level)
        return {"denoising": loss}

    def make(self, batch: Mapping[str, Any], rows: Sequence[int], generators: list[torch.Generator]) -> AudioTokenOutput:
        """Pictures of a batch's sounds."""
        waveforms = [batch["waveform"][row] for row in rows]
        return self.pipeline()(waveforms, sampling_rate=self.encoder.sample_rate, candidates=1, generator=generators)

    def pipeline(self) -> SoundUnCLIPPipeline:
        """The callable that users run: sound in, pictures out."""
        return SoundUnCLIPPipeline(
            self.encoder, self.generator, self.published, self.prompt, self.seconds, self.short, noise_level=self.noise_level,
            candidates=self.candidates, ranker=self.ranker, **self.defaults,
        )  # fmt: skip


class LabelText(_Baseline):
    """The painter is told the label in words: the ceiling of what is heard. Nothing is trained.

    Args:
        generator: paints.
        encoder: a classifier that names sounds whose label is not known (`xmodal generate`); default none.
        adapter: in its place, nothing.
        told: paint the label that the data gives (``name``); False: what the encoder hears, which needs no labels.
        prompt: template; ``{}`` is the place of the label.
        seconds, short, guidance_scale, num_inference_steps, candidates, ranker: as of `AudioToken`; the ranker reads.
        **task: as of every adapter's task.

    Raises ValueError for ``told: false`` without an encoder that names classes.
    """

    pipeline_class = LabelTextPipeline

    def __init__(
        self,
        generator: ImageGenerator,
        encoder: Classifier | None = None,
        adapter: Callable[[int, int], Adapter] | None = None,
        told: bool = True,
        prompt: str = "a photo of {}",
        seconds: float = 10.0,
        short: str = "loop",
        guidance_scale: float = 7.5,
        num_inference_steps: int = 25,
        candidates: int = 1,
        ranker: Callable[[], PictureRanker] | None = None,
        **task: Any,
    ) -> None:
        super().__init__(**task)
        check_places(prompt, 1)
        if (encoder is not None and not isinstance(encoder, AudioEncoder)) or (not told and not getattr(encoder, "labels", None)):
            raise ValueError(
                "what paints sounds by name needs an encoder that hears and whose weights name classes (BEATs, PANNs)"
            )
        self.generator, self.encoder, self.told, self.prompt = generator, encoder, told, prompt
        self.seconds, self.short = seconds, short
        self.candidates, self.ranker = candidates, ranker
        self.adopt(join(adapter or NoAdapter, 0, 0))
        self.defaults: dict[str, Any] = {"guidance_scale": guidance_scale, "num_inference_steps": num_inference_steps}

    def frozen_features(self) -> dict[str, Feature]:
        """``pixels`` -> ``latent_mean`` and ``latent_std``, for the loss of a test."""
        return {"latents": Feature(("pixels",), ("latent_mean", "latent_std"), (self.generator,), self.latents)}

    def names(self, batch: Mapping[str, Any], rows: Sequence[int]) -> list[str]:
        """The labels of a batch's rows; raises ValueError where the data gives none."""
        if not self.told:
            rate = getattr(self.encoder, "sample_rate", None)
            return self.pipeline().labels([batch["waveform"][row] for row in rows], rate)
        if "name" not in batch:
            raise ValueError("the data names no labels: give them in the manifest (name), or told: false and an encoder")
        return [batch["name"][row] for row in rows]

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The denoising loss under the labels' prompts, which nothing lowers."""
        batch = {**batch, **self.features(batch)}
        prompts = [told(self.prompt, name) for name in self.names(batch, range(len(batch["latent_mean"])))]
        return {"denoising": self.generator.loss(self.drawn(batch), self.generator.prompt_embeds(prompts))}

    def make(self, batch: Mapping[str, Any], rows: Sequence[int], generators: list[torch.Generator]) -> AudioTokenOutput:
        """Pictures of a batch's labels."""
        return self.pipeline()([""] * len(rows), labels=self.names(batch, rows), candidates=1, generator=generators)

    def pipeline(self) -> LabelTextPipeline:
        """The callable that users run: sounds and their labels in, pictures out."""
        return LabelTextPipeline(
            self.generator, self.published, self.encoder, self.prompt, self.seconds, self.short, candidates=self.candidates,
            ranker=self.ranker, **self.defaults,
        )  # fmt: skip
