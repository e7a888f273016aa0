"""The AMQP head over a broker whose acknowledgements the test completes: when what is told, and to whom."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.port import Appended
from gridwire.core.errors import GridwireError, StorageFailed, Unavailable
from gridwire.heads.amqp.server import AmqpHead
from gridwire.wire.amqp.performatives import RECEIVER, SENDER, Accepted, Close, Detach, End, Rejected, Released
from gridwire.wire.amqp.records import data_section

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amqp_machine import Client, Remote

DEADLINE_S = 30.0


class HoldingBroker(EmbeddedBroker):
    """The embedded broker; `hold` keeps its answers to appends until `release` lets them go."""

    hold = False

    def append(self, hub: str, partition: int, batches: bytearray | memoryview) -> asyncio.Future[Appended]:
        real = super().append(hub, partition, batches)
        if not self.hold:
            return real
        told: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self.held = [*getattr(self, "held", []), (told, real)]
        return told

    async def release(self, error: GridwireError | None = None) -> None:
        """Answer the oldest append that is held."""
        told, real = self.held.pop(0)
        result = await real
        if error is None:
            told.set_result(result)
        else:
            told.set_exception(error)


class Speaker:
    """A client's machine on a real socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.machine, self.reader, self.writer = Client(), reader, writer

    def push(self) -> None:
        self.writer.write(b"".join(self.machine.out))
        self.machine.out.clear()

    async def until(self, condition: Callable[[], Any]) -> None:
        """Exchange bytes until something holds."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self.push()
                data = await self.reader.read(65_536)
                assert data, "the hub closed the connection"
                self.machine.take(data)
            self.push()

    async def link(self, role: bool, address: str, credit: int = 0) -> Remote:
        link = self.machine.attach(role, address)
        if role is RECEIVER:
            self.machine.flow(link, credit)
        await self.until(lambda: link.attached is not None and (role is RECEIVER or link.credit > 0))
        return link

    async def settled_round(self) -> None:
        """Everything said so far was read, and everything that was due has been answered."""
        link = self.machine.attach(SENDER, "$management")
        await self.until(lambda: link.attached is not None)


@asynccontextmanager
async def serve(tmp_path: Path) -> AsyncIterator[tuple[HoldingBroker, Callable[[], Any]]]:
    broker = await HoldingBroker.open(tmp_path / "data", "os", default_partitions=2)
    assert isinstance(broker, HoldingBroker)
    await broker.create_hub("h", 2)
    head = AmqpHead(broker, host="127.0.0.1", port=0)
    await head.start()
    speakers: list[Speaker] = []

    async def connect() -> Speaker:
        speakers.append(Speaker(*await asyncio.open_connection("127.0.0.1", head.port)))
        return speakers[-1]

    try:
        yield broker, connect
    finally:
        for speaker in speakers:
            speaker.writer.close()
        await head.stop()
        await broker.close()


@asynccontextmanager
async def sending(tmp_path: Path) -> AsyncIterator[tuple[HoldingBroker, Speaker, Any, Any]]:
    """A hub, and who has a link to send to its partition 0."""
    async with serve(tmp_path) as (broker, connect):
        speaker = await connect()
        yield broker, speaker, speaker.machine, await speaker.link(SENDER, "h/Partitions/0")


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main, 2 * DEADLINE_S))


def message(text: str) -> bytes:
    return data_section(text.encode())


def test_accepted_leaves_only_after_the_append(tmp_path: Path) -> None:

    async def main() -> None:
        async with sending(tmp_path) as (broker, speaker, machine, link):
            broker.hold = True
            first = machine.send(link, message("a"))
            await speaker.until(lambda: True)
            await speaker.settled_round()
            second = machine.send(link, message("b"))
            await speaker.until(lambda: True)
            await speaker.settled_round()
            assert machine.outcomes == {}
            await broker.release()
            await speaker.until(lambda: machine.outcomes)
            assert {key: type(state) for key, state in machine.outcomes.items()} == {first: Accepted}
            await broker.release()
            await speaker.until(lambda: second in machine.outcomes)

    run(main())


@pytest.mark.parametrize("error", [StorageFailed("the disk is full"), Unavailable("not now")])
def test_a_failed_append_is_server_busy_and_nothing_else(tmp_path: Path, error: GridwireError) -> None:

    async def main() -> None:
        async with sending(tmp_path) as (broker, speaker, machine, link):
            broker.hold = True
            number = machine.send(link, message("a"))
            await speaker.settled_round()
            await broker.release(error)
            await speaker.until(lambda: number in machine.outcomes)
            state = machine.outcomes[number]
            assert isinstance(state, Rejected)
            assert state.error is not None
            assert state.error.condition == "com.microsoft:server-busy"
            broker.hold = False
            again = machine.send(link, message("a"))
            await speaker.until(lambda: again in machine.outcomes)
            assert isinstance(machine.outcomes[again], Accepted)

    run(main())


def test_an_end_before_the_append_is_not_spoken_into(tmp_path: Path) -> None:
    """The append succeeds after its session ended, or its link: nothing is said there, and nothing else is hurt."""

    async def main() -> None:
        async with sending(tmp_path) as (broker, speaker, machine, link):
            broker.hold = True
            machine.send(link, message("a"))
            await speaker.settled_round()
            machine.say(End())
            await speaker.until(lambda: machine.ended is not None)
            await broker.release()
            machine.say(Close(), channel=0)
            await speaker.until(lambda: machine.closed is not None)
            assert machine.outcomes == {}
            assert (await broker.bounds("h", 0)).end == 1

    run(main())


def test_an_event_sent_settled_is_not_answered(tmp_path: Path) -> None:

    async def main() -> None:
        async with sending(tmp_path) as (broker, speaker, machine, link):
            silent = machine.send(link, message("a"), settled=True)
            told = machine.send(link, message("b"))
            await speaker.until(lambda: told in machine.outcomes)
            assert silent not in machine.outcomes
            assert (await broker.bounds("h", 0)).end == 2

    run(main())


def test_a_share_goes_on_where_the_one_before_committed(tmp_path: Path) -> None:
    """What the leaver settled last is committed before anybody takes over, so it does not come twice."""

    async def main() -> None:
        async with serve(tmp_path) as (_, connect):
            sender, one, two = await connect(), await connect(), await connect()
            link = await sender.link(SENDER, "h/Partitions/0")
            for number in range(4):
                sender.machine.send(link, message(str(number)))
            await sender.until(lambda: len(sender.machine.outcomes) == 4)
            leaving = await one.link(RECEIVER, "h", credit=3)
            await one.until(lambda: len(leaving.deliveries) == 3)
            staying = await two.link(RECEIVER, "h", credit=10)
            one.machine.settle(0, 1, Accepted())
            one.machine.settle(2, 2, Released())
            one.machine.say(Detach(leaving.handle, True))
            await one.until(lambda: leaving.detached is not None)
            await two.until(lambda: len(staying.deliveries) == 2)
            bodies = [data[-1:] for _, data in staying.deliveries]
            assert bodies == [b"2", b"3"]

    run(main())
