"""Alerts as people see them, without I/O: findings of the hub `grid.alerts`, and what people said of them.

What people say is an event of the compacted hub `grid.alert-notes`, so that anything can subscribe to it as well:

    key ack/<id of the finding>    {"note":"acknowledged","finding":"...","by":"mia","why":"crew sent","at":"..."}
    key silence/<name>             {"note":"silenced","name":"1f2e3d4c","kind":"outage","subject":"transformer/T1*",
                                    "by":"mia","why":"works until five","at":"...","until":"...","ended_by":""}

`kind` and `subject` are patterns (`*`, `?`, `[...]`); `subject` is matched with the finding's `subject_kind/subject`. A
silence hides nothing: findings it covers are kept, and marked with the CloudEvents attribute `silenced`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any, Final

import msgspec

from gridwire.core.batch import Event
from gridwire.core.errors import InvalidSetting

TEXT_CHARS_MAX: Final = 1000
"""A reason or a pattern; it is shown in one line or two."""

SILENCE_DAYS_MAX: Final = 366
"""A silence nobody remembers hides what is real."""

SILENCES_MAX: Final = 1000
"""Silences in effect: each is compared with each finding."""

OPEN_MAX: Final = 100_000
CLOSED_MAX: Final = 10_000
"""Findings a book holds: the newest of each kind. Some 500 bytes each."""

SILENCED_HEADER: Final = "ce_silenced"
"""Header of a finding's event: the name of the silence that covers it."""


Rows = list[dict[str, Any]]
"""Findings as plain values for JSON."""


class Alert(msgspec.Struct, frozen=True):
    """The value of an event of `grid.alerts`; see `gridwire.grid.findings`."""

    id: str
    state: str
    kind: str
    subject_kind: str
    subject: str
    started: datetime
    severity: str
    confidence: float
    detector: str
    version: int
    evidence: dict[str, Any] = {}
    ended: datetime | None = None


class Acknowledged(msgspec.Struct, frozen=True, kw_only=True, tag_field="note", tag="acknowledged"):
    """Somebody has seen a finding and deals with it."""

    finding: str
    by: str
    why: str = ""
    at: datetime


class Silenced(msgspec.Struct, frozen=True, kw_only=True, tag_field="note", tag="silenced"):
    """Findings of a kind and subject are expected for a while. `ended_by`: who ended it before its time."""

    name: str
    kind: str
    subject: str
    by: str
    why: str = ""
    at: datetime
    until: datetime
    ended_by: str = ""

    def covers(self, kind: str, subject: str, at: datetime) -> bool:
        """Whether it holds for a finding at a time. `subject`: `subject_kind/subject`."""
        return at < self.until and fnmatchcase(kind, self.kind) and fnmatchcase(subject, self.subject)


Note = Acknowledged | Silenced

_ALERT: Final = msgspec.json.Decoder(Alert)
_NOTE: Final = msgspec.json.Decoder(Acknowledged | Silenced)


def alert_of(value: bytes | None) -> Alert | None:
    """The finding that an event of `grid.alerts` tells of; None when it is no finding."""
    try:
        return _ALERT.decode(value or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def note_event(note: Note) -> Event:
    """The note as one event of its hub."""
    key = f"ack/{note.finding}" if isinstance(note, Acknowledged) else f"silence/{note.name}"
    said = "acknowledged" if isinstance(note, Acknowledged) else "ended" if note.ended_by else "silenced"
    value = msgspec.json.encode(note)
    headers = (
        ("ce_specversion", b"1.0"),
        ("ce_id", hashlib.sha256(key.encode() + b"\0" + value).hexdigest()[:32].encode()),
        ("ce_type", f"gridwire.alert.{said}".encode()),
        ("ce_source", b"/alerts"),
        ("ce_subject", key.partition("/")[2].encode()),
        ("content-type", b"application/json"),
    )
    return Event(value, key.encode(), headers)


def acknowledge(finding: str, by: str, why: str, now: datetime) -> Acknowledged:
    """Raises InvalidSetting: a text is too long."""
    return Acknowledged(finding=_text(finding, "id"), by=by, why=_text(why, "why"), at=now)


def silence(kind: str, subject: str, by: str, why: str, now: datetime, until: datetime) -> Silenced:
    """A silence from now on.

    Raises:
        InvalidSetting: it ends in the past or too late, or a text is too long or missing.
    """
    if not now < until <= now + timedelta(days=SILENCE_DAYS_MAX):
        raise InvalidSetting(f"a silence ends in the future, at most {SILENCE_DAYS_MAX} days ahead")
    texts = [_text(kind, "kind"), _text(subject, "subject"), _text(why, "why")]
    if not kind or not subject or not why:
        raise InvalidSetting("a silence says which kind, which subject, and why")
    name = hashlib.sha256("\0".join([*texts, by, now.isoformat()]).encode()).hexdigest()[:8]
    return Silenced(name=name, kind=kind, subject=subject, by=by, why=why, at=now, until=until)


def _text(text: str, what: str) -> str:
    if len(text) > TEXT_CHARS_MAX:
        raise InvalidSetting(f"{what} has {len(text)} characters: {TEXT_CHARS_MAX} are the most")
    return text


class Notes:
    """What people said, as of the events taken."""

    def __init__(self) -> None:
        self.silences: dict[str, Silenced] = {}
        self.acknowledged: dict[str, Acknowledged] = {}

    def take(self, value: bytes | None) -> None:
        """Take one event's value; what is no note is passed over."""
        try:
            note = _NOTE.decode(value or b"")
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return
        if isinstance(note, Acknowledged):
            self.acknowledged.pop(note.finding, None)
            self.acknowledged[note.finding] = note
            if len(self.acknowledged) > OPEN_MAX:
                del self.acknowledged[next(iter(self.acknowledged))]
        else:
            self.silences[note.name] = note
            if len(self.silences) > SILENCES_MAX:
                self._forget(note.at)

    def _forget(self, now: datetime) -> None:
        """Of more silences than may be, those that are over, else the oldest."""
        for name in [name for name, each in self.silences.items() if each.until <= now]:
            del self.silences[name]
        while len(self.silences) > SILENCES_MAX:
            del self.silences[next(iter(self.silences))]

    def in_effect(self, now: datetime) -> list[Silenced]:
        """Silences that hold now."""
        return [each for each in self.silences.values() if now < each.until]

    def silenced_by(self, kind: str, subject: str, at: datetime) -> str:
        """Name of a silence that covers a finding, or empty."""
        return next((each.name for each in self.silences.values() if each.covers(kind, subject, at)), "")


class AlertBook:
    """The newest version of findings, and what was said of them."""

    def __init__(self) -> None:
        self.notes = Notes()
        self._open: dict[str, Alert] = {}
        self._closed: dict[str, Alert] = {}

    def take(self, value: bytes | None) -> None:
        """Take the value of one event of `grid.alerts`; what is no finding is passed over."""
        alert = alert_of(value)
        if alert is None:
            return
        known = self.find(alert.id)
        if known is not None and known.version > alert.version:
            return
        self._open.pop(alert.id, None)
        self._closed.pop(alert.id, None)
        held, most = (self._closed, CLOSED_MAX) if alert.state == "closed" else (self._open, OPEN_MAX)
        held[alert.id] = alert
        if len(held) > most:
            del held[next(iter(held))]

    def find(self, id: str) -> Alert | None:
        """A finding by its id."""
        return self._open.get(id) or self._closed.get(id)

    def shown(self, alert: Alert, now: datetime) -> dict[str, Any]:
        """A finding with what was said of it, plain values for JSON."""
        ack = self.notes.acknowledged.get(alert.id)
        row: dict[str, Any] = msgspec.to_builtins(alert)
        row["acknowledged"] = None if ack is None else {"by": ack.by, "why": ack.why, "at": _when(ack.at)}
        subject = f"{alert.subject_kind}/{alert.subject}"
        row["silenced"] = self.notes.silenced_by(alert.kind, subject, now) or None
        return row

    def list(self, state: str, kind: str, subject: str, limit: int, now: datetime) -> Rows:
        """Findings, the newest first. `state`: `open`, `closed` or `all`; `kind`, `subject`: patterns."""
        parts: list[Iterable[Alert]] = []
        if state in ("open", "all"):
            parts.append(self._open.values())
        if state in ("closed", "all"):
            parts.append(self._closed.values())
        return self._chosen(chain.from_iterable(parts), kind, subject, limit, now)

    def held(self, at: datetime, kind: str, subject: str, limit: int, now: datetime) -> Rows:
        """Findings that went on at a time of the grid, as far as is known now; one without an end was withdrawn."""
        going_on = (alert for alert in self._open.values() if alert.started <= at)
        over = (alert for alert in self._closed.values() if alert.ended and alert.started <= at < alert.ended)
        return self._chosen(chain(going_on, over), kind, subject, limit, now)

    def _chosen(self, alerts: Iterable[Alert], kind: str, subject: str, limit: int, now: datetime) -> Rows:
        found = [
            alert
            for alert in alerts
            if fnmatchcase(alert.kind, kind) and fnmatchcase(f"{alert.subject_kind}/{alert.subject}", subject)
        ]
        found.sort(key=lambda alert: alert.started, reverse=True)
        return [self.shown(alert, now) for alert in found[:limit]]


def moment(now_ms: int) -> datetime:
    """Milliseconds since the epoch as a time."""
    return datetime.fromtimestamp(now_ms / 1000, UTC)


def _when(at: datetime) -> str:
    return str(msgspec.to_builtins(at))
