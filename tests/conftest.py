"""Tests side by side: each process of pytest-xdist computes on one thread, and so do the commands that it starts."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch, which reads it once
