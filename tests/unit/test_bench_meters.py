"""The readings the burst and the day are measured with: every usage point once, in the partition of its transformer."""

import sys
from collections import Counter
from pathlib import Path

import orjson
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import meters
from gridwire.core import batch
from gridwire.grid.network import check
from gridwire.wire.kafka.produce import decode_produce

TS_END_S = 1_767_572_100


def sent(points, partitions):
    """(partition, key, reading) of every event of every frame, and the frames."""
    frames = list(meters.frames(points, TS_END_S, partitions))
    events = []
    for frame in frames:
        told = decode_produce(7, memoryview(frame.data), 4 + 8 + 2 + len("bench"))
        ((name, ((partition, records),)),) = told.topics
        assert name == "readings"
        events += [(partition, event.key.decode(), orjson.loads(event.value)) for event in batch.decode(records)]
    return events, frames


@pytest.mark.parametrize(("points", "partitions"), [(50, 1), (120, 3), (20_000, 2)])
def test_every_usage_point_once(points, partitions):
    events, frames = sent(points, partitions)
    model = meters.network(points)
    check(model)
    assert {row["usage_point"]: key for _, key, row in events} == {u.id: u.transformer for u in model.usage_points}
    assert len(events) == points == sum(frame.count for frame in frames)
    assert sum(round(row["value"] * 1000) for _, _, row in events) == sum(frame.watt_hours for frame in frames)
    assert {(row["ts_end"], row["interval_s"]) for _, _, row in events} == {("2026-01-05T00:15:00Z", 900)}
    places = Counter({(partition, key) for partition, key, _ in events})
    assert len({key for _, key in places}) == len(places), "a transformer has one partition"
