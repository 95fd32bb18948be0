"""Manifests: rows, splits, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from xmodal.data.image import load_image
from xmodal.data.manifest import read_manifest
from xmodal.data.window import window


def write(folder: Path, *rows: object) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_rows_and_splits(tmp_path: Path) -> None:
    path = write(tmp_path, {"id": "a", "audio": "a.wav", "split": "train"}, "", {"id": "b", "start": 1.5, "duration": 2})
    first, second = read_manifest(path)
    assert first.audio == tmp_path.resolve() / "a.wav"
    assert (second.start, second.duration, second.image) == (1.5, 2.0, None)
    assert [row.id for row in read_manifest(path, "test")] == ["b"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["{"], ":1: not a line of JSON"),
        ([["a"]], 'expected an object with a text "id"'),
        ([{"id": "a"}, {"id": "a"}], ":2: the id 'a' stands on an earlier line"),
        ([{"id": "a", "audio": "../secret.wav"}], "outside the manifest's folder"),
        ([{"id": "a", "audio": "/etc/passwd"}], "outside the manifest's folder"),
        ([{"id": "a/b"}], "cannot be a file name"),
        ([{"id": "a", "split": "train"}], "no rows of split 'test'"),
    ],
)
def test_refused(tmp_path: Path, rows: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_manifest(write(tmp_path, *rows), "test")


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no manifest"):
        read_manifest(tmp_path / "none.jsonl")


def test_pictures(tmp_path: Path) -> None:
    Image.new("RGBA", (9, 5), (255, 0, 0, 255)).save(tmp_path / "a.png")
    pixels = load_image(tmp_path / "a.png", 8, 4)
    assert pixels.shape == (3, 4, 8)
    assert torch.allclose(pixels[:, 0, 0], torch.tensor([1.0, 0.0, 0.0]))
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(ValueError, match="not a readable picture"):
        load_image(tmp_path / "b.png", 8, 4)


def test_window_takes_the_loudest_stretch_and_extends_the_short() -> None:
    waveform = torch.zeros(100)
    waveform[61:64] = 1
    assert window(waveform, 10).sum() == 3
    short = torch.tensor([1.0, 2.0, 3.0])
    assert window(short, 7, "loop").tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert window(short, 5, "pad").tolist() == [1, 2, 3, 0, 0]
    with pytest.raises(ValueError, match="short must be one of"):
        window(short, 5, "mirror")
