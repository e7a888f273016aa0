"""Deliveries to appends: what arrives in one turn of the loop for one partition becomes one batch.

A thousand meters that send one event each cost one append and one sync then, not a thousand. Nobody's event is refused
for his neighbour's: in a hub that refuses events without a key a delivery is a batch of its own from the start, and a
shared batch that is refused for what is in it is appended again delivery by delivery.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final, Protocol

from gridwire.broker.port import Appended, Place
from gridwire.core.errors import InvalidBatch, InvalidRecord, MessageTooLarge, Unavailable
from gridwire.core.limits import MIB
from gridwire.heads.amqp.context import Context
from gridwire.wire.amqp.link import Delivery
from gridwire.wire.amqp.records import Records


class Taker(Protocol):
    """Who hands in deliveries and is told what became of them."""

    key: bytes | None
    """For events without one."""

    def done(self, deliveries: Sequence[Delivery], error: BaseException | None) -> None:
        """They are as durable as promised, or failed."""
        ...


Taken = tuple[Taker, Delivery]

BATCH_BYTES_TARGET: Final = MIB
"""A batch that has grown this large is appended at once."""

BATCH_EVENTS_TARGET: Final = 4096
"""As above: beyond it records no longer begin with a byte sequence that is ready made."""

_OF_CONTENT: Final = (InvalidBatch, InvalidRecord, MessageTooLarge)
"""Errors that one delivery of a batch may be to blame for."""


class _Filling:
    """A batch being filled, and who waits for it."""

    __slots__ = ("records", "taken", "target")

    def __init__(self, target: int) -> None:
        self.records = Records()
        self.taken: list[Taken] = []
        self.target = target


class Appender:
    """See the module. One for the whole head: it keeps the order in which deliveries of a link came."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._filling: dict[Place, _Filling] = {}
        self._last: dict[Place, list[Taken]] = {}
        """What was appended last, as long as it is under way."""
        self._due = False

    def add(self, place: Place, taker: Taker, delivery: Delivery, size: int) -> None:
        """Take one delivery of `size` bytes in. Raises AmqpError when it is malformed, UnknownHub."""
        filling = self._filling.get(place)
        if filling is not None and filling.records.size + size > filling.target:
            self._append(place)
            filling = None
        if filling is None:
            filling = self._filling[place] = _Filling(self._target(place))
        records = filling.records
        try:
            records.add_delivery(delivery.data, delivery.start, delivery.end, delivery.message_format, taker.key)
        except BaseException:
            if not filling.taken:
                del self._filling[place]
            raise
        filling.taken.append((taker, delivery))
        if records.size >= filling.target or records.count >= BATCH_EVENTS_TARGET:
            self._append(place)
        elif not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _target(self, place: Place) -> int:
        settings = self._context.broker.hub(place[0]).settings
        return 0 if "compact" in settings.cleanup else min(BATCH_BYTES_TARGET, settings.message_bytes_max // 2)

    def _flush(self) -> None:
        self._due = False
        for place in list(self._filling):
            self._append(place)

    def _append(self, place: Place) -> None:
        filling = self._filling.pop(place)
        self._submit(place, filling.records, filling.taken)

    def _submit(self, place: Place, records: Records, taken: list[Taken]) -> None:
        future = self._context.broker.append(*place, records.batch(self._context.clock.now_ms()))
        self._last[place] = taken
        if future.done():  # refused at once: nothing can have come between
            self._appended(place, records.count, taken, future)
        else:
            future.add_done_callback(partial(self._appended, place, records.count, taken))

    def _appended(self, place: Place, count: int, taken: list[Taken], future: asyncio.Future[Appended]) -> None:
        error = Unavailable("the hub is shutting down") if future.cancelled() else future.exception()
        last = self._last.get(place) is taken
        if last:
            del self._last[place]
        if isinstance(error, _OF_CONTENT) and len(taken) > 1:
            if last:
                self._apart(place, taken)
                return
            # A later batch is in the log already, and events of one link may not change places.
            error = Unavailable("a batch this was part of is refused, perhaps for another delivery: send it again")
        if error is None:
            self._context.counters.events_in += count
        for taker, deliveries in _by_taker(taken).items():
            taker.done(deliveries, error)

    def _apart(self, place: Place, taken: list[Taken]) -> None:
        """Append what was refused as one batch, each delivery in its own."""
        for taker, delivery in taken:
            records = Records()
            records.add_delivery(delivery.data, delivery.start, delivery.end, delivery.message_format, taker.key)
            self._submit(place, records, [(taker, delivery)])


def _by_taker(taken: list[Taken]) -> dict[Taker, list[Delivery]]:
    found: dict[Taker, list[Delivery]] = {}
    for taker, delivery in taken:
        deliveries = found.get(taker)
        if deliveries is None:
            deliveries = found[taker] = []
        deliveries.append(delivery)
    return found
