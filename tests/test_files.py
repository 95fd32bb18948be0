"""Files that appear whole or not at all, whoever writes beside whom and whatever stops a writer."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from xmodal import files
from xmodal.files import clean_up, readable_as_new, write_beside
from xmodal.registry.checkpoint import write_folder


def test_many_threads_write_one_file(tmp_path: Path) -> None:
    target = tmp_path / "a [1] é.txt"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: write_beside(target, lambda path: path.write_text(str(number) * 1000)), range(200)))
    text = target.read_text()
    assert text == text[: len(text) // 1000] * 1000
    assert list(tmp_path.iterdir()) == [target]


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append((tmp_path / "a.txt").exists()))
    write_beside(tmp_path / "a.txt", lambda path: path.write_text("whole"))
    assert synced == [False, True]  # the file, then its folder


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def full(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    (tmp_path / "a.wav").write_bytes(b"old")
    with pytest.raises(OSError, match="No space left"):
        write_beside(tmp_path / "a.wav", full)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.wav", b"old")]


KILLED = """
import os, signal, sys
from pathlib import Path
from xmodal.files import write_beside
def write(path):
    path.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
write_beside(Path(sys.argv[1]), write)
"""


def test_what_a_killed_writer_left_goes_when_the_next_one_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a [x].wav")], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(files, "_visited", set())
    write_beside(tmp_path / "b.wav", lambda path: path.write_bytes(b"whole"))
    assert [path.name for path in tmp_path.iterdir()] == ["b.wav"]


def test_one_who_still_writes_is_spared(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_text("mine")
        assert clean_up(tmp_path) == 0

    write_beside(tmp_path / "a.txt", write)
    assert (tmp_path / "a.txt").read_text() == "mine"


def test_a_world_on_a_full_disk_leaves_no_half_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import soundfile

    from xmodal.miniature.render import render

    def full(file: Any, **options: Any) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(soundfile, "write", full)
    with pytest.raises(OSError, match="No space left"):
        render(tmp_path, count=1)
    assert not list(tmp_path.iterdir())


def test_modes_are_as_the_umask_says(tmp_path: Path) -> None:
    def private(path: Path) -> None:
        path.touch(mode=0o600)
        path.chmod(0o600)

    (tmp_path / "plain").touch()
    assert write_beside(tmp_path / "a", private).stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "folder").mkdir()
    private(tmp_path / "folder" / "weights")
    assert readable_as_new(tmp_path / "folder") == tmp_path / "folder"
    assert (tmp_path / "folder" / "weights").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["weights"]


def test_weights_are_as_readable_as_their_config(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", {"a": 1}, {"weight": torch.ones(2)})
    modes = {path.name: path.stat().st_mode for path in folder.iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]
