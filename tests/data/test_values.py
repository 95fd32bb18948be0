"""Values from memory are checked as files are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.test_audio import RATE, tone
from xmodal.data.values import channels, check_pixels, check_waveform, finite, pixels, waveform, whole

MONO = tone()[:, 0]
STEREO = np.stack([MONO, 0.5 * MONO])


@pytest.mark.parametrize("given", [STEREO, STEREO.T, torch.from_numpy(STEREO), STEREO.T.astype(np.float64), STEREO.tolist()])
def test_channels_stand_first_or_last(given: Any) -> None:
    assert torch.allclose(channels(given, RATE), torch.from_numpy(STEREO))
    assert torch.allclose(waveform(given, RATE), torch.from_numpy(STEREO.mean(0)))


@pytest.mark.parametrize(
    ("kind", "scale", "error"),
    [(np.int16, 32768, 1e-4), (np.int32, 2**31, 1e-6), (np.int8, 128, 1e-2), (np.float16, 1, 1e-3), (np.float64, 1, 1e-7)],
)
def test_integers_are_scaled_by_their_range(kind: Any, scale: float, error: float) -> None:
    assert torch.allclose(waveform((MONO * scale).astype(kind), RATE), torch.from_numpy(MONO), atol=error)


def test_unsigned_bytes_are_centred() -> None:
    assert torch.allclose(waveform((MONO * 127 + 128).astype(np.uint8), RATE), torch.from_numpy(MONO), atol=2e-2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (MONO * 32768, "integers stored as floats"),
        (np.where(np.arange(RATE) == 5, np.nan, MONO), "finite"),
        (np.where(np.arange(RATE) == 5, -np.inf, MONO), "finite"),
        (np.zeros(RATE), "silent"),
        (np.stack([MONO, -MONO]), "cancel each other"),
        (MONO[:1], "at least 0.2 s"),
        (MONO[:0], "must hold samples"),
        (MONO > 0, "bool"),
        (MONO + 1j, "complex64|complex128"),
        ((MONO * 30000).astype(np.int64), "int64 has no full scale"),
        (np.zeros((200, 100)), r"100 channels of 200 samples"),
        (np.zeros((12, 4000)), r"12 channels of 4000 samples or 4000 channels of 12"),
        (np.zeros((1, 2, RATE)), "got .1, 2, 16000."),
        (object(), "not object"),
        ("a bell", "not str"),
    ],
)
def test_other_waveforms_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        waveform(given, RATE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rate", [None, 0, -1, 44.1, float("nan"), True, "16000"])
def test_rates_are_whole_numbers(rate: Any) -> None:
    with pytest.raises(ValueError, match="sampling_rate"):
        waveform(MONO, rate)


RED = np.zeros((6, 9, 3), np.uint8)
RED[..., 0] = 255
RED[:, 4:] = 51


@pytest.mark.parametrize(
    "given",
    [
        RED, RED.transpose(2, 0, 1), RED / 255, torch.from_numpy(RED), torch.from_numpy(RED).permute(2, 0, 1) / 255,
        RED.astype(np.uint16) * 257, Image.fromarray(RED), np.dstack([RED, np.full((6, 9), 255, np.uint8)]),
        (RED / 255).astype(np.float16),
    ],
)  # fmt: skip
def test_pictures_of_every_layout_are_one_picture(given: Any) -> None:
    assert torch.allclose(pixels(given), torch.from_numpy(RED).permute(2, 0, 1) / 255, atol=1e-3)


def test_grey_pictures_frames_and_alpha() -> None:
    assert pixels(RED[..., 1]).shape == (3, 6, 9)
    assert pixels(np.stack([RED, RED])).shape == (2, 3, 6, 9)
    hidden = np.dstack([RED, np.zeros((6, 9), np.uint8)])
    assert pixels(hidden).unique().tolist() == [1.0]
    assert pixels(hidden.transpose(2, 0, 1) / 255).unique().tolist() == [1.0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (RED.astype(np.float32), "divide by 255"),
        (RED / 127.5 - 1, "bring them there"),
        (np.where(RED == 255, np.nan, 0.5), "finite"),
        (RED.astype(np.int64), "int64 has no full scale"),
        (RED > 0, "bool"),
        (np.zeros((3, 8, 3), np.uint8), "3 channels in front or 3 at the end"),
        (np.zeros((6, 9, 2), np.uint8), "1, 3 or 4 channels"),
        (np.zeros((0, 9, 3), np.uint8), "holds nothing"),
        (np.zeros(9, np.uint8), "got .9,."),
    ],
)
def test_other_pictures_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pixels(given)


def test_numbers() -> None:
    assert finite("x", np.float32(2.5)) == 2.5
    assert whole("x", 3.0) == 3
    for value in (float("nan"), float("inf"), "1", None, True, 1j):
        with pytest.raises(ValueError, match="guidance must be a finite number"):
            finite("guidance", value)
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1, not 2.5"):
        whole("steps", 2.5)


def test_what_models_are_given() -> None:
    check_waveform(torch.from_numpy(STEREO))
    check_pixels(torch.rand(2, 3, 4, 4))
    for bad in (torch.ones(9, dtype=torch.int16), torch.tensor([0.0, torch.nan]), torch.full((9,), 9.0), torch.zeros(1, 0)):
        with pytest.raises(ValueError, match="waveform"):
            check_waveform(bad)
    for bad in (torch.ones(3, 4, 4, dtype=torch.uint8), torch.full((1, 3, 4, 4), torch.nan), 255 * torch.ones(1, 3, 4, 4),
                torch.rand(1, 4, 4, 3), -torch.ones(1, 3, 4, 4)):  # fmt: skip
        with pytest.raises(ValueError, match="pixels"):
            check_pixels(bad)
