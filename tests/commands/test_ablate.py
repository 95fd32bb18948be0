"""A grid is run once, whatever happens to it, and its table is what its runs' scores say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.commands.test_lightning import xmodal
from xmodal.__main__ import run
from xmodal.commands import ablate
from xmodal.evaluation import ablation

BASE = ["v2a-regression-mini", "v2a-diffusion-mini"]


class Trainer:
    """In place of the processes: counts what would run, and leaves scores that depend on row and seed."""

    def __init__(self) -> None:
        self.ran: list[list[str]] = []
        self.stop_at = 10**6

    def __call__(self, command: list[str], **_: Any) -> SimpleNamespace:
        words = command[3:]
        self.ran.append(words)
        folder = Path(words[words.index("--trainer.default_root_dir") + 1])
        if len(self.ran) >= self.stop_at:
            raise KeyboardInterrupt
        if words[0] == "test":
            seed, rate = int(words[words.index("--seed_everything") + 1]), "vars.lr" in str(words)
            score = {"CS": [0.5 + 0.1 * rate + 0.01 * seed, 0.4, 0.6], "unheard": [1.0, None, None]}
            (folder / "suite").mkdir()
            (folder / "suite" / "summary.json").write_text(json.dumps({"scores": {"made": score}}))
        return SimpleNamespace(returncode=0)


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    made = Trainer()
    monkeypatch.setattr(ablate.subprocess, "run", made)
    monkeypatch.setattr(ablate, "check", lambda *_: None)  # some of these weights are not here
    return made


def grid(output: Path, *words: str) -> None:
    run(["ablate", *words, "-o", str(output)])


def test_two_mappers_three_overlays_three_seeds_in_one_command(
    trainer: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid(tmp_path, "v2a-regression", "v2a-diffusion", "--overlay", "first,middle")
    assert len(trainer.ran) == 2 * 2 * 3 * 3
    told = capsys.readouterr()
    assert "[18/18]" in told.err
    assert told.out.splitlines()[-1] == str(tmp_path / "table.html")
    assert sum(line.startswith("v2a-") for line in told.out.splitlines()) == 6


def test_a_killed_grid_goes_on_and_a_second_one_reuses(trainer: Trainer, tmp_path: Path) -> None:
    for stop_at in (4, 9):
        trainer.stop_at = stop_at
        with pytest.raises(KeyboardInterrupt):
            grid(tmp_path, BASE[0], "--set", "vars.lr=1e-3,2e-3", "--seeds", "0", "1", "2")
    trainer.stop_at = 10**6
    grid(tmp_path, BASE[0], "--set", "vars.lr=1e-3,2e-3", "--seeds", "0", "1", "2")
    tests = [words for words in trainer.ran if words[0] == "test"]
    assert len({str(words) for words in tests}) == 6
    broken = (tmp_path / "table.json").read_bytes()
    before = len(trainer.ran)
    grid(tmp_path, BASE[0], "--set", "vars.lr=2e-3,4e-3", "--seeds", "2", "3")
    assert len(trainer.ran) - before == 2 * 3, "one of the four runs had been made"
    grid(tmp_path / "whole", BASE[0], "--set", "vars.lr=1e-3,2e-3", "--seeds", "0", "1", "2")
    assert (tmp_path / "whole" / "table.json").read_bytes() == broken


def test_what_a_run_is(tmp_path: Path) -> None:
    def name(*words: tuple[str, str], recipe: str = BASE[0], seed: int = 0) -> str:
        return ablate.identity(recipe, words, seed)

    same = name()
    assert name(("trainer.logger", "false")) == name(("trainer.devices", "2")) == name(("data.num_workers", "3")) == same
    others = [name(("vars.lr", "1e-5")), name(("trainer.max_steps", "7")), name(("vars.steps", "7")), name(seed=1)]
    others += [name(recipe=BASE[1]), name(recipe=f"{BASE[0]}+stereo"), same]
    assert len(set(others)) == len(others)
    clips = tmp_path / "clips.jsonl"
    clips.write_text('{"id": "a"}\n')
    one = name(("data.manifest", str(clips)), recipe="v2a-regression")
    clips.write_text('{"id": "b"}\n')
    assert name(("data.manifest", str(clips)), recipe="v2a-regression") != one


def test_rows_of_a_grid(tmp_path: Path) -> None:
    options = [("vars.lr", ["1", "2"]), ("vars.steps", ["3", "4"])]
    crossed = list(ablate.plan([BASE[0]], [["stereo"]], options, [0], [], tmp_path))
    single = list(ablate.plan([BASE[0]], [["stereo"]], options, [0], [], tmp_path, one_at_a_time=True))
    assert len(crossed) == 8
    assert [each.row.removeprefix(BASE[0]) for each in single] == [
        " vars.lr=1 vars.steps=3", " vars.lr=1 vars.steps=4", " vars.lr=2 vars.steps=3", "+stereo vars.lr=1 vars.steps=3",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="two rows of the grid are the same run"):
        list(ablate.plan([BASE[0], BASE[0]], [], [], [0], [], tmp_path))
    with pytest.raises(ValueError, match="no-such-overlay"):
        list(ablate.plan([BASE[0]], [["no-such-overlay"]], [], [0], [], tmp_path))
    with pytest.raises(ValueError, match="behind -- stand options"):
        list(ablate.plan([BASE[0]], [], [], [0], ["steps"], tmp_path))


def test_plans_commands_and_tables_run_nothing(trainer: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [BASE[0], "--set", "vars.lr=1e-3,2e-3", "--seeds", "0", "1"]
    grid(tmp_path, *words, "--dry-run")
    assert capsys.readouterr().out.count("left ") == 4
    run(["ablate", *words, "-o", str(tmp_path), "--print-commands", "--", "--vars.steps", "3"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all("xmodal fit --config" in line and "&&" in line and "xmodal test" in line for line in lines)
    grid(tmp_path, *words, "--table")
    assert f"missing: {BASE[0]} vars.lr=1e-3, seeds 0, 1" in capsys.readouterr().out
    assert trainer.ran == []


def test_a_failed_run_is_counted_and_the_others_go_on(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(command: list[str], **options: Any) -> SimpleNamespace:
        return SimpleNamespace(returncode=3) if command[command.index("--seed_everything") + 1] == "1" else trainer(command)

    monkeypatch.setattr(ablate.subprocess, "run", fail)
    with pytest.raises(ValueError, match=r"1 of 3 runs failed, first .*: fit ended with status 3, see .*fit.log"):
        grid(tmp_path, BASE[0], "--seeds", "0", "1", "2")
    assert f"missing: {BASE[0]}, seeds 1" in capsys.readouterr().out


def test_means_intervals_and_paired_differences() -> None:
    def scores(value: float) -> dict[str, Any]:
        return {"CS": [value, value - 1, value + 1]}

    found = {"base": {0: scores(1.0), 1: scores(2.0), 2: scores(3.0)}, "other <b>": {0: scores(2.0), 1: scores(3.5), 3: None}}
    table = ablation.tabulate(found)
    half = 4.302652729911275 / np.sqrt(3)  # t of 2 degrees of freedom; the standard deviation is 1
    mean = table.cells["base", "CS"]
    np.testing.assert_allclose((mean.mean, mean.low, mean.high, mean.count), (2, 2 - half, 2 + half, 3), rtol=1e-6)
    less = table.differences["other <b>", "CS"]
    np.testing.assert_allclose((less.mean, less.high, less.count), (1.25, 1.25 + 12.706204736432095 * 0.25, 2), rtol=1e-6)
    assert table.missing == {"other <b>": (3,)}
    assert "(Δ +1.25 [-1.93, +4.43])" in ablation.markdown(table)
    assert "other <b>" not in ablation.page(table)
    assert r"$\Delta$" in ablation.latex(table)
    alone = ablation.tabulate({"one": {0: scores(5.0)}}).cells["one", "CS"]
    assert (alone.low, alone.high) == (4.0, 6.0)


def test_missing_weights_are_named_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="xmodal pull"):
        grid(tmp_path / "out", "v2a-regression", BASE[0])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_grid_for_real(tmp_path: Path) -> None:
    small = ["--vars.steps", "2", "--data.train_count", "8", "--data.val_count", "2", "--data.batch_size", "2"]
    small += ["--model.num_inference_steps", "2", "--model.mapper_options.num_inference_steps", "2"]
    words = ["ablate", BASE[0], "--set", "vars.lr=1e-3,2e-3", "--seeds", "0", "--jobs", "2", "-o", "grid", "--", *small[:-2]]
    done = xmodal(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr + "".join(path.read_text() for path in tmp_path.glob("grid/runs/*/*.log"))
    assert "vars.lr=2e-3" in done.stdout
    first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("grid/runs/*/suite/summary.json")}
    assert len(first) == 2
    assert xmodal(*words, cwd=tmp_path).stdout == done.stdout
    assert {path: path.stat().st_mtime_ns for path in first} == first


@pytest.mark.slow
def test_submitit_runs_it_too(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    script = tmp_path / "grid.py"
    script.write_text(
        "import sys; sys.path[:0] = sys.argv[1:2]\n"
        "from tests.commands import test_ablate\nfrom xmodal.commands import ablate\n"
        "from pathlib import Path\nrun = ablate.Run('a', 0, ('--config', 'no-such-recipe'), Path('runs/a').absolute())\n"
        "print(ablate.execute([run], 1, 'submitit', {'cluster': ['local'], 'timeout_min': ['2']}, Path('out').absolute()))\n"
    )
    root = str(Path(__file__).parent.parent.parent)
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run([sys.executable, str(script), root], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "fit ended with status 2, see" in done.stdout, done.stdout + done.stderr
