"""One line a part at the end of a run: what was done, what was lost, how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

Tell = Callable[..., None]


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """`tell("kill -9", cycles=50, lost=0)`: a line of the summary, with the seconds since the test began."""
    start_s = time.monotonic()

    def note(part: str, **figures: float) -> None:
        shown = [f"{value:,} {name}" for name, value in figures.items()]
        record_property("reliability", f"{part}: {', '.join(shown)}, {time.monotonic() - start_s:,.0f} s")

    return note


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the lines of every test, also of those that failed."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    lines = [text for report in reports for name, text in report.user_properties if name == "reliability"]
    if lines:
        terminalreporter.section("reliability")
        for line in lines:
            terminalreporter.write_line(line)
