"""A gateway's broker on a cluster that fails: brokers are killed, all of them or the leader, and come back.

Every event that is acknowledged is there, once and in order; what is not acknowledged says so. Negative controls: an
acknowledgement of the leader alone is lost with it; and see `test_a_lost_acknowledgement_makes_no_duplicate`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from brokers import KafkaStore, OpenBroker
from gridwire.broker import kafka_append
from gridwire.core.batch import Event, decode, encode, iter_headers
from gridwire.core.errors import Unavailable
from kafka_cluster import KafkaCluster, required

DEADLINE_S = 120.0
pytestmark = pytest.mark.timeout(600)


def batch(value: bytes) -> bytearray:
    return encode([Event(value, timestamp=int(time.time() * 1000))])


async def values(broker: OpenBroker, hub: str) -> list[bytes | None]:
    found: list[bytes | None] = []
    offset, end = 0, (await broker.bounds(hub, 0)).end
    while offset < end:
        read = await broker.read(hub, 0, offset, 1 << 20)
        for position, header in iter_headers(read.data):
            found += [event.value for event in decode(read.data, position)]
            offset = header.next_offset
    return found


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not await condition():
        assert time.monotonic() < deadline_s, "it did not happen"
        await asyncio.sleep(0.05)


class Load:
    """Appends numbered events, several at a time, until told to stop; remembers what was acknowledged where."""

    def __init__(self, broker: OpenBroker, hub: str) -> None:
        self._broker, self._hub = broker, hub
        self.acknowledged: dict[int, int] = {}
        self.refused: dict[int, Exception] = {}
        self._stop = asyncio.Event()
        self._numbers = itertools.count()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self._stop.is_set():
            numbers = [next(self._numbers) for _ in range(5)]
            futures = [self._broker.append(self._hub, 0, batch(b"%d" % n)) for n in numbers]
            for number, result in zip(numbers, await asyncio.gather(*futures, return_exceptions=True), strict=True):
                if isinstance(result, Exception):
                    self.refused[number] = result
                else:
                    assert not isinstance(result, BaseException)
                    self.acknowledged[number] = result.base_offset
            await asyncio.sleep(0.002)

    async def more(self, count: int = 20) -> None:
        """Wait until so many more are acknowledged."""
        wanted = len(self.acknowledged) + count

        async def reached() -> bool:
            assert not self._task.done(), self._task.exception()
            return len(self.acknowledged) >= wanted

        await until(reached)

    async def stop(self) -> None:
        self._stop.set()
        await self._task

    def check(self, found: list[bytes | None]) -> None:
        """Every acknowledged event lies where its acknowledgement said, once; the others once or not at all."""
        for number, offset in self.acknowledged.items():
            assert found[offset] == b"%d" % number
        assert len(found) == len(set(found)), "an event is there twice"
        assert [int(each or b"") for each in found] == sorted(int(each or b"") for each in found), "out of order"


def test_a_leader_killed_under_load_loses_and_doubles_nothing(kafka_three: KafkaCluster) -> None:
    async def scenario() -> None:
        store = KafkaStore(kafka_three.bootstrap)
        async with store.opened() as broker:
            await broker.create_hub("a", 1)
            assert broker.durable("a")
            load = Load(broker, "a")
            await load.more()
            leader = await asyncio.to_thread(kafka_three.leader, store.address.topic("a"))
            leader.kill()
            await load.more()
            await asyncio.to_thread(kafka_three.start)
            await load.more()
            await load.stop()
            assert not load.refused
            load.check(await values(broker, "a"))

    asyncio.run(scenario())


def test_two_of_three_killed_nothing_is_acknowledged_and_service_resumes(kafka_three: KafkaCluster) -> None:
    async def scenario() -> None:
        store = KafkaStore(kafka_three.bootstrap)
        async with store.opened(append_timeout_s=3.0) as broker:
            await broker.create_hub("a", 1)
            load = Load(broker, "a")
            await load.more()
            leader = await asyncio.to_thread(kafka_three.leader, store.address.topic("a"))
            for node in kafka_three.nodes:
                if node is not leader:
                    node.kill()

            async def refusing() -> bool:
                return bool(load.refused)

            await until(refusing)
            before = len(load.acknowledged)
            refused = len(load.refused)

            async def more_refused() -> bool:
                return len(load.refused) > refused

            await until(more_refused)
            assert len(load.acknowledged) == before, "acknowledged by one broker of three"
            assert all(isinstance(each, Unavailable) for each in load.refused.values())
            await asyncio.to_thread(kafka_three.start)
            await load.more()
            await load.stop()
            found = await values(broker, "a")
            for number, offset in load.acknowledged.items():
                assert found[offset] == b"%d" % number
            assert len(found) == len(set(found))

    asyncio.run(scenario())


def test_control_what_only_the_leader_has_is_lost_with_it(
    kafka_three: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: the followers stand still, the leader takes an event with acks=1, dies, and it is lost.

    A fetch that a follower had sent before it was stopped may still be answered: then another attempt.
    """

    async def lost(hub: str) -> bool:
        store = KafkaStore(kafka_three.bootstrap)
        async with store.opened() as broker:
            await broker.create_hub(hub, 1)
            monkeypatch.setattr(kafka_append, "ACKS", -1)
            await broker.append(hub, 0, batch(b"before"))
            monkeypatch.setattr(kafka_append, "ACKS", 1)
            leader = await asyncio.to_thread(kafka_three.leader, store.address.topic(hub))
            followers = [node for node in kafka_three.nodes if node is not leader]
            for node in followers:
                os.kill(node.pid, signal.SIGSTOP)
            try:
                await broker.append(hub, 0, batch(b"answers the fetch that followers left waiting"))
                assert (await broker.append(hub, 0, batch(b"after"))).base_offset == 2
                leader.kill()
            finally:
                for node in followers:
                    os.kill(node.pid, signal.SIGCONT)
            await asyncio.to_thread(kafka_three.start)
        async with store.opened() as broker:
            left = await values(broker, hub)
            assert left[0] == b"before"
            return b"after" not in left

    async def scenario() -> None:
        for attempt in range(5):
            if await lost(f"a{attempt}"):
                return
        pytest.fail("the control is no control: it was replicated each time")

    asyncio.run(scenario())


def test_a_cluster_that_dies_and_returns(tmp_path: Path) -> None:
    """Meanwhile requests fail with the reason, soon; then they succeed without a restart. Control state follows."""
    required()

    async def scenario(cluster: KafkaCluster) -> None:
        store = KafkaStore(cluster.bootstrap)
        async with store.opened(append_timeout_s=3 * DEADLINE_S) as broker, store.opened() as other:
            await broker.create_hub("a", 1)
            await broker.append("a", 0, batch(b"before"))
            waiting = asyncio.create_task(broker.wait({("a", 0): 1}, 3 * DEADLINE_S))
            cluster.kill()
            hanging = broker.append("a", 0, batch(b"hanging"))  # on its way when the cluster dies

            async def noticed() -> bool:
                return broker.trouble is not None and other.trouble is not None

            await until(noticed)
            assert "cannot be reached" in str(broker.trouble)
            for refused in (
                broker.append("a", 0, batch(b"refused")),
                broker.read("a", 0, 0, 100),
                broker.bounds("a", 0),
                broker.positions("g"),
                broker.create_hub("b"),
                broker.change({"x": b"1"}),
            ):
                begun_s = time.monotonic()
                with pytest.raises(Unavailable):
                    await refused
                assert time.monotonic() - begun_s < 30
            assert [hub.name for hub in broker.hubs()] == ["a"]
            await asyncio.to_thread(cluster.start)

            async def back() -> bool:
                return broker.trouble is None and other.trouble is None

            await until(back)
            await broker.append("a", 0, batch(b"after"))
            await asyncio.wait_for(waiting, DEADLINE_S)
            found = await values(broker, "a")
            assert (await asyncio.wait_for(hanging, DEADLINE_S)).base_offset == found.index(b"hanging")
            assert found[0] == b"before"
            assert found[-1] == b"after"
            assert b"refused" not in found
            assert found.count(b"hanging") == 1
            await broker.change({"x": b"2"})

            async def followed() -> bool:
                return dict(other.kept("x")) == {"": b"2"}

            await until(followed)

    with KafkaCluster(tmp_path / "kafka") as cluster:
        asyncio.run(scenario(cluster))
