"""The notebook runs: its code, cell by cell, in one namespace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parent.parent / "examples" / "notebook.ipynb"


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    content = json.loads(NOTEBOOK.read_text())
    known: dict[str, Any] = {}
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]  # numbers of a machine are not kept
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}: {cell['id']}", "exec"), known)
    said = capsys.readouterr().out
    assert "Data: 64 clips of the miniature world" in said
    assert "16 made, 16 real" in said
    assert known["scores"]["regression"] > 0.3  # of pairs that it never saw; strangers agree by about 0
    assert known["sounds"].audios.shape == (16, 40_000)
