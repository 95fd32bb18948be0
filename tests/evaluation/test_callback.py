"""The suite within `xmodal test`: one process or two, rendered clips or a manifest, the shipped adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from tests.rounding import alike
from xmodal.evaluation.callback import SuiteTest
from xmodal.evaluation.result import CEILING, FLOOR, MADE
from xmodal.evaluation.suites import SUITES, Suite
from xmodal.miniature import world
from xmodal.miniature.data import World
from xmodal.task import Task

CLIPS = 7  # no multiple of two processes: the sampler repeats one


class Copier(Task):
    """Paints what is to be painted, every third time the next clip instead. Its suite is one of its own."""

    suite = Suite("copies", "image", "audio", SUITES["audio2image"].rows)

    def __init__(self) -> None:
        super().__init__()
        self.predictions = Path("nowhere")
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def test_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        assert {"waveform", "pixels", "name"} <= set(batch)
        return batch["pixels"].mean()

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        self.predictions.mkdir(parents=True, exist_ok=True)
        for name in batch["id"]:
            number = int(name.removeprefix("clip-"))
            clip = world.sample("test", number + (number % 3 == 2))
            Image.fromarray(world.picture(clip)).save(self.predictions / f"{name}.png")


def judged(folder: Path, devices: int) -> dict[str, Any]:
    data = World(parts=["name"], frozen_parts=["waveform", "pixels"], val_count=CLIPS, batch_size=2)
    callback = SuiteTest(folder, clip=None, clap=None, draws=20)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    strategy = "ddp_fork" if devices > 1 else "auto"
    trainer = Trainer(accelerator="cpu", devices=devices, strategy=strategy, callbacks=[callback], **quiet)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked process cannot use the threads of its parent: it would wait for them
    try:
        trainer.test(Copier(), datamodule=data, verbose=False)
    finally:
        torch.set_num_threads(threads)
    return json.loads((folder / "summary.json").read_text())


def test_one_process_and_two_give_the_same_numbers(tmp_path: Path) -> None:
    (tmp_path / "one" / "made").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "one" / "made" / "old.png")
    one, two = judged(tmp_path / "one", 1), judged(tmp_path / "two", 2)
    assert alike(one, two)
    assert one["suite"] == "copies"
    assert one["made"] == one["real"] == CLIPS  # neither the repeated clip nor the file of an earlier run counts
    assert list(one["scores"]) == [MADE, CEILING, FLOOR]
    names = [world.sample("test", number).thing for number in range(CLIPS)]
    painted = [world.sample("test", number + (number % 3 == 2)).thing for number in range(CLIPS)]
    right = sum(a == b for a, b in zip(names, painted, strict=True)) / CLIPS
    assert one["scores"][MADE]["tag_top1"][0] == pytest.approx(right)
    assert one["scores"][CEILING]["tag_top1"][0] == 1
    assert not (tmp_path / "two" / "processes").exists()
    results = [json.loads((tmp_path / name / "results" / "KL.json").read_text()) for name in ("one", "two")]
    assert alike(*results)


def test_the_command_judges_the_shipped_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from xmodal.commands.lightning import run

    recipe = Path(__file__).parent.parent.parent / "recipes" / "miniature" / "audiotoken.yaml"
    words = f"xmodal test --config {recipe} --model.weights audiotoken-mini --model.num_inference_steps 2"
    words += f" --data.val_count 6 --data.batch_size 3 --trainer.default_root_dir {tmp_path} --trainer.logger false"
    words += " --trainer.enable_progress_bar false"
    monkeypatch.setattr("sys.argv", words.split())
    run()
    printed = capsys.readouterr().out
    assert "audio2image: 6 made, 6 real" in printed
    assert "test/loss" in printed  # the losses are still there
    summary = json.loads((tmp_path / "suite" / "summary.json").read_text())
    assert list(summary["scores"]) == [MADE, "label", CEILING, FLOOR]
    assert {"FID", "tag_top1", "KL"} <= set(summary["scores"][MADE])
    results = {path.stem for path in (tmp_path / "suite" / "results").iterdir()}
    assert results | set(summary["absent"]) == {row.name for row in SUITES["audio2image"].rows}
    assert (tmp_path / "suite" / "report.html").is_file()


def test_what_has_no_suite_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("xmodal.evaluation.callback.rank_zero_info", said.append)
    callback = SuiteTest(tmp_path)

    class Other(LightningModule):
        pass

    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[callback], default_root_dir=tmp_path)
    callback.setup(trainer, Other(), "test")
    callback.on_test_start(trainer, Other())
    callback.on_test_end(trainer, Other())
    assert said == ["no suite of metrics: Other names none (its attribute suite)"]
    assert list(tmp_path.iterdir()) == []


def test_rendered_clips_are_named_by_number_and_kept(tmp_path: Path) -> None:
    data = World(parts=["name"], frozen_parts=["waveform"], val_count=2, batch_size=2)
    data.whole_clips()
    batch = data.whole(next(iter(data.test_dataloader())))
    assert batch["id"] == ["clip-000000", "clip-000001"]
    rows = data.keep(batch, tmp_path)
    assert [row["image"] for row in rows] == ["clip-000000.png", "clip-000001.png"]
    assert {path.name for path in tmp_path.iterdir()} == {row[kind] for row in rows for kind in ("audio", "image")}
    assert rows[0]["text"].startswith("the sound of")
