"""Regression mappers: parity with dalle2-pytorch's MLP, the public file's layout, and what each can and cannot learn."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from xmodal.foundation.base import Adapter
from xmodal.vision2audio import LinearMapper, Mapper, MeanShift, RegressionMapper

GOLDEN = Path(__file__).parent.parent / "golden" / "regression_mlp.safetensors"
FACTORIES: dict[str, Callable[[int, int], Mapper]] = {"mlp": RegressionMapper, "linear": LinearMapper, "shift": MeanShift}


def golden(name: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    with safe_open(GOLDEN, "pt") as file:
        config = json.loads(file.metadata()["config"])[name]
    tensors = load_file(GOLDEN)
    io, state = (
        {key.removeprefix(f"{head}/{name}."): value for key, value in tensors.items() if key.startswith(f"{head}/{name}.")}
        for head in ("io", "state")
    )
    return config, io, state


def close(actual: Tensor, expected: Tensor, atol: float = 1e-6) -> None:
    """Equal to 1e-6 where all values are within one, and to as many bits where some are larger."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("name", ["dalle2_mlp_norm", "dalle2_mlp_deep"])
def test_equals_the_librarys_mlp(name: str) -> None:
    config, io, state = golden(name)
    sizes = {"expansion": config["expansion_factor"], "depth": config["depth"]}
    build = {"source_norm": "none", "scale_target": False, **sizes}
    mapper = RegressionMapper(config["dim_in"], config["dim_out"], **build)
    mapper.load_state_dict(state)
    assert sum(p.numel() for p in mapper.parameters()) == config["n_params"]
    close(mapper(io["x"]), io["out"])
    close(mapper.loss(io["x"], io["target"]), io["mse"][0])
    mapper.loss_kind = "cosine"
    close(mapper.loss(io["x"], io["target"]), io["cosine_loss"][0])
    close(mapper.sample(io["x"]), F.normalize(io["out"], dim=-1))


def test_public_size() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in RegressionMapper(512, 512).parameters()) == 2_103_808


def public_state(source: int = 6, hidden: int = 24, target: int = 5) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = {
        "linear.weight": (hidden, source), "linear.bias": (hidden,), "layer_norm.weight": (hidden,),
        "layer_norm.bias": (hidden,), "linear2.weight": (target, hidden), "linear2.bias": (target,),
    }  # fmt: skip
    return {key: torch.randn(shape, generator=draw) for key, shape in shapes.items()}


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {f"module.{k}": v for k, v in s.items()}])
def test_public_file(tmp_path: Path, wrap: Callable[[dict[str, Tensor]], Any]) -> None:
    state, x = public_state(), torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    torch.save(wrap(state), tmp_path / "v2a_mapper_mlps.pth")
    mapper = RegressionMapper.from_checkpoint(tmp_path / "v2a_mapper_mlps.pth")
    hidden = F.silu(x @ state["linear.weight"].T + state["linear.bias"])
    hidden = F.layer_norm(hidden, (24,), state["layer_norm.weight"], state["layer_norm.bias"])
    expected = hidden @ state["linear2.weight"].T + state["linear2.bias"]
    close(mapper(x), expected, 1e-5)
    close(mapper.sample(x), F.normalize(expected, dim=-1))


def test_library_file(tmp_path: Path) -> None:
    _, io, state = golden("dalle2_mlp_deep")
    save_file(state, tmp_path / "mlp.safetensors")
    close(RegressionMapper.from_checkpoint(tmp_path / "mlp.safetensors")(io["x"]), io["out"])


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        RegressionMapper.from_checkpoint(path)
    path.write_bytes(b"not a file of torch")
    with pytest.raises(ValueError, match="cannot be read"):
        RegressionMapper.from_checkpoint(path)
    for content, said in [
        ({"epoch": 3}, "holds no tensors by name"),
        (public_state() | {"linear3.weight": torch.ones(1)}, "'linear3.weight', but expected"),
        ({"layer_norm.weight": torch.ones(4)}, "first or the last linear layer is missing"),
        (public_state() | {"layer_norm.bias": torch.ones(3)}, "does not fit"),
    ]:
        torch.save(content, path)
        with pytest.raises(ValueError, match=said):
            RegressionMapper.from_checkpoint(path)


# ---- what every mapper promises


@pytest.mark.parametrize("name", FACTORIES)
def test_contract(name: str) -> None:
    mapper = FACTORIES[name](6, 6)
    assert isinstance(mapper, Adapter)
    source, target = torch.randn(5, 6), torch.randn(5, 6)
    kept = source.clone(), target.clone()
    loss = mapper.loss(source, target)
    loss.backward()
    assert loss.ndim == 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in mapper.named_parameters() if not n.endswith("norm.bias"))
    assert torch.equal(source, kept[0])
    assert torch.equal(target, kept[1])
    found = mapper.sample(source, generator=None, num_inference_steps=3)
    close(found.norm(dim=-1), torch.ones(5))
    close(mapper.sample(source.flip(0)[:2]), found.flip(0)[:2])
    close(mapper.loss(source, 7 * target), loss.detach(), 1e-5)  # the length of a target is not learned
    for wrong in ((source[:, :4], target), (source, target[:, :4]), (source, target[:3]), (source[0], target[0])):
        with pytest.raises(ValueError, match="shape|one for one"):
            mapper.loss(*wrong)


def test_source_norms() -> None:
    x = torch.tensor([[3.0, 4.0]])
    close(LinearMapper(2, 3).prepare(x), x / 5 * math.sqrt(2))
    close(LinearMapper(2, 3, source_norm="unit").prepare(x), x / 5)
    close(LinearMapper(2, 3, source_norm="none").prepare(x), x)


def test_options_that_cannot_work() -> None:
    with pytest.raises(ValueError, match="not 6 and 5: use LinearMapper"):
        MeanShift(6, 5)
    with pytest.raises(ValueError, match="not 6 and 5: set it to false"):
        RegressionMapper(6, 5, residual=True)
    with pytest.raises(ValueError, match="scaled, unit, none"):
        LinearMapper(6, 5, source_norm="raw")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mse, cosine"):
        LinearMapper(6, 5, loss="l3")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="depth 0"):
        RegressionMapper(6, 5, depth=0)


def fit(mapper: Mapper, source: Tensor, target: Tensor, steps: int = 300) -> Tensor:
    optimizer = torch.optim.Adam(mapper.parameters(), 0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        mapper.loss(source, target).backward()
        optimizer.step()
    with torch.no_grad():
        return F.cosine_similarity(mapper.sample(source), target).mean()


def test_floors_stand_where_they_should() -> None:
    """A rotation is linear and no shift; a shift is both; a product of signs is neither."""
    torch.manual_seed(0)
    source = F.normalize(torch.randn(256, 8), dim=-1)
    turned = source @ torch.linalg.qr(torch.randn(8, 8))[0]
    moved = source + 0.4
    bent = F.normalize((source * source.roll(1, -1)).sign() + 0.1, dim=-1)
    assert fit(LinearMapper(8, 8), source, turned) > 0.99
    assert fit(MeanShift(8, 8), source, turned) < 0.5
    assert fit(MeanShift(8, 8), source, moved) > 0.95
    assert fit(LinearMapper(8, 8), source, bent) < 0.5
    assert fit(RegressionMapper(8, 8, hidden_dim=64), source, bent) > 0.8
    assert fit(RegressionMapper(8, 8, hidden_dim=64, residual=True, loss="cosine"), source, turned) > 0.95
