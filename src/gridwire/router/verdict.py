"""What becomes of a try to deliver, and when the next one is. No I/O, no clock.

    2xx                     delivered
    410                     the receiver wants no more: the route stops
    400, 401, 403, 413      no other try would do: the finding is given up
    429, or Retry-After     again, after what the receiver says; the whole route waits that long
    anything else           again, after a wait that grows

Source: CloudEvents' HTTP webhooks (2.3); that 400, 401, 403 and 413 are not repeated is Event Grid's way.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, Literal

WAITS_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0)
"""Waits of one finding, by how often it failed; the last one repeats."""

ROUTE_WAIT_S_MAX: Final = 60.0
"""A route whose receiver is down tries one finding that often, so that it is soon noticed when it is back."""

JITTER: Final = 0.2
"""Waits are up to so much shorter or longer: receivers that come back are not met by everybody at once."""

RETRY_AFTER_S_MAX: Final = 3600.0
"""What a receiver may ask for."""

HOPELESS: Final = frozenset({400, 401, 403, 413})
GONE: Final = 410
TOO_MANY: Final = 429


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a finding. `reason`: why it is not delivered. `after_s`: wait the receiver asked for."""

    action: Literal["done", "again", "dead", "stop"]
    reason: str = ""
    after_s: float = 0.0


def judge(status: int, retry_after: str, now: datetime) -> Verdict:
    """The verdict on an answer. `retry_after`: that header, empty where there is none."""
    if 200 <= status < 300:
        return Verdict("done")
    reason = f"the receiver answered {status}"
    if status == GONE:
        return Verdict("stop", f"{reason}: it wants no more")
    if status in HOPELESS:
        return Verdict("dead", reason)
    return Verdict("again", reason, retry_after_s(retry_after, now))


def retry_after_s(text: str, now: datetime) -> float:
    """Seconds that a Retry-After header asks for; 0 where it is none."""
    text = text.strip()[:64]
    if text.isascii() and text.isdigit():
        return min(float(text), RETRY_AFTER_S_MAX)
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
    until = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
    return min(max(0.0, (until - now).total_seconds()), RETRY_AFTER_S_MAX)


def wait_s(failures: int, chance: float) -> float:
    """How long a finding waits after that many failures. `chance`: 0 to 1, where in the jitter."""
    first = WAITS_S[min(failures, len(WAITS_S)) - 1]
    return first * (1 - JITTER + 2 * JITTER * chance)


def route_wait_s(failures: int, chance: float) -> float:
    """How long a route waits after that many failures in a row."""
    return min(wait_s(failures, chance), ROUTE_WAIT_S_MAX)
