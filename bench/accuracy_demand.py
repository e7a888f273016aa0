"""How well changes of demand, responses to weather, delivered demand response and forecasts are found.

    python bench/accuracy_demand.py [--seeds 4] [--small] [--write]

SimBench's measured year of quarter hours (six low-voltage grids: six transformers, 33 feeders), with what is to be
found put into it, seeded: lasting changes of level, a response to a made-up year of weather, peaks moved to another
hour, and demand response events. Natural changes of the profiles (holidays, a PV plant that fades in winter) are in
there too and count as false alarms: nobody knows the truth about them. Forecasts are tested as `gridwire train` does,
on hours no part of the fit has seen; the peer, seasonal naive, is scored on the same hours. `--write` puts the tables
into docs/reference/analytics.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridwire.demo import utility
from gridwire.grid import baselines
from gridwire.grid.findings import Finding, FindingState
from gridwire.grid.models import train
from gridwire.grid.models.dataset import Dataset, Loads
from gridwire.grid.watch.base import SeenLoads, SeenWeather
from gridwire.grid.watch.demand import DemandDetector, DemandSettings

ZONE = "Europe/Berlin"
PAGE = Path(__file__).parent.parent / "docs" / "reference" / "analytics.md"
BEGIN, END = "<!-- begin bench/accuracy_demand.py -->", "<!-- end bench/accuracy_demand.py -->"
HOUR_US, QUARTERS = 3_600_000_000, 96
MATCH_DAYS = 45
LEVELS = ("transformer", "feeder")

Floats = NDArray[np.float64]


@dataclass
class Year:
    """A utility's year. `loads[level]` `[days, 96, units]` kW by UTC day of the file, `temperature_c` `[days * 24]`."""

    index: Any
    first_end_us: int
    loads: dict[str, Floats]
    temperature_c: Floats

    @property
    def days(self) -> int:
        return len(self.loads["feeder"])


def read_year(days: int = 366) -> Year:
    built = utility.build()
    network, profiles = built.network, built.profiles
    sign = np.array([1.0 if "import_kwh" in point.expects else -1.0 for point in network.usage_points])
    index = network.index()
    energy = np.stack([profiles.energy_wh(i) for i in range(days * QUARTERS)]) * sign / 250.0
    loads = {}
    for level, of_unit, units in (
        ("transformer", index.transformer_of_unit, len(index.transformer_ids)),
        ("feeder", index.feeder_of_unit, len(index.feeder_ids)),
    ):
        member = np.zeros((len(sign), units))
        member[np.arange(len(sign)), of_unit] = 1.0
        loads[level] = (energy @ member).reshape(days, QUARTERS, units)
    return Year(index, profiles.ts_end_us(0), loads, made_up_weather(days))


def made_up_weather(days: int, seed: int = 16) -> Floats:
    """Hourly temperatures of a temperate place: seasons, days, and fronts with a memory of some days."""
    rng = np.random.default_rng(seed)
    fronts = np.zeros(days + 1)
    for day in range(1, days + 1):
        fronts[day] = 0.75 * fronts[day - 1] + rng.normal(0, 2.3)
    hour = np.arange(days * 24)
    season = 9.5 - 9.5 * np.cos(2 * np.pi * (hour / 24 - 20) / 365)
    daily = 3.5 * np.sin(2 * np.pi * (hour % 24 - 9) / 24)
    return season + daily + np.interp(hour / 24, np.arange(days + 1), fronts)


def seen(year: Year, level: str, loads: Floats, day: int) -> SeenLoads:
    units = loads.shape[2]
    ends = year.first_end_us + (day * QUARTERS + np.arange(QUARTERS)) * HOUR_US // 4
    n = QUARTERS * units
    ones = np.ones(n, np.int32)
    return SeenLoads(
        level, np.tile(np.arange(units, dtype=np.int32), QUARTERS), np.repeat(ends, units),
        np.full(n, 900, np.int32), loads[day].ravel(), ones, ones, np.repeat(ends, units),
    )  # fmt: skip


def weather_of(year: Year) -> SeenWeather:
    hours = len(year.temperature_c)
    ends = year.first_end_us - HOUR_US // 4 + (np.arange(hours) + 1) * HOUR_US
    nothing = np.full(hours, np.nan)
    return SeenWeather(["S1"] * hours, ends, year.temperature_c, nothing, ends)


def watch(year: Year, loads: dict[str, Floats], *, weather: bool) -> tuple[DemandDetector, list[tuple[int, Finding]]]:
    detector = DemandDetector(year.index, DemandSettings(zone=ZONE))
    if weather:
        detector.weather(weather_of(year))
    found = []
    for day in range(year.days):
        for level in LEVELS:
            detector.loads(seen(year, level, loads[level], day))
        found += [(day, finding) for finding in detector.findings(0)]
    return detector, found


# -- changes ------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """Changes put in, found, and found where there was none."""

    injected: int = 0
    hits: int = 0
    false: int = 0
    delays: list[int] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    units: int = 0

    def row(self, name: str, level: str) -> list[str]:
        precision = self.hits / max(1, self.hits + self.false)
        recall = self.hits / max(1, self.injected)
        delay = f"{np.median(self.delays):.0f} / {np.quantile(self.delays, 0.9):.0f}" if self.delays else "-"
        error = f"{100 * np.median(self.errors):.0f} %" if self.errors else "-"
        return [
            name,
            level,
            str(self.units),
            str(self.injected),
            f"{precision:.2f}",
            f"{recall:.2f}",
            f"{self.false / self.units:.2f}",
            delay,
            error,
        ]


def changed(
    year: Year, rng: np.random.Generator, kind: str, share: float = 0.4
) -> tuple[dict[str, Floats], dict[str, dict[int, tuple[int, float]]]]:
    """(loads, what was put in): unit -> (day, size) by level."""
    loads, truth = {}, {}
    for level in LEVELS:
        values = year.loads[level].copy()
        units = values.shape[2]
        chosen = rng.choice(units, max(1, round(share * units)), replace=False)
        truth[level] = {}
        for unit in chosen.tolist():
            day = int(rng.integers(70, year.days - 50))
            if kind == "level":
                size = float(rng.uniform(0.2, 0.5) * rng.choice([-1, 1]))
                values[day:, :, unit] += size * np.abs(values[:, :, unit]).mean()
            else:
                size = float(rng.choice([-4, -3, 3, 4]))
                values[day:, :, unit] = np.roll(values[day:, :, unit], int(size) * 4, axis=1)
            truth[level][unit] = (day, size)
        loads[level] = values
    return loads, truth


def tally(year: Year, found: Sequence[tuple[int, Finding]], kind: str, truth: dict[str, dict[int, tuple[int, float]]],
          tallies: dict[str, Tally]) -> None:  # fmt: skip
    ids = {"transformer": year.index.transformer_ids, "feeder": year.index.feeder_ids}
    for level in LEVELS:
        place = {id: unit for unit, id in enumerate(ids[level])}
        mine = [(day, f) for day, f in found if f.kind == kind and f.subject_kind == level]
        opened = [(day, f) for day, f in mine if f.state is FindingState.OPENED]
        closed = {f.id: f for _, f in mine if f.state is FindingState.CLOSED}
        count, hit = tallies[level], set()
        count.injected += len(truth[level])
        count.units += len(ids[level])
        for day, finding in opened:
            unit = place[finding.subject]
            at, size = truth[level].get(unit, (None, 0.0))
            if at is None or not -3 <= day - at <= MATCH_DAYS or unit in hit:
                count.false += at is None or not -3 <= day - at <= MATCH_DAYS
                continue
            hit.add(unit)
            count.hits += 1
            count.delays.append(day - at)
            if kind == "demand.shift":
                last = closed.get(finding.id, finding)
                scale = np.abs(year.loads[level][:, :, unit]).mean()
                count.errors.append(abs(last.evidence["shift_kw"] - size * scale) / abs(size * scale))


def changes(year: Year, seeds: int) -> list[list[str]]:
    rows = []
    for name, kind, finding, weather in (
        ("level, no weather known", "level", "demand.shift", False),
        ("peak moved by 3 or 4 h", "peak", "demand.peak_time", False),
    ):
        tallies = {level: Tally() for level in LEVELS}
        for seed in range(seeds):
            loads, truth = changed(year, np.random.default_rng(seed), kind)
            tally(year, watch(year, loads, weather=weather)[1], finding, truth, tallies)
        rows += [tallies[level].row(name, level) for level in LEVELS]
    tallies = {level: {known: Tally() for known in (False, True)} for level in LEVELS}
    for seed in range(seeds):
        loads, truth = changed(year, np.random.default_rng(seed), "level")
        loads = heated(year, loads, np.random.default_rng(100 + seed))[0]
        for known in (False, True):
            tally(year, watch(year, loads, weather=known)[1], "demand.shift", truth,
                  {level: tallies[level][known] for level in LEVELS})  # fmt: skip
    for known in (False, True):
        name = f"level, load follows weather that is {'known' if known else 'not known'}"
        rows += [tallies[level][known].row(name, level) for level in LEVELS]
    return rows


# -- weather ------------------------------------------------------------------------------------------------------


def heated(
    year: Year, loads: dict[str, Floats], rng: np.random.Generator
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """(loads with heating below 14 degrees, slopes put in by level, kW per degree)."""
    mean = year.temperature_c.reshape(year.days, 24).mean(axis=1)
    degrees = np.maximum(0.0, 14.0 - mean)
    out, slopes = {}, {}
    for level in LEVELS:
        size = np.abs(year.loads[level]).mean(axis=(0, 1))
        slopes[level] = rng.uniform(0.02, 0.08, len(size)) * size
        out[level] = loads[level] + degrees[:, None, None] * slopes[level]
    return out, slopes


def weather(year: Year) -> list[list[str]]:
    """Slopes found, less those found without a response put in: what SimBench itself has of one is not known."""
    loads, slopes = heated(year, year.loads, np.random.default_rng(7))
    rows = []
    fitted, plain = (
        train.train("weather_normalisation", dataset(year, each, weather=True), ZONE, datetime(2026, 1, 1, tzinfo=UTC))
        for each in (loads, year.loads)
    )
    from gridwire.grid.models.normal import NormalModel
    from gridwire.grid.models.package import unpack

    streaming = watch(year, loads, weather=True)[0]
    streaming_plain = watch(year, year.loads, weather=True)[0]
    for level in LEVELS:
        truth = slopes[level]
        batch = [NormalModel.from_arrays(unpack(each.data), level) for each in (fitted, plain)]
        own = batch[0].parts[2] - np.nan_to_num(batch[1].parts[2])
        stream = streaming.responses(level).heating_kw_per_c - streaming_plain.responses(level).heating_kw_per_c
        found = fitted.manifest.metrics[level]
        rows.append([
            level, str(len(truth)), f"{100 * np.median(np.abs(own - truth) / truth):.0f} %",
            f"{100 * np.median(np.abs(stream - truth) / truth):.0f} %", f"{found['skill']:.2f}", f"{found['r2']:.2f}",
        ])  # fmt: skip
    return rows


# -- demand response ----------------------------------------------------------------------------------------------


def responses(year: Year, events: int = 20) -> list[list[str]]:
    """Every unit cuts a fifth of its load for three hours on some workdays; what is said it delivered."""
    rows = []
    first = date(2016, 1, 1)
    rng = np.random.default_rng(11)
    workdays = [d for d in range(30, year.days - 1) if (first + timedelta(days=d)).weekday() < 5]
    chosen = sorted(rng.choice(workdays, events, replace=False).tolist())
    excluded = [first + timedelta(days=day) for day in chosen]
    for level in LEVELS:
        for method in baselines.METHODS.values():
            errors, signed, skipped = [], [], 0
            for unit in range(year.loads[level].shape[2]):
                values = year.loads[level][:, :, unit].copy()
                for day in chosen:
                    start = 68  # 17:00
                    cut = 0.2 * np.abs(values[day, start : start + 12])
                    values[day, start : start + 12] -= cut
                    try:
                        found = baselines.deliver(
                            values, first, first + timedelta(days=day), start, start + 12, method, excluded
                        )
                    except baselines.NoBaseline:
                        skipped += 1
                        continue
                    use = max(np.abs(year.loads[level][day, start : start + 12, unit]).sum() / 4, 1e-9)
                    errors.append(abs(found.delivered_kwh - cut.sum() / 4) / use)
                    signed.append((found.delivered_kwh - cut.sum() / 4) / use)
            rows.append([
                method.name, level, str(len(errors)), f"{100 * np.median(errors):.0f} %",
                f"{100 * np.quantile(errors, 0.9):.0f} %", f"{100 * np.median(signed):+.1f} %",
            ])  # fmt: skip
    return rows


# -- forecasts ----------------------------------------------------------------------------------------------------


def dataset(year: Year, loads: dict[str, Floats], *, weather: bool) -> Dataset:
    first = (year.first_end_us - HOUR_US // 4) // HOUR_US + 1
    made, temperatures = {}, {}
    for level, ids in (("transformer", year.index.transformer_ids), ("feeder", year.index.feeder_ids)):
        hours = loads[level].reshape(-1, 4, len(ids)).mean(axis=1).astype(np.float32)
        station = np.zeros(len(ids), np.int64) if weather else np.full(len(ids), -1)
        made[level] = Loads(level, ids, first, hours, station, np.zeros(len(ids)))
        temperatures[level] = year.temperature_c[:, None] if weather else np.zeros((len(hours), 0))
    return Dataset(made, ("S1",) if weather else (), temperatures)


def part(year: Year, days: int) -> Year:
    return Year(
        year.index, year.first_end_us, {k: v[:days] for k, v in year.loads.items()}, year.temperature_c[: days * 24]
    )


def forecasts(year: Year) -> list[list[str]]:
    rows = []
    cases = [("SimBench as it is", year.loads, False)]
    cases.append(("with heating put in, weather known", heated(year, year.loads, np.random.default_rng(7))[0], True))
    for days in sorted({year.days, min(year.days, 300), min(year.days, 230)}, reverse=True):
        cut = part(year, days)
        for name, loads, known in cases:
            data = dataset(cut, {level: values[:days] for level, values in loads.items()}, weather=known)
            metrics = train.train("load_forecast", data, ZONE, datetime(2026, 1, 1, tzinfo=UTC)).manifest.metrics
            for level in LEVELS:
                m = metrics[level]
                rows.append([
                    name, str(days), level, f"{m['mae_kw']:.2f}", f"{m['naive_mae_kw']:.2f}", f"{m['skill']:.2f}",
                    f"{m['skill_to_6h']:.2f}", f"{m['rcrps']:.3f}", f"{m['naive_rcrps']:.3f}", f"{m['coverage']:.2f}",
                ])  # fmt: skip
    return rows


TABLES = (
    ("Changes", changes, ["what was put in", "level", "unit-years", "changes", "precision", "recall",
                          "false a unit-year", "days to find, median / p90", "error of its size"]),
    ("Weather", weather, ["level", "units", "error of the heating slope, batch", "streaming",
                          "skill of the daily mean", "r2"]),
    ("Demand response", responses, ["method", "level", "events", "error, share of the load: median", "p90", "bias"]),
    ("Load forecast", forecasts, ["data", "days", "level", "MAE kW", "naive", "skill", "skill to 6 h", "rCRPS",
                                  "naive rCRPS", "coverage of p10 to p90"]),
)  # fmt: skip


def tables(year: Year, seeds: int) -> Iterator[str]:
    for title, make, columns in TABLES:
        rows = make(year, seeds) if make is changes else make(year)
        yield (
            f"#### {title}\n\n| "
            + " | ".join(columns)
            + " |\n|"
            + " --- |" * len(columns)
            + "\n"
            + "".join("| " + " | ".join(row) + " |\n" for row in rows)
        )


def write(text: str) -> None:
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    found = []
    for table in tables(read_year(), arguments.seeds):
        print(table, flush=True)
        found.append(table)
    if arguments.write:
        write("\n".join(found))


if __name__ == "__main__":
    main()
