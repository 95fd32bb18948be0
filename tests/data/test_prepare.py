"""Manifests of public data sets, from tiny trees of exactly their layouts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xmodal.data.manifest import Row, read_manifest
from xmodal.data.prepare import clip_key, prepare


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


def test_what_cannot_be_prepared(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data set kind 'vgg': known are folder"):
        prepare("vgg", tmp_path, tmp_path / "m.jsonl")
    with pytest.raises(ValueError, match="nothing of kind 'folder' was found"):
        prepare("folder", tmp_path, tmp_path / "m.jsonl")
    with pytest.raises(ValueError, match="lies outside the manifest's folder"):
        prepare("folder", tree(tmp_path / "media", "a.wav"), tmp_path / "lists" / "m.jsonl")
    assert not list(tmp_path.rglob("m.jsonl"))
