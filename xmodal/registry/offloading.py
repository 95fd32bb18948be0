"""Parts that wait on the CPU and go to a device for their work: whole, or layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

# Bytes of a layer that is there all the time: to fetch it would cost more than it takes. A UNet's first layer is among them,
# which tells where its inputs belong.
SMALL = 2**18


@contextmanager
def on_device(part: nn.Module, device: torch.device, by_layers: bool = False, small: int = SMALL) -> Iterator[None]:
    """While open, a part is on ``device``; afterwards it is on the CPU.

    With ``by_layers`` the layers of the networks that it names by ``streamed`` are there one at a time, each for its own call,
    and what is handed to them is moved there, too; only layers of at most ``small`` bytes stay. For inference alone.
    """
    large = layers(part, small) if by_layers else []
    if not large:
        try:
            part.to(device)
            yield
        finally:
            part.to("cpu")
        return
    kept: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}

    def fetch(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        kept[module] = _load(module, device)
        return tree_map(lambda each: each.to(device) if isinstance(each, Tensor) else each, (given, named))

    def drop(module: nn.Module, given: Any, made: Any) -> None:
        _unload(kept.pop(module))

    handles = [each.register_forward_pre_hook(fetch, with_kwargs=True) for each in large]
    handles += [each.register_forward_hook(drop, always_call=True) for each in large]
    resident: list[tuple[Tensor, Tensor]] = []
    try:
        for module in set(part.modules()) - set(large):
            resident += _load(module, device)
        yield
    finally:
        for handle in handles:
            handle.remove()
        _unload([*resident, *(pair for pairs in kept.values() for pair in pairs)])
        part.to("cpu")  # what was made meanwhile


def layers(part: nn.Module, small: int = SMALL) -> list[nn.Module]:
    """The layers that are fetched one by one, which hold tensors of their own of more than ``small`` bytes."""
    networks = [getattr(part, name, None) for name in getattr(part, "streamed", ())]
    modules = (module for network in networks if isinstance(network, nn.Module) for module in network.modules())
    return [module for module in dict.fromkeys(modules) if sum(value.nbytes for value in _own(module)) > small]


def resident(part: nn.Module, dtype: torch.dtype, by_layers: bool = False) -> int:
    """The most bytes of a part's weights, its real numbers in ``dtype``, that are on the device at once."""
    large = set(layers(part)) if by_layers else set()
    sizes: dict[bool, list[int]] = {False: [0], True: [0]}
    seen: set[int] = set()
    for module in part.modules():
        own = [value for value in _own(module) if id(value) not in seen]
        seen |= {id(value) for value in own}
        sizes[module in large].append(
            sum(value.numel() * (dtype.itemsize if value.is_floating_point() else value.element_size()) for value in own)
        )
    return sum(sizes[False]) + max(sizes[True])


def _own(module: nn.Module) -> list[Tensor]:
    held = (*module._parameters.values(), *module._buffers.values())
    return [value for value in held if value is not None]


def _load(module: nn.Module, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Put a layer's own tensors on the device; returns them with what they were."""
    kept = [(value, value.data) for value in _own(module)]
    for value, data in kept:
        value.data = data.to(device)
    return kept


def _unload(kept: list[tuple[Tensor, Tensor]]) -> None:
    for value, data in kept:
        value.data = data
