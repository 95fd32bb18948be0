"""How often an item fits its own partner better than a bank of strangers: AIS (against sounds) and IIS (against pictures)."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmodal.metrics.features import Ids, PairMetric, key_of, normalized

TIE = 1e-12  # cosines of equal rows differ by rounding, which must not decide
MODES, TIES = ("winrate", "cosine"), ("lose", "half")


def draw_bank(count: int, size: int = 2048, seed: int = 0) -> Tensor:
    """Indices (min(count, size),), sorted, of the bank drawn from ``count`` items; write the ids of these into a report."""
    if count <= size:
        return torch.arange(count)
    return torch.from_numpy(np.sort(np.random.RandomState(seed).choice(count, size, replace=False)))


class WinRate(PairMetric):
    """Share of (item, stranger) pairs in which the item's own partner is nearer. Chance is 0.5; higher is better.

    For a made item f with own partner r and a fixed ``bank`` (M, d) of partners: the mean over j, then over items, of
    [cos(f, r) > cos(f, bank_j)]. Strict: a tie is a loss, or half a win with ``ties="half"``. With ``bank_ids`` an item's
    own partner in the bank is left out; without them it counts as a lost tie, so the ceiling is (M - 1) / M.
    ``mode="cosine"`` is the plain mean cosine with the own partner and needs no bank.
    """

    higher_is_better = True

    def __init__(
        self, bank: Tensor | None = None, bank_ids: Ids | None = None, mode: str = "winrate", ties: str = "lose", **options: Any
    ) -> None:
        if mode not in MODES or ties not in TIES:
            raise ValueError(f"mode is {mode!r} and ties {ties!r}, but expected one of {MODES} and of {TIES}")
        if mode == "winrate" and (bank is None or bank.ndim != 2 or not len(bank)):
            found = "none" if bank is None else tuple(bank.shape)
            raise ValueError(f"{type(self).__name__}: a win rate needs a bank (M, d) of at least one row, got {found}")
        super().__init__(**options)
        self.mode, self.ties = mode, ties
        self.columns = (self.name if mode == "winrate" else f"{self.name}_cosine",)
        # Plain attributes: the bank is neither state nor weights, and must stay float64 when a parent is cast.
        self._bank = normalized(self.check("bank", bank)[:, 0]) if bank is not None and mode == "winrate" else None
        self._bank_keys: Tensor | None = None
        if bank_ids is not None and self._bank is not None:
            if len(bank_ids) != len(self._bank):
                raise ValueError(f"{self.name}: the bank has {len(self._bank)} rows, but {len(bank_ids)} bank_ids were given")
            self._bank_keys = _keys(bank_ids)

    def update(self, fake: Tensor, real: Tensor, ids: Ids | None = None) -> None:
        """Add embeddings (N, d) of made items and of their own partners; with ``bank_ids``, ``ids`` are needed too."""
        one, two = self.paired(("fake", fake), ("real", real), ids)
        if one.shape[1] != 1 or two.shape[1] != 1:
            raise ValueError(f"{self.name}: expected one row an item, got {tuple(fake.shape)} and {tuple(real.shape)}")
        made, own = normalized(one[:, 0]), normalized(two[:, 0])
        cosine = (made * own).sum(1)
        value = cosine if self._bank is None else self._wins(made, cosine, ids)
        self.add("pairs", value[:, None, None], ids)

    def _wins(self, made: Tensor, cosine: Tensor, ids: Ids | None) -> Tensor:
        bank = self._bank
        if bank is None or bank.shape[1] != made.shape[1]:
            raise ValueError(
                f"{self.name}: items are {made.shape[1]} wide, but the bank is {0 if bank is None else bank.shape[1]}"
            )
        bank = self._bank = bank.to(made.device)
        lead = cosine[:, None] - made @ bank.T
        won = (lead > TIE).to(torch.float64)
        if self.ties == "half":
            won += (lead.abs() <= TIE) * 0.5
        if self._bank_keys is None:
            return won.mean(1)
        if ids is None:
            raise ValueError(f"{self.name}: the bank names its items, so update() needs ids to leave each item's own partner out")
        strange = (_keys(ids)[:, None] != self._bank_keys).to(made.device)
        if not strange.any(1).all():
            raise ValueError(f"{self.name}: the bank holds nothing but an item's own partner: give a bank of other items")
        return (won * strange).sum(1) / strange.sum(1)

    def options(self) -> dict[str, Any]:
        """See `FeatureMetric.options`."""
        if self._bank is None:
            return {"mode": self.mode}
        digest = "" if self._bank_keys is None else hashlib.sha256(self._bank_keys.numpy().tobytes()).hexdigest()[:16]
        return {
            "mode": self.mode, "ties": self.ties, "bank_rows": len(self._bank), "bank_items": digest,
            "own_pair": "excluded" if self._bank_keys is not None else "included if present",
        }  # fmt: skip


class AIS(WinRate):
    """Audio-image similarity: made pictures (CLIP ViT-B/32) against the sounds they were made from (Wav2CLIP)."""


class IIS(WinRate):
    """Image-image similarity: made pictures against the real pictures of the same clips (CLIP)."""


def _keys(ids: Ids) -> Tensor:
    return torch.tensor([key_of(name) for name in (ids.tolist() if isinstance(ids, Tensor) else ids)], dtype=torch.int64)
