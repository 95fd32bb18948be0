"""Lightning's command line over recipes. The only importer of lightning.pytorch.cli."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser, get_loader, set_loader, set_parsing_settings
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf.errors import OmegaConfBaseException

from xmodal.adapter_task import PREDICTIONS
from xmodal.commands import telling
from xmodal.commands.caching import cache_where_it_pays
from xmodal.commands.mistakes import sentence
from xmodal.commands.runs import OUTPUTS, checkpoint_of, last_checkpoint, run_hash, run_of
from xmodal.commands.stopping import Asked
from xmodal.commands.telling import Speed
from xmodal.evaluation.callback import SuiteTest
from xmodal.files import write_beside
from xmodal.registry.adapters import best_checkpoint
from xmodal.registry.build import by_todays_names
from xmodal.registry.modelcard import record_of
from xmodal.registry.recipe import in_one, recipes_of
from xmodal.registry.recipes import name_of
from xmodal.task import Task

MODE = "omegaconf+"
MINUTE = timedelta(minutes=1)
IDLE = ("litlogger", "litmodels", "`weights_only` was not set", "TPU available: False")  # what Lightning says and nobody asked


class CLI(LightningCLI):
    """Adds three things: free-form ``vars``, the recipe stored on the task, and ``--ckpt_path last`` per experiment."""

    asked: Asked
    speed: Speed
    began = 0.0

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Declare the one free-form section of a recipe, and the memory that a training may take."""
        parser.add_argument("--vars", type=dict, default={}, help="Values that a recipe refers to as ${vars.NAME}.")
        parser.add_argument("--memory", type=str | None, default=None, help="Of the device to train on: 12GB.")

    def before_instantiate_classes(self) -> None:
        """Give the run its own folder, and find its last checkpoint."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        name = name_of(recipes_of(sys.argv)) or "run"
        content = self._content()
        if config.trainer.default_root_dir is None:
            config.trainer.default_root_dir = str(OUTPUTS / name / run_hash(content))
        root = Path(config.trainer.default_root_dir)
        given, training = config.get("ckpt_path"), self.subcommand == "fit"
        if given != "last" and not (given and Path(given).is_dir()):
            return
        if given == "last":
            found = checkpoint_of(root, name, content)
        else:  # of a run's folder its last one to go on from, the best one otherwise
            root = run_of(Path(given))
            last = last_checkpoint(root)
            found = last if training else str(best_checkpoint(root) or last or "") or None
        config.ckpt_path = found
        if found is None and not training:
            # An untrained adapter would be judged, and its numbers would look like a result.
            raise FileNotFoundError(f"there is no last.ckpt under {root}: train first, or give a path with --ckpt_path")
        if found is None:
            print("the last run was stopped before its first checkpoint: starting anew", file=sys.stderr)

    def _content(self) -> dict[str, Any]:
        """The configuration as plain data."""
        parser = self._parser(self.subcommand)
        found = parser.dump(self.config[self.subcommand] if self.subcommand else self.config, skip_none=False)
        content = yaml.safe_load(found) or {}
        content.pop("memory", None)  # how something is trained, not what
        return content

    def after_instantiate_classes(self) -> None:
        """Store the resolved ``model:`` section as text, which travels in every checkpoint; results go into the run's folder."""
        content = self._content()
        self.model.recipe = yaml.safe_dump(content["model"], sort_keys=False, allow_unicode=True)
        self.model.record = record_of(content)
        options = self._get(self.config, "model").get("init_args") or {}
        if "predictions" in options and options["predictions"] is None:
            self.model.predictions = Path(self.trainer.default_root_dir) / PREDICTIONS.name

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Save a ``last.ckpt`` unless the recipe brings its own checkpointing (but of the best alone), so that resuming needs
        no preparation; test with the task's suite of metrics.
        """
        settings, self.speed = self._get(self.config_init, "trainer"), Speed()
        given = settings.get("callbacks") or []
        callbacks = given if isinstance(given, list) else [given]
        own = [each for each in callbacks if isinstance(each, Checkpoint) and getattr(each, "filename", None) != "best"]
        if settings.get("enable_checkpointing") is not False and not own:
            callbacks = [*callbacks, _ToTheEnd(save_last=True), _every_minute()]
        if self.subcommand == "test" and not any(isinstance(each, SuiteTest) for each in callbacks):
            callbacks = [*callbacks, SuiteTest()]
        kwargs["logger"] = self._loggers(settings)
        if self.subcommand == "predict":
            self.save_config_callback = None  # it writes results, and no metrics
        trainer = super().instantiate_trainer(**kwargs, callbacks=[*callbacks, self.speed, _AskedToStop(self.asked)])
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # a recipe's own way of saving stays
            trainer.strategy.checkpoint_io = DurableCheckpoints()
        return trainer

    def before_fit(self) -> None:
        """Fit into the memory, store features where that pays, and take the time."""
        if (memory := self._get(self.config_init, "memory")) is not None:
            from xmodal.commands import training_budget

            training_budget.say(training_budget.fit_into(memory, self.model, self.datamodule, self.trainer))
        options = self._get(self.config_init, "trainer")
        cache_where_it_pays(self.datamodule, self.model, self.trainer, options, _AskedToStop(self.asked))
        self.began = time.perf_counter()

    def after_fit(self) -> None:
        """Say what came of it, where it lies, and what comes next."""
        if self.trainer.is_global_zero and not getattr(self.trainer, "fast_dev_run", False):
            root = Path(self.trainer.default_root_dir)
            took = time.perf_counter() - self.began
            said = telling.after_fit(self.trainer, self.model, root, best_checkpoint(root), self.speed, took)
            print("\n".join(said), file=sys.stderr)

    def after_predict(self) -> None:
        """Say where the results lie."""
        folder = getattr(self.model, "predictions", None)
        if self.trainer.is_global_zero and folder is not None:
            print(f"the results lie in {folder}", file=sys.stderr)
            suite, manifest = getattr(self.model, "suite", None), getattr(self.datamodule, "manifest", None)
            if suite and manifest is not None:
                words = ["xmodal", "evaluate", "--suite", str(suite), "--fake", str(folder), "--real", str(manifest)]
                print(f"next: {shlex.join(words)}", file=sys.stderr)

    def _loggers(self, settings: Any) -> Any:
        """Metrics as a table, and for TensorBoard where that is installed, unless the recipe has its own loggers or none."""
        given = settings.get("logger")
        if self.subcommand in (None, "predict") and given in (None, True):
            return False
        if given not in (None, True):
            return given
        root = settings.get("default_root_dir")
        table = CSVLogger(root, name="" if self.subcommand == "fit" else str(self.subcommand))
        boards = find_spec("tensorboard") is not None and self.subcommand == "fit"
        return [table, TensorBoardLogger(root, name="", version=f"version_{table.version}")] if boards else table


def run(asked: Asked | None = None) -> None:
    """Run the command in ``sys.argv``; a recipe that does not fit exits with status 2 and one sentence."""
    _command(asked or Asked(), True)


def parse_without_running(arguments: Sequence[str], asked: Asked) -> CLI:
    """Build model, data and trainer from the recipe in ``arguments``, which name no subcommand; errors as in `run`."""
    return _command(asked, False, [*arguments])


def _command(asked: Asked, run: bool, arguments: list[str] | None = None) -> CLI:
    _quieten()
    CLI.asked = asked
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    _read_old_names()
    try:
        return CLI(
            Task,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            save_config_callback=_WholeConfig if run else None,
            save_config_kwargs={"save_to_log_dir": False},
            run=run,
            args=in_one(sys.argv[1:] if arguments is None else arguments),
            # "omegaconf" would resolve each file by itself and leave stale values after an overlay.
            parser_kwargs={"parser_mode": MODE, "exit_on_error": False, "allow_abbrev": False},
        )
    except (ArgumentError, OmegaConfBaseException) as error:
        if os.environ.get("XMODAL_DEBUG") == "1":
            raise
        print(f"xmodal: error: {sentence(error)}", file=sys.stderr)
        raise SystemExit(2) from error


def _read_old_names() -> None:
    """Recipes of earlier versions are read by today's names."""
    ArgumentParser(parser_mode=MODE).parse_string("{}")  # its loader is known from the first use on
    read = get_loader(MODE)
    if not isinstance(read, _ByTodaysNames):
        set_loader(MODE, _ByTodaysNames(read), (yaml.YAMLError,))


class _ByTodaysNames:
    def __init__(self, plain: Callable[[str], Any]) -> None:
        self.plain = plain

    def __call__(self, text: str) -> Any:
        return by_todays_names(self.plain(text))


class _ToTheEnd(ModelCheckpoint):
    """Also saves when training ends between two validations, so that ``last.ckpt`` is what was trained."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self.dirpath and not getattr(trainer, "fast_dev_run", False) and self._last_global_step_saved != trainer.global_step:
            trainer.save_checkpoint(Path(self.dirpath) / "last.ckpt")


class _WholeConfig(SaveConfigCallback):
    """Lightning opens the file before it has the text, so a run killed between would leave an empty config.yaml."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.folder = trainer.log_dir  # all processes must ask for it
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.folder is None:
            return
        text = self.parser.dump(self.config, skip_none=False)
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        write_beside(Path(self.folder) / self.config_filename, lambda path: path.write_text(text, "utf-8"))


def _every_minute() -> ModelCheckpoint:
    """What a killed run goes on from inside an epoch; one file, replaced when the next is complete."""
    name = "last-minute"
    return ModelCheckpoint(filename=name, train_time_interval=MINUTE, save_top_k=1, enable_version_counter=False)


class _AskedToStop(Callback):
    """Keeps what a training has reached when it is asked to stop, and ends predicting, which Lightning's signals do not."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked

    def on_predict_batch_end(self, *arguments: Any, **named: Any) -> None:
        if self.asked.number:
            raise SIGTERMException

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # Only between two batches: elsewhere weights, average and position in the data need not be of one step.
        if not isinstance(exception, SIGTERMException) or trainer.state.fn != "fit" or not trainer.global_step:
            return
        kept = trainer.checkpoint_callback
        if isinstance(kept, ModelCheckpoint) and kept.dirpath and not getattr(trainer, "fast_dev_run", False):
            trainer.save_checkpoint(Path(kept.dirpath) / "last.ckpt")
            if trainer.is_global_zero:
                print(f"xmodal: step {trainer.global_step} is kept in {kept.dirpath}", file=sys.stderr)


class DurableCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its target, flushes it and renames it.

    Lightning makes the file in the temporary folder; where that is another file system, it is copied over the old one, and
    who is killed meanwhile has neither.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Save to a path; what has an address, such as ``s3://``, is Lightning's."""
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_beside(Path(path), partial(_write_checkpoint, checkpoint))


def _write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:  # torch would write the file's own name into it
        torch.save(checkpoint, file)


def _quieten() -> None:
    """Drop Lightning's advertisements, and its warning that frozen models are in eval mode: they are meant to be."""
    advertisement = logging.Filter()
    advertisement.filter = lambda record: not any(word in record.getMessage() for word in IDLE)  # type: ignore[method-assign]
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(advertisement)
    for message in (
        r"Found \d+ module\(s\) in eval mode",
        r"The number of training batches \(\d+\) is smaller than the logging interval",
        r"The dirpath has changed from",
        r".*LeafSpec",
        r".*`tensorboardX` has been removed",
        "LightningCLI's args",
        r".*`configure_optimizers` returned `None`",  # of what is training-free
        r"`training_step` returned `None`",
    ):
        warnings.filterwarnings("ignore", message=message)
