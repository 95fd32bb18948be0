"""Task: what is trained, what is saved, and that the file rebuilds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from safetensors.torch import load_file

from tests.tiny import SECTION, OtherEncoder, TinyAdapter, TinyData, TinyEncoder, TinyTask, build
from xmodal.adapter_task import AdapterTask
from xmodal.task import Task, batch_length


def trainer(folder: Path, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(default_root_dir=folder, accelerator="cpu", **{**quiet, "max_steps": 3, **options})


def task_from_recipe(seed: int = 0) -> TinyTask:
    torch.manual_seed(seed)
    task = build(SECTION, TinyTask)
    task.recipe = yaml.safe_dump(SECTION)
    return task


@pytest.fixture
def trained(tmp_path: Path) -> tuple[TinyTask, Path]:
    task, fit = task_from_recipe(), trainer(tmp_path)
    fit.fit(task, TinyData())
    fit.save_checkpoint(tmp_path / "a.ckpt")
    return task, tmp_path / "a.ckpt"


def test_checkpoint_holds_exactly_the_adapter(trained: tuple[TinyTask, Path]) -> None:
    checkpoint = torch.load(trained[1], weights_only=True)
    assert set(checkpoint["state_dict"]) == {"adapter.linear.weight", "adapter.linear.bias"}
    assert "hyper_parameters" not in checkpoint
    assert yaml.safe_load(checkpoint["recipe"]) == SECTION


def test_only_the_adapter_is_trained(tmp_path: Path) -> None:
    task = task_from_recipe()
    frozen = [value.clone() for value in (*task.encoder.parameters(), *task.encoder.buffers())]
    adapter = task.adapter.linear.weight.clone()
    trainer(tmp_path).fit(task, TinyData())
    assert all(map(torch.equal, frozen, (*task.encoder.parameters(), *task.encoder.buffers())))
    assert not torch.equal(adapter, task.adapter.linear.weight)


def test_optimizer_and_schedule(tmp_path: Path) -> None:
    task, fit = task_from_recipe(), trainer(tmp_path)
    fit.fit(task, TinyData())
    (optimizer,) = fit.optimizers
    (group,) = optimizer.param_groups
    assert {id(each) for each in group["params"]} == {id(each) for each in task.adapter.parameters()}
    assert group["lr"] == pytest.approx(0.1 * 0.5**3)


def test_nothing_to_train_is_an_error(tmp_path: Path) -> None:
    task = task_from_recipe()
    task.adapter.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameters"):
        trainer(tmp_path).fit(task, TinyData())


def test_logs_each_term_and_their_sum(tmp_path: Path) -> None:
    task, fit = task_from_recipe(), trainer(tmp_path, max_epochs=1, max_steps=-1)
    fit.fit(task, TinyData())
    logged = fit.callback_metrics
    for stage in ("train", "val"):
        assert logged[f"{stage}/loss"] == pytest.approx(float(logged[f"{stage}/error"] + logged[f"{stage}/size"]), rel=1e-5)


def test_resume_equals_an_uninterrupted_run(tmp_path: Path) -> None:
    whole = task_from_recipe()
    trainer(tmp_path, max_epochs=4, max_steps=-1).fit(whole, TinyData())
    first = trainer(tmp_path, max_epochs=2, max_steps=-1)
    first.fit(task_from_recipe(), TinyData())
    first.save_checkpoint(tmp_path / "half.ckpt")
    rest = task_from_recipe()
    trainer(tmp_path, max_epochs=4, max_steps=-1).fit(rest, TinyData(), ckpt_path=str(tmp_path / "half.ckpt"))
    assert torch.equal(whole.adapter.linear.weight, rest.adapter.linear.weight)


def test_checkpoint_describes_itself(trained: tuple[TinyTask, Path]) -> None:
    task, path = trained
    again = Task.from_checkpoint(path)
    assert isinstance(again, TinyTask)
    assert not again.training
    assert torch.equal(again.adapter.linear.weight, task.adapter.linear.weight)
    assert again.recipe == task.recipe


def test_parts_replace_those_of_the_recipe(trained: tuple[TinyTask, Path]) -> None:
    encoder = OtherEncoder()
    assert Task.from_checkpoint(trained[1], encoder=encoder, weight=2.0).encoder is encoder
    with pytest.raises(RuntimeError, match="size mismatch"):
        Task.from_checkpoint(trained[1], encoder=TinyEncoder(dim=7))


def test_trained_from_python(tmp_path: Path) -> None:
    task, fit = TinyTask(TinyEncoder(), TinyAdapter), trainer(tmp_path)
    fit.fit(task, TinyData())
    fit.save_checkpoint(tmp_path / "a.ckpt")
    again = Task.from_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(again.adapter.linear.weight, task.adapter.linear.weight)
    task, fit = TinyTask(TinyEncoder(), lambda *sizes: TinyAdapter(*sizes)), trainer(tmp_path)
    fit.fit(task, TinyData())
    fit.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="holds no recipe"):
        TinyTask.from_checkpoint(tmp_path / "a.ckpt")
    again = TinyTask.from_checkpoint(tmp_path / "a.ckpt", encoder=TinyEncoder(), adapter=TinyAdapter)
    assert torch.equal(again.adapter.linear.weight, task.adapter.linear.weight)


def test_folder_round_trip(trained: tuple[TinyTask, Path], tmp_path: Path) -> None:
    folder = trained[0].save_adapter(tmp_path / "tiny-adapter", metrics={"error": 0.25}, dtype=torch.float16)
    assert {path.name for path in folder.iterdir()} == {"adapter.safetensors", "recipe.yaml", "README.md"}
    weights = load_file(folder / "adapter.safetensors")
    assert set(weights) == {"linear.weight", "linear.bias"}
    assert weights["linear.bias"].dtype == torch.float16
    again = AdapterTask.from_folder(folder)
    assert again.adapter.linear.weight.dtype == torch.float32
    assert torch.allclose(again.adapter.linear.weight, trained[0].adapter.linear.weight, atol=1e-3)
    assert again.pipeline()(torch.randn(2, 6)).shape == (2, 2)
    assert "error: 0.25" in (folder / "README.md").read_text()


def test_a_failed_save_leaves_the_old_adapter(trained: tuple[TinyTask, Path], tmp_path: Path, monkeypatch: Any) -> None:
    folder = trained[0].save_adapter(tmp_path / "a")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr("xmodal.registry.publishing.save_file", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        trained[0].save_adapter(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_bad_sources(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Task.from_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(FileNotFoundError, match=r"adapter\.safetensors"):
        AdapterTask.from_folder(tmp_path)
    torch.save({"a": 1}, tmp_path / "b.ckpt")
    with pytest.raises(ValueError, match="no state_dict"):
        Task.from_checkpoint(tmp_path / "b.ckpt")
    with pytest.raises(ValueError, match="adapter is <function .*which no recipe can name"):
        TinyTask(TinyEncoder(), lambda *sizes: TinyAdapter(*sizes)).save_adapter(tmp_path / "x")


def test_build_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="wieght"):
        build({**SECTION, "init_args": {**SECTION["init_args"], "wieght": 1}}, Task)
    with pytest.raises(ValueError, match="TinyEncoder"):
        build(SECTION["init_args"]["encoder"], Task)


def test_impossible_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="from size 4 to size 0"):
        TinyTask(TinyEncoder()).build_adapter(TinyAdapter, 4, 0)


def test_swapping_the_encoder_keeps_the_adapters_initial_weights() -> None:
    other = {"class_path": "tests.tiny.OtherEncoder", "init_args": {"dim": 4}}
    swapped = {**SECTION, "init_args": {**SECTION["init_args"], "encoder": other}}
    torch.manual_seed(0)
    one = build(SECTION, TinyTask)
    torch.manual_seed(0)
    two = build(swapped, TinyTask)
    assert type(one.encoder) is not type(two.encoder)
    assert torch.equal(one.adapter.linear.weight, two.adapter.linear.weight)


def test_batch_length() -> None:
    assert batch_length({"name": ["dog", "bell"], "pixels": torch.zeros(2, 3)}) == 2
    assert batch_length([torch.zeros(5, 2), torch.zeros(5)]) == 5
    assert batch_length({"scalar": torch.zeros(())}) == 1
