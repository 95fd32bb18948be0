"""From a name to the pipeline of its adapter, and from one modality to another to the adapter that does it.

Nothing heavy is imported before a pipeline is asked for, and a trainer only where a task alone can build its pipeline.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmodal.registry.adapters import built_in, find
from xmodal.registry.build import kind_of

if TYPE_CHECKING:
    import torch

MADE_AS = {"image": ".png", "audio": ".wav"}  # how results lie on the disk
Make = Callable[[int, str, list[Any]], Iterator[Path]]


def pipeline(
    name: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    trust: bool = False,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool | None = None,
    quantize: str | None = None,
    **parts: Any,
) -> Any:
    """Load a trained adapter with its frozen models and return the callable of its task.

    Args:
        name: a built-in name (``xmodal adapters``), a folder with adapter.safetensors, a run's folder, a checkpoint file, or
            ``owner/name`` on the Hugging Face hub. Its recipe is read as data: see `xmodal.registry.build`.
        device, dtype: as of ``pipe.to``.
        trust: import classes that the recipe names and that are neither xmodal's nor an installed plugin's.
        revision, token, local_files_only: of an adapter on the hub.
        quantize: ``int8`` or ``nf4``, see `Pipeline.quantize`.
        **parts: constructor arguments that replace those of the stored recipe.

    Raises ValueError for a name that is none of these, with the nearest built-in ones, and for a recipe that cannot be built.
    """
    with _uncollected():
        from xmodal.pipelines import buildable

        found = find(name, revision, token, local_files_only)
        kind = buildable(kind_of(found.class_path, str(found.place), trust)) if found.recipe is not None else None
        if kind is not None:
            made = kind.from_found(found, trust, **parts)
        else:  # a task whose pipeline can be had from itself alone
            from xmodal.adapter_task import AdapterTask

            made = AdapterTask.from_folder(found.place, trust, **parts).pipeline()
        if quantize is not None:
            made.quantize(quantize, device)
        return made if device is None and dtype is None else made.to(device, dtype)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Importing models makes a million objects that all stay: the collector would go through them again and again."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


@cache
def ways() -> dict[tuple[str, str], tuple[str, ...]]:
    """Return (from, to) -> the installed adapters that lead there, best first.

    Each adapter's task says what it takes, with what it is for in front: there it goes before others.
    """
    found: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for name in built_in():
        kind: Any = kind_of(find(name).class_path, name)
        for place, source in enumerate(kind.takes):
            # A baseline may be asked for by name, and stands behind what was trained for the way.
            found.setdefault((source, kind.makes), []).append((place + 10 * getattr(kind, "baseline", False), name))
    return {way: tuple(name for _, name in sorted(names)) for way, names in found.items()}


def route(to: str, source: str = "audio") -> str:
    """Return the name of the built-in adapter from ``source`` to ``to``; raises ValueError where there is none."""
    known = ways()
    if (source, to) in known:
        return known[source, to][0]
    names = ", ".join(f"{start} to {end}" for start, end in sorted(known)) or "none, since no adapter is installed"
    raise ValueError(f"there is no way from {source} to {to}: the ways are {names}")


def handed_on(make: Make, inputs: Sequence[Any], to: Sequence[str]) -> Iterator[Path]:
    """Hand what ``make(number, kind, inputs)`` makes in each step to the next one, and yield all of it as it is made."""
    given = list(inputs)
    for number, kind in enumerate(to):
        made = []
        for path in make(number, kind, given):
            yield path
            if path.suffix == MADE_AS[kind]:  # not a spectrogram beside it
                made.append(path)
        if not made:
            return
        given = made
