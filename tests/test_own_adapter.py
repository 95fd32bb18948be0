"""An adapter class of the user's own, from training to the hub and back, by the commands and with consent."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub import TOKEN, serving
from xmodal.miniature.render import render

ROOT = Path(__file__).parent.parent
MINE = '''
import torch
from torch.nn import functional as F
from xmodal.vision2audio import Mapper

class Tiny(Mapper):
    """A mapper of one's own, with an option of its own."""

    def __init__(self, in_dim: int, out_dim: int, hidden: int = 8) -> None:
        super().__init__(in_dim, out_dim)
        self.net = torch.nn.Sequential(torch.nn.Linear(in_dim, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, out_dim))

    def loss(self, source, target):
        return 1 - F.cosine_similarity(self.net(self.prepare(source)), target.float()).mean()

    def sample(self, source, generator=None, **options):
        return F.normalize(self.net(self.prepare(source)), dim=-1)
'''
COMMANDS = """
import sys
from xmodal.__main__ import run
for words in sys.stdin.read().splitlines():
    run(words.split("|"))
"""
LOAD = "import torch, xmodal; pipe = xmodal.pipeline('ann/tiny', revision='main'{}); print(pipe.encode('dog.png').tolist())"


def python(code: str, folder: Path, given: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", **environment}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, input=given, cwd=folder, env=surroundings, text=True, capture_output=True, timeout=900)


@pytest.mark.slow
def test_from_training_to_the_hub_and_back(tmp_path: Path) -> None:
    mine, others = tmp_path / "mine", tmp_path / "others"
    for folder in (mine, others):
        folder.mkdir()
        (folder / "dog.png").symlink_to(ROOT / "examples" / "pictures" / "dog.png")
    (mine / "tiny_of_the_story.py").write_text(MINE)
    render(mine / "clips", "test", 4)
    pictures = [f"clips/{path.name}" for path in sorted((mine / "clips").glob("*.png"))]
    short = ["--trainer.max_steps=2", "--vars.steps=2", "--data.train_count=8", "--data.val_count=4", "--data.batch_size=4"]
    fit = ["fit", "--config", "v2a-regression-mini", "--model.adapter=tiny_of_the_story.Tiny", "--model.adapter.hidden=6", *short]
    with serving() as hub:
        told = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        told["HF_HUB_CACHE"] = str(tmp_path / "cache")
        story = [
            [*fit, "--trainer.default_root_dir=run"],
            ["export", "run", "-o", "tiny", "--trust"],
            ["generate", *pictures, "--to", "audio", "--adapter", "tiny", "-o", "made", "--steps", "2", "--trust"],
            [
                "evaluate",
                "--suite",
                "vision2audio",
                "--fake",
                "made",
                "--real",
                "clips/manifest.jsonl",
                "-o",
                "judged",
                "--draws",
                "0",
            ],
            ["push", "run", "ann/tiny", "--private", "--results", "judged"],
        ]
        done = python(COMMANDS, mine, "\n".join("|".join(words) for words in story), **told)
        assert done.returncode == 0, done.stderr[-2000:]
        assert len(list((mine / "made").glob("*.wav"))) == 4
        card = hub.files("ann/tiny")["README.md"].decode()
        for said in (
            "steps 2",
            "seed 0",
            "train_count: 8",
            "tiny_of_the_story",
            'xmodal.pipeline("ann/tiny", trust=True)',
            "| KAD |",
        ):
            assert said in card, card
        place = json.loads((mine / "judged" / "summary.json").read_text())
        assert f"| KAD | {place['scores']['made']['KAD'][0]:.4g} |" in card

        own = python(
            LOAD.format(", trust=True").replace("'ann/tiny', revision='main'", "'tiny'"),
            mine,
            PYTHONPATH=f"{ROOT}{os.pathsep}{mine}",
        )
        assert own.returncode == 0, own.stderr
        stranger = python(LOAD.format(""), others, **told)
        last = stranger.stderr.strip().splitlines()[-1]
        assert re.search(
            r"adapter names tiny_of_the_story.Tiny, .*to import tiny_of_the_story, which runs its code, .*trust=True", last
        )
        (others / "tiny_of_the_story.py").write_text(MINE)
        told["PYTHONPATH"] = f"{ROOT}{os.pathsep}{others}"
        again = python(LOAD.format(", trust=True"), others, **told)
        assert again.returncode == 0, again.stderr
        assert again.stdout == own.stdout
