"""What the benchmarks keep on the disk serves the next call, and is made anew where it was made of something else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.scripts import script
from xmodal.frozen import Frozen
from xmodal.miniature import world

trial: Any = script("benchmarks/trial.py")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    real = trial.precompute

    def counted(task: Any, clips: Any) -> Any:
        found.append(type(task).__name__)
        return real(task, clips)

    monkeypatch.setattr(trial, "precompute", counted)
    return found


def small(name: str, *overlays: str, **variables: Any) -> dict[str, Any]:
    recipe: dict[str, Any] = trial.load_recipe(name, *overlays, **variables)
    recipe["data"]["init_args"] |= {"train_count": 16, "batch_size": 8}
    return recipe


def test_features_are_computed_once_for_the_same_weights(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, file = small("miniature/v2a_regression"), tmp_path / "features.pt"
    first, again = trial.featured(recipe, file), trial.featured(recipe, file)
    assert len(calls) == 1
    assert all(torch.equal(first[name], again[name]) for name in first)
    monkeypatch.setattr(Frozen, "fingerprint", lambda part: "trained on")
    trial.featured(recipe, file)
    assert len(calls) == 2


def test_features_of_another_condition_are_not_taken_for_these(tmp_path: Path, calls: list[str]) -> None:
    file, names = tmp_path / "features.pt", []
    for overlay in ("overlays/clipsonic_mini_clip_tta", "overlays/clipsonic_noise"):
        names.append(set(trial.featured(small("miniature/clipsonic", overlay), file)))
    assert names == [{"latents"}, {"latents", "condition"}]
    assert len(calls) == 2


def test_weights_are_trained_once_for_the_same_start_and_features(tmp_path: Path) -> None:
    recipe, file = small("miniature/v2a_regression", steps=2), tmp_path / "mapper.ckpt"
    start = Path(
        shutil.copytree(Path(world.__file__).parent / "weights" / "adapters" / "v2a-regression-mini", tmp_path / "start")
    )
    recipe["model"]["init_args"]["weights"] = str(start)
    features = trial.featured(recipe, tmp_path / "features.pt")

    def trained(features: Any, **changes: Any) -> bool:
        before = file.stat().st_mtime_ns if file.exists() else None
        trial.trained({**recipe, "trainer": {**recipe["trainer"], **changes}}, features, 0, file)
        return file.stat().st_mtime_ns != before

    assert trained(features)
    assert not trained(features)
    assert trained({**features, "audio_embedding": features["audio_embedding"].roll(1, 0)})
    assert trained(features, max_steps=1)
    weights = load_file(start / "adapter.safetensors")
    save_file({name: 1.5 * value for name, value in weights.items()}, start / "adapter.safetensors")
    assert trained(features, max_steps=1)  # of the same name, and trained on since
