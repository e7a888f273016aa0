"""What finds faults of transformers, voltages, losses and the model, on small injected cases: generous floors.

The measured accuracy on larger cases is in docs/reference/analytics.md, by bench/accuracy_health.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import accuracy_health as accuracy


def test_signs_of_failure_are_found_before_it() -> None:
    found = accuracy.failing(21, transformers=24, days=28, share=0.125)
    assert found["recall"] >= 0.6 and found["precision"] >= 0.6
    assert found["lead_days"] >= 5.0


def test_violations_are_found() -> None:
    found = accuracy.violations(21, transformers=8, days=4)
    assert found["injected"] > 20
    assert found["recall"] >= 0.9 and found["precision"] >= 0.9


def test_theft_is_ranked_first() -> None:
    found = accuracy.theft(21, transformers=32, days=40)
    assert found["auc"] >= 0.85
    assert found["precision_at"] >= 0.4 and found["precision"] >= 0.5


def test_errors_of_the_model_are_found() -> None:
    found = accuracy.mapping(21, transformers=24)
    assert found["transformer_recall"] >= 0.8 and found["transformer_precision"] >= 0.7
    assert found["phase_recall"] >= 0.7 and found["phase_precision"] >= 0.7
    assert found["right_place"] >= 0.9


def test_hot_spots_follow_the_exact_solution() -> None:
    found = accuracy.hot_spots(21, days=5)
    assert found["error_k"] < 2.0 and found["life_error"] < 0.1
