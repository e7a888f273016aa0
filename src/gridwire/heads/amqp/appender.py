"""Deliveries to appends: what arrives in one turn of the loop for one partition becomes one batch.

A thousand meters that send one event each cost one append and one sync then, not a thousand. In a hub that refuses
events without a key a delivery is a batch of its own, so that nobody's event is refused for his neighbour's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from gridwire.broker.port import Appended, HubInfo, Place
from gridwire.core.errors import Unavailable
from gridwire.core.limits import MIB
from gridwire.heads.amqp.context import Context
from gridwire.wire.amqp.link import Delivery
from gridwire.wire.amqp.records import Records

Done = Callable[[BaseException | None, int], None]
"""Called once a delivery is as durable as promised, or failed; with the number of its events."""

BATCH_BYTES_TARGET: Final = MIB
"""A batch that has grown this large is appended at once."""

BATCH_EVENTS_TARGET: Final = 4096
"""As above: beyond it records no longer begin with a byte sequence that is ready made."""


class _Filling:
    """A batch being filled, and who waits for it."""

    __slots__ = ("records", "waiting")

    def __init__(self) -> None:
        self.records = Records()
        self.waiting: list[tuple[Done, int]] = []


class Appender:
    """See the module. One for the whole head: it keeps the order in which deliveries of a link came."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._filling: dict[Place, _Filling] = {}
        self._due = False

    def add(self, hub: HubInfo, partition: int, delivery: Delivery, key: bytes | None, done: Done) -> None:
        """Take one delivery in. Raises AmqpError when it is malformed."""
        place = (hub.name, partition)
        filling = self._filling.get(place)
        alone = "compact" in hub.settings.cleanup
        target = 0 if alone else min(BATCH_BYTES_TARGET, hub.settings.message_bytes_max // 2)
        if filling is not None and filling.records.size + delivery.size > target:
            self._append(place)
            filling = None
        if filling is None:
            filling = self._filling[place] = _Filling()
        try:
            count = filling.records.add_delivery(
                delivery.data, delivery.start, delivery.end, delivery.message_format, key
            )
        except BaseException:
            if not filling.waiting:
                del self._filling[place]
            raise
        filling.waiting.append((done, count))
        if filling.records.size >= target or filling.records.count >= BATCH_EVENTS_TARGET:
            self._append(place)
        elif not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._due = False
        for place in list(self._filling):
            self._append(place)

    def _append(self, place: Place) -> None:
        filling = self._filling.pop(place)
        batch = filling.records.batch(self._context.clock.now_ms())
        future = self._context.broker.append(place[0], place[1], batch)
        future.add_done_callback(partial(_appended, filling))


def _appended(filling: _Filling, future: asyncio.Future[Appended]) -> None:
    error = Unavailable("the hub is shutting down") if future.cancelled() else future.exception()
    for done, count in filling.waiting:
        done(error, count)
