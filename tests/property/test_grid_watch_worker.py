"""The watch worker on an in-memory hub that can fail at every step, with a detector whose findings are easily told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gridwire.alerts import moment, note_event, silence
from gridwire.core.clock import ManualClock
from gridwire.core.errors import Unavailable, Unsupported
from gridwire.grid import network
from gridwire.grid.findings import Finding, FindingState, Severity
from gridwire.grid.meter_event import KINDS
from gridwire.grid.network import NetworkIndex
from gridwire.grid.reading import rfc3339
from gridwire.grid.watch import registry, worker
from gridwire.grid.watch.base import Detector, SeenEvents, SeenReadings, UnitFact
from gridwire.grid.watch.worker import watch_stage
from gridwire.grid.worker import WorkerSettings, run
from worker_hub import Crash, Hub

HUBS = {
    "readings": 2, "meter.events": 2, "grid.transformers": 1, "grid.feeders": 1, "weather": 1, "grid.network": 1,
    "grid.alerts": 2, "grid.alert-notes": 1,
}  # fmt: skip
GROUP = "grid.watch"
START_MS = 1_700_000_100_000  # a multiple of a quarter of an hour, less nothing
GASP, RESTORED = KINDS.index("LAST_GASP"), KINDS.index("POWER_RESTORED")
SILENT_US = 30_000_000


class Lights(Detector):
    """One finding a usage point: dark since its last gasp, or silent for half a minute."""

    name = "lights"

    def __init__(self, index: NetworkIndex) -> None:
        super().__init__(index)
        n = len(index.unit_ids)
        self.since = np.zeros(n, np.int64)
        self.heard = np.zeros(n, np.int64)
        self.told = np.zeros(n, np.bool_)
        self.count = np.zeros(n, np.int64)

    def readings(self, seen: SeenReadings) -> None:
        np.maximum.at(self.heard, seen.points, seen.received_us)

    def events(self, seen: SeenEvents) -> None:
        for point, kind, ts in zip(seen.points.tolist(), seen.kinds.tolist(), seen.ts_us.tolist(), strict=True):
            if kind == GASP and self.since[point] == 0:
                self.since[point] = ts
            elif kind == RESTORED:
                self.since[point] = 0

    def findings(self, now_us: int) -> list[Finding]:
        silent = (self.heard > 0) & (now_us - self.heard > SILENT_US) & (self.since == 0)
        self.since[silent] = self.heard[silent]
        found = []
        for point in np.flatnonzero((self.since > 0) & ~self.told).tolist():
            self.told[point], self.count[point] = True, self.since[point]
            found.append(self._finding(point, FindingState.OPENED))
        for point in np.flatnonzero((self.since == 0) & self.told).tolist():
            self.told[point] = False
            found.append(self._finding(point, FindingState.CLOSED))
        return found

    def _finding(self, point: int, state: FindingState) -> Finding:
        return Finding(
            kind="dark", subject_kind="usage_point", subject=self.index.unit_ids[point], severity=Severity.WARNING,
            started_us=int(self.count[point]), confidence=1.0, detector=self.name, state=state,
        )  # fmt: skip

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        return {"since": self.since, "heard": self.heard, "told": self.told, "count": self.count}

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        for name in ("since", "heard", "told", "count"):
            getattr(self, name)[:] = arrays[name]


def model(name: str = "small", points: int = 4) -> network.Network:
    return network.Network(
        name=name,
        transformers=(network.Transformer(id="T0"),),
        feeders=(network.Feeder(id="F0"),),
        usage_points=tuple(network.UsagePoint(id=f"U{i}", transformer="T0", feeder="F0") for i in range(points)),
    )


def new_hub() -> Hub:
    hub = Hub(HUBS)
    hub.append("grid.network", network.to_json(model()))
    return hub


def event(hub: Hub, point: int, kind: str, second: float) -> None:
    at_ms = START_MS + round(second * 1000)
    value = {"ts_event": rfc3339(at_ms * 1000), "kind": kind, "usage_point": f"U{point}"}
    hub.append("meter.events", json.dumps(value).encode(), point % 2, at_ms)


def reading(hub: Hub, point: int, second: float) -> None:
    end = rfc3339((START_MS // 900_000) * 900_000 * 1000)
    value = {"usage_point": f"U{point}", "ts_end": end, "interval_s": 900, "reading_type": "import_kwh", "value": 0.25}
    hub.append("readings", json.dumps(value).encode(), point % 2, START_MS + round(second * 1000))


def work(
    hub: Hub, directory: Path, second: float, *, snapshot_s: float = 1e9, detector: Callable[[Any], Detector] = Lights
) -> ManualClock:
    """Run a worker until everything is read and nothing more is told, at so many seconds of the clock."""
    stop, clock = threading.Event(), ManualClock(START_MS + round(second * 1000))
    inner, quiet = hub.step, 0

    def step(name: str) -> None:
        nonlocal quiet
        clock.advance(0.0001)
        inner(name)
        if name in ("before commit", "open"):
            quiet = 0
        elif name == "poll" and all_read(hub):
            quiet += 1
            if quiet > 4:
                stop.set()

    hub.step = step
    try:
        stage = watch_stage(lambda index: [detector(index)], clock)
        run(hub.open, directory, stop, WorkerSettings(GROUP, stage, snapshot_s=snapshot_s), clock=clock)
    finally:
        hub.step = inner
    return clock


def all_read(hub: Hub) -> bool:
    return all(
        hub.committed.get((GROUP, place), 0) == len(events)
        for place, events in hub.log.items()
        if place[0] not in ("grid.network", "grid.alerts", "grid.health")
    )


def newest(hub: Hub) -> dict[str, dict[str, Any]]:
    """What holds of every finding; a version told twice must say the same."""
    out: dict[str, dict[str, Any]] = {}
    for told in hub.values("grid.alerts"):
        known = out.get(told["id"])
        assert known is None or told["version"] > known["version"] or told == known, "one version, two findings"
        out[told["id"]] = told
    return out


def states(hub: Hub) -> set[tuple[str, str, str]]:
    return {
        (told["subject"], told["started"], "closed" if told["state"] == "closed" else "open")
        for told in newest(hub).values()
    }


def test_what_the_hubs_say_reaches_detectors_and_findings_reach_the_hub(tmp_path: Path) -> None:
    hub = new_hub()
    event(hub, 1, "LAST_GASP", 0)
    event(hub, 9, "LAST_GASP", 1)
    hub.append("meter.events", b"nonsense", 0, START_MS)
    work(hub, tmp_path, 2)
    (told,) = hub.events("grid.alerts")
    headers = dict(told.headers)
    assert headers["ce_type"] == b"gridwire.dark.opened" and headers["ce_subject"] == b"usage_point/U1"
    event(hub, 1, "POWER_RESTORED", 20)
    work(hub, tmp_path, 21)
    assert [(t["version"], t["state"]) for t in hub.values("grid.alerts")] == [(0, "opened"), (1, "closed")]


def test_time_goes_on_when_nothing_arrives(tmp_path: Path) -> None:
    hub = new_hub()
    reading(hub, 0, 0)
    work(hub, tmp_path, 29)
    assert hub.values("grid.alerts") == []
    work(hub, tmp_path, 31)
    assert states(hub) == {("U0", rfc3339(START_MS * 1000), "open")}
    # Made again without a snapshot it knows of it, although no event told it that the time had come.
    for path in tmp_path.glob("*"):
        path.unlink()
    work(hub, tmp_path, 32)
    assert len(hub.values("grid.alerts")) == 1


def backlog(hub: Hub) -> None:
    """One partition speaks ten times as often as the other: a poll of as many events is a tenth of the time."""
    for second in range(0, 4000, 2):
        for point in (1, 3) if second % 20 else range(4):
            reading(hub, point, second)
    hub.poll_events_max = 200


def test_a_backlog_is_no_silence(tmp_path: Path) -> None:
    hub = new_hub()
    backlog(hub)
    work(hub, tmp_path, 3999)
    assert hub.values("grid.alerts") == []
    work(hub, tmp_path, 4100)
    assert len(hub.values("grid.alerts")) == 4


def test_hubs_that_are_not_taken_in_the_order_of_time_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    take = worker.WatchPipeline.take
    monkeypatch.setattr(
        worker.WatchPipeline, "take", lambda self, batches, publish=True, behind=(): take(self, batches)
    )
    hub = new_hub()
    backlog(hub)
    work(hub, tmp_path, 3999)
    assert hub.values("grid.alerts")


def test_a_time_from_the_future_moves_nobody(tmp_path: Path) -> None:
    hub = new_hub()
    reading(hub, 0, 0)
    weather = {"station": "S", "ts_end": rfc3339(START_MS * 1000), "temperature_c": 1.5}
    hub.append("weather", json.dumps(weather).encode(), 0, START_MS + 10**9)
    work(hub, tmp_path, 10)
    assert hub.values("grid.alerts") == []


def test_what_is_not_found_again_is_withdrawn(tmp_path: Path) -> None:
    hub = new_hub()
    event(hub, 1, "LAST_GASP", 0)
    work(hub, tmp_path, 1)
    hub.append("grid.network", network.to_json(model("without U1", points=1)))
    work(hub, tmp_path, 5)
    (held,) = newest(hub).values()
    assert held["state"] == "closed" and "withdrawn" in held["evidence"]
    # With the model of before it is found again, and told with a higher version.
    hub.append("grid.network", network.to_json(model()))
    work(hub, tmp_path, 6)
    (held,) = newest(hub).values()
    assert held["state"] != "closed" and held["version"] == 2


def test_findings_of_others_are_left_alone(tmp_path: Path) -> None:
    hub = new_hub()
    other = Finding(
        kind="dark", subject_kind="usage_point", subject="U3", started_us=START_MS * 1000, severity=Severity.INFO,
        confidence=0.5, detector="somebody else",
    )  # fmt: skip
    hub.log["grid.alerts", 0] += [other.to_event(START_MS)]
    work(hub, tmp_path, 6)
    assert len(hub.values("grid.alerts")) == 1


def test_a_finding_that_somebody_silenced_is_kept_and_marked(tmp_path: Path) -> None:
    hub = new_hub()
    now = moment(START_MS)
    note = silence("dark", "usage_point/U1", "mia", "works", now, now + timedelta(seconds=60))
    hub.append("grid.alert-notes", note_event(note).value or b"", 0, START_MS)
    event(hub, 1, "LAST_GASP", 1)
    event(hub, 2, "LAST_GASP", 1)
    work(hub, tmp_path, 2, snapshot_s=0.0)
    marks = {dict(e.headers)["ce_subject"]: dict(e.headers).get("ce_silenced") for e in hub.events("grid.alerts")}
    assert marks == {b"usage_point/U1": note.name.encode(), b"usage_point/U2": None}
    # It is known after a restart from a snapshot, and over when its time is up.
    event(hub, 1, "POWER_RESTORED", 3)
    work(hub, tmp_path, 4)
    event(hub, 1, "LAST_GASP", 70)
    work(hub, tmp_path, 71)
    told = [e for e in hub.events("grid.alerts") if dict(e.headers)["ce_subject"] == b"usage_point/U1"]
    assert [dict(e.headers).get("ce_silenced") for e in told] == [note.name.encode()] * 2 + [None]


STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["LAST_GASP", "POWER_RESTORED", "reading"]), st.integers(1, 40)),
    min_size=1, max_size=12,
)  # fmt: skip


def play(hub: Hub, story: list[tuple[int, str, int]]) -> float:
    second = 0.0
    for point, what, pause in story:
        second += pause
        if what == "reading":
            reading(hub, point, second)
        else:
            event(hub, point, what, second)
    return second


@settings(max_examples=40, deadline=None)
@given(story=STEPS, failures=st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=4), eager=st.booleans())
def test_no_finding_is_lost_wherever_the_worker_dies(
    story: list[tuple[int, str, int]], failures: list[tuple[int, bool]], eager: bool
) -> None:
    """Killed at any step, it ends with the findings of a worker that was never killed."""
    calm, hub = new_hub(), new_hub()
    second = play(calm, story)
    play(hub, story)
    hub.split_commit = False
    with TemporaryDirectory() as first, TemporaryDirectory() as other:
        work(calm, Path(first), second + 60)
        for number, lost in failures:
            left = number

            def step(name: str, lost: bool = lost) -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    raise Unavailable("gone") if lost else Crash

            hub.step = step
            try:
                work(hub, Path(other), second + 60, snapshot_s=0.0 if eager else 1e9)
            except Crash:
                pass
            hub.step = lambda name: None
        work(hub, Path(other), second + 60)
    assert states(hub) == states(calm)


def test_a_commit_that_is_torn_apart_is_noticed(tmp_path: Path) -> None:
    """The negative control: positions without their findings would lose them, were it not for what was told."""
    hub = new_hub()
    event(hub, 1, "LAST_GASP", 0)
    work(hub, tmp_path, 1)
    for place in hub.log:
        if place[0] == "grid.alerts":
            hub.log[place].clear()
    for path in tmp_path.glob("*"):
        path.unlink()
    work(hub, tmp_path, 2)
    assert states(hub) == {("U1", rfc3339(START_MS * 1000), "open")}


def test_a_detector_that_forgets_is_noticed(tmp_path: Path) -> None:
    """The negative control of the test of kills: with a detector that keeps nothing in snapshots the same comparison
    sees the difference."""

    class Forgetful(Lights):
        def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
            pass

    hub = new_hub()
    event(hub, 1, "LAST_GASP", 0)
    work(hub, tmp_path, 1, detector=Forgetful)
    event(hub, 1, "POWER_RESTORED", 3)
    work(hub, tmp_path, 4, detector=Forgetful)
    assert states(hub) == {("U1", rfc3339(START_MS * 1000), "open")}


def test_a_snapshot_of_another_shape_is_passed_over(tmp_path: Path) -> None:
    class Other(Lights):
        def to_arrays(self) -> dict[str, NDArray[Any]]:
            return {"since": self.since[:1]}

    hub = new_hub()
    event(hub, 1, "LAST_GASP", 0)
    work(hub, tmp_path, 1, detector=Other)
    work(hub, tmp_path, 2)
    assert states(hub) == {("U1", rfc3339(START_MS * 1000), "open")}
    assert len(hub.values("grid.alerts")) == 1


class Teller(Lights):
    """Tells how many readings of each usage point it has seen."""

    hubs = ("grid.health",)

    def __init__(self, index: NetworkIndex) -> None:
        super().__init__(index)
        self.seen = np.zeros(len(index.unit_ids), np.int64)
        self.untold: list[UnitFact] = []

    def readings(self, seen: SeenReadings) -> None:
        for point in seen.points.tolist():
            self.seen[point] += 1
            value = json.dumps([point, int(self.seen[point])]).encode()
            self.untold.append(UnitFact("grid.health", self.index.unit_ids[point], value))

    def facts(self) -> list[UnitFact]:
        told, self.untold = self.untold, []
        return told

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        return {**super().to_arrays(), "seen": self.seen}

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        super().from_arrays(arrays)
        self.seen[:] = arrays["seen"]


@pytest.mark.parametrize("torn", [False, True], ids=["whole commits", "negative control: torn commits"])
def test_facts_are_told_once_wherever_the_worker_dies(tmp_path: Path, torn: bool) -> None:
    told: list[list[Any]] = []
    for death in range(1, 21):
        hub = new_hub()
        hub.log["grid.health", 0] = []
        hub.split_commit = torn
        for second in range(6):
            reading(hub, second % 4, second)
        left = death

        def step(name: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Crash

        hub.step = step
        directory = tmp_path / str(death)
        try:
            work(hub, directory, 10, snapshot_s=0.0 if death % 2 else 1e9, detector=Teller)
        except Crash:
            pass
        hub.step = lambda name: None
        work(hub, directory, 10, detector=Teller)
        told.append(sorted(hub.values("grid.health")))
    once = [[0, 1], [0, 2], [1, 1], [1, 2], [2, 1], [3, 1]]
    assert all(each == once for each in told) is not torn


def test_detectors_are_chosen_by_name() -> None:
    assert registry.chosen("all") == registry.NAMES
    assert registry.chosen(" outages") == ("outages",)
    assert [detector.name for detector in registry.make(["outages"], model().index())] == ["outages"]
    for wrong in ("nobody", "outages,nobody", ""):
        with pytest.raises(Unsupported, match="unknown detector"):
            registry.chosen(wrong)
    with pytest.raises(Unsupported, match="unknown detector"):
        registry.make(["nobody"], model().index())
