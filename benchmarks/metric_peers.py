"""How far usual libraries are from the definitions on stored cases, ours beside them; and what our intervals and biases hold.

python benchmarks/metric_peers.py              # seconds
python benchmarks/metric_peers.py --coverage   # also draws the Gaussians that docs/evaluation.md speaks of

What other libraries returned was stored with the cases (versions in `_meta` of tests/golden/metrics/expected.json), so none
needs to be installed. Writes benchmarks/results/metric_peers.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from xmodal.metrics import CMMD, CS, KAD, FrechetDistance, InceptionScore, KLDivergence
from xmodal.metrics.bootstrap import percentiles
from xmodal.metrics.frechet import frechet_bias, frechet_from_samples, singular_values

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "metrics"
RESULTS = Path(__file__).parent / "results"
CASES = json.loads((GOLDEN / "expected.json").read_text())


def of(metric: Any, **inputs: Tensor) -> float:
    metric.update(**inputs)
    made = metric.compute()
    return float(made["IS"] if isinstance(made, dict) else made)


def measured(case: dict[str, Any]) -> dict[str, tuple[float, float, dict[str, float]]]:
    """By score: the reference, ours, and what peers returned for it."""
    sides, peers = load_file(GOLDEN / case["file"]), case.get("peers", {})

    def among(*words: str) -> dict[str, float]:
        found = {name: value[0] if isinstance(value, list) else value for name, value in peers.items()}
        return {n: v for n, v in found.items() if isinstance(v, float) and any(word in n for word in words)}

    if case["kind"] == "frechet":
        metric = FrechetDistance(sides["real"].shape[1], allow_bias=True)
        return {"fd": (case.get("fd_mpmath50") or case["fd"], of(metric, **sides), among(""))}
    if case["kind"] == "kernel" and "kad_gaussian_bw_real" in case:
        cmmd = next(key for key in case if key.startswith("mmd_biased"))
        return {
            "KAD": (case["kad_gaussian_bw_real"], of(KAD(), **sides), among("default", "float32", "median real")),
            "CMMD": (case[cmmd], of(CMMD(), **sides), among("cmmd")),
        }
    if case["kind"] == "logits":
        real, fake = sides["logits_real"], sides["logits_fake"]
        inception = InceptionScore()
        inception.update(fake, ids=range(len(fake)))
        reference = peers["torch-fidelity IS(fake) splits=10 shuffle seed=2020 [mean,std ddof0]"][0]
        return {
            "KL": (case["kl_softmax"], of(KLDivergence(), real=real, fake=fake), among("kl_softmax")),
            "IS": (reference, float(inception.compute()["IS"]), among("splits=10")),
        }
    if case["kind"] == "embeddings":
        return {"CS": (case["cs_x100"], of(CS(), first=sides["image"], second=sides["audio"]), {})}
    return {}


def coverage(dim: int, rows: int, trials: int, metric: Callable[[], Any], draws: int = 100) -> dict[str, float]:
    """How often the interval of one trial holds the mean of all, moved onto the estimate and as plain percentiles."""
    stream = torch.Generator().manual_seed(0)
    found = []
    for _ in range(trials):
        made = metric()
        made.update(
            real=torch.randn(4 * rows, dim, generator=stream, dtype=torch.float64),
            fake=1.1 * torch.randn(rows, dim, generator=stream, dtype=torch.float64) + 0.1,
        )
        score = next(iter(made.result(draws=draws).scores.values()))
        found.append((score.value, (score.low, score.high), percentiles(torch.tensor(score.replicates).numpy())))
    mean = sum(value for value, _, _ in found) / trials
    shares = [sum(found[i][k][0] <= mean <= found[i][k][1] for i in range(trials)) / trials for k in (1, 2)]
    return {"dim": dim, "made_rows": rows, "trials": trials, "moved": shares[0], "plain": shares[1]}


def bias(dim: int, rows: int, trials: int = 40) -> dict[str, float]:
    """One Gaussian against itself (variances 1/k, 100 in all): the mean distance, and that of its estimates from the samples."""
    stream = torch.Generator().manual_seed(0)
    scale = torch.arange(1, dim + 1, dtype=torch.float64) ** -0.5
    scale *= (100 / scale.square().sum()).sqrt()
    values, estimates = [], []
    for _ in range(trials):
        real, fake = (torch.randn(rows, dim, generator=stream, dtype=torch.float64) * scale for _ in range(2))
        values.append(float(frechet_from_samples(real, fake)))
        one, two = torch.cov(real.T), torch.cov(fake.T)
        estimates.append(frechet_bias(float(one.trace()), float(two.trace()), rows, rows, singular_values(one, two)))
    return {"dim": dim, "rows": rows, "simulated": sum(values) / trials, "estimated": sum(estimates) / trials}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coverage", action="store_true")
    parser.add_argument("--out", default=str(RESULTS / "metric_peers.json"), help="JSON file, or - for none")
    options = parser.parse_args()
    report: dict[str, Any] = {"versions": CASES.get("_meta", {}), "cases": {}}
    for name, case in CASES.items():
        if not (GOLDEN / str(case.get("file"))).is_file() or abs(case.get("fd", 1)) < 1e-9 or name == "k_zero_bandwidth":
            continue
        for score, (reference, ours, peers) in measured(case).items():
            rows = {"xmodal": ours, **peers}
            report["cases"][f"{name} {score}"] = {"reference": reference, **rows}
            print(f"{name} {score}: {reference:.6g}")
            for who, value in rows.items():
                print(f"    {value / reference - 1:+9.1e}  {value:<12.6g} {who}")
    if options.coverage:
        frechets = [(16, 100, 150), (4, 200, 150)]
        report["coverage_fd"] = [
            coverage(d, n, t, lambda d=d: FrechetDistance(d, "rows", allow_bias=True)) for d, n, t in frechets
        ]
        report["coverage_kad"] = [coverage(4, 200, 100, KAD)]
        report["bias"] = [
            bias(8, 150),
            bias(8, 1500),
            bias(32, 150),
            bias(32, 1500),
            bias(128, 256),
            bias(128, 101),
            bias(128, 50),
        ]
        for key in ("coverage_fd", "coverage_kad", "bias"):
            print(key, *(json.dumps(row) for row in report[key]), sep="\n    ")
    if options.out != "-":
        path = Path(options.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
