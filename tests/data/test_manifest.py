"""Manifests: rows, splits, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image

from xmodal.data.image import load_image
from xmodal.data.manifest import Manifest, read_manifest, write_manifest
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


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.wav").write_text("secret")
    (tmp_path / "in" / "link.wav").symlink_to(tmp_path / "secret.wav")
    (tmp_path / "in" / "folder").symlink_to(tmp_path)
    for name in ("link.wav", "folder/secret.wav", "..", "folder/.."):
        with pytest.raises(ValueError, match=":1: .* outside the manifest's folder"):
            read_manifest(write(tmp_path / "in", {"id": "a", "audio": name}))


def test_values_of_wrong_kinds(tmp_path: Path) -> None:
    for field, value, message in [("start", "soon", "are seconds"), ("duration", [1], "are seconds"), ("audio", 7, "the path")]:
        with pytest.raises(ValueError, match=f"manifest.jsonl:1: .*{message}"):
            read_manifest(write(tmp_path, {"id": "a", field: value}))


def test_csv_with_commas_and_unicode(tmp_path: Path) -> None:
    path = tmp_path / "list.CSV"
    path.write_text('id,video,start,label,split\na,"cl p/ä,1.mp4",2.5,"bird, tweeting",train\nb,b.mp4,,,\n', encoding="utf-8")
    first, second = Manifest(path)
    assert (first.video, first.start, first.label) == (tmp_path.resolve() / "cl p" / "ä,1.mp4", 2.5, "bird, tweeting")
    assert second.start == 0.0
    assert [row.id for row in Manifest(path, "test")] == ["b"]
    path.write_text("name,video\n")
    with pytest.raises(ValueError, match="needs a header with id"):
        Manifest(path)


def test_lines_are_found_by_split_without_being_parsed(tmp_path: Path) -> None:
    tricky = [
        {"id": "0", "split": "train"},
        {"id": "1", "text": 'he said "split": "test"', "split": "validation"},
        {"id": "2", "text": "no split"},
        {"id": "3", "split": "test", "label": "ä"},
        {"id": "4", "split": ""},
    ]
    path = write(tmp_path, *tricky, "  ", "")
    assert [row.id for row in Manifest(path, "test")] == ["2", "3", "4"]
    assert [row.id for row in pickle.loads(pickle.dumps(Manifest(path, "train")))] == ["0", "2", "4"]  # noqa: S301
    assert len(Manifest(path)) == 5
    assert [row.id for row in Manifest(path)[1:3]] == ["1", "2"]


def test_splits_are_found_wherever_the_field_stands(tmp_path: Path) -> None:
    lines = [
        '{"id": "0", "split": "train"}', '{"id": "1", "split": "test"}', '{"split": "train", "id": "2"}',
        '{"split":"test","id":"3"}', '{"id": "4", "text": "a \\"split\\": \\"train\\"}", "split": "test"}',
        '{"id": "5", "split": "held out"}', '{"id": "6", "split": "test", "factors": {"size": 1}}', '{"id": "7"}',
        '{"id": "8", "text": "x \\"split\\": \\"test\\"}"}', '{"id": "9", "split": "train" }', '{"id": "a", "split": "é"}',
    ]  # fmt: skip
    for end in ("\n", "\r\n"):
        (tmp_path / "manifest.jsonl").write_bytes(end.join(lines).encode())
        for split in ("train", "test", "held out", "é", "validation"):
            expected = [row["id"] for row in map(json.loads, lines) if row.get("split", "") in ("", split)]
            assert [row.id for row in Manifest(tmp_path / "manifest.jsonl", split)] == expected


def test_written_rows_are_read_again(tmp_path: Path) -> None:
    rows = [{"id": "é", "audio": "a b.wav", "start": 1.5, "text": 'say "ä"', "split": "train"}, {"id": "2", "video": "v.mp4"}]
    assert write_manifest(tmp_path / "new" / "m.jsonl", rows) == 2
    first, second = read_manifest(tmp_path / "new" / "m.jsonl")
    assert (first.id, first.start, first.text) == ("é", 1.5, 'say "ä"')
    assert second.video == tmp_path.resolve() / "new" / "v.mp4"
    with pytest.raises(ValueError, match="occurs twice"):
        write_manifest(tmp_path / "m.jsonl", [{"id": "a"}, {"id": "a"}])
    with pytest.raises(ValueError, match="no field colour"):
        write_manifest(tmp_path / "m.jsonl", [{"id": "a", "colour": "red"}])
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


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
