"""What the design page promises is counted: how many files a new thing touches, how few modules the root has, and no circles."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_layers import FILES, ROOT, imports
from xmodal.__main__ import COMMANDS
from xmodal.data.sets import kinds
from xmodal.evaluation.measures import ROWS
from xmodal.registry import models

CODE = {path: path.read_text() for path in FILES}


def named(pattern: str) -> set[str]:
    """Files of the package whose code, not its prose, matches."""
    return {str(path.relative_to(ROOT)) for path, text in CODE.items() if re.search(pattern, text, re.MULTILINE)}


def test_the_root_has_eight_modules() -> None:
    assert sorted(path.name for path in ROOT.glob("*.py")) == [
        "__init__.py", "__main__.py", "adapter_task.py", "files.py", "frozen.py", "pipelines.py", "routes.py", "task.py",
    ]  # fmt: skip


def module(path: Path) -> str:
    return ".".join(("xmodal", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def test_no_circle_of_files() -> None:
    names = {module(path): path for path in FILES}
    arrows: dict[str, set[str]] = {}
    for name, path in names.items():
        found = {each if each in names else each.rpartition(".")[0] for each in imports(ast.parse(CODE[path]), str(path))}
        arrows[name] = (found & names.keys()) - {name}

    def reached(start: str) -> Iterator[str]:
        waiting, seen = [*arrows[start]], set()
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                yield name
                waiting += arrows[name]

    assert [name for name in names if name in reached(name)] == []


@pytest.mark.parametrize("name", models.available())
def test_a_model_is_one_file(name: str) -> None:
    # Others may use a model as a part of theirs (a vocoder in AudioLDM), but no list names it.
    lists = named(rf"""^ *["']{name}["'](:| *,)""")
    assert {path for path in lists if not path.startswith("foundation/")} == set()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_metric_is_its_file_and_its_row(row: object) -> None:
    name = row.name  # type: ignore[attr-defined]
    found = named(rf"""["']{re.escape(name)}["']""")
    judging = {path for path in found if path.partition("/")[0] in ("evaluation", "commands")}
    assert judging == {"evaluation/measures.py"}


@pytest.mark.parametrize("kind", kinds())
def test_a_data_set_is_one_file(kind: str) -> None:
    assert (ROOT / "data" / "sets" / f"{kind.replace('-', '_')}.py").is_file()
    listed = named(rf"""^ *["']{kind}["'](:| *,)""")
    assert listed == set()


def test_a_command_is_its_file_and_its_row() -> None:
    for name, (home, _) in COMMANDS.items():
        file, _, function = home.partition(":")
        assert named(rf"^def {function}\(") & {f"commands/{file}.py"}, name
    rows = re.findall(r'"\w+": \("\w+:\w+",', CODE[ROOT / "__main__.py"])
    assert len(rows) + 4 >= len(COMMANDS)  # fit, validate, test and predict share a row


def test_no_file_outside_names_a_task() -> None:
    tasks = r"^(from|import) xmodal\.(audio2image|vision2audio|text2audio)|[\"'](audio2image|vision2audio|text2audio)[\"']"
    assert {path for path in named(tasks) if path.split("/")[0] not in ("audio2image", "vision2audio", "text2audio")} <= {
        "evaluation/__init__.py"  # the suites' own names
    }
