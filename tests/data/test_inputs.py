"""What people hand in is told by its content, then by its name; nothing odd about either stops the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from tests.data.test_audio import RATE, tone, write_container
from tests.data.test_video import write_video
from xmodal.data.inputs import modality, read, slug
from xmodal.files import AUDIO, IMAGE, VIDEO, is_file, is_folder, kind_of

QUERIES = ("image", "video", "text")


def test_a_name_tells_what_is_not_there() -> None:
    names = {"a.WAV": "audio", "b.jpg": "image", "c.mp4": "video", "d.gif": "image", "e.m4v": "video", "rain on a roof": "text"}
    assert {name: modality(name) for name in names} == names
    assert len(AUDIO | IMAGE | VIDEO) == len(AUDIO) + len(IMAGE) + len(VIDEO)


def test_content_goes_before_the_name(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "sound.jpg", tone(), RATE, format="WAV")
    soundfile.write(tmp_path / "sound", tone(), RATE, format="FLAC")
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.wav", format="PNG")
    write_video(tmp_path / "film.mp4", 0.5).rename(tmp_path / "film")
    write_container(tmp_path / "song.m4a", "aac")
    (tmp_path / "song.m4a").rename(tmp_path / "song")
    write_video(tmp_path / "film.ts", 0.5, "mpeg2video").rename(tmp_path / "film.dat")
    expected = {
        "sound.jpg": "audio",
        "sound": "audio",
        "picture.wav": "image",
        "film": "video",
        "song": "audio",
        "film.dat": "video",
    }
    assert {name: modality(tmp_path / name) for name in expected} == expected
    (tmp_path / "a.xyz").write_text("a note")
    with pytest.raises(ValueError, match=r"cannot tell whether .*a.xyz"):
        modality(tmp_path / "a.xyz")


@pytest.mark.parametrize(
    "begin",
    [
        b"\xff\xfb\x90\x00",
        b"ID3\x04",
        b"OggS" + bytes(24) + b"OpusHead",
        b"fLaC",
        b"RIFF\0\0\0\0WAVE",
        b"FORM\0\0\0\0AIFF",
        b".snd",
    ],
)
def test_how_sounds_begin(tmp_path: Path, begin: bytes) -> None:
    (tmp_path / "file").write_bytes(begin + bytes(600))
    assert kind_of(tmp_path / "file") == "audio"


@pytest.mark.parametrize("word", ["x" * 300, "雨が降る" * 40, "a\0b", "", "\udce9", None, 7.5, b"\0", "a" * 5000 + ".wav"])
def test_no_word_is_too_odd_to_be_asked(word: object) -> None:
    assert not is_file(word)
    assert not is_folder(word)


def test_long_texts_are_texts_and_have_short_names() -> None:
    texts = ["rain " * 100, "雨が降っている。" * 30, "a\0b", "x" * 300]
    for each in read(texts, QUERIES):
        assert each.modality == "text"
        assert 0 < len(each.stem.encode()) <= 100
    assert slug("rain on a roof") == "rain-on-a-roof"
    assert len({slug("雨" * 90), slug("雨" * 91)}) == 2


def test_a_place_where_nothing_is_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    for wrong in ("sounds/", "clips/bels", "./bels", str(tmp_path / "bels"), "clips/two/"):
        with pytest.raises(FileNotFoundError, match="there is no file and no folder"):
            read([wrong], QUERIES)
    for url in ("https://example.com/a", "https://example.com/a.wav?download=1", "https://example.com/"):
        with pytest.raises(ValueError, match=r"cannot tell what is at https://example.com/"):
            read([url], QUERIES)
    texts = ["bels", "a dog and/or a cat", "jazz/funk", "24/7", "a bell w/ rain", "x/" * 400 + "x"]
    assert [each.content for each in read(texts, QUERIES)] == texts


def test_folders_pass_over_what_is_hidden_and_count_what_is_not_media(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(), RATE)
    soundfile.write(tmp_path / "b.caf", tone(), RATE)
    soundfile.write(tmp_path / "without", tone(), RATE, format="WAV")
    for name in ("._a.wav", ".hidden.mp3", "note.txt", "other.txt", "code.ts"):
        (tmp_path / name).write_text("x")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "c.tif")
    said: list[str] = []
    assert [each.stem for each in read([tmp_path], ["audio"], said.append)] == ["a", "b", "without"]
    assert said == [f"passed over in {tmp_path}: 2 .txt, 1 .tif, 1 .ts"]
    assert [each.stem for each in read([tmp_path], QUERIES)] == ["c"]
    assert "but 2 .txt" in str(_refused(tmp_path))


def _refused(folder: Path) -> ValueError:
    for path in [*folder.glob("*.wav"), folder / "without", *folder.glob("*.caf")]:
        path.unlink()
    with pytest.raises(ValueError, match="there are no sound files") as caught:
        read([folder], ["audio"])
    return caught.value


def test_texts_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_bytes("\ufeffa bell\nrain\n\na bell\n".encode())
    assert [each.content for each in read([tmp_path / "texts.txt"], QUERIES)] == ["a bell", "rain"]
    (tmp_path / "texts.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match=r"texts.txt is not text in UTF-8 .* at byte 3"):
        read([tmp_path / "texts.txt"], QUERIES)
    with pytest.raises(FileNotFoundError, match="no file of texts"):
        read([tmp_path / "none.txt"], QUERIES)
