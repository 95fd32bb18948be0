"""What all pipelines share: their parts, devices and precision, the controls of a call, what is checked before, and results.

A pipeline is what a trained adapter becomes in use. It needs no trainer: `Pipeline.from_recipe` builds it from a recipe's
options and the adapter's weights.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from xmodal.data.values import finite
from xmodal.frozen import Frozen
from xmodal.registry.adapters import Found, find
from xmodal.registry.build import Builder, kind_of
from xmodal.registry.checkpoint import load_into
from xmodal.registry.describe import options_of
from xmodal.registry.hub import Shared
from xmodal.registry.offloading import on_device
from xmodal.registry.publishing import publish

Generators = torch.Generator | list[torch.Generator] | None
Callback = Callable[[int, int], None]
SUFFIXES = {"image": ".png", "audio": ".wav"}
COUNTS = {"image": "num_images_per_prompt", "audio": "num_waveforms_per_prompt"}


class Output(ABC):
    """Results of a call, in the order of what was asked, those of one input together."""

    @abstractmethod
    def save(self, number: int, path: Path) -> Path:
        """Write result ``number``; it appears under ``path`` when it is complete. Refuses what is not finite."""


class SoundOutput(Output):
    """``audios`` (N, T), or (N, C, T), float32 in [-1, 1] at ``sampling_rate`` (Hz), array or tensor."""

    audios: Any
    sampling_rate: int

    def save(self, number: int, path: Path) -> Path:
        """Write sound ``number`` as wav."""
        from xmodal.data.soundfiles import write_sound

        sound = torch.as_tensor(self.audios[number])
        return write_sound(path, sound.mT if sound.ndim == 2 else sound, self.sampling_rate)


class Pipeline(Shared, ABC):
    """The callable of a trained adapter.

    A subclass says what it ``takes`` (modalities, the one that it is for first) and ``makes``, and names its parts by ``PARTS``
    and the adapter among them by ``ADAPTER``.
    """

    takes: ClassVar[tuple[str, ...]]
    makes: ClassVar[str]
    suffix: ClassVar[str] = ""
    baseline: ClassVar[bool] = False  # whether it stands behind others of its way, where none is named
    PARTS: ClassVar[tuple[str, ...]] = ()
    ADAPTER: ClassVar[str] = "adapter"

    guidance_scale: float
    num_inference_steps: int
    found: Found | None = None  # what it was built from
    replaced: Mapping[str, Any] = MappingProxyType({})  # parts and options that took the place of its recipe's

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "makes" in vars(cls) and not cls.suffix:
            cls.suffix = SUFFIXES.get(cls.makes, "")

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._offload: torch.device | None = None
        self._by_layers = False
        self._bar: dict[str, Any] = {"disable": None, "leave": False}

    # ---- building

    @classmethod
    def from_recipe(cls, options: Options) -> Self:
        """Build the pipeline from a recipe's options; the adapter's weights come afterwards, by :meth:`from_found`.

        A pipeline without one is built by its task, for which a trainer is imported.
        """
        raise TypeError(f"{cls.__name__} is built by its task alone: it has no from_recipe")

    @classmethod
    def from_found(cls, found: Found, trust: bool = False, **parts: Any) -> Self:
        """Build the pipeline of a published adapter; ``parts`` replace options of its recipe."""
        if found.recipe is None:
            raise ValueError(f"{found.place} holds no recipe: there is nothing to build a pipeline from")
        made = cls.from_recipe(Options(found.recipe, Builder(str(found.place), trust), parts))
        load_into(getattr(made, cls.ADAPTER), found.weights(), found.place)
        made.found, made.replaced = found, parts
        return made

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool | None = None,
        trust: bool = False,
        **parts: Any,
    ) -> Self:
        """Load a published adapter of this pipeline's own kind; arguments and errors as of `xmodal.pipeline`."""
        found = find(name, revision, token, local_files_only)
        kind = buildable(kind_of(found.class_path, str(found.place), trust))
        if kind is None or not issubclass(kind, cls):
            raise ValueError(f"{found.place} holds a {found.class_path}, which is not for a {cls.__name__}: use xmodal.pipeline")
        return kind.from_found(found, trust, **parts)

    def publish(self, folder: Path, name: str | None = None) -> Path:
        """See `xmodal.registry.hub.Shared`: recipe and record are those that it was loaded from, with what was replaced then."""
        if self.found is None or self.found.recipe is None:
            raise ValueError(
                f"this {type(self).__name__} was not loaded from a published adapter, so no recipe describes it: save its task, "
                "by task.save_pretrained"
            )
        given = self.found.recipe.get("init_args") or {}
        options = {name: value for name, value in given.items() if name not in self.replaced}
        section = {**self.found.recipe, "init_args": {**options, **options_of(self.replaced)}}
        return publish(folder, section, getattr(self, self.ADAPTER).state_dict(), self.found.record, name)

    # ---- parts and where they are

    @property
    def components(self) -> dict[str, nn.Module]:
        """The parts that are built, by name."""
        found = {name: getattr(self, name, None) for name in self.PARTS}
        return {name: part for name, part in found.items() if isinstance(part, nn.Module)}

    @property
    def device(self) -> torch.device:
        """Where the parts are, or with offloading go for their work."""
        return self._offload or next(getattr(self, self.ADAPTER).parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the frozen parts' weights: that of the first that has any; the adapter stays in float32."""
        frozen = (part for name, part in self.components.items() if name != self.ADAPTER)
        return next((value.dtype for part in frozen for value in part.parameters() if value.is_floating_point()), torch.float32)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move all parts, and cast the frozen ones to ``dtype``; the adapter stays in float32."""
        for name, part in self.components.items():
            part.to(device=device, dtype=None if name == self.ADAPTER else dtype)
        return self

    def quantize(self, kind: str, device: str | torch.device | None = None) -> Self:
        """Keep the frozen parts' weights in fewer bits, ``int8`` or ``nf4``: see `xmodal.registry.quantized`, also for errors.

        Parts that are built later, such as what ranks candidates, are not quantized.
        """
        from xmodal.registry.quantized import quantize

        for part in self.components.values():
            if isinstance(part, Frozen):
                quantize(part, kind, device)
        return self

    def compile(self, mode: str = "default", backend: str = "inductor") -> Self:
        """Compile what the frozen parts call in each step (`Frozen.compile_repeated`).

        Raises ValueError where something comes and goes inside it at each call: sequential offload, or low-rank weights.
        """
        if self._by_layers or hasattr(getattr(self, self.ADAPTER), "low_rank"):
            what = "sequential offload" if self._by_layers else "low-rank weights"
            raise ValueError(f"compiled networks and {what} cannot go together: leave one of them off")
        for part in self.components.values():
            if isinstance(part, Frozen):
                part.compile_repeated(mode, backend)
        return self

    def enable_model_cpu_offload(self, device: str | torch.device = "cuda") -> Self:
        """Keep all parts on the CPU and move each to ``device`` for its own work only: the memory of the largest one."""
        self.to("cpu")
        self._offload, self._by_layers = torch.device(device), False
        return self

    def enable_sequential_cpu_offload(self, device: str | torch.device = "cuda") -> Self:
        """As model offload, and the layers of the generator's networks go to ``device`` one at a time: the least memory, slow."""
        frozen = [part for part in self.components.values() if isinstance(part, Frozen)]
        if any(part.get_submodule(name)._compiled_call_impl is not None for part in frozen for name in part.repeated):
            raise ValueError("compiled networks and sequential offload cannot go together: leave one of them off")
        self.enable_model_cpu_offload(device)
        self._by_layers = True
        return self

    @contextmanager
    def using(self, *parts: nn.Module | None) -> Iterator[None]:
        """While open, these parts are on the device: all the time without offloading."""
        with ExitStack() as stack:
            if self._offload is not None:
                for part in dict.fromkeys(each for each in parts if each is not None):
                    stack.enter_context(on_device(part, self._offload, self._by_layers))
            yield

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """No gradients, and all parts in eval mode, for as long as a call lasts: a task in training stays in training."""
        learning = [module for part in self.components.values() for module in part.modules() if module.training]
        for module in learning:  # one by one: `eval` would walk through all that is frozen, at each call
            module.training = False
        try:
            with torch.no_grad():
                yield
        finally:
            for module in learning:
                module.training = True

    def built(self, name: str) -> Any:
        """A part that may be given as what builds it: built when it is first asked for, and put where the others are."""
        part = getattr(self, name)
        if not isinstance(part, nn.Module):
            part = part()
            if self._offload is None:
                part.to(self.device)
            setattr(self, name, part)
        return part

    # ---- the controls of a call

    @property
    def scheduler(self) -> Any:
        """The diffusers scheduler in use; exchange it by ``Kind.from_config(pipe.scheduler.config)``."""
        return self._scheduler

    @scheduler.setter
    def scheduler(self, scheduler: Any) -> None:
        self.check_scheduler(scheduler)
        self._scheduler = scheduler

    def check_scheduler(self, scheduler: Any) -> None:
        """Raise ValueError for a scheduler that is not of the noise that the generator was trained with."""
        found, own = (each.config.get("prediction_type") for each in (scheduler, self._scheduler))
        if found != own:
            mend = "make it by from_config(pipe.scheduler.config)"
            raise ValueError(f"the scheduler expects prediction_type {found!r}, but the model answers {own!r}: {mend}")

    def set_progress_bar_config(self, **options: Any) -> None:
        """Options of tqdm, such as ``disable=True``; by default a bar is shown on terminals only."""
        self._bar |= options

    @contextmanager
    def progress(self, callback: Callback | None) -> Iterator[Callback]:
        """A callback that moves the bar and calls the user's."""
        from tqdm import tqdm

        with tqdm(**self._bar) as bar:

            def step(done: int, total: int) -> None:
                bar.total = total
                bar.update(1)
                if callback is not None:
                    callback(done, total)

            yield step

    def chunks(self, total: int, batch_size: int | None, generator: Generators) -> Iterator[tuple[slice, Generators]]:
        """Slices of at most ``batch_size`` results, each with its part of the generators."""
        if isinstance(generator, (list, tuple)) and len(generator) != total:
            raise ValueError(f"{len(generator)} generators for {total} results: give one for each, or a single one")
        step = total if batch_size is None else batch_size
        for start in range(0, total, max(step, 1)):
            rows = slice(start, min(start + step, total))
            yield rows, list(generator[rows]) if isinstance(generator, (list, tuple)) else generator


class Options:
    """A recipe's options, as a pipeline asks for them; ``given`` ones take their place."""

    def __init__(self, recipe: Mapping[str, Any], builder: Builder, given: Mapping[str, Any]) -> None:
        self.recipe, self.builder = dict(recipe.get("init_args") or {}), builder
        self.given = dict(given)
        self.of = str(recipe["class_path"])

    def __contains__(self, name: str) -> bool:
        return self.given.get(name, self.recipe.get(name)) is not None

    def part(self, name: str, kind: type) -> Any:
        """Build a part, or return the given one; None where there is none."""
        if name in self.given:
            made = self.given[name]
            return made() if callable(made) and not isinstance(made, nn.Module) else made
        return self.builder.build(self.recipe[name], kind, name) if name in self else None

    def factory(self, name: str, kind: type, default: Callable[..., Any] | None = None) -> Callable[..., Any]:
        """Return what builds a part; raises ValueError where there is neither a part of that name nor a default."""
        if name in self.given:
            made = self.given[name]
            return (lambda: made) if isinstance(made, nn.Module) else made
        if name in self:
            return self.builder.factory(self.recipe[name], kind, name)
        if default is None:
            raise ValueError(f"{self.builder.origin}: the recipe has no {name}")
        return default

    def values(self, *names: str) -> dict[str, Any]:
        """Return the plain options of these names that the recipe or the caller gives."""
        found = {**self.recipe, **self.given}
        return {name: found[name] for name in names if name in found}

    def check(self, *known: str) -> None:
        """Raise ValueError for a given option that is none of these."""
        from xmodal.registry.models import suggest

        for name in self.given:
            if name not in known:
                raise ValueError(f"{self.of.rpartition('.')[2]} has no option {name!r}: {suggest(name, known)}")


def buildable(kind: type) -> type[Pipeline] | None:
    """Return the pipeline class that a recipe can be built into, or None where only the task can build it."""
    made = kind if issubclass(kind, Pipeline) else getattr(kind, "pipeline_class", None)
    own = made is not None and made.from_recipe.__func__ is not Pipeline.from_recipe.__func__  # type: ignore[union-attr, attr-defined]
    return made if own else None


def join(factory: Callable[[int, int], nn.Module] | nn.Module, in_dim: int, out_dim: int) -> Any:
    """Return ``factory(in_dim, out_dim)``, or an adapter that is given as it is.

    Raises ValueError that names both sizes where the pair cannot be joined.
    """
    if isinstance(factory, nn.Module):
        sizes = list((getattr(factory, "constructed_with", None) or {}).values())[:2]
        if len(sizes) == 2 and sizes != [in_dim, out_dim]:
            raise ValueError(
                f"the {type(factory).__name__} was built from size {sizes[0]} to size {sizes[1]}, but its place is from "
                f"size {in_dim} to size {out_dim}: build it for these parts"
            )
        return factory
    try:
        adapter = factory(in_dim, out_dim)
    except Exception as error:
        raise ValueError(f"no adapter can be built from size {in_dim} to size {out_dim}: {error}") from error
    if not isinstance(adapter, nn.Module):
        raise TypeError(f"the adapter factory returned a {type(adapter).__name__} for ({in_dim}, {out_dim}), not a module")
    return adapter


# ---- checks


def check_counts(**counts: int | None) -> None:
    """Raise ValueError for the first number that is not a whole one of at least 1; None is the default's."""
    for name, number in counts.items():
        if number is not None and (isinstance(number, bool) or number != int(number) or number < 1):
            raise ValueError(f"{name} must be at least 1, not {number}")


def check_finite(**numbers: float | None) -> None:
    """Raise ValueError for the first that is no finite number; None is the default's."""
    for name, number in numbers.items():
        if number is not None:
            finite(name, number)


def check_seconds(seconds: float) -> None:
    """Raise ValueError for a length that is not above 0."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"audio_length_in_s must be above 0, not {seconds}")


def check_output_type(output_type: str, known: Sequence[str]) -> None:
    """Raise ValueError for an unknown form of results."""
    if output_type not in known:
        raise ValueError(f"output_type must be one of {', '.join(known)}, not {output_type!r}")


def one_each(name: str, given: Any, count: int) -> list[Any]:
    """Return one for each of ``count`` inputs: a list as it is, anything else for all; raises ValueError for another length."""
    if not isinstance(given, (list, tuple)):
        return [given] * count
    if len(given) != count:
        raise ValueError(f"{len(given)} {name} for {count} inputs: give one for each, or one for all")
    return list(given)


def checked(made: Tensor, what: str) -> Tensor:
    """Return results that are finite; raises ValueError for others, which would be written as black or as full scale."""
    if not torch.isfinite(made).all():
        raise ValueError(f"the {what} that was made is not finite: the weights diverged, or the precision is too low for them")
    return made
