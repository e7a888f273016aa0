"""Readings in, facts and rejected readings out: the pipeline without a hub."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from gridwire.broker.port import ColumnBatch, Output
from gridwire.columnar.decode import decode
from gridwire.core import batch
from gridwire.core.batch import Event
from gridwire.grid.facts import FactWriter
from gridwire.grid.loads import LoadsPipeline, LoadsSettings, fingerprint, rows_between
from gridwire.grid.network import Feeder, Network, Transformer, UsagePoint
from gridwire.grid.placements import Timeline
from gridwire.grid.state import GENERATION_STEP, Facts, LoadState, UnsupportedInterval
from gridwire.grid.validate import Rules

NETWORK = Network(
    name="small",
    transformers=(Transformer(id='Tra"fo 1', rated_kva=160.0), Transformer(id="T2")),
    feeders=(Feeder(id="F1", transformer='Tra"fo 1'), Feeder(id="F2")),
    usage_points=(
        UsagePoint(id="LV1.101 Läst 1", transformer='Tra"fo 1', feeder="F1", expects=("import_kwh", "export_kwh")),
        UsagePoint(id="B", transformer='Tra"fo 1', feeder="F1", expects=("import_kwh", "voltage_l1_v")),
        UsagePoint(id="C", transformer="T2", feeder="F2"),
    ),
)
NOW_MS = 1_700_000_000_000


def columns(values: list[bytes | None], partition: int = 0, base_offset: int = 0) -> list[ColumnBatch]:
    events = [Event(value, b"key", (), NOW_MS) for value in values]
    data = bytes(batch.encode(events, base_offset=base_offset))
    (found,) = decode(data, 0, len(data), from_offset=0).columns
    return [ColumnBatch("readings", partition, found, base_offset + len(values))]


def reading(point: str = "B", value: str = "0.213", **more: Any) -> bytes:
    fields: dict[str, Any] = {
        "usage_point": point, "ts_end": "2016-01-01T00:15:00Z", "interval_s": 900, "reading_type": "import_kwh",
    }  # fmt: skip
    return json.dumps(fields | more)[:-1].encode() + b',"value":' + value.encode() + b"}"


def outputs(pipeline: LoadsPipeline, partitions: int = 2) -> list[Output]:
    return pipeline.outputs(NOW_MS, lambda hub: partitions)


def facts(found: list[Output], hub: str = "grid.transformers") -> list[dict[str, Any]]:
    return [json.loads(event.value or b"") for output in found if output.hub == hub for event in output.events]


def quarantine(found: list[Output]) -> list[tuple[dict[str, str], Event]]:
    return [
        ({name: (value or b"").decode() for name, value in event.headers}, event)
        for output in found
        if output.hub == "quarantine"
        for event in output.events
    ]


def test_a_fact_of_a_transformer_and_of_its_feeder() -> None:
    pipeline = LoadsPipeline(NETWORK)
    pipeline.take(
        columns([reading("LV1.101 Läst 1", "2.05"), reading("B", "1.05"),
                 reading("LV1.101 Läst 1", "0.4", reading_type="export_kwh", ts_end="2016-01-01T01:15:00+01:00")])
    )  # fmt: skip
    found = outputs(pipeline)
    fact = {
        "ts_end": "2016-01-01T00:15:00Z", "interval_s": 900, "import_kwh": 3.1, "export_kwh": 0.4, "load_kw": 10.8,
        "count": 3, "expected": 3, "max_kw": 8.2, "peak_kw": 10.8, "peak_at": "2016-01-01T00:15:00Z",
        "rated_kva": 160.0, "version": 2,
    }  # fmt: skip
    assert facts(found) == [{"transformer": 'Tra"fo 1', **fact}]
    assert facts(found, "grid.feeders") == [{"feeder": "F1", "transformer": 'Tra"fo 1', **fact}]
    (output,) = (output for output in found if output.hub == "grid.transformers")
    assert (output.partition, output.events[0].key, output.events[0].timestamp) == (0, b'Tra"fo 1', NOW_MS)


def test_a_unit_without_a_transformer_above_or_a_rating() -> None:
    pipeline = LoadsPipeline(NETWORK)
    pipeline.take(columns([reading("C")]))
    found = outputs(pipeline)
    (fact,) = facts(found, "grid.feeders")
    assert "transformer" not in fact
    assert fact["rated_kva"] == 0
    assert {(output.hub, output.partition) for output in found} == {("grid.transformers", 1), ("grid.feeders", 1)}


def test_corrections_repeats_and_versions() -> None:
    pipeline = LoadsPipeline(NETWORK)
    told = []
    for value, more in (("1", {}), ("1.000", {}), ("2", {}), ("3", {"version": 2}), ("9", {"version": 1}), ("4", {})):
        pipeline.take(columns([reading("C", value, **more)]))
        told.append([(fact["import_kwh"], fact["version"]) for fact in facts(outputs(pipeline))])
    # A repeat changes nothing; what is superseded by a higher version neither.
    assert told == [[(1.0, 0)], [], [(2.0, 2)], [(3.0, 3)], [], []]
    counters = pipeline.counters()
    names = ("new", "replaced", "duplicate", "superseded")
    assert [counters[f"readings_{name}"] for name in names] == [1, 2, 1, 2]


def test_the_peak_of_the_day_and_where_it_was() -> None:
    pipeline = LoadsPipeline(NETWORK)
    told = []
    for ts_end, value in (("00:15", "1"), ("00:30", "3"), ("00:45", "2"), ("00:30", "0.5"), ("00:00", "0")):
        pipeline.take(columns([reading("C", value, ts_end=f"2016-01-02T{ts_end}:00Z")]))
        (fact,) = facts(outputs(pipeline))
        told.append((fact["peak_kw"], fact["peak_at"][11:16]))
    assert told == [(4.0, "00:15"), (12.0, "00:30"), (12.0, "00:30"), (8.0, "00:45"), (8.0, "00:45")]


def test_rejected_readings_are_quarantined_as_they_came() -> None:
    pipeline = LoadsPipeline(NETWORK)
    bad: list[bytes | None] = [
        b'{"usage_point":', b"\xff\x00", None, reading("nobody"), reading(reading_type="bananas"),
        reading(ts_end="2016-01-01T00:16:00Z"), reading(value="-1"), reading(value="100000"), reading(interval_s=0),
        reading(ts_end="2098-01-01T00:15:00Z"), reading(version=-1), reading(""),
    ]  # fmt: skip
    pipeline.take(columns([*bad, reading()], partition=3, base_offset=100))
    found = outputs(pipeline)
    held = quarantine(found)
    assert [event.value for _, event in held] == bad
    assert [headers["source"] for headers, _ in held] == [f"readings/3@{100 + i}" for i in range(len(bad))]
    assert {headers["format"] for headers, _ in held} == {"reading"}
    assert [headers["reason"].split(":")[0] for headers, _ in held] == [
        "malformed", "malformed", "malformed", "unknown_usage_point", "unknown_reading_type", "misaligned",
        "negative_value", "implausible_value", "bad_interval", "from_the_future", "bad_version", "unknown_usage_point",
    ]  # fmt: skip
    assert "malformed JSON" in held[0][0]["reason"]
    assert {event.key for _, event in held} == {b"key"}
    assert len(facts(found)) == 1
    assert {output.partition for output in found if output.hub == "quarantine"} == {1}
    assert quarantine(outputs(pipeline)) == []


def test_a_reading_older_than_the_window() -> None:
    pipeline = LoadsPipeline(NETWORK, LoadsSettings(days=1))
    pipeline.take(columns([reading("C", ts_end="2016-01-02T00:00:00Z"), reading("C", ts_end="2016-01-01T23:45:00Z")]))
    found = outputs(pipeline)
    assert [headers["reason"] for headers, _ in quarantine(found)] == ["too_old"]
    assert [fact["ts_end"] for fact in facts(found)] == ["2016-01-02T00:00:00Z"]
    assert pipeline.counters()["rejected_too_old"] == 1


def test_a_day_that_leaves_within_a_commit_is_told_first() -> None:
    pipeline = LoadsPipeline(NETWORK, LoadsSettings(days=1))
    pipeline.take(columns([reading("C", "1"), reading("C", "2", ts_end="2016-01-03T00:15:00Z")]))
    told = [(fact["ts_end"][:10], fact["import_kwh"]) for fact in facts(outputs(pipeline))]
    assert told == [("2016-01-01", 1.0), ("2016-01-03", 2.0)]


def test_a_flood_is_bounded_and_told() -> None:
    pipeline = LoadsPipeline(NETWORK, LoadsSettings(quarantine_events_max=2))
    pipeline.take(columns([reading("nobody"), b"?", b"?", reading("nobody"), b"?"], partition=1, base_offset=7))
    held = quarantine(outputs(pipeline))
    assert [headers["format"] for headers, _ in held] == ["reading", "reading", "summary"]
    headers, event = held[-1]
    assert headers["source"] == "readings/1@9-11"
    assert headers["reason"].startswith("flood: 3 more")
    assert json.loads(event.value or b"") == {
        "hub": "readings", "partition": 1, "first_offset": 9, "last_offset": 11, "count": 3,
        "reasons": {"malformed": 2, "unknown_usage_point": 1},
    }  # fmt: skip
    counters = pipeline.counters()
    assert (counters["rejected_malformed"], counters["rejected_unknown_usage_point"]) == (3, 2)
    assert (counters["quarantined"], counters["quarantine_overflow"]) == (2, 3)
    pipeline.take(columns([b"?"], base_offset=20))
    assert len(quarantine(outputs(pipeline))) == 1, "the bound is for each commit"


@pytest.mark.parametrize(("size", "format"), [(1_000_000, "reading"), (1_100_000, "summary")])
def test_a_huge_rejected_reading_is_told_but_not_copied(size: int, format: str) -> None:
    pipeline = LoadsPipeline(NETWORK)
    pipeline.take(columns([b"x" * size]))
    ((headers, _),) = quarantine(outputs(pipeline))
    assert headers["format"] == format


def test_valid_readings_that_are_not_summed_are_counted() -> None:
    pipeline = LoadsPipeline(NETWORK)
    pipeline.take(columns([reading(reading_type="voltage_l1_v", value="230.1"), reading(interval_s=300), reading()]))
    assert pipeline.counters()["readings_not_summed"] == 2
    assert len(facts(outputs(pipeline))) == 1


def test_a_rebuild_publishes_nothing() -> None:
    pipeline = LoadsPipeline(NETWORK, LoadsSettings(days=1))
    pipeline.take(columns([reading("C"), b"?", reading("C", ts_end="2016-01-05T00:15:00Z")]), publish=False)
    pipeline.state.forget_changes()
    assert outputs(pipeline) == []
    assert pipeline.counters()["rejected_malformed"] == 1


def test_a_generation_lifts_the_versions() -> None:
    pipeline = LoadsPipeline(NETWORK, generation=3)
    pipeline.take(columns([reading("C")]))
    assert [fact["version"] for fact in facts(outputs(pipeline))] == [3 * GENERATION_STEP]


def test_a_snapshot_keeps_the_counts() -> None:
    pipeline, copy = LoadsPipeline(NETWORK), LoadsPipeline(NETWORK)
    pipeline.take(columns([reading("C"), b"?", reading(interval_s=300)]))
    outputs(pipeline)
    copy.from_arrays(pipeline.to_arrays() | pipeline.pieces())
    for name in ("readings_new", "readings_not_summed", "rejected_malformed"):
        assert copy.counters()[name] == pipeline.counters()[name] == 1


def test_the_fingerprint_tells_models_and_settings_apart() -> None:
    other = Network(name="x", transformers=(), feeders=(), usage_points=())
    settings = [LoadsSettings(), LoadsSettings(days=3), LoadsSettings(rules=Rules(future_s=1))]
    assert len({fingerprint(network, s) for network in (NETWORK, other) for s in settings}) == 6


def test_a_network_without_usage_points_rejects_everything() -> None:
    pipeline = LoadsPipeline(Network(name="empty", transformers=(), feeders=(), usage_points=()))
    pipeline.take(columns([reading()]))
    assert [headers["reason"] for headers, _ in quarantine(outputs(pipeline))] == ["unknown_usage_point"]


def test_an_interval_that_does_not_divide_a_day() -> None:
    odd = Network(name="odd", transformers=(), feeders=(), usage_points=(), interval_s=7_000)
    with pytest.raises(UnsupportedInterval, match="7000"):
        LoadState(Timeline.of(odd))


def test_power_of_an_interval_longer_than_an_hour() -> None:
    def one(value: int) -> Any:
        return np.array([value], np.int64)

    slow = Network(name="slow", transformers=(Transformer(id="T"),), feeders=(), usage_points=(), interval_s=21_600)
    table = Facts(
        "transformer", one(0), one(4), one(12_000_000), one(0), one(1).astype(np.int32), one(6_000_000),
        one(12_000_000), one(4), one(0), one(0), one(0).astype(np.int32),
    )  # fmt: skip
    (event,) = FactWriter(Timeline.of(slow)).events(table, NOW_MS)
    fact = json.loads(event.value or b"")
    assert (fact["load_kw"], fact["max_kw"], fact["ts_end"]) == (2.0, 1.0, "1970-01-02T00:00:00Z")


def test_rows_between_offsets() -> None:
    found = columns([b"a", b"b", b"c"], base_offset=5)[0].columns
    assert rows_between(found, 0, 100) is found
    assert rows_between(found, 6, 7).offsets.tolist() == [6]
    assert len(rows_between(found, 8, 9)) == 0


def at(day: int) -> bytes:
    return reading("C", ts_end=f"2016-01-{day:02d}T12:00:00Z")


def test_a_backlog_is_applied_day_by_day_over_all_partitions() -> None:
    pipeline = LoadsPipeline(NETWORK)
    days = list(range(1, 11))
    first, second = columns([at(day) for day in days]), columns([at(day) for day in days], partition=1)
    assert pipeline.take([*first, *second]) == {("readings", 0): 10, ("readings", 1): 10}
    assert pipeline.counters()["rejected_too_old"] == 0
    one_by_one = LoadsPipeline(NETWORK)
    one_by_one.take(first)
    one_by_one.take(second)
    assert one_by_one.counters()["rejected_too_old"] == 8, "without the merge most of the second partition is lost"


@pytest.mark.parametrize("day", [1, 2])
def test_facts_of_two_days_come_in_the_order_of_time(day: int) -> None:
    """The days lie in a ring: for every other midnight the newer one lies before the older one."""
    times = [f"2016-01-{day:02d}T23:45:00Z", f"2016-01-{day + 1:02d}T00:00:00Z", f"2016-01-{day + 1:02d}T00:15:00Z"]
    pipeline = LoadsPipeline(NETWORK)
    pipeline.take(columns([reading("C", ts_end=time) for time in times]))
    assert [fact["ts_end"] for fact in facts(outputs(pipeline))] == times


def test_a_partition_waits_for_one_with_more_backlog() -> None:
    pipeline = LoadsPipeline(NETWORK)
    slow = ("readings", 1)
    first = columns([at(1), b"?", at(2), b"?", at(3), at(4), at(2)], base_offset=100)
    positions = pipeline.take([*first, *columns([at(1), at(2)], partition=1)], behind=[slow])
    # Two days in the window: the second and the third, so partition 0 may not open the fourth.
    assert positions == {("readings", 0): 105, slow: 2}
    rest = columns([at(4), at(2)], base_offset=105)
    assert pipeline.take([*rest, *columns([at(3), at(4)], partition=1, base_offset=2)]) == {
        ("readings", 0): 107, slow: 4,
    }  # fmt: skip
    counters = pipeline.counters()
    assert (counters["rejected_too_old"], counters["rejected_malformed"]) == (1, 2)
    assert [headers["source"] for headers, _ in quarantine(outputs(pipeline))] == [
        "readings/0@101", "readings/0@103", "readings/0@106",
    ]  # fmt: skip
