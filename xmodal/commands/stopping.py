"""Signals: a run that is asked to stop ends after its batch, says how it goes on, and exits as a signal does: 128 + number."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

ASKED = (signal.SIGTERM, signal.SIGINT)


class Asked:
    """Handler of both signals. While Lightning's trainer runs, it ends the run after the batch, which can then be saved.

    Lightning puts its own handler of SIGTERM in the place of ours and calls ours, too: that is how we know that it runs.
    It knows no such end for SIGINT, so the first one becomes a SIGTERM; a second one of either kind ends at once.
    """

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        """See above; raises KeyboardInterrupt or SystemExit where it ends at once."""
        again, self.number = bool(self.number), self.number or number
        running = signal.getsignal(signal.SIGTERM) is not self
        if number == signal.SIGINT and running and not again:
            print("\nxmodal: stopping after this batch; once more stops at once", file=sys.stderr)
            os.kill(os.getpid(), signal.SIGTERM)
        elif not running or (number == signal.SIGINT and again):
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


@contextmanager
def stopping(words: Sequence[str]) -> Iterator[Asked]:
    """Run a command of these words; raises SystemExit with 143 or 130 where SIGTERM or SIGINT ended it, whatever came of it."""
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # only the main thread may have handlers
        return
    before = {number: signal.signal(number, asked) for number in ASKED}
    try:
        yield asked
    except BaseException:
        if not asked.number:
            raise
        if os.environ.get("LOCAL_RANK", "0") != "0":
            raise SystemExit(0) from None  # its first process tells; Lightning kills that one where another fails
        print(f"xmodal: stopped; this goes on: {shlex.join(['xmodal', *going_on(words)])}", file=sys.stderr)
        raise SystemExit(128 + asked.number) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def going_on(words: Sequence[str]) -> list[str]:
    """The words of the command that goes on where one of these words was stopped: `fit` from its last checkpoint."""
    if words[:1] != ["fit"]:
        return [*words]  # it passes over what is there, or begins again
    kept: list[str] = []
    of_a_run = len(words) > 1 and not words[1].startswith("-")
    for word in words:
        if kept[-1:] == ["--ckpt_path"]:
            kept.pop()
        elif not word.startswith("--ckpt_path="):
            kept.append(word)
    return kept if of_a_run else [*kept, "--ckpt_path", "last"]
