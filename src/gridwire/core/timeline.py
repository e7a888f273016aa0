"""Which version of a thing holds when. Versions are published one after the other, each from a time on.

What was published last holds from its `valid_from` on, whatever was said before it of that time and of later ones:

    published    A from 0    B from 10    C from 5
    in effect    A [..., 5)    C [5, ...)                  B is replaced, C was published after it

So of the versions in effect both times rise, and a correction is a new version with the old `valid_from`. The first one
also holds before its time: nothing else is known of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Dated(Protocol):
    """What a version says of itself. `digest`: the same for the same content."""

    @property
    def digest(self) -> bytes:
        """Of the content."""
        ...

    @property
    def valid_from_us(self) -> int:
        """Microseconds since the epoch."""
        ...


V = TypeVar("V", bound=Dated)


def in_effect(published: Iterable[V]) -> list[V]:
    """The versions that hold, oldest first, of all in the order in which they were published.

    A version that says what holds already, and replaces nothing, is no version of its own.
    """
    found: list[V] = []
    for version in published:
        newest = found[-1] if found else None
        if newest is not None and newest.digest == version.digest and newest.valid_from_us <= version.valid_from_us:
            continue
        while found and found[-1].valid_from_us >= version.valid_from_us:
            found.pop()
        found.append(version)
    return found


def holding(versions: Sequence[V], time_us: int) -> V | None:
    """The one of the versions in effect that holds at a time; None when there is none at all."""
    if not versions:
        return None
    return versions[max(0, bisect_right(versions, time_us, key=lambda version: version.valid_from_us) - 1)]


def instant_us(text: str) -> int:
    """An RFC 3339 time as microseconds since the epoch. Raises ValueError: it is none, or has no offset."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without an offset is no instant")
    try:
        return (moment.astimezone(UTC) - _EPOCH) // _MICROSECOND
    except OverflowError as error:
        raise ValueError(str(error)) from None
