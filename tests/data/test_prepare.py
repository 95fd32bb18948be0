"""Manifests of public data sets, from tiny trees of exactly their layouts."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from xmodal.data.manifest import Row, read_manifest
from xmodal.data.prepare import prepare
from xmodal.data.sets.vggsound import clip_key


def tree(root: Path, *names: str, **texts: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\0")
    for name, text in texts.items():
        (root / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return root


def rows(kind: str, root: Path) -> tuple[dict[str, Row], list[str]]:
    _, missing = prepare(kind, root, root / "manifest.jsonl")
    return {row.id: row for row in read_manifest(root / "manifest.jsonl")}, missing


def test_a_folder_pairs_by_stem(tmp_path: Path) -> None:
    found, missing = rows("folder", tree(tmp_path, "audio/a b.wav", "frames/a b.jpg", "é.mp4", "note.txt", ".hidden.wav"))
    assert set(found) == {"a b", "é"}
    assert (found["a b"].audio, found["a b"].image) == (tmp_path / "audio/a b.wav", tmp_path / "frames/a b.jpg")
    assert found["é"].video == tmp_path / "é.mp4"
    assert missing == []


def test_splits_are_dealt_by_the_clips_names(tmp_path: Path) -> None:
    tree(tmp_path, *(f"{number}.mp4" for number in range(400)))

    def splits() -> dict[str, str]:
        prepare("folder", tmp_path, tmp_path / "manifest.jsonl", validation=0.1, test=0.2)
        return {row.id: row.split for row in read_manifest(tmp_path / "manifest.jsonl")}

    first = splits()
    shares = [sum(split == name for split in first.values()) / 400 for name in ("train", "validation", "test")]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.06)
    tree(tmp_path, "new.mp4")
    assert {name: split for name, split in splits().items() if name != "new"} == first
    with pytest.raises(ValueError, match="something must be left for training"):
        prepare("folder", tmp_path, tmp_path / "manifest.jsonl", validation=0.5, test=0.5)


@pytest.mark.parametrize(
    ("clips", "expected"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (24, (20, 2, 2)), (200, (160, 20, 20))]
)
def test_of_few_clips_each_split_gets_its_share(clips: int, expected: tuple[int, ...], tmp_path: Path) -> None:
    tree(tmp_path, *(f"{number}.mp4" for number in range(clips)))
    prepare("folder", tmp_path, tmp_path / "manifest.jsonl", validation=0.1, test=0.1)
    found = [row.split for row in read_manifest(tmp_path / "manifest.jsonl")]
    assert tuple(found.count(name) for name in ("train", "validation", "test")) == expected


@pytest.mark.parametrize("siblings", [("train", "dog"), ("train", "test")])
def test_a_single_folder_of_a_splits_name_among_others_is_a_class(siblings: tuple[str, str], tmp_path: Path) -> None:
    tree(tmp_path, *(f"{folder}/{number}.mp4" for number, folder in enumerate(siblings)))
    prepare("folder", tmp_path, tmp_path / "manifest.jsonl")
    found = {(row.label, row.split) for row in read_manifest(tmp_path / "manifest.jsonl")}
    assert found == ({("train", ""), ("dog", "")} if "dog" in siblings else {("", "train"), ("", "test")})


@pytest.mark.parametrize(
    ("stem", "key"),
    [
        ("-0_abc-def__000030", ("-0_abc-def_", 30)),
        ("-0_abc-def__30000_40000", ("-0_abc-def_", 30)),
        ("abcdefghijk_0_10000", ("abcdefghijk", 0)),
        ("short_000030", None),
        ("abcdefghijk", None),
    ],
)
def test_both_public_names_of_a_clip(stem: str, key: tuple[str, int] | None) -> None:
    assert clip_key(stem) == key


VGG = """---g-f_I2yQ,1,people marching,test
-0_abc-def_,30,"bird chirping, tweeting",train
abcdefghijk,120,dog barking,train
lostlostlos,5,dog barking,test
"""


def test_vggsound(tmp_path: Path) -> None:
    names = ("video/---g-f_I2yQ_000001.mp4", "audio/-0_abc-def__30000_40000.wav", "frames/-0_abc-def__30000_40000.jpg",
             "abcdefghijk_000120.mp4")  # fmt: skip
    found, missing = rows("vggsound", tree(tmp_path, *names, vggsound__csv=VGG))
    assert {name: (row.label, row.split) for name, row in found.items()} == {
        "---g-f_I2yQ_000001": ("people marching", "test"),
        "-0_abc-def__000030": ("bird chirping, tweeting", "train"),
        "abcdefghijk_000120": ("dog barking", "train"),
    }
    assert found["-0_abc-def__000030"].image == tmp_path / names[2]
    assert found["-0_abc-def__000030"].video is None
    assert missing == ["lostlostlos_000005"]


def test_a_broken_list_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"vggsound.csv:2: expected id, start seconds, label, train or test"):
        rows("vggsound", tree(tmp_path, "a.mp4", vggsound__csv="abcdefghijk,1,x,test\nabcdefghijk,bird, tweeting,1,train\n"))
    with pytest.raises(FileNotFoundError, match=r"has no vggsound.csv"):
        rows("vggsound", tree(tmp_path / "empty", "a.mp4"))


def test_audiocaps(tmp_path: Path) -> None:
    header = "audiocap_id,youtube_id,start_time,caption\n"
    train = header + '91139,r1nicOVtvkQ,130,"A woman talks, nearby"\n1,lostlostlos,3,Rain\n'
    test = header + "7,-ab_cdefghi,40,A dog barks\n8,-ab_cdefghi,40,Barking\n"
    root = tree(tmp_path, "wav/r1nicOVtvkQ_130.wav", "wav/Y-ab_cdefghi.wav", train__csv=train, test__csv=test)
    found, missing = rows("audiocaps", root)
    assert {name: (row.text, row.split) for name, row in found.items()} == {
        "r1nicOVtvkQ_130-91139": ("A woman talks, nearby", "train"),
        "-ab_cdefghi_40-7": ("A dog barks", "test"),
        "-ab_cdefghi_40-8": ("Barking", "test"),
    }
    assert missing == ["lostlostlos_3"]


def test_clotho_with_brackets_in_names(tmp_path: Path) -> None:
    table = 'file_name,caption_1,caption_2,caption_3,caption_4,caption_5\nRain [loud] #2.wav,a,b,"c, d",e,f\nlost.wav,a,b,c,d,e\n'
    root = tree(tmp_path, "development/Rain [loud] #2.wav", clotho_captions_development__csv=table)
    found, missing = rows("clotho", root)
    assert [(row.text, row.split) for row in found.values()] == [(text, "train") for text in ("a", "b", "c, d", "e", "f")]
    assert missing == ["lost.wav"]


def test_music(tmp_path: Path) -> None:
    lists = json.dumps({"videos": {"acoustic_guitar": ["abcdefghijk", "lostlostlos"], "flute": ["-_cdefghijk"]}})
    root = tree(tmp_path, "solo/acoustic_guitar/abcdefghijk.mp4", "solo/flute/-_cdefghijk.mp4", MUSIC_solo__json=lists)
    found, missing = rows("music", root)
    assert {name: row.label for name, row in found.items()} == {"abcdefghijk": "acoustic guitar", "-_cdefghijk": "flute"}
    assert missing == ["lostlostlos"]


def test_imagehear(tmp_path: Path) -> None:
    found, _ = rows("imagehear", tree(tmp_path, "dog1.jpg", "dog12.jpg", "sea_waves3.jpg", "meta.py"))
    assert {name: (row.label, row.split) for name, row in found.items()} == {
        "dog1": ("dog", "test"), "dog12": ("dog", "test"), "sea_waves3": ("sea waves", "test")
    }  # fmt: skip


def test_class_folders_with_lists(tmp_path: Path) -> None:
    names = ("videos/dog_barking/abcdefghijk_000010_000020_1_3.mp4", "videos/hail/x.mp4")
    root = tree(
        tmp_path, *names, train__txt="dog_barking/abcdefghijk_000010_000020_1_3.mp4\n", test__txt="hail/x.mp4\nhail/lost.mp4"
    )
    found, missing = rows("class-folders", root)
    assert {(row.label, row.split) for row in found.values()} == {("dog barking", "train"), ("hail", "test")}
    assert missing == ["lost"]


def test_class_folders_by_split(tmp_path: Path) -> None:
    found, _ = rows(
        "class-folders", tree(tmp_path, "videos/train/fire/a.mp4", "videos/test/fire/b.mp4", "videos/test/rain/b.mp4")
    )
    assert {(name, row.label, row.split) for name, row in found.items()} == {
        ("fire-a", "fire", "train"), ("fire-b", "fire", "test"), ("rain-b", "rain", "test")
    }  # fmt: skip


def shard(path: Path, **members: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_webdataset_shards_are_unpacked_once(tmp_path: Path) -> None:
    described = json.dumps({"caption": "a dog, ärgerlich", "class": "dog", "duration": 4.0, "other": [1]}).encode()
    first = shard(tmp_path / "train-0000.tar", **{"./a b.wav": b"1", "./a b.jpg": b"2", "./a b.json": described})
    shard(tmp_path / "val-0000.tar", **{"a b.mp4": b"3", "a b.txt": " é\n".encode(), "x/c.flac": b"4", "x/c.cls": b"cat"})
    found, missing = rows("webdataset", tmp_path)
    assert {name: (row.text, row.label, row.split, row.duration) for name, row in found.items()} == {
        "a b": ("a dog, ärgerlich", "dog", "train", 4.0),
        "val-0000-a b": ("é", "", "validation", None),
        "x-c": ("", "cat", "validation", None),
    }
    contents = [found["a b"].audio, found["a b"].image, found["val-0000-a b"].video, found["x-c"].audio]
    assert [path.read_bytes() for path in contents if path] == [b"1", b"2", b"3", b"4"]
    assert missing == []
    (tmp_path / "media" / "train-0000" / "a b.wav").write_bytes(b"mine")
    rows("webdataset", tmp_path)
    assert (tmp_path / "media" / "train-0000" / "a b.wav").read_bytes() == b"mine"
    assert first.is_file()


@pytest.mark.parametrize("name", ["../out.wav", "a/../../out.wav", "/tmp/out.wav", "..\\out.wav", "link.wav"])
def test_a_shard_that_would_write_elsewhere_is_refused_whole(tmp_path: Path, name: str) -> None:
    path = shard(tmp_path / "in" / "train-0000.tar", **{"good.wav": b"1", **({} if name == "link.wav" else {name: b"2"})})
    if name == "link.wav":
        with tarfile.open(path, "a") as tar:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
    with pytest.raises(ValueError, match="would land outside its folder"):
        rows("webdataset", tmp_path / "in")
    assert [each.name for each in tmp_path.rglob("*") if each.is_file()] == ["train-0000.tar"]


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    whole = shard(tmp_path / "train-0000.tar", **{"a.wav": b"1" * 5000}).read_bytes()
    for content in (b"no tar at all, but long enough" * 40, whole[:2000]):
        (tmp_path / "train-0000.tar").write_bytes(content)
        with pytest.raises(ValueError, match="train-0000.tar"):
            rows("webdataset", tmp_path)
        assert [path.name for path in tmp_path.rglob("*")] == ["train-0000.tar"]


def test_names_that_are_not_utf8_are_said(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.wav")
    with pytest.raises(ValueError, match="is not valid UTF-8: rename the file"):
        rows("folder", tree(tmp_path, name))


def test_what_cannot_be_prepared(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data set kind 'vgg': known are audiocaps"):
        prepare("vgg", tmp_path, tmp_path / "m.jsonl")
    with pytest.raises(ValueError, match="nothing of kind 'folder' was found"):
        prepare("folder", tmp_path, tmp_path / "m.jsonl")
    with pytest.raises(ValueError, match="lies outside the manifest's folder"):
        prepare("folder", tree(tmp_path / "media", "a.wav"), tmp_path / "lists" / "m.jsonl")
    assert not list(tmp_path.rglob("m.jsonl"))
