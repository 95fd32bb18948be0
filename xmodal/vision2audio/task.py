"""V2A-Mapper (arXiv 2308.09300): a small network leads from CLIP's embedding of a picture to CLAP's of its sound.

Frozen: the image encoder, CLAP's audio tower, and the generator (AudioLDM) that makes sounds of CLAP embeddings. Trained:
the mapper, on pairs of embeddings alone. The audio tower is built only to train or to rank, the generator only to make sounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast
from zlib import crc32

import torch
from torch import Tensor

from xmodal.adapter_task import AdapterTask
from xmodal.data.pan import from_known_pan, known_pan
from xmodal.foundation.base import AudioEncoder, AudioGenerator, ImageEncoder
from xmodal.frozen import Feature, Frozen, Later
from xmodal.pipelines import join
from xmodal.vision2audio.agreement import Agreement
from xmodal.vision2audio.frames import Aggregation, aggregate, check_aggregation
from xmodal.vision2audio.identity import card_of, identity, kind_of
from xmodal.vision2audio.mapper import Mapper
from xmodal.vision2audio.pipeline import V2AMapperOutput, V2AMapperPipeline
from xmodal.vision2audio.regression import RegressionMapper
from xmodal.vision2audio.stereo import StereoPan


class V2AMapper(AdapterTask):
    """Train a mapper on pairs of picture and sound.

    Args:
        encoder: sees; gives the sources.
        target: hears; gives the targets. It must be the CLAP that the generator was trained with. A part, or what builds it.
        generator: makes sounds of the target's embeddings; never built in training.
        adapter: factory ``(encoder.dim, target.dim) -> Mapper``; default `RegressionMapper`, which no annotation says: the
            command line would pass options of a default class on to the one that takes its place.
        aggregation: what becomes of the frames of a clip (pixels (B, F, 3, H, W)): ``mean`` (of unit vectors), ``middle``,
            ``first``, ``random`` (another one at each reading), or ``per_frame`` (each is a source; results are averaged).
            Which one the paper takes was not available to us.
        frames: how many frames the pipeline takes of a video.
        seconds, guidance_scale, num_inference_steps: defaults of the pipeline that this mapper ships with.
        **task: ema_decay, weights, predictions, optimizer and lr_scheduler, see :class:`xmodal.adapter_task.AdapterTask`.

    Raises ValueError for options, or pairs of parts, that cannot work.
    """

    adapter: Mapper
    pipeline_class = V2AMapperPipeline
    suite = "vision2audio"
    predict_inputs = ("pixels",)  # what `PairedMedia` then gives: a manifest to predict from needs no sounds

    def __init__(
        self,
        encoder: ImageEncoder,
        target: Callable[[], AudioEncoder],
        generator: Callable[[], AudioGenerator],
        adapter: Callable[[int, int], Mapper] | None = None,
        aggregation: Aggregation = "mean",
        frames: int = 4,
        seconds: float = 10.0,
        guidance_scale: float = 2.5,
        num_inference_steps: int = 25,
        **task: Any,
    ) -> None:
        super().__init__(**task)
        check_aggregation(aggregation)
        if frames < 1 or seconds <= 0:
            raise ValueError(f"frames must be at least 1 and seconds above 0, not {frames} and {seconds}")
        self.encoder, self.aggregation = encoder, aggregation
        self._target: Any = target
        self._generator: Any = generator
        mapper = join(adapter or RegressionMapper, encoder.dim, self._out_dim())
        if not isinstance(mapper, Mapper):
            raise TypeError(f"adapter must make a Mapper, not a {type(mapper).__name__}: see xmodal.vision2audio")
        self.adopt(mapper)
        self.agreed = Agreement()
        self.defaults: dict[str, Any] = {
            "aggregation": aggregation, "frames": frames, "seconds": seconds, "guidance_scale": guidance_scale,
            "num_inference_steps": num_inference_steps,
        }  # fmt: skip

    def _out_dim(self) -> int:
        """Size of the targets, from parts or from what cards promise; the target is built only where nothing else tells."""
        target, generator = promised_dim(self._target, "dim"), promised_dim(self._generator, "cond_dim")
        if target is None and generator is None:
            target = self.target.dim
        if target is not None and generator is not None and target != generator:
            raise ValueError(
                f"target gives embeddings of size {target}, but the generator is conditioned on size {generator}: "
                f"take the CLAP that the generator was trained with"
            )
        return int(generator if target is None else target)  # type: ignore[arg-type]

    @property
    def target(self) -> AudioEncoder:
        """The audio tower, built when it is first needed; ValueError where its size is not the mapper's."""
        if not isinstance(self._target, Frozen):
            self._target = self._target().to(self.device)
        target = cast(AudioEncoder, self._target)
        expected = getattr(getattr(self, "adapter", None), "out_dim", target.dim)
        if target.dim != expected:
            raise ValueError(f"target gives embeddings of size {target.dim}, but the mapper was built for size {expected}")
        return target

    def _later_target(self) -> AudioEncoder | Later:
        """The target, or what finds its stored embeddings without building it."""
        found = None if isinstance(self._target, Frozen) else identity(self._target)
        if found is None:
            return self.target
        return Later(cast("type[Frozen]", kind_of(self._target)), found, lambda: self.target)

    @property
    def generator(self) -> AudioGenerator:
        """What makes the sounds, built when it is first needed."""
        if not isinstance(self._generator, Frozen):
            self._generator = self._generator().to(self.device)
        return cast(AudioGenerator, self._generator)

    def frozen_features(self) -> dict[str, Feature]:
        """What a batch's pictures and sounds become before the mapper.

        ``pixels`` (B, 3, H, W), or (B, F, 3, H, W) with several frames, in [0, 1] -> ``image_embedding`` (B, d1) or (B, F, d1);
        ``waveform`` (B, T) at the target's rate -> ``audio_embedding`` (B, d2). With `StereoPan`, ``pan`` (B,), if there is
        one, -> ``known_pan`` (B, 2): the pan and 1, or 0 and 0 where it is NaN.
        """

        def see(batch: Mapping[str, Any]) -> dict[str, Tensor]:
            return {"image_embedding": self.see(batch["pixels"])}

        def hear(batch: Mapping[str, Any]) -> dict[str, Tensor]:
            return {"audio_embedding": self.target.embed(batch["waveform"])}

        def place(batch: Mapping[str, Any]) -> dict[str, Tensor]:
            return {"known_pan": known_pan(batch["pan"])} if "pan" in batch else {}

        found = {
            "image_embedding": Feature(("pixels",), ("image_embedding",), (self.encoder,), see),
            "audio_embedding": Feature(("waveform",), ("audio_embedding",), (self._later_target(),), hear),
        }
        if isinstance(self.adapter, StereoPan):
            found["known_pan"] = Feature(("pan",), ("known_pan",), (), place)
        return found

    def features(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """As :meth:`xmodal.task.Task.features`; a batch that holds both embeddings does not even build the target."""
        return {} if {"image_embedding", "audio_embedding"} <= batch.keys() else super().features(batch)

    def see(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) or (B, F, 3, H, W) -> (B, d1) or (B, F, d1), as the encoder gives them."""
        if pixels.ndim == 5:
            return self.encoder.embed(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])
        return self.encoder.embed(pixels)

    def pairs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Sources (N, d1) and targets (N, d2) of a batch of features; N is B, or B * F with ``per_frame``."""
        frames, target = batch["image_embedding"], batch["audio_embedding"]
        frames = frames[:, None] if frames.ndim == 2 else frames
        # What is drawn in validation must be the same each time.
        noise = None if self.training else torch.Generator().manual_seed(0)
        source = aggregate(frames, self.aggregation, self.adapter.source_norm == "none", noise)
        return source, target.repeat_interleave(len(source) // len(target), 0)

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The mapper's own loss; ``batch`` holds the :meth:`features`, their inputs, or some of each.

        With `StereoPan`, ``pan`` (B,) in the batch, from -1 to 1 or NaN where it is not known, adds that of its head; so
        does its feature ``known_pan``.
        """
        source, target = self.pairs({**batch, **self.features(batch)})
        mapper = self.adapter if self.training else self.published
        terms = {}
        if isinstance(mapper, StereoPan) and {"pan", "known_pan"} & batch.keys():
            pan = from_known_pan(batch["known_pan"]) if "known_pan" in batch else batch["pan"]
            terms["pan"] = mapper.pan_loss(source, pan.repeat_interleave(len(source) // len(pan), 0))
        if self.training:
            return {"mapping": mapper.loss(source, target), **terms}
        with torch.random.fork_rng(devices=[source.device] if source.is_cuda else []):
            torch.manual_seed(0)
            return {"mapping": mapper.loss(source, target), **terms}

    def agreement(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Mean cosine of guesses with their own targets and with other clips'; always guessing the mean scores alike."""
        found = Agreement()
        self._agree(found, batch)
        return found.compute()  # type: ignore[return-value]

    @torch.no_grad()
    def _agree(self, found: Agreement, batch: Mapping[str, Any], quick: bool = False) -> None:
        """Add a batch of features; a guess depends on its clip's name alone. ``quick`` guesses in a few steps."""
        source, target = self.pairs(batch)
        clips = len(batch["audio_embedding"])
        ids = batch["id"] if "id" in batch else batch["clip"].tolist() if "clip" in batch else None
        if ids is not None and len(set(ids)) < len(ids):  # several samples of one clip
            ids = [f"{name}/{list(ids[:place]).count(name)}" for place, name in enumerate(ids)]
        noise: Any = torch.Generator().manual_seed(0)
        if ids is not None:
            seeds = [crc32(str(name).encode()) for name in ids for _ in range(len(source) // clips)]
            noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        guess = self.published.sample(source, generator=noise, **(self.published.quick if quick else {}))
        found.update(guess.unflatten(0, (clips, -1)), target.unflatten(0, (clips, -1)), ids)

    def _step(self, batch: Any, stage: str) -> Tensor:
        batch = {**batch, **self.features(batch)}
        if stage != "train":
            self._agree(self.agreed, batch, quick=stage == "val")
        return super()._step(batch, stage)

    def _log_means(self, stage: str) -> None:
        super()._log_means(stage)
        self.log_dict({f"{stage}/{name}": value for name, value in self.agreed.compute().items()})  # type: ignore[union-attr]
        self.agreed.reset()

    def on_fit_start(self) -> None:
        """Raise ValueError where the data's sounds are not at the rate that the target hears."""
        rate = getattr(getattr(self.trainer, "datamodule", None), "sample_rate", None)
        card = None if isinstance(self._target, Frozen) else card_of(self._target)
        heard = None if rate is None else card.sample_rate if card and card.sample_rate else self.target.sample_rate
        if rate != heard:
            raise ValueError(f"the data gives sounds at {rate} Hz, but the target hears {heard} Hz: set data.sample_rate")

    def make(self, batch: Mapping[str, Any], rows: Sequence[int], generators: list[torch.Generator]) -> V2AMapperOutput:
        """Sounds of a batch's pictures."""
        if "pixels" not in batch:
            raise ValueError(f"the data gives no pixels, only {', '.join(batch)}: pictures are what sounds are made of")
        return self.pipeline()([batch["pixels"][row] for row in rows], generator=generators)

    def pipeline(self) -> V2AMapperPipeline:
        """The callable that users run: picture or video in, sound out. The generator is built here, once."""
        target = self._target if isinstance(self._target, Frozen) else (lambda: self.target)
        return V2AMapperPipeline(self.encoder, self.published, self.generator, target, **self.defaults).to(self.device)


def promised_dim(part: Any, name: str) -> int | None:
    """Size ``name`` of a part, or what the card that a recipe's factory will load says; None where only building it tells."""
    if isinstance(part, Frozen):
        return getattr(part, name)
    card = card_of(part)
    return None if card is None else card.dim
