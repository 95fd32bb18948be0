"""Claims: one holder for each file, free again when it is dead or silent, whatever else happens."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import pytest

from xmodal.data import claims as module
from xmodal.data.claims import CLAIM, STALE, Claims, clear, clock_of

ROOT = Path(__file__).parent.parent.parent
NAMES = [f"file {number}" for number in range(6)]
HOLD = """
import sys, time
from pathlib import Path
from xmodal.data.claims import Claims
claims = Claims(Path(sys.argv[1]), sys.argv[2:])
print(claims.take(), flush=True)
time.sleep(60)
"""


def left(folder: Path) -> list[Path]:
    return sorted(folder.glob(".*"))


def of_another_machine(folder: Path, name: str, age: float) -> Path:
    claim = folder / f".{name}{CLAIM}"
    claim.write_text("00000000-0000 elsewhere 17 0123\n")
    os.utime(claim, (time.time() - age,) * 2)
    return claim


def test_each_file_has_one_holder_and_what_is_there_none(tmp_path: Path) -> None:
    (tmp_path / NAMES[2]).touch()
    first, second = Claims(tmp_path, NAMES), Claims(tmp_path, NAMES)
    taken = [claims.take() for claims in (first, second, first, second, first)]
    assert sorted(taken) == [0, 1, 3, 4, 5]
    assert first.take() is second.take() is None
    assert sorted(first.pending) == sorted(taken[1::2])
    for number in taken[1::2]:
        (tmp_path / NAMES[number]).touch()
        second.done(number)
    seen: list[int] = []
    first.seen = seen.append
    assert first.take() is None
    assert sorted(seen) == sorted(taken[1::2])
    first.close()  # gives up what it has not made
    assert left(tmp_path) == []
    assert sorted(Claims(tmp_path, NAMES).pending) == sorted(taken[::2])


def test_a_claim_of_a_killed_process_is_free_at_once_and_one_of_a_living_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path), *NAMES]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as holder:
        assert holder.stdout is not None
        number = int(holder.stdout.readline())
        with Claims(tmp_path, NAMES) as claims:
            assert clear(tmp_path) == 0
            assert sorted(iter(claims.take, None)) == [each for each in range(6) if each != number]
            holder.kill()
            holder.wait()
            assert claims.take() == number
    assert left(tmp_path) == []


def test_a_claim_is_signed_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link, seen = os.link, []

    def named(fresh: Path, path: Path) -> None:
        seen.append((path.exists(), str(os.getpid()) in Path(fresh).read_text().split()))
        link(fresh, path)

    monkeypatch.setattr(os, "link", named)
    with Claims(tmp_path, NAMES[:1]) as claims:
        assert claims.take() == 0
        assert seen == [(False, True)]
        assert [path.name for path in tmp_path.iterdir()] == [f".{NAMES[0]}{CLAIM}"]  # and under no other name
        assert Claims(tmp_path, NAMES[:1]).take() is None


@pytest.mark.parametrize("error", [PermissionError(errno.EPERM, "no hard links here"), FileNotFoundError("cleaned up meanwhile")])
def test_where_a_file_has_one_name_only_claims_hold_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def refused(fresh: Path, path: Path) -> None:
        raise error

    monkeypatch.setattr(os, "link", refused)
    with Claims(tmp_path, NAMES[:1]) as claims:
        assert claims.take() == 0
        assert Claims(tmp_path, NAMES[:1]).take() is None
        assert len(list(tmp_path.iterdir())) == 1
    assert not list(tmp_path.iterdir())


def test_a_claim_of_another_machine_is_free_when_it_is_silent(tmp_path: Path) -> None:
    fresh = of_another_machine(tmp_path, NAMES[0], STALE - 30)
    of_another_machine(tmp_path, NAMES[1], STALE + 30)
    with Claims(tmp_path, NAMES[:2]) as claims:
        assert claims.take() == 1
        assert claims.take() is None
        assert list(claims.pending) == [0]
    of_another_machine(tmp_path, NAMES[1], STALE + 30)
    assert clear(tmp_path) == 1
    assert left(tmp_path) == [fresh]


def test_times_are_those_of_the_file_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = of_another_machine(tmp_path, NAMES[0], 0)
    monkeypatch.setattr(time, "time", lambda: 4e9)  # the clock of this machine is far ahead
    assert clear(tmp_path) == 0
    assert abs(clock_of(tmp_path) - fresh.stat().st_mtime) < 60
    assert left(tmp_path) == [fresh]


def test_a_living_holder_gives_signs_of_life_and_a_hanging_one_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT", 0.02)
    with Claims(tmp_path, NAMES[:1]) as claims:
        claims.take()
        (claim,) = left(tmp_path)

        def beats(within: float) -> bool:
            os.utime(claim, (0, 0))
            deadline = time.monotonic() + within
            while claim.stat().st_mtime == 0 and time.monotonic() < deadline:
                time.sleep(0.01)
            return claim.stat().st_mtime != 0

        assert beats(within=60)
        monkeypatch.setattr(module, "PATIENCE", 0.0)
        time.sleep(0.05)
        assert not beats(within=0.5)


def test_where_there_are_no_locks_time_alone_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fcntl", None)
    holder = Claims(tmp_path, NAMES[:1])
    assert holder.take() == 0
    other = Claims(tmp_path, NAMES[:1])
    assert other.take() is None
    (claim,) = left(tmp_path)
    os.utime(claim, (time.time() - STALE - 9,) * 2)
    assert other.take() == 0
    other.close()
    holder.close()
    assert left(tmp_path) == []


def test_a_claim_that_was_taken_over_is_not_removed_by_its_first_holder(tmp_path: Path) -> None:
    first, second = Claims(tmp_path, NAMES[:1]), Claims(tmp_path, NAMES[:1])
    first.take()
    os.utime(left(tmp_path)[0], (0, 0))
    assert second.take() == 0
    first.close()
    assert len(left(tmp_path)) == 1
    second.close()
    assert left(tmp_path) == []


def test_an_abandoned_claim_gets_one_new_holder(tmp_path: Path) -> None:
    for _ in range(40):
        of_another_machine(tmp_path, NAMES[0], STALE + 30)
        crowd = [Claims(tmp_path, NAMES[:1]) for _ in range(8)]
        found: list[int | None] = []
        threads = [Thread(target=lambda claims=claims, found=found: found.append(claims.take())) for claims in crowd]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found.count(0) == 1
        for claims in crowd:
            claims.close()
    assert left(tmp_path) == []


def test_a_file_that_was_made_between_two_looks_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Claims(tmp_path, NAMES[:1]) as claims:
        looks = iter([False, True])
        monkeypatch.setattr(claims, "_is_there", lambda number: next(looks))
        assert claims.take() is None
        assert not claims.pending
    assert left(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written .Not a directory.|cannot be written .File exists."):
        Claims(tmp_path / "file", NAMES).take()
