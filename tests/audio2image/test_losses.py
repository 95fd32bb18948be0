"""AudioToken's losses against tensors of its public code (tests/golden)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from xmodal.audio2image.losses import classification_loss, l1_loss, l2_loss


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(Path(__file__).parent.parent / "golden" / "audiotoken_losses.safetensors")


def test_terms_and_their_sum(golden: dict[str, Tensor]) -> None:
    token = golden["audio_token"]
    denoising = (golden["model_pred"] - golden["target"]).square().mean()
    found = {
        "loss_ldm": denoising,
        "l1": l1_loss(token),
        "l2": l2_loss(token),
        "loss_cl": classification_loss(token, golden["label_target"]),
    }
    found["total_default"] = denoising + 0.01 * found["l1"]
    found["total_with_cl"] = found["total_default"] + 0.01 * found["loss_cl"]
    for name, value in found.items():
        torch.testing.assert_close(value, golden[name][0], atol=1e-6, rtol=1e-6)


def test_label_target_is_the_mean_of_rows(golden: dict[str, Tensor]) -> None:
    rows = [golden["token_table"][ids[ids >= 0]].mean(0) for ids in golden["label_token_ids"]]
    torch.testing.assert_close(torch.stack(rows), golden["label_target"], atol=1e-6, rtol=0)


def test_the_mean_is_taken_before_the_square() -> None:
    token, label = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert classification_loss(token, label) == 1  # cosines 1 and -1; squaring first would give 2
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(1, 2\)"):
        classification_loss(token, label[:1])
