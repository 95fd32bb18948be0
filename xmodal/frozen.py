"""The one rule about foundation models: they are used, never trained, never saved."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from inspect import BoundArguments, Parameter, signature
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys


def _recording(construct: Callable[..., None]) -> Callable[..., None]:
    known = signature(construct)

    @wraps(construct)  # the signature is the recipe's schema
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        if type(self).__init__ is wrapped and "constructed_with" not in vars(self):  # not what a constructor calls of those above
            try:
                bound = known.bind(self, *args, **kwargs)
            except TypeError:
                bound = None  # the call itself says what is wrong
            if bound is not None:
                bound.apply_defaults()
                vars(self)["constructed_with"] = _by_name(bound)
        construct(self, *args, **kwargs)

    return wrapped


def _by_name(bound: BoundArguments) -> dict[str, Any] | None:
    """Arguments but for the object itself; None where there are nameless ones."""
    found: dict[str, Any] = {}
    for name, value in list(bound.arguments.items())[1:]:
        kind = bound.signature.parameters[name].kind
        if kind is Parameter.VAR_POSITIONAL and value:
            return None
        if kind is Parameter.VAR_KEYWORD:
            found |= value
        elif kind is not Parameter.VAR_POSITIONAL:
            found[name] = value
    return found


class Recorded:
    """Keeps what it was ``constructed_with``, by name and with defaults: what a recipe says of it.

    None for what was made in another way. ``from_its_place`` counts the arguments in front that the place in a recipe gives.
    """

    constructed_with: dict[str, Any] | None = None
    from_its_place: ClassVar[int] = 0

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _recording(cls.__init__)  # type: ignore[method-assign]


class Frozen(Recorded, nn.Module):
    """A module whose parameters take no gradients, which stays in eval mode and is absent from state dicts.

    Gradients still flow *through* it: AudioToken back-propagates through Stable Diffusion into its adapter. Whether
    a call records a graph is the caller's choice, not this class's.

    Every module or parameter assigned to an attribute is frozen on assignment, so a subclass cannot forget it. It
    moves with its parent (``.to``), and a parent's strict ``load_state_dict`` forgives its absence from the file.

    Its construction leaves the CPU's random state as it was: a different encoder must not change the adapter's
    initial weights under one seed, or an ablation would compare two things at once.

    ``quantized`` says to what `xmodal.registry.quantized` has made its weights; ``exact`` names the submodules that it leaves
    alone ("": all). ``streamed`` names networks whose layers can be fetched one at a time (`xmodal.registry.offloading`),
    ``repeated`` those that are called again and again for one result.
    """

    quantized: str | None = None
    exact: ClassVar[tuple[str, ...]] = ()
    streamed: ClassVar[tuple[str, ...]] = ()
    repeated: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "__init__" in vars(cls):
            cls.__init__ = _without_side_effect_on_seeds(cls.__init__)  # type: ignore[method-assign]
        super().__init_subclass__(**kwargs)

    def __init__(self) -> None:
        super().__init__()
        self.training = False
        self._prefix = ""
        self.register_load_state_dict_post_hook(_forgive_own_keys)

    _assemble: Callable[..., None]  # of those that can be made of parts in memory

    @classmethod
    def assembled(cls, *parts: Any, **options: Any) -> Self:
        """Make one of parts in memory, frozen in place, by ``_assemble``: without the constructor, which reads files."""
        made = cls.__new__(cls)
        Frozen.__init__(made)
        made._assemble(*parts, **options)
        return made

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, (nn.Module, nn.Parameter)):
            value.requires_grad_(False)
        if isinstance(value, nn.Module):
            value.eval()
        super().__setattr__(name, value)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode whatever the parent does."""
        return super().train(False)

    def state_dict(self, *args: Any, destination: dict[str, Any] | None = None, **kwargs: Any) -> dict[str, Any]:
        """Contribute nothing: the weights belong to their publisher's file."""
        return {} if destination is None else destination

    def compile_repeated(self, mode: str = "default", backend: str = "inductor") -> Self:
        """Have torch.compile make the ``repeated`` networks quicker, in place: names and weights stay as they are.

        The first call of each shape compiles; ``mode="reduce-overhead"`` replays CUDA graphs, for shapes that stay the same.
        """
        for name in self.repeated:
            self.get_submodule(name).compile(mode=mode, backend=backend)
        return self

    def fingerprint(self) -> str:
        """Hash of all weights and buffers, 64 hexadecimal digits; equal numbers of equal names give equal prints.

        It reads every byte: ask once for what is worth caching.
        """
        digest = hashlib.sha256()
        for name, value in sorted([*self.named_parameters(), *self.named_buffers()]):
            plain = value.detach().to("cpu").contiguous()
            digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self._prefix = prefix
        super()._load_from_state_dict(state_dict, prefix, *args)


class Later:
    """A frozen part that is built when its numbers are asked for, and not to find what it has computed before.

    Args:
        kind: its class.
        identity: what its weights are made of: the same text, the same fingerprint.
        build: gives the part, the same one each time.
    """

    def __init__(self, kind: type[Frozen], identity: str, build: Callable[[], Frozen]) -> None:
        self.kind, self.identity, self.build = kind, identity, build

    def fingerprint(self) -> str:
        """Of the part, which is built for it."""
        return self.build().fingerprint()


@dataclass(frozen=True)
class Feature:
    """What frozen parts make of a clip: worth computing once and storing.

    ``compute`` turns a batch that holds ``inputs`` into tensors (B, ...) named ``outputs``; ``options`` are the settings
    of ``parts`` that change the numbers (token layers, normalization). A result may depend on nothing else.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parts: tuple[Frozen | Later, ...]
    compute: Callable[[Mapping[str, Any]], dict[str, Tensor]]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kinds(self) -> tuple[type[Frozen], ...]:
        """Classes of the parts."""
        return tuple(part.kind if isinstance(part, Later) else type(part) for part in self.parts)

    def built(self) -> list[Frozen]:
        """The parts, built."""
        return [part.build() if isinstance(part, Later) else part for part in self.parts]


def _without_side_effect_on_seeds(construct: Callable[..., None]) -> Callable[..., None]:
    @wraps(construct)  # the signature is the recipe's schema
    def wrapped(self: Frozen, *args: Any, **kwargs: Any) -> None:
        with torch.random.fork_rng(devices=[]):  # no devices: asking CUDA here would break a later fork by DDP
            construct(self, *args, **kwargs)

    return wrapped


def _forgive_own_keys(module: nn.Module, keys: _IncompatibleKeys) -> None:
    keys.missing_keys[:] = [key for key in keys.missing_keys if not key.startswith(module._prefix)]
