"""Fréchet distance of two Gaussians fitted to features: FID, FAD, FD, by the features it is given.

d2 = |mu_r - mu_f|^2 + tr S_r + tr S_f - 2 tr (S_r S_f)^(1/2)   (Dowson & Landau 1982; FID: Heusel et al., arXiv 1706.08500)

The trace term is the sum of the singular values of S_r^(1/2) S_f^(1/2), taken from the centred rows or from the triangle of
their QR decomposition: a covariance itself would square the condition number. Regular ones take a quicker way whose rounding
error is estimated. Means are taken off first, so a large one costs no digits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from xmodal.files import write_beside
from xmodal.metrics.features import Ids, Rows, SetMetric
from xmodal.metrics.protocol import Score

Parts = tuple[Tensor, Tensor, Tensor, Tensor]
MAX_BIAS = 0.1  # of the real features' total variance
EPSILON = 2.0**-52
NOISE = 4 * EPSILON  # eigenvalues below this share of the largest are rounding errors
CLOSE = 5e-10  # of the distance: what the quick form's rounding may amount to
REGULAR = 1e-10  # of the largest variance: what no direction may fall below for the quick form
SPARE = 8  # random columns beyond the rank


def moments(rows: Tensor) -> Tensor:
    """Rows (n, d) -> packed float64 (d+1, d+1): count at [0, 0], mean at [0, 1:], at [1:, 1:] a triangle R.

    R^T R is the centred scatter. The scatter itself would square the condition number: what is small in it drowns in rounding.
    """
    rows = rows.to(torch.float64)
    packed = rows.new_zeros(rows.shape[1] + 1, rows.shape[1] + 1)
    if len(rows):
        mean = rows.mean(0)
        mean = mean + (rows - mean).mean(0)  # what rounding of the mean left over
        packed[0, 0], packed[0, 1:] = len(rows), mean
        _set_triangle(packed, rows - mean)
    return packed


def _set_triangle(packed: Tensor, rows: Tensor) -> None:
    triangle = torch.linalg.qr(rows, mode="r").R
    packed[1:, 1:] = 0
    packed[1 : len(triangle) + 1, 1:] = triangle


def merge_moments(stacked: Tensor) -> Tensor:
    """Packed moments (k, d+1, d+1) of k disjoint sets -> those of their union (Chan, Golub & LeVeque 1979)."""
    total = stacked[0].clone()
    for part in stacked[1:]:
        _add_moments(total, part)
    return total


def _add_moments(total: Tensor, part: Tensor) -> None:
    """Packed moments of another set, added in place."""
    n, m = float(total[0, 0]), float(part[0, 0])
    if not m:
        return
    delta = part[0, 1:] - total[0, 1:]
    share = m / (n + m)
    total[0, 0] += m
    total[0, 1:] += delta * share
    _set_triangle(total, torch.cat([total[1:, 1:], part[1:, 1:], (n * share) ** 0.5 * delta[None]]))


def covariance(packed: Tensor) -> Tensor:
    """The covariance (d, d), divided by n - 1, of packed moments."""
    return _gram(packed[1:, 1:]) / (packed[0, 0] - 1)


def half(packed: Tensor) -> Tensor:
    """F (d, r) with F F^T = the covariance (d, d) of packed moments; r is at most n."""
    rank = min(len(packed) - 1, int(packed[0, 0]))
    return packed[1 : rank + 1, 1:].mT / (packed[0, 0] - 1) ** 0.5


def factor(matrix: Tensor, rank: int | None = None) -> Tensor:
    """F (d, r) with F F^T = the positive semi-definite matrix (d, d); of known ``rank`` where n - 1 rows made it.

    Eigenvalues beyond the rank, or no larger than rounding makes them, are left out: the square root would lift their
    errors of 1e-16 to 1e-8. A matrix of low rank is first brought into its range, which as many random columns find
    (Halko, Martinsson & Tropp, arXiv 0909.4061); their seed is fixed.
    """
    matrix, basis = (matrix + matrix.mT) / 2, None
    if rank is not None and 3 * (rank + SPARE) < len(matrix):
        stream = torch.Generator().manual_seed(0)
        noise = torch.randn(len(matrix), rank + SPARE, dtype=matrix.dtype, generator=stream).to(matrix.device)
        basis = torch.linalg.qr(matrix @ noise).Q
        matrix = basis.mT @ matrix @ basis
    values, vectors = torch.linalg.eigh(matrix)  # ascending
    kept = values > NOISE * values[-1].clamp(min=0)
    if rank is not None:
        kept[: max(0, len(values) - rank)] = False
    found = vectors[:, kept] * values[kept].sqrt()
    return found if basis is None else basis @ found


def singular_values(first: Tensor, second: Tensor, ranks: tuple[int | None, int | None] = (None, None)) -> Tensor:
    """Singular values of S1^(1/2) S2^(1/2) for two covariances (d, d); their sum is tr (S1 S2)^(1/2)."""
    product = factor(first, ranks[0]).mT @ factor(second, ranks[1])
    return torch.linalg.svdvals(product) if min(product.shape) else product.new_zeros(1)


def frechet_distance(mu1: Tensor, s1: Tensor, mu2: Tensor, s2: Tensor) -> Tensor:
    """Distance (a float64 scalar) of two Gaussians with means (d,) and covariances (d, d).

    May come out below zero by rounding (of the order of 1e-13 of the variance); it is not clipped. A covariance in double
    precision does not hold variances below 1e-16 of its largest, which may matter by 1e-8 of the distance where the other's is
    large there: `frechet_from_samples` and `FrechetDistance` go by the rows themselves.
    """
    mu1, s1, mu2, s2 = (part.to(torch.float64) for part in (mu1, s1, mu2, s2))
    return (mu1 - mu2).square().sum() + s1.trace() + s2.trace() - 2 * singular_values(s1, s2).sum()


def frechet_from_samples(real: Tensor, fake: Tensor) -> Tensor:
    """Distance of two sets of rows (n, d) and (m, d), from their singular values; the quick way while n + m < d.

    Raises ValueError for fewer than two rows or unlike widths.
    """
    if min(len(real), len(fake)) < 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(f"expected two sets of at least 2 rows of one width, got {tuple(real.shape)} and {tuple(fake.shape)}")
    gap, one, two, singular = _parts_of_samples(real.to(torch.float64), fake.to(torch.float64))
    return gap + one + two - 2 * singular.sum()


def _parts_of_samples(real: Tensor, fake: Tensor) -> Parts:
    """Squared distance of the means, both total variances, singular values of S1^(1/2) S2^(1/2)."""
    mu1, mu2 = real.mean(0), fake.mean(0)
    x, y = (real - mu1) / (len(real) - 1) ** 0.5, (fake - mu2) / (len(fake) - 1) ** 0.5
    gap, one, two = (mu1 - mu2).square().sum(), x.square().sum(), y.square().sum()
    # Many rows are replaced by the triangle of their QR decomposition: the same singular values from d rows.
    x, y = (torch.linalg.qr(part, mode="r").R if len(part) > part.shape[1] else part for part in (x, y))
    return gap, one, two, torch.linalg.svdvals(x @ y.T)


def _parts_of_moments(real: Tensor, fake: Tensor) -> Parts:
    """Squared distance of the means, both total variances, singular values of S1^(1/2) S2^(1/2)."""
    quick = _quick_parts(real, fake)
    if quick is not None:
        return quick
    one, two = half(real), half(fake)
    gap = (real[0, 1:] - fake[0, 1:]).square().sum()
    return gap, one.square().sum(), two.square().sum(), torch.linalg.svdvals(one.mT @ two)


def _quick_parts(real: Tensor, fake: Tensor) -> Parts | None:
    """The same by `quick_singular_values`, or None where rounding could matter."""
    if min(real[0, 0], fake[0, 0]) < len(real):
        return None
    return _quick((real[0, 1:], covariance(real)), (fake[0, 1:], covariance(fake)))


def _quick_parts_of_samples(real: Tensor, fake: Tensor) -> Parts | None:
    """The same from rows (n, d); their scatter is good enough for what is regular."""
    if min(len(real), len(fake)) <= real.shape[1]:
        return None
    means = [rows.mean(0) for rows in (real, fake)]
    means = [mean + (rows - mean).mean(0) for rows, mean in zip((real, fake), means, strict=True)]
    one, two = (_gram(rows - mean) / (len(rows) - 1) for rows, mean in zip((real, fake), means, strict=True))
    return _quick((means[0], one), (means[1], two))


def _quick(real: tuple[Tensor, Tensor], fake: tuple[Tensor, Tensor]) -> Parts | None:
    (mu1, s1), (mu2, s2) = real, fake
    if (found := quick_singular_values(s1, s2)) is None:
        return None
    gap, one, two = (mu1 - mu2).square().sum(), s1.trace(), s2.trace()
    value = float(gap + one + two - 2 * found[0].sum())
    return (gap, one, two, found[0]) if 2 * found[1] <= CLOSE * value else None


def quick_singular_values(first: Tensor, second: Tensor) -> tuple[Tensor, float] | None:
    """As `singular_values` for two regular covariances, the quick way, and what rounding may do to their sum.

    Two Cholesky factors and the eigenvalues of their product's square. That squares the condition number: an error of e in a
    square s^2 is one of e / 2s in s. The second result is ten times the root of the sum of their squares, with e = 2^-52 of
    the largest square. None where a covariance is singular or nearly so.
    """
    (left, failed), (right, failed_too) = (torch.linalg.cholesky_ex(part) for part in (first, second))
    if failed or failed_too:
        return None
    if any(part.diagonal().min().square() < REGULAR * part.square().sum(1).max() for part in (left, right)):
        return None
    squares = torch.linalg.eigvalsh(_gram(left.mT @ right))
    if not squares[0] > 0:
        return None
    found = squares.sqrt()
    return found.flip(0), 10 * EPSILON * float(squares[-1] * (0.5 / found).norm())


def _gram(rows: Tensor) -> Tensor:
    """X^T X (d, d) of (n, d); numpy knows that it is symmetric and spends half the work."""
    if rows.device.type != "cpu":
        return rows.mT @ rows
    plain = rows.contiguous().numpy()
    return torch.from_numpy(plain.T @ plain)


def frechet_bias(one: float, two: float, n: int, m: int, singular: Tensor) -> float:
    """What sampling n and m rows adds to the distance on average, to first order in 1/n and 1/m, for Gaussian features.

    ``one`` and ``two`` are the total variances tr S, ``singular`` the `singular_values` s. The means add one / n + two / m;
    the trace term, concave in either covariance, adds (1/(n-1) + 1/(m-1)) / 2 times the sum over all i, j of
    (1 + [i = j]) s_i s_j / (s_i + s_j). With fewer rows than dimensions the true bias is larger: a lower estimate there.
    """
    s = singular[singular > singular.max() * 1e-12]
    pairs = float((s[:, None] * s / (s[:, None] + s)).sum() + s.sum() / 2) if len(s) else 0.0
    return one / n + two / m + (1 / (n - 1) + 1 / (m - 1)) / 2 * pairs


class FrechetDistance(SetMetric):
    """Fréchet distance between real and made features of width ``dim``. Lower is better.

    ``store="moments"`` keeps (dim+1)^2 numbers a side whatever the number of rows, and has no interval, since rows
    cannot be drawn again; ``store="rows"`` keeps all rows, takes ids and gives bootstrap intervals with the real side
    fixed. ``compute`` raises ValueError while the estimated bias exceeds ``max_bias`` of the real features' total
    variance, unless ``allow_bias``; RuntimeError below two rows a side.
    """

    higher_is_better = False

    def __init__(
        self,
        dim: int,
        store: str = "moments",
        max_bias: float = MAX_BIAS,
        allow_bias: bool = False,
        name: str = "FD",
        **options: Any,
    ) -> None:
        if store not in ("moments", "rows"):
            raise ValueError(f"store is {store!r}, but expected 'moments' or 'rows'")
        super().__init__(**options)
        self.dim, self.store, self.max_bias, self.allow_bias, self.label = dim, store, max_bias, allow_bias, name
        if store == "moments":
            for side in self.sides:
                nothing = torch.zeros(dim + 1, dim + 1, dtype=torch.float64)
                self.add_state(f"{side}_moments", nothing, dist_reduce_fx=merge_moments)

    @property
    def name(self) -> str:
        """As given to the constructor: FID, FAD, FD-CLAP, ..."""
        return self.label

    def update(self, real: Tensor | None = None, fake: Tensor | None = None, ids: Ids | None = None) -> None:
        """Add rows (N, dim), or (N, K, dim) for K rows an item, of either side or both; ``ids`` name the N items."""
        if self.store == "moments" and ids is not None:
            raise ValueError(f"{self.name}: moments cannot tell items apart: leave ids out, or construct with store='rows'")
        for side, features in (("real", real), ("fake", fake)):
            if features is None:
                continue
            rows = self.check(side, features, ids, self.dim)
            if self.store == "rows":
                self.add(side, rows, ids)
            else:
                self.add(side, rows)
                if sum(map(len, getattr(self, side))) > self.dim:  # many at once: each folding costs a decomposition
                    self._fold(side)

    def scores(self, draws: int, seed: int) -> tuple[dict[str, Score], dict[str, Rows | int]]:
        """See `FeatureMetric.scores`."""
        if self.store == "rows":
            return super().scores(draws, seed)
        # On the processor: these matrices are few, and some accelerators have no float64 solver.
        real, fake = self._packed("real").cpu(), self._packed("fake").cpu()
        n, m = self._counted(int(real[0, 0]), int(fake[0, 0]))
        return {self.name: Score(self._allowed(n, m, *_parts_of_moments(real, fake)))}, {"real": n, "fake": m}

    def values(self, sides: dict[str, Rows], counts: np.ndarray | None) -> dict[str, tuple[float, np.ndarray | None]]:
        """See `SetMetric.values`."""
        real, fake = sides["real"].values.cpu(), sides["fake"].values.cpu()
        n, m = self._counted(len(real), len(fake))
        parts = self._parts(real, fake)
        # Copies of a row add nothing to a covariance: the bias is that of the distinct ones.
        value = self._allowed(*((n, m) if self.allow_bias else (distinct(real), distinct(fake))), *parts)
        if counts is None:
            return {self.name: (value, None)}
        weights = torch.from_numpy(counts)[:, sides["fake"].item.cpu()]
        return {self.name: (value, _resampled(moments(real), fake, weights))}

    def _parts(self, real: Tensor, fake: Tensor) -> Parts:
        # Where the quick way may not be taken, the rows themselves are decomposed, which squares no condition number.
        return _quick_parts_of_samples(real, fake) or _parts_of_samples(real, fake)

    def _fold(self, side: str) -> None:
        """Bring the rows that wait into the moments."""
        setattr(self, f"{side}_moments", self._packed(side))
        setattr(self, side, [])

    def _packed(self, side: str) -> Tensor:
        """Moments of all rows, those that wait with them."""
        state, waiting = getattr(self, f"{side}_moments"), getattr(self, side)
        if not len(waiting):
            return state  # type: ignore[no-any-return]
        rows = torch.cat(list(waiting)) if isinstance(waiting, list) else waiting
        return merge_moments(torch.stack([moments(rows), state.to(rows.device)]))

    def _counted(self, n: int, m: int) -> tuple[int, int]:
        if min(n, m) < 2:
            raise RuntimeError(f"{self.name}: {n} real and {m} fake rows, but a covariance needs at least 2 on each side")
        return n, m

    def _allowed(self, n: int, m: int, gap: Tensor, one: Tensor, two: Tensor, singular: Tensor) -> float:
        """The distance, or ValueError if too much of it is bias."""
        value, spread = float(gap + one + two - 2 * singular.sum()), float(one)
        if not self.allow_bias and min(n, m, spread, float(two)) <= 0 or min(n, m) < 2:
            what = "real" if spread <= 0 or n < 2 else "made"
            raise ValueError(f"{self.name}: all {what} rows are the same, so that they have no covariance to compare")
        bias = frechet_bias(spread, float(two), n, m, singular)
        if self.allow_bias or bias <= self.max_bias * spread:
            return value
        more = int(min(n, m) * bias / (self.max_bias * spread)) + 1 if spread * self.max_bias else "more"
        least = "at least " if min(n, m) < 2 * self.dim else ""
        raise ValueError(
            f"{self.name} of {n} real and {m} fake rows in {self.dim} dimensions would be {value:.4g}; sampling alone adds "
            f"{least}about {bias:.3g}: more than {self.max_bias:g} of the real features' total variance {spread:.4g}; "
            f"give {least}about {more} rows a side, or read a kernel distance (KAD, KID), which has no such bias; allow_bias "
            "(--allow-bias) gives it all the same"
        )

    def small_sample(self, counts: Mapping[str, int]) -> bool:
        """Fewer rows on a side than twice the dimensions, or few items."""
        return min(counts["real_rows"], counts["fake_rows"]) < 2 * self.dim or super().small_sample(counts)

    def options(self) -> dict[str, Any]:
        """See `FeatureMetric.options`."""
        return {"dim": self.dim}

    def save_reference(self, path: str | Path, extractor: str, weights: str, preprocessing: str) -> Path:
        """Write the real side's moments as safetensors, with what made them; needs ``store="moments"``."""
        from safetensors.torch import save_file

        if self.store != "moments" or not self._packed("real")[0, 0]:
            raise ValueError(f"{self.name} has no real moments to save: construct with store='moments' and update(real=...)")
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        made = json.dumps({"extractor": extractor, "weights": weights, "preprocessing": preprocessing})
        content = {"triangle": self._packed("real").cpu().contiguous()}
        return write_beside(path, lambda partial: save_file(content, partial, metadata={"xmodal": made}))

    def load_reference(self, path: str | Path, extractor: str, weights: str, preprocessing: str) -> Self:
        """Add the real side from a file of `save_reference`; raises ValueError if other features made it, or of another width."""
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: write it with FrechetDistance.save_reference")
        try:
            with safe_open(path, "pt") as file:
                packed, made = file.get_tensor("triangle"), json.loads((file.metadata() or {}).get("xmodal", "{}"))
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{path} is no reference ({error}): write it with FrechetDistance.save_reference") from error
        expected = {"extractor": extractor, "weights": weights, "preprocessing": preprocessing}
        if made != expected or packed.shape != (self.dim + 1, self.dim + 1):
            raise ValueError(f"{path} was made by {made} with {len(packed) - 1} columns, but expected {expected} with {self.dim}")
        if self.store != "moments":
            raise ValueError(f"{path} holds moments, which cannot be joined with rows: construct with store='moments'")
        old = self._packed("real")
        self.real_moments = merge_moments(torch.stack([old, packed.to(old)]))
        setattr(self, "real", [])  # noqa: B010  (mypy: a state of the base class)
        self._update_count += 1
        self._computed = None
        return self


def distinct(rows: Tensor) -> int:
    """How many rows (n, d) differ from each other by more than rounding in single precision."""
    scale = rows.abs().amax().clamp(min=torch.finfo(rows.dtype).tiny)
    rounded = np.ascontiguousarray((rows / scale * 2**21).round().add(0.0).numpy())
    return len(np.unique(rounded.view(np.dtype((np.void, rounded.dtype.itemsize * rounded.shape[1])))))


def _resampled(real: Tensor, fake: Tensor, weights: Tensor) -> np.ndarray:
    """Distances (b,) of packed moments to the rows (m, d) under each of the weights (b, m), in the quick one-sided form."""
    rows, root = fake - real[0, 1:], half(real)
    turned, lengths, spread = rows @ root, rows.square().sum(1), root.square().sum()
    made = []
    for weight in weights:
        kept = weight > 0
        w = weight[kept]
        count = w.sum()
        mean = w @ rows[kept] / count
        mixed = (turned[kept] - mean @ root) * (w / (count - 1)).sqrt()[:, None]
        gram = mixed @ mixed.T if len(mixed) < mixed.shape[1] else mixed.T @ mixed
        trace = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().sum()
        gap = mean.square().sum()
        variance = (w @ lengths[kept] - count * gap) / (count - 1)
        made.append(float(gap + spread + variance - 2 * trace))
    return np.array(made)
