"""The audit hub: who did what, one JSON event each, in the log like everything else.

Failed sign-ins are bounded, so that a guesser cannot fill the disk: above the rate they are counted, and the count is
part of the next event that fits.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import structlog

from gridwire.auth.quota import Bucket
from gridwire.broker.port import Appended, Broker
from gridwire.core.batch import Event, encode
from gridwire.core.clock import Clock
from gridwire.core.errors import HubExists

AUDIT_HUB: Final = "__audit"
FAILURES_PER_S: Final = 10.0
RETENTION_MS: Final = 365 * 24 * 3600 * 1000
TEXT_CHARS_MAX: Final = 249

log = structlog.get_logger("gridwire.audit")


class Audit:
    """Writes the audit hub."""

    def __init__(self, broker: Broker, clock: Clock) -> None:
        self._broker = broker
        self._clock = clock
        self._failures = Bucket(FAILURES_PER_S)
        self._suppressed = 0

    async def open(self) -> bool:
        """Create the hub if it is not there; whether it was us. Of several gateways that start at once it is one."""
        try:
            await self._broker.create_hub(AUDIT_HUB, 1, {"retention_ms": RETENTION_MS})
        except HubExists:
            return False
        return True

    def record(self, who: str, action: str, what: str = "", **more: Any) -> None:
        """Write what somebody did. Does not wait for the disk."""
        event = {"who": who[:TEXT_CHARS_MAX], "action": action, "what": what[:TEXT_CHARS_MAX], **more}
        value = msgspec.json.encode(event)
        batch = encode([Event(value, who[:TEXT_CHARS_MAX].encode("utf-8", "replace"), timestamp=self._clock.now_ms())])
        self._broker.append(AUDIT_HUB, 0, batch).add_done_callback(_report)

    def failed(self, who: str, action: str, peer: str, reason: str) -> None:
        """Write that somebody was refused, unless there were many of late."""
        now_s = self._clock.monotonic()
        if self._failures.wait_s(now_s) > 0 or self._failures.level < 1:
            self._suppressed += 1
            return
        self._failures.take(1, now_s)
        suppressed, self._suppressed = self._suppressed, 0
        more: dict[str, Any] = {"suppressed": suppressed} if suppressed else {}
        self.record(who, action, peer=peer[:TEXT_CHARS_MAX], refused=reason[:TEXT_CHARS_MAX], **more)


def _report(done: Any) -> None:
    error: BaseException | None = None if done.cancelled() else done.exception()
    if error is not None:
        log.error("audit event lost", reason=str(error))
    else:
        assert isinstance(done.result(), Appended)
