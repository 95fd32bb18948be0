"""Data sets that are laid out in odd ways: never two things under one id, and every error has its file and line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.test_audio import RATE, tone
from tests.data.test_prepare import VGG, rows, shard, tree
from xmodal.commands.data import main
from xmodal.data.clips import Found
from xmodal.data.manifest import Manifest, read_manifest, valid_rows, write_manifest
from xmodal.data.prepare import prepare


def test_one_stem_in_several_folders_is_several_clips(tmp_path: Path) -> None:
    tree(tmp_path, "classA/001.wav", "classB/001.wav", "classB/001.png", "audio/x/2.wav", "frames/x/2.jpg", "class_C/y/3.wav")
    found, _ = rows("folder", tmp_path)
    assert {name: row.label for name, row in found.items()} == {
        "classA-001": "classA", "classB-001": "classB", "x-2": "x", "class_C-y-3": "y"
    }  # fmt: skip
    assert found["classA-001"].image is None
    assert found["classB-001"].image == tmp_path / "classB/001.png"
    assert found["x-2"].image == tmp_path / "frames/x/2.jpg"


@pytest.mark.parametrize("kind", ["folder", "class-folders"])
def test_two_files_of_a_kind_for_one_clip_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ValueError, match=r"dog/a\.mp3 and .*dog/a\.wav would be the audio of one clip"):
        rows(kind, tree(tmp_path, "dog/a.wav", "dog/a.mp3"))


def test_public_layouts_refuse_two_files_too(tmp_path: Path) -> None:
    tree(tmp_path, "---g-f_I2yQ_000001.mp4", "more/---g-f_I2yQ_1000_11000.mp4", vggsound__csv=VGG)
    with pytest.raises(ValueError, match="would be the video of one clip"):
        rows("vggsound", tmp_path)
    with pytest.raises(ValueError, match="would be the image of one clip"):
        rows("imagehear", tree(tmp_path / "flat", "dog1.jpg", "dog1.png"))
    lists = json.dumps({"videos": {"flute": ["abcdefghijk"], "tuba": ["abcdefghijk"]}})
    with pytest.raises(ValueError, match="is listed under flute and under tuba"):
        rows("music", tree(tmp_path / "music", "abcdefghijk.mp4", MUSIC__json=lists))


def test_class_folders_join_what_belongs_together(tmp_path: Path) -> None:
    names = ("dog/1.wav", "dog/1.png", "cat/1.wav", "._cat/2.wav", "cat/._1.wav")
    found, _ = rows("class-folders", tree(tmp_path, *names, train__txt="\ufeffdog/1.wav\n", test__txt="cat/1.wav\n"))
    assert {name: (row.label, row.split, row.image is not None) for name, row in found.items()} == {
        "dog-1": ("dog", "train", True), "cat-1": ("cat", "test", False)
    }  # fmt: skip


def test_ids_of_two_places_never_meet(tmp_path: Path) -> None:
    found, _ = rows("folder", tree(tmp_path, "a/1.wav", "a-1.wav", "b-c/d.wav", "b/c-d.wav"))
    assert len(found) == 4
    assert {row.audio.relative_to(tmp_path).as_posix() for row in found.values() if row.audio} == {
        "a/1.wav", "a-1.wav", "b-c/d.wav", "b/c-d.wav"
    }  # fmt: skip


def test_keys_of_shards(tmp_path: Path) -> None:
    members = {
        "v1.0/0001.wav": b"1", "v1.0/0001.txt": b"one", "v1.0/0002.wav": b"2", "v1.0/0002.txt": b"two", "a/1.wav": b"3",
        "a-1.wav": b"4", "Song 2.0 live.wav": b"5", "Song 2.1 live.wav": b"6", "k.seg.png": b"7", "k.json": b"{}",
    }  # fmt: skip
    shard(tmp_path / "train-0.tar", **members)
    found, _ = rows("webdataset", tmp_path)
    contents = {name: (row.audio or row.image).read_bytes() for name, row in found.items()}  # type: ignore[union-attr]
    assert sorted(contents.values()) == [b"1", b"2", b"3", b"4", b"5", b"6", b"7"]
    assert (found["v1.0-0001"].text, found["v1.0-0002"].text) == ("one", "two")
    assert {"Song 2.0 live", "Song 2.1 live", "k"} <= set(found)
    shard(tmp_path / "train-1.tar", **{"x.wav": b"1", "x.json": b'{"start": NaN}'})
    with pytest.raises(ValueError, match=r"start of the member 'x.json' is nan"):
        rows("webdataset", tmp_path)
    shard(tmp_path / "train-1.tar", **{"x.wav": b"1", "x.json": b"[" * 100_000})
    with pytest.raises(ValueError, match=r"x.json' is not JSON"):
        rows("webdataset", tmp_path)


def test_byte_order_marks_and_other_encodings(tmp_path: Path) -> None:
    found, missing = rows("vggsound", tree(tmp_path, "---g-f_I2yQ_000001.mp4", vggsound__csv="\ufeff" + VGG))
    assert "---g-f_I2yQ_000001" in found
    (tmp_path / "m.jsonl").write_text('\ufeff{"id": "a", "split": "train"}\n{"id": "b", "split": "train"}\n')
    assert [row.id for row in Manifest(tmp_path / "m.jsonl", "train")] == ["a", "b"]
    (tmp_path / "vggsound.csv").write_bytes(VGG.encode() + b"caf\xe9,1,x,test\n")
    with pytest.raises(ValueError, match=r"vggsound.csv is not text in UTF-8"):
        rows("vggsound", tmp_path)
    (tmp_path / "m.csv").write_bytes(b"id,label\na,caf\xe9\n")
    with pytest.raises(ValueError, match=r"m.csv is not text in UTF-8"):
        Manifest(tmp_path / "m.csv")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "a", "start": NaN}', "start is nan"),
        ('{"id": "a", "duration": Infinity}', "duration is inf"),
        ('{"id": "a", "start": -1}', "starts at 0 or later"),
        ('{"id": "a", "duration": 0}', "lasts longer than 0"),
        ('{"id": "a", "start": true}', "are seconds"),
        ('{"id": "a", "split": "Train"}', "did you mean 'train'"),
        ('{"id": "a", "split": "Train "}', "did you mean 'train'"),
        ('{"id": "a", "split": 7}', "a split is a text"),
        ('{"id": "a", "split": "val"}', "did you mean 'validation'"),
        ('{"id": "a", "lable": "x"}', "did you mean 'label'"),
        ('{"id": "a", "audio": "a\\u0000.wav"}', "zero byte"),
        ('{"id": "a\\u0000b"}', "cannot be a file name"),
        ("[" * 100_000, "not a line of JSON"),
    ],
)
def test_rows_are_refused_with_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"id": "good"}\n' + line + '\n{"id": "last"}\n')
    with pytest.raises(ValueError, match=rf"m.jsonl:2: .*{message}"):
        read_manifest(path)
    kept, wrong = valid_rows(path)
    assert [row.id for row in kept] == ["good", "last"]
    assert len(wrong) == 1


def test_a_misspelt_split_is_not_left_out_in_silence(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"id": "a", "split": "train"}\n{"id": "b", "split": "Train"}\n')
    with pytest.raises(ValueError, match=r"m.jsonl:2: the split 'Train'"):
        Manifest(tmp_path / "m.jsonl", "train")


def test_unknown_fields_are_said(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"id": "a", "colour": "red"}\n')
    with pytest.warns(UserWarning, match="has a field 'colour', which nothing reads"):
        read_manifest(tmp_path / "m.jsonl")
    (tmp_path / "m.csv").write_text("id,label,split\na,bird, tweeting,train\n")
    with pytest.raises(ValueError, match=r"m.csv:2: more fields than the header"):
        Manifest(tmp_path / "m.csv")
    with pytest.raises(ValueError, match="'a'.*start is nan"):
        write_manifest(tmp_path / "n.jsonl", [{"id": "a", "start": float("nan")}])


def test_few_clips_leave_no_split_empty(tmp_path: Path) -> None:
    tree(tmp_path, *(f"{number}.wav" for number in range(6)))
    for shares, expected in {(0.1, 0.0): {"train", "validation"}, (0.1, 0.1): {"train", "validation", "test"}}.items():
        prepare("folder", tmp_path, tmp_path / "m.jsonl", *shares)
        assert {row.split for row in read_manifest(tmp_path / "m.jsonl")} == expected


def test_errors_are_counted_and_the_rest_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree(tmp_path, "dog/a.wav", "dog/a.mp3", "dog/b.wav", "dog/c.xyz")
    with pytest.raises(ValueError, match="1 rows were left out"):
        main(["prepare", "folder", str(tmp_path)])
    assert len(read_manifest(tmp_path / "manifest.jsonl")) == 2
    said = capsys.readouterr()
    assert "a.mp3 and" in said.err
    assert "passed over, since they are no media: 1 .xyz" in said.err
    with pytest.raises(ValueError, match="would be the audio of one clip"):
        main(["prepare", "folder", str(tmp_path), "--strict", "-o", str(tmp_path / "strict.jsonl")])
    assert not (tmp_path / "strict.jsonl").exists()
    found = Found(tmp_path.resolve(), strict=False)
    prepare("folder", tmp_path, tmp_path / "m.jsonl", found=found)
    assert len(found.errors) == 1


def test_an_audit_names_bad_lines_and_looks_at_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "a.wav", tone(2.0), RATE)
    (tmp_path / "m.jsonl").write_text('{"id": "a", "audio": "a.wav"}\n{"id": "b", "start": NaN}\n')
    with pytest.raises(ValueError, match=r"1 rows were left out, first .*m.jsonl:2"):
        main(["audit", str(tmp_path / "m.jsonl"), "--processes", "1"])
    assert "2 clips, 1 usable" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"m.jsonl:2"):
        main(["audit", str(tmp_path / "m.jsonl"), "--strict"])


@pytest.mark.slow
def test_the_cache_names_a_bad_line_and_stores_the_rest(tmp_path: Path) -> None:
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", tone(3.0) + 0.01 * np.random.default_rng(0).normal(size=(3 * RATE, 1)), RATE)
    lines = ['{"id": "a", "audio": "a.wav", "split": "train"}', '{"id": "x", "start": "soon"}', '{"id": "b", "audio": "b.wav"}']
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    root = Path(__file__).parents[2]
    recipe = root / "recipes" / "audio2image" / "audiotoken.yaml"
    options = [f"--data.manifest={tmp_path / 'm.jsonl'}", f"--data.cache={tmp_path / 'cache'}", "--data.num_workers=0"]
    sizes = "--model.seconds=2.5 --data.seconds=2.5 --data.width=64 --data.height=64 --data.batch_size=2"
    options += ["--model.encoder.card=mini", "--model.generator.card=mini", *sizes.split(), "--trainer.precision=32-true"]
    command = [sys.executable, "-m", "xmodal", "cache", "--config", str(recipe), *options, "--data.crop=loudest"]
    done = subprocess.run([*command, "--trainer.accelerator=cpu"], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "m.jsonl:2: " in done.stderr
    assert "train: " in done.stdout
