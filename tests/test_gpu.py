"""What a GPU is used for: the benchmark's parts in miniature, no waiting within a step, the optimizer's fused form."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.tiny import TinyEncoder, TinyTask, tiny_stable_diffusion
from xmodal.audio2image import AudioToken
from xmodal.foundation import beats
from xmodal.task import fuse

ROOT = Path(__file__).parent.parent
WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "unique")  # what asks a device for an answer


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "gpu", raising=False)
    import gpu  # type: ignore[import-not-found]

    return gpu


@pytest.mark.slow
def test_every_part_of_the_benchmark_runs_tiny(bench: Any, tmp_path: Path) -> None:
    bench.main(["--tiny", "-o", str(tmp_path / "gpu.json")])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert (found["card"], found["tiny"]) == ("CPU", True)
    assert list(found["parts"]) == [*bench.PARTS]
    rows = [row for part in found["parts"].values() for row in part.values()]
    assert len(rows) == 7
    assert all(row["samples_per_second"] > 0 for row in rows)
    trained = [*found["parts"]["v2a"].values(), *found["parts"]["clipsonic"].values()]
    assert all(row["flops_per_sample"] > 1000 for row in trained)


def test_without_a_gpu_it_says_so(
    bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        bench.main(["-o", str(tmp_path / "gpu.json")])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "needs a CUDA GPU" in line
    with pytest.raises(SystemExit):
        bench.main(["--tiny"])  # would stand among what was measured
    assert not (tmp_path / "gpu.json").exists()


class Asked(TorchDispatchMode):
    """Counts the operations that make the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in WAITS:
            self.found.append(name)
        return function(*arguments, **(options or {}))


def test_a_step_of_audiotoken_does_not_wait_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    ear = beats.tiny()["BEATs"]()
    task = AudioToken(ear, tiny_stable_diffusion(), l1_weight=0.01, l2_weight=0.01).train()
    stored = task.features({"waveform": torch.randn(2, 17600) * 0.1, "pixels": torch.rand(2, 3, 32, 32)})
    monkeypatch.setattr(task, "log_dict", lambda *values, **options: None)
    monkeypatch.setattr(task, "_watch", lambda loss: None)
    optimizer: Any = task.configure_optimizers()
    with Asked() as asked:
        torch.ones(1).item()
        assert asked.found == ["_local_scalar_dense"]
        task.training_step(stored, 0).backward()
    assert asked.found == ["_local_scalar_dense"]
    optimizer.step()


def test_losses_are_asked_for_when_values_are_logged() -> None:
    """A tensor without a value stands for one that a device has not computed yet."""
    task = TinyTask(TinyEncoder())
    for _ in range(49):
        task._watch(torch.zeros((), device="meta"))
    with pytest.raises(RuntimeError, match="meta"):
        task._watch(torch.zeros((), device="meta"))


def test_the_fused_optimizer_updates_alike() -> None:
    weights = [torch.nn.Parameter(torch.linspace(-1, 1, 12)) for _ in range(3)]
    plain, other, mine = (torch.optim.AdamW([each], lr=0.1) for each in weights)
    assert fuse(plain).param_groups[0]["fused"] is None  # there is no GPU under it
    assert fuse(torch.optim.AdamW(weights, foreach=True), "cpu").param_groups[0]["fused"] is None
    assert fuse(torch.optim.AdamW(weights, fused=False), "cpu").param_groups[0]["fused"] is False
    assert fuse(other, "cpu").param_groups[0]["fused"] is True
    assert not getattr(other, "_step_supports_amp_scaling", False)  # by which Lightning would refuse to clip gradients
    for _ in range(3):
        for weight, optimizer in zip(weights, (plain, other, mine), strict=True):
            optimizer.zero_grad()
            weight.square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(weights[1].data, weights[0].data)
    mine.load_state_dict(other.state_dict())  # a checkpoint of one is a checkpoint of the other
    assert mine.param_groups[0]["fused"] is True
    mine.step()
