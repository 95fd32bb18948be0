"""Commands that are killed leave nothing torn; the whole experiment is benchmarks/kills.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts the commands by fork: importing torch for each would take minutes")
def test_six_kills_leave_whole_files_and_the_same_ends(tmp_path: Path) -> None:
    results = tmp_path / "kills.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "kills.py"), "--kills", "6", "--only", "generate", "export"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run([*command, "--results", str(results)], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(results.read_text())
    assert {name: (found[name]["kills"], found[name]["verdict"]) for name in ("generate", "export")} == {
        "generate": (3, "whole"), "export": (3, "whole")
    }  # fmt: skip
