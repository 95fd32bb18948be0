"""Members of tars, read where they lie, are what the unpacked files are."""

from __future__ import annotations

import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch import Trainer
from PIL import Image

from tests.data.test_extraction import RATE, Ear, Eye, Match
from tests.data.test_video import write_video
from xmodal.commands.data import main
from xmodal.data.audio import load_audio, read_samples, sound_seconds
from xmodal.data.audit import Look, look
from xmodal.data.extraction import extract
from xmodal.data.features import stores
from xmodal.data.image import load_image
from xmodal.data.manifest import Manifest, valid_rows
from xmodal.data.module import PairedMedia
from xmodal.data.opening import Member, located
from xmodal.data.video import load_frames, video_span

TRAINER: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}


def pack(target: Path, folder: Path, form: int = tarfile.PAX_FORMAT, mode: str = "w") -> Path:
    with tarfile.open(target, mode, format=form) as tar:  # type: ignore[call-overload]
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                tar.add(path, str(path.relative_to(folder)))
    return target


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sounds, pictures and a film of every reader, under names that tars treat differently."""
    folder = tmp_path_factory.mktemp("clips")
    random = np.random.default_rng(0)
    for number, suffix in enumerate(("wav", "flac", "ogg", "mp3", "aiff")):
        sound = 0.3 * np.sin(np.arange(RATE * 2) * (0.05 + 0.02 * number)).astype(np.float32)
        soundfile.write(folder / f"{number}.{suffix}", sound, RATE)
        Image.fromarray(random.integers(0, 255, (20, 30, 3), np.uint8)).save(folder / f"{number}.png")
    write_video(folder / "film.mp4", 2.0, sound=True)
    (folder / "film.json").write_text(json.dumps({"caption": "grey", "split": "test"}))
    long = folder / ("a folder with a name " * 3).strip()
    long.mkdir()
    soundfile.write(long / f"{'ä long name ' * 6}.wav", 0.2 * np.sin(np.arange(RATE) * 0.3), RATE)
    return folder


@pytest.fixture(scope="module")
def two(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The manifest of the unpacked clips, and that of the tar."""
    made = []
    for name in ("unpacked", "in place"):
        folder = tmp_path_factory.mktemp(name)
        pack(folder / "train-000.tar", clips)
        main(["prepare", "webdataset", str(folder), *(["--in-place"] if name == "in place" else [])])
        made.append(folder / "manifest.jsonl")
    assert [path.name for path in sorted(made[1].parent.iterdir())] == ["manifest.jsonl", "train-000.tar"]
    return made[0], made[1]


def test_what_is_read_has_the_same_bits(two: tuple[Path, Path]) -> None:
    unpacked, within = (Manifest(path) for path in two)
    assert len(unpacked) == len(within) == 7
    assert [row.id for row in unpacked] == [row.id for row in within]
    kinds = set()
    for one, other in zip(unpacked, within, strict=True):
        assert (one.text, one.label, one.split) == (other.text, other.label, other.split)
        if sound := one.audio or one.video:
            theirs = other.audio or other.video
            assert isinstance(theirs, Member)
            kinds.add(theirs.suffix)
            assert torch.equal(load_audio(theirs, RATE), load_audio(sound, RATE))
            assert np.array_equal(read_samples(theirs, 0.3, 0.4)[0], read_samples(sound, 0.3, 0.4)[0])
            assert sound_seconds(theirs) == sound_seconds(sound)
            assert torch.equal(load_audio(located(str(theirs)), RATE), load_audio(sound, RATE))
        if one.image:
            assert torch.equal(load_image(other.image), load_image(one.image))  # type: ignore[arg-type]
        if one.video and other.video:
            assert video_span(other.video) == video_span(one.video)
            assert torch.equal(load_frames(other.video, 3), load_frames(one.video, 3))
            assert torch.equal(load_frames(other.video, [1.5], "key"), load_frames(one.video, [1.5], "key"))
    assert kinds == {".wav", ".flac", ".ogg", ".mp3", ".aiff", ".mp4"}
    row = within[0]
    assert pickle.loads(pickle.dumps(row)) == row  # noqa: S301


def batches(manifest: Path, workers: int) -> list[dict[str, Any]]:
    data = PairedMedia(
        manifest, sample_rate=RATE, seconds=1.0, width=8, height=8, batch_size=2, num_workers=workers, inputs=["waveform"]
    )
    return list(data.test_dataloader())


def test_workers_read_in_place(two: tuple[Path, Path]) -> None:
    plain, forked = batches(two[0], 0), batches(two[1], 2)
    assert len(plain) == len(forked) > 0
    for one, other in zip(plain, forked, strict=True):
        assert one["id"] == other["id"]
        assert torch.equal(one["waveform"], other["waveform"])


def test_stores_of_both_hold_the_same(two: tuple[Path, Path], tmp_path: Path) -> None:
    held = []
    for number, path in enumerate(two):
        kept = tmp_path / f"{number}.jsonl"
        lines = [line for line in path.read_text().splitlines() if '"image"' in line]
        named = path.parent / "pairs.jsonl"
        named.write_text("\n".join(lines) + "\n")
        features = Match(Ear(), Eye()).frozen_features()
        data = PairedMedia(named, RATE, 1.0, cache=kept, crop="loudest", width=32, height=32, num_workers=0, batch_size=2)
        trainer = Trainer(**TRAINER)
        extract(features, data, trainer)
        found = {}
        for store in stores(kept):
            rows = Manifest(named)
            of = {data.store(each, "loudest", trainer.precision).root: each for each in features.values()}  # type: ignore[union-attr]
            feature = of[store.root]
            found[store.root.name] = store.locate(data.clip_names(rows, feature.inputs)).read(np.arange(len(rows)))
            assert store.failures() == {}
        held.append(found)
    assert held[0].keys() == held[1].keys()
    assert len(held[0]) > 0
    for name, arrays in held[0].items():
        assert all(np.array_equal(array, held[1][name][key]) for key, array in arrays.items())


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_forms_of_tars(clips: Path, tmp_path: Path, form: int) -> None:
    pack(tmp_path / "a.tar", clips, form)
    main(["prepare", "webdataset", str(tmp_path), "--in-place"])
    for row in Manifest(tmp_path / "manifest.jsonl"):
        for source in filter(None, (row.audio, row.image, row.video)):
            assert isinstance(source, Member)
            with source.open() as file:
                assert file.read() == (clips / source.member).read_bytes()
                assert file.seek(-3, 2) == source.stat().st_size - 3
                assert file.read() == (clips / source.member).read_bytes()[-3:]


def test_members_by_name_alone(clips: Path, tmp_path: Path) -> None:
    pack(tmp_path / "a.tar", clips)
    path = tmp_path / "m.jsonl"
    path.write_text('{"id": "0", "audio": "a.tar#0.wav"}\n{"id": "1", "audio": "a.tar#none.wav"}\n')
    row, absent = Manifest(path)
    assert torch.equal(load_audio(row.audio, RATE), load_audio(clips / "0.wav", RATE))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"a\.tar has no file 'none\.wav'"):
        load_audio(absent.audio, RATE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["../b.tar#0.wav", "/tmp/b.tar#0.wav", "a.tar#../0.wav", "a.tar#/etc/passwd", "a.tar#512+9:..\\x", "link/b.tar#0.wav"]
)
def test_rows_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    path = tmp_path / "in" / "m.jsonl"
    path.write_text(json.dumps({"id": "a", "audio": name}) + "\n" + '{"id": "b"}\n')
    rows, wrong = valid_rows(path)
    assert [row.id for row in rows] == ["b"]
    assert "outside" in wrong[0]


@pytest.mark.parametrize("name", ["../out.wav", "/tmp/out.wav", "link.wav"])
def test_a_shard_with_a_hostile_member_is_refused_whole(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for shard in ("train-000.tar", "train-001.tar"):
        with tarfile.open(tmp_path / shard, "w") as tar:
            tar.addfile(tarfile.TarInfo(f"{shard}.wav"))
            if shard == "train-001.tar":
                bad = tarfile.TarInfo(name)
                bad.type, bad.linkname = (tarfile.SYMTYPE, "/etc/passwd") if name == "link.wav" else (tarfile.REGTYPE, "")
                tar.addfile(bad)
    with pytest.raises(ValueError, match=r"train-001\.tar has the member .*would land outside its folder"):
        main(["prepare", "webdataset", str(tmp_path), "--in-place"])
    assert "xmodal: left out: " in capsys.readouterr().err
    assert [row.id for row in Manifest(tmp_path / "manifest.jsonl")] == ["train-000"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("a.wav")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(ValueError, match="has no file 'a.wav'"):
        load_audio(located(tmp_path / "a.tar#a.wav"), RATE)
    with pytest.raises(ValueError, match=r"a\.tar has no file at #512\+9:a\.wav"):
        load_audio(located(tmp_path / "a.tar#512+9:a.wav"), RATE)


def test_another_or_a_damaged_tar_is_said(clips: Path, tmp_path: Path) -> None:
    path = pack(tmp_path / "train-000.tar", clips)
    main(["prepare", "webdataset", str(tmp_path), "--in-place"])
    whole, rows = path.read_bytes(), {row.id: row for row in Manifest(tmp_path / "manifest.jsonl")}
    sound = rows["0"].audio
    assert isinstance(sound, Member)
    assert sound.at is not None
    again = "it is another tar than the manifest's.*prepare webdataset FOLDER --in-place` again"
    for content, message in [
        (b"\0" * 512 + whole, again),
        (whole[: sound.at - 512] + b"x" * 512 + whole[sound.at :], again),
        (whole[: sound.at + 100], "train-000.tar ends in the middle of '0.wav': fetch it again"),
        (whole.replace(b"0.wav", b"9.wav"), again),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_audio(sound, RATE)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*train-000\.tar#"):
        load_audio(sound, RATE)
    with pytest.raises(FileNotFoundError, match="there is no picture"):
        load_image(rows["0"].image)  # type: ignore[arg-type]


def test_compressed_tars_and_other_kinds(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack(tmp_path / "a.tar", clips, mode="w:gz")
    with pytest.raises(ValueError, match=r"a\.tar is not a readable tar file without compression .*leave --in-place out"):
        main(["prepare", "webdataset", str(tmp_path), "--in-place"])
    with pytest.raises(SystemExit) as exit_:
        main(["prepare", "folder", str(tmp_path), "--in-place"])
    assert exit_.value.code == 2
    assert "--in-place is for webdataset" in capsys.readouterr().err


def test_one_damaged_member_stops_no_other(clips: Path, tmp_path: Path) -> None:
    path = pack(tmp_path / "train-000.tar", clips)
    main(["prepare", "webdataset", str(tmp_path), "--in-place"])
    content = bytearray(path.read_bytes())
    rows = {row.id: row for row in Manifest(tmp_path / "manifest.jsonl")}
    at = rows["1"].audio.at  # type: ignore[union-attr]
    content[at - 512 : at - 400] = b"y" * 112
    path.write_bytes(content)
    for name, row in rows.items():
        faults = look(Look(row, 1.0)).faults
        assert ("broken" in faults) == (name == "1"), faults
    assert "it is another tar" in look(Look(rows["1"], 1.0)).faults["broken"]
