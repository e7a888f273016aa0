"""What has been told of findings: the versions in the hub `grid.alerts`, which everything that follows goes on from.

A state that is made again from several hubs has seen their events in another order than the one before it. What it
finds is therefore compared with what was told, and the difference is told: nothing is lost, and no version says two
things (docs/decisions/0047).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from gridwire.alerts import Alert
from gridwire.broker.port import ColumnBatch
from gridwire.grid.findings import Finding, FindingState, Severity
from gridwire.grid.reading import timestamp_us

CLOSED_MAX: Final = 100_000
"""Closed findings whose version is remembered; an older one that changes again would begin at version 0."""

WITHDRAWN: Final = "withdrawn"
"""Name of the evidence of a finding that was closed because it was not found again."""


class _Told(Alert, frozen=True):
    """The value of an event of the hub, as `gridwire.grid.findings` writes it."""

    state: FindingState
    severity: Severity


_DECODER: Final = msgspec.json.Decoder(_Told)


def to_json(finding: Finding) -> bytes:
    """The value of its event."""
    return finding.to_event(0).value or b""


def from_json(value: bytes) -> Finding:
    """The finding that an event of the hub tells.

    Raises:
        ValueError: it tells none.
    """
    try:
        told = _DECODER.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"not a finding: {error}") from None
    finding = Finding(
        kind=told.kind, subject_kind=told.subject_kind, subject=told.subject,
        started_us=timestamp_us(told.started), severity=told.severity, confidence=told.confidence,
        detector=told.detector, state=told.state, version=told.version, evidence=told.evidence,
        ended_us=None if told.ended is None else timestamp_us(told.ended),
    )  # fmt: skip
    if finding.id != told.id:
        raise ValueError(f"{told.id!r} is not the id of what it tells")
    return finding


@dataclass(frozen=True, slots=True)
class _Known:
    version: int
    closed: bool
    digest: bytes


def _digest(finding: Finding) -> bytes:
    """Of what a finding says, but for its version and whether it is news."""
    plain = replace(finding, version=0, state=FindingState.CHANGED)
    return hashlib.sha256(to_json(plain)).digest()[:16]


class Told:
    """The newest version of every finding of some detectors."""

    def __init__(self, detectors: Collection[str]) -> None:
        self._detectors = frozenset(detectors)
        self._known: dict[str, _Known] = {}
        self._open: dict[str, Finding] = {}

    def recall(self, batch: ColumnBatch) -> None:
        """Take events of the hub; what is no finding of these detectors is passed over."""
        for row in range(len(batch.columns)):
            try:
                finding = from_json(batch.columns.value(row) or b"")
            except ValueError:
                continue
            known = self._known.get(finding.id)
            if finding.detector in self._detectors and (known is None or finding.version >= known.version):
                self._keep(finding)

    def next(self, finding: Finding) -> Finding | None:
        """The finding with the version it is to be told with; None when just that has been told."""
        known = self._known.get(finding.id)
        if known is None:
            told = replace(finding, version=0)
        elif known.digest == _digest(finding) and known.closed == (finding.state is FindingState.CLOSED):
            return None
        else:
            state = finding.state if finding.state is FindingState.CLOSED else FindingState.CHANGED
            told = replace(finding, version=known.version + 1, state=state)
        self._keep(told)
        return told

    def withdrawals(self, open: Collection[str], now_us: int) -> list[Finding]:
        """Findings that were told and are in nobody's mind, as closed."""
        return [
            replace(finding, state=FindingState.CLOSED, ended_us=now_us, evidence=_with_note(finding.evidence))
            for id, finding in self._open.items()
            if id not in open
        ]

    def _keep(self, finding: Finding) -> None:
        closed = finding.state is FindingState.CLOSED
        self._known.pop(finding.id, None)
        self._known[finding.id] = _Known(finding.version, closed, _digest(finding))
        if closed:
            self._open.pop(finding.id, None)
            self._forget()
        else:
            self._open[finding.id] = finding

    def _forget(self) -> None:
        """Drop the closed findings told longest ago."""
        if len(self._known) - len(self._open) > 2 * CLOSED_MAX:
            closed = [id for id, known in self._known.items() if known.closed]
            for id in closed[:CLOSED_MAX]:
                del self._known[id]


def _with_note(evidence: Mapping[str, Any]) -> dict[str, Any]:
    return {**evidence, WITHDRAWN: "not found again when the state was made again"}
