"""HTTP connections that go on as something else: AMQP over WebSocket on the HTTP port."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gridwire.heads.http.guard import Guard
from gridwire.wire.http import websocket
from gridwire.wire.http.problems import Forbidden, HttpError


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What a path may be upgraded to. `subprotocols`: the names it goes by, the first that is asked for is taken."""

    subprotocols: tuple[bytes, ...]
    protocol: Callable[[], asyncio.Protocol]


Upgrades = Mapping[str, Upgrade]
"""By path."""


def answer(scope: Any, upgrade: Upgrade, guard: Guard) -> tuple[bytes, asyncio.Protocol | None]:
    """(response head, who takes the connection over; None when it was refused).

    A page of another site may open WebSockets to this machine, so `Origin` is checked as for requests that change
    things.
    """
    headers = dict(scope["headers"])
    try:
        guard.check({**scope, "method": "UPGRADE"})
    except HttpError as error:
        return _refused(error.status), None
    except Forbidden:
        return _refused(403), None
    key = headers.get(b"sec-websocket-key", b"")
    asked = [each.strip() for each in headers.get(b"sec-websocket-protocol", b"").split(b",")]
    chosen = next((each for each in asked if each in upgrade.subprotocols), None)
    if not key or len(key) > 64 or headers.get(b"sec-websocket-version") != b"13" or chosen is None:
        return _refused(400), None
    head = (
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: "
        + websocket.accept_key(key) + b"\r\nsec-websocket-protocol: " + chosen + b"\r\n\r\n"
    )  # fmt: skip
    return head, upgrade.protocol()


def _refused(status: int) -> bytes:
    text = {400: "Bad Request", 403: "Forbidden"}.get(status, "Refused")
    return f"HTTP/1.1 {status} {text}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode()
