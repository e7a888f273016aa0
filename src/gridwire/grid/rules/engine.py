"""All rules together: batches of hubs and answers of the lake in; findings, and what has to be kept of them, out.

It does no I/O and asks no clock. What it knows is what it was given and what it had kept, so that whoever reads from
the committed positions with what was committed beside them goes on as if nobody had died.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from uuid import UUID

import msgspec

from gridwire.alerts import SILENCED_HEADER, Notes, moment
from gridwire.broker.alert_rules import Held, RuleRecord, RuleState, SqlRule, ThresholdRule
from gridwire.broker.port import ColumnBatch, Place, Position
from gridwire.core.batch import Event
from gridwire.grid.rules.question import Question
from gridwire.grid.rules.subjects import Subjects, Told
from gridwire.grid.rules.threshold import Threshold

COMMIT_KEY: Final = "#commit"
PENDING_MAX: Final = 5_000
"""Findings and subjects of one commit, about: some 5 MB."""

STATUS_MS: Final = 5_000
"""How old the counts of a rule may be in its state, where nothing else changes."""


class Kept:
    """What the hub of states says: the last commit, and of each rule its state and subjects."""

    def __init__(self) -> None:
        self.commit = 0
        self.states: dict[str, RuleState] = {}
        self.held: dict[str, dict[str, Held]] = defaultdict(dict)

    def take(self, key: bytes | None, value: bytes | None) -> None:
        """Take one event; what is none of ours is passed over."""
        text = (key or b"").decode("utf-8", "replace")
        name, slash, subject = text.partition("/")
        try:
            if text == COMMIT_KEY:
                self.commit = max(self.commit, msgspec.json.decode(value or b"0", type=int))
            elif slash:
                self.held[name].pop(subject, None)
                if value is not None:
                    self.held[name][subject] = msgspec.json.decode(value, type=Held)
            elif value is None:
                self.states.pop(text, None)
            else:
                self.states[text] = msgspec.json.decode(value, type=RuleState)
        except msgspec.MsgspecError:
            return


class Engine:
    """See the module.

    Args:
        records: the rules there are. kept: what was kept of them, and of others.
        hub_ids: of the hubs there are. committed: positions of their partitions.
    """

    def __init__(
        self, records: Iterable[RuleRecord], kept: Kept, hub_ids: Mapping[str, UUID],
        committed: Mapping[Place, Position], notes: Notes, now_ms: int,
    ) -> None:  # fmt: skip
        self._notes, self._now_ms = notes, now_ms
        self.thresholds: dict[str, list[Threshold]] = defaultdict(list)
        self.questions: dict[str, Question] = {}
        self.commit = kept.commit
        self._next: dict[tuple[str, Place], int] = {}
        self._begins: dict[str, tuple[RuleRecord, bool]] = {}
        self._states: dict[str, bytes] = {}
        self._written_ms: dict[str, int] = {}
        self._gone: list[Subjects] = []
        self._going: list[Subjects] = []
        self._subjects: list[Subjects] = []
        self._counts: Counter[str] = Counter()
        self._hub_ids, self._committed = hub_ids, committed
        known = {record.rule.name: record for record in records}
        for name in sorted({*kept.states, *kept.held} - known.keys()):
            self._retire(name, kept, "the rule was removed")
        for record in known.values():
            self._add(record, kept)

    def _add(self, record: RuleRecord, kept: Kept) -> None:
        rule = record.rule
        state = kept.states.get(rule.name)
        adopted = state is not None and state.revision == record.revision
        if state is not None and adopted:
            subjects = Subjects(rule.name, state, dict(kept.held.get(rule.name, {})))
            self._states[rule.name] = msgspec.json.encode(state)
        else:
            self._retire(rule.name, kept, "the rule was changed")
            subjects = Subjects.fresh(rule, record.revision)
        self._subjects.append(subjects)
        self._begins[rule.name] = (record, adopted)
        if isinstance(rule, SqlRule):
            self.questions[rule.name] = Question(rule, subjects)
        else:
            self.thresholds[rule.hub].append(Threshold(rule, subjects))

    def _retire(self, name: str, kept: Kept, why: str) -> None:
        """Close what another revision, or a rule that is no more, has open."""
        if name not in kept.states and name not in kept.held:
            return
        state = kept.states.get(name) or RuleState(0)
        gone = Subjects(name, state, dict(kept.held.get(name, {})))
        gone.retire(self._now_ms * 1000, why)
        self._gone.append(gone)

    # -- events -------------------------------------------------------------------------------------------------

    def first(self, place: Place) -> int:
        """Where to read on in a place: where the first of its rules has not looked yet."""
        found = [self._position(each, place) for each in self.thresholds.get(place[0], ())]
        return min(found, default=self._committed_at(place))

    def _committed_at(self, place: Place) -> int:
        known = self._committed.get(place)
        return 0 if known is None else known.offset

    def _position(self, threshold: Threshold, place: Place) -> int:
        """First offset that a rule has not looked at. One that was here at the last commit has looked up to there."""
        name = threshold.rule.name
        if (name, place) not in self._next:
            record, adopted = self._begins[name]
            hub_id = self._hub_ids.get(place[0], UUID(int=0))
            start = record.start(place, hub_id)
            self._next[name, place] = max(start, self._committed_at(place)) if adopted else start
        return self._next[name, place]

    def take(self, batch: ColumnBatch, now_ms: int) -> None:
        """Let every rule of its hub look at a batch."""
        place = (batch.hub, batch.partition)
        self._counts["events"] += len(batch.columns)
        for threshold in self.thresholds.get(batch.hub, ()):
            first = self._position(threshold, place)
            if batch.next_offset <= first:
                continue
            columns = batch.columns
            if len(columns) and int(columns.offsets[0]) < first:
                columns = columns.take(columns.offsets >= first)
            threshold.take(batch.partition, columns, now_ms)
            self._next[threshold.rule.name, place] = batch.next_offset

    def events_at_once(self, hub: str) -> int:
        """How many events of a hub make no more than what one commit can have."""
        return max(1, PENDING_MAX // max(1, len(self.thresholds.get(hub, ()))))

    def has_much(self) -> bool:
        """Whether what is waiting is enough for a commit."""
        return sum(len(each.told) + len(each.changed) for each in self._subjects) >= PENDING_MAX

    # -- what comes of it ---------------------------------------------------------------------------------------

    def retiring(self) -> bool:
        """Whether rules that are gone, or were another revision, have still something to close: before all else."""
        return bool(self._gone)

    def changed(self, now_ms: int) -> bool:
        """Whether there is anything to tell or to keep."""
        self._now_ms = now_ms
        for subjects in self._subjects:
            subjects.make_room(now_ms * 1000)
        return self.retiring() or any(each.told or each.changed or self._stale(each) for each in self._subjects)

    def _stale(self, subjects: Subjects) -> bool:
        """Whether the state of a rule is to be kept anew: its counts can wait for a moment."""
        before = self._states.get(subjects.name)
        if before is None or subjects.state.failed is not None or subjects.state.full is not None:
            return before != msgspec.json.encode(subjects.state)
        due = self._now_ms - self._written_ms.get(subjects.name, 0) >= STATUS_MS or subjects.name in self.questions
        return due and before != msgspec.json.encode(subjects.state)

    def findings(self) -> Iterator[tuple[str, Event]]:
        """Subjects and events of what is new; while rules are retiring, of some of those and of no other."""
        while self._gone and sum(len(gone.changed) for gone in self._going) < PENDING_MAX:
            self._going.append(self._gone.pop(0))
        for subjects in self._going or self._subjects:
            for told in subjects.take_told():
                self._counts[f"findings_{told.finding.state}"] += 1
                yield told.finding.subject, self._event(told)

    def _event(self, told: Told) -> Event:
        """The finding's event, marked where somebody silenced it."""
        at_ms = told.at_us // 1000
        event, finding = told.finding.to_event(at_ms), told.finding
        subject = f"{finding.subject_kind}/{finding.subject}"
        name = self._notes.silenced_by(finding.kind, subject, moment(at_ms))
        if not name:
            return event
        self._counts["findings_silenced"] += 1
        return Event(event.value, event.key, (*event.headers, (SILENCED_HEADER, name.encode())), event.timestamp)

    def keep(self) -> list[Event]:
        """What has to be kept anew, and the number of the commit that keeps it. Call it after `findings`."""
        going, self._going = self._going, []
        events = self._forgotten(going) if going else self._remembered()
        self.commit += 1
        events.append(_kept(COMMIT_KEY, self.commit, self._now_ms))
        return events

    def _forgotten(self, going: Iterable[Subjects]) -> list[Event]:
        events: list[Event] = []
        for gone in going:
            events += [_kept(f"{gone.name}/{subject}", None, self._now_ms) for subject, _ in gone.take_changed()]
            events.append(_kept(gone.name, None, self._now_ms))
        return events

    def _remembered(self) -> list[Event]:
        events: list[Event] = []
        for subjects in self._subjects:
            changes = [
                _kept(f"{subjects.name}/{subject}", held, self._now_ms) for subject, held in subjects.take_changed()
            ]
            if changes or self._stale(subjects):
                events += [*changes, self._state(subjects)]
        return events

    def _state(self, subjects: Subjects) -> Event:
        event = _kept(subjects.name, subjects.state, self._now_ms)
        self._states[subjects.name] = event.value or b""
        self._written_ms[subjects.name] = self._now_ms
        return event

    def counters(self) -> dict[str, int]:
        """Everything counted, by name, since the engine was made."""
        open_findings = sum(each.state.open for each in self._subjects)
        return {**self._counts, "rules": len(self._subjects), "findings_open": open_findings}


def _kept(key: str, value: Held | RuleState | int | None, now_ms: int) -> Event:
    return Event(None if value is None else msgspec.json.encode(value), key.encode(), (), now_ms)


def partition_of(subject: str, partitions: int) -> int:
    """Partition of a subject's findings, as those of the detectors have it."""
    return zlib.crc32(subject.encode()) % partitions


def hubs_of(records: Iterable[RuleRecord]) -> list[str]:
    """Hubs that rules look at."""
    rules = (record.rule for record in records)
    return sorted({rule.hub for rule in rules if isinstance(rule, ThresholdRule)})
