"""Runs: each has a folder of its own, ``outputs/NAME/HASH8``, by the recipe's name and a hash of what decides its results.

In it ``version_N`` for each start: configuration, metrics, checkpoints, samples. Predictions and the suite of `xmodal test`
lie beside those.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xmodal.files import PARTIAL, clean_up, is_file, is_folder
from xmodal.registry.adapters import checkpoints
from xmodal.registry.recipes import CONFIG

OUTPUTS = Path("outputs")
# Of the trainer's options those that change what is trained. How long, where and how fast it runs is not in the hash.
TRAINER = (
    "precision", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "limit_train_batches",
    "overfit_batches", "sync_batchnorm", "use_distributed_sampler",
)  # fmt: skip
# Of the other sections what changes no result of a training: workers, caches, where results go.
IGNORED = {
    "num_workers", "cache", "auto_cache", "cache_limit", "rows_per_shard", "device_resident", "predict_inputs", "predict_seconds",
    "predictions",
}  # fmt: skip


def run_hash(config: Mapping[str, Any]) -> str:
    """Return eight hexadecimal digits of what decides a training's results; a manifest counts by its content."""
    text = json.dumps(sorted(_counted(config).items()), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def differences(config: Mapping[str, Any], run: Path) -> list[str]:
    """Return the options by which a configuration differs from that of a run's folder."""
    import yaml

    path = config_of(run)
    mine, theirs = _counted(config), _counted(yaml.safe_load(path.read_text("utf-8")) or {}) if path else {}
    return sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))


def config_of(run: Path) -> Path | None:
    """Return the newest configuration in a run's folder, or of the newest run in a recipe's; None where it is neither."""
    for pattern in (CONFIG, f"version_*/{CONFIG}", f"*/version_*/{CONFIG}"):
        if found := [*run.glob(pattern)]:
            return max(found, key=lambda path: path.stat().st_mtime)
    return None


def run_of(folder: Path) -> Path:
    """Return the folder of the run itself: the newest one of a recipe's."""
    config = config_of(folder)
    return folder if config is None or config.parent == folder else config.parent.parent


def expanded(words: Sequence[str]) -> list[str]:
    """Return the words of ``COMMAND RUN ...``, a run's folder, as its configuration, checkpoint and folder.

    ``COMMAND RECIPE ...`` is ``COMMAND --config RECIPE ...``; other words are given back as they are.
    """
    if len(words) < 2 or words[1].startswith("-"):
        return [*words]
    command, run, *rest = words
    config = config_of(Path(run)) if is_folder(run) else None
    if config is None:
        return [command, "--config", run, *rest]
    given = {word.partition("=")[0] for word in rest}
    made, run = [command, "--config", str(config)], str(run_of(Path(run)))
    made += [] if "--ckpt_path" in given else ["--ckpt_path", run]
    return made + ([] if "--trainer.default_root_dir" in given else ["--trainer.default_root_dir", run]) + rest


def checkpoint_of(root: Path, name: str, config: Mapping[str, Any]) -> str | None:
    """Return the last whole checkpoint of the run in a folder; None where it was stopped before it wrote any.

    Raises FileNotFoundError where it never ran, with the runs of this recipe whose options differ; ValueError where none of
    its checkpoints is whole.
    """
    if config_of(root) is None and not any(root.glob("**/last*.ckpt")):
        others = [run for run in sorted((OUTPUTS / name).glob("*")) if config_of(run)] if root.parent == OUTPUTS / name else []
        if others:
            keys = ", ".join(differences(config, others[-1])[:3])
            mend = f"repeat those of {others[-1]} (they differ in {keys}), or give the folder: --ckpt_path {others[-1]}"
            raise FileNotFoundError(f"{name} has not run with these options, so there is no last.ckpt to go on from: {mend}")
    return last_checkpoint(root)


def last_checkpoint(root: Path) -> str | None:
    """The newest whole checkpoint of a run; None where it was stopped before it wrote any.

    Raises FileNotFoundError where nothing ever ran, ValueError where none of its checkpoints is whole.
    """
    for folder in {path.parent for path in root.glob(f"**/.*{PARTIAL}")}:
        clean_up(folder)  # a run that goes on writes into a folder of its own: nobody else would
    every = sorted(root.glob("**/last*.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True)
    if not every and not any(root.glob(f"**/{CONFIG}")):
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


def _counted(config: Mapping[str, Any]) -> dict[str, Any]:
    trainer = config.get("trainer") or {}
    counted = {"seed_everything": config.get("seed_everything"), "model": config.get("model"), "data": config.get("data")}
    counted["trainer"] = {name: trainer.get(name) for name in TRAINER}
    return dict(_flat(counted))


def _flat(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """What a section holds, by the names that options have; a file of the data by its content."""
    if isinstance(node, Mapping):
        for key, inner in node.items():
            if key not in IGNORED:
                yield from _flat(inner, place if key == "init_args" else f"{place}.{key}".lstrip("."))
    elif place.startswith("data.") and isinstance(node, str) and is_file(node):
        with open(node, "rb") as file:
            yield place, hashlib.file_digest(file, "sha256").hexdigest()
    else:
        yield place, node
