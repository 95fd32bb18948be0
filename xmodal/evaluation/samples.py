"""Pictures or sounds of the same few clips, under the same noise, on the way of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from xmodal.data.manifest import Manifest
from xmodal.data.module import PairedMedia


class Samples(Callback):
    """Writes ``samples/step-000500-ID.png`` (or ``.wav``) beside the metrics, and pictures to TensorBoard where that is used.

    The noise of a clip depends on its id alone, and the training's random numbers stay as they are. A generator that the
    training itself does not need is built for it.

    Args:
        every_n_steps: of the optimizer; the last step, too.
        clips: how many, the first of the validation split.
    """

    def __init__(self, every_n_steps: int = 500, clips: int = 4) -> None:
        if every_n_steps < 1 or clips < 1:
            raise ValueError(f"every_n_steps and clips must be at least 1, not {every_n_steps} and {clips}")
        self.every_n_steps, self.clips = every_n_steps, clips
        self._last = -1

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write where the step is due."""
        if trainer.global_step % self.every_n_steps == 0:
            self._write(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what was trained."""
        self._write(trainer, pl_module)

    @torch.no_grad()
    def _write(self, trainer: Trainer, module: Any) -> None:
        data, step = getattr(trainer, "datamodule", None), trainer.global_step
        if not trainer.is_global_zero or step == self._last or not isinstance(data, PairedMedia) or module.pipeline_class is None:
            return
        self._last = step
        rows = Manifest(data.manifest, "validation", data.remote)
        count = min(self.clips, len(rows))
        clips = data.media(rows, getattr(module, "predict_inputs", ("waveform",)))
        clips.seconds = data.predict_seconds
        batch = {
            key: value.to(module.device) if isinstance(value, torch.Tensor) else value
            for key, value in clips.batch(range(count)).items()
        }
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        with isolate_rng():
            made = module.make(batch, range(count), [torch.Generator().manual_seed(crc32(name.encode())) for name in batch["id"]])
        for row, name in enumerate(batch["id"]):
            path = folder / f"step-{step:06d}-{name}{module.pipeline_class.suffix}"
            made.save(row, path)
            self._show(trainer, name, path, step)

    def _show(self, trainer: Trainer, name: str, path: Path, step: int) -> None:
        """Hand a picture to the loggers that take some."""
        for logger in trainer.loggers if path.suffix == ".png" else ():
            board: Any = getattr(logger, "experiment", None)
            if hasattr(board, "add_image"):
                import numpy as np
                from PIL import Image

                board.add_image(f"samples/{name}", np.asarray(Image.open(path)), step, dataformats="HWC")
