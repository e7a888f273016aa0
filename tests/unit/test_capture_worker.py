from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from uuid import UUID

import pytest
from deltalake import DeltaTable

from gridwire.broker.port import ColumnBatch, Output, Place, Position
from gridwire.capture.decoders import events
from gridwire.capture.delta import TableWriter
from gridwire.capture.worker import Totals, run
from gridwire.columnar.decode import decode
from gridwire.core.batch import Event, encode
from gridwire.core.clock import ManualClock
from gridwire.core.errors import FencedEpoch, InvalidSetting, StorageFailed, Unavailable


class Hub:
    """A hub in memory whose sources behave as the real ones: they clamp to what is kept and notice recreation."""

    def __init__(self, *names: str) -> None:
        self.ids = {name: UUID(int=number + 1) for number, name in enumerate(names)}
        self.log: dict[Place, list[bytes]] = {(name, 0): [] for name in names}
        self.start: dict[Place, int] = {}
        self.committed: dict[Place, int] = {}
        self.notes: dict[Place, str] = {}
        self.opened = 0

    def send(self, name: str, count: int, partition: int = 0) -> None:
        log = self.log.setdefault((name, partition), [])
        log += [f"{name}/{partition}@{len(log) + n}".encode() for n in range(count)]

    def recreate(self, name: str, hub_id: int) -> None:
        self.ids[name] = UUID(int=hub_id)
        self.log[name, 0] = []


class Source:
    """One connection to a `Hub`; `fail` is asked before every operation."""

    group = "capture"

    def __init__(self, hub: Hub, fail: Callable[[str], None]) -> None:
        hub.opened += 1
        self._hub, self._fail = hub, fail
        self._positions = {place: hub.committed.get(place, 0) for place in hub.log}
        self._ids = dict(hub.ids)

    def hub_id(self, hub: str) -> UUID:
        return self._ids[hub]

    def partitions(self, hub: str) -> int:
        return sum(name == hub for name, _ in self._positions)

    whole_hubs = True

    def assigned(self) -> dict[Place, int]:
        return dict.fromkeys(self._positions, 0)

    def committed(self) -> dict[Place, Position]:
        return {place: Position(at, self._hub.notes.get(place, "")) for place, at in self._hub.committed.items()}

    def positions(self) -> dict[Place, int]:
        return dict(self._positions)

    def seek(self, place: Place, offset: int) -> None:
        self._positions[place] = offset

    def poll(self, timeout_s: float, bytes_max: int = 0) -> list[ColumnBatch]:
        self._fail("poll")
        if self._ids != self._hub.ids or self._positions.keys() != self._hub.log.keys():
            self._ids = dict(self._hub.ids)
            self._positions = {place: self._positions.get(place, 0) for place in self._hub.log}
            return []
        found = []
        for (name, partition), asked in self._positions.items():
            position = max(asked, self._hub.start.get((name, partition), 0))
            values = self._hub.log[name, partition][position:]
            if values:
                data = bytes(encode([Event(value, timestamp=5) for value in values], base_offset=position))
                (columns,) = decode(data, 0, len(data), from_offset=position).columns
                found.append(ColumnBatch(name, partition, columns, position + len(values)))
                self._positions[name, partition] = position + len(values)
        return found

    def commit(self, positions: Mapping[Place, int], outputs: Sequence[Output] = (), note: str = "") -> None:
        self._fail("commit")
        self._hub.committed |= positions
        self._hub.notes |= dict.fromkeys(positions, note)

    def lag(self) -> dict[Place, int]:
        return {}

    def close(self) -> None:
        self._fail("close")


def captured(lake: Path, table: str) -> list[tuple[int, int, bytes]]:
    rows = DeltaTable(str(lake / table)).to_pyarrow_table(columns=["partition", "offset", "value"])
    return sorted(zip(*(rows[name].to_pylist() for name in rows.column_names), strict=True))


def script(hub: Hub, lake: Path, *turns: Callable[[], None], names: Sequence[str] = ("a",), **options: float) -> Totals:
    """Run capture with one turn before each poll; it is stopped after the last."""
    stop, left = threading.Event(), list(turns)

    def fail(operation: str) -> None:
        if operation == "poll":
            if left:
                left.pop(0)()
            if not left:
                stop.set()

    decoders = dict.fromkeys(names, events)
    return run(lambda: Source(hub, fail), lake, decoders, stop, **({"flush_s": 0.0} | options))  # type: ignore[arg-type]


def nothing() -> None:
    return


def test_events_are_captured_and_the_group_follows(tmp_path: Path) -> None:
    hub = Hub("a")
    hub.send("a", 3)
    hub.send("a", 2, partition=1)
    totals = script(hub, tmp_path, nothing)
    assert captured(tmp_path, "a") == [
        (0, 0, b"a/0@0"), (0, 1, b"a/0@1"), (0, 2, b"a/0@2"), (1, 0, b"a/1@0"), (1, 1, b"a/1@1"),
    ]  # fmt: skip
    assert (totals.rows, totals.commits, totals.lost_events) == (5, 1, 0)
    assert hub.committed == {("a", 0): 3, ("a", 1): 2}


def test_the_table_not_the_group_decides_where_to_read_on(tmp_path: Path) -> None:
    hub = Hub("a")
    hub.send("a", 3)
    script(hub, tmp_path, nothing)
    for wrong in (0, 99):
        hub.committed["a", 0] = wrong
        hub.send("a", 2)
        script(hub, tmp_path, nothing)
    assert [offset for _, offset, _ in captured(tmp_path, "a")] == list(range(7))
    assert hub.committed == {("a", 0): 7}


def test_events_wait_for_their_age_and_are_then_written(tmp_path: Path) -> None:
    hub, clock, commits = Hub("a"), ManualClock(), []
    hub.send("a", 1)

    def later(seconds: float) -> Callable[[], None]:
        def turn() -> None:
            commits.append(dict(hub.committed))
            clock.advance(seconds)
            hub.send("a", 1)

        return turn

    script(hub, tmp_path, later(0), later(3), later(3), later(0), flush_s=5.0, clock=clock)  # type: ignore[arg-type]
    assert commits == [{}, {}, {}, {("a", 0): 4}]
    assert len(captured(tmp_path, "a")) == 5, "what was gathered is written before it stops"


def test_events_do_not_wait_when_they_are_too_many(tmp_path: Path) -> None:
    hub, seen = Hub("a", "b"), []
    hub.send("a", 2000)
    hub.send("b", 1)
    look = lambda: seen.append(dict(hub.committed))  # noqa: E731
    script(hub, tmp_path, nothing, look, names="ab", flush_s=3600.0, flush_bytes=9000)
    assert seen == [{("a", 0): 2000}], "the largest table first, and no other without need"
    assert len(captured(tmp_path, "b")) == 1


def test_capture_outlives_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridwire.capture.worker.RETRY_S", (0.0,))
    hub = Hub("a")

    def gone() -> None:
        hub.send("a", 2)
        raise Unavailable("the hub does not answer")

    def more() -> None:
        hub.send("a", 1)

    totals = script(hub, tmp_path, more, gone, gone, more, flush_s=3600.0)
    assert totals.reopened == 2
    assert [offset for _, offset, _ in captured(tmp_path, "a")] == list(range(6))


def test_a_hub_lost_between_table_and_commit_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridwire.capture.worker.RETRY_S", (0.0,))
    hub, stop, commits = Hub("a"), threading.Event(), []
    hub.send("a", 4)

    def fail(operation: str) -> None:
        if operation == "close" and len(commits) == 1:
            raise Unavailable("gone")
        if operation == "poll" and commits:
            hub.send("a", 1)
        if operation == "commit":
            commits.append(operation)
            if len(commits) == 1:
                raise Unavailable("gone")
            if len(commits) == 3:  # the second one only repeats, on opening, what the first was to say
                stop.set()

    run(lambda: Source(hub, fail), tmp_path, {"a": events}, stop, flush_s=0.0)
    assert [offset for _, offset, _ in captured(tmp_path, "a")] == list(range(5))


def test_a_full_disk_is_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridwire.capture.worker.RETRY_S", (0.0,))
    hub, whole, refusals = Hub("a"), TableWriter.append, iter([True, True, False])
    hub.send("a", 4)

    def full(self: TableWriter, *arguments: object) -> int:
        if next(refusals, False):
            raise StorageFailed("no space left on device")
        return whole(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(TableWriter, "append", full)
    totals = script(hub, tmp_path, nothing, nothing, nothing, nothing)
    assert (totals.reopened, len(captured(tmp_path, "a"))) == (2, 4)


def test_a_newer_owner_ends_it_and_the_lock_is_free(tmp_path: Path) -> None:
    hub = Hub("a")
    hub.send("a", 1)

    def fail(operation: str) -> None:
        if operation == "commit":
            raise FencedEpoch("a newer capture worker took over")

    with pytest.raises(FencedEpoch):
        run(lambda: Source(hub, fail), tmp_path, {"a": events}, threading.Event(), flush_s=0.0)
    assert script(hub, tmp_path, lambda: hub.send("a", 1)).rows == 1
    assert len(captured(tmp_path, "a")) == 2


def test_events_deleted_before_they_were_captured_are_counted(tmp_path: Path) -> None:
    hub = Hub("a")
    hub.send("a", 10)
    hub.start["a", 0] = 4
    assert script(hub, tmp_path, nothing).lost_events == 4
    hub.send("a", 10)
    hub.start["a", 0] = 13
    assert script(hub, tmp_path, nothing).lost_events == 3
    assert [offset for _, offset, _ in captured(tmp_path, "a")] == [*range(4, 10), *range(13, 20)]


def test_a_hub_created_anew_gets_a_table_of_its_own(tmp_path: Path) -> None:
    hub = Hub("a")
    hub.send("a", 5)

    def recreate() -> None:
        hub.recreate("a", 77)
        hub.committed.clear()
        hub.send("a", 2)

    script(hub, tmp_path, nothing, recreate, nothing, flush_s=3600.0)
    (old,) = tmp_path.glob("a@*-00000000")
    assert len(captured(tmp_path, old.name)) == 5, "what was read of the old hub went into the old table"
    assert captured(tmp_path, "a") == [(0, 0, b"a/0@0"), (0, 1, b"a/0@1")]
    assert hub.committed == {("a", 0): 2}


def test_partitions_that_are_added_are_captured_too(tmp_path: Path) -> None:
    hub = Hub("a")
    hub.send("a", 1)
    script(hub, tmp_path, nothing, lambda: hub.send("a", 2, partition=1), nothing)
    assert [(p, o) for p, o, _ in captured(tmp_path, "a")] == [(0, 0), (1, 0), (1, 1)]


def test_hubs_nobody_asked_for_are_left_alone(tmp_path: Path) -> None:
    hub = Hub("a", "b")
    hub.send("a", 1)
    hub.send("b", 1)
    script(hub, tmp_path, nothing)
    assert not (tmp_path / "b").exists()


def test_a_hub_with_fewer_events_than_its_table_adds_no_row_twice(tmp_path: Path) -> None:
    hub = Hub("a")
    hub.send("a", 5)
    script(hub, tmp_path, nothing)
    hub.log["a", 0] = []
    hub.send("a", 3)

    class Behind(Source):
        def seek(self, place: Place, offset: int) -> None:
            self._positions[place] = 0

    stop = threading.Event()
    polls: list[str] = []

    def fail(operation: str) -> None:
        polls.append(operation)
        if len(polls) > 1:
            hub.send("a", 4)
            stop.set()

    run(lambda: Behind(hub, fail), tmp_path, {"a": events}, stop, flush_s=0.0)
    assert [offset for _, offset, _ in captured(tmp_path, "a")] == [0, 1, 2, 3, 4, 5, 6]


def test_workers_of_a_group_that_do_not_share_a_lake_refuse(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    hub = Hub("a")
    hub.send("a", 3)
    script(hub, here, nothing, shared=True)
    hub.send("a", 1)
    with pytest.raises(InvalidSetting, match=r"another lake: partition 0 up to 3 there, up to 0 here.*group reset"):
        script(hub, there, nothing, shared=True)
    assert not DeltaTable.is_deltatable(str(there / "a"))
    script(hub, here, nothing, shared=True)  # the right one goes on
    assert len(captured(here, "a")) == 4
    hub.committed["a", 0], hub.notes["a", 0] = 0, ""  # what `gridwire group reset` does
    script(hub, there, nothing, shared=True)
    assert len(captured(there, "a")) == 4


def test_a_lake_that_was_moved_with_what_it_has_is_gone_on_with(tmp_path: Path) -> None:
    hub = Hub("a")
    hub.send("a", 3)
    script(hub, tmp_path, nothing, shared=True)
    (tmp_path / ".gridwire-lake").unlink()
    hub.send("a", 1)
    script(hub, tmp_path, nothing, shared=True)
    assert len(captured(tmp_path, "a")) == 4


def test_negative_control_one_owner_of_a_hub_begins_a_new_lake(tmp_path: Path) -> None:
    """On an embedded hub the lake is the hub's own, and deleting it is how it is made anew."""
    hub = Hub("a")
    hub.send("a", 3)
    script(hub, tmp_path / "here", nothing)
    script(hub, tmp_path / "there", nothing)
    assert len(captured(tmp_path / "there", "a")) == 3
