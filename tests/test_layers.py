"""Who may import whom, and how large things may grow (DESIGN, section 2)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "xmodal"
FILES = sorted(ROOT.rglob("*.py"))
MODALITIES = ("audio2image", "vision2audio", "text2audio")
# First part of a module's name below xmodal -> what it may import of xmodal. A name allows all that lies below it.
ALLOWED: dict[str, set[str]] = {
    "files": set(),
    "frozen": set(),
    "diffusion": {"diffusion"},
    "registry": {"registry", "files", "frozen"},
    "foundation": {"foundation", "frozen", "diffusion", "registry.cards", "registry.checkpoint"},
    "data": {"data", "files", "frozen"},
    "metrics": {"metrics", "files", "foundation.base"},
    "pipelines": {"registry", "data", "frozen"},
    "task": {"frozen", "pipelines", "registry"},
    "adapter_task": {"task", "frozen", "pipelines", "registry", "files", "foundation.base"},
    **{
        name: {name, "adapter_task", "pipelines", "frozen", "files", "diffusion", "data", "metrics"}
        | {"foundation.base", "foundation.lora", "foundation.mel", "registry.checkpoint", "registry.lazy"}
        for name in MODALITIES
    },
    "routes": {"pipelines", "adapter_task", "registry"},
    "evaluation": {"evaluation", "metrics", "data", "files", "registry", "task", "foundation.base"},
    "miniature": {"miniature", "foundation", "task", "frozen", "files", "data", "diffusion", "metrics"}
    | {"registry.adapters", "registry.checkpoint", "registry.lazy"},
    "commands": {
        "",
        "__main__",
        "commands",
        "routes",
        "adapter_task",
        "task",
        "registry",
        "data",
        "files",
        "evaluation",
        "miniature",
        "foundation.memory",
        "frozen",
        "verification",
        "demo",
    },
    "verification": {"verification", "registry", "files", "foundation", "data"},
    "demo": {"demo", "commands.generate", "commands.terminal", "routes", "registry", "data", "files", "evaluation", "miniature"},
    "__init__": {"registry", "routes"},
    "__main__": {"", "commands"},
}


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Full names of all that a file imports of xmodal, at the top and inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "xmodal")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {package}"
            if (node.module or "").split(".")[0] == "xmodal":
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def permitted(name: str, allowed: set[str]) -> bool:
    target = name.removeprefix("xmodal").removeprefix(".")
    return any(target == rule or (rule and target.startswith(rule + ".")) for rule in allowed) or ("" in allowed and not target)


def area(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_import_direction(path: Path) -> None:
    assert area(path) in ALLOWED, f"{path} belongs to no layer: add it to DESIGN and to this test"
    found = set(imports(ast.parse(path.read_text()), str(path)))
    assert not {name for name in found if not permitted(name, ALLOWED[area(path)])}


def test_the_rule_catches_a_breach() -> None:
    tree = ast.parse("def f():\n    from xmodal.foundation.beats import BEATs\n    import xmodal.miniature.world")
    found = list(imports(tree, ""))
    assert found == ["xmodal.foundation.beats.BEATs", "xmodal.miniature.world"]
    assert not any(permitted(name, ALLOWED["audio2image"]) for name in found)
    assert permitted("xmodal.foundation.base.Adapter", ALLOWED["audio2image"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_size_budget(path: Path) -> None:
    text = path.read_text()
    # One file per model holds its whole architecture.
    assert len(text.splitlines()) <= (500 if area(path) == "foundation" else 400)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1 - len((ast.get_docstring(node, clean=False) or "").splitlines())
            assert lines <= 60, f"{node.name} has {lines} lines"


def test_no_assert_in_the_package() -> None:
    assert [str(p) for p in FILES if any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(p.read_text())))] == []


def test_no_circle_of_files_in_evaluation() -> None:
    """Imports for types count, too."""
    folder = ROOT / "evaluation"
    arrows = {}
    for path in folder.glob("*.py"):
        found = {name.split(".")[2] for name in imports(ast.parse(path.read_text()), "") if name.startswith("xmodal.evaluation.")}
        arrows[path.stem] = {name for name in found if (folder / f"{name}.py").is_file()}
    while leaves := [name for name, targets in arrows.items() if not targets & arrows.keys()]:
        for name in leaves:
            del arrows[name]
    assert arrows == {}


def test_tasks_are_named_by_their_suites_alone() -> None:
    """Outside its own package a task is named where the suites are, and nowhere else in the evaluation."""
    named = [
        path.name
        for path in (ROOT / "evaluation").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in MODALITIES
    ]
    assert set(named) == {"__init__.py"}
