"""Task: what is trained, how its losses are summed and logged, and how it is saved so that it can be rebuilt."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from xmodal.files import write_beside
from xmodal.foundation.base import Adapter
from xmodal.frozen import Feature
from xmodal.registry.cards import WEIGHTS
from xmodal.registry.modelcard import model_card

OptimizerCallable = Callable[[Iterable[Any]], Optimizer]
LRSchedulerCallable = Callable[[Optimizer], LRScheduler]
T = TypeVar("T")

ADAPTER, RECIPE, CARD = "adapter.safetensors", "recipe.yaml", "README.md"


class Task(LightningModule):
    """Trains whatever in it asks for gradients; an adapter task keeps that in ``self.adapter``.

    ``recipe`` is the resolved ``model:`` section as YAML text. The CLI sets it; from Python it may stay None, and
    then the parts must be given again when the result is loaded. No hyper-parameters are stored besides.
    """

    recipe: str | None = None
    feature_dtype: torch.dtype | None = None
    adapter: Adapter

    def __init__(self, optimizer: OptimizerCallable = torch.optim.AdamW, lr_scheduler: LRSchedulerCallable | None = None) -> None:
        super().__init__()
        self._optimizer = optimizer
        self._lr_scheduler = lr_scheduler

    @abstractmethod
    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Return the named, already weighted scalar terms of one batch; their sum is minimised."""

    def build_adapter(self, factory: Callable[[int, int], nn.Module], in_dim: int, out_dim: int) -> Any:
        """Return ``factory(in_dim, out_dim)``; raises ValueError that names both sizes where the pair cannot be joined."""
        try:
            adapter = factory(in_dim, out_dim)
        except Exception as error:
            raise ValueError(f"no adapter can be built from size {in_dim} to size {out_dim}: {error}") from error
        if not isinstance(adapter, nn.Module):
            raise TypeError(f"the adapter factory returned a {type(adapter).__name__} for ({in_dim}, {out_dim}), not a module")
        return adapter

    def frozen_features(self) -> dict[str, Feature]:
        """Return what the frozen parts compute from a batch before anything is trained, by name; by default nothing."""
        return {}

    @torch.no_grad()
    def features(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Compute those features of a batch that it does not hold already.

        ``feature_dtype`` rounds them as a cache of that type would, so that cached and computed numbers are the same.
        """
        found: dict[str, Tensor] = {}
        for feature in self.frozen_features().values():
            if any(name not in batch for name in feature.outputs):
                found |= feature.compute(batch)
        if self.feature_dtype is not None:
            found = {name: value.to(self.feature_dtype).float() for name, value in found.items()}
        return found

    def pipeline(self) -> Any:
        """Return the callable that users run; raises TypeError where a task has none."""
        raise TypeError(f"{type(self).__name__} trains a part and has no pipeline of its own")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Sum and log the losses of one batch."""
        return self._step(batch, "train")

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Sum and log the losses of one batch."""
        return self._step(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Sum and log the losses of one batch."""
        return self._step(batch, "test")

    def _step(self, batch: Any, stage: str) -> Tensor:
        losses = self.losses(batch)
        if "loss" in losses and len(losses) > 1:
            raise ValueError(f"{type(self).__name__}.losses: the name 'loss' is kept for the sum of {', '.join(losses)}")
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        values = {f"{stage}/{name}": value.detach() for name, value in {**losses, "loss": total}.items()}
        evaluating = stage != "train"
        self.log_dict(values, prog_bar=True, sync_dist=evaluating, on_epoch=evaluating, batch_size=batch_length(batch))
        return total

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimise what takes gradients, and nothing else; the schedule moves once per step."""
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if not trainable:
            raise ValueError(f"{type(self).__name__} has no trainable parameters: nothing to fit")
        optimizer = self._optimizer(trainable)
        if self._lr_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._lr_scheduler(optimizer), "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the recipe beside the weights, so that the file describes itself."""
        if self.recipe is not None:
            checkpoint["recipe"] = self.recipe

    @classmethod
    def from_checkpoint(cls, path: str | Path, **parts: Any) -> Self:
        """Rebuild a task, in eval mode, from a Lightning checkpoint.

        ``parts`` (constructor arguments) replace those of the stored recipe. A recipe names classes to build, so load
        only files that you would also run. Raises FileNotFoundError, or ValueError where recipe and parts are absent.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no checkpoint at {path}")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
            raise ValueError(f"{path} is not a Lightning checkpoint: it has no state_dict")
        task = cls._rebuild(checkpoint.get("recipe"), path, parts)
        task.load_state_dict(checkpoint["state_dict"])
        return task.eval()

    @classmethod
    def from_folder(cls, folder: str | Path, **parts: Any) -> Self:
        """Rebuild a task, in eval mode, from the folder that ``save_adapter`` wrote; ``parts`` as in ``from_checkpoint``."""
        folder = Path(folder)
        for name in (ADAPTER, RECIPE):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} is not an adapter folder: it has no {name}")
        task = cls._rebuild((folder / RECIPE).read_text(encoding="utf-8"), folder, parts)
        task.load_adapter(folder)
        return task.eval()

    def load_adapter(self, source: str | Path) -> None:
        """Start from published adapter weights: a built-in name, or a folder with adapter.safetensors.

        Raises FileNotFoundError where there is neither, and RuntimeError for weights of another shape.
        """
        folder = Path(source) if Path(source).is_dir() else WEIGHTS / "adapters" / str(source)
        if not (folder / ADAPTER).is_file():
            raise FileNotFoundError(f"{str(source)!r} is neither a built-in adapter nor a folder with {ADAPTER}")
        self.adapter.load_state_dict(load_file(folder / ADAPTER))

    @classmethod
    def _rebuild(cls, recipe: str | None, origin: str | Path, parts: Mapping[str, Any]) -> Self:
        if recipe is None:
            return cls._from_parts(origin, parts)
        section = yaml.safe_load(recipe)
        task = build(section.get("model", section), LightningModule, **parts)
        if not isinstance(task, cls):
            raise TypeError(f"{origin} holds a {type(task).__name__}, not a {cls.__name__}")
        task.recipe = recipe
        return task

    @classmethod
    def _from_parts(cls, origin: str | Path, parts: Mapping[str, Any]) -> Self:
        if not parts or cls is Task:
            raise ValueError(
                f"{origin} holds no recipe, since it was not trained through `xmodal fit`: call from_checkpoint on the "
                f"task's own class and give its parts by name, such as from_checkpoint(path, source=..., adapter=...)"
            )
        return cls(**parts)

    def save_adapter(
        self, folder: str | Path, metrics: Mapping[str, float] | None = None, dtype: torch.dtype | None = None
    ) -> Path:
        """Write adapter.safetensors, recipe.yaml and a model card; returns the folder.

        Each file replaces its predecessor in one move and the weights come last, so a folder with weights is complete.
        ``dtype`` casts the floating-point weights. Raises ValueError without a recipe or without an adapter.
        """
        if not isinstance(getattr(self, "adapter", None), nn.Module):
            raise ValueError(f"{type(self).__name__} has no adapter to save")
        if self.recipe is None:
            raise ValueError("there is no recipe to save beside the adapter: train through `xmodal fit`, or set task.recipe")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        section = yaml.safe_load(self.recipe)
        section = section.get("model", section)
        weights = {name: _cast(value, dtype) for name, value in self.adapter.state_dict().items()}
        write_beside(
            folder / CARD, lambda path: path.write_text(model_card(folder.name, section, weights, metrics or {}), "utf-8")
        )
        text = yaml.safe_dump({"model": section}, sort_keys=False, allow_unicode=True)
        write_beside(folder / RECIPE, lambda path: path.write_text(text, "utf-8"))
        write_beside(folder / ADAPTER, lambda path: save_file(weights, path))
        return folder


class AveragedTask(Task):
    """A task whose adapter has a moving average of its weights: what is validated, published and used.

    Args:
        ema_decay: of the average; lower at the beginning, so that its first steps are forgotten sooner. 0 keeps none.
        **task: see :class:`Task`.

    Raises ValueError for a decay outside [0, 1). Call :meth:`start_average` when the adapter is built.
    """

    average: Adapter | None

    def __init__(self, ema_decay: float = 0.0, **task: Any) -> None:
        super().__init__(**task)
        if not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay {ema_decay} is not a share from 0 to below 1")
        self.ema_decay, self._averaged_at = ema_decay, 0

    def start_average(self) -> None:
        """Begin the average at the adapter's present weights."""
        self.average = deepcopy(self.adapter).requires_grad_(False) if self.ema_decay else None

    @property
    def published(self) -> Any:
        """The averaged adapter, or the adapter itself where there is no average."""
        return self.adapter if self.average is None else self.average

    @torch.no_grad()
    def on_train_batch_end(self, *_: Any) -> None:
        """Move the average after each step of the optimizer."""
        if self.average is None or self.global_step == self._averaged_at:
            return  # without a step, gradients are being accumulated
        self._averaged_at = self.global_step
        decay = min(self.ema_decay, (1 + self.global_step) / (10 + self.global_step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.adapter.parameters()), 1 - decay)

    def load_adapter(self, source: str | Path) -> None:
        """As :meth:`Task.load_adapter`; the average starts from the same weights."""
        super().load_adapter(source)
        if self.average is not None:
            self.average.load_state_dict(self.adapter.state_dict())

    def save_adapter(self, folder: str | Path, *options: Any, **named: Any) -> Path:
        """As :meth:`Task.save_adapter`; the averaged weights are what is published."""
        trained, self.adapter = self.adapter, self.published
        try:
            return super().save_adapter(folder, *options, **named)
        finally:
            self.adapter = trained


def build(section: Mapping[str, Any], kind: type[T], **parts: Any) -> T:
    """Instantiate a ``class_path``/``init_args`` section, nested to any depth; ``parts`` replace constructor arguments.

    Raises TypeError where the class is not a ``kind``, and ValueError where the section does not fit the class.
    """
    section = {**section, "init_args": {**(section.get("init_args") or {}), **parts}}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(kind, "part", required=True)
    try:
        config = parser.parse_object({"part": section})
    except Exception as error:  # jsonargparse raises argparse.ArgumentError, which is no ValueError
        raise ValueError(f"the recipe of {section.get('class_path')} does not fit this version of xmodal: {error}") from error
    return parser.instantiate_classes(config).part


def batch_length(batch: Any) -> int:
    """Return the length of the first tensor found in a nested batch, or 1: Lightning's own guess trips over captions."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    items = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (list, tuple)) else ()
    lengths = [batch_length(item) for item in items if not isinstance(item, str)]
    return max(lengths, default=1)


def _cast(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    value = value.detach().cpu()
    return (value.to(dtype) if dtype is not None and value.is_floating_point() else value).contiguous().clone()
