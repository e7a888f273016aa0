"""Every API at every version, request and response, against two codecs that are not ours: kio and kafka-python.

kio must decode our bytes and encode them back to the same bytes; kafka-python must find the same value under the same
field name, which also catches two fields of one type swapped in a table.
"""

from __future__ import annotations

import io
import random
import re
import warnings
from typing import Any
from uuid import UUID

import pytest
from kio.index import load_request_schema, load_response_schema
from kio.serial import entity_reader, entity_writer

from gridwire.wire.kafka import codec
from gridwire.wire.kafka.fetch import PartData, encode_fetch_response
from gridwire.wire.kafka.produce import PartResult, decode_produce, encode_produce_response
from gridwire.wire.kafka.schema import Field

with warnings.catch_warnings():  # kafka-python reads its schemas with a deprecated call
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.protocol import admin, consumer, metadata, producer, sasl

SAMPLES = 6
_ERRORS = (0, 1, 2, 3, 35, -1, 79)
_SIDES = ("request", "response")
_MESSAGES = [
    (key, version, side)
    for key, api in sorted(codec.APIS.items())
    for version in range(api.versions[0], api.versions[1] + 1)
    for side in _SIDES
]
_RETIRED = {(codec.PRODUCE, version) for version in (0, 1, 2)}  # both oracles start at 3
_KNOWN_MESSAGES = [message for message in _MESSAGES if message[:2] not in _RETIRED]
_NEW_GROUPS = (68, 69)  # kafka-python lacks them; the Java client reads them in tests/conformance


def _scalar(rng: random.Random, field: Field, kind: str) -> Any:
    if field.name.endswith("ErrorCode"):
        return rng.choice(_ERRORS)
    if field.name.endswith("AuthorizedOperations") and kind == "int32":
        return rng.choice([-(2**31), 0, rng.randrange(2**31)])  # a set of bits, or "not asked"
    if kind == "bool":
        return rng.random() < 0.5
    if kind == "string":
        return rng.choice(["", "a", "grid.transformers", "Zählpunkt-ø", "x" * 200])
    if kind in ("bytes", "records"):
        return rng.randbytes(rng.choice([0, 1, 20, 300]))
    if kind == "uuid":
        return UUID(int=rng.getrandbits(128) | 1)
    if kind == "float64":
        return rng.choice([0.0, 1024.0, -1.5, 1e300])
    bits = int(kind[3:])
    if "Timestamp" in field.name or field.name.endswith("Ms"):
        return rng.randrange(0, 2 ** min(bits - 1, 40))  # kio turns them into datetimes
    return rng.choice([0, 1, -1, 2 ** (bits - 1) - 1, -(2 ** (bits - 1)), rng.randrange(2 ** (bits - 1))])


def _value(rng: random.Random, field: Field, version: int) -> Any:
    if field.may_be_null(version) and rng.random() < 0.3:
        return None
    if field.type == "{}":
        value = _struct(rng, field.fields, version)
        if field.tag is None:
            return value
        return value | {field.fields[0].name: 12345}  # kio leaves a tagged structure out when all of it is default
    if not field.type.startswith("[]"):
        return _scalar(rng, field, field.type)
    count = rng.choice([0, 1, 2, 3])
    if field.type == "[]":
        return [_struct(rng, field.fields, version) for _ in range(count)]
    return [_scalar(rng, field, field.type[2:]) for _ in range(count)]


def _struct(rng: random.Random, fields: tuple[Field, ...], version: int) -> dict[str, Any]:
    present = [field for field in fields if field.exists(version)]
    return {field.name: _value(rng, field, version) for field in present if field.tag is None or rng.random() < 0.5}


def _bodies(key: int, version: int, side: str) -> list[dict[str, Any]]:
    rng = random.Random(f"{key} {version} {side}")
    fields = getattr(codec.APIS[key], side)
    return [_struct(rng, fields, version) for _ in range(SAMPLES)]


def _encode(key: int, version: int, side: str, body: dict[str, Any]) -> bytes:
    """Our encoding of a body, without size and header."""
    flexible = codec.APIS[key].flexible(version)
    if side == "request":
        return bytes(codec.encode_request(key, version, 7, None, body)[4 + 10 + flexible :])
    return bytes(codec.encode_response(key, version, 7, body)[8 + codec.has_flexible_header(key, version) :])


def _without_defaults(fields: tuple[Field, ...], body: dict[str, Any], version: int) -> dict[str, Any]:
    """A body as a decoder returns it: tagged fields at their default are not on the wire."""
    by_name = {field.name: field for field in fields}
    out = {}
    for name, value in body.items():
        field = by_name[name]
        if field.tag is not None and value == field.default:
            continue
        if field.type == "[]" and value is not None:
            value = [_without_defaults(field.fields, each, version) for each in value]
        elif field.type == "{}" and value is not None:
            value = _without_defaults(field.fields, value, version)
        out[name] = value
    return out


@pytest.mark.parametrize(("key", "version", "side"), _MESSAGES)
def test_round_trip(key: int, version: int, side: str) -> None:
    for body in _bodies(key, version, side):
        if side == "request":
            frame = codec.encode_request(key, version, 7, "client", body)
            assert codec.frame_size(frame) == len(frame)
            header = codec.read_header(frame)
            assert (header.key, header.version, header.correlation_id, header.client_id) == (key, version, 7, "client")
            decoded = codec.decode_request(key, version, frame, header.body_at)
        else:
            correlation_id, decoded = codec.decode_response(key, version, codec.encode_response(key, version, 7, body))
            assert correlation_id == 7
        assert decoded == _without_defaults(getattr(codec.APIS[key], side), body, version)


@pytest.mark.parametrize(("key", "version", "side"), _KNOWN_MESSAGES)
def test_kio_agrees(key: int, version: int, side: str) -> None:
    schema: Any = load_request_schema(key, version) if side == "request" else load_response_schema(key, version)
    reader, writer = entity_reader(schema), entity_writer(schema)
    for body in _bodies(key, version, side):
        ours = _encode(key, version, side, body)
        entity, size = reader(ours, 0)
        assert size == len(ours)
        theirs = io.BytesIO()
        writer(theirs, entity)
        assert theirs.getvalue() == ours


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


_RENAMED = dict.fromkeys(["topic_authorized_operations", "cluster_authorized_operations"], "authorized_operations")
"""Names kafka-python shortens (and makes sets of)."""


def _same(fields: tuple[Field, ...], body: dict[str, Any], theirs: Any, where: str) -> None:
    """Every value of ours is found under its name in kafka-python's object."""
    by_name = {field.name: field for field in fields}
    for name, value in body.items():
        theirs_name = _snake(name)
        if not hasattr(theirs, theirs_name):
            theirs_name = _RENAMED[theirs_name]
        field, found = by_name[name], getattr(theirs, theirs_name)
        at = f"{where}.{name}"
        if name.endswith("AuthorizedOperations") and not isinstance(found, bool | int):
            found = -(2**31) if found is None else sum(1 << bit for bit in found)
        if field.type == "[]" and value is not None:
            assert len(found) == len(value), at
            for index, (each, other) in enumerate(zip(value, found, strict=True)):
                _same(field.fields, each, other, f"{at}[{index}]")
        elif field.type == "{}" and value is not None:
            _same(field.fields, value, found, at)
        elif field.type == "uuid":
            assert UUID(str(found)) == value, at
        elif value is None or isinstance(value, str | int | float | list):
            assert found == value, at
        else:
            assert bytes(found) == value, at


def _kafka_python_class(key: int, side: str) -> Any:
    name = codec.APIS[key].name + side.capitalize()
    for module in (metadata, producer, consumer, admin, sasl):
        if hasattr(module, name):
            return getattr(module, name)
    raise AssertionError(f"kafka-python has no {name}")


@pytest.mark.parametrize(("key", "version", "side"), [each for each in _KNOWN_MESSAGES if each[0] not in _NEW_GROUPS])
def test_kafka_python_agrees(key: int, version: int, side: str) -> None:
    fields = getattr(codec.APIS[key], side)
    for body in _bodies(key, version, side):
        if key == codec.API_VERSIONS and side == "response":
            body["ErrorCode"] = 0  # with an error it takes every version for v0, as clients do
        theirs = _kafka_python_class(key, side).decode(_encode(key, version, side, body), version=version)
        _same(fields, _without_defaults(fields, body, version), theirs, codec.APIS[key].name)


@pytest.mark.parametrize("version", range(4, 19))
def test_hand_made_fetch_response_is_what_the_table_encodes(version: int) -> None:
    flexible_id = version >= 13
    topic: Any = UUID(int=5) if flexible_id else "t"
    parts = [
        PartData(0, 0, 3, 9, b"r" * 300, 7, [(5, 3), (6, 4)]),
        PartData(1, 1, 2, 8, b""),
        PartData(2, 0, 0, 7, memoryview(b"s" * 10)),
    ]
    ours = b"".join(encode_fetch_response(version, 7, [(topic, parts), (topic, [])]))
    named = {"TopicId" if flexible_id else "Topic": topic}
    bodies = [
        {
            "PartitionIndex": part.index, "ErrorCode": part.error, "HighWatermark": part.end,
            "LastStableOffset": part.end if part.stable < 0 else part.stable, "LogStartOffset": part.start,
            "AbortedTransactions": [{"ProducerId": pid, "FirstOffset": first} for pid, first in part.aborted],
            "Records": bytes(part.records),
        }
        for part in parts
    ]  # fmt: skip
    body = {"Responses": [{**named, "Partitions": bodies}, {**named, "Partitions": []}]}
    assert ours == codec.encode_response(codec.FETCH, version, 7, body)


@pytest.mark.parametrize("version", range(14))
def test_hand_made_produce_is_what_the_table_says(version: int) -> None:
    records = bytes(range(200))
    by_id = version >= 13
    one: Any = UUID(int=5) if by_id else "a"
    two: Any = UUID(int=6) if by_id else "b" * 130
    which = "TopicId" if by_id else "Name"
    request = {
        "Acks": -1, "TimeoutMs": 1500,
        "TopicData": [
            {which: one, "PartitionData": [{"Index": 0, "Records": records}, {"Index": 3, "Records": None}]},
            {which: two, "PartitionData": []},
        ],
    }  # fmt: skip
    frame = codec.encode_request(codec.PRODUCE, version, 7, "c", request)
    decoded = decode_produce(version, memoryview(frame), codec.read_header(frame).body_at)
    assert (decoded.acks, decoded.timeout_ms, decoded.transactional_id) == (-1, 1500, None)
    assert decoded.topics == [(one, [(0, records), (3, None)]), (two, [])]
    view = decoded.topics[0][1][0][1]
    assert view is not None and view.obj is frame, "records must be a view of the frame, not a copy"

    results = [PartResult(0, 0, 44, 1234, 5), PartResult(3, 87, -1, -1, -1, "why")]
    bodies = [
        {
            "Index": each.index, "ErrorCode": each.error, "BaseOffset": each.base_offset,
            "LogAppendTimeMs": each.append_time_ms, "LogStartOffset": each.log_start, "ErrorMessage": each.message,
        }
        for each in results
    ]  # fmt: skip
    body = {"Responses": [{which: one, "PartitionResponses": bodies}, {which: two, "PartitionResponses": []}]}
    ours = encode_produce_response(version, 7, [(one, results), (two, [])])
    assert ours == codec.encode_response(codec.PRODUCE, version, 7, body)
