"""How much memory a computation needs, found without any: it is run on the meta device, and every tensor that lives is counted.

Counted are the bytes of tensors: weights, activations that the backward pass waits for, gradients, temporary results.
Attention is taken to be computed in pieces, as accelerators do. What an allocator and a driver take besides is not counted.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from typing import Any, NamedTuple, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from xmodal.frozen import Frozen

N = TypeVar("N", bound=nn.Module)
AUTOCAST = torch.autocast
UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse(text: str) -> int:
    """Return bytes of ``8GB``, ``7.5 GiB`` or ``500 MB``; raises ValueError for what is no size above nothing."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]i?b|)\s*", text.lower())
    if found is None or not float(found[1]):
        raise ValueError(f"{text!r} is no size of memory: write it as 8GB or 7.5GiB")
    return round(float(found[1]) * UNITS[found[2]])


def weights(part: nn.Module, dtype: torch.dtype | None = None) -> int:
    """Return the bytes of a part's parameters and buffers, as they are or with the real numbers in ``dtype``."""
    found = {id(value): value for value in (*part.parameters(), *part.buffers())}
    return sum(
        value.numel() * (dtype.itemsize if dtype and value.is_floating_point() else value.element_size())
        for value in found.values()
    )


class _Attention(torch.autograd.Function):
    """Attention's shapes: it keeps queries, keys, values and results, and no table of all pairs."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        made = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, made)
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        query, key, value, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _in_pieces(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
    return _Attention.apply(query, key, value)


def _autocast(device_type: str, *options: Any, **named: Any) -> Any:
    """As torch's own, which the meta device has not."""
    return nullcontext() if device_type == "meta" else AUTOCAST(device_type, *options, **named)


class _Living(TorchDispatchMode):
    """Adds up the storages that live, and remembers the most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()
        self.foreign: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):
                self._know(value.untyped_storage())
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor) and value.device.type == "meta":
                self._add(value.untyped_storage())
        return made

    def _know(self, storage: Any) -> None:
        """Note what was there before; views of it take nothing."""
        name = storage._cdata
        if name not in self.known and name not in self.foreign:
            self.foreign.add(name)
            weakref.finalize(storage, self.foreign.discard, name)  # its address may be another's by then

    def _add(self, storage: Any) -> None:
        name, size = storage._cdata, storage.nbytes()
        if name in self.known or name in self.foreign or not size:
            return
        self.known.add(name)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._drop, name, size)

    def _drop(self, name: int, size: int) -> None:
        self.known.discard(name)
        self.now -= size


def peak(compute: Callable[[], object]) -> int:
    """Return the most bytes that tensors made by ``compute`` take at once.

    It works with parts and inputs on the meta device; what was there before, such as weights, is not counted.
    """
    pieces, whole = patch.object(F, "scaled_dot_product_attention", _in_pieces), patch.object(torch, "autocast", _autocast)
    with _Living() as living, pieces, whole, torch.device("meta"):
        compute()
    return living.most


def without_weights(module: N, dtype: torch.dtype = torch.float32) -> N:
    """A copy of a network, part or task whose weights are on the meta device, those of frozen parts in ``dtype``.

    The original stays as it is; what it holds besides weights is copied, so that nothing of the copy's reaches it.
    """
    inside = {each for part in module.modules() if isinstance(part, Frozen) for each in part.modules()}
    kept: list[tuple[dict[str, Any], str, Tensor]] = []
    try:
        for each in module.modules():
            stores: tuple[dict[str, Any], ...] = (each._parameters, each._buffers)  # type: ignore[assignment]
            for held in stores:
                for name, value in list(held.items()):
                    if value is None:
                        continue
                    kept.append((held, name, value))
                    cast = dtype if value.is_floating_point() and each in inside else value.dtype
                    empty = torch.empty(value.shape, dtype=cast, device="meta")
                    learns = value.requires_grad
                    held[name] = nn.Parameter(empty, requires_grad=learns) if isinstance(value, nn.Parameter) else empty
        return deepcopy(module, {id(getattr(module, "_trainer", None)): None})
    finally:
        for held, name, value in kept:
            held[name] = value


class Setting(NamedTuple):
    """How to make results within a budget, and the bytes that it needs; ``offload`` is "", "model" or "sequential"."""

    dtype: str
    batch_size: int
    offload: str
    slicing: bool
    bytes: int

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of the frozen parts' weights."""
        return getattr(torch, self.dtype)  # type: ignore[no-any-return]

    def __str__(self) -> str:
        words = [self.dtype, f"{self.batch_size} at once", *["VAE slicing"] * self.slicing]
        words += [f"{self.offload} offload"] * bool(self.offload)
        return f"{', '.join(words)}: {self.bytes / 1e9:.2f} GB"


def settings(
    weigh: Callable[[torch.dtype, bool], Mapping[str, int]],
    worker: str,
    work: Callable[[int, bool], int],
    largest_batch: int,
    dtypes: Sequence[str],
    slices: bool = True,
) -> Iterator[Setting]:
    """Yield settings from the quickest to the most frugal, with what each needs.

    ``weigh(dtype, by_layers)`` gives the bytes of each part's weights that are on the device at once, ``work(batch, slicing)``
    those that the part ``worker`` makes besides, in float32. With slicing, where it ``slices``, the VAE decodes one result at a
    time; model offload keeps on the device only the part that works, sequential offload only the layer.
    """
    batches = [size for size in (32, 16, 8, 4, 2, 1) if size <= largest_batch]
    for offload in ("", "model", "sequential"):
        for dtype in dtypes:
            kind: torch.dtype = getattr(torch, dtype)
            parts = weigh(kind, offload == "sequential")
            for batch in batches:
                for slicing in (False, True) if slices and batch > 1 else (False,):
                    made = work(batch, slicing) * kind.itemsize // 4
                    alone = max(size + made * (name == worker) for name, size in parts.items())
                    yield Setting(dtype, batch, offload, slicing, alone if offload else sum(parts.values()) + made)


def choose(budget: int, found: Iterable[Setting]) -> Setting:
    """Return the first setting within ``budget`` bytes; raises ValueError that says what the most frugal one needs."""
    tried = []
    for setting in found:
        if setting.bytes <= budget:
            return setting
        tried.append(setting)
    least = min(tried, key=lambda each: each.bytes)
    raise ValueError(f"{budget / 1e9:.3g} GB are not enough: the least is {least}")
