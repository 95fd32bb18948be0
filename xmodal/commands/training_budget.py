"""`xmodal fit --memory 12GB`: how a training fits into a device, found by running a step without weights, on the meta device.

Nothing here changes what is trained: the effective batch stays the recipe's. The first settings that are tried change no number
but roundings (smaller batches whose gradients are accumulated, gradient checkpointing), then come half precision of the frozen
parts, and last their quantization.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import default_collate

from xmodal.data.manifest import Manifest, Row
from xmodal.data.module import PairedMedia
from xmodal.foundation.memory import parse, peak, without_weights
from xmodal.frozen import Frozen
from xmodal.registry.offloading import resident
from xmodal.registry.quantized import BLOCKS, layers, quantize, size

MORE = 4  # clips of a step that is compared with that of one
STATES = 4  # numbers for each one that is trained: itself, its gradient, and Adam's two


class Setting(NamedTuple):
    """How to train, and the bytes that it takes."""

    quantize: str | None
    dtype: torch.dtype
    checkpointing: bool
    batch_size: int
    bytes: int


def fit_into(memory: str, task: Any, data: Any, trainer: Trainer) -> str:
    """Settle task, data and trainer for a device of this memory (``12GB``); returns what was settled, in words.

    Raises ValueError where nothing fits, or where it cannot be told what the task takes.
    """
    budget, whole = parse(memory), getattr(data, "batch_size", 0)
    tried: list[Setting] = []
    with isolate_rng():
        for setting in settings(task, data):
            tried.append(setting)
            if setting.bytes <= budget:
                break
    setting = tried[-1]
    if setting.bytes > budget:
        least = min(tried, key=lambda each: each.bytes)
        more = "" if find_spec("bitsandbytes") else '; with pip install "xmodal[quantize]" there are smaller ones'
        raise ValueError(f"{budget / 1e9:.3g} GB are not enough for this training: the least is {_words(least, whole)}{more}")
    if setting.batch_size < whole:
        times = whole // setting.batch_size
        data.batch_size = setting.batch_size
        trainer.accumulate_grad_batches *= times
        if isinstance(data, PairedMedia):
            data.steps = times
        elif trainer.limit_train_batches == 1.0 and (batches := data.counts["train"] // whole):
            trainer.limit_train_batches = batches  # the world leaves out a last batch that is not whole, as before
        for name in ("limit_train_batches", "limit_val_batches", "val_check_interval"):  # batches, where they are whole numbers
            if isinstance(number := getattr(trainer, name, None), int):
                setattr(trainer, name, number * times)
    if setting.checkpointing:
        task.generator.enable_gradient_checkpointing()
    for part in frozen(task):
        part.to(setting.dtype)
        if setting.quantize is not None:
            quantize(part, setting.quantize)
    return f"within {budget / 1e9:.3g} GB by {_words(setting, whole)}"


def settings(task: Any, data: Any) -> Iterator[Setting]:
    """Yield settings in the order of their price in numbers, then in time, with what each takes."""
    item, whole = first(data), getattr(data, "batch_size", 0)
    task.features(item)  # builds what is built when it is needed, and fills caches that must not be filled without numbers
    parts = frozen(task)
    held = sum(value.numel() * 4 * (STATES if value.requires_grad else 1) for value in task.state_dict(keep_vars=True).values())
    generator = getattr(task, "generator", None) if "generator" in dict(task.named_children()) else None
    saves = hasattr(generator, "enable_gradient_checkpointing") and not getattr(task, "lora_rank", 0)
    present = next((part.quantized for part in parts if part.quantized), None)
    kinds = [present] if present else [None, *(BLOCKS if find_spec("bitsandbytes") else ())]
    own = max(
        (value.dtype for part in parts for value in part.parameters()), key=lambda each: each.itemsize, default=torch.float32
    )
    made: dict[tuple[torch.dtype, bool], tuple[int, int]] = {}
    for kind in kinds:
        for dtype in dict.fromkeys((own, torch.bfloat16)):
            weights, restored = _weights(parts, dtype, kind if kind != present else None)
            for checkpointing, batch in _order(whole, saves):
                if (dtype, checkpointing) not in made:
                    made[dtype, checkpointing] = _step(task, item, dtype, checkpointing)
                one, more = made[dtype, checkpointing]
                yield Setting(kind, dtype, checkpointing, batch, held + weights + restored + one + more * (batch - 1))


def frozen(task: nn.Module) -> list[Frozen]:
    """The frozen parts of a task that are built."""
    return [part for part in task.children() if isinstance(part, Frozen)]


def first(data: Any) -> dict[str, Any]:
    """One clip of a training's data, collated, before anything is computed from it; ValueError where that cannot be had."""
    if isinstance(data, PairedMedia):
        clips: Any = data.media([_first_row(Manifest(data.manifest, "train", data.remote))], data.inputs, data.crop)
    elif hasattr(data, "clips") and hasattr(data, "frozen_parts"):  # the miniature world
        clips = data.clips("train", (*data.parts, *data.frozen_parts))
    else:
        clips = ()
    if not len(clips) or not getattr(data, "batch_size", 0):
        raise ValueError(f"--memory cannot tell what is in a batch of {type(data).__name__}: leave it out")
    found: dict[str, Any] = default_collate([clips[0]])
    return found


def _first_row(rows: Manifest) -> Row:
    """The first row that is valid; what is wrong with the first one where none is."""
    for index in range(len(rows)):
        with suppress(ValueError):
            return rows[index]
    return rows[0]


def _order(whole: int, saves: bool) -> Iterator[tuple[bool, int]]:
    """Checkpointing and batch size, the quickest first: a small batch leaves a device idle, checkpointing computes once more."""
    sizes = [each for each in range(whole, 0, -1) if whole % each == 0]
    large = [each for each in sizes if each >= min(4, whole)]
    yield from ((False, each) for each in large)
    if saves:
        yield from ((True, each) for each in sizes)
    else:
        yield from ((False, each) for each in sizes if each not in large)


def _weights(parts: list[Frozen], dtype: torch.dtype, kind: str | None) -> tuple[int, int]:
    """Bytes of frozen weights, and of the largest that is restored at once."""
    held, largest = sum(resident(part, dtype) for part in parts), 0
    for part in parts if kind else ():
        for layer in layers(part):
            count = layer.weight.numel()
            held += size(count, kind or "") - count * dtype.itemsize
            largest = max(largest, count * dtype.itemsize)
    return held, largest


def _step(task: Any, item: Mapping[str, Any], dtype: torch.dtype, checkpointing: bool) -> tuple[int, int]:
    """Bytes that a step of one clip makes besides weights, and those of each clip more."""
    twin: Any = without_weights(task, dtype)
    twin.train()
    if checkpointing:
        twin.generator.enable_gradient_checkpointing()

    def step(count: int) -> int:
        batch = {
            name: torch.empty((count, *value.shape[1:]), dtype=value.dtype, device="meta")
            if isinstance(value, Tensor)
            else list(value) * count
            for name, value in item.items()
        }
        return peak(lambda: torch.stack([term.float() for term in twin.losses(batch).values()]).sum().backward())

    try:
        step(1)  # what is made once and kept, such as filter banks
        one = step(1)
        return one, max(0, step(MORE) - one) // (MORE - 1)
    except Exception as error:
        name = type(task).__name__
        raise ValueError(f"--memory cannot tell what {name} takes ({type(error).__name__}: {error}): leave it out") from error


def _words(setting: Setting, whole: int) -> str:
    name, times = str(setting.dtype).removeprefix("torch."), whole // setting.batch_size
    words = [f"{setting.quantize} frozen weights computed with in {name}" if setting.quantize else f"{name} frozen weights"]
    words += ["gradient checkpointing"] * setting.checkpointing
    words += [f"{times} x {setting.batch_size} accumulated" if times > 1 else f"{whole} at once"]
    return f"{', '.join(words)}: {setting.bytes / 1e9:.2f} GB"


def say(text: str) -> None:
    """Tell the user."""
    print(f"xmodal: {text}", file=sys.stderr)
