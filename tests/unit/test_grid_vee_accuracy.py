"""Generous floors of what bench/accuracy_vee.py measures, on a small seeded case of real load shapes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("simbench", reason="real load shapes need the package simbench")
sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import accuracy_vee

UNITS, SEED = 130, 11


@pytest.fixture(scope="module")
def measured() -> tuple[dict[str, accuracy_vee.Score], list[accuracy_vee.Error]]:
    return accuracy_vee.measure(UNITS, SEED)


def test_what_was_injected_is_told(measured: tuple[dict[str, accuracy_vee.Score], list[accuracy_vee.Error]]) -> None:
    scores, _ = measured
    assert len(scores) == 16
    assert {name: s.recall for name, s in scores.items() if not (s.injected and s.recall >= 0.75)} == {}
    noisy = {"interval_spike", "dynamic_comparison", "high_low", "multiplier", "zero"}
    assert {name: s.precision for name, s in scores.items() if name not in noisy and s.precision < 0.95} == {}
    assert {name: s.precision for name, s in scores.items() if s.precision < 0.25} == {}


def test_masked_blocks_are_filled_well(
    measured: tuple[dict[str, accuracy_vee.Score], list[accuracy_vee.Error]],
) -> None:
    share = {(error.blocks, error.method): error.share for error in measured[1]}
    assert share["up to 2 h", "interpolation"] < 0.4
    assert share["2 to 12 h", "averaging"] < 0.6
    assert share["2 to 12 h", "adjust_from_scalar"] < share["2 to 12 h", "proration"]
    assert share["2 to 12 h", "all of them, as configured"] < 0.5
