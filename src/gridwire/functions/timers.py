"""Timers: when each fires next, remembered over restarts, so that a time that passed meanwhile is made up for once."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any

from gridwire.functions import cron
from gridwire.functions.model import Function
from gridwire.functions.settings import now_text


class Status:
    """Last and next time of every timer, in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, dict[str, str]] = {}
        try:
            self._known = json.loads(path.read_text())
        except (OSError, ValueError):
            pass  # the first start, or a file cut short by a crash: nothing is past due then

    def get(self, name: str) -> dict[str, str]:
        """Last, Next and LastUpdated as Azure's host writes them; empty when a timer is new."""
        return dict(self._known.get(name, {}))

    def next(self, name: str) -> datetime | None:
        """When it was to fire next, as far as is known."""
        text = self._known.get(name, {}).get("Next")
        return datetime.fromisoformat(text) if text else None

    def set(self, name: str, last: datetime | None, following: datetime | None) -> None:
        """Remember."""
        times = {"Last": last, "Next": following, "LastUpdated": datetime.now(UTC)}
        self._known[name] = {key: now_text(at.astimezone(UTC)) for key, at in times.items() if at is not None}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self._path.with_suffix(".new")
        scratch.write_text(json.dumps(self._known))
        scratch.replace(self._path)


class Timer:
    """One timer: ask `due`, then tell `fired`."""

    def __init__(self, function: Function, status: Status, now: Callable[[], datetime], zone: tzinfo = UTC) -> None:
        self.function = function
        self._schedule = cron.parse(function.schedule)
        self._status, self._now, self._zone = status, now, zone
        self._last: datetime | None = None
        missed = status.next(function.name) if function.use_monitor else None
        self._past_due = missed is not None and missed <= now()
        self._startup = function.run_on_startup
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
