"""The README's commands work as printed, from an installed wheel: each line of a ```bash block that starts with `xmodal `."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xmodal.registry.recipes import files

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


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as pip installs it from a wheel, apart from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(_source(folder))], check=True
    )
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


def _source(folder: Path) -> Path:
    """A copy to build from, for building leaves files beside the source."""
    source = folder / "source"
    for name in ("xmodal", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    return source


def run(command: str, folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(site)
    words = ["bash", "-ec", command]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_it_is_the_wheel_that_runs(installed: Path, tmp_path: Path) -> None:
    code = "import xmodal, xmodal.registry.recipes as recipes; print(xmodal.__file__); print(recipes.folder())"
    found = run(f"python -c '{code}'; xmodal recipes show audiotoken+mini", tmp_path, installed).stdout.splitlines()
    assert Path(found[0]).is_relative_to(installed)
    assert Path(found[1]) == installed / "xmodal" / "recipes"
    assert "This is audiotoken+mini" in found[3]


@pytest.mark.slow
@pytest.mark.parametrize("story", stories(), ids=lambda story: story[-1])
def test_command(story: list[str], installed: Path, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for command in story:
        result = run(command, tmp_path, installed)
        assert result.returncode == 0, f"{command}\n{result.stderr}"


@pytest.mark.parametrize("command", [line for line in commands() if TOO_LONG.match(line)])
def test_recipes_of_long_commands_exist(command: str) -> None:
    for name in re.findall(r"--config (\S+)", command):
        assert files([name]), command
