"""Requests and replies as `$cbs` and `$management` have them: one message each, related by id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gridwire.wire.amqp import types
from gridwire.wire.amqp.errors import DECODE_ERROR, AmqpError
from gridwire.wire.amqp.sections_in import section
from gridwire.wire.amqp.types import NULL

REQUEST_BYTES_MAX: Final = 64 * 1024
"""A request: tokens have a few kilobytes."""


@dataclass(slots=True)
class Request:
    """A request. `message_id`: as it was encoded, for its type has to come back."""

    message_id: bytes = NULL
    correlation_id: bytes = NULL
    reply_to: str = ""
    properties: dict[str, Any] = field(default_factory=dict)
    body: Any = None


def parse(data: bytes, position: int, end: int) -> Request:
    """Raises AmqpError."""
    if end - position > REQUEST_BYTES_MAX:
        raise AmqpError(DECODE_ERROR, f"a request of more than {REQUEST_BYTES_MAX} bytes")
    request = Request()
    while position < end:
        code, at = section(data, position, end)
        after = types.skip(data, position, end)
        if code == 0x73:
            _properties(request, data, at, after)
        elif code in (0x74, 0x75, 0x77):
            value, _ = types.decode(data, at, after)
            if code == 0x74 and isinstance(value, dict):
                request.properties = {str(key): each for key, each in value.items()}
            elif code != 0x74:
                request.body = value
        position = after
    return request


def _properties(request: Request, data: bytes, position: int, end: int) -> None:
    code = data[position] if position < end else 0
    if code == 0x45:
        return
    if code not in (0xC0, 0xD0):
        raise AmqpError(DECODE_ERROR, "the properties section is no list")
    count, position, stop = types.compound_head(code, data, position + 1, end)
    for index in range(min(count, 6)):
        after = types.skip(data, position, stop)
        if index == 0:
            request.message_id = data[position:after]
        elif index == 4:
            value, _ = types.decode(data, position, after)
            request.reply_to = value if isinstance(value, str) else ""
        elif index == 5:
            request.correlation_id = data[position:after]
        position = after


def reply(request: Request, status: int, description: str, body: bytes = NULL, **more: bytes) -> bytes:
    """The message that answers a request. `more`: further application properties, encoded; `_` stands for `-`."""
    related = request.message_id if request.message_id != NULL else request.correlation_id
    properties = types.described(0x73, types.list_([NULL, NULL, NULL, NULL, NULL, related, *[NULL] * 7]))
    text = types.string(description)
    pairs = [
        (types.string("status-code"), types.int_(status)),
        (types.string("status-description"), text),
        (types.string("statusCode"), types.int_(status)),
        (types.string("statusDescription"), text),
        *((types.string(name.replace("_", "-")), value) for name, value in more.items()),
    ]
    return properties + types.described(0x74, types.map_(pairs)) + types.described(0x77, body)


def record(fields: Mapping[str, bytes]) -> bytes:
    """A map with text keys, for a reply's body."""
    return types.map_((types.string(name), value) for name, value in fields.items())
