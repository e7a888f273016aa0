"""Event Hubs' own HTTP API: what a send request holds, and how it is told of an error.

    POST /{hub}/messages    body = one event; any header that is not HTTP's own = a property;
                            BrokerProperties: {"PartitionKey": "..."}
                            content type application/vnd.microsoft.servicebus.json: a batch,
                            [{"Body": "...", "UserProperties": {...}, "BrokerProperties": {...}}, ...]

The key of an event is its PartitionKey. Properties become headers of the event, as text.

Source: learn.microsoft.com/rest/api/eventhub, "Send event", "Send batch events", "Send publisher event".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Any, Final
from xml.sax.saxutils import escape

import msgspec

from gridwire.core.batch import Event
from gridwire.wire.http.bodies import UNTOLD_TYPES, check_size, check_utf8
from gridwire.wire.http.problems import BadBody, Problem

BATCH: Final = "application/vnd.microsoft.servicebus.json"
ERROR_TYPE: Final = "application/xml; charset=utf-8"

_NOT_KEPT: Final = UNTOLD_TYPES | {"application/atom+xml"}
"""Content types that say nothing of the event: the API asks everybody to send the latter."""

_HTTP_HEADERS: Final = frozenset(
    (
        "accept", "accept-charset", "accept-encoding", "accept-language", "authorization",
        "brokerproperties", "cache-control", "connection", "content-encoding", "content-length",
        "content-type", "cookie", "date", "dnt", "expect",
        "forwarded", "from", "host", "if-match", "if-none-match",
        "keep-alive", "max-forwards", "origin", "pragma", "priority",
        "proxy-authorization", "proxy-connection", "range", "referer", "servicebusauthorization",
        "te", "trailer", "transfer-encoding", "upgrade", "upgrade-insecure-requests",
        "user-agent", "via", "warning", "x-gridwire-key", "x-http-method-override",
        "x-real-ip",
    )
)  # fmt: skip
_HTTP_PREFIXES: Final = ("sec-", "x-forwarded-", "x-ms-", "access-control-")

_SYSTEM: Final = {"ContentType": "content-type", "CorrelationId": "correlation-id", "MessageId": "message-id"}
"""Broker properties that are kept, and the header of the event each becomes. Others say what a sender cannot decide."""


class Message(msgspec.Struct, rename="pascal", frozen=True):
    """One element of a batch."""

    body: str
    broker_properties: dict[str, Any] = {}
    user_properties: dict[str, Any] = {}
    is_body_base64: bool = False


_BATCH: Final = msgspec.json.Decoder(list[Message])
_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])

Pairs = list[tuple[str, bytes | None]]


def parse(
    content_type: str, headers: Iterable[tuple[bytes, bytes]], body: bytes, now_ms: int, publisher: str | None = None
) -> list[Event]:
    """The events of a request.

    Args:
        headers: of the request, with lower-case names.
        publisher: who sends, where the address says so; his name is the key of all his events.

    Raises:
        BadBody, MessageTooLarge.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media == BATCH:
        return _batch(body, now_ms, publisher)
    check_size(body, "the event")
    broker: dict[str, Any] = {}
    pairs: Pairs = []
    for name, value in headers:
        text = name.decode("latin-1")
        if text == "brokerproperties":
            broker = _broker_header(value)
        elif text not in _HTTP_HEADERS and not text.startswith(_HTTP_PREFIXES):
            pairs.append((text, _unquoted(value)))
    if media not in _NOT_KEPT and "ContentType" not in broker:
        pairs.insert(0, ("content-type", content_type.encode()))
    return [_event(body, broker, pairs, now_ms, publisher, "the event")]


def _batch(body: bytes, now_ms: int, publisher: str | None) -> list[Event]:
    check_utf8(body)
    try:
        messages = _BATCH.decode(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadBody(f"the body is not a batch of messages: {error}") from None
    if not messages:
        raise BadBody("the batch is empty: send at least one message")
    return [_of_message(message, f"message {at}", now_ms, publisher) for at, message in enumerate(messages)]


def _of_message(message: Message, what: str, now_ms: int, publisher: str | None) -> Event:
    value = message.body.encode()
    if message.is_body_base64:
        try:
            value = base64.b64decode(value, validate=True)
        except binascii.Error:
            raise BadBody(f"the body of {what} is not base64") from None
    check_size(value, what)
    pairs = [(name, _text(each, what)) for name, each in message.user_properties.items()]
    return _event(value, message.broker_properties, pairs, now_ms, publisher, what)


def _event(
    value: bytes, broker: Mapping[str, Any], pairs: Pairs, now_ms: int, publisher: str | None, what: str
) -> Event:
    key = broker.get("PartitionKey")
    if key is not None and not isinstance(key, str):
        raise BadBody(f"the PartitionKey of {what} is not text")
    if publisher is not None:
        if key not in (None, publisher):
            raise BadBody(f"the PartitionKey of {what} is not its publisher's name")
        key = publisher
    system: Pairs = [(name, _text(broker[each], what)) for each, name in _SYSTEM.items() if broker.get(each)]
    if publisher is not None:
        system.append(("x-opt-publisher", publisher.encode()))
    return Event(value, key.encode() if key else None, (*system, *pairs), now_ms)


def _broker_header(value: bytes) -> dict[str, Any]:
    try:
        return _OBJECT.decode(value)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadBody(f"the header BrokerProperties is not a JSON object: {error}") from None


def _unquoted(value: bytes) -> bytes:
    """A property's header holds text in quotes, or a number without."""
    return value[1:-1] if len(value) > 1 and value[:1] == value[-1:] == b'"' else value


def _text(value: Any, what: str) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bool | int | float):
        return msgspec.json.encode(value)
    raise BadBody(f"a property of {what} is neither text nor number")


def rendered(problem: Problem) -> tuple[str, bytes]:
    """An error as the API answers it: content type and body."""
    text = f"<Error><Code>{problem.status}</Code><Detail>{escape(problem.detail)}</Detail></Error>"
    return ERROR_TYPE, text.encode("utf-8", "replace")
