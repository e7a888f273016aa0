"""What tests of workers on a clock of their own need: waiting for real is for nobody's good there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gridwire.grid import day_order, worker


@pytest.fixture(autouse=True, scope="module")
def impatient() -> Iterator[None]:
    """History waits for fifty steps of the tests' clocks, and no real time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "HELD_S", 0.0)
        patch.setattr(day_order, "PATIENCE_S", 0.05)
        yield
