"""Squared maximum mean discrepancy (Gretton et al. 2012) under several kernels: KID, KAD, CMMD.

Sums run over fixed blocks of rows, so no n x n matrix is kept. Unbiased estimates may be negative; they are not clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmodal.metrics.features import Ids, Rows, SetMetric, normalized

BLOCK = 1024
MEDIAN_ROWS = 10_000

# Of squared distances d2 and gamma = 1 / (2 bandwidth^2 + 1e-8), as in kadtk: gaussian, inverse quadratic, inverse multiquadric.
RADIAL: dict[str, Callable[[Tensor, float], Tensor]] = {
    "gaussian": lambda d2, gamma: (-gamma * d2).exp(),
    "iq": lambda d2, gamma: 1 / (1 + gamma * d2),
    "imq": lambda d2, gamma: (1 + gamma * d2).rsqrt(),
}
KERNELS = (*RADIAL, "poly3")


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(n, d), (m, d) -> (n, m) float64. Centre both sets first: a common offset costs digits."""
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp(min=0)


def median_distance(rows: Tensor, seed: int = 0) -> float:
    """Median Euclidean distance of all pairs of rows (n, d), the lower one of two; of 10,000 seeded rows where there are more.

    Raises ValueError below two rows, or if the median is zero, which no kernel can use.
    """
    if len(rows) < 2:
        raise ValueError(f"the bandwidth is a median distance, which {len(rows)} rows do not have: give at least 2, or a number")
    if len(rows) > MEDIAN_ROWS:
        kept = np.sort(np.random.RandomState(seed).choice(len(rows), MEDIAN_ROWS, replace=False))
        rows = rows[torch.from_numpy(kept).to(rows.device)]
    rows = rows.to(torch.float64)
    size = float(rows.abs().max())
    rows = rows - rows.mean(0)
    found = [squared_distances(rows[i : i + BLOCK], rows[i:])[_upper(len(rows), i)] for i in range(0, len(rows), BLOCK)]
    median = float(torch.cat(found).median().sqrt())
    if median <= 1e-12 * size:
        raise ValueError("the median distance of the rows is 0 (most are equal), so it is no bandwidth: give a number instead")
    return median


def mmd(
    x: Tensor, y: Tensor, kernel: str = "gaussian", bandwidth: float = 1.0, unbiased: bool = True, weights: Tensor | None = None
) -> Tensor:
    """Squared MMD of rows (n, d) and (m, d): a float64 scalar, or (b,) for ``weights`` (b, m), the counts of each row of y.

    ``kernel`` is gaussian, iq or imq with a ``bandwidth``, or poly3: (x.y / d + 1)^3. ``unbiased`` leaves the pairs of a
    row with itself out. Raises ValueError for an unknown kernel, a bandwidth that is not positive, or too few rows.
    """
    least = 2 if unbiased else 1
    if kernel not in KERNELS:
        raise ValueError(f"kernel is {kernel!r}, but expected one of {', '.join(KERNELS)}")
    if kernel != "poly3" and not bandwidth > 0:
        raise ValueError(f"bandwidth is {bandwidth}, but expected a number above 0")
    if min(len(x), len(y)) < least:
        raise ValueError(f"{len(x)} and {len(y)} rows were given, but the estimate needs at least {least} of each")
    x, y = x.to(torch.float64), y.to(torch.float64)
    if kernel != "poly3":
        centre = x.mean(0)
        x, y = x - centre, y - centre
    ones = x.new_ones(1, len(x))
    w = y.new_ones(1, len(y)) if weights is None else weights.to(y)
    n, m = float(len(x)), w.sum(1)
    xx, xx_self = _weighted(x, x, ones, ones, kernel, bandwidth)
    yy, yy_self = _weighted(y, y, w, w, kernel, bandwidth)
    xy, _ = _weighted(x, y, ones.expand(len(w), -1), w, kernel, bandwidth)
    if unbiased:
        made = (xx - xx_self) / (n * n - n) + (yy - yy_self) / (m * m - w.square().sum(1)) - 2 * xy / (n * m)
    else:
        made = xx / n**2 + yy / m**2 - 2 * xy / (n * m)
    return made if weights is not None else made[0]


def _upper(count: int, start: int) -> tuple[Tensor, Tensor]:
    height = min(BLOCK, count - start)
    index = torch.triu_indices(height, count - start, 1)
    return index[0], index[1]


def _weighted(x: Tensor, y: Tensor, u: Tensor, v: Tensor, kernel: str, bandwidth: float) -> tuple[Tensor, Tensor]:
    """Sum over i, j of u_i v_j k(x_i, y_j), and that of u_i v_i k(x_i, x_i), each (b,) for weights (b, n) and (b, m)."""
    total, own = u.new_zeros(len(u)), u.new_zeros(len(u))
    same = x is y
    for i in range(0, len(x), BLOCK):
        for j in range(0, len(y), BLOCK):
            a, b = x[i : i + BLOCK], y[j : j + BLOCK]
            if kernel == "poly3":
                k = (a @ b.T / x.shape[1] + 1) ** 3
            else:
                d2 = squared_distances(a, b)
                if same and i == j:
                    d2.fill_diagonal_(0)
                k = RADIAL[kernel](d2, 1 / (2 * bandwidth**2 + 1e-8))
            left, right = u[:, i : i + BLOCK], v[:, j : j + BLOCK]
            total += ((left @ k) * right).sum(1)
            if same and i == j:
                own += (left * right) @ k.diagonal()
    return total, own


class KernelDistance(SetMetric):
    """``scale`` times the squared MMD between real and made features. Lower is better.

    ``bandwidth`` is the median distance within the "real" or the "fake" rows, or a number; ``unbiased`` estimates leave
    self-pairs out and may be negative. ``normalize`` brings every row to length one first. Intervals resample the made
    items with the real side (and the bandwidth) fixed.
    """

    higher_is_better = False

    def __init__(
        self, kernel: str = "gaussian", bandwidth: float | str = "real", unbiased: bool = True, scale: float = 1.0,
        normalize: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        if kernel not in KERNELS:
            raise ValueError(f"kernel is {kernel!r}, but expected one of {', '.join(KERNELS)}")
        if isinstance(bandwidth, str) and bandwidth not in ("real", "fake"):
            raise ValueError(f"bandwidth is {bandwidth!r}, but expected 'real', 'fake' or a number")
        super().__init__(**options)
        self.kernel, self.bandwidth, self.unbiased, self.scale, self.normalize = kernel, bandwidth, unbiased, scale, normalize

    def update(self, real: Tensor | None = None, fake: Tensor | None = None, ids: Ids | None = None) -> None:
        """Add rows (N, d), or (N, K, d) for K rows an item, of either side or both; ``ids`` name the N items."""
        for side, features in (("real", real), ("fake", fake)):
            if features is not None:
                rows = self.check(side, features, ids)
                self.add(side, normalized(rows) if self.normalize else rows, ids)

    def values(self, sides: dict[str, Rows], counts: np.ndarray | None) -> dict[str, tuple[float, np.ndarray | None]]:
        """See `SetMetric.values`."""
        real, fake = sides["real"].values, sides["fake"].values
        width = self.bandwidth if not isinstance(self.bandwidth, str) else 1.0
        if self.kernel != "poly3" and isinstance(self.bandwidth, str):
            width = median_distance(real if self.bandwidth == "real" else fake)
        value = float(mmd(real, fake, self.kernel, width, self.unbiased)) * self.scale
        return {self.name: (value, self._again(sides, counts, width))}

    def _again(self, sides: dict[str, Rows], counts: np.ndarray | None, width: float) -> np.ndarray | None:
        if counts is None:
            return None
        weights = torch.from_numpy(counts).to(sides["fake"].values.device)[:, sides["fake"].item]
        made = mmd(sides["real"].values, sides["fake"].values, self.kernel, width, self.unbiased, weights)
        return made.cpu().numpy() * self.scale

    def small_sample(self, counts: Mapping[str, int]) -> bool:
        """Fewer than 1,000 rows on a side."""
        return min(counts["real_rows"], counts["fake_rows"]) < 1000

    def options(self) -> dict[str, Any]:
        """See `FeatureMetric.options`."""
        bandwidth = None if self.kernel == "poly3" else self.bandwidth
        named = {"kernel": self.kernel, "bandwidth": bandwidth, "unbiased": self.unbiased}
        return {**named, "scale": self.scale, "normalize": self.normalize}


class KAD(KernelDistance):
    """Kernel audio distance: 100 times the unbiased MMD, Gaussian, median bandwidth of the real rows (arXiv 2502.15602)."""

    def __init__(self, kernel: str = "gaussian", bandwidth: float | str = "real", **options: Any) -> None:
        super().__init__(kernel, bandwidth, scale=100.0, **options)


class CMMD(KernelDistance):
    """1,000 times the *biased* MMD of normalized CLIP embeddings, Gaussian kernel of bandwidth 10 (arXiv 2401.09603)."""

    def __init__(self, **options: Any) -> None:
        super().__init__("gaussian", 10.0, unbiased=False, scale=1000.0, normalize=True, **options)


class KID(KernelDistance):
    """Kernel inception distance: unbiased MMD, kernel (x.y / d + 1)^3 (arXiv 1801.01401): mean and std over seeded subsets.

    Each of ``subsets`` draws ``subset_size`` made, then as many real rows without repeats from RandomState(``seed``), as
    torch-fidelity does; the same rows are drawn where ids bring them into the same order. ``subsets=0`` uses all pairs of
    all rows once: no smaller samples, no draw, no std. Raises ValueError for fewer rows than ``subset_size``.
    """

    def __init__(self, subsets: int = 100, subset_size: int = 1000, seed: int = 2020, **options: Any) -> None:
        super().__init__("poly3", 1.0, **options)
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed

    def values(self, sides: dict[str, Rows], counts: np.ndarray | None) -> dict[str, tuple[float, np.ndarray | None]]:
        """See `SetMetric.values`."""
        if not self.subsets:
            return super().values(sides, counts)
        real, fake = sides["real"].values, sides["fake"].values
        if min(len(real), len(fake)) < self.subset_size:
            raise ValueError(
                f"KID: {len(real)} real and {len(fake)} fake rows, but subsets of {self.subset_size} are to be drawn: "
                "give more rows, a smaller subset_size, or subsets=0 for all pairs of all rows"
            )
        random = np.random.RandomState(self.seed)
        made = []
        for _ in range(self.subsets):
            y = fake[torch.from_numpy(random.choice(len(fake), self.subset_size, replace=False)).to(fake.device)]
            x = real[torch.from_numpy(random.choice(len(real), self.subset_size, replace=False)).to(real.device)]
            made.append(float(mmd(x, y, "poly3")))
        return {"KID": (float(np.mean(made)), self._again(sides, counts, 1.0)), "KID_std": (float(np.std(made)), None)}

    def options(self) -> dict[str, Any]:
        """See `FeatureMetric.options`."""
        return {**super().options(), "subsets": self.subsets, "subset_size": self.subset_size, "subset_seed": self.seed}
