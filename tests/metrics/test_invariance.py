"""A value depends on the set of rows alone: not on batches, their order, or how many processes held them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor

import xmodal.metrics
from xmodal.metrics import (
    AIC,
    AIS,
    CMMD,
    CS,
    IIS,
    KAD,
    KID,
    PRDC,
    AVAlign,
    CosineScore,
    DeSync,
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    KLDivergence,
    ModalityGap,
    Retrieval,
    TagAccuracy,
    WinRate,
)
from xmodal.metrics.features import FeatureMetric

N, WIDTH = 180, 6
NOISE = torch.Generator().manual_seed(5)
ONE = torch.randn(N, WIDTH, generator=NOISE)
TWO = 0.7 * ONE + torch.randn(N, WIDTH, generator=NOISE) + 0.3
LABELS = torch.randint(0, WIDTH, (N,), generator=NOISE)
BANK = torch.randn(31, WIDTH, generator=NOISE)

WINDOWS = torch.randn(N, 2, 21, generator=NOISE)


class Overlap(AVAlign):
    """AV-Align of peaks at whole seconds, which stand in rows like other features: 1 where there is a peak."""

    def update(self, audio: Tensor, video: Tensor, ids: Any = None) -> None:
        peaks = [[row.nonzero()[:, 0].tolist() for row in side] for side in (audio, video)]
        super().update(*peaks, fps=2.0, ids=ids)


# By name: how to build the metric, and the inputs of its update() by keyword, row by row.
METRICS: dict[str, tuple[Callable[[], Any], dict[str, Tensor]]] = {
    "FD of moments": (lambda: FrechetDistance(WIDTH), {"real": ONE, "fake": TWO}),
    "FD of rows": (lambda: FrechetDistance(WIDTH, store="rows"), {"real": ONE, "fake": TWO}),
    "KAD": (KAD, {"real": ONE, "fake": TWO}),
    "KID": (lambda: KID(subsets=5, subset_size=40), {"real": ONE, "fake": TWO}),
    "CMMD": (CMMD, {"real": ONE, "fake": TWO}),
    "KL": (KLDivergence, {"real": ONE, "fake": TWO}),
    "IS": (InceptionScore, {"fake": TWO}),
    "MMD": (lambda: KernelDistance("imq", 2.0), {"real": ONE, "fake": TWO}),
    "CS": (CS, {"first": ONE, "second": TWO}),
    "CLAP": (lambda: CosineScore("CLAP", clip=True), {"first": ONE, "second": TWO}),
    "AIS": (lambda: AIS(BANK), {"fake": TWO, "real": ONE}),
    "IIS": (lambda: IIS(BANK, ties="half"), {"fake": TWO, "real": ONE}),
    "IIS cosine": (lambda: IIS(mode="cosine"), {"fake": TWO, "real": ONE}),
    "Win rate": (lambda: WinRate(BANK), {"fake": TWO, "real": ONE}),
    "AIC": (lambda: AIC(BANK[:WIDTH]), {"fake": TWO, "labels": LABELS}),
    "AIC by label": (lambda: AIC(BANK, "classifier_label", BANK[:WIDTH]), {"fake": TWO, "labels": LABELS}),
    "Retrieval": (Retrieval, {"first": ONE, "second": TWO}),
    "Gap": (ModalityGap, {"first": ONE, "second": TWO}),
    "PRDC": (PRDC, {"real": ONE, "fake": TWO}),
    "Tags": (TagAccuracy, {"fake": TWO, "labels": LABELS}),
    "AV-Align": (Overlap, {"audio": ONE > 0.5, "video": TWO > 0.5}),
    "DeSync": (DeSync, {"logits": WINDOWS}),
}


def test_every_exported_metric_is_among_them() -> None:
    exported = {getattr(xmodal.metrics, name) for name in xmodal.metrics.__all__}
    metrics = {kind for kind in exported if isinstance(kind, type) and issubclass(kind, FeatureMetric)}
    assert len(metrics) >= 18
    tested = {type(build()) for build, _ in METRICS.values()}
    assert metrics - tested == {AVAlign}  # Overlap is AVAlign, fed with rows
    assert issubclass(Overlap, AVAlign)


def feed(metric: Any, inputs: dict[str, Tensor], parts: list[Tensor], ids: bool) -> Any:
    for part in parts:
        named = {"ids": [f"clip-{int(i)}" for i in part]} if ids else {}
        metric.update(**{key: rows[part] for key, rows in inputs.items()}, **named)
    return metric


def values(metric: Any) -> dict[str, float]:
    made = metric.compute()
    return {name: float(value) for name, value in (made if isinstance(made, dict) else {"": made}).items()}


@pytest.mark.parametrize(
    ("name", "ids"), [(name, ids) for name in METRICS for ids in (False, True) if not (ids and name == "FD of moments")]
)
def test_batches_order_and_processes_do_not_matter(name: str, ids: bool) -> None:
    build, inputs = METRICS[name]
    whole = values(feed(build(), inputs, [torch.arange(N)], ids))
    shuffled = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    ragged = list(shuffled.split([1, 7, 64, N - 72]))
    ranks = [feed(build(), inputs, parts, ids) for parts in (ragged[:1], [], ragged[1:])]
    for other in ranks[1:]:
        ranks[0].merge_state(other)
    assert values(feed(build(), inputs, ragged, ids)) == pytest.approx(whole, rel=1e-10, abs=1e-10)
    assert values(ranks[0]) == pytest.approx(whole, rel=1e-10, abs=1e-10)
    if ids:  # what a distributed sampler pads with is dropped
        assert values(feed(build(), inputs, [*ragged, shuffled[:5]], ids)) == pytest.approx(whole, rel=1e-10, abs=1e-10)


def one_process(rank: int, file: str, failures: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{file}", world_size=2, rank=rank)
    try:
        for name, (build, inputs) in METRICS.items():
            whole = values(feed(local(build()), inputs, [torch.arange(N)], False))
            split = [[torch.arange(70)], [torch.arange(70, N)]]
            for parts in (split, [[], [torch.arange(N)]]):
                metric = feed(build(), inputs, parts[rank], False)
                made = values(metric)
                wrong = [key for key in whole if abs(made[key] - whole[key]) > 1e-10 * (1 + abs(whole[key]))]
                after = metric.result(draws=0).scores  # a second time, from the states of before
                again = {key: score.value for key, score in zip(whole, after.values())}
                wrong += [key for key in whole if abs(again[key] - whole[key]) > 1e-10 * (1 + abs(whole[key]))]
                if wrong:
                    failures.put(f"{name} on process {rank}: {wrong}")
    except Exception as error:
        failures.put(f"process {rank}: {type(error).__name__}: {error}")
        raise
    finally:
        torch.distributed.destroy_process_group()


def local(metric: Any) -> Any:
    metric.sync_on_compute = metric._to_sync = False
    return metric


def test_two_processes_of_which_one_may_have_no_rows(tmp_path: Path) -> None:
    failures = multiprocessing.get_context("fork").SimpleQueue()
    multiprocessing.start_processes(one_process, (str(tmp_path / "meet"), failures), 2, start_method="fork")
    found = []
    while not failures.empty():
        found.append(failures.get())
    assert found == []


def test_a_parent_in_half_precision_leaves_the_values_alone() -> None:
    for name, (build, inputs) in METRICS.items():
        parent = torch.nn.ModuleList([build()])
        parent.half()
        assert parent.state_dict() == {}
        feed(parent[0], inputs, [torch.arange(N)], False)
        whole = values(feed(build(), inputs, [torch.arange(N)], False))
        assert values(parent[0]) == pytest.approx(whole, rel=1e-10, abs=1e-10), name


def test_calling_a_metric_is_an_update() -> None:
    metric = FrechetDistance(WIDTH)
    assert metric(real=ONE[:1], fake=TWO[:1]) is None
    metric(real=ONE[1:], fake=TWO[1:])
    assert values(metric) == pytest.approx(
        values(feed(FrechetDistance(WIDTH), {"real": ONE, "fake": TWO}, [torch.arange(N)], False))
    )


@pytest.mark.parametrize("offset", [1e3, 1e5])
def test_a_large_mean_costs_no_digits(offset: float) -> None:
    one, two = ONE.double() + offset, TWO.double() + offset
    plain, moved = FrechetDistance(WIDTH), FrechetDistance(WIDTH)
    plain.update(one - offset, two - offset)
    for start in range(0, N, 10):
        moved.update(one[start : start + 10], two[start : start + 10])
    assert float(moved.compute()) == pytest.approx(float(plain.compute()), rel=1e-9)


def test_rotating_swapping_and_scaling() -> None:
    turn, _ = torch.linalg.qr(torch.randn(WIDTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    one, two = ONE.double(), TWO.double()

    def of(metric: Any, real: Tensor, fake: Tensor) -> float:
        metric.update(real=real, fake=fake)
        return float(metric.compute())

    for build in (lambda: FrechetDistance(WIDTH), KAD):
        assert of(build(), one @ turn, two @ turn) == pytest.approx(of(build(), one, two), rel=1e-9)
    for build in (lambda: FrechetDistance(WIDTH), lambda: KID(subsets=0)):
        assert of(build(), two, one) == pytest.approx(of(build(), one, two), rel=1e-9)
    assert of(KAD(), two, one) != pytest.approx(of(KAD(), one, two), rel=1e-4)
    assert of(FrechetDistance(WIDTH), 3 * one, 3 * two) == pytest.approx(9 * of(FrechetDistance(WIDTH), one, two), rel=1e-9)


def test_several_rows_of_one_item_count_as_rows() -> None:
    flat, deep = FrechetDistance(WIDTH), FrechetDistance(WIDTH)
    flat.update(ONE, TWO)
    deep.update(ONE.reshape(-1, 5, WIDTH), TWO.reshape(-1, 5, WIDTH))
    assert float(deep.compute()) == pytest.approx(float(flat.compute()), rel=1e-12)
    rows = FrechetDistance(WIDTH, store="rows")
    rows.update(ONE.reshape(-1, 5, WIDTH), TWO.reshape(-1, 5, WIDTH), ids=range(N // 5))
    assert rows.result(draws=3).protocol.counts == {"real_items": 36, "real_rows": 180, "fake_items": 36, "fake_rows": 180}


def test_fewer_rows_than_dimensions() -> None:
    real, fake = torch.randn(40, 64, generator=NOISE), torch.randn(30, 64, generator=NOISE) + 0.5
    whole, ragged = FrechetDistance(64, allow_bias=True), FrechetDistance(64, allow_bias=True)
    whole.update(real, fake)
    for side, rows in (("real", real), ("fake", fake)):
        for part in rows[torch.randperm(len(rows), generator=NOISE)].split(7):
            ragged.update(**{side: part})
    assert float(ragged.compute()) == pytest.approx(float(whole.compute()), rel=1e-10)
