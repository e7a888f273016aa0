"""What people ask of a route before it works: does its receiver agree, and does a sample arrive."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from gridwire.broker.alert_routes import RouteRecord, opened_secret
from gridwire.core.clock import Clock
from gridwire.router.addresses import Allowed
from gridwire.router.message import request_of, sample


class Messenger:
    """Speaks to receivers on behalf of the hub's HTTP head.

    Args:
        origin: who asks, in the handshake. key_file: what secrets are sealed with.
    """

    def __init__(self, allowed: str, origin: str, key_file: Path, clock: Clock) -> None:
        self._allowed = Allowed.parse(allowed)
        self._origin, self._key_file, self._clock = origin, key_file, clock

    async def agree(self, url: str, headers: dict[str, str]) -> int:
        """Requests a minute that a receiver allows, 0 where it sets no limit. Raises NotSent: it does not agree."""
        from gridwire.router.sender import Sender, agree  # a hub without routes does without the HTTP client

        sender = Sender(self._allowed)
        try:
            return await agree(sender, url, self._origin, headers)
        finally:
            await sender.close()

    async def test(self, name: str, record: RouteRecord) -> dict[str, Any]:
        """Send a sample and tell what came back. Raises GridwireError: the secret does not open."""
        from gridwire.router.sender import NotSent, Sender

        secret = opened_secret(self._key_file, name, record)
        headers, body = request_of(sample(name, self._clock.now_ms()), record.mode)
        sender, begun_s = Sender(self._allowed), time.perf_counter()
        told: dict[str, Any] = {"delivered": False, "status": None, "answer": "", "error": ""}
        try:
            own = {record.header: secret} if record.header else {}
            answer = await sender.ask("POST", record.url, {**headers, **own}, body)
            said = answer.body.replace(secret, "...") if secret else answer.body
            told |= {"delivered": 200 <= answer.status < 300, "status": answer.status, "answer": said}
        except NotSent as error:
            told["error"] = str(error)
        finally:
            await sender.close()
        return {**told, "took_ms": round((time.perf_counter() - begun_s) * 1000, 1)}
