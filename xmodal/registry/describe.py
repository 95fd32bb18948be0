"""The recipe of what was built in Python: classes and their options, from what the constructors were given."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from xmodal.frozen import Recorded
from xmodal.registry.adapters import LOW_RANK

TRAINING = ("optimizer", "lr_scheduler", "weights", "predictions")  # of no use to who loads the result
TASK = "the task"
MEND = "or set task.recipe to the section model of a recipe, as YAML text"


def section_of(task: Recorded) -> dict[str, Any]:
    """Return a task's section ``model``.

    Raises ValueError that names the part which no recipe can name: one made of parts in memory, a function, a class of the
    running program itself.
    """
    section = _section(task, TASK)
    section["init_args"] = {name: value for name, value in section["init_args"].items() if name not in TRAINING}
    return section


def options_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return constructor arguments as a recipe has them; raises ValueError as `section_of`."""
    return _options(given, TASK)


def _section(made: Any, place: str) -> dict[str, Any]:
    """``class_path`` and ``init_args`` of an object, a class, or a class with its options (functools.partial)."""
    if isinstance(made, type):
        return {"class_path": class_path(made, place)}
    if isinstance(made, partial) and isinstance(made.func, type) and not made.args:
        return {"class_path": class_path(made.func, place), "init_args": _options(made.keywords, place)}
    given = getattr(made, "constructed_with", None)
    if not isinstance(made, Recorded) or given is None:
        what = f"a {type(made).__name__}" if hasattr(made, "state_dict") else repr(made)[:80]
        what += " that was put together in memory" if isinstance(made, Recorded) else ""
        raise ValueError(
            f"{place} is {what}, which no recipe can name: give a part that its own constructor made, its class, or "
            f"functools.partial of that; an adapter's class is derived from xmodal.foundation.base.Adapter; {MEND}"
        )
    own = [name for name in given if name not in list(given)[: made.from_its_place]]
    return {"class_path": class_path(type(made), place), "init_args": _options({name: given[name] for name in own}, place)}


def _options(given: Mapping[str, Any], place: str) -> dict[str, Any]:
    start = "" if place == TASK else f"{place}."
    return {name: _value(value, f"{start}{name}") for name, value in given.items() if name not in TRAINING and value is not None}


def _value(value: Any, place: str) -> Any:
    if isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_value(each, f"{place}[{index}]") for index, each in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _value(each, f"{place}.{name}") for name, each in value.items() if each is not None}
    return _section(value, place)


def class_path(kind: type, place: str) -> str:
    """Return the name by which a class is imported, the shortest; raises ValueError where it has none elsewhere than here."""
    module, name = kind.__module__, kind.__qualname__
    if module == "__main__" or getattr(sys.modules.get(module), name, None) is not kind:
        where = "the running program" if module == "__main__" else "a function, or another class,"
        raise ValueError(
            f"{place} is a {name} that is defined in {where} of which others know nothing: put the class into a module, "
            f"such as mine.py, and import it from there; {MEND}"
        )
    package = module.rpartition(".")[0]
    if package and getattr(import_module(package), name, None) is kind:
        return f"{package}.{name}"
    return f"{module}.{name}"


def check_rebuilt(adapter: Any) -> None:
    """Raise ValueError for an adapter that its class and options do not make again: one that was changed afterwards."""
    import torch

    with torch.random.fork_rng(devices=[]):
        again = type(adapter)(**adapter.constructed_with)
    shapes, found = ({name: tuple(value.shape) for name, value in each.state_dict().items()} for each in (again, adapter))
    found = {name: shape for name, shape in found.items() if not name.startswith(LOW_RANK)}  # those the task's options make
    if wrong := sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name)):
        raise ValueError(
            f"the adapter has {wrong[0]} {found.get(wrong[0], 'not at all')}, but {type(adapter).__name__} with its options has "
            f"it {shapes.get(wrong[0], 'not at all')}: let its constructor build all of it"
        )
