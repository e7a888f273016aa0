"""How good a forecast is: mean absolute error, pinball loss, coverage; beside seasonal naive on the same hours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.models.forecast import BLOCKS_H, QUANTILES

_Floats = NDArray[np.float32]


@dataclass(slots=True)
class Score:
    """Sums over hours; `naive` the same of the peer. **Shape** by horizon: `[HORIZON_H]`."""

    units: int
    count: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BLOCKS_H[-1]))
    error: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BLOCKS_H[-1]))
    naive_error: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BLOCKS_H[-1]))
    pinball: float = 0.0
    naive_pinball: float = 0.0
    load: float = 0.0
    inside: float = 0.0

    def add(self, actual: _Floats, model: _Floats, naive: _Floats) -> None:
        """Take forecasts. **Shape** `actual[n, h]`, `model[n, h, 3]`, `naive[n, h, 3]`; what any lacks is left out."""
        known = np.isfinite(actual) & np.isfinite(model).all(axis=2) & np.isfinite(naive).all(axis=2)
        clean = np.where(known, actual, 0.0)
        ours = np.where(known[:, :, None], model, 0.0)
        theirs = np.where(known[:, :, None], naive, 0.0)
        self.count += known.sum(axis=0)
        self.error += np.abs(ours[:, :, 1] - clean).sum(axis=0, dtype=np.float64)
        self.naive_error += np.abs(theirs[:, :, 1] - clean).sum(axis=0, dtype=np.float64)
        self.pinball += _pinball(clean, ours)
        self.naive_pinball += _pinball(clean, theirs)
        self.load += float(np.abs(clean).sum(dtype=np.float64))
        self.inside += float(((clean >= ours[:, :, 0]) & (clean <= ours[:, :, 2]) & known).sum())

    def metrics(self) -> dict[str, Any]:
        """By name. `rcrps` is the mean pinball loss of the three quantiles, doubled, over the mean load."""
        total = max(self.count.sum(), 1.0)
        found: dict[str, Any] = {
            "units": self.units,
            "hours": int(self.count.sum()),
            "mae_kw": _rounded(self.error.sum() / total),
            "naive_mae_kw": _rounded(self.naive_error.sum() / total),
            "skill": _skill(self.error.sum(), self.naive_error.sum()),
            "rcrps": _rounded(2 * self.pinball / max(self.load, 1e-9)),
            "naive_rcrps": _rounded(2 * self.naive_pinball / max(self.load, 1e-9)),
            "coverage": _rounded(self.inside / total),
        }
        start = 0
        for end in BLOCKS_H:
            block = slice(start, end)
            found[f"skill_to_{end}h"] = _skill(self.error[block].sum(), self.naive_error[block].sum())
            start = end
        return found


def _pinball(actual: NDArray[Any], quantiles: NDArray[Any]) -> float:
    """Mean over the quantiles, summed over everything; entries set to zero on both sides cost nothing."""
    gap = actual[:, :, None] - quantiles
    levels = np.array(QUANTILES, np.float32)
    return float(np.maximum(levels * gap, (levels - 1) * gap).sum(dtype=np.float64) / len(QUANTILES))


def _skill(error: float, naive: float) -> float:
    """1 is perfect, 0 as good as naive, below 0 worse."""
    return round(1.0 - float(error) / float(naive), 4) if naive > 0 else 0.0


def _rounded(value: float) -> float:
    return float(f"{float(value):.5g}")
