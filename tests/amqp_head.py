"""The AMQP head over a broker whose answers the test gives, and clients of it, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

from amqp_machine import Client, Remote
from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.port import Appended
from gridwire.core.errors import GridwireError
from gridwire.heads.amqp.server import AmqpHead
from gridwire.wire.amqp.performatives import RECEIVER, SENDER
from gridwire.wire.amqp.records import data_section

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
async def serve(
    tmp_path: Path, settings: dict[str, Any] | None = None
) -> AsyncIterator[tuple[HoldingBroker, Callable[[], Any]]]:
    broker = await HoldingBroker.open(tmp_path / "data", "os", default_partitions=2)
    assert isinstance(broker, HoldingBroker)
    await broker.create_hub("h", 2, settings)
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
async def sending(
    tmp_path: Path, settings: dict[str, Any] | None = None
) -> AsyncIterator[tuple[HoldingBroker, Speaker, Any, Any]]:
    """A hub, and who has a link to send to its partition 0."""
    async with serve(tmp_path, settings) as (broker, connect):
        speaker = await connect()
        yield broker, speaker, speaker.machine, await speaker.link(SENDER, "h/Partitions/0")


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main, 2 * DEADLINE_S))


def message(text: str) -> bytes:
    return data_section(text.encode())
