"""Captured Avro files: the official schema, names, properties, what is left by a stop at any place."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from uuid import UUID

import fastavro
import pytest

from gridwire.broker.port import ColumnBatch
from gridwire.capture import avro as capture_avro
from gridwire.capture import decoders
from gridwire.capture.avro import SCHEMA, AvroWriter, time_text
from gridwire.capture.layout import Layout, second_of
from gridwire.columnar.decode import decode
from gridwire.config import AVRO_PATH
from gridwire.core.batch import Event, encode
from gridwire.core.errors import Corruption, InvalidName, InvalidSetting, StorageFailed, Unavailable

HUB, FIRST, SECOND = "readings", UUID(int=1), UUID(int=2)
NOON_MS = 1_627_621_200_000  # 2021-07-30 05:00:00 UTC


def rows(events: list[Event], offset: int = 0, partition: int = 0) -> Any:
    data = bytes(encode(events, base_offset=offset))
    decoded = decode(data, 0, len(data), from_offset=offset, hub=HUB, partition=partition)
    return decoders.events(ColumnBatch(HUB, partition, decoded.columns[0], decoded.next_offset))


def writer(root: Path, hub_id: UUID = FIRST, **more: Any) -> AvroWriter:
    return AvroWriter(root, Layout(AVRO_PATH, "ns"), HUB, hub_id, **more)


def files(root: Path) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for path in sorted(root.glob("ns/**/*.avro")):
        with path.open("rb") as file:
            reader = fastavro.reader(file)
            assert reader.codec == "deflate"
            found[str(path.relative_to(root))] = list(reader)
    return found


def test_an_event_as_event_hubs_captures_it(tmp_path: Path) -> None:
    headers = (
        ("content-type", b"application/json"), ("alert", b"Strong Wind"), ("raw", b"\xff"), ("none", None),
        ("amqp.annotation.x-opt-site", b"7"), ("amqp.subject", b"s"), ("amqp.property.amqp.x", b"y"),
    )  # fmt: skip
    events = [Event(b'{"kw":1}', b"m-1", headers, NOON_MS + 1_230), Event(None, b"\xff", (), NOON_MS)]
    out = writer(tmp_path)
    assert out.append([rows(events)], {0: 2}) == 2
    out.close()
    [(path, [first, second])] = files(tmp_path).items()
    assert path == "ns/readings/0/2021/07/30/05/00/01.avro"
    assert first == {
        "SequenceNumber": 0,
        "Offset": "0",
        "EnqueuedTimeUtc": "7/30/2021 5:00:01 AM",
        "SystemProperties": {
            "x-opt-partition-key": "m-1", "content-type": "application/json", "x-opt-site": "7", "subject": "s",
            "x-opt-enqueued-time": NOON_MS + 1_230,
        },
        "Properties": {"alert": "Strong Wind", "raw": b"\xff", "none": "", "amqp.x": "y"},
        "Body": b'{"kw":1}',
    }  # fmt: skip
    assert (second["Body"], second["SystemProperties"]["x-opt-kafka-key"]) == (None, b"\xff")


def test_another_reader_takes_the_files(tmp_path: Path) -> None:
    """The reference implementation, which shares no code with the writer."""
    import avro.datafile
    import avro.io

    out = writer(tmp_path)
    out.append([rows([Event(b"%d" % n, b"k", (("n", b"1"),), NOON_MS) for n in range(10_000)])], {0: 10_000})
    out.close()
    [path] = tmp_path.glob("ns/**/*.avro")
    with avro.datafile.DataFileReader(path.open("rb"), avro.io.DatumReader()) as reader:
        bodies = [each["Body"] for each in reader]
    assert bodies == [b"%d" % n for n in range(10_000)]


def test_windows_of_the_same_second_have_names_of_their_own(tmp_path: Path) -> None:
    out = writer(tmp_path)
    for n in range(3):
        out.append([rows([Event(b"x", timestamp=NOON_MS)], n)], {0: n + 1})
    out.append([rows([Event(b"x", timestamp=NOON_MS - 60_000)], 3)], {0: 4})
    out.close()
    names = [name.removeprefix("ns/readings/0/2021/07/30/") for name in files(tmp_path)]
    assert names == ["04/59/00.avro", "05/00/00.avro", "05/00/01.avro", "05/00/02.avro"]


def test_partitions_and_what_was_captured_already(tmp_path: Path) -> None:
    out = writer(tmp_path)
    one = rows([Event(b"a", timestamp=NOON_MS), Event(b"b", timestamp=NOON_MS)])
    other = rows([Event(b"c", timestamp=NOON_MS)], 0, 1)
    assert out.append([one, other], {0: 2, 1: 1}) == 3
    assert out.append([one], {0: 2}) == 0
    longer = rows([Event(b"b", timestamp=NOON_MS), Event(b"d", timestamp=NOON_MS)], 1)
    assert out.append([longer], {0: 3}) == 1
    out.close()
    again = writer(tmp_path)
    assert (again.position(0), again.position(1), again.position(2)) == (3, 1, None)
    assert again.append([], {1: 5}) == 0  # offsets without events: an aborted transaction
    assert again.position(1) == 5
    again.close()
    bodies = sorted((name.split("/")[2], each["Body"]) for name, events in files(tmp_path).items() for each in events)
    assert bodies == [("0", b"a"), ("0", b"b"), ("0", b"d"), ("1", b"c")]


def test_a_hub_created_anew_touches_no_older_file(tmp_path: Path) -> None:
    for hub_id, body in ((FIRST, b"old"), (SECOND, b"new")):
        out = writer(tmp_path, hub_id)
        assert out.position(0) is None
        out.append([rows([Event(body, timestamp=NOON_MS)])], {0: 1})
        out.close()
    assert [events[0]["Body"] for events in files(tmp_path).values()] == [b"old", b"new"]


@pytest.mark.parametrize("step", ["staged", "recorded", "renamed"])
def test_a_stop_at_any_step_is_put_right(tmp_path: Path, step: str) -> None:
    """Two commits, the second cut short: a staged file must never take the place of a recorded one."""

    class Cut(Exception):
        pass

    armed = False

    def after(done: str) -> None:
        if armed and done == step:
            raise Cut

    out = writer(tmp_path, after=after)
    out.append([rows([Event(b"first", timestamp=NOON_MS)])], {0: 1})
    armed = True
    with pytest.raises(Cut):
        out.append([rows([Event(b"second", timestamp=NOON_MS + 5_000)], 1)], {0: 2})
    out.close()
    again = writer(tmp_path)
    if again.position(0) == 1:
        again.append([rows([Event(b"second", timestamp=NOON_MS + 5_000)], 1)], {0: 2})
    again.close()
    assert [[each["Body"] for each in events] for events in files(tmp_path).values()] == [[b"first"], [b"second"]]
    assert [path.suffix for path in (tmp_path / "@state").iterdir() if path.suffix] == [".json"]


def test_one_writer_a_hub_and_damage_is_said(tmp_path: Path) -> None:
    out = writer(tmp_path)
    with pytest.raises(Unavailable, match="another process"):
        writer(tmp_path)
    out.append([rows([Event(b"x", timestamp=NOON_MS)])], {0: 1})
    out.close()
    (tmp_path / "@state" / f"{FIRST.hex}.json").write_bytes(b"{")
    with pytest.raises(Corruption, match="record"):
        writer(tmp_path)


def test_a_disk_that_refuses(tmp_path: Path) -> None:
    out = writer(tmp_path)
    (tmp_path / "ns").write_bytes(b"in the way")
    with pytest.raises(StorageFailed):
        out.append([rows([Event(b"x", timestamp=NOON_MS)])], {0: 1})
    out.close()
    (tmp_path / "ns").unlink()
    again = writer(tmp_path)
    assert (again.position(0), again.repaired) == (1, ["ns/readings/0/2021/07/30/05/00/00.avro"])
    again.close()


@pytest.mark.parametrize(
    ("time_ms", "text"),
    [
        (NOON_MS, "7/30/2021 5:00:00 AM"),
        (NOON_MS + 7 * 3_600_000 + 61_000, "7/30/2021 12:01:01 PM"),
        (0, "1/1/1970 12:00:00 AM"),
        (-1, "1/1/1970 12:00:00 AM"),
        (2**62, "12/31/9999 11:59:59 PM"),
    ],
)
def test_times(time_ms: int, text: str) -> None:
    assert time_text(time_ms) == text
    Layout(AVRO_PATH, "ns").path(HUB, 0, second_of(time_ms))


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("{EventHub}/{PartitionId}/{Year}/{Month}/{Day}/{Hour}/{Minute}.avro", "Second"),
        (AVRO_PATH + "{Nothing}", "Nothing"),
        ("/" + AVRO_PATH, "relative"),
        ("../" + AVRO_PATH, "relative"),
        ("@state/" + AVRO_PATH, "relative"),
    ],
)
def test_patterns_that_are_refused(pattern: str, reason: str) -> None:
    with pytest.raises(InvalidSetting, match=reason):
        Layout(pattern, "ns")
    with pytest.raises(InvalidName):
        Layout(AVRO_PATH, "a/b")


def test_the_schema_is_the_official_one() -> None:
    assert SCHEMA["name"] == "Microsoft.ServiceBus.Messaging.EventData"
    names = [field["name"] for field in SCHEMA["fields"]]
    assert names == ["SequenceNumber", "Offset", "EnqueuedTimeUtc", "SystemProperties", "Properties", "Body"]
    out = io.BytesIO()
    fastavro.writer(out, SCHEMA, capture_avro.records(rows([Event(b"x", timestamp=1)])))
