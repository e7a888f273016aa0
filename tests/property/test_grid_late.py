"""Readings too late for the window of live sums: the facts become what they would be, had nothing been late."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridwire.broker.port import ColumnBatch
from gridwire.capture.delta import TableWriter
from gridwire.columnar.decode import decode
from gridwire.core import batch
from gridwire.core.clock import ManualClock
from gridwire.grid import feeder_sums, late_worker, network, readings, revision
from gridwire.grid.lane import Stage
from gridwire.grid.late import LateReadings, day_number, day_text
from gridwire.grid.loads import LoadsSettings
from gridwire.grid.worker import FEEDERS_AND_LATE, LOADS_AND_LATE, WorkerSettings, run
from worker_hub import Crash, Hub

HUBS = {
    "readings": 3, "grid.network": 1, "grid.transformers": 2, "grid.feeders": 2, "quarantine": 2, "grid.late": 1,
}  # fmt: skip
ENOUGH_POLLS = 6
"""After so many a worker knows all models."""

POINTS = {"U0": ("T0", "F0"), "U1": ("T1", "F1"), "U2": ("T0", "F0"), "U3": ("T1", "F0"), "U4": ("T2", "F2")}
QUALITIES = ("", "", "", "3.8.1", "3.11.0")

Row = tuple[int, str, int, int, int, str]
"""Partition, usage point, quarter of an hour, tenths of a kilowatt-hour, version, quality."""

one_row = st.tuples(
    st.integers(0, 2),
    st.sampled_from(sorted(POINTS)),
    st.integers(1, 9 * 96),
    st.integers(1, 9),
    st.integers(0, 2),
    st.sampled_from(QUALITIES),
)
rows = st.lists(one_row, max_size=30)


def model() -> network.Network:
    return network.Network(
        name="small",
        interval_s=900,
        transformers=tuple(network.Transformer(id=f"T{n}", rated_kva=160.0) for n in range(3)),
        feeders=tuple(network.Feeder(id=f"F{n}") for n in range(3)),
        usage_points=tuple(network.UsagePoint(id=p, transformer=t, feeder=f) for p, (t, f) in POINTS.items()),
    )


def value_of(row: Row) -> bytes:
    _, point, quarter, tenths, version, quality = row
    day, rest = divmod(quarter, 96)
    time = f"2016-01-{day + 1:02d}T{rest // 4:02d}:{rest % 4 * 15:02d}:00Z"
    stated = f', "quality": "{quality}"' * bool(quality)
    return (
        f'{{"usage_point": "{point}", "ts_end": "{time}", "interval_s": 900, "reading_type": "import_kwh", '
        f'"value": {tenths / 10}, "version": {version}{stated}}}'
    ).encode()


class Place:
    """A hub with its lake, and the workers that read and write them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.hub = Hub(HUBS)
        self.hub.append("grid.network", network.to_json(model()))
        self.clock = ManualClock()
        self.counted: dict[str, int] = {}

    def sum(self, days: int = 2) -> None:
        """Run the worker of live sums to the end, telling what is late; and that of parts, where there are any."""
        self._run("grid.loads", "readings", LOADS_AND_LATE, days)
        if self.hub.shared and ("grid.feeder-parts", 0) in self.hub.log:
            self._run("grid.feeder-sums", "grid.feeder-parts", FEEDERS_AND_LATE, days)

    def _run(self, group: str, name: str, stage: Stage, days: int) -> None:
        options = WorkerSettings(group, stage, loads=LoadsSettings(days=days, tell_late=True))
        with self._until_read(group, name) as stop:
            run(self.hub.open, self.directory / stage.name, stop, options, clock=self.clock)

    def capture(self) -> None:
        """Bring the lake to where the hub is."""
        writer = TableWriter(self.directory / "lake", "readings", UUID(int=1))
        for (hub, partition), events in self.hub.log.items():
            at = writer.position(partition) or 0
            if hub == "readings" and events[at:]:
                data = bytes(batch.encode(events[at:], base_offset=at))
                columns = list(decode(data, 0, len(data), from_offset=at).columns)
                batches = [readings.to_arrow(ColumnBatch(hub, partition, each, len(events))) for each in columns]
                writer.append(batches, {partition: len(events)})
        writer.close()

    def revise(self) -> str:
        """Run the worker of late readings until it has worked on every note."""
        with self._until_read("grid.late", "grid.late") as stop:
            return late_worker.run(
                self.hub.open,
                "grid.late",
                self.directory / "lake",
                stop,
                shared=self.hub.shared,
                clock=self.clock,
                metrics=self.counted,
            )

    def _until_read(self, group: str, name: str) -> _Stop:
        return _Stop(self, group, name)

    def told(self, kind: str) -> dict[tuple[str, str], dict[str, Any]]:
        """What holds of every unit and interval, by version; one version says one thing, but for the peak so far."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for fact in self.hub.values(f"grid.{kind}s"):
            key = (fact[kind], fact["ts_end"])
            known = found.get(key)
            if known is not None and known["version"] == fact["version"]:
                assert without_peak(known) == without_peak(fact)
            if known is None or fact["version"] >= known["version"]:
                found[key] = fact
        return found


def without_peak(fact: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fact.items() if name not in ("peak_kw", "peak_at")}


def values(facts: dict[tuple[str, str], dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """What facts say. A repeat that comes by itself is no news, and counts in the version of the next fact only."""
    left_out = ("peak_kw", "peak_at", "version")
    return {key: {name: it for name, it in fact.items() if name not in left_out} for key, fact in facts.items()}


class _Stop:
    """Stops a worker once it has committed everything; its clock moves with every step."""

    def __init__(self, place: Place, group: str, name: str) -> None:
        self.place, self.group, self.name = place, group, name

    def __enter__(self) -> threading.Event:
        stop, hub = threading.Event(), self.place.hub
        self.inner = hub.step
        polls = 0

        def step(name: str) -> None:
            nonlocal polls
            polls += name == "poll"
            self.place.clock.advance(0.1)
            if (
                name == "poll"
                and polls > ENOUGH_POLLS
                and all(
                    hub.committed.get((self.group, at), 0) == len(events)
                    for at, events in hub.log.items()
                    if at[0] == self.name and (events or self.group == "grid.late")
                )
            ):
                stop.set()
            self.inner(name)

        hub.step = step
        return stop

    def __exit__(self, *_: object) -> None:
        self.place.hub.step = self.inner


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    yield Place(tmp_path)


def fill(place: Place, given_rows: list[Row]) -> None:
    for row in given_rows:
        place.hub.append("readings", value_of(row), row[0])


def all_in_time(given_rows: list[Row], kind: str, *models: bytes) -> dict[tuple[str, str], dict[str, Any]]:
    """The facts with a window in which nothing is late, and models that are there from the beginning."""
    with TemporaryDirectory() as name:
        place = Place(Path(name))
        for each in models:
            place.hub.append("grid.network", each)
        fill(place, given_rows)
        place.sum(days=30)
        assert place.hub.events("grid.late") == []
        return place.told(kind)


@settings(max_examples=40, deadline=None)
@given(rows, st.integers(1, 3), st.integers(1, 4))
def test_the_same_stream_shuffled_gives_the_same_facts(given_rows: list[Row], days: int, rounds: int) -> None:
    with TemporaryDirectory() as name:
        place = Place(Path(name))
        step = max(1, -(-len(given_rows) // rounds))
        for begin in range(0, len(given_rows), step):
            fill(place, given_rows[begin : begin + step])
            place.sum(days)
            place.capture()
            if place.hub.events("grid.late"):
                assert place.revise() == "stopped"
        assert place.hub.events("quarantine") == []
        for kind in ("transformer", "feeder"):
            expected = all_in_time(given_rows, kind)
            # A late estimate is nobody's loss: it is told of no earlier than the next reading of its unit.
            late_guesses = {row[1] for row in given_rows if row[5] == "3.8.1"}
            units = {POINTS[point][kind == "feeder"] for point in late_guesses}
            found = place.told(kind)
            assert {key: fact for key, fact in values(found).items() if key[0] not in units} == {
                key: fact for key, fact in values(expected).items() if key[0] not in units
            }


def shared(row: Row) -> Row:
    """As where workers share partitions: all readings of a transformer are in one; here without estimates."""
    return (int(POINTS[row[1]][0][1]), *row[1:5], "")


@settings(max_examples=40, deadline=None)
@given(st.lists(one_row.map(shared), max_size=30), st.integers(1, 3), st.integers(1, 4))
def test_it_does_where_workers_share_the_partitions(given_rows: list[Row], days: int, rounds: int) -> None:
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(feeder_sums, "DAYS", 3)  # so that parts are late, too
        place = Place(Path(name))
        place.hub.shared = True
        step = max(1, -(-len(given_rows) // rounds))
        for begin in range(0, len(given_rows), step):
            fill(place, given_rows[begin : begin + step])
            for _ in range(3):  # sums, what was late of them, and of parts of that
                place.sum(days)
                place.capture()
                place.revise()
        for kind in ("transformer", "feeder"):
            assert values(place.told(kind)) == values(all_in_time(given_rows, kind))


NOON = 48
OLD, NEW = (0 * 96 + NOON, 8 * 96 + NOON)
"""Quarters of an hour on a day that is over and on the newest one."""


def late_place(place: Place) -> Place:
    """Two usage points of T0 were read on an old day, a third one's reading came eight days later."""
    fill(place, [(0, "U0", OLD, 3, 0, ""), (1, "U4", OLD, 1, 0, ""), (2, "U4", NEW, 1, 0, "")])
    place.sum()
    fill(place, [(1, "U2", OLD, 5, 0, ""), (1, "U2", OLD + 1, 9, 0, "")])
    place.sum()
    return place


def test_a_late_reading_is_told_in_a_note_and_summed_when_the_lake_has_it(place: Place) -> None:
    late_place(place)
    assert place.hub.events("quarantine") == []
    assert place.hub.values("grid.late") == [
        {"partition": 1, "first_offset": 1, "last_offset": 2, "first_day": "2016-01-01", "before_day": "2016-01-08",
         "count": 2}
    ]  # fmt: skip
    before = len(place.hub.values("grid.transformers"))
    place.capture()
    place.revise()
    told = place.hub.values("grid.transformers")[before:]
    assert [(fact["transformer"], fact["ts_end"][11:16], fact["import_kwh"], fact["count"]) for fact in told] == [
        ("T0", "12:00", 0.8, 2), ("T0", "12:15", 0.9, 1),
    ]  # fmt: skip
    assert [(fact["version"], fact["peak_kw"], fact["peak_at"][11:16]) for fact in told] == [
        (1, 3.6, "12:15"), (0, 3.6, "12:15"),
    ]  # fmt: skip
    assert (place.counted["late_rounds"], place.counted["late_readings"], place.counted["late_facts"]) == (1, 2, 4)


def test_it_waits_until_the_lake_has_the_readings(place: Place) -> None:
    place.sum()  # no readings yet: nothing to tell
    late_place(place)
    polls = 0

    def step(name: str) -> None:
        nonlocal polls
        polls += name == "poll"
        if name == "poll" and polls == 200:
            assert place.hub.committed.get(("grid.late", ("grid.late", 0))) is None
            place.capture()

    place.hub.step = step
    place.revise()
    assert polls >= 200
    assert place.told("transformer")["T0", "2016-01-01T12:00:00Z"]["count"] == 2


def test_notes_of_readings_that_the_lake_never_gets_are_given_up(place: Place) -> None:
    late_place(place)
    place.hub.step = lambda name: place.clock.advance(late_worker.LAKE_S / 10)
    place.revise()
    assert place.counted["late_notes_given_up"] == 1
    assert place.counted["late_facts"] == 0


def test_what_is_no_note_is_passed_over(place: Place) -> None:
    place.hub.append("grid.late", b"?")
    late_place(place).capture()
    place.revise()
    assert place.counted["late_readings"] == 2


@pytest.mark.parametrize("at", ["before commit", "after commit"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_crash_tells_some_facts_again_and_none_otherwise(place: Place, at: str, number: int) -> None:
    late_place(place).capture()
    left = number

    def step(name: str) -> None:
        nonlocal left
        left -= name == at
        if left == 0 and name == at:
            raise Crash(name)

    place.hub.step = step
    with pytest.raises(Crash):
        place.revise()
    place.hub.step = lambda name: None
    if place.hub.committed.get(("grid.late", ("grid.late", 0)), 0) == 0:
        place.revise()
    assert place.told("transformer")["T0", "2016-01-01T12:00:00Z"]["import_kwh"] == 0.8
    assert place.told("feeder")["F0", "2016-01-01T12:15:00Z"]["import_kwh"] == 0.9


@pytest.mark.parametrize(("name", "value"), [("NAMED_MAX", 0), ("LOOKED_AT_MAX", 0), ("ROWS", 1)])
def test_large_utilities_are_asked_for_in_pieces(
    place: Place, monkeypatch: pytest.MonkeyPatch, name: str, value: int
) -> None:
    monkeypatch.setattr(revision, name, value)
    late_place(place).capture()
    place.revise()
    told = place.told("transformer")
    assert [told["T0", f"2016-01-01T12:{minute}:00Z"]["peak_kw"] for minute in ("00", "15")] == [3.6, 3.6]
    assert told["T0", "2016-01-01T12:00:00Z"]["version"] == 1


def test_an_old_estimate_is_replaced_by_the_reading_that_comes_at_last(place: Place) -> None:
    fill(place, [(0, "U0", OLD, 3, 0, ""), (0, "U2", OLD, 9, 0, "3.8.1"), (2, "U4", NEW, 1, 0, "")])
    place.sum()
    before = place.told("transformer")["T0", "2016-01-01T12:00:00Z"]
    assert (before["count"], before["estimated"], before["import_kwh"]) == (1, 1, 1.2)
    fill(place, [(0, "U2", OLD, 5, 0, "")])
    place.sum()
    place.capture()
    place.revise()
    after = place.told("transformer")["T0", "2016-01-01T12:00:00Z"]
    assert (after["count"], after.get("estimated", 0), after["import_kwh"]) == (2, 0, 0.8)


def test_an_old_interval_is_summed_under_the_model_of_its_time(place: Place) -> None:
    moved = network.Network(
        name="moved",
        interval_s=900,
        valid_from="2016-01-05T00:00:00Z",
        transformers=model().transformers,
        feeders=model().feeders,
        usage_points=tuple(
            network.UsagePoint(id=p, transformer="T1" if p == "U2" else t, feeder=f) for p, (t, f) in POINTS.items()
        ),
    )
    place.hub.append("grid.network", network.to_json(moved))
    later = 5 * 96 + NOON
    fill(place, [(0, "U0", OLD, 3, 0, ""), (0, "U0", later, 3, 0, ""), (2, "U4", NEW, 1, 0, "")])
    place.sum()
    fill(place, [(1, "U2", OLD, 5, 0, ""), (1, "U2", later, 5, 0, "")])
    place.sum()
    place.capture()
    place.revise()
    told = {key: fact["import_kwh"] for key, fact in place.told("transformer").items()}
    assert told["T0", "2016-01-01T12:00:00Z"] == 0.8
    assert told["T1", "2016-01-06T12:00:00Z"] == 0.5
    assert told["T0", "2016-01-06T12:00:00Z"] == 0.3


def test_a_reading_of_a_usage_point_that_is_in_no_model_changes_nothing(place: Place) -> None:
    late_place(place)
    note = LateReadings(
        partition=0, first_offset=0, last_offset=9, first_day=day_text(0), before_day=day_text(30_000), count=1
    )
    assert day_number(note.before_day) == 30_000
    place.hub.log["readings", 0].clear()
    place.hub.append("readings", value_of((0, "nobody", OLD, 3, 0, "")))
    for quarter in range(OLD + 1, OLD + 10):
        place.hub.append("readings", value_of((0, "nobody", quarter, 3, 0, "")))
    place.capture()
    networks = late_worker.NetworkLog(True, late_worker.placement_digest)
    for event_batch in place.hub.open("any", [], ["grid.network"]).poll(0.0):
        networks.feed(event_batch)
    current = networks.now(place.clock.now_ms())
    assert current is not None
    assert current.timeline is not None
    found = revision.Revision(place.directory / "lake", [note], current.timeline)
    assert [facts for facts in found.days() if facts] == []
    assert found.readings == 10


def test_a_part_of_a_feeder_that_comes_too_late_is_told_in_a_note_too(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeder_sums, "DAYS", 3)
    place.hub.shared = True
    fill(place, [(0, "U0", OLD, 3, 0, ""), (0, "U0", NEW, 3, 0, "")])
    place.sum()
    fill(place, [(1, "U3", OLD, 5, 0, "")])  # in time for its partition, whose newest day this is
    place.sum()
    assert place.hub.values("grid.late") == [
        {"partition": 1, "first_offset": 0, "last_offset": 0, "first_day": "2016-01-01", "before_day": "2016-01-02",
         "count": 1, "feeder": "F0"}
    ]  # fmt: skip
    place.capture()
    place.revise()
    fact = place.told("feeder")["F0", "2016-01-01T12:00:00Z"]
    assert (fact["import_kwh"], fact["count"], fact["version"]) == (0.8, 2, 1)


def test_a_late_reading_of_a_feeder_in_parts_becomes_a_part(place: Place) -> None:
    place.hub.shared = True
    fill(place, [(0, "U0", OLD, 3, 0, ""), (1, "U3", OLD, 5, 0, ""), (0, "U0", OLD + 4 * 96, 3, 0, "")])
    place.sum()
    fill(place, [(0, "U2", OLD, 1, 0, "")])
    place.sum()
    place.capture()
    told = len(place.hub.values("grid.feeders"))
    place.revise()
    assert len(place.hub.values("grid.feeders")) == told
    part = place.hub.values("grid.feeder-parts")[-1]
    assert (part["feeder"], part["part"], part["seen"], part["count"]) == ("F0", 0, 2, 2)
    place.sum()
    fact = place.told("feeder")["F0", "2016-01-01T12:00:00Z"]
    assert (fact["import_kwh"], fact["count"], fact["version"]) == (0.9, 3, 2)


# -- models that hold for days before the window --------------------------------------------------------------------


def as_of(day: str, **moved: str) -> bytes:
    """The model from a day on, with usage points under other transformers, or under none."""
    return network.to_json(
        network.Network(
            name=f"as of {day}",
            interval_s=900,
            valid_from=f"{day}T00:00:00Z",
            transformers=model().transformers,
            feeders=model().feeders,
            usage_points=tuple(
                network.UsagePoint(id=point, transformer=moved.get(point, transformer), feeder=feeder)
                for point, (transformer, feeder) in POINTS.items()
                if moved.get(point) != ""
            ),
        )
    )


def energy(place: Place, kind: str = "transformer") -> dict[tuple[str, str], tuple[float, int]]:
    return {key: (fact["import_kwh"], fact["count"]) for key, fact in place.told(kind).items()}


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_model_of_the_past_corrects_days_before_the_window(
    place: Place, monkeypatch: pytest.MonkeyPatch, in_parts: bool
) -> None:
    monkeypatch.setattr(feeder_sums, "DAYS", 3)
    place.hub.shared = in_parts
    middle = 3 * 96 + NOON
    rows = [(0, "U0", OLD, 3, 0, ""), (0, "U2", OLD, 5, 0, ""), (1, "U4", OLD, 1, 0, ""), (0, "U2", middle, 5, 0, "")]
    fill(place, [*rows, (0, "U0", NEW, 3, 0, ""), (1, "U4", NEW, 1, 0, ""), (2, "U1", NEW, 1, 0, "")])
    place.sum()
    place.capture()
    assert energy(place)["T0", "2016-01-04T12:00:00Z"] == (0.5, 1)
    place.hub.append("grid.network", as_of("2016-01-03", U2="T1"))
    for _ in range(3):
        place.sum()
        place.revise()
    told = energy(place)
    assert told["T0", "2016-01-01T12:00:00Z"] == (0.8, 2), "before the model's time"
    assert told["T1", "2016-01-04T12:00:00Z"] == (0.5, 1)
    assert told["T0", "2016-01-04T12:00:00Z"] == (0.0, 0), "nothing is left of it"
    assert energy(place, "feeder")["F0", "2016-01-04T12:00:00Z"] == (0.5, 1)
    place.hub.append("grid.network", as_of("2016-01-03"))
    for _ in range(3):
        place.sum()
        place.revise()
    told = energy(place)
    assert told["T0", "2016-01-04T12:00:00Z"] == (0.5, 1)
    assert told["T1", "2016-01-04T12:00:00Z"] == (0.0, 0)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(one_row.map(shared), max_size=20), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3),
    st.integers(1, 8), st.sampled_from(sorted(POINTS)), st.sampled_from(["T0", "T1", ""]), st.booleans(),
)  # fmt: skip
def test_models_and_readings_may_come_in_any_order(
    given_rows: list[Row], days: int, rounds: int, at: int, day: int, point: str, to: str, in_parts: bool
) -> None:
    """With readings shared by transformers a usage point must stay under those of its partition, see decision 61."""
    to = POINTS[point][0] if in_parts and to else to
    later = as_of(f"2016-01-{day:02d}", **{point: to})
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(feeder_sums, "DAYS", 3)
        place = Place(Path(name))
        place.hub.shared = in_parts
        step = max(1, -(-len(given_rows) // rounds))
        parts = [given_rows[begin : begin + step] for begin in range(0, len(given_rows), step)]
        parts.insert(min(at, len(parts)), [])
        for number, part in enumerate(parts):
            if number == min(at, len(parts) - 1):
                place.hub.append("grid.network", later)
            fill(place, part)
            for _ in range(3):
                place.sum(days)
                place.capture()
                place.revise()
        for kind in ("transformer", "feeder"):
            found, expected = (
                {key: fact for key, fact in values(facts).items() if fact["count"]}
                for facts in (place.told(kind), all_in_time(given_rows, kind, later))
            )
            assert found == expected


def test_readings_of_a_usage_point_that_was_forgotten_count_when_a_model_of_the_past_has_it(place: Place) -> None:
    place.hub.log["grid.network", 0].clear()
    place.hub.append("grid.network", as_of("2015-12-01", U2=""))
    fill(place, [(0, "U0", OLD, 3, 0, ""), (0, "U2", OLD, 5, 0, ""), (1, "U4", NEW, 1, 0, "")])
    place.sum()
    place.capture()
    assert energy(place)["T0", "2016-01-01T12:00:00Z"] == (0.3, 1)
    assert len(place.hub.events("quarantine")) == 1
    place.hub.append("grid.network", as_of("2015-12-15"))
    place.sum()
    place.revise()
    assert energy(place)["T0", "2016-01-01T12:00:00Z"] == (0.8, 2)


def test_a_model_of_now_leaves_the_past_alone(place: Place) -> None:
    fill(place, [(0, "U0", OLD, 3, 0, ""), (1, "U4", NEW, 1, 0, "")])
    place.sum()
    place.hub.append("grid.network", as_of("2016-01-09", U0="T1"))
    place.sum()
    assert place.hub.events("grid.late") == []
