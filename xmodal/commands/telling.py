"""What a run says of itself: its speed and memory on the way, and at the end where things lie and what comes next."""

from __future__ import annotations

import resource
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from xmodal.task import batch_length

INPUTS = {"audio": "SOUND.wav", "image": "PICTURE.png", "video": "VIDEO.mp4", "text": "TEXT"}


class Speed(Callback):
    """Logs ``samples_per_second`` since values were last logged, and counts the samples of a training."""

    def __init__(self) -> None:
        self.samples = 0
        self._since, self._pause, self._counted = 0.0, 0.0, 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave out what lies between epochs."""
        self._since, self._counted = time.perf_counter(), 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count one batch of this process."""
        length = batch_length(batch) * trainer.world_size
        now = time.perf_counter()
        self.samples, self._counted = self.samples + length, self._counted + length
        if trainer.global_step % trainer.log_every_n_steps == 0 and now > self._since:  # type: ignore[attr-defined]
            pl_module.log("samples_per_second", self._counted / (now - self._since), batch_size=1)
            self._since, self._counted = now, 0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Time in validation is no time in training."""
        self._pause = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See above."""
        self._since += time.perf_counter() - self._pause


def peak_memory() -> str:
    """The most memory that this process has held so far: of the GPU where there is one, and of the machine."""
    unit = 1 if sys.platform == "darwin" else 1024
    machine = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.1f} GB of memory"
    if not torch.cuda.is_available():
        return machine
    return f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB of the GPU, {machine}"


def after_fit(trainer: Trainer, module: Any, root: Path, kept: Path | None, speed: Speed | None, seconds: float) -> Iterator[str]:
    """Lines for the end of a training: metrics one by one, speed and memory, where things lie, the next commands."""
    yield from metrics(trainer.callback_metrics)
    rate = f", {speed.samples / seconds:.3g} samples/s with validation" if speed is not None and speed.samples else ""
    yield f"step {trainer.global_step} after {seconds:.0f} s{rate}; at most {peak_memory()}"
    yield f"the run lies in {root}" + (f", its weights in {kept.relative_to(root)}" if kept else "")
    if kept is None:
        return
    run, takes = shlex.quote(str(root)), getattr(module, "takes", None)
    if takes and getattr(module, "makes", None):
        yield f"next: xmodal generate {INPUTS.get(takes[0], 'INPUT')} --to {module.makes} --adapter {run}"
    yield f"next: xmodal test {run}"
    yield f"next: xmodal export {run} -o FOLDER"


def metrics(found: Mapping[str, Any]) -> Iterator[str]:
    """One line for each metric."""
    width = max(map(len, found), default=0)
    for name in sorted(found):
        yield f"{name:<{width}}  {float(found[name]):.4g}"
