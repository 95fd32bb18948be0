"""Intervals, stamps, refusals, comparisons."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.rounding import alike
from xmodal.metrics import (
    AIC,
    AIS,
    KAD,
    KID,
    PRDC,
    CosineScore,
    FrechetDistance,
    Protocol,
    Result,
    Retrieval,
    TagAccuracy,
    compare,
)
from xmodal.metrics.bootstrap import draw_counts, draw_items, percentiles, replicate
from xmodal.metrics.frechet import frechet_bias, frechet_distance, singular_values
from xmodal.metrics.win_rate import draw_bank

IDS = [f"clip-{i}" for i in range(300)]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(first: Tensor, second: Tensor, ids: Any = IDS, **options: Any) -> Result:
    metric = CosineScore("CLAP")
    metric.update(first, second, ids)
    return metric.result(extractor="clap", weights="ab12", preprocessing="48 kHz, 10 s", **options)


def frechet(real: Tensor, fake: Tensor, ids: Any = IDS, **options: Any) -> Result:
    metric = FrechetDistance(real.shape[1], store="rows", **options)
    metric.update(real, fake, ids)
    return metric.result(draws=60)


def test_a_result_says_what_its_number_means() -> None:
    made = cosine(noise(300, 8), noise(300, 8, seed=1))
    assert made.protocol == Protocol(
        metric="CLAP", version=1, extractor="clap", weights="ab12", preprocessing="48 kHz, 10 s",
        counts={"pairs_items": 300, "pairs_rows": 300}, seed=0, interval="bootstrap 95 %, 1000 draws of items",
        small_sample=False, options={"scale": 1.0, "clip": False}, items=made.protocol.items,
    )  # fmt: skip
    score = made.scores["CLAP"]
    assert score.low < score.value < score.high
    assert len(score.values) == 300
    assert cosine(noise(256, 8), noise(256, 8), IDS[:256]).protocol.small_sample


def test_intervals_are_those_of_the_seed() -> None:
    one, two = noise(300, 8), noise(300, 8, seed=1)
    assert alike(cosine(one, two), cosine(one, two), 1e-12)
    assert cosine(one, two, seed=1).scores["CLAP"].low != cosine(one, two).scores["CLAP"].low
    turned = list(reversed(range(300)))
    assert alike(cosine(one[turned], two[turned], [IDS[i] for i in turned]).scores, cosine(one, two).scores, 1e-12)


def test_the_bootstrap_covers_the_mean_as_often_as_it_says() -> None:
    random = np.random.RandomState(0)
    hits = 0
    for trial in range(200):
        low, high = percentiles(replicate(random.exponential(1.0, 60), np.mean, 200, seed=trial))
        hits += low <= 1 <= high
    assert 0.88 <= hits / 200 <= 0.98


def test_the_first_draws_do_not_depend_on_their_number() -> None:
    few, many = (np.concatenate(list(draw_items(50, draws, seed=3))) for draws in (4, 9))
    assert (few == many[:4]).all()
    counts = draw_counts(50, 4, seed=3)
    assert counts.sum(1).tolist() == [50.0] * 4
    assert (counts[0] == np.bincount(few[0], minlength=50)).all()


def test_intervals_of_set_distances_hold_the_estimate() -> None:
    real, fake = noise(300, 5), 1.3 * noise(300, 5, seed=1)
    for metric in (FrechetDistance(5, store="rows"), KAD(), KID(subsets=0)):
        metric.update(real, fake, IDS)
        score = next(iter(metric.result(draws=60).scores.values()))
        assert score.low < score.value < score.high
        assert len(score.replicates) == 60


def test_replicates_of_the_frechet_distance_are_distances_of_resampled_rows() -> None:
    real, fake = noise(40, 5).double(), noise(30, 5, seed=1).double()
    metric = FrechetDistance(5, store="rows", allow_bias=True)
    metric.update(real=real, ids=range(40))
    metric.update(fake=fake, ids=range(30))
    replicates = metric.result(draws=3, seed=7).scores["FD"].replicates
    for index, made in zip(np.concatenate(list(draw_items(30, 3, seed=7))), replicates):
        drawn = fake[torch.from_numpy(index)]
        expected = frechet_distance(real.mean(0), real.T.cov(), drawn.mean(0), drawn.T.cov())
        assert made == pytest.approx(float(expected), rel=1e-6)


def test_replicates_of_the_kernel_distance_leave_pairs_of_one_row_out() -> None:
    real, fake = noise(20, 3).double(), noise(12, 3, seed=1).double()
    metric = KAD(bandwidth=1.5)
    metric.update(real=real, ids=range(20))
    metric.update(fake=fake, ids=range(12))
    (made,) = metric.result(draws=1, seed=2).scores["KAD"].replicates
    kernel = lambda a, b: torch.exp(-(torch.cdist(a, b) ** 2) / (2 * 1.5**2 + 1e-8))  # noqa: E731
    index = torch.from_numpy(next(iter(draw_items(12, 1, seed=2)))[0])
    drawn, strange = fake[index], index[:, None] != index
    within = kernel(real, real)[~torch.eye(20, dtype=torch.bool)].mean() + kernel(drawn, drawn)[strange].mean()
    assert made == pytest.approx(100 * float(within - 2 * kernel(real, drawn).mean()), rel=1e-9)


def test_moments_have_no_interval() -> None:
    metric = FrechetDistance(5)
    metric.update(noise(300, 5), noise(300, 5, seed=1))
    made = metric.result()
    assert (made.protocol.interval, made.scores["FD"].low) == ("none", None)
    with pytest.raises(ValueError, match="moments cannot tell items apart"):
        metric.update(noise(3, 5), noise(3, 5), ids=[1, 2, 3])


def test_a_frechet_distance_of_too_few_rows_is_refused_with_its_bias() -> None:
    metric = FrechetDistance(64, name="FAD")
    metric.update(noise(80, 64), noise(80, 64, seed=1))
    with pytest.raises(ValueError, match=r"FAD of 80 real and 80 fake rows in 64 dimensions .* adds at least about [\d.]+"):
        metric.compute()
    allowed = FrechetDistance(64, allow_bias=True)
    allowed.update(noise(80, 64), noise(80, 64, seed=1))
    assert float(allowed.compute()) > 0
    assert allowed.result().protocol.small_sample
    enough = FrechetDistance(64)
    enough.update(noise(1500, 64), noise(1500, 64, seed=1))
    assert 0 < float(enough.compute()) < 6.4


def test_the_bias_of_the_frechet_distance_is_what_sampling_adds() -> None:
    scale = torch.arange(1, 9, dtype=torch.float64) ** -0.5
    found, told = [], []
    for seed in range(400):
        real, fake = noise(200, 8, seed=2 * seed).double() * scale, noise(150, 8, seed=2 * seed + 1).double() * scale
        s1, s2 = real.T.cov(), fake.T.cov()
        found.append(float(frechet_distance(real.mean(0), s1, fake.mean(0), s2)))  # of one distribution: all of it is bias
        told.append(frechet_bias(float(s1.trace()), float(s2.trace()), 200, 150, singular_values(s1, s2)))
    assert np.mean(told) == pytest.approx(np.mean(found), rel=0.1)


def test_too_few_rows() -> None:
    metric = FrechetDistance(3, allow_bias=True)
    metric.update(real=noise(5, 3), fake=noise(1, 3))
    with pytest.raises(RuntimeError, match="5 real and 1 fake rows"):
        metric.compute()
    empty = KAD()
    empty.update(real=noise(5, 3))
    with pytest.raises(RuntimeError, match="no fake features were given"):
        empty.compute()
    kid = KID()
    kid.update(noise(5, 3), noise(5, 3))
    with pytest.raises(ValueError, match="subsets of 1000 are to be drawn"):
        kid.compute()
    balls = PRDC(k=5)
    balls.update(noise(5, 3), noise(9, 3))
    with pytest.raises(ValueError, match="more than 5 rows a side"):
        balls.compute()


def test_results_survive_the_file(tmp_path: Path) -> None:
    made = frechet(noise(300, 5), noise(300, 5, seed=1))
    read = Result.load(made.save(tmp_path / "deep" / "fd.json"))
    assert read.protocol.differences(made.protocol) == []
    assert read.scores["FD"].value == made.scores["FD"].value
    assert compare(read, made)["FD"].value == 0


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "protocol": {}, "scores": {}}', '{"format": 9}']
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="bad.json is no result of this version"):
        Result.load(path)
    with pytest.raises(FileNotFoundError, match="absent.json"):
        Result.load(tmp_path / "absent.json")


def test_a_paired_comparison_sees_what_two_intervals_hide(tmp_path: Path) -> None:
    target, hard = noise(300, 8), noise(300, 8, seed=1)
    good, bad = target + hard, target + 1.1 * hard
    one, two = cosine(target, good).save(tmp_path / "one.json"), cosine(target, bad).save(tmp_path / "two.json")
    a, b = (json.loads(path.read_text())["scores"]["CLAP"] for path in (one, two))
    assert a["low"] < b["high"]  # apart they overlap
    made = compare(one, two)["CLAP"]
    assert made.apart
    assert made.low < made.value < made.high
    assert made.value == pytest.approx(a["value"] - b["value"])
    assert compare(two, one)["CLAP"].value == -made.value


def test_a_paired_comparison_of_sets() -> None:
    real, fake = noise(300, 5), noise(300, 5, seed=1)
    near, far = frechet(real, 1.1 * fake), frechet(real, 1.6 * fake)
    made = compare(far, near)["FD"]
    assert made.apart
    assert made.low < made.value < made.high
    same = compare(frechet(real, fake), frechet(real, noise(300, 5, seed=2)))["FD"]
    assert not same.apart


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 2), ("extractor", "other"), ("weights", "cd34"), ("preprocessing", "16 kHz"), ("seed", 4),
        ("counts", {"pairs_items": 299}), ("options", {"scale": 100.0}), ("items", {"pairs": "0" * 16}), ("interval", "none"),
    ],
)  # fmt: skip
def test_unlike_protocols_are_not_compared(field: str, value: Any) -> None:
    made = cosine(noise(300, 8), noise(300, 8, seed=1))
    other = replace(made, protocol=replace(made.protocol, **{field: value}))
    with pytest.raises(ValueError, match=rf"the protocols differ in {field} \("):
        compare(made, other)


def test_what_has_no_ids_or_no_intervals_is_not_compared() -> None:
    nameless = cosine(noise(300, 8), noise(300, 8, seed=1), ids=None)
    with pytest.raises(ValueError, match="name no items"):
        compare(nameless, nameless)
    bare = cosine(noise(300, 8), noise(300, 8, seed=1), draws=0)
    with pytest.raises(ValueError, match="hold no intervals"):
        compare(bare, bare)


def test_ids() -> None:
    metric = CosineScore()
    metric.update(noise(3, 4), noise(3, 4, seed=1), ids=["a", "b", "c"])
    metric.update(noise(1, 4, seed=5), noise(1, 4, seed=6), ids=["a"])
    with pytest.raises(ValueError, match="two different pairs rows carry the id"):
        metric.compute()
    metric.reset()
    metric.update(noise(3, 4), noise(3, 4, seed=1), ids=["a", "b", "c"])
    metric.update(noise(3, 4), noise(3, 4, seed=1))
    with pytest.raises(ValueError, match="3 of 6 pairs rows carry ids"):
        metric.compute()
    with pytest.raises(ValueError, match="3 items, but 2 ids"):
        metric.update(noise(3, 4), noise(3, 4), ids=["a", "b"])


def test_the_own_pair_is_left_out_of_the_bank() -> None:
    bank, made = noise(20, 6), noise(20, 6) + 0.01 * noise(20, 6, seed=1)
    plain, named = AIS(bank), AIS(bank, bank_ids=IDS[:20])
    plain.update(made, bank, IDS[:20])
    named.update(made, bank, IDS[:20])
    assert float(plain.compute()) == pytest.approx(19 / 20)  # the ceiling
    assert float(named.compute()) == 1
    with pytest.raises(ValueError, match="needs ids"):
        named.update(made, bank)
    assert draw_bank(10).tolist() == list(range(10))
    drawn = draw_bank(5000)
    assert len(set(drawn.tolist())) == 2048
    assert (drawn == draw_bank(5000)).all()


def test_a_model_that_always_says_the_same_is_not_right() -> None:
    same = torch.ones(50, 4)
    retrieval, tags, aic = Retrieval(), TagAccuracy("thing"), AIC(same[:6])
    retrieval.update(same, same)
    tags.update(same, torch.zeros(50, dtype=torch.int64))
    aic.update(same, torch.zeros(50, dtype=torch.int64))
    assert float(retrieval.compute()["first_to_second/R@10"]) == 0
    assert float(tags.compute()) == 0
    assert float(aic.compute()["AIC_top1"]) == 0


def test_wrong_inputs_are_named() -> None:
    with pytest.raises(ValueError, match="fake is 4 wide and real 3"):
        AIS(noise(5, 4)).update(fake=noise(2, 4), real=noise(2, 3))
    with pytest.raises(ValueError, match="labels run from 0 to 9, but there are 4 classes"):
        TagAccuracy().update(noise(2, 4), torch.tensor([0, 9]))
    with pytest.raises(ValueError, match="expected 2 label indices"):
        TagAccuracy().update(noise(2, 4), torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="has 5 columns, but expected 4"):
        FrechetDistance(4).update(noise(2, 5), noise(2, 5))
    metric = KAD()
    metric.update(noise(4, 3), noise(4, 5))
    with pytest.raises(ValueError, match="unlike widths"):
        metric.compute()
    with pytest.raises(ValueError, match="needs a bank"):
        AIS()


def test_a_stored_reference(tmp_path: Path) -> None:
    real, fake = noise(400, 5), noise(400, 5, seed=1)
    made = {"extractor": "panns", "weights": "ab12", "preprocessing": "32 kHz"}
    whole, first, second = FrechetDistance(5), FrechetDistance(5), FrechetDistance(5)
    whole.update(real, fake)
    first.update(real=real)
    path = first.save_reference(tmp_path / "real.safetensors", **made)
    second.load_reference(path, **made).update(fake=fake)
    assert float(second.compute()) == pytest.approx(float(whole.compute()), rel=1e-12)
    with pytest.raises(ValueError, match="was made by .*panns.* but expected .*vggish"):
        FrechetDistance(5).load_reference(path, **{**made, "extractor": "vggish"})
    with pytest.raises(FileNotFoundError, match="absent"):
        FrechetDistance(5).load_reference(tmp_path / "absent", **made)


def test_r16_a_full_disk_leaves_no_half_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = FrechetDistance(4, store="rows", allow_bias=True)
    metric.update(real=torch.randn(9, 4), fake=torch.randn(9, 4))
    result = metric.result(draws=0)

    def full(self: Path, text: str, *options: str) -> int:
        with self.open("w") as file:
            file.write(text[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="space"):
        result.save(tmp_path / "FD.json")
    assert list(tmp_path.iterdir()) == []
