"""What is simulated: all that can be chosen, and the random numbers that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from gridwire.core.errors import InvalidSetting
from gridwire.grid.reading import timestamp_us

INTERVAL_S: Final = 900
INTERVAL_US: Final = INTERVAL_S * 1_000_000
METERS_MAX: Final = 10_000_000
DAYS_MAX: Final = 3_660


@dataclass(frozen=True, slots=True)
class Scenario:
    """All that a simulation depends on: the same scenario gives the same bytes.

    Args:
        meters: usage points. days: length. start: first local day. zone: of the utility.
        storm: a front with gusts crosses the utility on the second day (the first, if there is one only).
        heat: the last days are a heat wave.
        late, duplicate, missing: shares of readings.
        last_gasps: share of meters without power whose last gasp arrives. false_gasps: a day and 1,000 meters.
        outages: interruptions a day and 1,000 meters in fair weather.
        theft, swaps, misplaced: shares of meters (misplaced: the model has them under a wrong transformer).
        failing: share of transformers that begin to fail. shifting: share of transformers whose demand shifts.
        voltages: share of meters that also send voltages. export: share with a generator.
    """

    meters: int = 1_000
    days: int = 2
    start: date = date(2026, 1, 5)
    zone: str = "Europe/Berlin"
    seed: int = 1
    storm: bool = False
    heat: bool = False
    late: float = 0.01
    duplicate: float = 0.001
    missing: float = 0.002
    last_gasps: float = 0.7
    false_gasps: float = 0.05
    outages: float = 0.1
    theft: float = 0.002
    swaps: float = 0.001
    misplaced: float = 0.002
    failing: float = 0.005
    shifting: float = 0.01
    voltages: float = 0.1
    export: float = 0.08

    def __post_init__(self) -> None:
        problems = [
            f"{name} must lie between 0 and 1"
            for name in ("late", "duplicate", "missing", "last_gasps", "theft", "swaps", "misplaced", "failing",
                         "shifting", "voltages", "export")
            if not 0 <= getattr(self, name) <= 1
        ]  # fmt: skip
        if not 1 <= self.meters <= METERS_MAX:
            problems.append(f"meters must be 1 to {METERS_MAX:,}")
        if not 1 <= self.days <= DAYS_MAX:
            problems.append(f"days must be 1 to {DAYS_MAX:,}")
        try:
            ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError):
            problems.append(f"{self.zone!r} is no IANA time zone")
        if problems:
            raise InvalidSetting("; ".join(problems))

    @property
    def start_us(self) -> int:
        """Local midnight of the first day, microseconds since the epoch."""
        local = datetime(self.start.year, self.start.month, self.start.day, tzinfo=ZoneInfo(self.zone))
        return timestamp_us(local.astimezone(UTC))

    @property
    def end_us(self) -> int:
        """The end of the last local day: a day of a clock change has 23 or 25 hours."""
        last = date.fromordinal(self.start.toordinal() + self.days)
        local = datetime(last.year, last.month, last.day, tzinfo=ZoneInfo(self.zone))
        return timestamp_us(local.astimezone(UTC))

    @property
    def intervals(self) -> int:
        """Quarter hours from start to end."""
        return (self.end_us - self.start_us) // INTERVAL_US

    def random(self, what: str, number: int = 0) -> np.random.Generator:
        """Random numbers for one purpose, the same whatever else was drawn: a simulation can begin anywhere."""
        return np.random.default_rng((self.seed, number, *what.encode()))
