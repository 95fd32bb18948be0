"""What `xmodal fit` does before the first step: frozen features are stored where that pays."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from xmodal.commands.runs import OUTPUTS
from xmodal.data.extraction import extract
from xmodal.data.manifest import valid_rows
from xmodal.data.module import PairedMedia

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch import Callback

FOLDER = OUTPUTS / "cache"
GROUPS = 16  # a small data set is stored in so many pieces, each of which a stopped extraction keeps


def cache_where_it_pays(data: Any, task: Any, trainer: Trainer, options: Mapping[str, Any], stop: Callback) -> None:
    """Store what a training of this data would compute again and again, and say so; nothing where it would not.

    Random numbers stay as they are, so a training is the same whether its features were stored before. ``options`` are the
    trainer's, ``stop`` ends the extraction when it is asked to. Raises what `extract` does.
    """
    reads = isinstance(data, PairedMedia) and data.cache is None and data.auto_cache
    if not reads or trainer.world_size > 1 or getattr(trainer, "fast_dev_run", False):
        return
    rows = valid_rows(data.manifest, "train", data.remote)[0]
    times = readings(trainer, len(rows), data.batch_size)
    features = task.frozen_features()
    data.cache = FOLDER
    kept = {name: feature for name, feature in features.items() if data.store(feature, data.crop, trainer.precision) is not None}
    if not kept or times < 2:
        data.cache = None
        if features and times >= 2:
            print(
                "nothing is stored: all that is read changes with each reading (--data.crop loudest would allow it)",
                file=sys.stderr,
            )
        return
    if all(_is_stored(feature, data, trainer.precision) for feature in kept.values()):
        print(f"{', '.join(kept)} are stored in {FOLDER} already", file=sys.stderr)
        return
    often = f"{times:.3g} times" if math.isfinite(times) else "again and again"
    changing = [name for name in features if name not in kept]
    also = f"; {', '.join(changing)} change with each reading and are not stored" if changing else ""
    print(f"{', '.join(kept)} of {len(rows)} clips would be computed {often}: they are stored first{also}", file=sys.stderr)
    began = time.perf_counter()
    named = {name: options[name] for name in ("accelerator", "devices", "precision") if options.get(name) is not None}
    worker = Trainer(
        **named, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[stop]
    )
    pieces = min(data.rows_per_shard, max(8, -(-len(rows) // GROUPS)))
    with isolate_rng():
        for line in extract(kept, data, worker, pieces, ("train", "validation")):
            print(line, file=sys.stderr)
    print(f"stored in {time.perf_counter() - began:.0f} s; `xmodal cache ls` lists all stores", file=sys.stderr)


def readings(trainer: Trainer, clips: int, batch_size: int) -> float:
    """How often a training reads each clip; infinity where nothing ends it but its user."""
    steps = trainer.max_steps if trainer.max_steps >= 0 else math.inf
    epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs >= 0 else math.inf
    return min(steps * trainer.accumulate_grad_batches * batch_size / max(1, clips), epochs)


def _is_stored(feature: Any, data: PairedMedia, precision: str) -> bool:
    for split, crop in (("train", data.crop), ("validation", "loudest")):
        try:
            rows = valid_rows(data.manifest, split, data.remote)[0]
        except ValueError:  # none of this split
            continue
        store = data.store(feature, crop, precision)
        if store is not None:
            places, failed = store.places(data.clip_names(rows, feature.inputs))
            if not ((places.shard >= 0) | failed).all():
                return False
    return True
