"""Suites on rendered clips: ceilings, floors, protocol, tables, report, and what bad input is told."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.rounding import agree
from xmodal.__main__ import main
from xmodal.evaluation import suites
from xmodal.evaluation.comparison import differences
from xmodal.evaluation.evaluate import evaluate, shuffled
from xmodal.evaluation.items import Item, Judgement, collect
from xmodal.evaluation.judges import Extractor, Joint, Judges, sentences
from xmodal.evaluation.report import write
from xmodal.evaluation.result import CEILING, FLOOR, MADE, lines
from xmodal.evaluation.suites import SUITES, TAGGERS
from xmodal.metrics.features import normalized
from xmodal.miniature import world
from xmodal.miniature.render import render

COUNT = 72
QUICK: dict[str, Any] = {"seconds": 2.5, "draws": 40, "allow_bias": True}


class Oracle:
    """Stands for a trained CLIP or CLAP: the one-hot thing of a clip, read off its files' names, or of a sentence."""

    dim, sample_rate, image_size = len(world.THINGS), 16_000, 64

    def fingerprint(self) -> str:
        return "0" * 64


class ByName(Extractor):
    """An extractor that knows what a file shows from its stem, and what noise it adds from its bytes."""

    def __init__(self, name: str, modality: str) -> None:
        super().__init__(name, modality, 2.5, encoder=Oracle())

    def __call__(self, items: Any, batch_size: int = 32, progress: Any = None, of: str | None = None) -> Any:
        rows = torch.stack([one_hot(read(item, of)) for item in items])
        noise = [torch.Generator().manual_seed(int.from_bytes(path_of(item, of).read_bytes()[-40:-34], "big")) for item in items]
        rows = rows + 0.05 * torch.stack([torch.randn(Oracle.dim, generator=stream) for stream in noise])
        return Judgement(dict(zip([item.id for item in items], rows, strict=True)))


def path_of(item: Item, of: str | None) -> Path:
    return getattr(item, of) if of else item.path


def read(item: Item, of: str | None) -> str:
    # A system's file is named for what it should show; what it does show is the only file of the world with its bytes.
    return SHOWN[path_of(item, of).read_bytes()]


def one_hot(thing: str) -> torch.Tensor:
    return torch.eye(len(world.THINGS))[world.THINGS.index(thing)]


SHOWN: dict[bytes, str] = {}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = render(tmp_path_factory.mktemp("clips"), "test", COUNT).parent
    SHOWN.update({path.read_bytes(): path.stem.split("_")[1] for path in folder.iterdir() if path.suffix in (".png", ".wav")})
    return folder


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


@pytest.fixture
def oracles(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Judges of a suite: the shipped tagger, and oracles in place of CLIP and CLAP."""

    def read_sentences(name: str, texts: list[str], batch_size: int = 64) -> torch.Tensor:
        things = [next(thing for thing in world.THINGS if thing in text) for text in texts]
        return torch.stack([one_hot(thing) for thing in things])

    def read_captions(name: str, texts: dict[str, str]) -> Judgement:
        return Judgement(dict(zip(texts, read_sentences(name, list(texts.values())), strict=True)))

    monkeypatch.setattr("xmodal.evaluation.measures.sentences", read_sentences)
    monkeypatch.setattr("xmodal.evaluation.measures.captions", read_captions)
    monkeypatch.setattr("xmodal.evaluation.judges.sentences", read_sentences)

    def build(suite: str) -> Judges:
        clip, clap = ByName("clip:mini", "image"), ByName("clap:mini", "audio")
        labels = sorted({world.sample("test", index).thing for index in range(COUNT)})
        made = SUITES[suite].modality
        tagger = Extractor(TAGGERS[made], made, 2.5)
        return Judges(made, tagger, clip if suite != "text2audio" else None, clap, Joint(clip, clap, labels), {}, labels)

    return build


@pytest.mark.parametrize(("suite", "distance"), [("audio2image", "FID"), ("vision2audio", "FAD"), ("text2audio", "FAD")])
def test_a_perfect_and_a_wrong_system(clips: Path, good: Path, bad: Path, suite: str, distance: str, oracles: Any) -> None:
    manifest, judges = clips / "manifest.jsonl", oracles(suite)
    best = evaluate(suite, good, manifest, judges=judges, also={"wrong": bad}, **QUICK)
    assert best.absent == {}
    assert set(best.judged.values()) <= set(world.THINGS)  # the tagger of sounds knows sizes and counts, too
    assert set(best.results) == {row.name for row in SUITES[suite].rows}
    assert set(SUITES[suite].columns) <= set(best.scores())
    top, bottom = best.scores(), best.scores("wrong")
    assert top["tag_top1"].value >= 0.95
    assert bottom["tag_top1"].value <= 0.05
    assert top["KL"].value == pytest.approx(0, abs=1e-9)
    assert bottom["KL"].value > 1
    assert top[distance].value == pytest.approx(0, abs=1e-6)
    crossing = {"audio2image": ("AIS", "IIS", "AIC_top1"), "vision2audio": ("CS",), "text2audio": ("CLAP",)}[suite]
    for name in crossing:
        assert top[name].value > bottom[name].value + 0.4, name
    # The real files are the ceiling and so is a perfect system; a wrong one is no better than the floor of the right one.
    for name in (*crossing, "tag_top1"):
        # To the rounding of float32: the same files, but not at the same places of the same batches.
        assert best.scores(CEILING)[name].value == pytest.approx(top[name].value, rel=1e-5)
        assert best.scores(FLOOR)[name].value < top[name].value - 0.4
    assert distance not in best.scores(FLOOR)


def test_a_comparison_pairs_two_evaluations(clips: Path, good: Path, bad: Path, tmp_path: Path, oracles: Any) -> None:
    judges = oracles("audio2image")
    for name, folder in {"best": good, "worst": bad}.items():
        write(evaluate("audio2image", folder, clips / "manifest.jsonl", judges=judges, **QUICK), tmp_path / name)
    found = differences(tmp_path / "best", tmp_path / "worst" / "summary.json")
    assert found["tag_top1"].apart  # type: ignore[union-attr]
    assert found["tag_top1"].value > 0.9  # type: ignore[union-attr]
    assert set(found) >= {"AIS", "IIS", "AIC_top1", "KL", "FID", "KID", "CMMD"}


def test_scores_are_named_and_stamped(clips: Path, good: Path, oracles: Any) -> None:
    found = evaluate("audio2image", good, clips / "manifest.jsonl", judges=oracles("audio2image"), **QUICK)
    protocols = {name: result.protocol for name, result in found.results.items()}
    assert {name: protocols[name].metric for name in ("FID", "KID", "CMMD", "AIS", "AIC")} == {
        "FID": "FID", "KID": "KID", "CMMD": "CMMD", "AIS": "AIS", "AIC": "AIC",
    }  # fmt: skip
    assert "KernelDistance" not in str(found.results)
    assert protocols["KL"].extractor == "picture_tagger:mini"
    assert len(protocols["KL"].weights) == 64
    assert protocols["KL"].small_sample
    assert protocols["AIS"].extractor == "clip:mini and clap:mini"
    assert "labels as 'a photo of a {}' and 'the sound of a {}'" in protocols["AIS"].preprocessing
    assert protocols["AIS"].options["own_pair"] == "excluded"
    assert protocols["AIS"].options["bank_rows"] == COUNT


def test_sounds_and_pictures_are_compared_through_what_they_say() -> None:
    labels = sorted(world.THINGS)
    joint = Joint(ByName("clip:mini", "image"), ByName("clap:mini", "audio"), labels)
    stream = torch.Generator().manual_seed(0)
    turns = [torch.linalg.qr(torch.randn(18, 18, generator=stream)).Q for _ in range(2)]  # two spaces with nothing in common
    joint._sentences = dict(zip(("clip:mini", "clap:mini"), turns, strict=True))
    pictures = joint.picture(turns[0] + 0.05 * torch.randn(18, 18, generator=stream))
    sounds = joint.sound(turns[1] + 0.05 * torch.randn(18, 18, generator=stream))
    cosines = normalized(pictures) @ normalized(sounds).T
    assert cosines.argmax(1).tolist() == list(range(len(labels)))
    assert cosines.diag().min() > 0.8
    assert (cosines - torch.diag(cosines.diag())).max() < 0.3
    direct = Joint(ByName("clip:mini", "image"), ByName("wav2clip:wav2clip", "audio"), [])
    rows = torch.randn(2, 18, generator=stream)
    assert direct.sound(rows) is rows
    with pytest.raises(ValueError, match="compared through sentences about the labels, and 0 labels are known"):
        Joint(ByName("clip:mini", "image"), ByName("clap:mini", "audio"), [])


def test_without_their_weights_columns_are_left_out_with_a_sentence(
    clips: Path, good: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("xmodal.registry.cards.WEIGHTS", tmp_path)
    monkeypatch.setitem(TAGGERS, "image", str_card("picture_tagger"))
    found = evaluate("audio2image", good, clips / "manifest.jsonl", draws=0, allow_bias=True)
    assert set(found.absent) == {"AIS", "AIC", "IIS", "AIS_cosine", "IIS_cosine", "CMMD"}
    assert all("they come with the package, so install it again" in why for why in found.absent.values())
    text = "\n".join(lines(found))
    assert "tag_top1" in text
    assert "left out, since the weights of 'package:clip' are not on this machine" in text
    none = evaluate("audio2image", good, clips / "manifest.jsonl", draws=0, allow_bias=True, clip=None, clap=None)
    assert none.absent["AIC"] == "no encoder of pictures was given (--clip)"


def str_card(model: str) -> str:
    return f"{model}:{Path(suites.__file__).parent.parent / 'miniature' / 'weights' / model}"


def test_the_floor_gives_every_item_another_label() -> None:
    labels = ["a"] * 5 + ["b"] * 3 + ["c"] * 4
    items = [Item(f"{index}", Path("x"), label) for index, label in enumerate(labels)]
    order = shuffled(items)
    assert sorted(order) == list(range(12))
    assert all(labels[row] != labels[other] for row, other in enumerate(order))
    assert [items[other].id for other in order] == [items[other].id for other in shuffled(items)]


def test_file_order_and_folders_do_not_matter(clips: Path, good: Path, tmp_path: Path) -> None:
    rows = (clips / "manifest.jsonl").read_text().splitlines()
    (clips / "backwards.jsonl").write_text("\n".join(reversed(rows)) + "\n")
    for path in good.glob("*.png"):
        folder = tmp_path / f"part{int(path.stem[:4]) % 3}"
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder)
    options: dict[str, Any] = {"draws": 20, "allow_bias": True, "clip": None, "clap": None}
    one = evaluate("audio2image", good, clips / "manifest.jsonl", **options).rows
    two = evaluate("audio2image", tmp_path, clips / "backwards.jsonl", **options).rows
    assert one == two


def test_the_report_is_one_file_with_media(clips: Path, good: Path, tmp_path: Path, oracles: Any) -> None:
    manifest = clips / "manifest.jsonl"
    found = evaluate("vision2audio", good, manifest, judges=oracles("vision2audio"), seconds=2.5, draws=20, allow_bias=True)
    page = write(found, tmp_path / "out").read_text(encoding="utf-8")
    assert page.count("<audio controls") == 48  # twelve worst, twelve best, made and real
    assert page.count("<figcaption>from this picture") == 24
    assert not re.search(r"(src|href)=['\"](?!data:)", page)
    assert "http" not in page
    for name in ("summary.json", "table.md", "table.tex", "results/KL.json", "rows/real/results/CS.json"):
        assert (tmp_path / "out" / name).is_file()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["made"] == COUNT
    assert summary["real_without_made"] == 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:5]] == [MADE, CEILING, FLOOR]
    assert f"**{COUNT} of {COUNT} files of made are the real ones, byte for byte" in table
    assert re.search(r"FD ↓ \| FAD ↓ \| CS ↑ \| KL ↓ \| IS ↑ \| tag accuracy % ↑", table)
    latex = (tmp_path / "out" / "table.tex").read_text()
    assert r"\toprule" in latex
    assert all(line.count("&") == table.splitlines()[0].count("|") - 2 for line in latex.splitlines() if line.endswith(r"\\"))


def test_text_in_labels_and_names_is_no_markup(clips: Path, tmp_path: Path) -> None:
    name = "<script>alert(1)<"
    rows = []
    for index, path in enumerate(sorted(clips.glob("*.png"))[:6]):
        shutil.copy(path, tmp_path / f"{index}.png")
        rows.append(json.dumps({"id": f"{index}", "image": f"{index}.png", "label": name}))
    (tmp_path / "manifest.jsonl").write_text("\n".join(rows))
    found = evaluate("audio2image", tmp_path, tmp_path / "manifest.jsonl", draws=0, clip=None, clap=None)
    assert "<script" not in write(found, tmp_path / "out").read_text(encoding="utf-8")


def test_without_labels_or_pairs_the_reason_is_given(good: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(good.glob("*.png"))[:20]):
        shutil.copy(path, tmp_path / f"{number}.png")
    found = evaluate("audio2image", tmp_path, good, draws=0, clip=None, clap=None)
    assert "no made item has the name of a real one" in found.absent["KL"]
    assert "give --real a manifest with labels" in found.absent["tags"]
    assert re.search(r"sampling alone adds at least about .* of the real features' total variance", found.absent["FID"])
    assert any("KL" in line and "-" in line for line in lines(found))
    assert CEILING not in found.rows


def test_bad_folders_and_names(tmp_path: Path, good: Path) -> None:
    with pytest.raises(ValueError, match="no suite 'audio2video': did you mean 'audio2image'"):
        evaluate("audio2video", good, good)
    with pytest.raises(ValueError, match="holds no pictures"):
        evaluate("audio2image", tmp_path, good)
    with pytest.raises(FileNotFoundError, match="there is no folder and no manifest"):
        evaluate("audio2image", good, tmp_path / "none")
    with pytest.raises(ValueError, match="does not take images"):
        evaluate("audio2image", good, good, extractor="beats:mini")
    with pytest.raises(ValueError, match="no foundation model 'clop'.*did you mean 'clip'"):
        evaluate("audio2image", good, good, clip="clop:mini")
    with pytest.raises(FileNotFoundError, match="holds no results"):
        differences(tmp_path, tmp_path)
    (tmp_path / "broken.png").write_text("no picture")
    with pytest.raises(ValueError, match="nothing could be judged: .*broken.png is not a readable picture"):
        evaluate("audio2image", tmp_path, good, clip=None, clap=None)
    (tmp_path / "a").mkdir()
    for name in ("a/1.png", "1.png"):
        shutil.copy(next(good.glob("*.png")), tmp_path / name)
    with pytest.raises(ValueError, match="two files of .* have the same stem"):
        collect(tmp_path, "image")


def test_a_manifest_gives_the_rows_of_a_split(clips: Path) -> None:
    rows = [json.loads(line) for line in (clips / "manifest.jsonl").read_text().splitlines()]
    for index, row in enumerate(rows):
        row["split"] = "train" if index % 3 else "test"
    (clips / "splits.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert len(collect(clips / "splits.jsonl", "audio", "test")) == COUNT // 3
    assert len(collect(clips / "splits.jsonl", "audio")) == COUNT
    with pytest.raises(ValueError, match="has no rows of split 'heldout'"):
        collect(clips / "splits.jsonl", "image", "heldout")


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["xmodal", *words])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_the_commands(
    clips: Path, good: Path, bad: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = str(clips / "manifest.jsonl")
    common = ("evaluate", "--suite", "audio2image", "--real", manifest, "--clip", "none", "--clap", "none", "--draws", "50")
    code, out, err = run(capsys, monkeypatch, *common, "--fake", str(good), "-o", str(tmp_path / "a"), "--also", f"bad={bad}")
    assert (code, err) == (0, "")
    assert "tag_top1" in out
    assert "at least about" in out  # the distance of 72 pictures is refused, with its bias
    assert out.splitlines()[-1] == str(tmp_path / "a" / "report.html")
    assert "| bad |" in (tmp_path / "a" / "table.md").read_text()
    assert run(capsys, monkeypatch, *common, "--fake", str(bad), "-o", str(tmp_path / "b"))[0] == 0

    code, out, _ = run(capsys, monkeypatch, "compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert code == 0
    assert re.search(r"tag_top1 +\+\S+ +\[\+\S+, \+\S+\]  apart", out)
    code, out, _ = run(capsys, monkeypatch, "compare", *(str(tmp_path / name / "results" / "KL.json") for name in "ab"))
    assert (code, out.split()[0], out.split()[-1]) == (0, "KL", "apart")

    options = [*common, "--seconds", "3"]  # of sounds: pictures do not mind
    options[options.index("50")] = "60"
    assert run(capsys, monkeypatch, *options, "--fake", str(good), "-o", str(tmp_path / "c"))[0] == 0
    code, out, err = run(capsys, monkeypatch, "compare", str(tmp_path / "a"), str(tmp_path / "c"))
    assert code == 1
    assert "the protocols differ in interval ('bootstrap 95 %, 50 draws" in out
    code, out, err = run(capsys, monkeypatch, "compare", *(str(tmp_path / name / "results" / "KL.json") for name in "ac"))
    assert (code, out) == (1, "")
    assert err.startswith("xmodal: error: the protocols differ in")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (("--suite", "audio2video"), 1, "there is no suite 'audio2video'"),
        (("--fake", "nowhere"), 1, "there is no folder and no manifest nowhere"),
        (("--real", "nowhere"), 1, "there is no folder and no manifest nowhere"),
        (("--draws", "-1"), 2, "argument --draws: '-1' is not a whole number"),
        (("--seconds", "0"), 2, "argument --seconds: '0' is not seconds above 0"),
        (("--also", "nothing"), 2, "argument --also: 'nothing' is not NAME=FOLDER"),
        (("--extractor", "nobody:mini"), 1, "there is no foundation model 'nobody'"),
    ],
)
def test_bad_input_is_told_and_writes_nothing(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...], status: int, sentence: str,
) -> None:  # fmt: skip
    common = ("evaluate", "--suite", "audio2image", "--fake", str(good), "--real", str(good), "-o", str(tmp_path / "out"))
    code, out, err = run(capsys, monkeypatch, *common, *words)
    assert code == status
    assert sentence in err
    assert not (tmp_path / "out").exists()


def test_made_items_without_partner(
    clips: Path, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for index, path in enumerate(sorted(good.glob("*.png"))[:12]):
        shutil.copy(path, tmp_path / (path.name if index < 9 else f"odd{index}.png"))
    common = ("evaluate", "--suite", "audio2image", "--fake", str(tmp_path), "--real", str(clips / "manifest.jsonl"))
    common += ("--clip", "none", "--clap", "none", "--draws", "0", "-o", str(tmp_path / "out"))
    code, out, err = run(capsys, monkeypatch, *common)
    assert code == 1
    assert "3 of 12 items" in err
    assert "(odd10, odd11, odd9)" in err
    assert "--allow-missing" in err
    code, out, err = run(capsys, monkeypatch, *common, "--allow-missing")
    assert code == 0
    assert "for 63 of the real items nothing was made" in out


def test_sentences_come_from_the_text_tower_alone() -> None:
    from xmodal.foundation import clip

    reader = clip.tiny()["TextTower"]()
    texts = ["a bell", "a drum", "rain"]
    whole = reader.embed(texts)
    from unittest.mock import patch

    with patch("xmodal.evaluation.judges.load_tower", lambda name, tower: reader):
        assert agree(sentences("clip:mini", texts, batch_size=2), torch.cat([reader.embed(texts[:2]), reader.embed(texts[2:])]))
    assert whole.shape == (3, reader.dim)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LOOK = """async () => {
  const pictures = [...document.images], players = [...document.querySelectorAll('audio')];
  const sound = players[0];
  await sound.play();
  for (let turn = 0; turn < 600 && !sound.currentTime; turn++) await new Promise(done => setTimeout(done, 100));
  return {
    pictures: pictures.length, empty: pictures.filter(each => !each.naturalWidth).length,
    players: players.length, shortest: Math.min(...players.map(each => each.duration)), played: sound.currentTime,
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
}"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_report_opens_in_a_browser_without_a_network(clips: Path, good: Path, tmp_path: Path, oracles: Any) -> None:
    browsers = pytest.importorskip("playwright.sync_api")
    judges = oracles("vision2audio")
    found = evaluate("vision2audio", good, clips / "manifest.jsonl", judges=judges, draws=10, allow_bias=True)
    page = write(found, tmp_path / "out")
    options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    options += ["--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required"]
    with browsers.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=options)
        for width in (1200, 420):
            tab = browser.new_page(viewport={"width": width, "height": 900}, offline=True)
            tab.set_default_timeout(300_000)  # the machine may be busy
            asked: list[str] = []
            wrong: list[str] = []
            tab.on("request", lambda request: asked.append(request.url.partition(":")[0]))  # noqa: B023
            tab.on("pageerror", lambda error: wrong.append(str(error)))  # noqa: B023
            tab.goto(page.as_uri(), wait_until="load")
            seen = tab.evaluate(LOOK)
            assert set(asked) <= {"file", "data"}
            assert wrong == []
            assert seen["pictures"] == 72  # a spectrogram for each player, and the pictures that the sounds were made from
            assert seen["empty"] == 0
            assert seen["players"] == 48
            assert seen["shortest"] == pytest.approx(2.5, abs=0.01)
            assert seen["played"] > 0
            assert seen["wide"] <= 0  # nothing sticks out, on a telephone neither
            tab.close()
        browser.close()
