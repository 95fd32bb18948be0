"""Numbers in documents are those of benchmarks/results; benchmarks/documents.py writes them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def documents() -> ModuleType:
    spec = importlib.util.spec_from_file_location("documents", ROOT / "benchmarks" / "documents.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_documents_say_what_the_results_say(
    documents: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["documents.py", "--check"])
    with pytest.raises(SystemExit) as ended:
        documents.main()
    assert ended.value.code == 0, capsys.readouterr().out


def test_only_the_values_change(documents: ModuleType) -> None:
    table = "| row | thing |\n|---|---|\n| mapper | 80.0 [70.0, 90.0] |\n"
    text = f"# Sounds\n\n{table}\nIt names\n80.0 [70.0,\n90.0] percent of them.\n"
    row = documents.gaps("x.md", "mapper", ["85.9 [81.6, 90.2]"])
    assert documents.told(text, row) == text.replace("mapper | 80.0 [70.0, 90.0]", "mapper | 85.9 [81.6, 90.2]")
    prose = documents.Place("x.md", "It names {} percent of", ("85.9 [81.6, 90.2]",))
    assert documents.told(text, prose) == text.replace("80.0 [70.0,\n90.0]", "85.9 [81.6, 90.2]")
    same = documents.Place("x.md", "It names {} percent of", ("80.0 [70.0, 90.0]",))
    assert documents.told(text, same) == text  # the line's end in it may stay


@pytest.mark.parametrize("text", ["nothing of the kind", "it is 5 percent, it is 6 percent,"])
def test_a_place_that_is_not_there_once(documents: ModuleType, text: str) -> None:
    with pytest.raises(ValueError, match=r"x\.md has [02] places like 'it is \{\} percent,'"):
        documents.told(text, documents.Place("x.md", "it is {} percent,", ("7",)))


def test_values_as_they_are_written(documents: ModuleType) -> None:
    assert documents.spoken({"value": 0.8594, "low": 0.81641, "high": 0.9023}, 1, 100) == "85.9 [81.6, 90.2]"
    assert documents.spoken({"percent": 96.1, "interval": [93.0, 97.9]}, 1) == "96.1 [93.0, 97.9]"
    assert documents.spoken({"value": 4.66, "low": 4, "high": 5}, 1, 1, False) == "4.7"
