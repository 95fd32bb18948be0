"""The one builder of what a recipe describes. A recipe from elsewhere is data: it can name classes, and only known ones.

A ``class_path`` must be a class (no function) below the kind that its place asks for, and stand in xmodal, in an installed
plugin (a package with an entry point of `GROUPS`), or in a module that the running program has imported already. Anything
else is imported only with the user's consent, ``trust``.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.metadata import entry_points
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from xmodal.registry import renamed
from xmodal.registry.models import suggest

GROUPS = ("xmodal.foundation", "xmodal.plugins")
TRAINING = ("optimizer", "lr_scheduler")
PLAIN = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}
T = TypeVar("T")


@dataclass(frozen=True)
class Builder:
    """Builds sections ``{class_path, init_args}`` of one recipe.

    Args:
        origin: names the recipe in messages.
        trust: import any class that it names, and let its parts download their weights as it says.
        training: build the factories of optimizer and schedule, too; what is only used needs none.
    """

    origin: str
    trust: bool = False
    training: bool = False

    def kind(self, class_path: Any, expected: tuple[type, ...], place: str) -> type:
        """Return the class of this name; raises ValueError where it is not permitted, not there, or of another kind."""
        if not isinstance(class_path, str) or "." not in class_path:
            raise ValueError(f"{self.origin}: {place} names {str(class_path)[:80]!r}, but expected module.Class")
        found = _named(renamed.class_path(class_path), self.permits)
        if found is None:
            raise ValueError(
                f"{self.origin}: {place} names {class_path}, which is neither of xmodal nor of an installed plugin: to import "
                f"{class_path.rpartition('.')[0]}, which runs its code, give your consent with --trust (in Python trust=True)"
            )
        if not isinstance(found, type) or not issubclass(found, expected):
            kinds = " or ".join(each.__name__ for each in expected)
            what = f"a {found.__name__}" if isinstance(found, type) else "no class"
            raise ValueError(f"{self.origin}: {place} names {class_path}, which is {what}, but expected a {kinds}")
        return found

    def permits(self, module: str) -> bool:
        """Tell whether classes of this module may be named."""
        return self.trust or module in sys.modules or module.partition(".")[0] in roots()

    def build(self, section: Any, expected: type[T], place: str = "model", **given: Any) -> T:
        """Build a section, nested to any depth; ``given`` are arguments that take the place of the recipe's.

        Raises ValueError where the section does not fit, and what the class's constructor raises.
        """
        return self.factory(section, expected, place, **given)()

    def factory(self, section: Any, expected: type[T], place: str = "model", **given: Any) -> Callable[..., T]:
        """Return what makes the object of a section when it is called, with the recipe's options bound."""
        class_path, options = self._split(section, place)
        kind = self.kind(class_path, (expected,), place)
        return partial(kind, **self.options(kind, options, place, **given))

    def options(self, kind: type, options: Mapping[str, Any], place: str, **given: Any) -> dict[str, Any]:
        """Return constructor arguments as the class takes them: parts built, factories bound, plain values checked."""
        known = parameters(kind)
        made: dict[str, Any] = {}
        for name, value in renamed.options(options, known, kind.__name__).items():
            if name in given or (name in TRAINING and not self.training):
                continue
            if name not in known:
                raise ValueError(f"{self._misfit(kind)}: it has no option {name!r}, {suggest(name, known)}")
            if name in ("weights", "quantize", "compile") and not self.training:
                continue  # what the training began with, and how it saved memory and time
            if name == "local_files_only" and not self.trust:
                continue  # whoever wrote the recipe may not start a download here
            made[name] = self._value(value, known[name], f"{place}.{name}", kind)
        return made | given

    def _value(self, value: Any, hint: Any, place: str, owner: type) -> Any:
        kinds, is_factory = _wanted(hint)
        if isinstance(value, Mapping) and "class_path" in value or (isinstance(value, str) and kinds and not _plain(hint)):
            class_path, options = self._split(value, place)
            kind = self.kind(class_path, kinds or (types.NoneType,), place)
            bound = partial(kind, **self.options(kind, options, place))
            return bound if is_factory else bound()
        expected = PLAIN.get(hint)
        if expected and (not isinstance(value, expected) or (isinstance(value, bool) and hint is not bool)):
            raise ValueError(f"{self._misfit(owner)}: {place} is {value!r}, but expected {hint.__name__}")
        kinds_of = {get_origin(each) or each for each in _members(hint)}
        if isinstance(value, str) and Path in kinds_of and str not in kinds_of:
            return Path(value)
        return tuple(value) if isinstance(value, list) and tuple in kinds_of and list not in kinds_of else value

    def _split(self, section: Any, place: str) -> tuple[Any, Mapping[str, Any]]:
        if isinstance(section, str):
            return section, {}
        if not isinstance(section, Mapping) or "class_path" not in section:
            raise ValueError(f"{self.origin}: {place} holds no class_path")
        surplus = set(section) - {"class_path", "init_args"}
        options = section.get("init_args") or {}
        if surplus or not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
            raise ValueError(f"{self.origin}: {place} must hold class_path and init_args with named options, and nothing else")
        return section["class_path"], options

    def _misfit(self, kind: type) -> str:
        return f"{self.origin}: the recipe of {kind.__name__} does not fit this version of xmodal"


def kind_of(class_path: str, origin: str, trust: bool = False) -> type:
    """Return what says what an adapter of this task takes and makes: its pipeline, as the task's package names it, or the task.

    A package names the pipelines of its tasks by ``PIPELINES``, so that no trainer is imported for inference.
    """
    builder = Builder(origin, trust)
    module, _, task = renamed.class_path(class_path).rpartition(".")
    if builder.permits(module):
        package = _imported(module, class_path)
        named = getattr(package, "PIPELINES", {}).get(task)
        if named is not None:
            return getattr(package, named)
    from lightning.pytorch import LightningModule  # a trainer, where there is no other way to know

    return builder.kind(class_path, (LightningModule,), "model")


def by_todays_names(section: Any) -> Any:
    """Return a recipe's section, nested to any depth, with old names replaced: of our own classes, which are imported."""
    if isinstance(section, list):
        return [by_todays_names(each) for each in section]
    if not isinstance(section, Mapping):
        return section
    made = {key: by_todays_names(each) for key, each in section.items()}
    name, given = made.get("class_path"), made.get("init_args")
    if isinstance(name, str) and name.startswith("xmodal."):
        made["class_path"] = renamed.class_path(name)
        if isinstance(given, dict) and renamed.OPTIONS.keys() & given.keys() and (kind := _kind(made["class_path"])):
            made["init_args"] = renamed.options(given, parameters(kind), kind.__name__)
    return made


@cache
def roots() -> frozenset[str]:
    """Return the top-level packages whose classes a recipe may name: ours, and those of installed plugins."""
    plugins = {entry.module.partition(".")[0] for group in GROUPS for entry in entry_points(group=group)}
    return frozenset({"xmodal", *plugins})


def _named(class_path: str, permitted: Callable[[str], bool]) -> Any:
    """Return what a dotted name stands for: of a permitted module, and defined in a permitted one; None for any other."""
    module, _, name = class_path.rpartition(".")
    if not permitted(module):
        return None
    found = getattr(_imported(module, class_path), name, None)
    if found is None:
        raise ValueError(f"{module} has no class {name!r}: the recipe is of another version of it")
    return found if permitted(getattr(found, "__module__", None) or module) else None


def _imported(module: str, class_path: str) -> types.ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise ValueError(f"{class_path} cannot be imported ({error}): install or repair the package that it is of") from error


def parameters(kind: type) -> dict[str, Any]:
    """Return the types of a constructor's options by name; ``**options`` stand for those of the class above."""
    found: dict[str, Any] = {}
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        listed = list(signature(vars(base)["__init__"]).parameters.values())[1:]
        hints = _hints(base)
        named = (each for each in listed if each.kind not in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL))
        found = {**{each.name: hints.get(each.name, Any) for each in named}, **found}
        if not any(each.kind is Parameter.VAR_KEYWORD for each in listed):
            break
    return found


def late_parts(class_path: Any) -> frozenset[str]:
    """Return the options of a class that are ``Callable[[], ...]``; none for what is no class that can be imported here."""
    try:
        hints = parameters(_kind(class_path) or object)
    except (ValueError, TypeError):
        return frozenset()  # the command line says what is wrong with it
    return frozenset(
        option
        for option, hint in hints.items()
        if any(get_origin(each) is Callable and get_args(each)[:1] == ([],) for each in _members(hint))
    )


def _kind(class_path: Any) -> type | None:
    """Return the class of this name; None for what is none that can be imported: the command line says what is wrong with it."""
    module, _, name = str(class_path).rpartition(".")
    try:
        found = getattr(import_module(module), name, None)
    except (ImportError, ValueError):
        return None
    return found if isinstance(found, type) else None


def _hints(kind: type) -> dict[str, Any]:
    try:
        return get_type_hints(vars(kind)["__init__"])
    except NameError:  # an annotation that is imported for type checkers alone
        return {}


def _members(hint: Any) -> Iterator[Any]:
    if get_origin(hint) in (Union, types.UnionType):
        for each in get_args(hint):
            yield from _members(each)
    else:
        yield hint


def _wanted(hint: Any) -> tuple[tuple[type, ...], bool]:
    """Return the classes that an annotation asks for, and whether it asks for what makes them rather than for an instance."""
    kinds: list[type] = []
    is_factory = False
    for each in _members(hint):
        if get_origin(each) is not None and get_origin(each).__module__ == "collections.abc" and get_args(each):
            returned = get_args(each)[-1]
            if isinstance(returned, type) and get_origin(each) is Callable:
                kinds.append(returned)
                is_factory = True
        elif isinstance(each, type) and _is_module(each):
            kinds.append(each)
    return tuple(kinds), is_factory


def _is_module(kind: type) -> bool:
    """Tell whether a class is a network, without importing torch for it: where it is not imported, there are none."""
    torch = sys.modules.get("torch")
    return torch is not None and issubclass(kind, torch.nn.Module)


def _plain(hint: Any) -> bool:
    return any(each is str for each in _members(hint))
