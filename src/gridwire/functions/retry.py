"""What to do with a batch whose call failed: repeat it, take it apart, or give one event up. No I/O, no clock.

failed as a whole     -> the app's retry policy, with its delays
still failing         -> halves, each tried at once, until the failing event is alone
alone, still failing  -> the policy once more for this event, then the dead-letter hub
worker died or hung   -> the same, but at least `LOSSES_MAX` tries of an event alone: whoever kills workers from
                         outside must not turn good events into dead letters
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from gridwire.functions.model import RETRY_INFINITE, Retry

LOSSES_MAX: Final = 3
"""Workers one event may cost before it is given up."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens to the piece: `again` after a delay, `halves`, or `dead`."""

    action: Literal["again", "halves", "dead"]
    delay_s: float = 0.0


def decide(retry: Retry, events: int, tries: int, losses: int, *, whole: bool, lost: bool) -> Decision:
    """Decide after a failure.

    Args:
        events: of the piece. tries: failures of this very piece, this one included. losses: how many of those took the
            worker along. whole: nothing was taken apart yet. lost: this failure took the worker along.
    """
    infinite = retry.count == RETRY_INFINITE
    if (whole or events == 1) and (infinite or tries <= retry.count):
        return Decision("again", delay_s(retry, tries))
    if events > 1:
        return Decision("halves")
    if lost and losses < LOSSES_MAX:
        return Decision("again", delay_s(retry, tries))
    return Decision("dead")


def delay_s(retry: Retry, tries: int) -> float:
    """How long to wait after that many failures."""
    if not retry.exponential:
        return retry.first_s
    return min(retry.first_s * 2.0 ** min(tries - 1, 60), retry.most_s)
