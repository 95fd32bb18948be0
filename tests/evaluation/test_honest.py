"""What must not pass in silence: padded silence, sets without spread, items that cannot be judged, copies, too few rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from xmodal.__main__ import main
from xmodal.evaluation.evaluate import evaluate
from xmodal.evaluation.items import Item, collect, spread
from xmodal.evaluation.judges import Extractor
from xmodal.evaluation.measures import HIGHER, MEASURES, Given, Measure
from xmodal.evaluation.report import write
from xmodal.evaluation.result import CEILING, FLOOR, lines
from xmodal.evaluation.spectrogram import spectrogram, ticks
from xmodal.evaluation.suites import SUITES, Suite
from xmodal.metrics.features import PairMetric
from xmodal.metrics.inception import InceptionScore
from xmodal.miniature import world
from xmodal.miniature.render import render

COUNT = 24
QUICK: dict[str, Any] = {"draws": 0, "clip": None, "clap": None}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("clips"), "test", COUNT).parent


@pytest.fixture
def sounds(clips: Path, tmp_path: Path) -> Path:
    """Made sounds: those of the clips with a little noise, so that no file is a copy."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    for path in clips.glob("*.wav"):
        samples, rate = soundfile.read(path)
        noise = np.random.default_rng(len(samples)).normal(size=samples.shape) * 1e-3
        soundfile.write(folder / path.name, samples + noise, rate)
    return folder


def test_n1_sounds_are_judged_over_their_own_length(clips: Path) -> None:
    items = collect(clips / "manifest.jsonl", "audio")
    default, exact = (Extractor("clap:mini", "audio", seconds)(items).rows for seconds in (None, 2.5))
    assert spread(list(default.values())) > 0.1  # padded to 10 s all of them were silence, and the same
    assert all(torch.allclose(default[name], exact[name]) for name in exact)
    assert len(Extractor("beats:mini", "audio")._read(items[0], None)) == 40_000


def test_n1_the_documented_command_puts_the_ceiling_above_the_floor(clips: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    for path in clips.glob("*.png"):
        shutil.copy(path, made)
    found = evaluate("audio2image", made, clips / "manifest.jsonl", draws=50)
    for name in ("AIS", "IIS", "AIC_top1", "tag_top1", "AIS_cosine"):
        assert found.scores(CEILING)[name].value > found.scores(FLOOR)[name].value + 0.1, name
    assert not [line for line in found.warnings if "no better" in line]


def test_sets_without_spread_are_an_error_that_names_its_cause(clips: Path, tmp_path: Path) -> None:
    real, made = tmp_path / "real", tmp_path / "made"
    for folder in (real, made):
        folder.mkdir()
        for number in range(40):
            shutil.copy(next(iter(sorted(clips.glob("*.wav")))), folder / f"{number}.wav")
    found = evaluate("text2audio", made, real, allow_bias=True, **QUICK)
    for name in ("FAD", "KAD", "KL", "PRDC"):  # not even allow_bias gives a distance of 0 here
        assert found.absent[name].startswith("everything real sounds the same to beats:mini (40 items, mean cosine 1.000000)")
    found = evaluate("text2audio", made, clips / "manifest.jsonl", allow_missing=True, **QUICK)
    assert "all made rows are the same" in found.absent["FAD"]  # few rows do not pass because they are copies of one
    assert any("everything made sounds the same to beats:mini" in line for line in found.warnings)
    assert any("WARNING: everything made" in line for line in lines(found))
    out = write(found, tmp_path / "out")
    assert "everything made sounds the same" in out.read_text()
    assert "**everything made sounds the same" in (tmp_path / "out" / "table.md").read_text()
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["warnings"] == found.warnings


def test_copies_of_the_real_files_are_named(clips: Path, tmp_path: Path) -> None:
    shutil.copytree(clips, tmp_path / "made", ignore=shutil.ignore_patterns("*.wav", "*.jsonl"))
    found = evaluate("audio2image", tmp_path / "made", clips / "manifest.jsonl", **QUICK)
    assert any(line.startswith(f"{COUNT} of {COUNT} files of made are the real ones, byte for byte") for line in found.warnings)


def test_a_judge_that_cannot_tell_the_data_apart_is_named(clips: Path, tmp_path: Path) -> None:
    """Every clip under the label of the next: the real files do no better than the floor."""
    rows = [json.loads(line) for line in (clips / "manifest.jsonl").read_text().splitlines()]
    things = sorted({row["label"] for row in rows})
    made = tmp_path / "made"
    made.mkdir()
    for row in rows:
        shutil.copy(clips / row["image"], tmp_path)
        shutil.copy(clips / row["image"], made / f"{row['id']}.png")
        row["label"] = things[(things.index(row["label"]) + 1) % len(things)]
        del row["audio"]
    (tmp_path / "wrong.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = evaluate("audio2image", made, tmp_path / "wrong.jsonl", **QUICK)
    assert any(line.startswith("tag_top1 of the real files themselves (0) is no better than") for line in found.warnings)


def test_f20_what_cannot_be_judged_is_left_out_and_counted(
    clips: Path, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(path.stem for path in sounds.iterdir())
    soundfile.write(sounds / f"{names[0]}.wav", np.zeros(16_000), 16_000)  # silent
    soundfile.write(sounds / f"{names[1]}.wav", np.ones(1_600) * 0.1, 16_000)  # 0.1 s
    (sounds / f"{names[2]}.wav").write_text("no sound")
    rows = [json.loads(line) for line in (clips / "manifest.jsonl").read_text().splitlines()]
    rows[5]["text"] = "a bell " * 400
    (clips / "long.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["xmodal", "evaluate", "--suite", "text2audio", "--fake", str(sounds), "--real", str(clips / "long.jsonl")]
    monkeypatch.setattr("sys.argv", [*words, "--draws", "0", "-o", str(tmp_path / "out")])
    main()
    printed = capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    left = summary["left_out"]["made"]
    assert set(left["KL"]) == set(names[:3])
    assert set(left["CLAP"]) == {*names[:3], rows[5]["id"]}
    assert "silent" in left["KL"][names[0]]
    result = json.loads((tmp_path / "out" / "results" / "CLAP.json").read_text())
    assert result["protocol"]["counts"]["pairs_items"] == COUNT - 4
    page = (tmp_path / "out" / "report.html").read_text()
    for text in (printed, page):
        assert "1 of made, in CLAP: " in text
        assert "3 of made, in FAD, " in text or "3 of made, in " in text
        assert all(name in text for name in names[:3])


def test_f20_nothing_that_can_be_judged_is_an_error(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    made.mkdir()
    for number in range(3):
        soundfile.write(made / f"{number}.wav", np.zeros(16_000), 16_000)
    words = ["xmodal", "evaluate", "--suite", "text2audio", "--fake", str(made), "--real", str(clips / "manifest.jsonl")]
    monkeypatch.setattr("sys.argv", [*words, "-o", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    assert "nothing could be judged" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("count", [10, 15, 19, 20, 39])
def test_f25_the_inception_score_refuses_too_few_rows_a_split(count: int) -> None:
    metric = InceptionScore()
    metric.update(torch.randn(count, 5, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ValueError, match=f"IS: {count} rows are too few for 10 splits: it needs 40, 4 a split"):
        metric.compute()


def write_film(path: Path, clip: world.Clip) -> None:
    """The clip's picture between two black ones, with its sound."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=6)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000
        heard = container.add_stream("aac", rate=16_000)
        picture = world.picture(clip)
        for index in range(15):
            shown = picture if 5 <= index < 10 else np.zeros_like(picture)
            for packet in stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
        samples = np.ascontiguousarray(world.sound(clip).mean(0, keepdims=True), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 16_000
        for packet in (*heard.encode(frame), *heard.encode()):
            container.mux(packet)


def test_n3_a_manifest_of_videos_gives_middle_frames_and_sounds(tmp_path: Path) -> None:
    chosen = [world.sample("test", index) for index in range(6)]
    made = tmp_path / "made"
    made.mkdir()
    rows = []
    from PIL import Image

    for index, clip in enumerate(chosen):
        write_film(tmp_path / f"{index}.mp4", clip)
        Image.fromarray(world.picture(clip)).save(made / f"{index}.png")
        rows.append({"id": f"{index}", "video": f"{index}.mp4", "label": clip.thing})
    (tmp_path / "films.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = evaluate("audio2image", made, tmp_path / "films.jsonl", draws=0)
    assert found.scores()["IIS_cosine"].value > 0.8
    assert found.scores(CEILING)["tag_top1"].value >= 5 / 6  # the black pictures would be named at random
    assert "AIS" in found.results  # their sounds, too
    assert write(found, tmp_path / "out").read_text().count("cannot be read") == 0


def test_r14_batches_change_no_number_but_for_rounding(clips: Path) -> None:
    items = collect(clips / "manifest.jsonl", "audio")
    for name in ("beats:mini", "clap:mini"):
        judge = Extractor(name, "audio")
        one, many = (judge(items, batch_size=size).rows for size in (1, 16))
        for each in one:
            assert torch.allclose(one[each], many[each], rtol=1e-4, atol=1e-5)


def test_only_things_compete_where_the_data_name_no_labels(sounds: Path, clips: Path, tmp_path: Path) -> None:
    real = tmp_path / "real"
    shutil.copytree(clips, real, ignore=shutil.ignore_patterns("*.jsonl"))
    found = evaluate("vision2audio", sounds, real, **QUICK)
    assert set(found.judged.values()) <= set(world.THINGS)
    assert "18 of 24 classes" in found.results["KL"].protocol.preprocessing


def test_n11_the_report_shows_the_picture_that_a_sound_was_made_from(clips: Path, sounds: Path, tmp_path: Path) -> None:
    found = evaluate("vision2audio", sounds, clips / "manifest.jsonl", **QUICK)
    assert write(found, tmp_path / "out").read_text().count("from this picture") == COUNT
    backwards = Suite("backwards", "audio", "text", SUITES["vision2audio"].rows)  # the suite says what the input was
    found = evaluate(backwards, sounds, clips / "manifest.jsonl", **QUICK)
    assert "from this picture" not in write(found, tmp_path / "other").read_text()


def test_n11_a_spectrogram_has_axes() -> None:
    tone = np.sin(2 * np.pi * 2000 * np.arange(40_000) / 16_000).astype(np.float32)
    page = np.asarray(spectrogram(tone, 16_000).convert("L"))
    assert page.shape > (96, 240)
    assert (page[-20:, 30:] < 200).sum() > 20  # seconds below
    assert (page[:100, :26] < 200).sum() > 20  # Hz at the left
    assert ticks(2.5, 6) == [0, 0.5, 1, 1.5, 2, 2.5]
    assert ticks(8000, 5) == [0, 2000, 4000, 6000, 8000]
    assert ticks(10, 6) == [0, 2, 4, 6, 8, 10]


class Redness(PairMetric):
    """Mean of a picture's first channel in its judge's first column: a metric of somebody else."""

    columns = ("redness",)

    def update(self, rows: torch.Tensor, ids: list[str]) -> None:
        self.add("pairs", self.check("rows", rows, ids)[:, :, :1], ids)


def redness(given: Given) -> Any:
    rows = given.rows("tagger")
    metric = Redness(sync_on_compute=False)
    metric.update(torch.stack(list(rows.values())), list(rows))
    return metric, given.stamp("tagger")


def test_a_metric_of_ones_own_is_one_row(clips: Path, tmp_path: Path) -> None:
    own = Measure("Redness", redness, HIGHER, {"redness": "how red"}, paired=True, ranked=1)
    suite = Suite("mine", "image", "audio", (MEASURES["tags"], own))
    found = evaluate(suite, clips, clips / "manifest.jsonl", **QUICK)
    page = write(found, tmp_path / "out").read_text()
    assert "Worst cases by redness" not in page  # without draws no value by item is kept
    assert set(found.results) == {"tags", "Redness"}
    assert "redness" in found.scores(FLOOR)
    assert "tag accuracy % ↑ | how red ↑" in (tmp_path / "out" / "table.md").read_text()
    assert (tmp_path / "out" / "results" / "Redness.json").is_file()


MODULE = """
from xmodal.evaluation.measures import MEASURES
from xmodal.evaluation.suites import Suite

MY_SUITE = Suite("my own", "image", "audio", (MEASURES["tags"],))
OTHER = 3
"""


def test_a_suite_of_ones_own_module(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "judging_here.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    words = ["xmodal", "evaluate", "--fake", str(clips), "--real", str(clips / "manifest.jsonl"), "--draws", "0", "--suite"]
    monkeypatch.setattr("sys.argv", [*words, "judging_here.MY_SUITE"])
    main()
    assert "my own: 24 made, 24 real" in capsys.readouterr().out
    for name, sentence in (("judging_here.OTHER", "is a int, not a Suite"), ("judging_here.NONE", "there is no suite")):
        monkeypatch.setattr("sys.argv", [*words, name])
        with pytest.raises(SystemExit):
            main()
        assert sentence in capsys.readouterr().err


def test_a_clips_stretch_belongs_to_its_own_files_alone() -> None:
    item = Item("a", Path("made.wav"), audio=Path("film.mp4"), start=2.0, duration=1.0)
    assert item.stretch(Path("film.mp4")) == (2.0, 1.0)
    assert item.stretch(Path("made.wav")) == (0.0, None)
