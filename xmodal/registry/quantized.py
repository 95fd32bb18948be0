"""Frozen weights in eight or four bits: computed with, and trained *through*.

A layer keeps a code for each number and the largest magnitude of each block (Dettmers et al., arXiv 2110.02861; nf4: arXiv
2305.14314). Its weight is restored for each use, in the forward pass and again in the backward pass, and dropped: a graph
holds no restored weight. bitsandbytes encodes and restores. Nothing here trains a quantized weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import grad

from xmodal.frozen import Frozen

BLOCKS = {"int8": 256, "nf4": 64}  # numbers that share a scale
F = TypeVar("F", bound=Frozen)


def check(kind: str | None) -> None:
    """Raise ValueError for a kind that there is not, ImportError where bitsandbytes is not installed; None is fine."""
    if kind is None:
        return
    if kind not in BLOCKS:
        raise ValueError(f"quantize {kind!r} is not one of {', '.join(BLOCKS)}")
    if find_spec("bitsandbytes") is None:
        raise ImportError(f'quantize {kind} needs the package bitsandbytes: pip install "xmodal[quantize]"')


def quantize(part: F, kind: str, device: torch.device | str | None = None) -> F:
    """Keep the weights of a part's linear layers and convolutions in fewer bits, in place; returns the part.

    ``int8`` are 256 even steps for each block of 256 numbers (1.02 bytes a number), ``nf4`` 16 steps at a normal distribution's
    quantiles for each 64 (0.56 bytes). What the part names by ``exact``, tables of words, norms and biases stay as they are.
    ``device`` encodes (default: where the weights are), layer by layer. Raises ValueError for another kind, or for a part that is
    quantized otherwise, ImportError without bitsandbytes.
    """
    if part.quantized == kind:
        return part
    if part.quantized is not None:
        raise ValueError(f"{type(part).__name__} is quantized to {part.quantized} already: load it anew for {kind}")
    on_meta = any(value.is_meta for value in part.parameters())  # sizes alone: nothing to encode
    if on_meta and kind not in BLOCKS:
        raise ValueError(f"quantize {kind!r} is not one of {', '.join(BLOCKS)}")
    if not on_meta:
        check(kind)
    for layer in list(layers(part)):
        _encode(layer, kind, device)
    part.quantized = kind
    return part


def layers(part: nn.Module) -> Iterator[Any]:
    """The layers of a part whose weights can be kept in fewer bits."""
    exact: set[nn.Module] = set()
    for module in part.modules():
        for name in module.exact if isinstance(module, Frozen) else ():
            exact |= set(module.get_submodule(name).modules())
    for module in part.modules():
        padded = getattr(module, "padding_mode", "zeros") != "zeros" or isinstance(getattr(module, "padding", 0), str)
        if type(module) in KINDS and module not in exact and module._parameters.get("weight") is not None and not padded:
            yield module


def size(count: int, kind: str) -> int:
    """Bytes of a weight of ``count`` numbers."""
    blocks = -(-count // BLOCKS[kind])
    return blocks * (4 + BLOCKS[kind] // (2 if kind == "nf4" else 1))


def largest(part: nn.Module) -> int:
    """Numbers of the largest weight that is restored at once; 0 where nothing is quantized."""
    return max((module.shape.numel() for module in part.modules() if isinstance(module, _Quantized)), default=0)


class _Through(torch.autograd.Function):
    """A layer's result; of the gradient only what goes back to its input. What is kept for it are the codes."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, layer: Any, dtype: torch.dtype) -> Tensor:
        ctx.layer, ctx.shape, ctx.dtype = layer, given.shape, dtype
        return layer.result(given, layer.restored(dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return ctx.layer.back(ctx.shape, gradients[0], ctx.layer.restored(ctx.dtype)), None, None


class _Quantized(nn.Module):
    """What a layer becomes: the same kind of layer, whose ``weight`` is restored when it is asked for."""

    codes: Tensor
    scales: Tensor
    like: Tensor
    kind: str
    shape: torch.Size
    bias: nn.Parameter | None
    result: Callable[[Tensor, Tensor], Tensor]

    @property
    def weight(self) -> Tensor:
        """The weight as it computes, made anew."""
        return self.restored(self.like.dtype)

    def restored(self, dtype: torch.dtype) -> Tensor:
        """The weight in ``dtype``, on its device."""
        if self.codes.is_meta:
            return self.codes.new_empty(self.shape, dtype=dtype)
        block, scales = BLOCKS[self.kind], self.scales.view(torch.float32)
        ops: Any = torch.ops.bitsandbytes
        if self.kind == "nf4":
            flat = ops.dequantize_4bit(self.codes, scales, block, "nf4", [len(scales) * block], dtype)
        else:
            flat = ops.dequantize_blockwise(self.codes, scales, _steps(self.codes.device), block, dtype)
        return flat.view(-1)[: self.shape.numel()].view(self.shape)

    def forward(self, given: Tensor) -> Tensor:
        dtype, device = self.like.dtype, given.device.type
        if device != "meta" and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            given = given.to(dtype)
        made: Tensor = _Through.apply(given, self, dtype)  # type: ignore[no-untyped-call]
        return made


class QuantizedLinear(_Quantized, nn.Linear):  # type: ignore[misc]
    """`torch.nn.Linear`, quantized."""

    def result(self, given: Tensor, weight: Tensor) -> Tensor:  # type: ignore[override]
        """(..., in) -> (..., out)."""
        return nn.functional.linear(given, weight, None if self.bias is None else self.bias.to(weight.dtype))

    def back(self, shape: torch.Size, gradient: Tensor, weight: Tensor) -> Tensor:
        """(..., out) -> (..., in)."""
        return gradient @ weight


class _QuantizedConv(_Quantized):
    def result(self, given: Tensor, weight: Tensor) -> Tensor:  # type: ignore[override]
        layer: Any = self
        return layer._conv_forward(given, weight, None if self.bias is None else self.bias.to(weight.dtype))

    def back(self, shape: torch.Size, gradient: Tensor, weight: Tensor) -> Tensor:
        """Gradients of the results -> those of an input of ``shape``."""
        layer: Any = self
        turned: Any = grad.conv1d_input if weight.ndim == 3 else grad.conv2d_input
        return turned(shape, weight, gradient, layer.stride, layer.padding, layer.dilation, layer.groups)


class QuantizedConv1d(_QuantizedConv, nn.Conv1d):  # type: ignore[misc]
    """`torch.nn.Conv1d`, quantized."""


class QuantizedConv2d(_QuantizedConv, nn.Conv2d):  # type: ignore[misc]
    """`torch.nn.Conv2d`, quantized."""


KINDS = {nn.Linear: QuantizedLinear, nn.Conv1d: QuantizedConv1d, nn.Conv2d: QuantizedConv2d}


def _encode(layer: Any, kind: str, device: torch.device | str | None) -> None:
    weight = layer._parameters.pop("weight").detach()
    codes, scales = _codes(weight, kind, device)
    layer.__class__ = KINDS[type(layer)]
    layer.kind, layer.shape = kind, weight.shape
    layer.register_buffer("codes", codes)
    # Bits of float32, named integers: whoever casts the part to half precision leaves them alone.
    layer.register_buffer("scales", scales.view(torch.int32))
    layer.register_buffer("like", weight.new_empty(0))  # its dtype is the weight's, and is cast with the part


def _codes(weight: Tensor, kind: str, device: torch.device | str | None) -> tuple[Tensor, Tensor]:
    """Codes and scales (blocks,) of a weight, which is filled up to whole blocks."""
    block = BLOCKS[kind]
    blocks = -(-weight.numel() // block)
    if weight.is_meta:
        taken = blocks * block // (2 if kind == "nf4" else 1)
        return weight.new_empty(taken, dtype=torch.uint8), weight.new_empty(blocks, dtype=torch.float32)
    import bitsandbytes  # noqa: F401  (it makes its operations known)

    flat = nn.functional.pad(weight.reshape(-1).to(device), (0, blocks * block - weight.numel()))
    ops: Any = torch.ops.bitsandbytes
    if kind == "nf4":
        codes, scales = ops.quantize_4bit(flat, block, "nf4", torch.uint8)
    else:
        codes, scales = ops.quantize_blockwise(flat, _steps(flat.device), block)
    return codes.to(weight.device), scales.to(weight.device)


@lru_cache(maxsize=8)
def _steps(device: torch.device) -> Tensor:
    """Even steps from -1 to 1, for eight bits: nearer to the weights than the uneven ones that optimizers' states want."""
    from bitsandbytes.functional import create_linear_map

    return create_linear_map(signed=True, total_bits=8).to(device)
