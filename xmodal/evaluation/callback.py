"""The suite of a task within `xmodal test`: every clip of the test data is generated from, and what comes out is judged.

Each process generates from its own share of the clips and writes files of its own; the first one then judges all of them as
`xmodal evaluate` would, so that both commands give the same numbers. What a sampler repeats to fill the last batch counts
once, since files are named by their clip.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from xmodal.evaluation.evaluate import Evaluation, evaluate, lines, write
from xmodal.evaluation.suites import CLAP, CLIP, SUITES
from xmodal.foundation.base import ImageGenerator

RAW = ("waveform", "pixels", "name", "full_heard_caption")  # what is read of a rendered clip
WORLD_RATE = 16_000  # Hz, of its sounds
TOLD = "label"  # row: the same generator, told the label in words


class SuiteTest(Callback):
    """Judges what a task makes of its test data; `xmodal test` adds one where the recipe names none.

    Args:
        folder: receives files, results and report; default ``suite`` below the run's own folder.
        extractor, clip, clap: as for `xmodal evaluate`; the defaults know the miniature world alone.
        seconds: of each sound that is judged; default the length of the test data's own sounds, or 10.
        allow_bias: give the Fréchet distance of too few clips, too.
        draws: of the bootstrap.
        told: a row for the same painter told the label in words, which is what an adapter can hope for.
    """

    def __init__(
        self,
        folder: Path | None = None,
        extractor: str | None = None,
        clip: str | None = CLIP,
        clap: str | None = CLAP,
        seconds: float | None = None,
        allow_bias: bool = True,
        draws: int | None = None,
        told: bool = True,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.extractor, self.clip, self.clap = extractor, clip, clap
        self.seconds, self.allow_bias, self.draws, self.told = seconds, allow_bias, draws, told
        self.found: Evaluation | None = None
        self._idle, self._longest = "", 0.0
        self._rows: list[dict[str, str]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask the data for the clips themselves, where it would give features of them."""
        if stage != "test":
            return
        data: Any = getattr(trainer, "datamodule", None)
        self._idle = _why_not(pl_module, data, self.extractor)
        if self._idle:
            return
        if hasattr(data, "frozen_parts"):
            data.parts, data.frozen_parts = tuple(dict.fromkeys((*data.parts, *data.frozen_parts, *RAW))), ()
        if hasattr(data, "cache"):
            data.cache = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make room: results of other weights must not be taken for these."""
        self._rows, self._longest = [], 0.0
        if self._idle:
            rank_zero_info(f"no suite of metrics: {self._idle}")
            return
        if trainer.is_global_zero:
            for name in ("made", "real", TOLD, "processes"):
                shutil.rmtree(self._root(trainer) / name, ignore_errors=True)
        trainer.strategy.barrier()

    @torch.no_grad()
    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Generate from one batch; every process into a folder of its own."""
        if self._idle:
            return
        own = self._root(trainer) / "processes" / str(trainer.global_rank)
        ids = clip_ids(batch)
        if "full_heard_caption" in batch:
            batch = {**batch, "caption": batch["full_heard_caption"]}
        former, pl_module.predictions = pl_module.predictions, own / "made"
        try:
            pl_module.predict_step({**batch, "id": ids}, batch_idx)
        finally:
            pl_module.predictions = former
        if self.told and isinstance(getattr(pl_module, "generator", None), ImageGenerator) and "name" in batch:
            _paint_labels(pl_module, ids, batch["name"], own / TOLD)
        if getattr(trainer.datamodule, "manifest", None) is None:  # type: ignore[attr-defined]
            self._keep(ids, batch, own / "real")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge everything, once; raises what `evaluate` raises."""
        if self._idle:
            return
        root = self._root(trainer)
        own = root / "processes" / str(trainer.global_rank)
        own.mkdir(parents=True, exist_ok=True)
        (own / "clips.json").write_text(json.dumps({"rows": self._rows, "seconds": self._longest}))
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            rows, longest = _merge(root)
            self.found = self._judge(trainer, pl_module, root, rows, longest)
            print("\n".join(lines(self.found)))
            print(write(self.found, root))
        trainer.strategy.barrier()

    def _judge(
        self, trainer: Trainer, module: LightningModule, root: Path, rows: Sequence[Mapping[str, str]], longest: float
    ) -> Evaluation:
        real, split = getattr(trainer.datamodule, "manifest", None), "test"  # type: ignore[attr-defined]
        if real is None:
            real = root / "real" / "manifest.jsonl"
            real.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        also = {TOLD: root / TOLD} if (root / TOLD).is_dir() else {}
        seconds = self.seconds or longest or 10.0
        return evaluate(
            suite_of(module), root / "made", real, self.extractor, seconds, self.allow_bias, self.draws,
            clip=self.clip, clap=self.clap, also=also, split=split,
        )  # fmt: skip

    def _keep(self, ids: Sequence[str], batch: Mapping[str, Any], folder: Path) -> None:
        """Write a batch's own pictures and sounds, which come from no file."""
        import soundfile
        from PIL import Image

        folder.mkdir(parents=True, exist_ok=True)
        for index, name in enumerate(ids):
            row = {"id": name, "label": _text(batch, "name", index), "text": _text(batch, "caption", index)}
            if "waveform" in batch:
                sound = batch["waveform"][index].float().cpu().numpy()
                soundfile.write(folder / f"{name}.wav", sound, WORLD_RATE)
                row["audio"], self._longest = f"{name}.wav", max(self._longest, len(sound) / WORLD_RATE)
            if "pixels" in batch:
                Image.fromarray(_bytes(batch["pixels"][index])).save(folder / f"{name}.png")
                row["image"] = f"{name}.png"
            self._rows.append(row)

    def _root(self, trainer: Trainer) -> Path:
        return self.folder or Path(trainer.default_root_dir) / "suite"


def suite_of(module: LightningModule) -> str:
    """The suite of a task: the package that it stands in; "" for none."""
    return next((part for part in type(module).__module__.split(".") if part in SUITES), "")


def clip_ids(batch: Mapping[str, Any]) -> list[str]:
    """Names of a batch's clips: their ids, or of rendered clips their numbers."""
    if "id" in batch:
        return [str(name) for name in batch["id"]]
    return [f"clip-{int(number):06d}" for number in batch["clip"]]


def _why_not(module: Any, data: Any, extractor: str | None) -> str:
    """Why a task cannot be judged; "" where it can."""
    if not suite_of(module) or not hasattr(module, "predictions"):
        return f"{type(module).__name__} makes neither pictures nor sounds"
    if data is None:
        return "give the test data as a data module"
    if not hasattr(data, "frozen_parts") and extractor is None:
        return (
            "name its extractors with --trainer.callbacks+=xmodal.evaluation.callback.SuiteTest "
            "--trainer.callbacks.extractor=MODEL:CARD (docs/evaluation.md)"
        )
    return ""


def _paint_labels(module: Any, ids: Sequence[str], names: Sequence[str], folder: Path) -> None:
    """One picture a label, by the task's own painter, prompt and settings."""
    from zlib import crc32

    from PIL import Image

    pipe = module.pipeline()
    noise = [torch.Generator().manual_seed(crc32(name.encode())) for name in ids]
    prompts = [module.prompt.format(name.replace("_", " ")) for name in names]
    pixels = pipe.generator.generate(pipe.generator.prompt_embeds(prompts), generator=noise, **module.defaults)
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in zip(ids, pixels, strict=True):
        Image.fromarray(_bytes(picture)).save(folder / f"{name}.png")


def _merge(root: Path) -> tuple[list[dict[str, str]], float]:
    """Bring the processes' files together, each clip once; the manifest's rows and the longest sound in seconds."""
    rows: dict[str, dict[str, str]] = {}
    longest = 0.0
    for own in sorted((root / "processes").iterdir()):
        content = json.loads((own / "clips.json").read_text())
        rows |= {row["id"]: row for row in content["rows"]}
        longest = max(longest, content["seconds"])
        for path in own.glob("*/*"):
            (root / path.parent.name).mkdir(parents=True, exist_ok=True)
            path.replace(root / path.parent.name / path.name)
    shutil.rmtree(root / "processes")
    return [rows[name] for name in sorted(rows)], longest


def _text(batch: Mapping[str, Any], key: str, index: int) -> str:
    return str(batch[key][index]) if key in batch else ""


def _bytes(pixels: Tensor) -> Any:
    return (pixels.detach().float().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
