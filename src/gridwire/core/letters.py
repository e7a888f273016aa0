"""Dead letters: the event as it was, and in headers why it is here."""

from __future__ import annotations

from typing import Final

from gridwire.core.batch import Event

PREFIX: Final = "dlq-"
REASON: Final = "dlq-reason"
FUNCTION: Final = "dlq-function"
HUB: Final = "dlq-hub"
PARTITION: Final = "dlq-partition"
OFFSET: Final = "dlq-offset"
TIMESTAMP: Final = "dlq-timestamp"
TRIES: Final = "dlq-tries"
TRACEBACK: Final = "dlq-traceback"


def letter(event: Event, place: tuple[str, int], function: str, reason: str, traceback: str, tries: int) -> Event:
    """An event that a function could not deal with. One that failed again after a replay keeps where it came from.

    Args:
        place: hub and partition it lies in. function: who gave it up. tries: how often.
    """
    known = {name: value for name, value in event.headers if name.startswith(PREFIX)}
    kept = tuple(header for header in event.headers if not header[0].startswith(PREFIX))
    origin = {
        HUB: place[0].encode(),
        PARTITION: str(place[1]).encode(),
        OFFSET: str(event.offset).encode(),
        TIMESTAMP: str(event.timestamp).encode(),
    }
    told = {FUNCTION: function, REASON: reason, TRIES: str(tries), TRACEBACK: traceback}
    headers = {**origin, **{name: known[name] for name in origin if name in known}}
    headers |= {name: text.encode() for name, text in told.items() if text}
    return Event(event.value, event.key, (*kept, *headers.items()))
