"""Network models in SQL: versions and places as `NetworkLog` has them, out of the captured events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from gridwire.broker.port import ColumnBatch
from gridwire.capture.decoders import events as decode_events
from gridwire.capture.delta import TableWriter
from gridwire.capture.sql import query
from gridwire.columnar.decode import decode
from gridwire.core import batch
from gridwire.core.batch import Event
from gridwire.core.hubs import NETWORK
from gridwire.grid import network as net
from gridwire.grid.network_log import NetworkLog
from gridwire.grid.network_parts import to_events

BEGINNING, END = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
START = datetime(2026, 1, 1, tzinfo=UTC)
Row = tuple[str, str, str, datetime, datetime]


def day(number: int) -> str:
    return (START + timedelta(days=number)).strftime("%Y-%m-%dT%H:%M:%SZ")


def model(places: list[int | None], since: int | None, name: str = "town") -> net.Network:
    return net.Network(
        name=name,
        transformers=tuple(net.Transformer(id=f"T{t}") for t in range(3)),
        feeders=tuple(net.Feeder(id=f"F{t}", transformer=f"T{t}") for t in range(3)),
        usage_points=tuple(
            net.UsagePoint(id=f"U{n}", transformer=f"T{t}", feeder=f"F{t}")
            for n, t in enumerate(places)
            if t is not None
        ),
        valid_from="" if since is None else day(since),
    )  # fmt: skip


def columns_of(values: list[tuple[bytes, int]]) -> ColumnBatch:
    """Events of a day each."""
    told = [
        Event(value, b"network", (), int((START + timedelta(days=at)).timestamp() * 1000), n)
        for n, (value, at) in enumerate(values)
    ]
    data = bytes(batch.encode(told, base_offset=0))
    [columns] = decode(data, 0, len(data), from_offset=0).columns
    return ColumnBatch(NETWORK, 0, columns, len(values))


def captured(lake: Path, values: list[tuple[bytes, int]]) -> None:
    writer = TableWriter(lake, NETWORK, UUID(int=1))
    rows: pa.RecordBatch = decode_events(columns_of(values))
    writer.append([rows], {0: len(values)})
    writer.close()


def places_of(values: list[tuple[bytes, int]], models: dict[bytes, net.Network]) -> list[Row]:
    """By the log of models, in plain Python."""
    networks = NetworkLog()
    networks.feed(columns_of(values))
    times = [START.fromtimestamp(v.valid_from_us / 1e6, UTC) for v in networks.versions]
    bounds = [BEGINNING, *times[1:], END]
    stays: dict[str, list[Row]] = {}
    for number, version in enumerate(networks.versions):
        for point in models[version.digest].usage_points:
            mine = stays.setdefault(point.id, [])
            place = (point.id, point.transformer, point.feeder)
            if mine and mine[-1][:3] == place and mine[-1][4] == bounds[number]:
                mine[-1] = (*place, mine[-1][3], bounds[number + 1])
            else:
                mine.append((*place, bounds[number], bounds[number + 1]))
    return sorted(row for rows in stays.values() for row in rows)


histories = st.lists(
    st.tuples(
        st.lists(st.sampled_from([0, 1, 2, None]), min_size=3, max_size=3), st.none() | st.integers(0, 9),
        st.integers(0, 9), st.sampled_from(["whole", "parts", "broken", "junk"]),
    ),
    min_size=1, max_size=6,
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(histories)
def test_places_are_those_of_the_log(history: list[tuple[list[int | None], int | None, int, str]]) -> None:
    values: list[tuple[bytes, int]] = []
    models: dict[bytes, net.Network] = {}
    for number, (places, since, at, how) in enumerate(history):
        found = model(places, since, f"model {number}")
        parts = list(to_events(found, 4_100)) if how in ("parts", "broken") else [net.to_json(found)]
        models[net.digest(found)] = found
        if how == "junk":
            values += [(b"\xff", at), (b"[]", at), (b"null", at), (b'{"usage_points": 1}', at)]
        else:
            values += [(part, at) for part in (parts[:-1] if how == "broken" and len(parts) > 1 else parts)]
    networks = NetworkLog()
    networks.feed(columns_of(values))
    whole = {v.digest for v in networks.versions}
    for found in list(models.values()):
        # A model in parts has the digest of its events, whatever they say of its time.
        assembled = NetworkLog()
        assembled.feed(columns_of([(part, 0) for part in to_events(found, 4_100)]))
        models |= {v.digest: found for v in assembled.versions}
    assert whole <= models.keys()
    with TemporaryDirectory() as name:
        captured(Path(name), values)
        rows = query(Path(name), "SELECT * FROM usage_point_places").rows
    assert sorted(rows) == places_of(values, models)


def test_versions_tell_times_and_counts(tmp_path: Path) -> None:
    told = [(model([0, 0, 1], 0), 0), (model([0, 1, 1], 5), 1), (model([0, 1, 2], 3), 2), (model([0, 1], None), 6)]
    captured(tmp_path, [(net.to_json(found), at) for found, at in told])
    result = query(tmp_path, "SELECT * FROM network_versions")
    rows: list[dict[str, Any]] = [dict(zip(result.columns, row, strict=True)) for row in result.rows]
    days = [None if row["valid_to"] is None else (row["valid_to"] - START).days for row in rows]
    assert [(row["offset"], (row["valid_from"] - START).days, row["in_effect"]) for row in rows] == [
        (0, 0, True), (1, 5, False), (2, 3, True), (3, 6, True),
    ]  # fmt: skip
    assert days == [3, None, 6, None]
    assert [(row["transformers"], row["feeders"], row["usage_points"]) for row in rows[-2:]] == [(3, 3, 3), (3, 3, 2)]


def test_readings_are_joined_with_the_place_of_their_time(tmp_path: Path) -> None:
    captured(tmp_path, [(net.to_json(model([0], 0)), 0), (net.to_json(model([2], 3)), 3)])
    times = [START + timedelta(days=3, minutes=15 * n) for n in (0, 1)]
    rows = {
        "partition": pa.array([0, 0], pa.int32()), "offset": pa.array([0, 1], pa.int64()),
        "usage_point": pa.array(["U0", "U0"]), "ts_end": pa.array(times, pa.timestamp("us", "UTC")),
        "interval_s": pa.array([900, 900], pa.int32()),
    }  # fmt: skip
    writer = TableWriter(tmp_path, "measured", UUID(int=2))
    writer.append([pa.record_batch(rows)], {0: 2})
    writer.close()
    joined = query(
        tmp_path,
        "SELECT p.transformer FROM measured m JOIN usage_point_places p ON p.usage_point = m.usage_point "
        "AND m.ts_end - to_seconds(m.interval_s) >= p.valid_from AND m.ts_end - to_seconds(m.interval_s) < p.valid_to "
        "ORDER BY m.ts_end",
    )
    assert joined.rows == [("T0",), ("T2",)]


def test_a_lake_without_models_has_no_views_of_them(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, "other", UUID(int=2))
    row = {"partition": pa.array([0], pa.int32()), "offset": pa.array([0], pa.int64()), "x": pa.array([1])}
    writer.append([pa.record_batch(row)], {0: 1})
    writer.close()
    assert query(tmp_path, "SHOW TABLES").rows == [("other",)]
