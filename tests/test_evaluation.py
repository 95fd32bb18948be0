"""Suites on rendered clips: ceilings, floors, protocol, report."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from xmodal.evaluation import COLUMNS, DEFAULTS, collect, differences, evaluate, lines, write
from xmodal.miniature import world
from xmodal.miniature.render import render

COUNT = 72


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("clips"), "test", COUNT).parent


@pytest.fixture(scope="module")
def good(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A perfect system: the real files themselves."""
    folder = tmp_path_factory.mktemp("good")
    for path in clips.iterdir():
        if path.suffix in (".png", ".wav"):
            shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def bad(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A system that answers with the next clip of another thing."""
    folder = tmp_path_factory.mktemp("bad")
    items = [world.sample("test", index).thing for index in range(COUNT)]
    for index, thing in enumerate(items):
        other = next(n % COUNT for n in range(index + 1, index + COUNT) if items[n % COUNT] != thing)
        for suffix in (".png", ".wav"):
            shutil.copy(clips / f"{other:04d}_{items[other]}{suffix}", folder / f"{index:04d}_{thing}{suffix}")
    return folder


@pytest.mark.parametrize(("suite", "distance"), [("audio2image", "FID"), ("vision2audio", "FAD"), ("text2audio", "FAD")])
def test_a_perfect_and_a_wrong_system(clips: Path, good: Path, bad: Path, tmp_path: Path, suite: str, distance: str) -> None:
    options = {"seconds": 2.5, "draws": 40, "allow_bias": True}
    best = evaluate(suite, good, clips / "manifest.jsonl", **options)  # type: ignore[arg-type]
    worst = evaluate(suite, bad, clips / "manifest.jsonl", **options)  # type: ignore[arg-type]
    assert best.absent == worst.absent == {}
    top, bottom = best.scores(), worst.scores()
    assert top["tag_top1"].value >= 0.95
    assert bottom["tag_top1"].value <= 0.05
    assert top["KL"].value == pytest.approx(0, abs=1e-9)
    assert bottom["KL"].value > 1
    assert top[distance].value == pytest.approx(0, abs=1e-6)
    assert set(COLUMNS[suite]) - {"KID", "KAD"} <= set(top)
    protocol = best.results["KL"].protocol
    assert protocol.extractor == DEFAULTS[best.modality]
    assert len(protocol.weights) == 64
    assert protocol.small_sample
    write(best, tmp_path / "best")
    write(worst, tmp_path / "worst")
    found = differences(tmp_path / "best", tmp_path / "worst")
    assert found["tag_top1"].apart  # type: ignore[union-attr]
    assert found["tag_top1"].value > 0.9  # type: ignore[union-attr]


def test_the_report_is_one_file_with_media(clips: Path, good: Path, tmp_path: Path) -> None:
    found = evaluate("vision2audio", good, clips / "manifest.jsonl", seconds=2.5, draws=0, allow_bias=True)
    page = write(found, tmp_path / "out").read_text(encoding="utf-8")
    assert page.count("<audio controls") == 48  # twelve worst, twelve best, made and real
    assert not re.search(r"(src|href)=['\"](?!data:)", page)
    assert "http" not in page
    for name in ("summary.json", "table.md", "table.tex", "results/KL.json"):
        assert (tmp_path / "out" / name).is_file()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["made"] == COUNT
    assert (tmp_path / "out" / "table.md").read_text().count("\n") == 3
    assert r"\toprule" in (tmp_path / "out" / "table.tex").read_text()


def test_without_labels_or_pairs_the_reason_is_given(clips: Path, good: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(good.glob("*.png"))[:20]):
        shutil.copy(path, tmp_path / f"{number}.png")
    found = evaluate("audio2image", tmp_path, good, draws=0)
    assert "no made item has the name of a real one" in found.absent["KL"]
    assert "give --real a manifest with labels" in found.absent["tags"]
    assert "FID" in found.absent  # too few rows for its bias
    assert any("KL" in line and "-" in line for line in lines(found))


def test_bad_folders_and_names(tmp_path: Path, good: Path) -> None:
    with pytest.raises(ValueError, match="no suite 'audio2video': did you mean 'audio2image'"):
        evaluate("audio2video", good, good)
    with pytest.raises(ValueError, match="holds no pictures"):
        evaluate("audio2image", tmp_path, good)
    with pytest.raises(FileNotFoundError, match="no manifest"):
        evaluate("audio2image", good, tmp_path / "none")
    with pytest.raises(ValueError, match="does not take images"):
        evaluate("audio2image", good, good, extractor="beats:mini")
    with pytest.raises(FileNotFoundError, match="holds no results"):
        differences(tmp_path, tmp_path)
    (tmp_path / "broken.png").write_text("no picture")
    with pytest.raises(ValueError, match="broken.png is not a readable picture"):
        evaluate("audio2image", tmp_path, good)
    (tmp_path / "a").mkdir()
    for name in ("a/1.png", "1.png"):
        shutil.copy(next(good.glob("*.png")), tmp_path / name)
    with pytest.raises(ValueError, match="two files of .* have the same stem"):
        collect(tmp_path, "image")
