"""A foundation model's file, read without running it: its cards, its towers, what else it offers.

Listing the models must not import torch, so the file's source is parsed, and of its top level only the statements that
``CARDS`` needs are executed. Files that do more for their cards than literals, small functions and the standard library
can do (third parties') are imported after all.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from xmodal.registry import cards as cards_of
from xmodal.registry.cards import Card

NOT_CONTRACTS = {"Adapter", "Card", "find_card"}  # of what the contracts' file offers
GENERIC = ("Frozen", "Encoder", "Classifier")  # said only where nothing more special is
CONTRACT_HOMES = ("xmodal.foundation.base", "xmodal.frozen")
# Where a model's file may take Card from; each gives what the file without torch defines.
CARD_HOMES = ("xmodal.foundation.base", "xmodal.registry.cards")


@dataclass(frozen=True)
class Tower:
    """A frozen class of a model's file: the contract that it fulfils, and the card that it takes by default."""

    contract: str
    card: str | None


@dataclass(frozen=True)
class Listing:
    """What a model's file holds."""

    model: str
    module: str
    cards: Mapping[str, Card]
    towers: Mapping[str, Tower]
    functions: frozenset[str] = field(default_factory=frozenset)


class Unreadable(Exception):
    """The file does something for its cards that cannot be done without importing it."""


@cache
def read(model: str, module: str) -> Listing:
    """Return what the module of a model holds; raises ValueError that names the file where it is broken."""
    try:
        source = _source(module)
        cards, towers = source.value("CARDS") if "CARDS" in source.names else {}, dict(source.towers())
        if not (isinstance(cards, Mapping) and towers and all(isinstance(each, Card) for each in cards.values())):
            raise Unreadable
        return Listing(model, module, cards, towers, frozenset(source.functions()))
    except Unreadable:
        return _imported(model, module)


def _imported(model: str, module: str) -> Listing:
    found = import_module(module)
    functions = {name for name, value in vars(found).items() if callable(value) and not isinstance(value, type)}
    towers = {name: Tower(_contract(kind), _default(kind)) for name, kind in frozen_classes(found).items()}
    return Listing(model, module, getattr(found, "CARDS", {}), towers, frozenset(functions))


def frozen_classes(module: ModuleType) -> dict[str, type]:
    """Return the frozen classes that an imported file defines itself, in the order of the file, by class name."""
    from xmodal.frozen import Frozen

    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Frozen) and value.__module__ == module.__name__ and name[0] != "_"
    }


def _contract(kind: type) -> str:
    return next(base.__name__ for base in kind.__mro__ if base.__module__ in CONTRACT_HOMES)


def _default(kind: type) -> str | None:
    from inspect import signature

    option = signature(kind).parameters.get("card")
    return option.default if option is not None and isinstance(option.default, str) else None


@cache
def contracts() -> frozenset[str]:
    """Return the names of the contracts: what their file offers, without the rest of it."""
    return frozenset({"Frozen", *_source("xmodal.foundation.base").value("__all__")} - NOT_CONTRACTS)


@cache
def _source(module: str) -> Source:
    return Source(module)


class Source:
    """The top level of one Python file, by the names that its statements bind."""

    def __init__(self, module: str) -> None:
        self.module = module
        path = _path(module)
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as Python ({error}): repair or remove it") from error
        self.path, self.statements = path, tree.body
        self.names: dict[str, list[ast.stmt]] = {}
        for statement in tree.body:
            for name in _bound(statement):
                self.names.setdefault(name, []).append(statement)

    def functions(self) -> Iterator[str]:
        """Yield the names of the functions."""
        yield from (statement.name for statement in self.statements if isinstance(statement, ast.FunctionDef))

    def value(self, name: str) -> Any:
        """Execute what ``name`` needs and return it; raises Unreadable, or ValueError where the statements fail."""
        space: dict[str, Any] = {"__name__": self.module, "__file__": str(self.path)}
        names, needed = self._needed(name)
        for statement in needed:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                self._import(statement, names, space)
        body = [statement for statement in needed if not isinstance(statement, ast.Import | ast.ImportFrom)]
        code = compile(ast.Module(body, []), str(self.path), "exec")  # as this file: annotations are not evaluated
        try:
            exec(code, space)
        except Exception as error:
            raise ValueError(f"{self.path} cannot say its cards ({type(error).__name__}: {error}): repair {name}") from error
        return space[name]

    def _needed(self, name: str) -> tuple[set[str], list[ast.stmt]]:
        """The names that a name rests on, and the statements that bind them, in the file's order."""
        waiting, seen, needed = [name], {name}, set()
        while waiting:
            for statement in self.names.get(waiting.pop(), ()):
                needed.add(statement)
                new = {used for used in _used(statement) if used in self.names} - seen
                seen |= new
                waiting += new
        return seen, [statement for statement in self.statements if statement in needed]

    def _import(self, statement: ast.Import | ast.ImportFrom, names: set[str], space: dict[str, Any]) -> None:
        for alias in statement.names:
            own = _own_name(statement, alias)
            if own not in names:
                continue
            if isinstance(statement, ast.Import):
                import_module(_light(alias.name))
                space[own] = sys.modules[alias.name if alias.asname else own]
            elif statement.module in CARD_HOMES and hasattr(cards_of, alias.name):
                space[own] = getattr(cards_of, alias.name)
            elif (statement.module or "").startswith("xmodal.foundation."):
                space[own] = _source(statement.module or "").value(alias.name)
            else:
                space[own] = getattr(import_module(_light(statement.module or ".")), alias.name)

    def towers(self) -> Iterator[tuple[str, Tower]]:
        """Yield the public classes that fulfil a contract."""
        for statement in self.statements:
            if isinstance(statement, ast.ClassDef) and statement.name[0] != "_":
                contract = self.contract(statement.name)
                if contract is not None:
                    yield statement.name, Tower(contract, self._card(statement.name))

    def contract(self, name: str) -> str | None:
        """Return the most specific contract that a class fulfils; None for a class of another kind."""
        for found in self._bases(name):
            if isinstance(found, str):
                return found
        return None

    def _bases(self, name: str) -> Iterator[str | ast.ClassDef]:
        """Yield a class, the classes of this file above it, and the contracts: the most specific of those first."""
        found: list[str] = []
        for statement in self.names.get(name, ()):
            if isinstance(statement, ast.ClassDef):
                yield statement
                for base in statement.bases:
                    for one in self._bases(ast.unparse(base)):
                        if isinstance(one, str):
                            found.append(one)
                        else:
                            yield one
            elif isinstance(statement, ast.ImportFrom):
                original = next((each.name for each in statement.names if (each.asname or each.name) == name), name)
                if statement.module in CONTRACT_HOMES and original in contracts():
                    found.append(original)
                elif (statement.module or "").startswith("xmodal.foundation.") and statement.module not in CARD_HOMES:
                    yield from _source(statement.module or "")._bases(original)
        yield from sorted(found, key=lambda contract: contract in GENERIC)

    def _card(self, name: str) -> str | None:
        """Return the default of the constructor's ``card``."""
        for kind in self._bases(name):
            for method in kind.body if isinstance(kind, ast.ClassDef) else ():
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    return _default_of(method, "card")
        return None


def _default_of(method: ast.FunctionDef, option: str) -> str | None:
    named = method.args.args[len(method.args.args) - len(method.args.defaults) :]
    pairs = [*zip(named, method.args.defaults), *zip(method.args.kwonlyargs, method.args.kw_defaults)]
    values = [value.value for argument, value in pairs if argument.arg == option and isinstance(value, ast.Constant)]
    return values[0] if values and isinstance(values[0], str) else None


def _path(module: str) -> Path:
    parts = module.split(".")
    own = Path(__file__).parent.parent.joinpath(*parts[1:]).with_suffix(".py") if parts[0] == "xmodal" else None
    if own is not None and own.is_file():
        return own
    try:
        found = find_spec(module)
    except ImportError as error:
        raise ValueError(f"the module {module} of a foundation model is not installed ({error})") from error
    if found is None or not found.origin or not found.origin.endswith(".py"):
        raise Unreadable
    return Path(found.origin)


def _light(module: str) -> str:
    if module.partition(".")[0] not in sys.stdlib_module_names:
        raise Unreadable
    return module


def _own_name(statement: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
    return alias.asname or (alias.name if isinstance(statement, ast.ImportFrom) else alias.name.partition(".")[0])


def _bound(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that a top-level statement binds, or changes (``CARDS["a"] = ...``, ``CARDS.update(...)``)."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        yield from (_own_name(statement, alias) for alias in statement.names)
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        changed = statement.value.func
        if isinstance(changed, ast.Attribute) and isinstance(changed.value, ast.Name):
            yield changed.value.id
    else:
        for node in ast.walk(statement):
            target = node.value if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) else node
            stored = target is not node or isinstance(getattr(node, "ctx", None), ast.Store)
            if isinstance(target, ast.Name) and stored:
                yield target.id


def _used(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement reads; annotations are not evaluated."""
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns"):
                continue
            waiting += [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, ast.AST)]
