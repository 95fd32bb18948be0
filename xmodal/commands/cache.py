"""`xmodal cache ls | verify | rm`: what feature stores there are. Nothing here imports torch."""

from __future__ import annotations

import shlex
import shutil
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xmodal.commands.fit import hand_over
from xmodal.commands.stopping import Asked, stopping
from xmodal.commands.terminal import print_table, refuse_rows
from xmodal.data.features import stores
from xmodal.registry.recipe import recipes_of
from xmodal.registry.recipes import files


def main(arguments: Sequence[str]) -> None:
    """Compute a recipe's frozen features once, or manage what is stored."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: xmodal cache --config RECIPE --data.manifest FILE --data.cache FOLDER [options of xmodal fit]")
        print("       xmodal cache {ls,verify,rm} [STORE] [--folder FOLDER]\n\nSee docs/data.md.")
        return
    if not arguments[0].startswith("-"):
        manage(arguments)
        return
    words = ["cache", *arguments]
    files(recipes_of(words))  # an unknown name ends here, before anything heavy is imported
    hand_over(words)
    with stopping(words) as asked:
        _fill(arguments, asked)


def _fill(arguments: Sequence[str], asked: Asked) -> None:
    """Compute what a recipe's frozen parts make of its clips."""
    from lightning.pytorch.callbacks import ProgressBar

    from xmodal.commands.lightning import parse_without_running
    from xmodal.data.extraction import extract
    from xmodal.data.manifest import valid_rows

    cli = parse_without_running(arguments, asked)
    cli.trainer.logger = None
    manifest = getattr(cli.datamodule, "manifest", None)
    wrong = valid_rows(manifest, remote=getattr(cli.datamodule, "remote", None))[1] if manifest is not None else []
    trainer: Any = cli.trainer
    trainer.callbacks = [each for each in trainer.callbacks if not isinstance(each, ProgressBar)]  # it has its own
    for line in extract(cli.model.frozen_features(), cli.datamodule, cli.trainer):
        if cli.trainer.is_global_zero:
            print(line)
    if cli.trainer.is_global_zero and not wrong:
        print(f"next: xmodal fit {shlex.join(arguments)}", file=sys.stderr)
    if wrong:
        refuse_rows(wrong)


def manage(arguments: Sequence[str]) -> None:
    """Parse and run; raises SystemExit with status 2 for bad usage, ValueError for damaged or unknown stores."""
    parser = ArgumentParser("xmodal cache", description="Feature stores. `xmodal cache --config RECIPE` fills them.")
    parser.add_argument("what", choices=["ls", "verify", "rm"], help="list, read and compare every byte, remove one")
    parser.add_argument("store", nargs="?", help="name of the store to remove")
    parser.add_argument("--folder", type=Path, default=Path("outputs/cache"), help="of the stores (default: outputs/cache)")
    options = parser.parse_args(arguments)
    if options.what == "ls":
        rows = listing(options.folder)
        print_table(rows)
    elif options.what == "verify":
        if damaged := verify(options.folder):
            raise ValueError(f"{len(damaged)} shards are damaged: {'; '.join(damaged)}")
        print(f"{len(stores(options.folder))} stores are as they were written")
    elif options.store is None:
        parser.error("rm needs the name of a store: see xmodal cache ls")
    else:
        print(f"removed {remove(options.folder, options.store)}")


def listing(folder: Path) -> list[tuple[str, ...]]:
    """One row for each store below a folder: name, rows, unreadable clips, megabytes, model."""
    rows: list[tuple[str, ...]] = [("store", "rows", "unreadable", "MB", "model")]
    for store in stores(folder):
        size = sum(path.stat().st_size for path in store.root.iterdir() if not path.name.startswith("."))  # others come and go
        rows.append((store.root.name, str(len(store)), str(len(store.failures())), f"{size / 1e6:.1f}", store.key.model))
    return rows


def verify(folder: Path) -> list[str]:
    """Return one sentence for each damaged shard below a folder; reads every byte, and removes what killed writers left."""
    found = stores(folder)
    for store in found:
        store.clean_up()
    return [reason for store in found for _, reason in store.verify()]


def remove(folder: Path, name: str) -> Path:
    """Remove one store; raises ValueError for a name that is no store of this folder."""
    known = {store.root.name: store.root for store in stores(folder)}
    if name not in known:
        raise ValueError(f"{folder} has no store {name!r}: it holds {', '.join(known) or 'none'}")
    shutil.rmtree(known[name])
    return known[name]
