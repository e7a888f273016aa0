"""A link on which a peer sends: each delivery becomes records of one partition, and is accepted once it is on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import structlog

from gridwire.broker.port import HubInfo
from gridwire.core.errors import GridwireError, MessageTooLarge
from gridwire.heads.amqp.context import MESSAGE_BYTES_MAX, SENDER_CREDIT
from gridwire.wire.amqp.errors import AmqpError, condition_of
from gridwire.wire.amqp.link import Delivery, Link
from gridwire.wire.amqp.performatives import rejected
from gridwire.wire.amqp.records import key_of
from gridwire.wire.http.partitioner import partition_of

if TYPE_CHECKING:
    from gridwire.heads.amqp.connection import Connection

log = structlog.get_logger(__name__)

RECORD_MARGIN_BYTES: Final = 64 * 1024
"""What the records of a message may take beyond the message itself."""


class Sender:
    """See the module."""

    def __init__(self, connection: Connection, link: Link, hub: HubInfo, partition: int, publisher: str) -> None:
        self._connection = connection
        self._context = connection.context
        self._link = link
        self._hub = hub
        self._place = (hub.name, partition) if partition >= 0 else None
        self.key = publisher.encode() or None

    @property
    def max_message_size(self) -> int:
        """Said in attach. The Azure SDKs fill their batches up to it, so they get the service's own."""
        limit = self._hub.settings.message_bytes_max
        most = MESSAGE_BYTES_MAX if self._connection.azure else limit
        return max(1024, min(most, limit - RECORD_MARGIN_BYTES) if limit > 2 * RECORD_MARGIN_BYTES else limit // 2)

    def start(self) -> None:
        """Let the peer send."""
        self._connection.engine.grant(self._link, SENDER_CREDIT)

    def deliver(self, delivery: Delivery) -> None:
        """Take one delivery."""
        if self._link.credit < SENDER_CREDIT // 2:
            self._connection.engine.grant(self._link, SENDER_CREDIT)
        size = delivery.end - delivery.start
        self._connection.charge(size)  # before the append: it may be refused at once
        try:
            self._check(size)
            place = self._place or (self._hub.name, self._turn(delivery))
            self._context.appender.add(place, self, delivery, size)
        except GridwireError as error:
            self._connection.release(size)
            self._refuse(delivery, error)

    def _check(self, size: int) -> None:
        if not self._connection.may_send(self._hub.name):
            raise AmqpError("amqp:unauthorized-access", f"sending to {self._hub.name!r} takes Send")
        limit = self._hub.settings.message_bytes_max
        if size > limit:
            raise MessageTooLarge(f"a message of {size} bytes; hub {self._hub.name!r} takes {limit}")

    def _turn(self, delivery: Delivery) -> int:
        """The partition of a delivery that may go to any."""
        key = self.key
        if key is None:
            key = key_of(delivery.data, delivery.start, delivery.end)
        if key is None:
            return self._connection.head.turn_of(self._hub)
        return partition_of(key, self._hub.partitions)

    def done(self, deliveries: Sequence[Delivery], error: BaseException | None) -> None:
        """They are as durable as promised, or failed."""
        self._connection.release(sum(delivery.end - delivery.start for delivery in deliveries))
        if error is not None:
            for delivery in deliveries:
                self._refuse(delivery, error)
            return
        told = [delivery.id for delivery in deliveries if not delivery.settled]
        if told:
            self._link.session.settling += told
            self._connection.flush_soon()

    def _refuse(self, delivery: Delivery, error: BaseException) -> None:
        """Say why a delivery is not taken. One that was sent settled cannot be told of: its link ends."""
        if not isinstance(error, GridwireError):
            log.error("amqp_append_failed", exc_info=error)
        condition, description = condition_of(error)
        self._context.counters.deliveries_refused += 1
        if delivery.settled:
            self._connection.engine.detach(self._link, condition, description)
        elif self._link.alive:
            self._connection.engine.settle(self._link, delivery.id, rejected(condition, description))
        self._connection.flush_soon()

    def credited(self) -> None:
        """The peer told where it stands; nothing to do."""

    def settle(self, first: int, last: int, state: Any, settled: bool) -> None:
        """Not for a sender."""

    def end(self, condition: str, description: str) -> None:
        """Detach the link."""
        self._connection.engine.detach(self._link, condition, description)
        self._connection.flush_soon()

    def allowed(self) -> bool:
        """Whether the peer may still use it."""
        return self._connection.may_send(self._hub.name)

    def close(self) -> None:
        """The link is gone; appends under way go on."""
