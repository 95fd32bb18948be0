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

from xmodal.evaluation.evaluate import evaluate
from xmodal.evaluation.report import write
from xmodal.evaluation.result import Evaluation, lines
from xmodal.evaluation.suites import CLAP, CLIP
from xmodal.task import Task

TOLD = "label"  # row: the same generator, told the label in words


class SuiteTest(Callback):
    """Judges what a task makes of its test data; `xmodal test` adds one where the recipe names none.

    Args:
        folder: receives files, results and report; default ``suite`` below the run's own folder.
        extractor, clip, clap: as for `xmodal evaluate`; the defaults know the miniature world alone.
        seconds: as for `xmodal evaluate`.
        allow_bias: give the Fréchet distance of too few clips, too.
        draws: of the bootstrap.
        told: a row for what the task's ``ceiling`` makes: what an adapter can hope for.

    A data module whose clips come from no file (``whole_clips``, ``whole``, ``keep``, as the miniature world's) gives and
    keeps the clips themselves; the others have a manifest.
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
        self._idle = ""
        self._rows: list[dict[str, str]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask the data for the clips themselves, where it would give features of them."""
        if stage != "test":
            return
        data: Any = getattr(trainer, "datamodule", None)
        self._idle = _why_not(pl_module, data, self.extractor)
        if self._idle:
            return
        if _renders(data):
            data.whole_clips()
        if hasattr(data, "cache"):
            data.cache = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make room: results of other weights must not be taken for these."""
        self._rows = []
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
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        batch = data.whole(batch) if _renders(data) else {**batch, "id": [str(name) for name in batch["id"]]}
        former, pl_module.predictions = pl_module.predictions, own / "made"
        try:
            pl_module.predict_step(batch, batch_idx)
        finally:
            pl_module.predictions = former
        if self.told:
            pl_module.ceiling(batch, own / TOLD)
        if _renders(data):
            self._rows += data.keep(batch, own / "real")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge everything, once; raises what `evaluate` raises."""
        if self._idle:
            return
        root = self._root(trainer)
        own = root / "processes" / str(trainer.global_rank)
        own.mkdir(parents=True, exist_ok=True)
        (own / "clips.json").write_text(json.dumps(self._rows))
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            self.found = self._judge(trainer, pl_module, root, _merge(root))
            print("\n".join(lines(self.found)))
            print(write(self.found, root))
        trainer.strategy.barrier()

    def _judge(self, trainer: Trainer, module: Any, root: Path, rows: Sequence[Mapping[str, str]]) -> Evaluation:
        real, split = getattr(trainer.datamodule, "manifest", None), "test"  # type: ignore[attr-defined]
        if real is None:
            real = root / "real" / "manifest.jsonl"
            real.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        also = {TOLD: root / TOLD} if (root / TOLD).is_dir() else {}
        return evaluate(
            module.suite, root / "made", real, self.extractor, self.seconds, self.allow_bias, self.draws,
            clip=self.clip, clap=self.clap, also=also, split=split,
        )  # fmt: skip

    def _root(self, trainer: Trainer) -> Path:
        return self.folder or Path(trainer.default_root_dir) / "suite"


def _renders(data: Any) -> bool:
    """Whether a data module's clips come from no file, so that it must keep them itself."""
    return all(hasattr(data, name) for name in ("whole_clips", "whole", "keep"))


def _why_not(module: LightningModule, data: Any, extractor: str | None) -> str:
    """Why a task cannot be judged; "" where it can."""
    if not isinstance(module, Task) or module.suite is None:
        return f"{type(module).__name__} names none (its attribute suite)"
    if data is None:
        return "give the test data as a data module"
    if not _renders(data) and extractor is None:
        return (
            "name its extractors with --trainer.callbacks+=xmodal.evaluation.callback.SuiteTest "
            "--trainer.callbacks.extractor=MODEL:CARD (docs/evaluation.md)"
        )
    return ""


def _merge(root: Path) -> list[dict[str, str]]:
    """Bring the processes' files together, each clip once; the manifest's rows."""
    rows: dict[str, dict[str, str]] = {}
    for own in sorted((root / "processes").iterdir()):
        rows |= {row["id"]: row for row in json.loads((own / "clips.json").read_text())}
        for path in own.glob("*/*"):
            (root / path.parent.name).mkdir(parents=True, exist_ok=True)
            path.replace(root / path.parent.name / path.name)
    shutil.rmtree(root / "processes")
    return [rows[name] for name in sorted(rows)]
