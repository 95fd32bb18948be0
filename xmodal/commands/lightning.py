"""Lightning's command line over recipes. The only importer of lightning.pytorch.cli."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser, get_loader, set_loader, set_parsing_settings
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf.errors import OmegaConfBaseException

from xmodal.commands.stopping import Asked
from xmodal.evaluation.callback import SuiteTest
from xmodal.files import PARTIAL, clean_up, write_beside
from xmodal.registry.adapters import checkpoints
from xmodal.registry.build import by_todays_names
from xmodal.registry.modelcard import record_of
from xmodal.registry.recipe import in_one, recipes_of
from xmodal.registry.recipes import name_of
from xmodal.task import Task

OUTPUTS = Path("outputs")
MODE = "omegaconf+"
MINUTE = timedelta(minutes=1)


class CLI(LightningCLI):
    """Adds three things: free-form ``vars``, the recipe stored on the task, and ``--ckpt_path last`` per experiment."""

    asked: Asked

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Declare the one free-form section of a recipe."""
        parser.add_argument("--vars", type=dict, default={}, help="Values that a recipe refers to as ${vars.NAME}.")

    def before_instantiate_classes(self) -> None:
        """Give the experiment its own folder, and find its last checkpoint."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        if config.trainer.default_root_dir is None:
            config.trainer.default_root_dir = str(OUTPUTS / _experiment(sys.argv))
        if config.get("ckpt_path") == "last":
            root = Path(config.trainer.default_root_dir)
            config.ckpt_path = last_checkpoint(root)
            if config.ckpt_path is None and self.subcommand != "fit":
                # An untrained adapter would be judged, and its numbers would look like a result.
                raise FileNotFoundError(f"there is no last.ckpt under {root}: train first, or give a path with --ckpt_path")
            if config.ckpt_path is None:
                print("the last run was stopped before its first checkpoint: starting anew", file=sys.stderr)

    def after_instantiate_classes(self) -> None:
        """Store the resolved ``model:`` section as text: it travels in every checkpoint."""
        parser = self._parser(self.subcommand)
        config = yaml.safe_load(parser.dump(self.config[self.subcommand] if self.subcommand else self.config, skip_none=False))
        self.model.recipe = yaml.safe_dump(config["model"], sort_keys=False, allow_unicode=True)
        self.model.record = record_of(config)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Save a ``last.ckpt`` unless the recipe brings its own checkpointing, so that resuming needs no preparation; test
        with the task's suite of metrics.
        """
        settings = self._get(self.config_init, "trainer")
        given = settings.get("callbacks") or []
        callbacks = given if isinstance(given, list) else [given]
        if settings.get("enable_checkpointing") is not False and not any(isinstance(each, Checkpoint) for each in callbacks):
            callbacks = [*callbacks, _ToTheEnd(save_last=True), _every_minute()]
        if self.subcommand == "test" and not any(isinstance(each, SuiteTest) for each in callbacks):
            callbacks = [*callbacks, SuiteTest()]
        trainer = super().instantiate_trainer(**kwargs, callbacks=[*callbacks, _AskedToStop(self.asked)])
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # a recipe's own way of saving stays
            trainer.strategy.checkpoint_io = DurableCheckpoints()
        return trainer


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


def sentence(error: Exception) -> str:
    """Return one line that says what is wrong with which key.

    The model is optional for jsonargparse, so its message lists, beside the real reason, that the section is not None,
    and then repeats the whole section: that part is dropped.
    """
    lines = [line.strip(" -") for line in str(error).splitlines()]
    noise = ("Does not validate against any", "Subtypes:", "Errors:", "Expected a <class 'NoneType'>", "Given value")
    kept = [line for line in lines if line and not line.startswith(noise)]
    if isinstance(error, OmegaConfBaseException):
        kept.insert(0, "recipe:")
    return " ".join(kept)


def _experiment(arguments: list[str]) -> str:
    """Return base+overlay+overlay by the recipes' names, or "run"; the parsed configuration forgets its files."""
    return name_of(recipes_of(arguments)) or "run"


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


def last_checkpoint(root: Path) -> str | None:
    """The newest whole checkpoint of an experiment; None where it was stopped before it wrote any.

    Raises FileNotFoundError where nothing ever ran, ValueError where none of its checkpoints is whole.
    """
    for folder in {path.parent for path in root.glob(f"**/.*{PARTIAL}")}:
        clean_up(folder)  # a run that goes on writes into a folder of its own: nobody else would
    every = sorted(root.glob("**/last*.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True)
    if not every and not any(root.glob("**/config.yaml")):
        raise FileNotFoundError(f"there is no last.ckpt under {root} to go on from: give the path with --ckpt_path")
    if not every:
        return None
    found = next(checkpoints(root), None)
    if found is None:
        raise ValueError(f"{every[0]} is not whole, and there is no other checkpoint under {root}: give one with --ckpt_path")
    torn = every[: every.index(found)]
    if torn:
        print(f"xmodal: {torn[0]} is not whole: going on from {found}, the newest that is", file=sys.stderr)
    return str(found)


def _quieten() -> None:
    """Drop Lightning's advertisements, and its warning that frozen models are in eval mode: they are meant to be."""
    advertisement = logging.Filter()
    advertisement.filter = lambda record: "litlogger" not in record.getMessage() and "litmodels" not in record.getMessage()  # type: ignore[method-assign]
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(advertisement)
    for message in (
        r"Found \d+ module\(s\) in eval mode",
        r".*LeafSpec",
        r".*`tensorboardX` has been removed",
        "LightningCLI's args",
    ):
        warnings.filterwarnings("ignore", message=message)
