"""Requests with absurd but well-formed contents, and mangled ones, on a real connection.

Every one is answered, or its connection is closed with a warning; none makes a handler fail, and the head goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import structlog
import uvloop

from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.membership import Membership
from gridwire.core.batch import Event, encode
from gridwire.core.clock import SystemClock
from gridwire.heads.kafka import KafkaHead
from gridwire.wire.kafka import codec
from gridwire.wire.kafka.schema import Field

_SERVED = [
    (key, version) for key, api in sorted(codec.APIS.items()) for version in range(api.versions[0], api.versions[1] + 1)
]
_WAITING = {codec.JOIN_GROUP, codec.SYNC_GROUP}
ROUNDS = 8
ANSWER_S = 5.0


def _value(rng: random.Random, field: Field, kind: str, version: int) -> Any:
    if kind == "{}":
        return _struct(rng, field.fields, version)
    if kind.startswith("[]"):
        return [_value(rng, field, kind[2:] or "{}", version) for _ in range(rng.choice([0, 1, 2]))]
    if kind == "bool":
        return rng.random() < 0.5
    if kind == "string":
        return rng.choice(["", "h", "__internal", "h", "x" * 300, "ö/..\0", "1"])
    if kind in ("bytes", "records"):
        return rng.choice([b"", b"x" * 70, bytes(encode([Event(b"v")])), rng.randbytes(80)])
    if kind == "uuid":
        return UUID(int=rng.getrandbits(128))
    if field.name == "MaxWaitMs":
        return rng.choice([-1, 0, 20])
    if kind == "float64":
        return rng.choice([float("inf"), float("nan"), -1.0, 1e300])
    bits = int(kind[3:])
    return rng.choice([0, 1, 2, -1, -2, -3, 5, 2 ** (bits - 1) - 1, -(2 ** (bits - 1)), rng.randrange(2 ** (bits - 1))])


def _struct(rng: random.Random, fields: tuple[Field, ...], version: int) -> dict[str, Any]:
    return {
        field.name: None
        if field.may_be_null(version) and rng.random() < 0.2
        else _value(rng, field, field.type, version)
        for field in fields
        if field.exists(version)
    }


async def _exchange(port: int, frame: bytes, expect: bool) -> None:
    """Send, and wait for an answer or the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(frame)
        if expect:
            async with asyncio.timeout(ANSWER_S):
                with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
                    size = struct.unpack(">i", await reader.readexactly(4))[0]
                    await reader.readexactly(size)
    finally:
        writer.close()


async def _run(directory: Path, frames: list[tuple[bytes, bool]]) -> None:
    broker = await EmbeddedBroker.open(directory, "os", default_partitions=1)
    membership = Membership(SystemClock())
    head = KafkaHead(broker, membership, host="127.0.0.1", port=0, cluster_id="fuzz")
    await head.start()
    try:
        await broker.create_hub("h", 1)
        await broker.create_hub("__internal", 1)
        for frame, expect in frames:
            await _exchange(head.port, frame, expect)
        await _exchange(head.port, bytes(codec.encode_request(18, 4, 1, None, {})), True)
    finally:
        closing = membership.close()
        if asyncio.iscoroutine(closing):
            await closing
        await head.stop()
        await broker.close()
    assert head.inflight_bytes == 0


def _check(directory: Path, frames: list[tuple[bytes, bool]], capfd: pytest.CaptureFixture[str]) -> None:
    with structlog.testing.capture_logs() as lines:
        uvloop.run(_run(directory, frames))
    assert [line for line in lines if line["log_level"] == "error"] == []
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("key", sorted(codec.APIS))
def test_absurd_contents(tmp_path: Path, key: int, capfd: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(key)
    frames = []
    for version in [version for each, version in _SERVED if each == key]:
        for _ in range(ROUNDS):
            body = _struct(rng, codec.APIS[key].request, version)
            silent = key in _WAITING or (key == codec.PRODUCE and body["Acks"] == 0)
            frames.append((bytes(codec.encode_request(key, version, 7, "fuzz", body)), not silent))
    _check(tmp_path / "data", frames, capfd)


def test_mangled_frames(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(5)
    frames = []
    for key, version in _SERVED:
        frame = bytearray(codec.encode_request(key, version, 7, "fuzz", _struct(rng, codec.APIS[key].request, version)))
        frame[rng.randrange(4, len(frame))] ^= 1 << rng.randrange(8)
        frames.append((bytes(frame), False))
        frames.append((rng.randbytes(rng.randrange(1, 200)), False))
    _check(tmp_path / "data", frames, capfd)
