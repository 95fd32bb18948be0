"""The README's commands work as printed: each line of a ```bash block that starts with `xmodal `."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Minutes to days of training: their recipes are parsed by test_recipes.py and run by nobody's test.
TOO_LONG = re.compile(r"^xmodal (fit|cache|ablate|demo)\b")


def commands() -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("xmodal ")]


def test_the_readme_shows_commands() -> None:
    assert commands()


@pytest.mark.slow
@pytest.mark.parametrize("command", [line for line in commands() if not TOO_LONG.match(line)])
def test_command(command: str) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        ["bash", "-ec", command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", [line for line in commands() if TOO_LONG.match(line)])
def test_files_of_long_commands_exist(command: str) -> None:
    for path in re.findall(r"--config (\S+)", command):
        assert (ROOT / path).is_file(), f"{command}: no {path}"
