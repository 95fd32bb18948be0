"""Checkpoints are whole whatever stops the writer, and the newest whole one is gone on from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.tiny import RECIPE
from xmodal.commands.lightning import DurableCheckpoints
from xmodal.commands.runs import last_checkpoint


def test_a_checkpoint_is_made_beside_its_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "run" / "last.ckpt"
    DurableCheckpoints().save_checkpoint({"step": 1}, target)
    before, save = target.read_bytes(), torch.save

    def half(content: object, file: object) -> None:
        save(content, file)
        assert [path for path in target.parent.iterdir() if path.stat().st_size] != [target]
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        DurableCheckpoints().save_checkpoint({"step": 2}, target)
    assert target.read_bytes() == before
    assert list(target.parent.iterdir()) == [target]


def test_the_newest_whole_one_is_taken_and_the_torn_one_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, torn = tmp_path / "version_0" / "last.ckpt", tmp_path / "version_1" / "last.ckpt"
    for path in (whole, torn):
        DurableCheckpoints().save_checkpoint({"step": torch.arange(1000)}, path)
    torn.write_bytes(torn.read_bytes()[:-500])
    os.utime(whole, (1, 1))
    assert last_checkpoint(tmp_path) == str(whole)
    assert capsys.readouterr().err == f"xmodal: {torn} is not whole: going on from {whole}, the newest that is\n"
    whole.unlink()
    with pytest.raises(ValueError, match="version_1/last.ckpt is not whole, and there is no other"):
        last_checkpoint(tmp_path)


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_only_a_training_starts_anew_without_a_checkpoint(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from xmodal.__main__ import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    monkeypatch.setattr(
        "sys.argv", ["xmodal", command, "--config", "tiny.yaml", "--ckpt_path", "last", "--trainer.default_root_dir", "run"]
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()  # of a run that wrote no checkpoint
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert "there is no last.ckpt under run: train first" in capsys.readouterr().err
