"""The suite av-benchmark against what its namesake returned (tests/golden), and over files with small judges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from torch import nn

from xmodal.__main__ import main
from xmodal.evaluation.evaluate import evaluate
from xmodal.evaluation.items import Item, View
from xmodal.evaluation.judges import SYNC, VIDEO_EYE, Extractor, Frames, Judges, Synchrony
from xmodal.evaluation.report import write
from xmodal.evaluation.result import FLOOR, lines
from xmodal.evaluation.suites import SUITES, results
from xmodal.foundation import imagebind, panns, passt, vggish
from xmodal.foundation.synchformer import Synchformer, SyncModule
from xmodal.metrics import CosineScore, DeSync
from xmodal.registry.models import load

PLACE = Path(__file__).parent.parent / "golden"
GOLDEN = load_file(PLACE / "av_benchmark.safetensors")
KNOWN = json.loads((PLACE / "av_benchmark.json").read_text("utf-8"))
TRUTH: dict[str, float] = KNOWN["definition_float64"]
REAL, MADE = KNOWN["real_names"], KNOWN["made_names"]
PAIRS = [name for name in MADE if name in REAL]
SUITE = SUITES["av-benchmark"]
SOURCES = {  # ours: of the real side, of the made side
    "passt": ("passt_embed", "passt_embed"), "passt_logits": ("passt_logits", "passt_logits"),
    "panns": ("panns_2048", "panns_2048"), "panns_logits": ("panns_logits", "panns_logits"), "vggish": ("vggish", "vggish"),
    VIDEO_EYE: ("imagebind_video", ""), "imagebind": ("", "imagebind_audio"),
}  # fmt: skip


def module() -> SyncModule:
    state = {name.removeprefix("sync."): value for name, value in GOLDEN.items() if name.startswith("sync.")}
    return SyncModule.of(state | {"vfeat_extractor.x": torch.zeros(1)}, Path("golden"), heads=4)


@torch.no_grad()
def sync_rows() -> dict[str, torch.Tensor]:
    """Logits (2, 21) of the pairs."""
    pictures = torch.stack([GOLDEN["real.synchformer_video"][REAL.index(name)] for name in PAIRS])
    sound = torch.stack([GOLDEN["made.synchformer_audio"][MADE.index(name)] for name in PAIRS])
    return dict(zip(PAIRS, module().windows(pictures, sound), strict=True))


def test_synchronisation_module() -> None:
    made = torch.stack(list(sync_rows().values()))
    torch.testing.assert_close(made, GOLDEN["sync_tiny_logits"], rtol=0, atol=5e-5)


def test_ties_go_to_the_first() -> None:
    metric = DeSync()
    metric.update(GOLDEN["sync_logits"])
    assert float(metric.compute()) == pytest.approx(KNOWN["made_up_logits"]["desync"], abs=1e-6)
    assert metric.rows("pairs").values.sum() * 2 == pytest.approx(float(GOLDEN["made_up.per_window"].sum()), rel=1e-6)


def view(side: str, names: list[str]) -> View:
    found = View([Item(name, Path(name)) for name in names])
    for source, both in SOURCES.items():
        if key := both[0 if side == "real" else 1]:
            found.rows[source] = dict(zip(names, GOLDEN[f"{side}.{key}"], strict=True))
    if side == "made":
        found.rows[SYNC] = sync_rows()
    return found


def judges() -> Judges:
    """Small ones, whose names stand in the protocols."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        others: dict[str, Any] = {
            slot: Extractor(slot, "audio", 8.0, encoder=factory(), from_start=True)
            for slot, factory in (
                ("passt", passt.tiny()["PaSST"]), ("panns", panns.tiny()["PANNs"]), ("vggish", vggish.tiny()["VGGish"]),
                ("imagebind", imagebind.tiny()["AudioTower"]),
            )
        }  # fmt: skip
        for slot in ("panns", "vggish"):  # random ones whose constants are larger than what they hear
            for name, value in others[slot].encoder.model.named_parameters():
                if name.endswith("bias"):
                    value.zero_()
        others["panns"].encoder.model.bn0.running_mean.fill_(-30)
        others[VIDEO_EYE] = Frames("imagebind", 8.0, imagebind.tiny()["ImageTower"]())
        others[SYNC] = Synchrony("sync", Synchformer.from_parts(Looking(), Hearing(), module(), image_size=8))
    return Judges("audio", None, others=others)


class Looking(nn.Module):
    """Eight tokens of sixteen numbers from a segment's pictures."""

    def forward(self, shown: torch.Tensor) -> torch.Tensor:
        return shown.mean((2, 3, 4)).unflatten(1, (8, 2)).repeat(1, 1, 8)


class Hearing(nn.Module):
    """Six tokens of sixteen numbers from a segment's sound."""

    def forward(self, heard: torch.Tensor) -> torch.Tensor:
        return heard[:, :10_176].unflatten(1, (6, 16, 106)).square().mean(-1).sqrt() * 5


def test_rows_and_pairing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xmodal.metrics.inception.LEAST", 1)  # 26 items in ten splits are too few to quote, not to compute
    found = results(judges(), view("real", REAL), view("made", MADE), SUITE.rows, allow_bias=True, draws=20)
    assert not found.absent
    scores = {name: score for result in found.found.values() for name, score in result.scores.items()}
    theirs = {
        "FD_PaSST": "FD-PASST", "FD_PANNs": "FD-PANN", "FD_VGG": "FD-VGG", "KL_PANNs": "KL-PANNS-softmax",
        "KL_PaSST": "KL-PASST-softmax", "IS_PANNs": "ISC-PANNS-mean", "IS_PANNs_std": "ISC-PANNS-std",
        "IS_PaSST": "ISC-PASST-mean", "IS_PaSST_std": "ISC-PASST-std", "IB": "IB-Score",
    }  # fmt: skip
    for ours, name in theirs.items():
        assert scores[ours].value == pytest.approx(TRUTH[name], rel=1e-5), ours
    assert scores["DeSync"].value == pytest.approx(TRUTH["DeSync"], abs=1e-6)
    assert all(scores[name].low is not None for name in SUITE.columns)


@pytest.mark.parametrize(("kind", "name"), [("laion", "LAION-CLAP-Score"), ("ms", "MS-CLAP-Score")])
def test_clap_scores(kind: str, name: str) -> None:
    metric = CosineScore("CLAP")
    text = torch.stack([GOLDEN[f"real.clap_{kind}_text"][REAL.index(each)] for each in PAIRS])
    metric.update(text, torch.stack([GOLDEN[f"made.clap_{kind}_audio"][MADE.index(each)] for each in PAIRS]), ids=PAIRS)
    assert float(metric.compute()) == pytest.approx(TRUTH[name], rel=1e-5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Four videos of eight seconds with their sounds, one of them a picture alone, and what was made for them."""
    av = pytest.importorskip("av")
    from PIL import Image

    real, made = (tmp_path_factory.mktemp(name) for name in ("real", "made"))
    random = np.random.default_rng(0)
    for index in range(4):
        picture = random.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        if index == 3:
            Image.fromarray(picture).save(real / "3.png")
        else:
            with av.open(str(real / f"{index}.mp4"), "w") as file:
                stream = file.add_stream("mpeg4", rate=25)
                stream.width = stream.height = 16
                stream.pix_fmt = "yuv420p"
                for tick in range(202):
                    shown = np.roll(picture, tick, 0) if tick % 50 > 25 else picture // 2
                    file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(shown))))
                file.mux(stream.encode())
        for folder in (real, made):
            loud = np.repeat(random.uniform(0.01, 0.3, 17), 8000)
            tone = np.sin(np.arange(len(loud)) * random.uniform(0.05, 2)) + 0.1 * random.standard_normal(len(loud))
            soundfile.write(folder / f"{index}.wav", tone * loud, 16_000)
    return real, made


def test_files(folders: tuple[Path, Path], tmp_path: Path) -> None:
    real, made = folders
    found = evaluate("av-benchmark", made, real, judges=judges(), allow_bias=True, draws=20)
    assert set(found.absent) == {"IS_PANNs", "IS_PaSST"}  # four items are too few
    assert "4 rows are too few" in found.absent["IS_PaSST"]
    assert set(found.rows[FLOOR]) == {"KL_PANNs", "KL_PaSST", "IB"}
    assert found.left["made"]["DeSync"] == {"3": "its clip has no video"}
    assert 0 <= found.scores()["DeSync"].value <= 2
    assert "the first 8 s" in found.results["FD_PaSST"].protocol.preprocessing
    told = "\n".join(lines(found))
    assert "FD_PaSST" in told
    assert "judged by" not in told
    write(found, tmp_path)
    table = (tmp_path / "table.md").read_text("utf-8")
    assert [name for name in ("FD_PaSST", "FD_PANNs", "FD_VGG", "KL_PaSST", "IB-score", "DeSync") if name not in table] == []


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["xmodal", *words])
    main()


def test_absent_judges_say_why(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = folders
    torch.manual_seed(0)
    weights = passt.PaSSTModel(passt.PaSSTConfig(width=64, layers=1, heads=1, classes=5)).state_dict()
    torch.save(weights, tmp_path / "passt.pt")
    words = ["evaluate", "--suite", "av-benchmark", "--fake", str(made), "--real", str(real), "--allow-bias", "--draws", "20"]
    run(
        monkeypatch,
        *words,
        "--judge",
        f"passt=passt:{tmp_path / 'passt.pt'}",
        "--judge",
        "vggish=none",
        "-o",
        str(tmp_path / "out"),
    )
    told = capsys.readouterr().out
    assert "KL_PaSST" in told
    assert "padded to 10 s" in (tmp_path / "out" / "results" / "KL_PaSST.json").read_text("utf-8")
    for score, reason in (
        ("DeSync", "no judge was given (--judge sync=MODEL:CARD)"), ("FD_VGG", "no judge was given"),
        ("FD_PANNs", "left out, since"), ("IB", "left out, since"),
    ):  # fmt: skip
        assert any(line.split()[:2] == [score, "-"] and reason in line for line in told.splitlines()), (score, told)
    with pytest.raises(SystemExit):
        run(monkeypatch, *words, "--judge", "ear=beats:mini")
    assert "has no judge 'ear'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(monkeypatch, *words, "--extractor", "beats:mini")
    assert "takes no --extractor" in capsys.readouterr().err


def test_a_synchronizer_is_asked_for() -> None:
    with pytest.raises(ValueError, match="beats:mini has no Synchronizer|does not tell offsets"):
        Synchrony("beats:mini")
    assert load("beats", card="mini").sample_rate == 16_000
