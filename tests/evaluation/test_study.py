"""A study asks each rater all things in an order of their own, in a real browser; its analysis gives known answers."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from xmodal.__main__ import run
from xmodal.evaluation.study import Plan, analyse, lines, make
from xmodal.metrics.human import krippendorff_alpha, mean_opinion, opinion

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
# A rater that plays everything, believes that A is good and B is bad, and does what the checks say.
RATER = """
<script>
const taste = {A: "5", B: "2"};
setTimeout(function step() {
  const start = document.getElementById("start"), next = document.getElementById("next");
  if (start) start.click();
  else if (next) {
    const blocked = next.disabled;
    for (const each of document.querySelectorAll("audio,video")) each.dispatchEvent(new Event("ended"));
    const trial = list[answers.length ? answers[answers.length - 1].trial + 1 : 0];
    const left = trial.swapped ? trial.shown[1] : trial.shown[0];
    const wish = trial.check || (study.pairs ? (left === "A" ? "left" : "right") : taste[trial.shown[0]]);
    for (const each of document.querySelectorAll(`input[value="${wish}"]`)) each.click();
    if (!blocked || next.disabled) { document.title = "wrong"; return; }
    next.click();
  } else if (document.getElementById("export")) {
    const made = document.createElement("pre");
    made.id = "csv";
    made.textContent = csv();
    document.body.append(made);
    return;
  }
  setTimeout(step, 5);
}, 5);
</script>
"""


def results(folder: Path, names: str, suffix: str, shade: int) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        if suffix == ".png":
            Image.new("RGB", (8, 8), (shade, shade, shade)).save(folder / f"{name}.png")
        else:
            soundfile.write(folder / f"{name}.wav", np.full(80, shade / 255), 8_000)
    return folder


@pytest.fixture
def systems(tmp_path: Path) -> dict[str, Path]:
    return {"ours": results(tmp_path / "ours", "abcd", ".png", 200), "theirs": results(tmp_path / "theirs", "bcde", ".png", 50)}


def answer(page: Path, rater: str, tmp_path: Path) -> Path:
    """The csv that a rater saves, as Chromium makes it."""
    played = page.with_name(f"{rater}.html")
    played.write_text(page.read_text("utf-8").replace("</body>", RATER + "</body>"), "utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / rater}", "--dump-dom"]
    command += ["--virtual-time-budget=60000", f"file://{played}?rater={rater}"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="csv">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:]
    saved = tmp_path / f"{rater}.csv"
    saved.write_text(html.unescape(found[1]), "utf-8")
    return saved


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("mode", ["ratings", "pairs"])
def test_raters_in_a_browser(systems: dict[str, Path], tmp_path: Path, mode: str) -> None:
    given = results(tmp_path / "given", "abcde", ".wav", 100)
    plan = Plan(mode=mode, questions=("Good, or not?", "“Fits” <b>?"), repeats=1, checks=2)
    page = make(systems, tmp_path / "study", given, plan)
    saved = [answer(page, rater, tmp_path) for rater in ("r1", "r2", "r3")]
    orders = []
    for path in saved:
        rows = list(csv.DictReader(path.open(encoding="utf-8")))
        asked = [row for row in rows if row["is_repeat"] == "0" and not row["is_check"] and row["question"] == "Good, or not?"]
        assert Counter(row["item_id"] for row in asked) == dict.fromkeys(("i1", "i2", "i3"), 2 if mode == "ratings" else 1)
        assert sum(row["is_repeat"] == "1" for row in rows) == 2
        assert sum(bool(row["is_check"]) for row in rows) == 4
        orders.append([(row["item_id"], row["system"]) for row in asked])
    assert len({str(order) for order in orders}) > 1
    found = analyse(tmp_path / "study" / "key.json", saved)
    assert (found.raters, found.excluded) == (["r1", "r2", "r3"], {})
    if mode == "ratings":
        assert {key[0]: score.mean for key, score in found.opinions.items()} == {"ours": 5.0, "theirs": 2.0}
        assert found.alpha["Good, or not?"] == 1
    else:
        won = found.preferences["ours", "theirs", "Good, or not?"]
        assert (won.rate, found.ties["ours", "theirs", "Good, or not?"]) == (1.0, 0)
    assert "3 raters" in lines(found)[0]


def test_the_page_tells_no_system_and_no_name(systems: dict[str, Path], tmp_path: Path) -> None:
    page = make(systems, tmp_path / "study")
    assert not re.search("ours|theirs", page.read_text("utf-8"))
    assert all(re.fullmatch(r"\d{6}\.png", path.name) for path in (page.parent / "media").iterdir())
    assert len(list((page.parent / "media").iterdir())) == 6
    key = json.loads((tmp_path / "study" / "key.json").read_text())
    assert (key["systems"], key["left_out"]) == ({"A": "ours", "B": "theirs"}, ["a", "e"])
    assert list(key["items"].values()) == ["b", "c", "d"]
    assert "</script><b>" not in make(systems, tmp_path / "other", plan=Plan(title="</script><b>")).read_text("utf-8")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "votes"}, "ratings or pairs"),
        ({"questions": ("",)}, "--question"),
        ({"questions": ("a", "a")}, "twice"),
        ({"checks": -1}, "cannot be"),
    ],
)
def test_plans_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Plan(**options)


def test_nothing_in_common_and_a_full_folder(systems: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no result has the same name in all of"):
        make({**systems, "third": results(tmp_path / "third", "xyz", ".png", 1)}, tmp_path / "study")
    with pytest.raises(FileExistsError, match="give another folder with --output"):
        make(systems, tmp_path)
    with pytest.raises(ValueError, match="at least two systems"):
        make({"one": systems["ours"]}, tmp_path / "study", plan=Plan(mode="pairs"))


HEAD = "study_id,rater_id,trial,item_id,system,system_b,question,answer,swapped,is_repeat,is_check"


def saved(path: Path, identity: str, rater: str, rows: list[tuple[str, str, str, int, str]]) -> Path:
    """Rows: item, system, answer, repeat, check."""
    out = io.StringIO()
    out.write(HEAD + "\n")
    for trial, (item, system, given, repeat, check) in enumerate(rows):
        out.write(f"{identity},{rater},{trial},{item},{system},,Fits?,{given},0,{repeat},{check}\n")
    path.write_text(out.getvalue())
    return path


def test_raters_who_do_not_attend_are_left_out(systems: dict[str, Path], tmp_path: Path) -> None:
    make(systems, tmp_path / "study", plan=Plan(questions=("Fits?",)))
    key = tmp_path / "study" / "key.json"
    identity = json.loads(key.read_text())["id"]
    good = [("i1", "A", "4", 0, ""), ("i2", "A", "5", 0, ""), ("i1", "B", "2", 0, ""), ("i2", "B", "1", 0, "")]
    one = saved(tmp_path / "1.csv", identity, "one", [*good, ("i1", "A", "3", 1, ""), ("i2", "A", "2", 0, "2")])
    two = saved(tmp_path / "2.csv", identity, "two", [*good, ("i2", "A", "4", 0, "2")])
    three = saved(tmp_path / "3.csv", identity, "three", [*good, ("i1", "A", "1", 1, "")])
    found = analyse(key, [one, two, three])
    assert found.raters == ["one"]
    assert found.excluded == {"two": "1 checks failed", "three": "repeats differ by 3.0 points on average"}
    assert found.opinions["ours", "Fits?"].mean == 4.5
    assert found.opinions["ours", "Fits?"].half_items == pytest.approx(12.706 * math.sqrt(0.5) / math.sqrt(2), rel=1e-3)
    with pytest.raises(ValueError, match=r"1.csv and .*1.csv both hold trial 0 of rater one"):
        analyse(key, [one, one])
    with pytest.raises(ValueError, match=r"other.csv, line 2 is of the study 'sother'"):
        analyse(key, [saved(tmp_path / "other.csv", "sother", "x", good)])
    with pytest.raises(ValueError, match=r"wild.csv, line 2 answers '9'"):
        analyse(key, [saved(tmp_path / "wild.csv", identity, "x", [("i1", "A", "9", 0, "")])])


def test_agreement_is_krippendorffs_own_example() -> None:
    # K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C: four observers, twelve units; interval .849.
    none = None
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, none, none, none],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, none, 3],
        [none, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, none],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, none],
    ]
    units = [[float(value) for value in unit if value is not None] for unit in zip(*observers, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.849, abs=5e-4)
    assert math.isnan(krippendorff_alpha([[1.0, 1.0], [1.0, 1.0]]))


def test_ragged_ratings_are_full_ones_where_none_lacks() -> None:
    table = np.random.RandomState(0).randint(1, 6, (5, 3))
    assert opinion(table.tolist()) == mean_opinion(table)
    with pytest.raises(ValueError, match="at least 2 items"):
        opinion([[1.0, 2.0]])


def test_from_the_command_line(systems: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"{name}={folder}" for name, folder in systems.items()]
    run(["study", "make", *words, "--question", "Fits?", "-o", str(tmp_path / "study")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "study" / "page" / "index.html")
    identity = json.loads((tmp_path / "study" / "key.json").read_text())["id"]
    rows = [("i1", "A", "4", 0, ""), ("i2", "A", "5", 0, ""), ("i1", "B", "2", 0, ""), ("i2", "B", "1", 0, "")]
    run(["study", "analyse", str(tmp_path / "study"), str(saved(tmp_path / "1.csv", identity, "one", rows))])
    told = capsys.readouterr().out
    assert "1 rater\n" in told
    assert "ours    4.50" in told
