"""Tests side by side: each process of pytest-xdist computes on one thread, and so do the commands that it starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks a hub
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch, which reads it once


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first, so that at the end no process waits for another's; each process begins with its share of the list."""
    long, short = ([item for item in items if (item.get_closest_marker("slow") is None) is plain] for plain in (False, True))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    shares = [long[number::workers] for number in range(workers)]
    for share in shares[:-1]:
        taken = max(0, len(items) // workers - len(share))
        share += short[:taken]
        del short[:taken]
    items[:] = [item for share in (*shares, short) for item in share]


@pytest.fixture(autouse=True)
def _left_as_found() -> Iterator[None]:
    """A command that runs within the test's process may set variables; no other test, nor a process it starts, inherits them."""
    variables, folder, places = dict(os.environ), Path.cwd(), list(sys.path)
    yield
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)
    os.chdir(folder)
    sys.path[:] = places
