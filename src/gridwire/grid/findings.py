"""What the grid's detectors find, as CloudEvents of the hub `grid.alerts` that anything can subscribe to.

    ce_type     gridwire.outage.opened
    ce_source   /grid/outages
    ce_subject  transformer/LV1.101
    ce_id       a digest of the finding and its version
    {"id":"outage/transformer/LV1.101/2026-01-01T00:00:00Z","state":"opened","kind":"outage",
     "subject_kind":"transformer","subject":"LV1.101","started":"2026-01-01T00:00:00Z","severity":"critical",
     "confidence":0.97,"evidence":{"customers":13,"last_gasps":9},"detector":"outages","version":0}

A finding is told again when what is known of it changes, with the same `id` and a higher `version`: of several events
of one `id` the one with the highest version holds. A worker that was killed may tell the same version again, byte for
byte; it never leaves one out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import orjson

from gridwire.core import hubs
from gridwire.core.batch import Event
from gridwire.grid.reading import rfc3339

ALERTS_HUB: Final = hubs.ALERTS
"""The hub findings are sent to."""


class Severity(StrEnum):
    """How soon somebody should look."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class FindingState(StrEnum):
    """Where a finding is in its life."""

    OPENED = "opened"
    CHANGED = "changed"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing found, as of one version.

    Args:
        kind: what it is, dotted from the general to the special: `outage`, `voltage.high`.
        subject_kind: `usage_point`, `transformer`, `feeder`, `substation` or `network`. subject: its id in the model.
        started_us, ended_us: when it began and ended in the grid, microseconds since the epoch; None: it goes on.
        confidence: 0 to 1, how sure the detector is.
        evidence: what it goes by: numbers with their unit in the name, ids, texts; at most some twenty of them.
        detector: who found it. version: 0 first, one more for each change.
    """

    kind: str
    subject_kind: str
    subject: str
    started_us: int
    severity: Severity
    confidence: float
    detector: str
    state: FindingState = FindingState.OPENED
    ended_us: int | None = None
    version: int = 0
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The same for all versions of one finding."""
        return f"{self.kind}/{self.subject_kind}/{self.subject}/{rfc3339(self.started_us)}"

    def to_event(self, now_ms: int) -> Event:
        """As one event of the hub, keyed by its subject, so that a subject's findings keep their order."""
        identity = hashlib.sha256(f"{self.id} {self.version}".encode()).hexdigest()[:32]
        headers = (
            ("ce_specversion", b"1.0"),
            ("ce_id", identity.encode()),
            ("ce_type", f"gridwire.{self.kind}.{self.state}".encode()),
            ("ce_source", f"/grid/{self.detector}".encode()),
            ("ce_subject", f"{self.subject_kind}/{self.subject}".encode()),
            ("ce_time", rfc3339(now_ms * 1000).encode()),
            ("content-type", b"application/json"),
        )
        return Event(orjson.dumps(self._fields()), self.subject.encode(), headers, now_ms)

    def _fields(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "id": self.id,
            "state": self.state,
            "kind": self.kind,
            "subject_kind": self.subject_kind,
            "subject": self.subject,
            "started": rfc3339(self.started_us),
            "severity": self.severity,
            "confidence": round(self.confidence, 4),
            "evidence": dict(self.evidence),
            "detector": self.detector,
            "version": self.version,
        }
        if self.ended_us is not None:
            found["ended"] = rfc3339(self.ended_us)
        return found
