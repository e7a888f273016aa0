"""How good are the rules of validation and estimation? Faults and masked blocks in real load shapes.

    .venv/bin/python bench/accuracy_vee.py [--units 400] [--seed 7] [--write]

SimBench's measured profiles (`gridwire.grid.profiles`) of 2016 go through the stage's own pipeline as JSON readings:
14 days of history and two days that are judged. Each rule has units of its own with faults of its kind; the other half
of all units has none.

* Recall: injected faults that the rule tells, on the very interval or, for rules about a day, on the day.
* Precision: of what the rule tells, on units without any fault and on its own, the share that was injected.
* MAE: every method alone on the same masked blocks, in kWh an interval and as a share of their mean energy.

`--write` puts the tables into docs/reference/vee.md.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridwire.broker.port import ColumnBatch
from gridwire.columnar.decode import decode
from gridwire.core import batch
from gridwire.core.batch import Event
from gridwire.demo import utility
from gridwire.grid.loads import LoadsSettings
from gridwire.grid.network import Network, UsagePoint
from gridwire.grid.reading import rfc3339
from gridwire.grid.vee import estimation, rules
from gridwire.grid.vee.pipeline import VeePipeline

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "vee.md"
BEGIN, END = "<!-- accuracy: bench/accuracy_vee.py --write -->", "<!-- end of accuracy -->"
DAYS, JUDGED = 16, 2
PER_DAY = 96
SLOTS = DAYS * PER_DAY + 16
"""Some intervals more, so that the last local day is closed."""
FIRST_DAY = 31 + 8  # Tuesday 9 February: the judged days are a Tuesday and a Wednesday
DAY_RULES = {"dynamic_comparison", "multiplier", "sum_check", "zero"}
ZONE = "Europe/Berlin"

Key = tuple[int, int]
"""(unit, slot counted from the first)."""


@dataclass
class Faults:
    """What was injected, and what is sent besides or instead of the true values."""

    energy: NDArray[np.float64]
    dropped: set[Key] = field(default_factory=set)
    extra: list[tuple[int, int, dict[str, Any]]] = field(default_factory=list)
    instead: dict[Key, dict[str, Any]] = field(default_factory=dict)
    truth: dict[str, set[Key]] = field(default_factory=dict)
    units: dict[str, list[int]] = field(default_factory=dict)
    inactive: set[int] = field(default_factory=set)
    both: set[int] = field(default_factory=set)
    registers: set[int] = field(default_factory=set)

    def put(self, rule: str, unit: int, at: int) -> None:
        self.truth.setdefault(rule, set()).add((unit, at))


def shapes(units: int) -> NDArray[np.float64]:
    """True energy in kWh. **Shape** `[units, days x 96]`; loads only, in UTC."""
    demo = utility.build()
    first = FIRST_DAY * PER_DAY + 3  # local midnight of the year is 23:00 UTC
    loads = [at for at, unit in enumerate(demo.network.usage_points) if unit.expects == ("import_kwh",)]
    chosen = loads[:: max(1, len(loads) // units)][:units]
    slots = range(first, first + SLOTS)
    return np.array([demo.profiles.energy_wh(slot)[chosen] for slot in slots]).T / 1000.0


def inject(true: NDArray[np.float64], seed: int) -> Faults:
    """A seeded share of the units for every rule; the second half of them has no fault."""
    source = random.Random(seed)
    faults = Faults(true.copy())
    kinds = [rule.name for rule in rules.VALIDATION if rule.name != "consecutive_interval"]
    each = max(2, len(true) // 2 // len(kinds))
    candidates = [unit for unit in range(len(true)) if true[unit].mean() > 0.02]
    source.shuffle(candidates)
    for number, kind in enumerate(kinds):
        faults.units[kind] = candidates[number * each : (number + 1) * each]
        for unit in faults.units[kind]:
            INJECTORS[kind](faults, unit, source)
    faults.units["consecutive_interval"] = faults.units["missing_quantity"]
    return faults


def _moment(source: random.Random) -> int:
    return source.randrange((DAYS - JUDGED) * PER_DAY + 4, DAYS * PER_DAY - 16)


def _whole_day(day: int) -> slice:
    """A local day in February, which begins at 23:00 UTC."""
    return slice(day * PER_DAY - 4, (day + 1) * PER_DAY - 4)


def _missing(faults: Faults, unit: int, source: random.Random) -> None:
    at = _moment(source)
    for slot in range(at, at + source.choice((1, 1, 3, 6, 8))):
        faults.dropped.add((unit, slot))
        faults.put("missing_quantity", unit, slot)
    faults.put("consecutive_interval", unit, slot + 1)


def _duplicate(faults: Faults, unit: int, source: random.Random) -> None:
    at = _moment(source)
    faults.extra.append((unit, at, {"value": round(faults.energy[unit, at] + 0.05, 3)}))
    faults.put("duplicate", unit, at)


def _replaced(faults: Faults, unit: int, source: random.Random) -> None:
    at = _moment(source)
    faults.extra.append((unit, at, {"value": round(faults.energy[unit, at] + 0.05, 3), "version": 1}))
    faults.put("final_measurement_replacement", unit, at)


def _instead(rule: str, **fields: Any) -> Any:
    def injector(faults: Faults, unit: int, source: random.Random) -> None:
        at = _moment(source)
        faults.instead[unit, at] = fields
        faults.put(rule, unit, at)

    return injector


def _spike(faults: Faults, unit: int, source: random.Random) -> None:
    at = _moment(source)
    day = slice((DAYS - JUDGED) * PER_DAY, DAYS * PER_DAY)
    faults.energy[unit, at] = max(faults.energy[unit, day].max() * source.uniform(3, 10), 0.6)
    faults.put("interval_spike", unit, at)


def _high(faults: Faults, unit: int, source: random.Random) -> None:
    at = _moment(source)
    faults.energy[unit, at] = max(faults.energy[unit].max() * source.uniform(3.2, 10), 0.6)
    faults.put("high_low", unit, at)


def _scaled(rule: str, *factors: float) -> Any:
    def injector(faults: Faults, unit: int, source: random.Random) -> None:
        day = _whole_day(DAYS - 1)
        faults.energy[unit, day] = np.round(faults.energy[unit, day] * source.choice(factors), 3)
        faults.put(rule, unit, day.stop - 1)

    return injector


def _inactive(faults: Faults, unit: int, source: random.Random) -> None:
    faults.inactive.add(unit)
    for slot in range(SLOTS):
        if faults.energy[unit, slot] > 0:
            faults.put("inactive_measurement", unit, slot)


def _silent(faults: Faults, unit: int, source: random.Random) -> None:
    for slot in range((DAYS - JUDGED) * PER_DAY - 48, SLOTS):
        faults.dropped.add((unit, slot))
    first = (DAYS - JUDGED) * PER_DAY - 48 + JUDGED * PER_DAY - 1
    for slot in range(first, SLOTS - 5):
        faults.put("prolonged_estimation", unit, slot)


def _sibling(faults: Faults, unit: int, source: random.Random) -> None:
    faults.both.add(unit)
    at = _moment(source)
    energy = max(faults.energy[unit, at], 0.1)
    faults.energy[unit, at] = energy
    faults.extra.append((unit, at, {"value": round(energy * 0.9, 3), "reading_type": "export_kwh"}))
    faults.put("sibling_channels", unit, at)


def _sum(faults: Faults, unit: int, source: random.Random) -> None:
    """The register counted what the intervals do not say."""
    faults.registers.add(unit)
    day = _whole_day(DAYS - 1)
    at = source.randrange(day.start, day.stop)
    faults.energy[unit, at] += 1.0 + 0.03 * faults.energy[unit, day].sum()
    faults.put("sum_check", unit, day.stop - 1)


INJECTORS: dict[str, Any] = {
    "missing_quantity": _missing, "duplicate": _duplicate, "final_measurement_replacement": _replaced,
    "negative": _instead("negative", value=-0.1), "interval_size": _instead("interval_size", interval_s=1800),
    "uom": _instead("uom", reading_type="import_kvarh"), "interval_spike": _spike, "high_low": _high,
    "multiplier": _scaled("multiplier", 10, 0.1, 100), "dynamic_comparison": _scaled("dynamic_comparison", 6, 0.05),
    "zero": _scaled("zero", 0), "inactive_measurement": _inactive, "prolonged_estimation": _silent,
    "sibling_channels": _sibling, "sum_check": _sum,
}  # fmt: skip


def network(count: int, faults: Faults) -> Network:
    def expects(unit: int) -> tuple[str, ...]:
        more = ("export_kwh",) * (unit in faults.both) + ("import_register_kwh",) * (unit in faults.registers)
        return ("import_kwh", *more)

    template = utility.build().network
    points = tuple(
        UsagePoint(id=f"U{unit}", transformer=template.transformers[0].id,
                   feeder=next(f.id for f in template.feeders if f.transformer == template.transformers[0].id),
                   expects=expects(unit), active=unit not in faults.inactive)
        for unit in range(count)
    )  # fmt: skip
    # Export channels report only now and then: what is missing of them is not asked for here.
    return Network(
        name="accuracy", transformers=template.transformers[:1],
        feeders=tuple(f for f in template.feeders if f.transformer == template.transformers[0].id),
        usage_points=points, zone=ZONE, vee={"general": {"grace_s": 3600}},
    )  # fmt: skip


def events(true: NDArray[np.float64], faults: Faults, first_slot: int) -> Iterator[bytes]:
    counters = np.cumsum(true, axis=1)
    by_slot: dict[int, list[tuple[int, dict[str, Any]]]] = {}
    for unit, at, fields in faults.extra:
        by_slot.setdefault(at, []).append((unit, fields))
    for at in range(true.shape[1]):
        ts_end = rfc3339((first_slot + at) * 900 * 1_000_000)
        for unit in range(len(true)):
            if (unit, at) in faults.dropped:
                continue
            row = {"usage_point": f"U{unit}", "ts_end": ts_end, "interval_s": 900, "reading_type": "import_kwh",
                   "value": round(float(faults.energy[unit, at]), 3)}  # fmt: skip
            yield json.dumps(row | faults.instead.get((unit, at), {})).encode()
            if unit in faults.both:
                yield json.dumps(row | {"reading_type": "export_kwh", "value": 0}).encode()
            if unit in faults.registers and (at + 4) % PER_DAY == PER_DAY - 1:
                value = round(float(counters[unit, at]), 3)
                register = {"reading_type": "import_register_kwh", "interval_s": 0, "value": value}
                yield json.dumps(row | register).encode()
        for unit, fields in by_slot.get(at, ()):
            row = {"usage_point": f"U{unit}", "ts_end": ts_end, "interval_s": 900, "reading_type": "import_kwh"}
            fields = {"version": 1, **fields} if fields.get("reading_type") == "export_kwh" else fields
            yield json.dumps(row | fields).encode()


@dataclass
class Run:
    """A pipeline after everything, its first slot, and what it told: rule -> (unit, slot)."""

    pipeline: VeePipeline
    first_slot: int
    told: dict[str, set[Key]]

    def learn(self) -> None:
        channels = self.pipeline.state.channels
        for changes in self.pipeline.state.collect():
            for slot, channel, failed in zip(
                changes.slots.tolist(), changes.channels.tolist(), changes.failed.tolist(), strict=True
            ):
                key = (int(channels.points[channel]), slot - self.first_slot)
                for rule in rules.VALIDATION if channels.types[channel] == 1 else ():
                    (self.told[rule.name].add if failed >> rule.bit & 1 else self.told[rule.name].discard)(key)


def run(true: NDArray[np.float64], faults: Faults) -> Run:
    first_slot = (1_451_606_400 + FIRST_DAY * 86_400) // 900 + 1
    pipeline = VeePipeline(network(len(true), faults), LoadsSettings(days=JUDGED))
    out = Run(pipeline, first_slot, {rule.name: set() for rule in rules.VALIDATION})
    waiting: list[Event] = []
    offset = 0

    def flush() -> None:
        nonlocal offset
        data = bytes(batch.encode(waiting, base_offset=offset))
        for columns in decode(data, 0, len(data), from_offset=offset).columns:
            pipeline.take([ColumnBatch("readings", 0, columns, offset + len(waiting))])
        out.learn()
        offset += len(waiting)
        waiting.clear()

    for value in events(true, faults, first_slot):
        waiting.append(Event(value, None, (), 0, offset + len(waiting)))
        if len(waiting) == 20_000:
            flush()
    flush()
    return out


@dataclass(frozen=True)
class Score:
    injected: int
    told: int
    recall: float
    precision: float


def judge(faults: Faults, found: dict[str, set[Key]]) -> dict[str, Score]:
    faulty = {unit for members in faults.units.values() for unit in members}
    out = {}
    for rule in rules.VALIDATION:
        truth = faults.truth.get(rule.name, set())
        own = set(faults.units[rule.name])
        counted = {key for key in found[rule.name] if key[0] in own or key[0] not in faulty}
        right = counted & truth
        out[rule.name] = Score(
            len(truth), len(counted), len(right) / max(len(truth), 1), len(right) / len(counted) if counted else 1.0
        )
    return out


# --- estimation ----------------------------------------------------------------------


@dataclass(frozen=True)
class Error:
    blocks: str
    method: str
    filled: float
    mae_kwh: float
    share: float


def masked(true: NDArray[np.float64], lengths: tuple[int, ...], seed: int) -> tuple[Faults, set[Key]]:
    source = random.Random(seed)
    faults = Faults(true.copy(), registers=set(range(len(true))))
    for unit in range(0, len(true), 2):
        length = source.choice(lengths)
        # Within the local day before the last one: the registers around it are there.
        at = source.randrange((DAYS - 1) * PER_DAY - 4, DAYS * PER_DAY - 4 - length - 5)
        faults.dropped |= {(unit, slot) for slot in range(at, at + length)}
    return faults, faults.dropped


def errors(true: NDArray[np.float64], seed: int) -> list[Error]:
    out = []
    for name, lengths in (("up to 2 h", (1, 2, 4, 8)), ("2 to 12 h", (9, 16, 24, 48))):
        faults, cells = masked(true, lengths, seed)
        done = run(true, faults)
        state = done.pipeline.state
        offset = done.first_slot - (state.judged - 15 * PER_DAY)
        channels = np.arange(state.channels.energies)
        window = state.window(ZONE, channels)
        keys = sorted(cells)
        at = np.array([slot + offset for _, slot in keys])
        place = state.channels.at[[unit for unit, _ in keys], 1].astype(np.int64)
        truth = np.array([true[unit, slot] for unit, slot in keys])
        settings = state.config.rules
        tried: list[tuple[str, NDArray[np.float64]]] = [
            (method, function(estimation.Gaps(window, at, place), settings[method]))
            for method, function in estimation.METHODS
            if method in ("interpolation", "averaging", "proxy_day", "profile")
        ]
        for method, start in (("proration", np.full(len(at), np.nan)), ("adjust_from_scalar", tried[1][1])):
            values, by = start.copy(), np.zeros(len(at), np.uint8)
            estimation.fit_to_registers(window, at, place, values, by, settings)
            fitted = by == rules.BY_NAME[method].bit
            tried.append((method, np.where(fitted, values, np.nan)))
        chosen, _ = estimation.estimate(window, settings)
        tried.append(("all of them, as configured", chosen[at - window.judged, place]))
        for method, values in tried:
            good = ~np.isnan(values)
            error = np.abs(values - truth)[good].mean() if good.any() else np.nan
            out.append(Error(name, method, float(good.mean()), float(error), float(error / truth.mean())))
    return out


def measure(units: int, seed: int) -> tuple[dict[str, Score], list[Error]]:
    """Scores by validation rule, errors by estimation rule."""
    true = shapes(units)
    faults = inject(true, seed)
    scores = judge(faults, run(true, faults).told)
    return scores, errors(true[: max(40, units // 2)], seed)


def tables(scores: dict[str, Score], found: list[Error], units: int, seed: int) -> str:
    lines = [
        f"`bench/accuracy_vee.py --units {units} --seed {seed}`; what is injected is described there.", "",
        "| rule | injected | told | recall | precision |", "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    lines += [f"| `{n}` | {s.injected} | {s.told} | {s.recall:.2f} | {s.precision:.2f} |" for n, s in scores.items()]
    lines += [
        "",
        "| masked blocks | method alone | filled | MAE, kWh | MAE / mean |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [f"| {e.blocks} | {e.method} | {e.filled:.2f} | {e.mae_kwh:.4f} | {e.share:.2f} |" for e in found]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=400)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    text = tables(*measure(options.units, options.seed), options.units, options.seed)
    print(text)
    if options.write:
        page = PAGE.read_text()
        before, _, rest = page.partition(BEGIN)
        PAGE.write_text(before + BEGIN + "\n\n" + text + "\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
