"""The stored cases: inputs and the values of a float64 reference of each definition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parent.parent / "golden" / "metrics"
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text())


def cases(kind: str) -> list[str]:
    found = [name for name, case in EXPECTED.items() if case.get("kind") == kind and (FOLDER / case.get("file", "")).exists()]
    assert found, kind
    return found


def tensors(name: str) -> dict[str, Tensor]:
    return load_file(FOLDER / EXPECTED[name]["file"])


def near(name: str, value: Any, key: str, prefix: str = "") -> None:
    case = EXPECTED[name]
    error = abs(float(value) - case[key])
    allowed = case[f"{prefix}rtol"] * abs(case[key]) + case[f"{prefix}atol"]
    assert error <= allowed, f"{name}.{key}: {float(value)} for {case[key]}"
