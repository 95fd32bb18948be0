"""Numbers in documents are those of benchmarks/results; benchmarks/documents.py writes them."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from tests.scripts import script


@pytest.fixture(scope="module")
def documents() -> ModuleType:
    return script("benchmarks/documents.py")


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
    score, cell = {"value": 0.8594, "low": 0.81641, "high": 0.9023}, {"percent": 96.1, "interval": [93.0, 97.9]}
    assert documents.spoken(score, 1, 100) == "85.9 [81.6, 90.2]"
    assert documents.spoken(cell) == "96.1 [93.0, 97.9]"
    assert documents.bare(score, 3) == "0.859"
    assert documents.bare(cell, 3, 0.01) == "0.961"
    assert documents.apart(cell) == ("96.1", "93.0", "97.9")
