"""Seconds and relative error of the Fréchet distance: ours, scipy.linalg.sqrtm, torchmetrics, torch-fidelity; same features.

python benchmarks/frechet.py                              # d = 2048; 101, 5,000 and 50,000 rows a side
python benchmarks/frechet.py --dim 64 --rows 50 200 --out -   # a trial

The truth is the definition in float64 straight from the samples: QR, then the singular values of X Y^T in numpy, which never
squares the condition number. Features are float32 with variances 1/k and a common mean; the fake ones are wider and moved.
What is timed is all from features in memory to the number; the solvers alone, on covariances in memory, are timed apart.
Ratios are those of processor seconds, which other work on the machine lengthens less than it does the clock's.
Before that, every method is held against stored cases whose values were computed with 50 digits, and those of few rows.
Peers that are not installed are left out and named.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xmodal.metrics import FrechetDistance

RESULTS = Path(__file__).parent / "results"
GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "metrics"
BATCH = 1000


def features(rows: int, dim: int, seed: int, width: float, shift: float, offset: float) -> Tensor:
    noise = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    return noise * (width * torch.arange(1, dim + 1) ** -0.5) + shift + offset


def truth(real: Tensor, fake: Tensor) -> float:
    sides = []
    for rows in (real.double().numpy(), fake.double().numpy()):
        centred = rows - rows.mean(0)
        triangle = np.linalg.qr(centred, mode="r") if len(rows) > rows.shape[1] else centred
        sides.append((rows.mean(0), triangle / np.sqrt(len(rows) - 1)))
    (mu1, x), (mu2, y) = sides
    trace = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(((mu1 - mu2) ** 2).sum() + (x**2).sum() + (y**2).sum() - 2 * trace)


def ours(real: Tensor, fake: Tensor) -> float:
    metric = FrechetDistance(real.shape[1], allow_bias=True)
    for side, rows in (("real", real), ("fake", fake)):
        for part in rows.split(BATCH):
            metric.update(**{side: part})
    return float(metric.compute())


def ours_from_rows(real: Tensor, fake: Tensor) -> float:
    metric = FrechetDistance(real.shape[1], store="rows", allow_bias=True)
    metric.update(real=real)
    metric.update(fake=fake)
    return float(metric.compute())


def scipy_sqrtm(real: Tensor, fake: Tensor) -> float:
    from scipy.linalg import sqrtm

    x, y = real.double().numpy(), fake.double().numpy()
    s1, s2 = np.atleast_2d(np.cov(x, rowvar=False)), np.atleast_2d(np.cov(y, rowvar=False))
    gap = ((x.mean(0) - y.mean(0)) ** 2).sum()
    return float(gap + np.trace(s1) + np.trace(s2) - 2 * np.trace(sqrtm(s1 @ s2).real))


def torchmetrics_fid(real: Tensor, fake: Tensor) -> float:
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Given(torch.nn.Module):
        num_features = real.shape[1]

        def forward(self, rows: Tensor) -> Tensor:
            return rows

    metric = FrechetInceptionDistance(feature=Given())
    for rows, is_real in ((real, True), (fake, False)):
        for part in rows.split(BATCH):
            metric.update(part, real=is_real)
    return float(metric.compute())


def torch_fidelity(real: Tensor, fake: Tensor) -> float:
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    made = fid_statistics_to_metric(fid_features_to_statistics(real), fid_features_to_statistics(fake), verbose=False)
    return float(made[KEY_METRIC_FID])


METHODS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "xmodal (moments)": ours,
    "xmodal (rows)": ours_from_rows,
    "scipy.linalg.sqrtm": scipy_sqrtm,
    "torchmetrics": torchmetrics_fid,
    "torch-fidelity": torch_fidelity,
}


def stored_cases() -> dict[str, tuple[Tensor, Tensor, float]]:
    """Features and 50-digit value of every stored case that has one."""
    from safetensors.torch import load_file

    cases = json.loads((GOLDEN / "expected.json").read_text())
    chosen = {name: case for name, case in cases.items() if case.get("fd_mpmath50") is not None}
    sides = {name: load_file(GOLDEN / case["file"]) for name, case in chosen.items()}
    return {name: (sides[name]["real"], sides[name]["fake"], case["fd_mpmath50"]) for name, case in chosen.items()}


def against_50_digits() -> list[dict[str, object]]:
    """Relative errors by case and method; a method that raises gets its error's name."""
    table: list[dict[str, object]] = []
    for name, (real, fake, expected) in stored_cases().items():
        row: dict[str, object] = {"case": name, "rows": len(real), "dim": real.shape[1], "value": expected}
        for method, run in METHODS.items():
            try:
                row[method] = run(real, fake) / expected - 1
            except ImportError:
                continue
            except Exception as error:
                row[method] = type(error).__name__
        table.append(row)
    return table


def solvers(real: Tensor, fake: Tensor) -> dict[str, float]:
    """Processor seconds of the trace term alone, from the same covariances."""
    from scipy.linalg import sqrtm

    from xmodal.metrics.frechet import quick_singular_values, singular_values

    s1, s2 = torch.cov(real.double().T), torch.cov(fake.double().T)
    ranks = (len(real) - 1, len(fake) - 1)
    runs: dict[str, Callable[[], object]] = {
        "xmodal": lambda: (len(real) > len(s1) and quick_singular_values(s1, s2)) or singular_values(s1, s2, ranks),
        "scipy.linalg.sqrtm": lambda: sqrtm((s1 @ s2).numpy()),
    }
    found = {}
    for name, run in runs.items():
        start = time.process_time()
        run()
        found[name] = round(time.process_time() - start, 3)
    return found


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torch", "numpy", "scipy", "torchmetrics", "torch-fidelity"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--rows", type=int, nargs="+", default=[101, 5000, 50_000])
    parser.add_argument("--offset", type=float, default=0.0, help="added to every feature: what a common mean costs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=str(RESULTS / "frechet.json"), help="JSON file, or - for none")
    options = parser.parse_args()
    print("relative error against 50-digit values")
    digits = against_50_digits()
    for row in digits:
        cells = [
            f"{method} {found:+.1e}" if isinstance(found := row[method], float) else f"{method} {found}"
            for method in METHODS
            if method in row
        ]
        print(f"  {row['case']:<22}{'   '.join(cells)}", flush=True)
    table: list[dict[str, object]] = []
    for count in options.rows:
        real = features(count, options.dim, options.seed, 1.0, 0.0, options.offset)
        fake = features(count, options.dim, options.seed + 1, 1.2, 0.05, options.offset)
        table += timed(real, fake, options.offset)
        if options.out != "-":
            about = {"dim": options.dim, "offset": options.offset, "threads": torch.get_num_threads(), "cores": os.cpu_count()}
            content = {**about, "versions": versions(), "table": table, "50_digits": digits}
            path = Path(options.out)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content, indent=1) + "\n")


def timed(real: Tensor, fake: Tensor, offset: float) -> list[dict[str, object]]:
    """Seconds and relative error of every method on these features, printed as they come."""
    expected, table = truth(real, fake), []
    print(f"d = {real.shape[1]}, {len(real)} rows a side, offset {offset:g}: {expected:.6f}", flush=True)
    for name, method in METHODS.items():
        try:
            method(real[:8, :4], fake[:8, :4])  # imports and first calls are not timed
            start, clock = time.process_time(), time.perf_counter()
            value = method(real, fake)
            seconds, clock = time.process_time() - start, time.perf_counter() - clock
        except ImportError as error:
            print(f"  {name:<20} not installed ({error.name})")
            continue
        row = {
            "rows": len(real),
            "method": name,
            "cpu_seconds": round(seconds, 3),
            "seconds": round(clock, 3),
            "relative_error": value / expected - 1,
        }
        table.append(row)
        print(f"  {name:<20}{seconds:9.3f} CPU s {clock:9.3f} s   relative error {value / expected - 1:+.1e}", flush=True)
    base = next((row for row in table if row["method"] == "scipy.linalg.sqrtm"), None)
    for row in table:
        row["scipy_takes"] = round(float(base["cpu_seconds"]) / max(float(row["cpu_seconds"]), 1e-3), 2) if base else None
    if base:
        alone = solvers(real, fake)
        ratio = alone["scipy.linalg.sqrtm"] / alone["xmodal"]
        print(f"  trace term alone: xmodal {alone['xmodal']} s, sqrtm {alone['scipy.linalg.sqrtm']} s: {ratio:.1f} times")
        print("  " + "; ".join(f"scipy takes {row['scipy_takes']} times as long as {row['method']}" for row in table))
        table.append({"rows": len(real), "method": "trace term alone", "cpu_seconds": alone})
    return table


if __name__ == "__main__":
    main()
