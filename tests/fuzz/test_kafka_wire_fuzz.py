"""Any bytes give messages or RemoteProtocolError, nothing else; and never more memory than the bytes justify."""

from __future__ import annotations

import random
import struct
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gridwire.core.errors import RemoteProtocolError
from gridwire.core.limits import REQUEST_BYTES_MAX
from gridwire.wire.kafka import codec
from gridwire.wire.kafka.produce import decode_produce

_SERVED = [
    (key, version) for key, api in sorted(codec.APIS.items()) for version in range(api.versions[0], api.versions[1] + 1)
]


def _read(frame: bytes) -> None:
    """What the head does with a frame."""
    header = codec.read_header(frame)
    if header.key == codec.PRODUCE:
        decode_produce(header.version, memoryview(frame), header.body_at)
    codec.decode_request(header.key, header.version, frame, header.body_at)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(_SERVED), st.binary(max_size=200))
def test_any_body(served: tuple[int, int], body: bytes) -> None:
    key, version = served
    try:
        codec.decode_request(key, version, body)
    except RemoteProtocolError:
        pass
    try:
        codec.decode_response(key, version, b"\0\0\0\0\0\0\0\7" + body)
    except RemoteProtocolError:
        pass


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
@example(b"")
@example(b"\0\0\0\x08\0\x12\0\x04\0\0\0\7")
def test_any_frame(frame: bytes) -> None:
    try:
        _read(frame)
    except RemoteProtocolError:
        pass


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 11), st.binary(max_size=300))
def test_any_produce(version: int, body: bytes) -> None:
    try:
        decode_produce(version, memoryview(body), 0)
    except RemoteProtocolError:
        pass


@pytest.mark.parametrize(("key", "version"), _SERVED)
def test_cut_and_bent_real_requests(key: int, version: int) -> None:
    """A request cut anywhere is malformed or still whole; any byte changed is survived."""
    rng = random.Random(key * 100 + version)
    frame = bytes(codec.encode_request(key, version, 7, "client", _something(key, version)))
    for end in range(4, len(frame)):
        try:
            _read(frame[:end])
        except RemoteProtocolError:
            pass
    for _ in range(200):
        bent = bytearray(frame)
        bent[rng.randrange(4, len(bent))] = rng.randrange(256)
        try:
            _read(bytes(bent))
        except RemoteProtocolError:
            pass


def _something(key: int, version: int) -> dict[str, object]:
    """A body with one element in every array."""
    return _one_of_each(codec.APIS[key].request, version)


def _one_of_each(fields: tuple[codec.Api, ...] | tuple[object, ...], version: int) -> dict[str, object]:
    body: dict[str, object] = {}
    for field in fields:
        if not field.exists(version):  # type: ignore[attr-defined]
            continue
        kind, name = field.type, field.name  # type: ignore[attr-defined]
        if kind == "[]":
            body[name] = [_one_of_each(field.fields, version)]  # type: ignore[attr-defined]
        elif kind == "{}":
            body[name] = _one_of_each(field.fields, version)  # type: ignore[attr-defined]
        elif kind == "[]string":
            body[name] = ["name"]
        elif kind == "[]int32":
            body[name] = [1]
        elif kind == "string":
            body[name] = "name"
        elif kind in ("bytes", "records"):
            body[name] = b"12345678"
    return body


@pytest.mark.parametrize(("key", "version"), _SERVED)
def test_huge_counts_allocate_nothing(key: int, version: int) -> None:
    """Every array count and length set to its largest value: refused before anything is allocated."""
    body = bytes(codec.encode_request(key, version, 7, None, _something(key, version)))[14:]
    tracemalloc.start()
    try:
        for at in range(len(body)):
            for huge in (b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff\x0f", b"\x7f\xff"):
                bent = body[:at] + huge + body[at + len(huge) :]
                try:
                    codec.decode_request(key, version, bent)
                    decode_produce(version, memoryview(bent), 0) if key == codec.PRODUCE else None
                except RemoteProtocolError:
                    pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * 1024 * 1024


@pytest.mark.parametrize("size", [-1, 0, 7, REQUEST_BYTES_MAX + 1, 2**31 - 1])
def test_impossible_sizes_are_refused_with_four_bytes(size: int) -> None:
    with pytest.raises(RemoteProtocolError):
        codec.frame_size(struct.pack(">i", size))


def test_only_a_produce_may_be_large() -> None:
    size = codec.CONTROL_BYTES_MAX + 1
    prefix = struct.pack(">i", size)
    assert codec.frame_size(prefix) is None, "the key decides, and is not there yet"
    assert codec.frame_size(prefix + struct.pack(">h", codec.PRODUCE)) == size + 4
    with pytest.raises(RemoteProtocolError):
        codec.frame_size(prefix + struct.pack(">h", 3))


def test_more_partitions_than_a_produce_may_name_are_refused() -> None:
    count = 70_000
    body = struct.pack(">hhii", -1, 1, 1000, 1) + struct.pack(">h", 1) + b"t" + struct.pack(">i", count)
    body += struct.pack(">ii", 0, 0) * count
    with pytest.raises(RemoteProtocolError, match="partitions"):
        decode_produce(3, memoryview(body), 0)
