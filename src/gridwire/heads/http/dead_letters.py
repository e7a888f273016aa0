"""Dead letters given to their function again, and to no other reader: for `gridwire dlq replay` and the page."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Final

from gridwire.broker.port import Journal, Place, Position
from gridwire.core.batch import Event, decode, encode, iter_headers
from gridwire.core.errors import HubExists, UnknownHub
from gridwire.core.hubs import again_of, dead_letters_of
from gridwire.core.limits import MIB
from gridwire.wire.http.problems import HttpError

GROUP: Final = "dlq.replay"
"""Its positions say how far the letters of each hub were replayed."""

READ_BYTES: Final = MIB


class DeadLetters:
    """See the module. The letters of a function lie in partition 0 of its hub."""

    def __init__(self, broker: Journal) -> None:
        self._broker = broker
        self._one = asyncio.Lock()

    async def counts(self, functions: Iterable[tuple[str, str]]) -> dict[tuple[str, str], tuple[int, int]]:
        """Letters that are kept, and those of them that were not replayed, by app and function that has some."""
        hubs = {dead_letters_of(app, name): (app, name) for app, name in functions}
        found = await self._broker.bounds_of([(hub, 0) for hub in hubs])
        positions = await self._broker.positions(GROUP)
        counted = {}
        for place, bounds in found.items():
            position = positions.get(place)
            begin = bounds.start if position is None else max(bounds.start, position.offset)
            counted[hubs[place[0]]] = (bounds.end - bounds.start, max(0, bounds.end - begin))
        return counted

    async def replay(self, app: str, function: str, offset: int | None) -> int:
        """Give the function its letters again: all that were not replayed, or one. Durable when it returns.

        Returns:
            How many events the function gets.

        Raises:
            HttpError 404: there are no letters, or not this one.
        """
        hub = dead_letters_of(app, function)
        place: Place = (hub, 0)
        async with self._one:  # two at once would give every letter twice
            try:
                bounds = await self._broker.bounds(hub, 0)
            except UnknownHub:
                raise HttpError(404, no_letters(f"{app}.{function}")) from None
            if offset is not None:
                if not bounds.start <= offset < bounds.end:
                    there = f"there are {bounds.start} to {bounds.end - 1}" if bounds.end > bounds.start else "none"
                    raise HttpError(404, f"{app}.{function} has no dead letter at offset {offset}: {there}")
                return await self._send(app, function, place, offset, offset + 1)
            position = (await self._broker.positions(GROUP)).get(place)
            at = bounds.start if position is None else max(bounds.start, position.offset)
            total = 0
            while at < bounds.end:
                following = min(bounds.end, await self._following(place, at))
                total += await self._send(app, function, place, at, following)
                at = following  # after sending: a crash in between repeats letters, it loses none
                await self._broker.commit(GROUP, {place: Position(at)})
            return total

    async def _following(self, place: Place, at: int) -> int:
        """Where the stretch that one read gives ends."""
        read = await self._broker.read(*place, at, READ_BYTES, committed=True)
        return max([at + 1, *(header.next_offset for _, header in iter_headers(read.data))])

    async def _send(self, app: str, function: str, place: Place, begin: int, end: int) -> int:
        read = await self._broker.read(*place, begin, READ_BYTES, committed=True)
        events: list[Event] = []
        for position, _ in iter_headers(read.data):
            events += [event for event in decode(read.data, position) if begin <= event.offset < end]
        if not events:
            return 0
        again = again_of(app, function)
        if again not in {info.name for info in self._broker.hubs()}:
            with contextlib.suppress(HubExists):
                await self._broker.create_hub(again, 1)
        await self._broker.append(again, 0, encode(events))
        return len(events)


def no_letters(function: str) -> str:
    """What somebody is told who asks for the letters of a function that has none."""
    return f"there are no dead letters of {function[:170]!r}: `gridwire dlq list` shows the functions that have some"
