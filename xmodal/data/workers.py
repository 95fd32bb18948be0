"""Work on files that may crash or hang the decoder: in processes that can be lost."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

START_LIMIT = 120.0  # seconds until a new process must have imported what it needs


def run_isolated(
    work: Callable[[Any], Any],
    tasks: Iterable[tuple[Any, Any]],
    processes: int,
    limit: float = 10.0,
    warm: Callable[[], None] | None = None,
) -> Iterator[tuple[Any, Any, str | None]]:
    """Yield ``(key, work(task), None)``, or ``(key, None, reason)``, for each ``(key, task)``, as they are done.

    A task that ends its process, or takes longer than ``limit`` seconds, costs that task alone. ``work`` must be
    importable by its name and should return errors rather than raise them; what it raises becomes the reason. ``warm``
    runs once in each process, before the clock of its first task starts: imports belong there.
    """
    pending = iter(tasks)
    crew = [_Worker(work, warm) for _ in range(processes)]
    try:
        for worker in crew:
            worker.give(next(pending, None))
        while busy := [worker for worker in crew if worker.task is not None]:
            wait([worker.pipe for worker in busy], timeout=0.2)
            for worker in busy:
                outcome = worker.outcome(limit)
                if outcome is not None:
                    yield outcome
                    worker.give(next(pending, None))
    finally:
        for worker in crew:
            worker.stop()


class _Worker:
    """One process that does one task at a time and is replaced when it is lost."""

    def __init__(self, work: Callable[[Any], Any], warm: Callable[[], None] | None) -> None:
        self.work, self.warm = work, warm
        self.task: tuple[Any, Any] | None = None
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit the parent's threads and locks
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.work, self.warm), daemon=True)
        self.process.start()
        theirs.close()
        self.ready = False

    def give(self, task: tuple[Any, Any] | None) -> None:
        self.task, self.since = task, time.monotonic()
        if task is not None:
            self.pipe.send(task[1])

    def outcome(self, limit: float) -> tuple[Any, Any, str | None] | None:
        """What became of the task, or None while it runs."""
        if self.task is None:
            return None
        key = self.task[0]
        # Looked at now: while whoever asked for outcomes was busy with the last one, or all slept, this one may have come.
        if self.pipe.poll():
            try:
                message = self.pipe.recv()
            except EOFError:
                self.process.join()
                code = self.process.exitcode
                self._start()
                return key, None, f"it ended the decoder (exit code {code})"
            if message is READY:
                self.ready, self.since = True, time.monotonic()
                return None
            return (key, *message)
        if time.monotonic() - self.since > (limit if self.ready else START_LIMIT):
            self.stop()
            self._start()
            return key, None, f"the decoder took longer than {limit:.0f} s"
        return None

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


READY = None


def _serve(pipe: Connection, work: Callable[[Any], Any], warm: Callable[[], None] | None) -> None:
    if warm is not None:
        warm()
    pipe.send(READY)
    while True:
        try:
            task = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            pipe.send((work(task), None))
        except MemoryError:
            raise
        except Exception as error:
            pipe.send((None, " ".join(str(error).split()) or type(error).__name__))
