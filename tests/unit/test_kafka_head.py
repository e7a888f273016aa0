"""The Kafka head on a real socket: frames, order, backpressure, bad input, and every API's answers by raw requests."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import structlog
import uvloop

from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.membership import Membership
from gridwire.broker.port import Appended
from gridwire.core.batch import CONTROL, TRANSACTIONAL, Event, decode, encode
from gridwire.core.clock import ManualClock, SystemClock
from gridwire.heads.kafka import KafkaHead
from gridwire.heads.kafka import context as head_limits
from gridwire.wire.kafka import codec
from gridwire.wire.kafka.errors import ErrorCode

DEADLINE_S = 10.0
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}


def run(main: Coroutine[Any, Any, None], loop: str = "uvloop") -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(asyncio.wait_for(main, 60))


class HoldingBroker(EmbeddedBroker):
    """The embedded broker, whose acknowledgements wait until the test lets them go."""

    holding = False
    appends = 0

    def append(self, hub: str, partition: int, batches: bytearray | memoryview) -> asyncio.Future[Appended]:
        real = super().append(hub, partition, batches)
        self.appends += 1
        if not self.holding:
            return real
        if not hasattr(self, "gate"):
            self.gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def later() -> Appended:
            await asyncio.shield(self.gate)
            return await real

        return asyncio.ensure_future(later())


class Client:
    """A connection that speaks the protocol by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.sent: list[tuple[int, int]] = []
        self.correlation_id = 0

    def frame(self, key: int, version: int, body: dict[str, Any]) -> bytes:
        self.correlation_id += 1
        return bytes(codec.encode_request(key, version, self.correlation_id, "test", body))

    def send(self, key: int, version: int, body: dict[str, Any]) -> None:
        self.writer.write(self.frame(key, version, body))
        self.sent.append((key, version))

    async def raw(self) -> bytes:
        size = await asyncio.wait_for(self.reader.readexactly(4), DEADLINE_S)
        return size + await self.reader.readexactly(struct.unpack(">i", size)[0])

    async def receive(self) -> tuple[int, dict[str, Any]]:
        """(correlation id, body) of the next response, which must belong to the oldest request unanswered."""
        key, version = self.sent.pop(0)
        return codec.decode_response(key, version, await self.raw())

    async def call(self, key: int, version: int, body: dict[str, Any]) -> dict[str, Any]:
        self.send(key, version, body)
        correlation_id, answer = await self.receive()
        assert correlation_id == self.correlation_id
        return answer

    def reset(self) -> None:
        """Vanish: the other side gets a reset, not an end of stream."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def closed(self) -> bool:
        try:
            return await asyncio.wait_for(self.reader.read(1), DEADLINE_S) == b""
        except ConnectionResetError:
            return True


class Served:
    """A head over a fresh data directory."""

    def __init__(self, broker: HoldingBroker, head: KafkaHead) -> None:
        self.broker, self.head = broker, head
        self.clients: list[Client] = []

    async def client(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.head.port))
        self.clients.append(client)
        return client


@asynccontextmanager
async def serve(tmp_path: Path, **options: Any) -> AsyncIterator[Served]:
    broker = await HoldingBroker.open(tmp_path / "data", "os", default_partitions=2)
    assert isinstance(broker, HoldingBroker)
    membership = Membership(SystemClock())
    head = KafkaHead(broker, membership, host="127.0.0.1", port=0, cluster_id="test-cluster", **options)
    await head.start()
    served = Served(broker, head)
    try:
        yield served
    finally:
        for client in served.clients:
            client.writer.close()
        closing = membership.close()
        if asyncio.iscoroutine(closing):
            await closing
        await head.stop()
        await broker.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


def batch(*values: str, **options: Any) -> bytes:
    times = options.pop("timestamps", [1_000 + index for index in range(len(values))])
    events = [Event(value.encode(), timestamp=time) for value, time in zip(values, times, strict=True)]
    return bytes(encode(events, **options))


def produce(hub: str, *parts: tuple[int, bytes | None], acks: int = -1, **more: Any) -> dict[str, Any]:
    data = [{"Index": index, "Records": records} for index, records in parts]
    return {"Acks": acks, "TimeoutMs": 1000, "TopicData": [{"Name": hub, "PartitionData": data}], **more}


def produced(answer: dict[str, Any]) -> list[tuple[int, int]]:
    return [(part["ErrorCode"], part["BaseOffset"]) for part in answer["Responses"][0]["PartitionResponses"]]


def fetch(topic: str | UUID, *offsets: int, wait_ms: int = 0, least: int = 1, most: int = 1 << 20, **more: Any) -> Any:
    per_part = more.pop("part_max", 1 << 20)
    places = [{"Partition": index, "FetchOffset": offset} for index, offset in enumerate(offsets)]
    parts = [{**place, "PartitionMaxBytes": per_part} for place in places]
    name = {"TopicId": topic} if isinstance(topic, UUID) else {"Topic": topic}
    return {
        "MaxWaitMs": wait_ms, "MinBytes": least, "MaxBytes": most, "Topics": [{**name, "Partitions": parts}], **more,
    }  # fmt: skip


def fetched(answer: dict[str, Any]) -> list[tuple[int, int, list[str]]]:
    """(error, high watermark, values) of each partition."""
    out = []
    for part in answer["Responses"][0]["Partitions"]:
        data, values, at = part["Records"] or b"", [], 0
        while at < len(data):
            values += [(event.value or b"").decode() for event in decode(data, at)]
            at += 12 + struct.unpack_from(">i", data, at + 8)[0]
        out.append((part["ErrorCode"], part["HighWatermark"], values))
    return out


# -- frames


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("chunk", [1, 7, 1_000_000])
def test_frames_in_any_pieces(tmp_path: Path, loop: str, chunk: int) -> None:
    """Whole, byte by byte, and several at once with the beginning of the next."""

    async def main() -> None:
        async with serve(tmp_path) as served:
            await served.broker.create_hub("h", 1)
            client = await served.client()
            stream = b"".join(
                [
                    client.frame(18, 4, {}),
                    client.frame(0, 9, produce("h", (0, batch("one")))),
                    client.frame(0, 9, produce("h", (0, batch("two", "three")))),
                    client.frame(1, 12, fetch("h", 0)),
                    client.frame(3, 12, {"Topics": None})[:9],
                ]
            )
            for at in range(0, len(stream), chunk):
                client.writer.write(stream[at : at + chunk])
                await client.writer.drain()
                await asyncio.sleep(0)
            client.sent += [(18, 4), (0, 9), (0, 9), (1, 12)]
            assert {key["ApiKey"] for key in (await client.receive())[1]["ApiKeys"]} == set(codec.APIS)
            assert produced((await client.receive())[1]) == [(0, 0)]
            assert produced((await client.receive())[1]) == [(0, 1)]
            correlation_id, answer = await client.receive()
            assert correlation_id == 4
            assert fetched(answer)[0][:2] == (0, answer["Responses"][0]["Partitions"][0]["HighWatermark"])

    run(main(), loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_large_frame_is_received_whole(tmp_path: Path, loop: str) -> None:
    """Twice larger than the step in which a frame's buffer grows, then a small one right behind it."""

    async def main() -> None:
        async with serve(tmp_path) as served:
            await served.broker.create_hub("h", 1, {"message_bytes_max": 32 * 1024 * 1024})
            client = await served.client()
            value = "x" * (head_limits.FRAME_STEP_BYTES * 2 + 12345)
            client.send(0, 9, produce("h", (0, batch(value))))
            client.send(0, 9, produce("h", (0, batch("small"))))
            assert produced((await client.receive())[1]) == [(0, 0)]
            assert produced((await client.receive())[1]) == [(0, 1)]
            answer = await client.call(1, 12, fetch("h", 0, most=1 << 25, part_max=1 << 25))
            assert fetched(answer) == [(0, 2, [value, "small"])]
            await until(lambda: served.head.inflight_bytes == 0)

    run(main(), loop)


# -- order


def test_answers_leave_in_request_order_while_appends_are_pending(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            await served.broker.create_hub("h", 1)
            served.broker.holding = True
            client = await served.client()
            for number in range(5):
                client.send(0, 9, produce("h", (0, batch(f"{number}"))))
            client.send(3, 12, {"Topics": []})
            client.send(18, 3, {})
            await until(lambda: served.broker.appends == 5)  # pipelined: none waits for the one before
            await until(lambda: served.head.counters.requests.get("ApiVersions") == 1)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.reader.read(1), 0.05)  # though the later answers are known
            served.broker.gate.set_result(None)
            for number in range(5):
                correlation_id, answer = await client.receive()
                assert (correlation_id, produced(answer)) == (number + 1, [(0, number)])
            assert [(await client.receive())[0], (await client.receive())[0]] == [6, 7]

    run(main())


def test_requests_behind_a_long_poll_wait_their_turn(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            await served.broker.create_hub("h", 1)
            client, other = await served.client(), await served.client()
            client.send(1, 12, fetch("h", 0, wait_ms=30_000))
            client.send(3, 12, {"Topics": []})
            assert produced(await other.call(0, 9, produce("h", (0, batch("go"))))) == [(0, 0)]
            assert fetched((await client.receive())[1]) == [(0, 1, ["go"])]
            assert (await client.receive())[0] == 2

    run(main())


def test_acks_0_is_not_answered(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            await served.broker.create_hub("h", 1)
            client = await served.client()
            client.writer.write(client.frame(0, 9, produce("h", (0, batch("silent")), acks=0)))
            assert (await client.call(18, 3, {}))["ErrorCode"] == 0
            assert fetched(await client.call(1, 12, fetch("h", 0, wait_ms=5000))) == [(0, 1, ["silent"])]
            client.writer.write(client.frame(0, 9, produce("gone", (0, batch("silent")), acks=0)))
            assert await client.closed(), "closing is the only way to tell"

    run(main())


# -- limits


def test_in_flight_requests_are_limited(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            await served.broker.create_hub("h", 1)
            served.broker.holding = True
            client = await served.client()
            most, total = head_limits.CONNECTION_REQUESTS_MAX, head_limits.CONNECTION_REQUESTS_MAX + 500
            for _ in range(total):
                client.send(0, 9, produce("h", (0, batch("x"))))
            await until(lambda: served.broker.appends == most)
            await asyncio.sleep(0.05)
            assert served.broker.appends == most
            served.broker.gate.set_result(None)
            offsets = [produced((await client.receive())[1])[0] for _ in range(total)]
            assert offsets == [(0, number) for number in range(total)]

    run(main())


def test_a_client_that_does_not_read_is_not_served_further(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            for number in range(40):
                await served.broker.create_hub(f"hub-{number}", 2)
            client = await served.client()
            client.reader._transport.pause_reading()  # type: ignore[attr-defined]
            frame = client.frame(3, 12, {"Topics": None})
            total = 8000
            client.writer.write(frame * total)
            seen = -1

            async def settled() -> int:
                nonlocal seen
                now = served.head.counters.requests.get("Metadata", 0)
                if now == seen and now > 0:
                    return now
                seen = now
                await asyncio.sleep(0.3)
                return await settled()

            assert await settled() < total
            assert served.head.counters.bytes_out < 64 * 1024 * 1024
            client.writer.transport.abort()
            await until(lambda: served.head.counters.connections == 0)

    run(main())


def test_all_connections_together_hold_a_limited_number_of_bytes(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("gridwire.heads.kafka.connection.HEAD_BYTES_MAX", 1_000_000)
    monkeypatch.setattr("gridwire.heads.kafka.server.HEAD_BYTES_MAX", 1_000_000)

    async def main() -> None:
        async with serve(tmp_path) as served:
            await served.broker.create_hub("h", 1)
            served.broker.holding = True
            clients = [await served.client() for _ in range(8)]
            for client in clients:
                client.send(0, 9, produce("h", (0, batch("x" * 400_000))))
            await until(lambda: len(served.head._hungry) + served.broker.appends == 8)
            assert 1 <= served.broker.appends <= 2
            assert served.head.inflight_bytes <= 1_000_000
            served.broker.gate.set_result(None)
            for client in clients:
                assert produced((await client.receive())[1])[0][0] == 0
            await until(lambda: served.head.inflight_bytes == 0)

    run(main())


def test_connections_are_limited(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path, connections_max=2) as served:
            first, second = await served.client(), await served.client()
            await first.call(18, 0, {})
            await second.call(18, 0, {})
            assert await (await served.client()).closed()
            assert served.head.counters.connections_refused == 1
            first.writer.close()
            await until(lambda: served.head.counters.connections == 1)
            await (await served.client()).call(18, 0, {})

    run(main())


def test_stalled_frames_and_idle_connections_are_closed(tmp_path: Path) -> None:
    async def main() -> None:
        clock = ManualClock()
        async with serve(tmp_path, clock=clock) as served:
            stalled, idle = await served.client(), await served.client()
            await idle.call(18, 0, {})
            await stalled.call(18, 0, {})
            stalled.writer.write(stalled.frame(3, 12, {"Topics": None})[:7])
            await until(lambda: any(connection.partial for connection in served.head._connections))
            clock.advance(head_limits.FRAME_STALL_S + 1)
            served.head._sweep()
            assert await stalled.closed()
            await idle.call(18, 0, {})
            clock.advance(head_limits.IDLE_S + 1)
            served.head._sweep()
            assert await idle.closed()

    run(main())


def test_a_client_that_reads_nothing_is_cut_and_one_that_reads_slowly_is_not(tmp_path: Path) -> None:
    async def main() -> None:
        clock = ManualClock()
        async with serve(tmp_path, clock=clock) as served:
            await served.broker.create_hub("h", 1)
            await served.broker.append("h", 0, bytearray(batch("x" * 8_000_000)))
            client = await served.client()
            for _ in range(4):
                client.send(1, 4, fetch("h", 0, most=1 << 24, part_max=1 << 24, ReplicaId=-1, IsolationLevel=0))
            await until(lambda: any(connection.unread for connection in served.head._connections))
            [connection] = served.head._connections
            served.head._sweep()
            before = served.head.context.backlog.bytes
            assert before > 0
            async with asyncio.timeout(DEADLINE_S):
                while connection._transport.get_write_buffer_size() >= before:
                    await client.reader.read(65_536)
            clock.advance(head_limits.WRITE_STALL_S + 1)
            served.head._sweep()
            assert served.head.counters.connections == 1, "it read a little"

            def cut() -> bool:
                clock.advance(head_limits.WRITE_STALL_S + 1)
                served.head._sweep()
                return served.head.counters.connections == 0

            await until(cut)
            assert served.head.context.backlog.bytes == served.head.context.unsent_bytes == 0

    run(main())


@pytest.mark.parametrize("how", ["still", "drips"])
def test_large_frames_that_come_too_slowly_make_room(tmp_path: Path, monkeypatch: Any, how: str) -> None:
    monkeypatch.setattr("gridwire.heads.kafka.connection.HEAD_BYTES_MAX", 1_000_000)
    monkeypatch.setattr("gridwire.heads.kafka.server.HEAD_BYTES_MAX", 1_000_000)
    monkeypatch.setattr("gridwire.heads.kafka.server.RELIEF_S", 0.01)

    async def main() -> None:
        clock = ManualClock()
        async with serve(tmp_path, clock=clock) as served:
            await served.broker.create_hub("h", 1)
            slow = await served.client()
            frame = slow.frame(0, 9, produce("h", (0, batch("x" * 900_000))))
            slow.writer.write(frame[:100_000])
            await until(lambda: served.head.inflight_bytes > 0)
            honest = await served.client()
            honest.send(0, 9, produce("h", (0, batch("y" * 400_000))))
            await until(lambda: len(served.head._hungry) == 1)
            if how == "drips":
                [dripping] = served.head._large
                for _ in range(6):
                    clock.advance(1.9)
                    slow.writer.write(b"x")
                    await until(lambda: dripping.moved_s == clock.monotonic() or dripping not in served.head._large)
            else:
                clock.advance(head_limits.ROOM_STALL_S + 1)
            assert produced((await honest.receive())[1]) == [(0, 0)]
            assert await slow.closed()

    run(main())


# -- bad input


def _garbage() -> dict[str, bytes]:
    return {
        "random": bytes(range(1, 256)) * 3,
        "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "negative size": struct.pack(">i", -5),
        "too small": struct.pack(">i", 3) + b"abc",
        "oversized": struct.pack(">i", 101 * 1024 * 1024),
        "large without records": struct.pack(">ih", 50 * 1024 * 1024, 3) + bytes(100),
        "unknown api": struct.pack(">ihhih", 10, 999, 0, 1, -1),
        "unknown version": struct.pack(">ihhih", 10, 3, 99, 1, -1),
        "cut body": struct.pack(">ihhihi", 14, 3, 1, 1, -1, 1000),
        "cut produce": struct.pack(">ihhihhhi", 18, 0, 3, 1, -1, -1, -1, 1000),
    }


@pytest.mark.parametrize("name", _garbage())
def test_garbage_closes_the_connection_with_one_line(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            await served.broker.create_hub("h", 1)
            client = await served.client()
            client.send(0, 9, produce("h", (0, batch("good"))))
            client.writer.write(_garbage()[name])
            assert produced((await client.receive())[1]) == [(0, 0)], "what came before is answered"
            assert await client.closed()
            assert served.head.counters.errors == 1
            await (await served.client()).call(18, 0, {})
            await until(lambda: served.head.inflight_bytes == 0)

    with structlog.testing.capture_logs() as lines:
        run(main())
    warnings = [line for line in lines if line["log_level"] in ("warning", "error")]
    assert [line["event"] for line in warnings] == ["kafka_connection_closed"]
    assert "Traceback" not in capfd.readouterr().err


def test_a_peer_that_vanishes_is_no_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            await served.broker.create_hub("h", 1)
            served.broker.holding = True
            for number in range(3):
                client = await served.client()
                client.send(*[(0, 9, produce("h", (0, batch("x")))), (1, 12, fetch("h", 5, wait_ms=60_000)),
                              (1, 12, fetch("h", 0, wait_ms=60_000, least=1 << 20))][number])  # fmt: skip
                await until(lambda n=number: sum(served.head.counters.requests.values()) > n)  # type: ignore[misc]
                client.reset()
            await until(lambda: served.head.counters.connections == 0)
            served.broker.gate.set_result(None)
            await until(lambda: served.head.inflight_bytes == 0)

    with structlog.testing.capture_logs() as lines:
        run(main())
    assert not [line for line in lines if line["log_level"] == "error"]
    assert "Traceback" not in capfd.readouterr().err


def test_unknown_api_versions_version_is_answered_in_v0(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            client = await served.client()
            client.writer.write(struct.pack(">ihhih", 12, 18, 99, 77, -1) + b"\0\0")
            frame = await client.raw()
            correlation_id, answer = codec.decode_response(18, 0, frame)
            assert (correlation_id, answer["ErrorCode"]) == (77, ErrorCode.UNSUPPORTED_VERSION)
            ranges = {key["ApiKey"]: (key["MinVersion"], key["MaxVersion"]) for key in answer["ApiKeys"]}
            assert ranges[18] == (0, 4)
            assert ranges[0] == (0, 13)
            assert (await client.call(18, 4, {}))["ErrorCode"] == 0, "the connection goes on"

    run(main())


# -- produce


def _bent(at: int) -> bytes:
    data = bytearray(batch("a", "b"))
    data[at] ^= 0xFF
    return bytes(data)


@pytest.mark.parametrize(
    ("records", "error"),
    [
        (_bent(70), ErrorCode.CORRUPT_MESSAGE),
        (_bent(17), ErrorCode.CORRUPT_MESSAGE),
        (_bent(16), ErrorCode.CORRUPT_MESSAGE),
        (None, ErrorCode.INVALID_RECORD),
        (b"", ErrorCode.INVALID_RECORD),
        (b"too short", ErrorCode.INVALID_RECORD),
        (batch("a") + batch("b"), ErrorCode.INVALID_RECORD),
        (batch("a")[:-1], ErrorCode.INVALID_RECORD),
        (batch("a", attributes=TRANSACTIONAL), ErrorCode.INVALID_RECORD),
        (batch("a", attributes=CONTROL), ErrorCode.INVALID_RECORD),
        (batch("x" * 70_000), ErrorCode.MESSAGE_TOO_LARGE),
    ],
)
def test_bad_batches_get_their_code_and_nothing_is_written(
    tmp_path: Path, records: bytes | None, error: ErrorCode
) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            await served.broker.create_hub("h", 2, {"message_bytes_max": 65536})
            client = await served.client()
            answer = await client.call(0, 9, produce("h", (0, records), (1, batch("good"))))
            assert produced(answer) == [(error, -1), (0, 0)]
            assert (await served.broker.bounds("h", 0)).end == 0
            assert served.head.counters.events_in == 1

    run(main())


def test_refused_produces(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            await served.broker.create_hub("h", 1)
            await served.broker.create_hub("__internal", 1)
            client = await served.client()
            good = (0, batch("a"))
            cases = [
                (9, produce("unknown", good), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
                (9, produce("h", (7, batch("a"))), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
                (9, produce("h", (-1, batch("a"))), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
                (9, produce("__internal", good), ErrorCode.TOPIC_AUTHORIZATION_FAILED),
                (9, produce("h", good, acks=2), ErrorCode.INVALID_REQUIRED_ACKS),
                (9, produce("h", good, acks=1, TransactionalId="t"), ErrorCode.INVALID_REQUIRED_ACKS),
                (0, produce("h", good), ErrorCode.UNSUPPORTED_VERSION),
                (1, produce("h", good), ErrorCode.UNSUPPORTED_VERSION),
                (2, produce("h", good), ErrorCode.UNSUPPORTED_VERSION),
            ]
            for version, body, error in cases:
                assert produced(await client.call(0, version, body)) == [(error, -1)], body
            assert (await served.broker.bounds("h", 0)).end == 0

    run(main())


def test_idempotent_produce_repeated_gets_its_old_offset(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            await served.broker.create_hub("h", 1)
            client = await served.client()
            given = await client.call(22, 4, {"TransactionTimeoutMs": 1})
            assert (given["ErrorCode"], given["ProducerEpoch"]) == (0, 0)
            other = await client.call(22, 0, {"TransactionTimeoutMs": 1})
            assert other["ProducerId"] != given["ProducerId"]
            ids = {"producer_id": given["ProducerId"], "producer_epoch": 0}

            async def send(sequence: int, *values: str) -> tuple[int, int]:
                records = batch(*values, base_sequence=sequence, **ids)
                return produced(await client.call(0, 9, produce("h", (0, records))))[0]

            assert await send(0, "a", "b") == (0, 0)
            assert await send(2, "c") == (0, 2)
            assert await send(0, "a", "b") == (0, 0)
            assert await send(9, "z") == (ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, -1)
            assert (await served.broker.bounds("h", 0)).end == 3
            assert served.head.counters.events_in == 3

    run(main())


# -- fetch


def test_fetch_limits_first_batch_whole_and_turns(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            await served.broker.create_hub("h", 3)
            client = await served.client()
            for part in range(3):
                await client.call(0, 9, produce("h", (part, batch("x" * 1000))))
            assert fetched(await client.call(1, 12, fetch("h", 0, most=1, part_max=1)))[0][2] == ["x" * 1000]
            seen = set()
            for _ in range(3):
                answers = fetched(await client.call(1, 12, fetch("h", 0, 0, 0, most=1500)))
                got = [index for index, (error, end, values) in enumerate(answers) if values]
                assert len(got) == 1, "the limit has room for one"
                assert all((error, end) == (0, 1) for error, end, _ in answers)
                seen |= set(got)
            assert seen == {0, 1, 2}, "another partition comes first each time"

    run(main())


def test_fetch_waits_for_min_bytes_or_the_time(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            await served.broker.create_hub("h", 1)
            client, writer = await served.client(), await served.client()
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert fetched(await client.call(1, 4, fetch("h", 0, wait_ms=200))) == [(0, 0, [])]
            assert loop.time() - began >= 0.19
            client.send(1, 4, fetch("h", 0, wait_ms=30_000, least=2500))
            for number in range(3):
                await writer.call(0, 9, produce("h", (0, batch(f"{number}" * 1000))))
            assert fetched((await client.receive())[1]) == [(0, 3, ["0" * 1000, "1" * 1000, "2" * 1000])]

    run(main())


@pytest.mark.parametrize("version", [4, 11, 12, 13, 16, 17])
def test_fetch_errors(tmp_path: Path, version: int) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            hub = await served.broker.create_hub("h", 1)
            by_id = version >= 13
            topic: str | UUID = hub.id if by_id else "h"
            client = await served.client()
            await client.call(0, 9, produce("h", (0, batch("a"))))
            assert fetched(await client.call(1, version, fetch(topic, 0))) == [(0, 1, ["a"])]
            wait = {"wait_ms": 30_000}
            answer = await client.call(1, version, fetch(topic, 5, **wait))
            assert fetched(answer)[0][0] == ErrorCode.OFFSET_OUT_OF_RANGE
            answer = await client.call(1, version, fetch(topic, 0, 0, **wait))
            assert [part[0] for part in fetched(answer)] == [0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
            missing: str | UUID = UUID(int=99) if by_id else "missing"
            answer = await client.call(1, version, fetch(missing, 0, **wait))
            expected = ErrorCode.UNKNOWN_TOPIC_ID if by_id else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            assert fetched(answer)[0][0] == expected
            if version >= 7:
                answer = await client.call(1, version, fetch(topic, 0, SessionId=5, SessionEpoch=1))
                assert answer["ErrorCode"] == ErrorCode.FETCH_SESSION_ID_NOT_FOUND

    run(main())


def test_a_deleted_hub_ends_its_long_polls_and_its_id_is_not_reused(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            hub = await served.broker.create_hub("h", 1)
            client = await served.client()
            client.send(1, 16, fetch(hub.id, 0, wait_ms=60_000))
            await until(lambda: len(served.head.context.waits) == 1)
            await served.broker.delete_hub("h")
            await served.broker.create_hub("h", 1)
            assert fetched((await client.receive())[1])[0][0] != 0
            assert fetched(await client.call(1, 16, fetch(hub.id, 0)))[0][0] == ErrorCode.UNKNOWN_TOPIC_ID

    run(main())


# -- offsets, positions


def test_list_offsets(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            await served.broker.create_hub("h", 1)
            client = await served.client()

            async def ask(timestamp: int, version: int = 9, **more: Any) -> tuple[int, int, int]:
                part = {"PartitionIndex": 0, "Timestamp": timestamp, **more}
                answer = await client.call(2, version, {"Topics": [{"Name": "h", "Partitions": [part]}]})
                found = answer["Topics"][0]["Partitions"][0]
                return found["ErrorCode"], found["Offset"], found["Timestamp"]

            assert await ask(-3) == (0, -1, -1)
            await client.call(0, 9, produce("h", (0, batch("a", "b", "c", timestamps=[1000, 5000, 2000]))))
            await client.call(0, 9, produce("h", (0, batch("d", "e", timestamps=[3000, 4000]))))
            assert await ask(-1) == (0, 5, -1)
            assert await ask(-2) == (0, 0, -1)
            assert await ask(-3) == (0, 1, 5000)
            assert await ask(-4) == (0, 0, -1)
            assert await ask(-5) == (0, -1, -1)
            assert await ask(0, version=1) == (0, 0, 1000)
            assert await ask(1001) == (0, 1, 5000)
            assert await ask(5000) == (0, 1, 5000)
            assert await ask(5001) == (0, -1, -1)
            for timestamp, version in ((-3, 6), (-4, 7), (-5, 8), (-6, 9)):
                assert (await ask(timestamp, version))[0] == ErrorCode.UNSUPPORTED_VERSION
            assert (await ask(-1, CurrentLeaderEpoch=3))[0] == ErrorCode.UNKNOWN_LEADER_EPOCH

            async def epoch_end(epoch: int) -> tuple[int, int]:
                part = {"Partition": 0, "LeaderEpoch": epoch}
                answer = await client.call(23, 4, {"Topics": [{"Topic": "h", "Partitions": [part]}]})
                found = answer["Topics"][0]["Partitions"][0]
                return found["LeaderEpoch"], found["EndOffset"]

            assert await epoch_end(0) == (0, 5)
            assert await epoch_end(3) == (-1, -1)

    run(main())


def test_positions(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            await served.broker.create_hub("h", 2)
            client = await served.client()

            async def commit(part: int, offset: int, metadata: str | None = None, **more: Any) -> int:
                entry = {"PartitionIndex": part, "CommittedOffset": offset, "CommittedMetadata": metadata}
                body = {"GroupId": "g", "Topics": [{"Name": "h", "Partitions": [entry]}], **more}
                answer = await client.call(8, 9, body)
                return int(answer["Topics"][0]["Partitions"][0]["ErrorCode"])

            assert await commit(0, 7, "note") == 0
            assert await commit(1, 8) == 0
            assert await commit(5, 8) == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            assert await commit(0, 9, "x" * 5000) == ErrorCode.OFFSET_METADATA_TOO_LARGE
            unknown = {"GenerationIdOrMemberEpoch": 3, "MemberId": "nobody"}
            assert await commit(0, 9, **unknown) == ErrorCode.UNKNOWN_MEMBER_ID
            topics = [{"Name": "h", "PartitionIndexes": [0, 1, 2]}]
            for version in range(1, 8):
                answer = await client.call(9, version, {"GroupId": "g", "Topics": topics})
                found = [(p["CommittedOffset"], p["Metadata"]) for p in answer["Topics"][0]["Partitions"]]
                assert found == [(7, "note"), (8, ""), (-1, "")]
            for version in (8, 9):
                asked = [{"GroupId": "g", "Topics": None}, {"GroupId": "other", "Topics": None}]
                answer = await client.call(9, version, {"Groups": asked})
                assert [len(group["Topics"]) for group in answer["Groups"]] == [1, 0]
                assert [p["CommittedOffset"] for p in answer["Groups"][0]["Topics"][0]["Partitions"]] == [7, 8]

    run(main())


# -- groups


def test_one_member_through_its_life(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            client = await served.client()
            join = {
                "GroupId": "g", "SessionTimeoutMs": 10_000, "RebalanceTimeoutMs": 10_000, "MemberId": "",
                "ProtocolType": "consumer", "Protocols": [{"Name": "range", "Metadata": b"meta"}],
            }  # fmt: skip
            answer = await client.call(11, 9, join)
            assert answer["ErrorCode"] == ErrorCode.MEMBER_ID_REQUIRED
            member = answer["MemberId"]
            answer = await client.call(11, 9, {**join, "MemberId": member})
            assert (answer["ErrorCode"], answer["Leader"], answer["ProtocolName"]) == (0, member, "range")
            assert [(each["MemberId"], each["Metadata"]) for each in answer["Members"]] == [(member, b"meta")]
            me = {"GroupId": "g", "GenerationId": answer["GenerationId"], "MemberId": member}
            sync = {**me, "Assignments": [{"MemberId": member, "Assignment": b"mine"}]}
            assert (await client.call(14, 5, sync))["Assignment"] == b"mine"
            assert (await client.call(12, 4, me))["ErrorCode"] == 0
            stale = {**me, "GenerationId": 99}
            assert (await client.call(12, 4, stale))["ErrorCode"] == ErrorCode.ILLEGAL_GENERATION
            asked = {"Groups": ["g", "nobody"], "IncludeAuthorizedOperations": True}
            described = (await client.call(15, 6, asked))["Groups"]
            assert described[0]["GroupState"] == "Stable"
            assert [each["MemberAssignment"] for each in described[0]["Members"]] == [b"mine"]
            assert described[0]["Members"][0]["ClientHost"] == "/127.0.0.1"
            assert (described[1]["GroupState"], described[1]["ErrorCode"]) == ("Dead", ErrorCode.GROUP_ID_NOT_FOUND)
            deleted = await client.call(42, 2, {"GroupsNames": ["g"]})
            assert deleted["Results"][0]["ErrorCode"] == ErrorCode.NON_EMPTY_GROUP
            listed = (await client.call(16, 5, {"StatesFilter": ["stable"], "TypesFilter": []}))["Groups"]
            assert [(each["GroupId"], each["GroupState"]) for each in listed] == [("g", "Stable")]
            assert (await client.call(16, 5, {"StatesFilter": ["empty"], "TypesFilter": []}))["Groups"] == []
            left = await client.call(13, 5, {"GroupId": "g", "Members": [{"MemberId": member}, {"MemberId": "x"}]})
            assert [each["ErrorCode"] for each in left["Members"]] == [0, ErrorCode.UNKNOWN_MEMBER_ID]
            assert (await client.call(42, 2, {"GroupsNames": ["g"]}))["Results"][0]["ErrorCode"] == 0

    run(main())


def test_a_group_known_by_positions_alone_is_empty_and_can_be_deleted(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            await served.broker.create_hub("h", 1)
            client = await served.client()
            entry = {"PartitionIndex": 0, "CommittedOffset": 1, "CommittedMetadata": None}
            await client.call(8, 2, {"GroupId": "g", "Topics": [{"Name": "h", "Partitions": [entry]}]})
            assert (await client.call(15, 0, {"Groups": ["g"]}))["Groups"][0]["GroupState"] == "Empty"
            assert [each["GroupId"] for each in (await client.call(16, 0, {}))["Groups"]] == ["g"]
            assert (await client.call(42, 0, {"GroupsNames": ["g", "no"]}))["Results"] == [
                {"GroupId": "g", "ErrorCode": 0}, {"GroupId": "no", "ErrorCode": ErrorCode.GROUP_ID_NOT_FOUND},
            ]  # fmt: skip
            assert (await client.call(16, 0, {}))["Groups"] == []

    run(main())


def test_coordinators(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            client = await served.client()
            old = await client.call(10, 0, {"Key": "g"})
            assert (old["ErrorCode"], old["NodeId"], old["Port"]) == (0, 1, served.head.port)
            new = await client.call(10, 6, {"KeyType": 0, "CoordinatorKeys": ["a", "b"]})
            here = "127.0.0.1"
            assert [(each["Key"], each["Host"]) for each in new["Coordinators"]] == [("a", here), ("b", here)]
            transaction = await client.call(10, 6, {"KeyType": 1, "CoordinatorKeys": ["t"]})
            assert (transaction["Coordinators"][0]["ErrorCode"], transaction["Coordinators"][0]["Host"]) == (0, here)
            begun = await client.call(22, 4, {"TransactionalId": "t", "TransactionTimeoutMs": 1})
            assert (begun["ErrorCode"], begun["ProducerEpoch"]) == (0, 0)
            refused = await client.call(22, 4, {"TransactionalId": "t", "TransactionTimeoutMs": 2**31 - 1})
            assert refused["ErrorCode"] == ErrorCode.INVALID_TRANSACTION_TIMEOUT

    run(main())


# -- metadata and administration


def test_metadata(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            hub = await served.broker.create_hub("h", 2)
            await served.broker.create_hub("__internal", 1)
            client = await served.client()
            for version in range(14):
                answer = await client.call(3, version, {"Topics": [] if version == 0 else None})
                assert {topic["Name"] for topic in answer["Topics"]} == {"h", "__internal"}
                brokers = [(each["NodeId"], each["Host"], each["Port"]) for each in answer["Brokers"]]
                assert brokers == [(1, "127.0.0.1", served.head.port)]
            internal = {topic["Name"]: topic["IsInternal"] for topic in answer["Topics"]}
            assert internal == {"h": False, "__internal": True}
            assert (await client.call(3, 1, {"Topics": []}))["Topics"] == []
            asked = [{"Name": None, "TopicId": hub.id}, {"Name": None, "TopicId": UUID(int=9)}]
            answer = await client.call(3, 12, {"Topics": asked})
            assert [t["ErrorCode"] for t in answer["Topics"]] == [0, ErrorCode.UNKNOWN_TOPIC_ID]
            assert answer["Topics"][0]["Name"] == "h"
            assert answer["ClusterId"] == "test-cluster"

    run(main())


def test_auto_creation(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path, default_partitions=3) as served:
            client = await served.client()

            async def ask(name: str, allow: bool) -> tuple[int, int]:
                answer = await client.call(3, 12, {"Topics": [{"Name": name}], "AllowAutoTopicCreation": allow})
                return answer["Topics"][0]["ErrorCode"], len(answer["Topics"][0]["Partitions"])

            assert await ask("new", False) == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, 0)
            assert await ask("new", True) == (0, 3)
            assert await ask("not a name", True) == (ErrorCode.INVALID_TOPIC_EXCEPTION, 0)
        async with serve(tmp_path / "off", auto_create=False) as served:
            client = await served.client()
            assert await ask("other", True) == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, 0)

    run(main())


def _topic(name: str, partitions: int = -1, factor: int = -1, configs: Any = (), **more: Any) -> dict[str, Any]:
    shown = [{"Name": key, "Value": value} for key, value in dict(configs).items()]
    return {"Name": name, "NumPartitions": partitions, "ReplicationFactor": factor, "Configs": shown, **more}


def test_create_topics(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            await served.broker.create_hub("taken", 1)
            client = await served.client()
            assign = lambda *nodes: [{"PartitionIndex": i, "BrokerIds": [n]} for i, n in enumerate(nodes)]  # noqa: E731
            cases = [
                (_topic("plain"), 0),
                (_topic("three", 3, 1), 0),
                (_topic("assigned", Assignments=assign(1, 1)), 0),
                (_topic("habits", 1, 1, {"retention.ms": "1000", "min.insync.replicas": "1"}), 0),
                (_topic("taken"), ErrorCode.TOPIC_ALREADY_EXISTS),
                (_topic("bad name"), ErrorCode.INVALID_TOPIC_EXCEPTION),
                (_topic("none", 0), ErrorCode.INVALID_PARTITIONS),
                (_topic("many", 100_000), ErrorCode.INVALID_PARTITIONS),
                (_topic("replicated", 1, 3), ErrorCode.INVALID_REPLICATION_FACTOR),
                (_topic("elsewhere", Assignments=assign(1, 2)), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
                (_topic("odd", 1, 1, {"no.such.config": "1"}), ErrorCode.INVALID_CONFIG),
                (_topic("quorum", 1, 1, {"min.insync.replicas": "2"}), ErrorCode.INVALID_CONFIG),
                (_topic("negative", 1, 1, {"segment.bytes": "-7"}), ErrorCode.INVALID_CONFIG),
            ]
            body = {"Topics": [topic for topic, _ in cases]}
            only_checked = await client.call(19, 7, {**body, "ValidateOnly": True})
            assert [hub.name for hub in served.broker.hubs()] == ["taken"]
            answer = await client.call(19, 7, body)
            for result in (only_checked, answer):
                assert [topic["ErrorCode"] for topic in result["Topics"]] == [error for _, error in cases]
            usual = served.head.context.default_partitions
            assert [topic["NumPartitions"] for topic in answer["Topics"][:4]] == [usual, 3, 2, 1]
            assert served.broker.hub("habits").settings.retention_ms == 1000
            twice = await client.call(19, 7, {"Topics": [_topic("twin"), _topic("twin")]})
            assert {topic["ErrorCode"] for topic in twice["Topics"]} == {ErrorCode.INVALID_REQUEST}

    run(main())


def test_delete_topics_and_create_partitions(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            one, two = await served.broker.create_hub("one", 1), await served.broker.create_hub("two", 2)
            await served.broker.create_hub("__internal", 1)
            client = await served.client()

            async def grow(name: str, count: int, only_check: bool = False) -> int:
                body = {"Topics": [{"Name": name, "Count": count}], "ValidateOnly": only_check}
                return int((await client.call(37, 3, body))["Results"][0]["ErrorCode"])

            assert await grow("two", 4, only_check=True) == 0
            assert served.broker.hub("two").partitions == 2
            assert await grow("two", 4) == 0
            assert served.broker.hub("two").partitions == 4
            assert await grow("two", 4) == ErrorCode.INVALID_PARTITIONS
            assert await grow("none", 4) == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            assert await grow("__internal", 4) == ErrorCode.TOPIC_AUTHORIZATION_FAILED

            asked = [{"Name": None, "TopicId": two.id}, {"Name": None, "TopicId": UUID(int=3)}, {"Name": "__internal"}]
            answer = await client.call(20, 6, {"Topics": asked})
            expected = [0, ErrorCode.UNKNOWN_TOPIC_ID, ErrorCode.TOPIC_AUTHORIZATION_FAILED]
            assert [each["ErrorCode"] for each in answer["Responses"]] == expected
            answer = await client.call(20, 1, {"TopicNames": ["one", "two"]})
            assert [each["ErrorCode"] for each in answer["Responses"]] == [0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
            assert [hub.name for hub in served.broker.hubs()] == ["__internal"]
            assert one.id != two.id

    run(main())


def test_configs(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            await served.broker.create_hub("h", 1, {"retention_ms": 5000})
            client = await served.client()

            async def describe(kind: int, name: str, keys: list[str] | None = None) -> tuple[int, dict[str, Any]]:
                resource = {"ResourceType": kind, "ResourceName": name, "ConfigurationKeys": keys}
                body = {"Resources": [resource], "IncludeSynonyms": True, "IncludeDocumentation": True}
                found = (await client.call(32, 4, body))["Results"][0]
                return found["ErrorCode"], {config["Name"]: config for config in found["Configs"]}

            error, shown = await describe(2, "h")
            assert (error, shown["retention.ms"]["Value"], shown["retention.ms"]["ConfigSource"]) == (0, "5000", 1)
            assert shown["message.timestamp.type"]["Value"] == "CreateTime"
            assert shown["min.insync.replicas"]["ReadOnly"]
            assert list((await describe(2, "h", ["cleanup.policy"]))[1]) == ["cleanup.policy"]
            assert (await describe(2, "none"))[0] == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            assert (await describe(4, "1"))[1]["node.id"]["Value"] == "1"
            assert (await describe(8, "1"))[0] == ErrorCode.INVALID_REQUEST

            async def alter(
                name: str, value: str | None, operation: int = 0, kind: int = 2, check: bool = False
            ) -> int:
                config = {"Name": name, "Value": value, "ConfigOperation": operation}
                resource = {"ResourceType": kind, "ResourceName": "h", "Configs": [config]}
                answer = await client.call(44, 1, {"Resources": [resource], "ValidateOnly": check})
                return int(answer["Responses"][0]["ErrorCode"])

            settings = lambda: served.broker.hub("h").settings  # noqa: E731
            assert await alter("retention.ms", "7000", check=True) == 0
            assert settings().retention_ms == 5000
            assert await alter("retention.ms", "7000") == 0
            assert settings().retention_ms == 7000
            assert await alter("message.timestamp.type", "LogAppendTime") == 0
            assert settings().timestamp_type == "append"
            assert await alter("retention.ms", None, operation=1) == 0
            assert settings().retention_ms == 7 * 24 * 3600 * 1000
            assert await alter("retention.ms", "soon") == ErrorCode.INVALID_CONFIG
            assert await alter("retention.ms", "1", operation=2) == ErrorCode.INVALID_CONFIG
            assert await alter("unheard.of", "1") == ErrorCode.INVALID_CONFIG
            assert await alter("retention.ms", "1", kind=4) == ErrorCode.INVALID_REQUEST
            assert (await describe(2, "h"))[1]["cleanup.policy"]["ConfigType"] == 7
            for operation, value, left in (
                (2, "compact", "compact,delete"), (2, "delete, compact", "compact,delete"), (3, "delete", "compact"),
                (3, "nothing", "compact"),
            ):  # fmt: skip
                assert await alter("cleanup.policy", value, operation) == 0
                assert settings().cleanup == left
            for operation, value in ((3, "compact"), (2, "other"), (2, None), (4, "delete")):
                assert await alter("cleanup.policy", value, operation) == ErrorCode.INVALID_CONFIG
            assert settings().cleanup == "compact"

    run(main())


def test_log_append_time_is_answered(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            await served.broker.create_hub("h", 1, {"timestamp_type": "append"})
            client = await served.client()
            answer = await client.call(0, 9, produce("h", (0, batch("a"))))
            assert answer["Responses"][0]["PartitionResponses"][0]["LogAppendTimeMs"] > 1_600_000_000_000

    run(main())


def test_describe_cluster(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path, advertised_host="grid.example") as served:
            client = await served.client()
            answer = await client.call(60, 2, {"EndpointType": 1})
            brokers = [(each["BrokerId"], each["Host"], each["Port"]) for each in answer["Brokers"]]
            assert brokers == [(1, "grid.example", served.head.port)]
            assert answer["ClusterId"] == "test-cluster"
            answer = await client.call(60, 1, {"EndpointType": 2})
            assert answer["ErrorCode"] == ErrorCode.MISMATCHED_ENDPOINT_TYPE

    run(main())


# -- the end


@pytest.mark.parametrize("loop", LOOPS)
def test_stop_answers_what_is_pending(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            await served.broker.create_hub("h", 1)
            polling, idle, producing = await served.client(), await served.client(), await served.client()
            polling.send(1, 12, fetch("h", 0, wait_ms=60_000))
            await idle.call(18, 0, {})
            await until(lambda: len(served.head.context.waits) == 1)
            served.broker.holding = True
            producing.send(0, 9, produce("h", (0, batch("last"))))
            await until(lambda: served.broker.appends == 1)
            asyncio.get_running_loop().call_later(0.05, served.broker.gate.set_result, None)
            began = asyncio.get_running_loop().time()
            await served.head.stop()
            assert asyncio.get_running_loop().time() - began < head_limits.DRAIN_S
            assert fetched((await polling.receive())[1])[0][0] == 0
            assert produced((await producing.receive())[1]) == [(0, 0)]
            assert await idle.closed()
            assert await polling.closed()
            with pytest.raises(OSError):
                await served.client()

    run(main(), loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_half_closed_connection_gets_its_answers_but_no_waiting(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with serve(tmp_path) as served:
            await served.broker.create_hub("h", 1)
            producing, polling = await served.client(), await served.client()
            producing.send(0, 9, produce("h", (0, batch("last words"))))
            producing.send(3, 12, {"Topics": []})
            producing.writer.write_eof()
            assert produced((await producing.receive())[1]) == [(0, 0)]
            assert (await producing.receive())[0] == 2
            assert await producing.closed()
            polling.send(1, 12, fetch("h", 1, wait_ms=60_000))
            await until(lambda: len(served.head.context.waits) == 1)
            polling.writer.write_eof()
            assert await polling.closed()
            await until(lambda: not served.head.context.waits)

    run(main(), loop)
