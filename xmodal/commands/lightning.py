"""Lightning's command line over recipes. The only importer of lightning.pytorch.cli."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from argparse import ArgumentError
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import set_parsing_settings
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from omegaconf.errors import OmegaConfBaseException

from xmodal.evaluation.callback import SuiteTest
from xmodal.task import Task

OUTPUTS = Path("outputs")
MINUTE = timedelta(minutes=1)


class CLI(LightningCLI):
    """Adds three things: free-form ``vars``, the recipe stored on the task, and ``--ckpt_path last`` per experiment."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Declare the one free-form section of a recipe."""
        parser.add_argument("--vars", type=dict, default={}, help="Values that a recipe refers to as ${vars.NAME}.")

    def before_instantiate_classes(self) -> None:
        """Give the experiment its own folder, and find its last checkpoint."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        if config.trainer.default_root_dir is None:
            config.trainer.default_root_dir = str(OUTPUTS / _experiment(sys.argv))
        if config.get("ckpt_path") == "last":
            config.ckpt_path = _last_checkpoint(Path(config.trainer.default_root_dir))
            if config.ckpt_path is None:
                print("the last run was stopped before its first checkpoint: starting anew", file=sys.stderr)

    def after_instantiate_classes(self) -> None:
        """Store the resolved ``model:`` section as text: it travels in every checkpoint."""
        parser = self._parser(self.subcommand)
        config = yaml.safe_load(parser.dump(self.config[self.subcommand] if self.subcommand else self.config, skip_none=False))
        self.model.recipe = yaml.safe_dump(config["model"], sort_keys=False, allow_unicode=True)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Save a ``last.ckpt`` unless the recipe brings its own checkpointing, so that resuming needs no preparation; test
        with the task's suite of metrics.
        """
        settings = self._get(self.config_init, "trainer")
        given = settings.get("callbacks") or []
        callbacks = given if isinstance(given, list) else [given]
        if settings.get("enable_checkpointing") is not False and not any(isinstance(each, Checkpoint) for each in callbacks):
            callbacks = kwargs["callbacks"] = [*callbacks, _ToTheEnd(save_last=True), _every_minute()]
        if self.subcommand == "test" and not any(isinstance(each, SuiteTest) for each in callbacks):
            kwargs["callbacks"] = [*callbacks, SuiteTest()]
        return super().instantiate_trainer(**kwargs)


def run() -> None:
    """Run the command in ``sys.argv``; a recipe that does not fit exits with status 2 and one sentence."""
    _command(run=True)


def parse_without_running() -> CLI:
    """Build model, data and trainer from the recipe in ``sys.argv``, which names no subcommand; errors as in `run`."""
    return _command(run=False)


def _command(run: bool) -> CLI:
    _quieten()
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    try:
        return CLI(
            Task,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            save_config_callback=SaveConfigCallback if run else None,
            save_config_kwargs={"overwrite": True},
            run=run,
            # "omegaconf" would resolve each file by itself and leave stale values after an overlay.
            parser_kwargs={"parser_mode": "omegaconf+", "exit_on_error": False},
        )
    except (ArgumentError, OmegaConfBaseException) as error:
        if os.environ.get("XMODAL_DEBUG") == "1":
            raise
        print(f"xmodal: error: {sentence(error)}", file=sys.stderr)
        raise SystemExit(2) from error


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
    """Return base+overlay+overlay from the recipes' file names, or "run"; the parsed configuration forgets its files."""
    pairs = zip(arguments, arguments[1:], strict=False)
    paths = [value for flag, value in pairs if flag in ("--config", "-c")]
    paths += [word.partition("=")[2] for word in arguments if word.startswith("--config=")]
    return "+".join(Path(path).stem for path in paths) or "run"


class _ToTheEnd(ModelCheckpoint):
    """Also saves when training ends between two validations, so that ``last.ckpt`` is what was trained."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self.dirpath and not getattr(trainer, "fast_dev_run", False) and self._last_global_step_saved != trainer.global_step:
            trainer.save_checkpoint(Path(self.dirpath) / "last.ckpt")


def _every_minute() -> ModelCheckpoint:
    """What a killed run goes on from inside an epoch; one file, replaced when the next is complete."""
    name = "last-minute"
    return ModelCheckpoint(filename=name, train_time_interval=MINUTE, save_top_k=1, enable_version_counter=False)


def _last_checkpoint(root: Path) -> str | None:
    """The newest checkpoint of an experiment; None where it was stopped before it wrote any."""
    found = sorted(root.glob("**/last*.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found and not any(root.glob("**/config.yaml")):
        raise FileNotFoundError(f"there is no last.ckpt under {root} to go on from: give the path with --ckpt_path")
    return str(found[-1]) if found else None


def _quieten() -> None:
    """Drop Lightning's advertisements, and its warning that frozen models are in eval mode: they are meant to be."""
    advertisement = logging.Filter()
    advertisement.filter = lambda record: "litlogger" not in record.getMessage() and "litmodels" not in record.getMessage()  # type: ignore[method-assign]
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(advertisement)
    for message in (r"Found \d+ module\(s\) in eval mode", r".*LeafSpec", r".*`tensorboardX` has been removed"):
        warnings.filterwarnings("ignore", message=message)
