"""Runs have folders of their own, and go on from their own checkpoints alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from tests.commands.test_lightning import xmodal
from tests.tiny import RECIPE
from xmodal.__main__ import main
from xmodal.commands.runs import differences, expanded, run_hash

CONFIG = {
    "seed_everything": 0,
    "model": {"class_path": "a.B", "init_args": {"width": 3, "predictions": "x"}},
    "data": {"class_path": "c.D", "init_args": {"manifest": "m.jsonl", "num_workers": 2}},
    "trainer": {"precision": "32-true", "devices": 1, "max_steps": 5, "default_root_dir": None},
}


def changed(place: str, value: object) -> dict[str, object]:
    config = yaml.safe_load(yaml.safe_dump(CONFIG))
    node = config
    *path, last = place.split(".")
    for key in path:
        node = node[key]
    node[last] = value
    return config


@pytest.mark.parametrize(
    ("place", "value", "same"),
    [
        ("model.init_args.width", 4, False),
        ("model.class_path", "a.C", False),
        ("seed_everything", 1, False),
        ("trainer.precision", "16-mixed", False),
        ("model.init_args.predictions", "y", True),
        ("data.init_args.num_workers", 0, True),
        ("trainer.devices", 2, True),
        ("trainer.max_steps", 9, True),
        ("trainer.default_root_dir", "z", True),
    ],
)
def test_what_is_in_the_hash(place: str, value: object, same: bool) -> None:
    assert (run_hash(changed(place, value)) == run_hash(CONFIG)) is same


def test_a_manifest_counts_by_its_content(tmp_path: Path) -> None:
    here, there = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    here.write_text("1")
    there.write_text("1")
    hashes = [run_hash(changed("data.init_args.manifest", str(path))) for path in (here, there)]
    assert hashes[0] == hashes[1]
    there.write_text("2")
    assert run_hash(changed("data.init_args.manifest", str(there))) != hashes[0]


def test_a_run_resumes_itself_only_and_its_folder_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    first = xmodal("fit", "--config", "tiny.yaml", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    (run,) = (tmp_path / "outputs" / "tiny").iterdir()
    assert {path.name for path in (run / "version_0").iterdir()} >= {"config.yaml", "metrics.csv", "checkpoints"}
    assert f"next: xmodal test {run.relative_to(tmp_path)}" in first.stderr
    other = xmodal("fit", "--config", "tiny.yaml", "--ckpt_path", "last", "--vars.lr", "0.3", cwd=tmp_path)
    assert other.returncode == 1
    assert "has not run with these options" in other.stderr
    assert "model.optimizer.lr" in other.stderr

    on = xmodal("fit", str(run), "--trainer.max_steps", "5", cwd=tmp_path)
    assert on.returncode == 0, on.stderr
    assert torch.load(run / "version_1" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5
    assert list((tmp_path / "outputs" / "tiny").iterdir()) == [run]
    assert differences(yaml.safe_load((run / "version_0" / "config.yaml").read_text()), run) == []


def test_words_of_a_run(tmp_path: Path) -> None:
    assert expanded(["fit", "--config", "a"]) == ["fit", "--config", "a"]
    assert expanded(["fit", "audiotoken+mini", "--x", "1"]) == ["fit", "--config", "audiotoken+mini", "--x", "1"]
    (tmp_path / "version_0").mkdir()
    config = tmp_path / "version_0" / "config.yaml"
    config.touch()
    run = str(tmp_path)
    assert expanded(["test", run, "--ckpt_path", "b"]) == [
        "test", "--config", str(config), "--trainer.default_root_dir", run, "--ckpt_path", "b",
    ]  # fmt: skip


def test_a_positional_word_that_is_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["xmodal", "fit", "audiotokn"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "did you mean 'audiotoken'" in capsys.readouterr().err
