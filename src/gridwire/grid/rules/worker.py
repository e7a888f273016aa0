"""The worker of users' alert rules: events and answers of the lake in, findings to the hub `grid.alerts` out.

    hubs of the rules -> thresholds -.
    the lake -> questions -----------+-> findings -> grid.alerts
    grid.alert-notes -> silences ----'   subjects, states, number of the commit -> grid.rule-states

One commit makes three things durable together: how far each hub was read, what was found, and what has to be kept to go
on. The number of the commit is in the hub of states and on the positions, so a worker that starts knows when it has
read all that was kept, however late a transaction's end comes to be seen. Whatever happens between two commits, it
begins anew from the last one. A rule that is new looks from where the hub ended when it was made, even if the worker
before this one has read further.

One worker has all hubs, the one that has the hub of states; others on a cluster stand by.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from gridwire.alerts import Notes
from gridwire.broker.alert_rules import RuleRecord
from gridwire.broker.port import ColumnBatch, EventSource, Output, Place
from gridwire.core.batch import Event
from gridwire.core.clock import Clock, SystemClock
from gridwire.core.errors import Rebalanced, StorageFailed, Unavailable, UnknownHub
from gridwire.core.hubs import ALERT_NOTES, ALERTS, RULE_STATES
from gridwire.grid.rules.engine import Engine, Kept, hubs_of, partition_of
from gridwire.grid.rules.question import Answer, Ask, Question, QuestionFailed

IDLE_S: Final = 0.5
"""Longest wait for events: time goes on for those who are quiet, and questions become due."""

LINGER_S: Final = 0.02
"""How long a poll waits while something waits for its commit."""

ANSWER_S: Final = 0.1
"""How long it waits while the lake is thinking."""

COMMIT_S: Final = 0.25
"""Longest time between two commits while events keep coming."""

ON_ITS_WAY_MS: Final = 2_000
"""An event that has its time may not be readable for so long: it is no silence yet."""

RETRY_S: Final = (0.05, 0.2, 0.5, 1.0, 2.0)
"""Pauses between attempts to reach the hub; the last one repeats."""

LOAD_S: Final = 30.0
"""How long a start waits for a commit that the positions know of and the hub of states does not show yet."""

STATES: Final[Place] = (RULE_STATES, 0)

log = structlog.get_logger(__name__)

OpenSource = Callable[[list[str], list[str]], EventSource]
"""(hubs to read, hubs to follow) to a source."""


def run(
    open_source: OpenSource,
    records: Sequence[RuleRecord],
    ask: Ask,
    stop: threading.Event,
    *,
    clock: Clock | None = None,
    metrics: dict[str, int] | None = None,
) -> None:
    """Work until `stop` is set.

    Args:
        ask: asks the lake. metrics: filled with what was done.

    Raises:
        FencedEpoch: another worker of rules took over.
    """
    RulesWorker(open_source, records, ask, stop, clock or SystemClock(), {} if metrics is None else metrics).run()


@dataclass(slots=True)
class _Asked:
    """A question on its way, in a thread of its own."""

    question: Question
    answer: Answer | None = None
    error: str = ""
    done: threading.Event = field(default_factory=threading.Event)


class RulesWorker:
    """See the module; `run` is the way to use it."""

    def __init__(
        self, open_source: OpenSource, records: Sequence[RuleRecord], ask: Ask, stop: threading.Event, clock: Clock,
        metrics: dict[str, int],
    ) -> None:  # fmt: skip
        self._open, self._records, self._ask, self._stop = open_source, records, ask, stop
        self._clock, self._metrics = clock, metrics
        self._counts: Counter[str] = Counter()
        self._notes = Notes()
        self._engine: Engine | None = None
        self._assigned: Mapping[Place, int] = {}
        self._floor: dict[Place, int] = {}
        self._read: dict[Place, int] = {}
        self._moved: dict[Place, int] = {}
        self._newest_us: dict[Place, int] = {}
        self._asked: _Asked | None = None
        self._committed_s = 0.0

    def run(self) -> None:
        """Work until stopped or fenced."""
        attempt = 0
        while not self._stop.is_set():
            before = self._counts["commits"]
            try:
                self.session()
            except (Unavailable, UnknownHub, StorageFailed) as error:
                attempt = 0 if self._counts["commits"] > before else attempt + 1
                pause_s = RETRY_S[min(attempt, len(RETRY_S) - 1)]
                log.warning("hub unavailable", reason=str(error), retry_s=pause_s)
                self._stop.wait(pause_s)

    def session(self) -> None:
        """Connect, come to where the last commit left off, and work until stopped."""
        self._engine, self._assigned = None, {}
        source = self._open([RULE_STATES, *hubs_of(self._records)], [ALERT_NOTES])
        try:
            for hub in (RULE_STATES, ALERT_NOTES, ALERTS):
                _ensure(source, hub)
            while not self._stop.is_set():
                try:
                    self._turn(source)
                except Rebalanced as reason:
                    log.info("commit refused while hubs move between workers", reason=str(reason))
                    self._engine = None
            if self._engine is not None:
                self._commit(source, self._engine)
        except Rebalanced:
            pass  # whoever has the hubs now does that work
        finally:
            source.close()

    def _turn(self, source: EventSource) -> None:
        """One poll and what follows from it."""
        if self._engine is None or source.assigned() != self._assigned:
            self._engine = self._adopt(source)
        engine = self._engine
        batches = source.poll(self._patience_s(engine))
        for batch in batches:
            self._take_notes(batch)
        if engine is None or source.assigned() != self._assigned:
            return
        now_ms = self._clock.now_ms()
        for batch in batches:
            for part in _parts(batch, engine.events_at_once(batch.hub)):
                self._take(engine, part, now_ms)
                self._commit_if_much(source, engine)
        self._pass_time(source, engine, batches, now_ms)
        self._answer(engine, now_ms)
        if not batches or self._clock.monotonic() - self._committed_s >= COMMIT_S:
            self._commit(source, engine)

    def _patience_s(self, engine: Engine | None) -> float:
        if engine is None:
            return IDLE_S
        if self._moved:
            return LINGER_S
        return IDLE_S if self._asked is None else ANSWER_S

    # -- beginning ----------------------------------------------------------------------------------------------

    def _adopt(self, source: EventSource) -> Engine | None:
        """The rules as the last commit left them; None while the hubs are another worker's, or on their way here."""
        assigned = source.assigned()
        if STATES not in assigned:
            return None
        kept = self._load(source, assigned)
        if kept is None:
            return None
        committed = source.committed()
        ids = {hub: source.hub_id(hub) for hub in {hub for hub, _ in assigned}}
        engine = Engine(self._records, kept, ids, committed, self._notes, self._clock.now_ms())
        self._assigned, self._moved, self._newest_us, self._asked = assigned, {}, {}, None
        self._read = {}
        self._floor = {place: known.offset for place, known in committed.items() if place != STATES}
        for place in assigned:
            if place != STATES:
                self._read[place] = engine.first(place)
                source.seek(place, self._read[place])
        while engine.retiring():
            self._commit(source, engine)
        log.info("rules ready", rules=len(self._records), commit=kept.commit)
        return engine

    def _load(self, source: EventSource, assigned: Mapping[Place, int]) -> Kept | None:
        """Read everything that was kept; None when the assignment changed meanwhile, or the worker is to stop."""
        known = source.committed().get(STATES)
        wanted = int(known.metadata) if known is not None and known.metadata.isdecimal() else 0
        kept = Kept()
        source.seek(STATES, source.offsets_at(None).get(STATES, 0))
        deadline = self._clock.monotonic() + LOAD_S
        while not self._stop.is_set():
            batches = source.poll(LINGER_S)
            if source.assigned() != assigned:
                return None
            for batch in batches:
                self._take_notes(batch)
                if batch.hub == RULE_STATES:
                    for row in range(len(batch.columns)):
                        kept.take(batch.columns.key(row), batch.columns.value(row))
            lag = source.lag()
            behind = lag.get(STATES, 0) or any(left for (hub, _), left in lag.items() if hub == ALERT_NOTES)
            if behind:
                continue
            if kept.commit >= wanted:
                return kept
            if self._clock.monotonic() >= deadline:
                log.warning("what rules kept is not whole", commit=wanted, found=kept.commit)
                return kept
        return None

    # -- work ---------------------------------------------------------------------------------------------------

    def _take_notes(self, batch: ColumnBatch) -> None:
        if batch.hub == ALERT_NOTES:
            for row in range(len(batch.columns)):
                self._notes.take(batch.columns.value(row))

    def _take(self, engine: Engine, batch: ColumnBatch, now_ms: int) -> None:
        place = (batch.hub, batch.partition)
        if batch.hub in (ALERT_NOTES, RULE_STATES):
            return
        engine.take(batch, now_ms)
        self._moved[place] = self._read[place] = batch.next_offset
        if len(batch.columns):
            newest_us = min(int(batch.columns.timestamps.max()), now_ms) * 1000
            self._newest_us[place] = max(self._newest_us.get(place, 0), newest_us)

    def _pass_time(self, source: EventSource, engine: Engine, batches: Sequence[ColumnBatch], now_ms: int) -> None:
        """Of a hub that has been read to its end time goes on by itself; of another one with its events."""
        lag, until_us = source.lag(), dict[str, int]()
        told = {(batch.hub, batch.partition) for batch in batches}
        for place in self._assigned:
            done = not lag.get(place, 0) and place not in told
            reached_us = (now_ms - ON_ITS_WAY_MS) * 1000 if done else self._newest_us.get(place, 0)
            until_us[place[0]] = min(until_us.get(place[0], reached_us), reached_us)
        for hub, thresholds in engine.thresholds.items():
            for threshold in thresholds:
                threshold.pass_time(until_us.get(hub, 0))
                self._commit_if_much(source, engine)

    def _answer(self, engine: Engine, now_ms: int) -> None:
        """Take an answer that has come, and ask what is due: one question at a time."""
        if self._asked is not None and self._asked.done.is_set():
            asked, self._asked = self._asked, None
            self._counts["questions"] += 1
            if asked.answer is None:
                self._counts["questions_failed"] += 1
                asked.question.failed(asked.error, now_ms)
            else:
                asked.question.take(asked.answer, now_ms)
        if self._asked is None:
            waiting = (each for each in engine.questions.values() if each.due(now_ms))
            due = min(waiting, key=Question.last_ms, default=None)
            if due is not None:
                self._asked = _Asked(due)
                threading.Thread(target=_put, args=(self._ask, self._asked), daemon=True).start()

    def _commit_if_much(self, source: EventSource, engine: Engine) -> None:
        if engine.has_much():
            self._commit(source, engine)

    def _commit(self, source: EventSource, engine: Engine) -> None:
        """One commit of everything since the last one; nothing while a new rule is still behind the others."""
        self._committed_s = self._clock.monotonic()
        if not engine.retiring() and any(self._read.get(place, at) < at for place, at in self._floor.items()):
            return
        outputs: list[Output] = []
        if engine.changed(self._clock.now_ms()):
            outputs = self._outputs(source, engine)
            self._moved[STATES] = source.positions()[STATES]
        if not self._moved:
            return
        source.commit(self._moved, outputs, str(engine.commit))
        self._floor |= {place: offset for place, offset in self._moved.items() if place != STATES}
        self._moved = {}
        self._counts["commits"] += 1
        lag = sum(left for (hub, _), left in source.lag().items() if hub not in (RULE_STATES, ALERT_NOTES))
        self._metrics.update({**self._counts, **engine.counters(), "lag_events": lag})

    def _outputs(self, source: EventSource, engine: Engine) -> list[Output]:
        by_partition: dict[int, list[Event]] = {}
        partitions = source.partitions(ALERTS)
        for subject, event in engine.findings():
            by_partition.setdefault(partition_of(subject, partitions), []).append(event)
        found = [Output(ALERTS, partition, events) for partition, events in sorted(by_partition.items())]
        return [*found, Output(*STATES, engine.keep())]


def _parts(batch: ColumnBatch, events_max: int) -> Iterator[ColumnBatch]:
    """A batch in pieces of so many events; places that lie in between are those of the events."""
    columns = batch.columns
    for begin in range(0, max(1, len(columns)), events_max):
        end = begin + events_max
        following = int(columns.offsets[end]) if end < len(columns) else batch.next_offset
        yield ColumnBatch(batch.hub, batch.partition, columns.slice(begin, end), following)


def _put(ask: Ask, asked: _Asked) -> None:
    """Ask, and say that it is done whatever comes of it."""
    try:
        asked.answer = ask(asked.question.rule.query)
    except QuestionFailed as error:
        asked.error = str(error)
    except Exception as error:
        log.exception("a question failed", rule=asked.question.rule.name)
        asked.error = f"the question could not be asked: {error}"
    finally:
        asked.done.set()


def _ensure(source: EventSource, hub: str) -> None:
    """Make a hub unless it is there; asked first, for who may read it need not be allowed to make one."""
    try:
        source.partitions(hub)
    except UnknownHub:
        source.create_hub(hub)
