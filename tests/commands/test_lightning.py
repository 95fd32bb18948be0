"""The command as people run it: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import yaml

from tests.tiny import RECIPE
from xmodal.__main__ import main
from xmodal.task import Task

ROOT = Path(__file__).parent.parent.parent
HEAVY = "torch lightning transformers diffusers omegaconf jsonargparse numpy"
OVERLAY = """# Base: tiny.yaml
model:
  init_args:
    encoder: {class_path: tests.tiny.OtherEncoder, init_args: {dim: 5}}
"""


def xmodal(*words: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environment}
    command = [sys.executable, "-m", "xmodal", *words]
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=300, check=False)


def loaded_after(code: str) -> list[str]:
    probe = f"import sys\n{code}\nprint('\\n' + ' '.join(name for name in {HEAVY.split()!r} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT)
    return result.stdout.splitlines()[-1].split()


@pytest.mark.parametrize(
    "code",
    [
        "import xmodal",
        "import xmodal; xmodal.available()",
        "from xmodal.__main__ import run; run(['--help'])",
        "from xmodal.__main__ import run; run(['--version'])",
        "from xmodal.__main__ import run; run(['models', '--names'])",
        "from xmodal.__main__ import run; run(['recipes'])",
        "from xmodal.__main__ import run; run(['adapters'])",
    ],
)
def test_costs_no_heavy_import(code: str) -> None:
    assert loaded_after(code) == []


def test_reading_results_and_answers_costs_numpy_alone() -> None:
    assert loaded_after("import xmodal.evaluation.comparison, xmodal.evaluation.study, xmodal.commands.evaluate") == ["numpy"]


def test_help_names_every_command() -> None:
    from xmodal.__main__ import COMMANDS

    result = xmodal("--help")
    assert result.returncode == 0
    assert all(name in result.stdout for name in COMMANDS)


def only_line(result: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in result.stderr.splitlines() if not line.startswith("Seed set")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("xmodal: error: ")
    return lines[0]


def test_the_help_of_a_training_is_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    from xmodal.__main__ import run

    run(["fit", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 30
    assert max(map(len, lines)) <= 120
    assert any("--help-all" in line for line in lines)


def test_completion_knows_every_command_and_its_options() -> None:
    from xmodal.__main__ import COMMANDS
    from xmodal.commands.completion import whole

    (commands,) = (action for action in whole()._actions if action.dest == "==SUPPRESS==" and action.choices)
    assert commands.choices.keys() == COMMANDS.keys()
    for name in ("fit", "generate", "evaluate"):
        assert len(commands.choices[name]._actions) > 5, name
    assert "audiotoken-mini" in next(action.choices for action in commands.choices["fit"]._actions if action.dest == "recipe")


def test_unknown_command() -> None:
    result = xmodal("generat")
    assert result.returncode == 2
    assert "did you mean 'generate'?" in only_line(result)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["generate", "no-such.wav", "--to", "image"], "no-such.wav"),
        (["world", "--split", "tset", "-o", "outputs/none"], "tset"),
        (["world", "-n", "1", "-o", "/proc/none"], "error: /proc/none: No such file or directory"),
        (["study", "analyse", "no-such", "a.csv"], "there is no study in no-such: give the folder that"),
        (["compare", "no-such", "other"], "no-such holds no results: give what"),
    ],
)
def test_errors_are_one_line(words: list[str], expected: str) -> None:
    result = xmodal(*words)
    assert result.returncode == 1
    assert expected in only_line(result)


def test_debug_shows_the_traceback() -> None:
    assert "Traceback" in xmodal("generate", "no-such.wav", "--to", "image", XMODAL_DEBUG="1").stderr


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m xmodal recipes | head -n 1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.stderr == ""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    (tmp_path / "over.yaml").write_text(OVERLAY)
    return tmp_path


@pytest.mark.parametrize(
    ("change", "words", "expected"),
    [
        (("dim: 4", "dimm: 4"), [], "Option 'dimm' is not accepted: did you mean 'dim'?"),
        (("TinyEncoder", "TinyEncodr"), [], "TinyEncodr"),
        (("tests.tiny.TinyEncoder", "tests.tiny.TinyAdapter"), [], "not correspond to a subclass of Encoder"),
        (("vars.lr", "vars.rate"), [], "vars.rate"),
        (("", ""), ["--trainer.max_step", "3"], "did you mean 'trainer.max_steps'?"),
        (("max_steps:", "max_stps:"), [], "'trainer.max_stps': did you mean 'trainer.max_steps'?"),
    ],
)
def test_bad_recipes(
    recipe: Path,
    change: tuple[str, str],
    words: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # In this process: nothing is built before the recipe fits, and lightning takes seconds to import.
    (recipe / "tiny.yaml").write_text(RECIPE.replace(*change))
    monkeypatch.setattr("sys.argv", ["xmodal", "fit", "--config", str(recipe / "tiny.yaml"), *words])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("xmodal: error: ")
    assert expected in line


def test_fit_resume_and_overlay(recipe: Path) -> None:
    first = xmodal("fit", "--config", "tiny.yaml", cwd=recipe)
    assert first.returncode == 0, first.stderr
    (last,) = recipe.glob("outputs/tiny/**/last.ckpt")
    checkpoint = torch.load(last, weights_only=True)
    assert set(checkpoint["state_dict"]) == {"adapter.linear.weight", "adapter.linear.bias"}
    section = yaml.safe_load(checkpoint["recipe"])
    assert section["init_args"]["optimizer"]["init_args"]["lr"] == 0.1
    assert type(Task.from_checkpoint(last)).__name__ == "TinyTask"

    resumed = xmodal("fit", "--config", "tiny.yaml", "--ckpt_path", "last", "--vars.steps", "5", cwd=recipe)
    assert resumed.returncode == 0, resumed.stderr
    newest = max(recipe.glob("outputs/tiny/**/last.ckpt"), key=lambda path: path.stat().st_mtime)
    assert torch.load(newest, weights_only=True)["global_step"] == 5

    swapped = xmodal("fit", "--config", "tiny.yaml", "--config", "over.yaml", "--vars.lr", "0.3", cwd=recipe)
    assert swapped.returncode == 0, swapped.stderr
    (last,) = recipe.glob("outputs/tiny+over/**/last.ckpt")
    section = yaml.safe_load(torch.load(last, weights_only=True)["recipe"])
    assert section["init_args"]["encoder"]["class_path"] == "tests.tiny.OtherEncoder"
    assert section["init_args"]["optimizer"]["init_args"]["lr"] == 0.3


def test_nothing_to_resume(recipe: Path) -> None:
    result = xmodal("fit", "--config", "tiny.yaml", "--ckpt_path", "last", cwd=recipe)
    assert result.returncode == 1
    assert "no last.ckpt" in only_line(result)


def test_a_run_killed_within_an_epoch_goes_on(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xmodal.commands import lightning as cli

    monkeypatch.chdir(recipe)
    monkeypatch.setattr(cli, "MINUTE", timedelta(0))
    monkeypatch.setattr("sys.argv", ["xmodal", "fit", "--config", "tiny.yaml"])
    main()
    kept = next(recipe.glob("outputs/tiny/**/last-minute.ckpt"))
    for other in recipe.glob("outputs/tiny/**/*.ckpt"):
        if other != kept:
            other.unlink()  # as if the epoch had not ended
    resumed = xmodal("fit", "--config", "tiny.yaml", "--ckpt_path", "last", "--vars.steps", "5", cwd=recipe)
    assert resumed.returncode == 0, resumed.stderr
    (newest,) = recipe.glob("outputs/tiny/**/last.ckpt")
    assert torch.load(newest, weights_only=True)["global_step"] == 5


def test_the_last_checkpoint_is_the_end_of_training(recipe: Path) -> None:
    words = ["--vars.steps", "5", "--trainer.val_check_interval", "3", "--trainer.check_val_every_n_epoch", "null"]
    result = xmodal("fit", "--config", "tiny.yaml", *words, cwd=recipe)
    assert result.returncode == 0, result.stderr
    (last,) = recipe.glob("outputs/tiny/**/last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 5


def test_a_run_killed_before_its_first_checkpoint_starts_anew(recipe: Path) -> None:
    run = xmodal("fit", "--config", "tiny.yaml", "--vars.steps", "1", cwd=recipe)
    assert run.returncode == 0, run.stderr
    for path in recipe.glob("outputs/tiny/*/**/*.ckpt"):
        path.unlink()
    result = xmodal("fit", "--config", "tiny.yaml", "--ckpt_path", "last", cwd=recipe)
    assert result.returncode == 0, result.stderr
    assert "starting anew" in result.stderr


def test_world(tmp_path: Path) -> None:
    result = xmodal("world", "-n", "2", "-o", str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert len(list(tmp_path.glob("*.wav"))) == len(list(tmp_path.glob("*.png"))) == 2
