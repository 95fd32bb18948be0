"""The commands of docs/*.md, from an installed wheel in a folder of its own: they work, or say in one sentence what they need.

Trainings and sets of 256 clips are shortened; what needs published weights, a data set or the network must say so.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forks import Forks
from tests.test_readme import ROOT, installed, run
from xmodal.miniature.render import render

__all__ = ["installed"]
SHORTER = (
    (r"^(xmodal fit \S+-mini\b.*)", r"\1 --data.train_count 64 --data.val_count 16"),
    (r"^(xmodal fit (?!--).*)", r"\1 --trainer.max_steps 4"),
    (r"^(xmodal predict outputs/.*)", r"\1 --model.num_inference_steps 2"),
    (r"^xmodal demo\b.*", "xmodal demo --help"),
    (r"--count 256", "--count 12"),
    (r"^(xmodal test --config \S+-mini\b.*)", r"\1 --data.val_count 4 --data.batch_size 4 --model.num_inference_steps 2"),
    (r"^(xmodal predict --config audiotoken-mini\b.*)", r"\1 --model.num_inference_steps 2"),
)
# What is not in this folder: weights, data sets, earlier runs, the network, another package.
ABSENT = re.compile(
    r"learned_embeds|v2a_mapper_mlps|pull |push |(--config |fit )(?!\S*mini\b)\w|acme-ear|BEATs_iter3|MANIFEST|compare |"
    r"--overlay first|answers/|outputs/audiotoken |--ckpt_path last|vggsound"
)


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [re.sub(r"\s+", " ", line) for line in lines if line.startswith("xmodal ")]


PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if commands(page)]


@pytest.fixture(scope="module")
def forks(installed: Path) -> Iterator[Forks]:
    """Runs the wheel's commands; README's are run in processes of their own (test_readme.py), these would take minutes so."""
    with Forks(PYTHONPATH=str(installed), HF_HUB_OFFLINE="1") as runner:
        yield runner


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a dozen commands, on a busy machine
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_their_order(page: Path, installed: Path, forks: Forks, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    render(tmp_path / "my clips", "train", 6)
    (tmp_path / "my clips" / "manifest.jsonl").unlink()
    for command in commands(page):
        for pattern, shorter in SHORTER:
            command = re.sub(pattern, shorter, command)
        shell = re.search(r"[|<>$*?~&;`]", command)
        done = run(command, tmp_path, installed) if shell else forks.run(shlex.split(command), tmp_path)
        if not ABSENT.search(command):
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            continue
        said = done.stderr.strip().splitlines()
        assert done.returncode in (1, 2), f"{command}\n{done.stdout}"
        assert said, command
        assert said[-1].startswith("xmodal"), f"{command}\n{done.stderr}"
        assert "Traceback" not in done.stderr, f"{command}\n{done.stderr}"
