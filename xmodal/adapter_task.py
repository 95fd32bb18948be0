"""AdapterTask: a task that trains one adapter, which is published by itself and makes results."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self
from zlib import crc32

import torch
import yaml
from torch import nn

from xmodal.files import visit
from xmodal.foundation.base import Adapter
from xmodal.frozen import Frozen
from xmodal.pipelines import Output, join
from xmodal.registry import quantized
from xmodal.registry.adapters import find
from xmodal.registry.checkpoint import load_into
from xmodal.registry.describe import check_rebuilt
from xmodal.registry.hub import Shared
from xmodal.registry.publishing import publish
from xmodal.task import Averaged

PREDICTIONS = Path("outputs/predictions")


class AdapterTask(Averaged, Shared):
    """Trains ``self.adapter``, alone or with its moving average.

    A subclass builds its parts, then calls :meth:`adopt` with the adapter; :meth:`predict_step` makes its results by
    :meth:`make`.

    Args:
        ema_decay: see :class:`xmodal.task.Averaged`.
        weights: a published adapter to start from: any name of `xmodal.registry.adapters.find`.
        predictions: folder that ``xmodal predict`` writes its results to; default ``predictions`` in the run's folder.
        quantize: ``int8`` or ``nf4``: the frozen parts' weights in fewer bits (`xmodal.registry.quantized`); gradients pass
            through. It saves memory while a task is used and is no property of the adapter: who loads that gets whole weights.
        compile: the mode of torch.compile for the networks that the frozen parts call in each step: ``default``,
            ``reduce-overhead`` (CUDA graphs), ``max-autotune``; default not compiled. Checkpoints are the same.
        **task: optimizer and lr_scheduler factories, see :class:`xmodal.task.Task`.

    Raises ValueError for ``compile`` beside low-rank weights, ImportError where `quantize` needs a package.
    """

    adapter: Adapter

    def __init__(
        self,
        ema_decay: float = 0.0,
        weights: str | None = None,
        predictions: Path | None = None,
        quantize: Literal["int8", "nf4"] | None = None,
        compile: Literal["default", "reduce-overhead", "max-autotune"] | None = None,
        **task: Any,
    ) -> None:
        super().__init__(ema_decay=ema_decay, **task)
        quantized.check(quantize)
        self.average, self.quantize, self.compiled = None, quantize, compile
        self.weights, self.predictions = weights, Path(PREDICTIONS if predictions is None else predictions)

    @property
    def trained(self) -> nn.Module:
        """The adapter."""
        return self.adapter

    def build_adapter(self, factory: Callable[[int, int], nn.Module], in_dim: int, out_dim: int) -> Any:
        """Return ``factory(in_dim, out_dim)``; raises ValueError that names both sizes where the pair cannot be joined."""
        return join(factory, in_dim, out_dim)

    def adopt(self, adapter: Any) -> None:
        """Take an adapter, begin its average, and start from ``weights`` where they are given; settle the frozen parts."""
        if self.compiled is not None and hasattr(adapter, "low_rank"):
            raise ValueError("compiled networks and low-rank weights cannot go together: leave one of them off")
        for part in self.children():
            if self.quantize is not None and isinstance(part, Frozen):
                quantized.quantize(part, self.quantize)
            if self.compiled is not None and isinstance(part, Frozen):
                part.compile_repeated(self.compiled)
        self.adapter = adapter
        self.start_average()
        if self.weights is not None:
            self.load_adapter(self.weights)

    def load_adapter(self, source: str | Path) -> None:
        """Start from published weights: any name of `xmodal.registry.adapters.find`; the average starts there, too.

        Raises what `find` does, and ValueError for weights of another adapter.
        """
        found = find(source)
        state = found.weights()
        load_into(self.adapter, state, found.place)
        if self.average is not None:
            self.average.load_state_dict(self.adapter.state_dict())

    @classmethod
    def from_folder(cls, folder: str | Path, trust: bool = False, **parts: Any) -> Self:
        """Rebuild a task, in eval mode, from what ``save_adapter`` wrote, or from any name of `xmodal.registry.adapters.find`.

        ``parts`` and ``trust`` as in ``from_checkpoint``.
        """
        return cls.from_pretrained(folder, trust=trust, **parts)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool | None = None,
        trust: bool = False,
        **parts: Any,
    ) -> Self:
        """Rebuild a task, in eval mode, from any name of `xmodal.registry.adapters.find`, which has the first four arguments.

        ``parts`` and ``trust`` as in ``from_checkpoint``.
        """
        found = find(name, revision, token, local_files_only)
        task = cls._rebuilt(found, trust, parts)
        load_into(task.adapter, found.weights(), found.place)
        if task.average is not None:
            task.average.load_state_dict(task.adapter.state_dict())
        return task.eval()

    def save_adapter(
        self,
        folder: str | Path,
        metrics: Mapping[str, float] | None = None,
        dtype: torch.dtype | None = None,
        name: str | None = None,
    ) -> Path:
        """Write adapter.safetensors, recipe.yaml and a model card; returns the folder.

        ``metrics`` stand in the card, which calls the adapter ``name`` (default: the folder's); ``dtype`` casts the
        floating-point weights. Raises ValueError where no recipe describes the parts, and as
        `xmodal.registry.publishing.publish` does.
        """
        section = yaml.safe_load(self.described())
        if self.recipe is None:
            check_rebuilt(self.adapter)
        record = self.recorded()
        if metrics:
            scores = {score: float(value) for score, value in metrics.items()}
            record["measured"] = {**record.get("measured", {}), **scores}
        return publish(Path(folder), section.get("model", section), self.published.state_dict(), record, name, dtype)

    def publish(self, folder: Path, name: str | None = None) -> Path:
        """See `xmodal.registry.hub.Shared`."""
        return self.save_adapter(folder, name=name)

    @abstractmethod
    def make(self, batch: Mapping[str, Any], rows: Sequence[int], generators: list[torch.Generator]) -> Output:
        """Return the pipeline's results of these rows of a batch, in order."""

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[Path]:
        """Write one result per clip into ``predictions``; clips that have one are passed over.

        Each clip's noise depends on its id alone, so a run that was stopped and resumed gives the same results.
        """
        if self.pipeline_class is None:
            raise TypeError(f"{type(self).__name__} has no pipeline_class, so nothing can be predicted")
        names = [str(name) for name in batch["id"]]
        targets = [self.predictions / f"{name}{self.pipeline_class.suffix}" for name in names]
        visit(self.predictions)
        missing = [row for row, path in enumerate(targets) if not path.exists()]
        if missing:
            # All rows of the batch, as an undisturbed run makes them: in another company, roundings would differ.
            noise = [torch.Generator().manual_seed(crc32(name.encode())) for name in names]
            made = self.make(batch, range(len(names)), noise)
            self.predictions.mkdir(parents=True, exist_ok=True)
            for row in missing:
                made.save(row, targets[row])
        return targets
