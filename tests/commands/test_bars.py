"""Libraries draw no bars of their own, but for a download."""

from __future__ import annotations

import os
from contextlib import suppress

import pytest

from xmodal.__main__ import run


@pytest.mark.parametrize(("words", "expected"), [(["--version"], "1"), (["pull", "--help"], None)])
def test_bars_of_libraries_are_off(words: list[str], expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "0")  # so that it is restored afterwards
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS")
    with suppress(SystemExit):  # argparse ends `--help` so
        run(words)
    assert os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS") == expected
    os.environ.pop("HF_HUB_DISABLE_PROGRESS_BARS", None)
