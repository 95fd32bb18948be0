"""The auditor finds what is wrong, goes on after a crash or a hang, and never stops for a file."""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from tests.data.test_video import write_video
from xmodal.data.audit import Finding, Look, _note, audit, import_decoders, look, report, usable, write_clean
from xmodal.data.manifest import Row, read_manifest
from xmodal.data.workers import run_isolated

RATE = 16000


def noise(seconds: float, loudness: float = 0.1, seed: int = 0) -> np.ndarray:
    return loudness * np.random.default_rng(seed).standard_normal(round(seconds * RATE))


def make(folder: Path) -> Path:
    """One clip for each fault, and good ones."""
    soundfile.write(folder / "good.wav", noise(2), RATE)
    soundfile.write(folder / "stereo é.flac", np.stack([noise(6, seed=1), noise(6, seed=2)], 1), 44100)
    soundfile.write(folder / "silent.wav", np.zeros(2 * RATE), RATE)
    soundfile.write(folder / "short.wav", noise(0.5), RATE)
    soundfile.write(folder / "clipped.wav", np.clip(noise(2, 3.0), -1, 1), RATE)
    (folder / "broken.wav").write_bytes((folder / "good.wav").read_bytes()[:30000])
    (folder / "text.wav").write_text("no sound")
    shutil.copy(folder / "good.wav", folder / "copy.wav")
    write_video(folder / "film.mp4", sound=True)
    still = folder / "still.mp4"
    with av.open(str(still), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for _ in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), format="rgb24")))
        container.mux(stream.encode())
        # a silent film is broken as a clip of sound, so this one gets a sound beside it
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    (folder / "b.png").write_text("no picture")
    rows: list[dict[str, Any]] = [
        {"id": "good", "audio": "good.wav", "image": "a.png", "label": "dog", "split": "train"},
        {"id": "flac", "audio": "stereo é.flac", "label": "dog", "split": "train"},
        {"id": "silent", "audio": "silent.wav"},
        {"id": "short", "audio": "short.wav"},
        {"id": "clipped", "audio": "clipped.wav"},
        {"id": "broken", "audio": "broken.wav"},
        {"id": "text", "audio": "text.wav"},
        {"id": "copy", "audio": "copy.wav", "image": "a.png", "split": "train"},
        {"id": "leak", "audio": "copy.wav", "image": "a.png", "split": "test"},
        {"id": "film", "video": "film.mp4", "split": "test"},
        {"id": "still", "video": "still.mp4", "audio": "stereo é.flac"},
        {"id": "picture", "audio": "good.wav", "image": "b.png"},
        {"id": "missing", "audio": "nobody.wav"},
        {"id": "nothing"},
    ]
    manifest = folder / "manifest.jsonl"
    manifest.write_text("\n".join([*map(json.dumps, rows), '{"id": "../x"}', "{"]), encoding="utf-8")
    return manifest


EXPECTED = {
    "good": [], "flac": [], "silent": ["silent"], "short": ["short"], "clipped": ["clipped"], "broken": ["broken"],
    "text": ["broken"], "copy": ["duplicate"], "leak": ["leak"], "film": [], "still": ["still"], "picture": ["broken"],
    "missing": ["missing"], "nothing": ["missing"], "line 15": ["broken"], "line 16": ["broken"],
}  # fmt: skip


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Finding]]:
    manifest = make(tmp_path_factory.mktemp("audit"))
    return manifest, audit(manifest, manifest.with_suffix(".journal"), processes=2, limit=120)


def test_every_fault_is_found_and_nothing_else(audited: tuple[Path, list[Finding]]) -> None:
    assert {finding.id: list(finding.faults) for finding in audited[1]} == EXPECTED
    flac = audited[1][1]
    assert (flac.seconds, flac.sample_rate) == (2.177, 44100)


def test_the_report_counts(audited: tuple[Path, list[Finding]]) -> None:
    content = report(audited[1], audited[0])
    assert json.loads(json.dumps(content)) == content
    assert (content["clips"], content["usable"]) == (16, 5)
    assert content["faults"]["broken"]["clips"] == 5
    assert content["splits"]["train"] == {"clips": 3, "usable": 2}
    assert content["labels"] == {"dog": 2}
    assert sum(content["seconds"].values()) == 10


def test_the_cleaned_manifest_holds_the_usable_clips(audited: tuple[Path, list[Finding]]) -> None:
    manifest, findings = audited
    assert write_clean(manifest, findings, manifest.with_name("clean.jsonl")) == 5
    rows = read_manifest(manifest.with_name("clean.jsonl"))
    assert [row.id for row in rows] == [finding.id for finding in findings if usable(finding)]
    assert rows[0].audio == manifest.parent.resolve() / "good.wav"
    (manifest.parent / "deeper").mkdir(exist_ok=True)
    with pytest.raises(ValueError, match="must lie in"):
        write_clean(manifest, findings, manifest.parent / "deeper" / "clean.jsonl")


def test_a_second_audit_looks_only_at_what_changed(audited: tuple[Path, list[Finding]]) -> None:
    manifest, findings = audited
    looked: list[int] = []
    journal = manifest.with_suffix(".journal")
    with journal.open("a") as log:
        log.write('{"half a li')
    soundfile.write(manifest.parent / "short.wav", noise(3, seed=9), RATE)
    again = audit(manifest, journal, processes=1, limit=120, progress=lambda done, total: looked.append(total))
    assert looked == [1]
    assert [f.faults for f in again if f.id != "short"] == [f.faults for f in findings if f.id != "short"]
    assert next(f for f in again if f.id == "short").faults == {}


def test_a_journal_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "manifest.jsonl").write_text('{"id": "a", "audio": "a.wav"}')
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="journal cannot be written .Not a directory.|cannot be written .File exists."):
        audit(tmp_path / "manifest.jsonl", tmp_path / "file" / "journal", processes=1)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with (tmp_path / "journal").open("a") as log:
        monkeypatch.setattr(json, "dumps", full)  # what raises stands inside the same try as the write
        with pytest.raises(OSError, match="journal cannot be written .No space left on device.: free the disk"):
            _note(log, tmp_path / "journal", {})


def misbehave(task: str) -> str:
    if task == "crash":
        os._exit(7)
    if task == "hang":
        time.sleep(60)
    if task == "raise":
        raise RuntimeError("as told")
    return task.upper()


def test_a_crash_or_a_hang_costs_one_task() -> None:
    tasks = list(enumerate(["a", "crash", "b", "hang", "raise", "c"]))
    outcomes = {key: (value, reason) for key, value, reason in run_isolated(misbehave, tasks, 2, limit=1.5)}
    assert outcomes == {
        0: ("A", None),
        1: (None, "it ended the decoder (exit code 7)"),
        2: ("B", None),
        3: (None, "the decoder took longer than 2 s"),
        4: (None, "as told"),
        5: ("C", None),
    }


def doze(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_what_was_done_while_its_reader_was_busy_was_in_time() -> None:
    outcomes = {}
    for key, value, reason in run_isolated(doze, [(0, 0.0), (1, 0.5)], 2, limit=2.0):
        outcomes[key] = (value, reason)
        time.sleep(3)  # a journal on a slow disk, or a laptop that was shut
    assert outcomes == {0: (0.0, None), 1: (0.5, None)}


def damaged(good: list[Path], folder: Path, count: int) -> list[Path]:
    """Files made from good ones: cut, flipped, renamed, without channels, with absurd headers."""
    rng = random.Random(0)
    made = []
    for number in range(count):
        source = rng.choice(good)
        content = bytearray(source.read_bytes())
        suffix = source.suffix
        kind = number % 5
        if kind == 0:
            content = content[: rng.randrange(len(content))]
        elif kind == 1:
            for _ in range(rng.randrange(1, 60)):
                content[rng.randrange(len(content))] = rng.randrange(256)
        elif kind == 2:
            suffix = rng.choice([".wav", ".mp3", ".flac", ".mp4", ".webm", ".ogg", ".m4a"])
        elif kind == 3:
            content[20:24] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\0\0\0"])
        else:
            content[:64] = bytes(rng.randrange(256) for _ in range(64))
        path = folder / f"damaged {number}{suffix}"
        path.write_bytes(content)
        made.append(path)
    return made


def test_three_hundred_damaged_files_end_as_findings(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", sound=True)
    write_video(tmp_path / "a.mkv", seconds=1.0, sound=True)
    for suffix in ("wav", "flac", "ogg", "mp3"):
        soundfile.write(tmp_path / f"a.{suffix}", noise(1.5), RATE)
    good = sorted(tmp_path.iterdir())
    (tmp_path / "bad").mkdir()
    files = damaged(good, tmp_path / "bad", 300)
    tasks = [
        (path.name, Look(Row(path.stem, **{"video" if path.suffix in (".mp4", ".webm", ".mkv") else "audio": path}), 1.0))
        for path in files
    ]
    outcomes = {key: (finding, reason) for key, finding, reason in run_isolated(look, tasks, 2, limit=10.0, warm=import_decoders)}
    assert len(outcomes) == 300
    # Not one crashed or held its process, and every refusal is a sentence of ours.
    assert {name: reason for name, (_, reason) in outcomes.items() if reason is not None} == {}
    findings = [finding for finding, _ in outcomes.values()]
    assert sum(bool(finding.faults) for finding in findings) >= 150
    assert all("\n" not in text and text for finding in findings for text in finding.faults.values())


def growth(tasks: list[Look]) -> list[float]:
    """Megabytes in use after each round over all files, in this very process."""
    found = []
    for _ in range(4):
        for task in tasks:
            look(task)
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        found.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
    return found


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux' own count of pages")
def test_damaged_files_leak_nothing(tmp_path: Path) -> None:
    good = [write_video(tmp_path / "a.mp4", sound=True)]
    for suffix in ("wav", "flac", "ogg", "mp3"):
        soundfile.write(tmp_path / f"a.{suffix}", noise(1.5), RATE)
        good.append(tmp_path / f"a.{suffix}")
    (tmp_path / "bad").mkdir()
    names = [("video" if path.suffix in (".mp4", ".webm") else "audio", path) for path in damaged(good, tmp_path / "bad", 100)]
    tasks = [Look(Row(path.stem, **{kind: path}), 1.0) for kind, path in names]
    ((_, rounds, reason),) = run_isolated(growth, [(0, tasks)], 1, limit=300, warm=import_decoders)
    assert reason is None
    # One decoded clip that is never freed would cost 100 kB: a hundred files in three rounds would show.
    assert rounds[3] - rounds[0] < 15, rounds
