"""How well are outages found? Seeded outages with truth, and the detector fed what a head-end would have sent of them.

    python bench/accuracy_outages.py [--units 50000] [--hours 6] [--seed 1] [--write]

Each row is a run over the same outages with another share of lost messages: last gasps and restorations are lost with
that probability and arrive exponentially late; 1 % of readings are missing, others up to two minutes late; lone meters
send false last gasps; a seventh of the outages are momentary, a fifth are nested (some devices below stay out). One row
has no last gasps at all, one a head-end that loses 40 % of all meters for half an hour.

Precision: share of the outages told (those superseded by a better device left out) that were there, right in time and
on the same branch. Recall: share of the outages that were told. Exact: share of these with just the right device.
Customers: mean error of the number of customers told at the end, as a share. Delay: from the first last gasp that
arrives to the first finding, in seconds of the hub's time; the detector is asked every 0.25 s, as the worker asks it.
Devices are those of three customers or more, and the last three columns are of them. Such a device is opened by two
last gasps at least, so its delay holds the time between two of them.
"""

from __future__ import annotations

import argparse
import heapq
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridwire.grid import network
from gridwire.grid.findings import Finding, FindingState
from gridwire.grid.meter_event import KINDS
from gridwire.grid.reading_types import IMPORT_KWH
from gridwire.grid.watch.base import SeenEvents, SeenReadings
from gridwire.grid.watch.outages import Outages
from gridwire.grid.watch.tree import SUBSTATION, Tree

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "analytics.md"
BEGIN, END = "<!-- accuracy of outages: bench/accuracy_outages.py --write -->", "<!-- end of accuracy of outages -->"
US = 1_000_000
START_S = 1_767_225_600  # 2026-01-01T00:00Z
INTERVAL_S = 900
ASK_S = 0.25
GASP, RESTORED = KINDS.index("LAST_GASP"), KINDS.index("POWER_RESTORED")
MATCH_S = INTERVAL_S + 60
SEVERAL = 3


@dataclass(frozen=True)
class Case:
    """What is injected. `loss`: of last gasps and restorations. `false_gasps`: a meter and day."""

    name: str
    loss: float
    outages: int = 60
    false_gasps: float = 0.002
    head_end: bool = False


CASES = (
    Case("0 % of messages lost", 0.0),
    Case("20 % lost", 0.2),
    Case("40 % lost", 0.4),
    Case("60 % lost", 0.6),
    Case("40 % lost, head-end outage", 0.4, head_end=True),
    Case("no last gasps, silence alone", 1.0, false_gasps=0.0),
)


@dataclass
class Truth:
    """One outage: a device without supply from `start` to `end`, seconds since the epoch."""

    node: int
    start: float
    end: float
    units: NDArray[np.int32]
    nested: bool = False
    first_gasp: float = float("inf")
    found: list[int] = field(default_factory=list)


@dataclass
class Told:
    """One finding as it stands at the end."""

    node: int
    start: float
    first_told: float
    last: Finding


def synthetic(units: int) -> network.Network:
    """Substations of 20 feeders of 25 transformers of 8 to 92 usage points (50 on average)."""
    rng = np.random.default_rng(5)
    transformers, feeders, points = [], [], []
    while len(points) < units:
        number = len(transformers)
        if number % 25 == 0:
            feeders.append(network.Feeder(id=f"F{number // 25}"))
        transformers.append(network.Transformer(id=f"T{number}", substation=f"S{number // 500}", rated_kva=400.0))
        count = min(units - len(points), int(rng.integers(8, 93)))
        points += [
            network.UsagePoint(id=f"U{len(points) + i}", transformer=f"T{number}", feeder=feeders[-1].id)
            for i in range(count)
        ]
    return network.Network(
        name="synthetic", transformers=tuple(transformers), feeders=tuple(feeders), usage_points=tuple(points)
    )


def inject(tree: Tree, case: Case, hours: float, rng: np.random.Generator) -> list[Truth]:
    """Outages in the order of their start; no usage point is out again within an hour."""
    free_at = np.zeros(tree.units)
    truths: list[Truth] = []
    shares = np.array([0.25, 0.25, 0.4, 0.1])  # usage point, feeder below a transformer, transformer, feeder above
    by_level = [np.flatnonzero(tree.level == level) for level in range(SUBSTATION)]
    shares = shares * [len(nodes) > 0 for nodes in by_level]
    for start in sorted(START_S + rng.uniform(0.1 * hours, max(0.3 * hours, hours - 1.8), case.outages) * 3600):
        level = int(rng.choice(len(shares), p=shares / shares.sum()))
        node = int(rng.choice(by_level[level]))
        units = tree.below(node)
        if not len(units) or free_at[units].max() > start:
            continue
        short = rng.random() < 1 / 7
        end = start + (rng.uniform(50, 280) if short else rng.uniform(1800, 5400))
        truths.append(Truth(node, start, end, units))
        children = np.flatnonzero(tree.parent == node)
        if level > 0 and not short and len(children) > 2 and rng.random() < 0.3:
            child = int(rng.choice([each for each in children.tolist() if tree.count(each)]))
            inside = tree.below(child)
            truths[-1].units = np.setdiff1d(units, inside)
            truths.append(Truth(child, start, end + rng.uniform(1800, 3600), inside, nested=True))
        free_at[units] = max(truth.end for truth in truths if truth.node == node or truth.start == start) + 3600
    return truths


Batch = tuple[float, str, Any]


def messages(tree: Tree, truths: list[Truth], case: Case, hours: float, rng: np.random.Generator) -> Iterator[Batch]:
    """What arrives, in order of its arrival: (second, `events` or `readings`, columns)."""
    heap: list[tuple[float, int, str, Any]] = []
    n = tree.units
    count = 0

    def push(at: float, what: str, columns: Any) -> None:
        nonlocal count
        count += 1
        heapq.heappush(heap, (at, count, what, columns))

    for truth in truths:
        for kind, when, spread in ((GASP, truth.start, 4.0), (RESTORED, truth.end, 10.0)):
            kept = truth.units[rng.random(len(truth.units)) >= case.loss]
            late = np.minimum(rng.exponential(spread, len(kept)), 60.0) + 0.5
            if kind == GASP and len(kept):
                truth.first_gasp = float(when + late.min())
            for point, delay in zip(kept.tolist(), late.tolist(), strict=True):
                push(when + delay, "events", (point, kind, when + rng.uniform(0, 2)))
    for point in rng.integers(0, n, rng.poisson(case.false_gasps * n * hours / 24)).tolist():
        at = START_S + rng.uniform(0, hours * 3600)
        push(at + 1, "events", (point, GASP, at))
    cut = (START_S + 0.8 * hours * 3600, START_S + 0.8 * hours * 3600 + 1800) if case.head_end else (0.0, 0.0)
    head_end = rng.random(n) < 0.4
    for number in range(1, int(hours * 3600 / INTERVAL_S) + 1):
        end = START_S + number * INTERVAL_S
        alive = rng.random(n) >= 0.01
        if cut[0] <= end < cut[1]:
            alive &= ~head_end
        for truth in truths:
            if truth.start < end < truth.end:
                alive[truth.units] = False
        points = np.flatnonzero(alive).astype(np.int32)
        late = rng.uniform(1, 120, len(points))
        for second in range(1, 121, 4):
            mine = points[(late >= second) & (late < second + 4)]
            if len(mine):
                push(end + second + 4, "readings", (mine, end))
    while heap:
        at, _, what, columns = heapq.heappop(heap)
        yield at, what, columns


def run(index: network.NetworkIndex, case: Case, hours: float, seed: int) -> tuple[list[Truth], dict[str, Told]]:
    """Feed a new detector; the truth, and what it told."""
    rng = np.random.default_rng(seed)
    detector = Outages(index)
    tree = Tree(index)
    truths = inject(tree, case, hours, rng)
    nodes = {(tree.kind(node), tree.id(node)): node for node in range(len(tree.level))}
    told: dict[str, Told] = {}
    now = float(START_S)
    stop = START_S + hours * 3600
    for at, what, columns in messages(tree, truths, case, hours, rng):
        if at >= stop:
            break
        if at > now:
            _ask(detector, nodes, told, now, at)
            now = now + ASK_S * np.ceil((at - now) / ASK_S)
        _give(detector, what, columns, at)
    _ask(detector, nodes, told, now, stop)
    return truths, told


def _ask(detector: Outages, nodes: dict[tuple[str, str], int], told: dict[str, Told], now: float, until: float) -> None:
    while now < until:
        for finding in detector.findings(int(now * US)):
            if finding.kind != "outage":
                continue
            known = told.get(finding.id)
            node = nodes[finding.subject_kind, finding.subject]
            first = known.first_told if known else now
            told[finding.id] = Told(node, finding.started_us / US, first, finding)
        now += ASK_S if until - now < 10 else 1.0


def _give(detector: Outages, what: str, columns: Any, at: float) -> None:
    if what == "events":
        point, kind, when = columns
        detector.events(
            SeenEvents(
                np.array([point], np.int32), np.array([kind], np.int8), np.array([int(when * US)]),
                np.array([int(at * US)]),
            )
        )  # fmt: skip
        return
    points, end = columns
    n = len(points)
    detector.readings(
        SeenReadings(
            points, np.full(n, IMPORT_KWH, np.int16), np.full(n, end * US, np.int64), np.full(n, INTERVAL_S, np.int32),
            np.full(n, 0.25), np.full(n, int(at * US), np.int64),
        )
    )  # fmt: skip


@dataclass(frozen=True)
class Score:
    """The figures of one row."""

    truths: int
    told: int
    precision: float
    recall: float
    recall_devices: float
    exact: float
    levels: float
    customers: float
    delay_p50: float
    delay_p99: float


def related(tree: Tree, a: int, b: int) -> bool:
    """Whether one of them lies under the other."""
    return tree.contains(a, b) or tree.contains(b, a)


def judge(tree: Tree, truths: list[Truth], told: dict[str, Told]) -> Score:
    """Compare what was told with the truth."""
    final = [each for each in told.values() if "part_of" not in each.last.evidence]
    right = 0
    best: dict[int, Told] = {}
    for each in final:
        mine = [
            number for number, truth in enumerate(truths)
            if related(tree, truth.node, each.node) and abs(truth.start - each.start) <= MATCH_S
        ]  # fmt: skip
        right += bool(mine)
        for number in mine:
            known = best.get(number)
            if known is None or _distance(tree, truths[number].node, each.node) < _distance(
                tree, truths[number].node, known.node
            ):
                best[number] = each
    distances = [_distance(tree, truths[number].node, each.node) for number, each in best.items()]
    devices = [number for number, truth in enumerate(truths) if tree.count(truth.node) >= SEVERAL]
    errors = [
        abs(each.last.evidence["customers"] - len(truths[number].units)) / len(truths[number].units)
        for number, each in best.items()
        if each.last.state is FindingState.CLOSED and number in devices
    ]
    delays = [
        max(0.0, min(e.first_told for e in told.values() if _same(tree, truths[n], e)) - truths[n].first_gasp)
        for n in devices
        if n in best and np.isfinite(truths[n].first_gasp)
    ]
    return Score(
        truths=len(truths), told=len(final), precision=right / max(1, len(final)), recall=len(best) / len(truths),
        recall_devices=len([n for n in devices if n in best]) / max(1, len(devices)),
        exact=float(np.mean([d == 0 for d in distances])) if distances else 0.0,
        levels=float(np.mean(distances)) if distances else 0.0,
        customers=float(np.mean(errors)) if errors else 0.0,
        delay_p50=float(np.percentile(delays, 50)) if delays else float("nan"),
        delay_p99=float(np.percentile(delays, 99)) if delays else float("nan"),
    )  # fmt: skip


def _same(tree: Tree, truth: Truth, told: Told) -> bool:
    return related(tree, truth.node, told.node) and abs(truth.start - told.start) <= MATCH_S


def _distance(tree: Tree, a: int, b: int) -> int:
    """Steps between two devices on one branch."""
    upper, lower = (a, b) if tree.contains(a, b) else (b, a)
    steps = 0
    while lower != upper:
        lower, steps = int(tree.parent[lower]), steps + 1
    return steps


def table(rows: list[tuple[str, Score]]) -> str:
    """As Markdown."""
    columns = "case|outages|told|precision|recall|recall, devices|exact device|customers error|delay p50 s|p99 s"
    lines = ["| " + columns.replace("|", " | ") + " |", "|" + " --- |" * 10]
    for name, s in rows:
        delays = ("-", "-") if np.isnan(s.delay_p50) else (f"{s.delay_p50:.1f}", f"{s.delay_p99:.1f}")
        lines.append(
            f"| {name} | {s.truths} | {s.told} | {s.precision:.2f} | {s.recall:.2f} | {s.recall_devices:.2f} "
            f"| {s.exact:.2f} | {s.customers:.2f} | {delays[0]} | {delays[1]} |"
        )
    return "\n".join(lines) + "\n"


def networks(units: int) -> Iterator[tuple[str, network.Network]]:
    """The demo network where simbench is installed, and a synthetic one."""
    try:
        from gridwire.demo import utility

        yield "demo", utility.build().network
    except ImportError:
        print("the demo network needs simbench: left out", file=sys.stderr)
    yield f"synthetic, {units:,} usage points", synthetic(units)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=50_000)
    parser.add_argument("--hours", type=float, default=6.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    text = ""
    for name, model in networks(options.units):
        if options.only and options.only not in name:
            continue
        index = model.index()
        tree = Tree(index)
        rows = []
        for case in CASES:
            hours = options.hours * (8 if name == "demo" else 1)  # few devices, so more time
            rows.append((case.name, judge(tree, *run(index, case, hours, options.seed))))
            print(case.name, rows[-1][1], file=sys.stderr)
        text += f"\n{name[0].upper()}{name[1:]}:\n\n{table(rows)}"
    print(text)
    if options.write:
        page = PAGE.read_text()
        before, _, rest = page.partition(BEGIN)
        PAGE.write_text(before + BEGIN + "\n" + text + "\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
