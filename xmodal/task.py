"""Task: what is trained, how its losses are summed and logged, and how a checkpoint describes itself."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import yaml
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from xmodal.frozen import Feature, Recorded
from xmodal.pipelines import Pipeline
from xmodal.registry.adapters import Found, find
from xmodal.registry.build import Builder
from xmodal.registry.describe import section_of
from xmodal.registry.modelcard import versions

OptimizerCallable = Callable[[Iterable[Any]], Optimizer]
LRSchedulerCallable = Callable[[Optimizer], LRScheduler]


class Task(Recorded, LightningModule):
    """Trains whatever in it asks for gradients.

    ``recipe`` is the resolved ``model:`` section as YAML text. The CLI sets it; from Python it may stay None, and is then made
    of what the constructors were given, where that can be named (`xmodal.registry.describe`). No hyper-parameters are stored
    besides. ``record`` says what it was made from (`xmodal.registry.modelcard`); steps, epochs, versions and validation are added
    from the trainer.

    ``pipeline_class`` is what the task becomes in use. It says what the task ``takes`` (modalities, the one that it is for
    first) and ``makes`` (``image`` or ``audio``); a task without it says so itself, or makes nothing.
    """

    recipe: str | None = None
    record: Mapping[str, Any] | None = None
    feature_dtype: torch.dtype | None = None
    pipeline_class: ClassVar[type[Pipeline] | None] = None
    suite: Any = None  # how `xmodal test` judges what it makes: a suite's name, or an `evaluation.suites.Suite`
    takes: ClassVar[tuple[str, ...]] = ()
    makes: ClassVar[str] = ""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if vars(cls).get("pipeline_class") is not None:
            cls.takes, cls.makes = cls.pipeline_class.takes, cls.pipeline_class.makes  # type: ignore[union-attr]

    def __init__(self, optimizer: OptimizerCallable | None = None, lr_scheduler: LRSchedulerCallable | None = None) -> None:
        super().__init__()
        # AdamW, but not in the signature: the command line would pass its options on to an optimizer that takes its place.
        self._optimizer = torch.optim.AdamW if optimizer is None else optimizer
        self._lr_scheduler = lr_scheduler
        self._bad: Tensor | None = None  # whether a loss in training was not finite
        self._watched = 0
        self._sums: dict[str, tuple[float, float]] = {}  # of an evaluation: what was measured, and the number of items

    @abstractmethod
    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Return the named, already weighted scalar terms of one batch; their sum is minimised."""

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

    def ceiling(self, batch: Mapping[str, Any], folder: Path) -> None:
        """Write into ``folder``, a file for each of ``batch["id"]``, what an adapter can hope for; by default nothing."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Sum and log the losses of one batch."""
        return self._step(batch, "train")

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Sum and log the losses of one batch, under the same random numbers each time, so that losses can be compared."""
        with torch.random.fork_rng():
            torch.manual_seed(batch_idx)
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
        if stage == "train":
            self._watch(total.detach())
            self.log_dict(values, prog_bar=True, batch_size=batch_length(batch))
        else:
            self._add(values, batch_length(batch))
        return total

    def _watch(self, loss: Tensor) -> None:
        """Raise ValueError where a loss is not finite: at once on one CPU, elsewhere when values are logged.

        Asking a device for its answer at each step would make it wait for us, and so would asking other processes.
        """
        bad = ~torch.isfinite(loss)
        self._bad = bad if self._bad is None else self._bad | bad
        self._watched += 1
        trainer = self._trainer
        world = trainer.world_size if trainer is not None else 1
        every = 1 if loss.device.type == "cpu" and world == 1 else getattr(trainer, "log_every_n_steps", 0) or 50
        if self._watched % every == 0:
            found = bool(self._bad)
            if world > 1:  # all stop together, or those that go on wait for the others
                found = trainer.strategy.reduce_boolean_decision(found, all=False)  # type: ignore[union-attr]
            self._refuse(found)

    def _refuse(self, bad: bool) -> None:
        if bad:
            raise ValueError(
                f"the loss is no longer finite (step {self.global_step}): training stops here, and the last checkpoint stays as "
                "it is; a lower learning rate or trainer.gradient_clip_val may help"
            )

    def on_train_end(self) -> None:
        """Raise ValueError for a loss that stopped being finite after values were last logged."""
        self._refuse(self._bad is not None and bool(self._bad))

    def _add(self, values: Mapping[str, Tensor], count: int) -> None:
        """Add what was measured on ``count`` items to the sums of an epoch, in double precision."""
        for name, value in values.items():
            total, items = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = total + float(value) * count, items + count

    def _log_means(self, stage: str) -> None:
        """Log means over the items of all processes. Lightning's own mean over processes rounds their counts down."""
        if not self._sums:
            return
        sums = torch.tensor(list(self._sums.values()), dtype=torch.float64)
        if self.trainer.world_size > 1:
            sums = self.trainer.strategy.reduce(sums.to(self.device), reduce_op="sum")
        self.log_dict(dict(zip(self._sums, sums[:, 0] / sums[:, 1], strict=True)), prog_bar=True)
        self._sums = {}

    def on_validation_epoch_end(self) -> None:
        """Log what was validated."""
        self._log_means("val")

    def on_test_epoch_end(self) -> None:
        """Log what was tested."""
        self._log_means("test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimise what takes gradients, and nothing else; the schedule moves once per step."""
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if not trainable:
            raise ValueError(f"{type(self).__name__} has no trainable parameters: nothing to fit")
        optimizer = fuse(self._optimizer(trainable))
        if self._lr_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._lr_scheduler(optimizer), "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the recipe beside the weights, so that the file describes itself; ValueError for what is not finite."""
        self._refuse(self._bad is not None and bool(self._bad))
        for name, value in checkpoint.get("state_dict", {}).items():
            if isinstance(value, Tensor) and value.is_floating_point() and not torch.isfinite(value).all():
                raise ValueError(f"{name} is not finite: no checkpoint is written, and the last one stays as it is")
        try:
            checkpoint["recipe"], checkpoint["record"] = self.described(), self.recorded()
        except ValueError:
            return  # a part that no recipe can name: it must be given again when the file is loaded

    def described(self) -> str:
        """Return the recipe; raises ValueError that names the part which no recipe can name."""
        if self.recipe is not None:
            return self.recipe
        return yaml.safe_dump(section_of(self), sort_keys=False, allow_unicode=True)

    def recorded(self) -> dict[str, Any]:
        """Return what the model card tells of a training, as far as it is known."""
        found = dict(self.record or {})
        if self._trainer is not None and self.global_step:
            found |= {"steps": self.global_step, "epochs": self.current_epoch, "versions": versions()}
            scores = {name: float(value) for name, value in self._trainer.callback_metrics.items() if name.startswith("val/")}
            found |= {"validated": scores} if scores else {}
        return found

    @classmethod
    def from_checkpoint(cls, path: str | Path, trust: bool = False, **parts: Any) -> Self:
        """Rebuild a task, in eval mode, from a Lightning checkpoint.

        Optimizer and schedule are those of a new task: `xmodal fit --ckpt_path` goes on with a training. ``parts``
        (constructor arguments) replace those of the stored recipe. ``trust``: see `xmodal.registry.build`.
        Raises FileNotFoundError, or ValueError for what cannot be read or built, and where recipe and parts are absent.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no checkpoint at {path}")
        found = find(path)
        task = cls._rebuilt(found, trust, parts)
        task.load_state_dict(found.state())
        return task.eval()

    @classmethod
    def _rebuilt(cls, found: Found, trust: bool, parts: Mapping[str, Any]) -> Self:
        if found.recipe is None and parts and cls is not Task:
            return cls(**parts)
        class_path = found.class_path
        task = Builder(str(found.place), trust).build(found.recipe, LightningModule, **parts)
        if not isinstance(task, cls):
            raise TypeError(f"{found.place} holds a {class_path.rpartition('.')[2]}, not a {cls.__name__}")
        task.recipe = yaml.safe_dump(found.recipe, sort_keys=False, allow_unicode=True)
        task.record = found.record
        return task


class Averaged(Task):
    """A task with a moving average of what it trains: what is validated, published and used.

    Args:
        ema_decay: of the average; lower at the beginning, so that its first steps are forgotten sooner. 0 keeps none.
        **task: see :class:`Task`.

    Raises ValueError for a decay outside [0, 1). Call :meth:`start_average` when what is trained is built.
    """

    average: Any

    def __init__(self, ema_decay: float = 0.0, **task: Any) -> None:
        super().__init__(**task)
        if not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay {ema_decay} is not a share from 0 to below 1")
        self.ema_decay = ema_decay

    @property
    @abstractmethod
    def trained(self) -> nn.Module:
        """The network that the average follows."""

    @property
    def published(self) -> Any:
        """The average, or the trained network itself where there is none."""
        return self.trained if self.average is None else self.average

    def start_average(self) -> None:
        """Begin the average at the present weights."""
        self.average = deepcopy(self.trained).requires_grad_(False) if self.ema_decay else None

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """Move the average with each step, before anything can save a checkpoint of one without the other."""
        super().optimizer_step(*arguments, **named)
        if self.average is not None:
            self._move_average(self.global_step + 1)

    @torch.no_grad()
    def _move_average(self, steps: int) -> None:
        decay = min(self.ema_decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.trained.parameters()), 1 - decay)
        for mine, theirs in zip(self.average.buffers(), self.trained.buffers(), strict=True):
            mine.copy_(theirs)


def fuse(optimizer: Optimizer, kind: str = "cuda") -> Optimizer:
    """Let Adam and AdamW update all weights in one kernel where they lie on a device of this kind; a choice made stays.

    Set in the groups, not asked of the constructor, whose optimizers Lightning refuses to clip under mixed precision.
    """
    if isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        for group in optimizer.param_groups:
            chosen = group["fused"] is not None or any(group[name] for name in ("foreach", "capturable", "differentiable"))
            if not chosen and all(each.device.type == kind and each.is_floating_point() for each in group["params"]):
                group["fused"] = True
    return optimizer


def batch_length(batch: Any) -> int:
    """Return the length of the first tensor found in a nested batch, or 1: Lightning's own guess trips over captions."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    items = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (list, tuple)) else ()
    lengths = [batch_length(item) for item in items if not isinstance(item, str)]
    return max(lengths, default=1)
