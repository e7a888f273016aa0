"""How well faults of transformers, voltages, losses and the model are found: `python bench/accuracy_health.py`.

Faults are injected into a utility made of measured load shapes (`lv_grid`), seeded; the truth is known. One part a
detector, three seeds each; precision, recall, delay or error. `--write` puts the tables into
docs/reference/analytics.md. `--speed` measures memory and speed instead, for 100,000 transformers and 5 million usage
points (needs 3 GB).
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from gridwire.grid import network as net
from gridwire.grid.findings import FindingState
from gridwire.grid.meter_event import KINDS
from gridwire.grid.models import hazard
from gridwire.grid.watch.ageing import ThermalSettings
from gridwire.grid.watch.base import Detector, SeenEvents, SeenWeather
from gridwire.grid.watch.health import Health, HealthFact, HealthSettings
from gridwire.grid.watch.losses import Losses
from gridwire.grid.watch.mapping import Mapping, MappingSettings
from gridwire.grid.watch.thermal import LoadingSettings
from gridwire.grid.watch.voltage import Voltage
from lv_grid import (
    FIRST_SLOT,
    IMPORT,
    INTERVAL_US,
    NOMINAL_V,
    PER_DAY,
    PER_SUBSTATION,
    VOLTAGE,
    Grid,
    loads,
    make_grid,
    measured,
    readings,
    run,
    transformer_kw,
)
from support import heading, markdown_table, print_result, short, table

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "analytics.md"
BEGIN, END = "<!-- health: written by bench/accuracy_health.py -->", "<!-- health: end -->"
SEEDS = (11, 12, 13)


def rates(found: set, truth: set) -> tuple[float, float]:
    """Precision and recall; NaN without anything found, or without anything to find."""
    hits = len(found & truth)
    return (hits / len(found) if found else float("nan")), (hits / len(truth) if truth else float("nan"))


# -- hot spots ----------------------------------------------------------------------------------------------------


def hot_spots(seed: int, transformers: int = 40, days: int = 30) -> dict[str, float]:
    """Quarter-hour facts, of which some are lost, against the differential equations in steps of a minute.

    True loads move within the quarter of an hour; the ambient is observed hourly.
    """
    random = np.random.default_rng(seed + 500)
    grid = make_grid(seed, transformers, days, units_each=8)
    index = grid.index
    load_pu = transformer_kw(grid) / 0.95 / index.rated_kva * 1.4
    minutes = np.arange(grid.slots * 15)
    ambient = 18.0 + 8.0 * np.sin(minutes / 1440.0 * 2 * np.pi - 1.5) + np.cumsum(random.normal(0, 0.03, len(minutes)))
    true, life = _in_minutes(load_pu, ambient, random)
    health = Health(index, HealthSettings(loading=LoadingSettings(overload_open=99, hot_spot_open_c=999, rate_open=99)))
    errors, lost = [], random.random((grid.slots, transformers)) < 0.02
    for slot in range(grid.slots):
        if slot % 4 == 0:
            ts = np.array([(FIRST_SLOT + slot) * INTERVAL_US])
            health.weather(SeenWeather(["S"], ts, ambient[[slot * 15]], np.zeros(1), ts))
        health.loads(loads(index, slot, load_pu[slot] * 0.95 * index.rated_kva, ~lost[slot]))
        done = health.loading.slots == FIRST_SLOT + slot
        if slot > PER_DAY and done.any():
            errors.append(np.abs(health.loading.model.hot_spot_c - true[slot - 1])[done])
    found = np.concatenate(errors)
    ratio = health.loading.model.loss_of_life_h / np.maximum(life, 1e-9)
    return {
        "error_k": float(found.mean()), "error_p99_k": float(np.quantile(found, 0.99)),
        "life_error": float(np.median(np.abs(ratio - 1.0))), "intervals": len(found),
    }  # fmt: skip


def _in_minutes(load_pu: np.ndarray, ambient: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Hot spots at the ends of intervals and hours of life lost, by Euler's method in steps of 6 s."""
    s, n = ThermalSettings(), load_pu.shape[1]
    oil = ambient[0] + s.top_oil_rise_k * ((1 + s.loss_ratio * load_pu[0] ** 2) / (1 + s.loss_ratio)) ** s.oil_exponent
    winding = s.hot_spot_factor * s.gradient_k * load_pu[0] ** s.winding_exponent
    life, spots = np.zeros(n), np.empty_like(load_pu)
    for slot in range(len(load_pu)):
        within = random.normal(0, 0.1, (15, n))
        within -= within.mean(axis=0)  # meters measure energy: the mean is known, what happens within is not
        for minute in range(15):
            load = np.clip(load_pu[slot] * (1 + within[minute]), 0.0, None)
            end = s.top_oil_rise_k * ((1 + s.loss_ratio * load**2) / (1 + s.loss_ratio)) ** s.oil_exponent
            rise = s.hot_spot_factor * s.gradient_k * load**s.winding_exponent
            for _ in range(10):
                oil += (ambient[slot * 15 + minute] + end - oil) * 0.1 / s.tau_oil_min
                winding += (rise - winding) * 0.1 / (s.k22 * s.tau_winding_min)
            life += 2.0 ** ((oil + winding - 98.0) / 6.0) / 60.0
        spots[slot] = oil + winding
    return spots, life


# -- signatures of failure ----------------------------------------------------------------------------------------

FAILURES = ("hv_turns", "lv_side", "saturation")


def failing(seed: int, transformers: int = 96, days: int = 35, share: float = 0.125) -> dict[str, float]:
    """Signs grow over a week from some day on; the transformer fails a week after they are full grown."""
    grid = make_grid(seed, transformers, days)
    random = np.random.default_rng(seed + 100)
    total = transformer_kw(grid)
    volts, begins, kinds = grid.volts.copy(), {}, {}
    for unit in random.choice(transformers, int(share * transformers), replace=False).tolist():
        kind = FAILURES[len(begins) % 3]
        begins[unit], kinds[unit] = int(random.integers(10, days - 15)) * PER_DAY, kind
        grown = np.clip((np.arange(grid.slots) - begins[unit]) / (7 * PER_DAY), 0.0, 1.0)
        use = total[:, unit] / total[:, unit].max()
        sign = {"hv_turns": 0.015, "lv_side": -0.015, "saturation": -0.06 * np.clip(use - 0.5, 0.0, None)}[kind]
        volts[:, grid.index.transformer_of_unit == unit] += (NOMINAL_V * grown * sign)[:, None]
    sent = measured(grid, volts, seed)

    def feed(detector: Detector, slot: int) -> None:
        detector.loads(loads(grid.index, slot, total[slot]))
        detector.readings(readings(grid.index, slot, VOLTAGE, sent[slot]))

    first: dict[int, int] = {}
    named: dict[int, str] = {}
    settings = HealthSettings(loading=LoadingSettings(overload_open=99, hot_spot_open_c=999, rate_open=99))
    for slot, found in run(Health(grid.index, settings), grid.slots, feed):
        for finding in found:
            if finding.kind == "transformer.failing" and finding.state is FindingState.OPENED:
                unit = grid.index.transformer_ids.index(finding.subject)
                first.setdefault(unit, slot)
                named[unit] = finding.evidence["signature"]
    early = {unit for unit, slot in first.items() if unit not in begins or slot < begins[unit]}
    in_time = {
        unit for unit, slot in first.items() if unit in begins and begins[unit] <= slot < begins[unit] + 14 * PER_DAY
    }
    leads = [(begins[unit] + 14 * PER_DAY - first[unit]) / PER_DAY for unit in in_time]
    right = sum(named[unit] == kinds[unit] for unit in in_time)
    return {
        "precision": len(in_time) / max(len(in_time) + len(early), 1), "recall": len(in_time) / len(begins),
        "lead_days": float(np.median(leads)) if leads else 0.0, "named": right / max(len(in_time), 1),
        "injected": len(begins),
    }  # fmt: skip


# -- probability of failure --------------------------------------------------------------------------------------


def failures(seed: int) -> dict[str, float]:
    """A model of one utility's failures judges another's, of which it has seen nothing."""
    taught = hazard.rows_of(history(seed + 1000))
    model = hazard.fit(taught)
    alert = hazard.metrics(taught, hazard.back_test(taught, int(taught.unit.max()) + 1))["alert"]
    rows = hazard.rows_of(history(seed))
    found = hazard.metrics(rows, model.probability(rows.x.T), alert)
    return found | {"days": len(rows.y)}


def history(seed: int, transformers: int = 120, days: int = 100) -> hazard.HealthDays:
    """Facts of `grid.health` of transformers of which some fail: 12 % with signs that grow over a week and two weeks
    after they began, 12 % that carry too much, 4 % out of the blue. Who failed is replaced by a larger one."""
    grid = make_grid(seed, transformers, days, units_each=12)
    random = np.random.default_rng(seed + 600)
    total, volts, day_of = transformer_kw(grid), grid.volts.copy(), np.arange(grid.slots) // PER_DAY
    chosen = random.permutation(transformers)
    few, more = transformers * 4 // 100, transformers * 12 // 100
    failed = dict(
        zip(chosen[: few + 2 * more].tolist(), random.integers(25, days, few + 2 * more).tolist(), strict=True)
    )
    for place, unit in enumerate(chosen[few : few + more].tolist()):
        begin = (failed[unit] - 14) * PER_DAY
        grown = np.clip((np.arange(grid.slots) - begin) / (7 * PER_DAY), 0.0, 1.0) * (day_of < failed[unit])
        use = total[:, unit] / total[:, unit].max()
        sign = (0.015, -0.015, -0.06 * np.clip(use - 0.5, 0.0, None))[place % 3]
        volts[:, grid.index.transformer_of_unit == unit] += (NOMINAL_V * grown * sign)[:, None]
    for unit in chosen[few + more : few + 2 * more].tolist():
        total[:, unit] *= np.where(day_of < failed[unit], random.uniform(1.5, 2.2), 1.0)
    for unit in random.choice(transformers, transformers // 10, replace=False).tolist():  # and some that do not fail
        total[:, unit] *= random.uniform(1.0, 1.5)
    sent, health = measured(grid, volts, seed), Health(grid.index)
    told = np.zeros((len(hazard.DAILY), days + 1, transformers))
    decode = msgspec.json.Decoder(HealthFact).decode
    for slot in range(grid.slots):
        health.loads(loads(grid.index, slot, total[slot]))
        health.readings(readings(grid.index, slot, VOLTAGE, sent[slot]))
        health.findings(0)
        for fact in health.facts():
            one = decode(fact.value)
            row = told[:, slot // PER_DAY, int(one.transformer[1:])]
            row += (1, 0, 0, one.ageing_factor, one.signature != "", one.risk, 0)
            row[1:3] = np.maximum(row[1:3], (one.load_factor, one.hot_spot_c))
            row[6] = one.loss_of_life_h / max(one.watched_h, 1.0)
    ids = grid.index.transformer_ids
    return hazard.HealthDays(ids, 0, told[:, :days], np.array(sorted(failed.items()), np.int64))


# -- voltage ------------------------------------------------------------------------------------------------------


def violations(seed: int, transformers: int = 24, days: int = 14) -> dict[str, float]:
    """Sags and swells of single customers and whole transformers for hours; truth from voltages without noise."""
    grid = make_grid(seed, transformers, days)
    random = np.random.default_rng(seed + 200)
    volts, n = grid.volts.copy(), len(grid.index.unit_ids)
    for _ in range(n // 5):
        begin, length = int(random.integers(0, grid.slots - 60)), int(random.integers(8, 48))
        who = [int(random.integers(n))]
        if random.random() < 0.2:
            who = np.flatnonzero(grid.index.transformer_of_unit == int(random.integers(transformers))).tolist()
        volts[begin : begin + length, who] += NOMINAL_V * random.choice([-0.12, 0.12]) * random.uniform(0.7, 1.3)
    sent = measured(grid, volts, seed)
    truth = _runs(volts > 1.1 * NOMINAL_V, "high") | _runs(volts < 0.9 * NOMINAL_V, "low")
    open: dict[tuple, int] = {}
    spans: list[tuple[str, int, int, int]] = []

    def feed(detector: Detector, slot: int) -> None:
        detector.readings(readings(grid.index, slot, VOLTAGE, sent[slot]))

    members = {
        id: np.flatnonzero(grid.index.transformer_of_unit == i) for i, id in enumerate(grid.index.transformer_ids)
    }
    points = {id: i for i, id in enumerate(grid.index.unit_ids)}
    for _, found in run(Voltage(grid.index), grid.slots, feed):
        for finding in found:
            if finding.kind == "voltage.week":
                continue
            key = (finding.kind, finding.subject_kind, finding.subject)
            started = finding.started_us // INTERVAL_US - FIRST_SLOT
            if finding.state is FindingState.OPENED:
                open[key] = started
            else:
                open.pop(key, None)
                spans.append((*key, started, (finding.ended_us or 0) // INTERVAL_US - FIRST_SLOT))
    spans += [(*key, started, grid.slots) for key, started in open.items()]
    hits, good = set(), 0
    for kind, subject_kind, subject, begin, end in spans:
        side = kind.split(".")[1]
        who = [points[subject]] if subject_kind == "usage_point" else members[subject].tolist()
        covered = {run for run in truth if run[0] == side and run[1] in who and run[2] < end and run[3] > begin}
        hits |= covered
        good += bool(covered)
    return {
        "precision": good / max(len(spans), 1), "recall": len(hits) / max(len(truth), 1), "injected": len(truth),
        "findings": len(spans),
    }  # fmt: skip


def _runs(outside: np.ndarray, side: str, least: int = 4) -> set[tuple[str, int, int, int]]:
    found = set()
    for unit in np.flatnonzero(outside.any(axis=0)).tolist():
        edges = np.flatnonzero(np.diff(np.concatenate(([0], outside[:, unit].astype(np.int8), [0]))))
        found |= {(side, unit, int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a >= least}
    return found


# -- losses -------------------------------------------------------------------------------------------------------


def theft(
    seed: int, transformers: int = 96, days: int = 60, share: float = 0.04, metered: float = 0.7
) -> dict[str, float]:
    """Some customers' readings fall by 30 to 100 % from some day on; as many houses stand empty for weeks."""
    grid = make_grid(seed, transformers, days)
    random = np.random.default_rng(seed + 300)
    n = len(grid.index.unit_ids)
    network, meters = _with_meters(grid, random.random(transformers) < metered)
    index = network.index()
    chosen = random.choice(n, int(2 * share * n), replace=False)
    thieves, empty = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
    used = grid.kw.copy()
    for unit in empty.tolist():
        begin = int(random.integers(10, days - 10)) * PER_DAY
        used[begin : begin + int(random.integers(7, 40)) * PER_DAY, unit] *= 0.1
    recorded, begins, tampered = used.copy(), {}, {}
    for unit in thieves.tolist():
        begins[unit] = int(random.integers(14, days - 10)) * PER_DAY
        recorded[begins[unit] :, unit] *= 1.0 - random.uniform(0.3, 1.0)
        if random.random() < 0.3:
            tampered[unit] = begins[unit]
    for unit in random.choice(n, n // 200, replace=False).tolist():  # covers are opened by fitters too
        tampered.setdefault(unit, int(random.integers(0, days)) * PER_DAY)
    delivered = np.column_stack([used[:, grid.index.transformer_of_unit == t].sum(axis=1) for t in range(transformers)])
    delivered = delivered * (1.02 + 0.01 * delivered / delivered.max(axis=0))
    sent = np.column_stack([recorded, delivered[:, meters]]) / 4.0

    def feed(detector: Detector, slot: int) -> None:
        detector.readings(readings(index, slot, IMPORT, sent[slot]))
        now = np.array([unit for unit, at in tampered.items() if at == slot], np.int32)
        if len(now):
            ts = np.full(len(now), (FIRST_SLOT + slot) * INTERVAL_US)
            detector.events(SeenEvents(now, np.full(len(now), KINDS.index("TAMPER"), np.int8), ts, ts))

    detector = Losses(index)
    opened: dict[str, int] = {}
    for slot, found in run(detector, grid.slots, feed):
        for finding in found:
            if finding.kind == "loss.theft" and finding.state is FindingState.OPENED:
                opened.setdefault(finding.subject, slot)
    truth = {f"U{unit}" for unit in thieves.tolist()}
    precision, recall = rates(set(opened), truth)
    ranked = [id for id, _ in detector.ranking(100)]
    top = min(100, len(truth))
    delays = [(opened[f"U{u}"] - at) / PER_DAY for u, at in begins.items() if f"U{u}" in opened]
    return {
        "auc": _auc(detector.score[:n], np.isin(np.arange(n), thieves)), "precision": precision, "recall": recall,
        "precision_at": len(truth & set(ranked[:top])) / top, "top": top,
        "delay_days": float(np.median(delays)) if delays else float("nan"), "injected": len(truth), "customers": n,
    }  # fmt: skip


def _with_meters(grid: Grid, metered: np.ndarray) -> tuple[net.Network, list[int]]:
    old, meters = grid.network, np.flatnonzero(metered).tolist()
    transformers = [
        msgspec.structs.replace(row, meter=f"{row.id} meter" if metered[i] else "")
        for i, row in enumerate(old.transformers)
    ]  # fmt: skip
    network = net.Network(
        name=old.name, transformers=(*transformers, net.Transformer(id="MV")),
        feeders=(*old.feeders, net.Feeder(id="MV", transformer="MV")),
        usage_points=(
            *old.usage_points, *(net.UsagePoint(id=f"T{i} meter", transformer="MV", feeder="MV") for i in meters),
        ),
    )  # fmt: skip
    net.check(network)
    return network, meters


def _auc(scores: np.ndarray, truth: np.ndarray) -> float:
    from_best = np.argsort(np.argsort(scores, kind="stable"), kind="stable") + 1.0
    for value in np.unique(scores):  # ties share their ranks
        from_best[scores == value] = from_best[scores == value].mean()
    positives = int(truth.sum())
    return float((from_best[truth].sum() - positives * (positives + 1) / 2) / (positives * (len(truth) - positives)))


# -- mapping ------------------------------------------------------------------------------------------------------


def mapping(seed: int, transformers: int = 48, share: float = 0.04) -> dict[str, float]:
    """Some customers stand under a neighbouring transformer in the model, as many on another phase."""
    settings = MappingSettings()
    days = -(-(settings.slots + settings.grace + 1) // PER_DAY)
    grid = make_grid(seed, transformers, days)
    random = np.random.default_rng(seed + 400)
    points = list(grid.network.usage_points)
    n = len(points)
    chosen = random.choice(n, int(2 * share * n), replace=False).tolist()
    moved, turned = chosen[: len(chosen) // 2], [u for u in chosen[len(chosen) // 2 :] if points[u].phase]
    for unit in moved:
        own = int(points[unit].transformer[1:])
        others = [t for t in range(own // PER_SUBSTATION * PER_SUBSTATION, transformers)[:PER_SUBSTATION] if t != own]
        to = int(random.choice(others))
        points[unit] = net.UsagePoint(id=f"U{unit}", transformer=f"T{to}", feeder=f"T{to} F0", phase=points[unit].phase)
    for unit in turned:
        was = points[unit]
        points[unit] = msgspec.structs.replace(was, phase=(was.phase + int(random.integers(0, 2))) % 3 + 1)
    network = net.Network(
        name="n", transformers=grid.network.transformers, feeders=grid.network.feeders, usage_points=tuple(points)
    )
    net.check(network)
    sent, index = measured(grid, grid.volts, seed), network.index()

    def feed(detector: Detector, slot: int) -> None:
        detector.readings(readings(index, slot, VOLTAGE, sent[slot]))

    detector = Mapping(index, settings)
    found = [one for _, batch in run(detector, grid.slots, feed) for one in batch]
    for _ in range(len(detector._pieces)):
        found += detector.findings(0)
    by_kind = {
        kind: {one.subject for one in found if one.kind == kind} for kind in ("mapping.transformer", "mapping.phase")
    }
    result: dict[str, float] = {}
    for kind, truth in (("transformer", {f"U{u}" for u in moved}), ("phase", {f"U{u}" for u in turned})):
        precision, recall = rates(by_kind[f"mapping.{kind}"], truth)
        result |= {f"{kind}_precision": precision, f"{kind}_recall": recall, f"{kind}_injected": len(truth)}
    right = [
        f
        for f in found
        if f.kind == "mapping.transformer" and f.evidence["transformer"] == f"T{_home(grid, f.subject)}"
    ]
    both = by_kind["mapping.transformer"] & {f"U{u}" for u in moved}
    return result | {"right_place": len({f.subject for f in right} & both) / max(len(both), 1)}


def _home(grid: Grid, subject: str) -> int:
    return int(grid.index.transformer_of_unit[int(subject[1:])])


# -- memory and speed ---------------------------------------------------------------------------------------------


def large_index(transformers: int = 100_000, each: int = 50) -> net.NetworkIndex:
    """Arrays of a large utility; names are all the same, since nothing here tells them."""
    n = transformers * each
    above = np.repeat(np.arange(transformers, dtype=np.int32), each)
    small = make_grid(1, 2, 1, units_each=4).index
    changed = {
        "unit_ids": ("U",) * n, "transformer_ids": ("T",) * transformers, "feeder_ids": ("F",) * transformers,
        "station_of_transformer": ("",) * transformers,
        "substation_of_transformer": tuple(f"S{i // 20}" for i in range(transformers)),
        "transformer_of_unit": above, "feeder_of_unit": above, "phase_of_unit": (np.arange(n) % 3 + 1).astype(np.int8),
        "rated_kva": np.full(transformers, 250.0), "nominal_v": np.full(transformers, NOMINAL_V),
        "meter_of_transformer": np.full(transformers, -1, np.int32), "indoors": np.zeros(transformers, np.bool_),
        "upgraded_paper": np.zeros(transformers, np.bool_),
        "transformer_of_feeder": np.arange(transformers, dtype=np.int32),
    }  # fmt: skip
    return dataclasses.replace(small, **changed)


def held_bytes(what: Any, seen: set[int]) -> int:
    """Arrays that an object holds, and what it holds does."""
    if id(what) in seen:
        return 0
    seen.add(id(what))
    if isinstance(what, np.ndarray):
        return 0 if what.base is not None and id(what.base) in seen else what.nbytes
    if isinstance(what, (list, tuple)) and what and not isinstance(what[0], (str, int)):
        return sum(held_bytes(one, seen) for one in what)
    if isinstance(what, dict):
        return sum(held_bytes(one, seen) for one in what.values())
    return held_bytes(vars(what), seen) if hasattr(what, "__dict__") else 0


def speed(index: net.NetworkIndex) -> list[list[str]]:
    """Rows of (detector, bytes of state, a second and core)."""
    random = np.random.default_rng(1)
    n, transformers = len(index.unit_ids), len(index.transformer_ids)
    volts = NOMINAL_V * (1.0 + random.normal(0, 0.02, n))
    rows, loads_s = [], 0.0
    for make in (Health, Voltage, Losses, Mapping):
        detector, type = make(index), IMPORT if make is Losses else VOLTAGE
        values = np.full(n, 0.1) if make is Losses else volts
        for slot in range(10 if make is Health else 2):  # compiled, memory touched, ring full
            detector.readings(readings(index, slot, type, values))
        begun = time.process_time()
        for slot in range(20, 24):
            detector.readings(readings(index, slot, type, values))
        taken_s = (time.process_time() - begun) / 4
        told = f"{short(n / taken_s)} readings"
        if make is Health:
            begun = time.process_time()
            for slot in range(8):
                detector.loads(loads(index, slot, np.full(transformers, 100.0)))
            loads_s = (time.process_time() - begun) / 8
            told += f", {short(transformers / loads_s)} intervals of transformers"
        if make is Losses:
            detector._counts[0, 0], detector._energy[0, 0] = PER_DAY, 10.0 * random.lognormal(0, 0.3, n)
            detector._days[:], detector.base_kwh[:] = 30, 10.0
            begun = time.process_time()
            detector._close()
            told += f", a day closes in {time.process_time() - begun:.1f} s"
        detector.findings(0)
        size = held_bytes(detector, {id(index)})
        rows.append([f"`{detector.name}`", f"{size / 1e6:.0f} MB", told])
        del detector
    return rows


# -- the report ---------------------------------------------------------------------------------------------------

PARTS = (
    ("Hot spots and ageing", hot_spots, {
        "error_k": "mean error K", "error_p99_k": "p99 K", "life_error": "median error of life lost",
        "intervals": "intervals",
    }),
    ("Signs of failure", failing, {
        "precision": "precision", "recall": "recall", "lead_days": "days before failure", "named": "right sign",
        "injected": "injected",
    }),
    ("Probability of failure", failures, {
        "auc": "AUC of days", "risk_auc": "AUC of `risk`", "skill": "Brier skill", "calibration": "told / failed",
        "found": "failures found", "visits_per_failure": "visits each", "failures": "failures", "days": "days",
    }),
    ("Voltage violations", violations, {
        "precision": "precision", "recall": "recall", "injected": "injected", "findings": "findings",
    }),
    ("Theft", theft, {
        "auc": "AUC", "precision_at": "precision at", "top": "the first", "precision": "precision of findings",
        "recall": "recall of findings", "delay_days": "days to finding", "injected": "injected",
        "customers": "customers",
    }),
    ("Mapping errors", mapping, {
        "transformer_precision": "transformer: precision", "transformer_recall": "recall", "right_place": "right place",
        "phase_precision": "phase: precision", "phase_recall": "recall",
        "transformer_injected": "injected of each",
    }),
)  # fmt: skip


def figure(value: float) -> str:
    """Counts as they are, the rest with two digits after the point."""
    return str(value) if isinstance(value, int) else f"{value:.2f}"


def report() -> tuple[str, dict[str, list[dict[str, float]]]]:
    """The tables as Markdown, and all figures."""
    text, figures = [], {}
    for title, part, names in PARTS:
        found = figures[title] = [part(seed) for seed in SEEDS]
        rows = [[str(seed), *(figure(one[name]) for name in names)] for seed, one in zip(SEEDS, found, strict=True)]
        text.append(f"{title}:\n\n{markdown_table(['seed', *names.values()], rows)}\n")
        print(text[-1], flush=True)
    return "\n".join(text), figures


def write(text: str) -> None:
    """Put the tables between their markers."""
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.split(END)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--speed", action="store_true")
    arguments = parser.parse_args()
    about = heading("accuracy_health")
    if arguments.speed:
        rows = speed(large_index())
        print(table(["detector", "state", "a second and core"], rows))
        print_result(about | {"speed": rows})
        return
    text, figures = report()
    if arguments.write:
        write(text)
    print_result(about | {"figures": figures})


if __name__ == "__main__":
    main()
