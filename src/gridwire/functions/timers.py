"""Timers: when each fires next, remembered over restarts, so that a time that passed meanwhile is made up for once."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import Any, Final

from gridwire.functions import cron
from gridwire.functions.model import Function
from gridwire.functions.settings import now_text

NOTE_BYTES_MAX: Final = 4096
"""What is known of all timers is the note of a committed position; Kafka takes so much (offset.metadata.max.bytes)."""

_TIMES: Final = ("Last", "Next", "LastUpdated")


class Status:
    """Last and next time of every timer, as a text that whoever keeps the timers next begins with.

    Args:
        note: what `note` was; anything else is taken for a first start: nothing is past due then.
    """

    def __init__(self, note: str = "") -> None:
        self._known: dict[str, list[int | None]] = {}
        try:
            found = json.loads(note)
            self._known = {str(name): [each and int(each) for each in times] for name, times in found.items()}
        except (ValueError, TypeError, AttributeError):
            pass

    def note(self) -> str:
        """Milliseconds of last, next and last change, by timer."""
        return json.dumps(self._known, separators=(",", ":"))

    def get(self, name: str) -> dict[str, str]:
        """Last, Next and LastUpdated as Azure's host writes them; empty when a timer is new."""
        times = zip(_TIMES, self._known.get(name, []), strict=False)
        return {key: now_text(_moment(ms)) for key, ms in times if ms is not None}

    def next(self, name: str) -> datetime | None:
        """When it was to fire next, as far as is known."""
        known = self._known.get(name, [])
        return _moment(known[1]) if len(known) > 1 and known[1] is not None else None

    def set(self, name: str, last: datetime | None, following: datetime | None) -> None:
        """Remember."""
        times = (last, following, datetime.now(UTC))
        self._known[name] = [None if at is None else round(at.timestamp() * 1000) for at in times]


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def fit(names: list[str]) -> bool:
    """Whether what is known of so many timers can be kept."""
    status, now = Status(), datetime.now(UTC)
    for name in names:
        status.set(name, now, now)
    return len(status.note().encode()) <= NOTE_BYTES_MAX


class Timer:
    """One timer: ask `wait_s`, then tell `fired`.

    Args:
        begun: the host has just started: functions that run on startup do.
    """

    def __init__(
        self, function: Function, status: Status, now: Callable[[], datetime], zone: tzinfo = UTC, *, begun: bool = True
    ) -> None:
        self.function = function
        self._schedule = cron.parse(function.schedule)
        self._status, self._now, self._zone = status, now, zone
        self._last: datetime | None = None
        missed = status.next(function.name) if function.use_monitor else None
        self._past_due = missed is not None and missed <= now()
        self._startup = begun and function.run_on_startup
        self.next = now() if self._startup or self._past_due else self._after(now())
        if not self._startup and not self._past_due:
            self._remember()

    def _after(self, moment: datetime) -> datetime | None:
        following = self._schedule.after(moment.astimezone(self._zone))
        return None if following is None else following.astimezone(UTC)

    def wait_s(self) -> float | None:
        """Seconds until it fires; None when it never does."""
        return None if self.next is None else max(0.0, (self.next - self._now()).total_seconds())

    def arguments(self) -> dict[str, Any]:
        """What the function is told."""
        status = self._status.get(self.function.name)
        return {"IsPastDue": self._past_due, "ScheduleStatus": status, "Schedule": {"AdjustForDST": True}}

    def fired(self) -> None:
        """It ran; times that passed while it ran are skipped."""
        self._last, self._past_due = self._now(), False
        self.next = self._after(self._last)
        self._remember()

    def _remember(self) -> None:
        if self.function.use_monitor:
            self._status.set(self.function.name, self._last, self.next)
