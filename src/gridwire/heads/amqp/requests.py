"""`$cbs` and `$management`: what they are asked, and what they answer."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from gridwire.auth.model import Action
from gridwire.core.errors import GridwireError, NotAuthenticated, UnknownHub, UnknownPartition
from gridwire.heads.amqp.context import CBS_CREDIT
from gridwire.heads.amqp.rights import token_of
from gridwire.wire.amqp import requests, types
from gridwire.wire.amqp.addresses import CBS, parse_address
from gridwire.wire.amqp.errors import AUTH_FAILED, NOT_FOUND, AmqpError, condition_of
from gridwire.wire.amqp.link import Delivery, Link
from gridwire.wire.amqp.performatives import Accepted, rejected
from gridwire.wire.amqp.requests import Request

if TYPE_CHECKING:
    from gridwire.heads.amqp.connection import Connection

REPLIES_MAX: Final = 100
"""Replies that wait for credit on one link; the oldest is dropped."""

BEGINNING_MS: Final = -62_135_596_800_000
"""What the service says for the time of the last event where there is none: the year one."""

PUT_TOKEN: Final = "put-token"  # noqa: S105 - the name of an operation
HUB_TYPE: Final = "com.microsoft:eventhub"
PARTITION_TYPE: Final = "com.microsoft:partition"


class Replies:
    """A link on which replies go out. `serves`: the node it is of; `address`: what else it is called in reply-to."""

    def __init__(self, connection: Connection, link: Link, serves: str, address: str) -> None:
        self._connection = connection
        self._link = link
        self.serves = serves
        self.address = address
        self.names = {link.name, address}
        self._waiting: deque[bytes] = deque(maxlen=REPLIES_MAX)

    def send(self, message: bytes) -> None:
        """Send a reply, or keep it until there is credit."""
        self._waiting.append(message)
        self.credited()

    def start(self) -> None:
        """Nothing to do before there is something to say."""

    def credited(self) -> None:
        """Send what waits."""
        link = self._link
        while self._waiting and link.alive and link.credit > 0 and link.session.room > 0:
            tag = link.session.next_delivery_id.to_bytes(4, "big")
            self._connection.engine.send_transfer(link, self._waiting.popleft(), tag)
        if link.drain and link.credit and not self._waiting:
            self._connection.engine.drained(link)
        self._connection.flush_soon()

    def settle(self, first: int, last: int, state: Any, settled: bool) -> None:
        """Replies were sent settled."""

    def end(self, condition: str, description: str) -> None:
        """Detach the link."""
        self._connection.engine.detach(self._link, condition, description)
        self._connection.flush_soon()

    def allowed(self) -> bool:
        """Everybody may be answered."""
        return True

    def close(self) -> None:
        """The link is gone."""


class Requests:
    """A link on which requests come in. `node`: `$cbs` or `$management`."""

    def __init__(self, connection: Connection, link: Link, node: str) -> None:
        self._connection = connection
        self._context = connection.context
        self._link = link
        self._node = node
        self.max_message_size = requests.REQUEST_BYTES_MAX

    def start(self) -> None:
        """Let the peer ask."""
        self._connection.engine.grant(self._link, CBS_CREDIT)

    def credited(self) -> None:
        """Nothing to do."""

    def settle(self, first: int, last: int, state: Any, settled: bool) -> None:
        """Not for requests."""

    def end(self, condition: str, description: str) -> None:
        """Detach the link."""
        self._connection.engine.detach(self._link, condition, description)
        self._connection.flush_soon()

    def allowed(self) -> bool:
        """Everybody may ask."""
        return True

    def close(self) -> None:
        """The link is gone."""

    def deliver(self, delivery: Delivery) -> None:
        """Take one request."""
        if self._link.credit < CBS_CREDIT // 2:
            self._connection.engine.grant(self._link, CBS_CREDIT)
        try:
            request = requests.parse(delivery.data, delivery.start, delivery.end)
        except AmqpError as error:
            if not delivery.settled:
                self._connection.engine.settle(self._link, delivery.id, rejected(error.condition, error.description))
            self._connection.flush_soon()
            return
        if not delivery.settled:
            self._connection.engine.settle(self._link, delivery.id, Accepted())
        if self._node == CBS:
            self._reply(request, self._put_token(request))
        else:
            self._connection.run(self._manage(request))
        self._connection.flush_soon()

    def _reply(self, request: Request, message: bytes) -> None:
        link = self._connection.replies_for(self._link.session, self._node, request.reply_to)
        if link is not None:
            link.send(message)

    # -- $cbs

    def _put_token(self, request: Request) -> bytes:
        told = request.properties
        if told.get("operation") != PUT_TOKEN:
            return requests.reply(request, 501, "only put-token is served")
        audience, kind = str(told.get("name", "")), str(told.get("type", ""))
        self._connection.azure = True
        keyring = self._connection.keyring
        token = request.body.decode("utf-8", "replace") if isinstance(request.body, bytes) else request.body
        try:
            if keyring is not None:
                if not isinstance(token, str):
                    raise NotAuthenticated("the token is no text")
                keyring.put_token(audience, kind, token)
            self._check_hub(audience)
        except NotAuthenticated as error:
            return requests.reply(request, 401, str(error), error_condition=types.symbol(AUTH_FAILED))
        except GridwireError as error:
            return requests.reply(request, 404, str(error), error_condition=types.symbol(NOT_FOUND))
        return requests.reply(request, 202, "Accepted")

    def _check_hub(self, audience: str) -> None:
        """An unknown hub is told of here, where the SDKs expect it; one that would be created is none."""
        if not self._context.auto_create:
            hub = parse_address(audience).hub
            if hub:
                self._context.broker.hub(hub)

    # -- $management

    async def _manage(self, request: Request) -> None:
        told = request.properties
        name, kind = str(told.get("name", "")), told.get("type")
        try:
            if told.get("operation") != "READ" or kind not in (HUB_TYPE, PARTITION_TYPE):
                message = requests.reply(request, 501, f"READ of {HUB_TYPE} and of {PARTITION_TYPE} is served")
            elif not self._may_describe(name, told.get("security_token")):
                message = requests.reply(request, 401, f"describing {name!r} takes any right on it")
            elif kind == HUB_TYPE:
                message = requests.reply(request, 200, "OK", self._hub(name))
            else:
                message = requests.reply(request, 200, "OK", await self._partition(name, str(told.get("partition"))))
        except (UnknownHub, UnknownPartition) as error:
            message = requests.reply(request, 404, str(error), error_condition=types.symbol(NOT_FOUND))
        except GridwireError as error:
            condition, text = condition_of(error)
            message = requests.reply(request, 500, text, error_condition=types.symbol(condition))
        self._reply(request, message)
        self._connection.flush_soon()

    def _may_describe(self, name: str, token: Any) -> bool:
        keyring = self._connection.keyring
        if keyring is None or keyring.may((Action.DESCRIBE_HUB, name)):
            return True
        if not isinstance(token, str) or not token:
            return False
        try:
            return keyring.grants(token_of(token, keyring), (Action.DESCRIBE_HUB, name))
        except NotAuthenticated as error:
            keyring.access.audit.failed("?", "sign-in", keyring.peer, f"amqp $management: {error}")
            return False

    def _hub(self, name: str) -> bytes:
        hub = self._context.broker.hub(name)
        return requests.record({
            "name": types.string(hub.name), "type": types.string(HUB_TYPE),
            "created_at": types.timestamp(hub.created_ms), "partition_count": types.int_(hub.partitions),
            "partition_ids": types.strings([str(number) for number in range(hub.partitions)]),
            "georeplication_factor": types.int_(1),
        })  # fmt: skip

    async def _partition(self, name: str, partition: str) -> bytes:
        if not partition.isascii() or not partition.isdigit() or len(partition) > 9:
            raise UnknownPartition(f"hub {name!r} has no partition {partition[:40]!r}")
        number = int(partition)
        self._context.partition(name, number)
        bounds = await self._context.broker.bounds(name, number)
        newest = await self._context.broker.newest(name, number)
        empty = bounds.end <= bounds.start
        last = -1 if empty else bounds.end - 1
        return requests.record({
            "name": types.string(name), "type": types.string(PARTITION_TYPE), "partition": types.string(partition),
            "begin_sequence_number": types.long(-1 if empty else bounds.start),
            "last_enqueued_sequence_number": types.long(last), "last_enqueued_offset": types.string(str(last)),
            "last_enqueued_time_utc": types.timestamp(BEGINNING_MS if empty or newest is None else newest[1]),
            "is_partition_empty": types.boolean(empty),
        })  # fmt: skip
