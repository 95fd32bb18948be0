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


def stories() -> list[list[str]]:
    """The commands that can be run: one by one, and those on the files of outputs/ in their order, for each uses the last's."""
    found = [line for line in commands() if not TOO_LONG.match(line)]
    chain = [line for line in found if "outputs/" in line]
    return [[line] for line in found if line not in chain] + [chain]


@pytest.mark.slow
@pytest.mark.parametrize("story", stories(), ids=lambda story: story[-1])
def test_command(story: list[str], tmp_path: Path) -> None:
    for name in ("examples", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(ROOT)  # a console script does not look in the current folder
    for command in story:
        result = subprocess.run(
            ["bash", "-ec", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert result.returncode == 0, f"{command}\n{result.stderr}"


@pytest.mark.parametrize("command", [line for line in commands() if TOO_LONG.match(line)])
def test_files_of_long_commands_exist(command: str) -> None:
    for path in re.findall(r"--config (\S+)", command):
        assert (ROOT / path).is_file(), f"{command}: no {path}"
