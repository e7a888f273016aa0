"""The subjects of one rule: which are open, which are on their way there, and what was told of them.

    value beyond the limit   -> on its way (count) -> open       told: version 0
    evidence changes                                             told: one version more
    value back, row gone, quiet, rule changed      -> closed     told: one version more

It decides nothing; it keeps count, tells findings and remembers what has to be kept. Should the next finding of a
subject begin at the very time of the one before, as events of one millisecond can, it is the same finding again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from gridwire.broker.alert_rules import (
    FAILED,
    FULL,
    OPEN_MAX,
    ROW_MAX,
    RULE,
    AlertRule,
    Held,
    RuleState,
    kind_of_subjects,
)
from gridwire.grid.findings import Finding, FindingState, Severity

DETECTOR: Final = "rules"
"""Who found what rules find."""

SUBJECT_CHARS_MAX: Final = 200
CLOSED_MAX: Final = 1_000
"""Closed findings of a rule whose time and version are remembered."""

AGAIN: Final = 0.9
"""A rule that had too many open has room again below this share of what it may have."""

EVIDENCE_ITEMS_MAX: Final = 20
EVIDENCE_CHARS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Told:
    """A finding, and when it was found, microseconds since the epoch."""

    finding: Finding
    at_us: int


class Subjects:
    """See the module.

    Args:
        name: of the rule. state, held: what is known of it; both are taken over.
    """

    def __init__(self, name: str, state: RuleState, held: dict[str, Held]) -> None:
        self.name, self.state = name, state
        self.held = held
        self.changed: set[str] = set()
        self.told: list[Told] = []
        self.active = {subject for subject, each in held.items() if each.open or each.count}
        """Subjects that are open or on their way there."""
        self._closed = dict.fromkeys(subject for subject in held if subject not in self.active)
        self.state.open = sum(each.open for each in held.values())

    @classmethod
    def fresh(cls, rule: AlertRule, revision: int) -> Subjects:
        """Those of a rule that has just come."""
        state = RuleState(revision, severity=rule.severity, subject_kind=kind_of_subjects(rule))
        return cls(rule.name, state, {})

    # -- subjects -----------------------------------------------------------------------------------------------

    def begin(self, subject: str, at_us: int) -> Held | None:
        """Begin to count for a subject; None when there are too many already."""
        if len(self.active) - self.state.open >= ROW_MAX:
            self.refuse(at_us)
            return None
        before = self.held.get(subject)
        fresh = Held(at_us, at_us)
        if before is not None:
            fresh.before_us, fresh.before_version = before.started_us, before.version
        self.held[subject] = fresh
        self._closed.pop(subject, None)
        self.active.add(subject)
        self.changed.add(subject)
        return fresh

    def forget(self, subject: str) -> None:
        """A subject was on its way and is not any more."""
        held = self.held[subject]
        if held.before_us < 0:
            self._drop(subject)
        else:
            self._close(subject, Held(held.before_us, version=held.before_version))

    def open(self, subject: str, evidence: dict[str, Any], at_us: int) -> bool:
        """Open the finding of a subject that is on its way; False when too many are open already."""
        if self.state.open >= OPEN_MAX:
            self.refuse(at_us)
            return False
        held = self.held[subject]
        again = held.before_us == held.started_us
        held.version = held.before_version + 1 if again else 0
        held.before_us, held.before_version = -1, 0
        held.open, held.evidence = True, evidence
        self.state.open += 1
        self._tell(subject, held, FindingState.CHANGED if again else FindingState.OPENED, at_us)
        return True

    def change(self, subject: str, evidence: dict[str, Any], at_us: int) -> None:
        """Say something new of what is open."""
        held = self.held[subject]
        held.evidence = evidence
        held.version += 1
        self._tell(subject, held, FindingState.CHANGED, at_us)

    def close(self, subject: str, ended_us: int, at_us: int, **evidence: Any) -> None:
        """Close what is open. `evidence`: what it closes by."""
        held = self.held[subject]
        held.evidence = {**held.evidence, **evidence}
        held.version += 1
        self.state.open -= 1
        self._tell(subject, held, FindingState.CLOSED, at_us, max(ended_us, held.started_us))
        self._close(subject, Held(held.started_us, version=held.version))

    def open_subjects(self) -> list[str]:
        """Subjects with an open finding."""
        return [subject for subject in self.active if self.held[subject].open]

    def _close(self, subject: str, remembered: Held) -> None:
        self.active.discard(subject)
        self.held[subject] = remembered
        self._closed[subject] = None
        self.changed.add(subject)
        if len(self._closed) > CLOSED_MAX:
            self._drop(next(iter(self._closed)))

    def _drop(self, subject: str) -> None:
        self.active.discard(subject)
        self._closed.pop(subject, None)
        del self.held[subject]
        self.changed.add(subject)

    # -- the rule itself ----------------------------------------------------------------------------------------

    def fail(self, error: str, at_us: int) -> None:
        """The rule cannot do its work."""
        self.state.error = error[:1000]
        self.state.failed = self._trouble(FAILED, self.state.failed, {"error": error[:EVIDENCE_CHARS_MAX]}, at_us)

    def work(self, at_us: int) -> None:
        """It can."""
        self.state.error = ""
        self._end_trouble(FAILED, self.state.failed, at_us)
        self.state.failed = None

    def refuse(self, at_us: int) -> None:
        """A subject cannot be taken."""
        self.state.refused += 1
        if self.state.full is None:
            evidence = {"open": self.state.open, "open_most": OPEN_MAX, "waiting_most": ROW_MAX}
            self.state.full = self._trouble(FULL, None, evidence, at_us)

    def make_room(self, at_us: int) -> None:
        """Whether there is room again; asked now and then."""
        waiting = len(self.active) - self.state.open
        if self.state.full is not None and self.state.open < AGAIN * OPEN_MAX and waiting < AGAIN * ROW_MAX:
            self._end_trouble(FULL, self.state.full, at_us)
            self.state.full = None

    def _trouble(self, kind: str, known: Held | None, evidence: dict[str, Any], at_us: int) -> Held:
        if known is not None and known.evidence == evidence:
            return known
        if known is None:
            held = Held(at_us, open=True, evidence=evidence)
            self._tell_trouble(kind, held, FindingState.OPENED, at_us)
            return held
        held = Held(known.started_us, open=True, version=known.version + 1, evidence=evidence)
        self._tell_trouble(kind, held, FindingState.CHANGED, at_us)
        return held

    def _end_trouble(self, kind: str, known: Held | None, at_us: int) -> None:
        if known is not None:
            known.version += 1
            self._tell_trouble(kind, known, FindingState.CLOSED, at_us, max(at_us, known.started_us))

    def retire(self, at_us: int, why: str) -> None:
        """The rule is no more, or another one: close everything, and keep nothing."""
        for subject in self.open_subjects():
            self.close(subject, at_us, at_us, closed_because=why)
        self._end_trouble(FAILED, self.state.failed, at_us)
        self.state.failed = None
        self._end_trouble(FULL, self.state.full, at_us)
        self.state.full = None
        for subject in list(self.held):
            self._drop(subject)

    # -- telling ------------------------------------------------------------------------------------------------

    def _tell(self, subject: str, held: Held, state: FindingState, at_us: int, ended_us: int | None = None) -> None:
        self.changed.add(subject)
        of_rule = not subject
        finding = Finding(
            kind=f"rule.{self.name}", subject_kind=RULE if of_rule else self.state.subject_kind,
            subject=self.name if of_rule else subject, started_us=held.started_us,
            severity=Severity(self.state.severity), confidence=1.0, detector=DETECTOR, state=state,
            ended_us=ended_us, version=held.version, evidence=dict(held.evidence),
        )  # fmt: skip
        self.told.append(Told(finding, at_us))

    def _tell_trouble(
        self, kind: str, held: Held, state: FindingState, at_us: int, ended_us: int | None = None
    ) -> None:
        finding = Finding(
            kind=f"rule.{kind}", subject_kind=RULE, subject=self.name, started_us=held.started_us,
            severity=Severity.WARNING, confidence=1.0, detector=DETECTOR, state=state, ended_us=ended_us,
            version=held.version, evidence=dict(held.evidence),
        )  # fmt: skip
        self.told.append(Told(finding, at_us))

    def take_told(self) -> Iterator[Told]:
        """What is new to be told since the last call."""
        told, self.told = self.told, []
        return iter(told)

    def take_changed(self) -> Iterator[tuple[str, Held | None]]:
        """What has to be kept anew, or no longer, since the last call."""
        changed, self.changed = self.changed, set()
        return ((subject, self.held.get(subject)) for subject in sorted(changed))


def short(value: Any) -> Any:
    """A value as evidence has it: short."""
    if isinstance(value, str):
        return value[:EVIDENCE_CHARS_MAX]
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)[:EVIDENCE_CHARS_MAX]
