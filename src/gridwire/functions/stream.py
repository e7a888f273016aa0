"""A function that reads a hub: one thread that owns the source, gives batches to workers and commits.

    source.poll -> lanes -> pool of workers -> results -> source.commit(positions, outputs)

Nothing is committed but what succeeded or lies in the dead-letter hub with the same commit. Outputs and positions are
one commit, so effects inside the hub happen once wherever host or worker die. Whatever was under way when the source
was lost, or the group taken over, is thrown away: whoever has the group now reads from the committed positions.
"""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from gridwire.broker.port import EventSource, Output, Place
from gridwire.core.batch import Event
from gridwire.core.errors import FencedEpoch, GridwireError, UnknownHub
from gridwire.core.hubs import again_of, dead_letters_of, group_of
from gridwire.functions import letters, saved
from gridwire.functions.account import Account
from gridwire.functions.batches import Piece, pack
from gridwire.functions.frames import BATCH
from gridwire.functions.lanes import Group, Lane
from gridwire.functions.model import FROM_END, Call, Function, Published, Result
from gridwire.functions.pool import Fate
from gridwire.functions.retry import decide
from gridwire.wire.http.partitioner import partition_of

IDLE_S: Final = 0.5
"""How long a poll waits when nothing is under way; also how soon a stop is noticed."""

LINGER_S: Final = 0.004
"""How long a poll waits while calls are under way: they end unnoticed meanwhile."""

BUSY_S: Final = 0.05
"""How long to wait for a call to end when there is nothing to poll for."""

ALIVE_S: Final = 2.0
"""Between two polls at most: a broker takes a member that does not poll for dead."""

COMMIT_S: Final = 0.02
"""Between two commits while more is under way: one costs the hub a sync."""

COMMIT_BYTES: Final = 16 * 1024 * 1024
"""Outputs that wait for a commit."""

DRAIN_S: Final = 15.0
"""What calls under way get to end when the host is told to stop."""

RETRY_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Pauses before the source is opened anew, the last one for ever."""

log = structlog.get_logger("gridwire.functions")


OpenSource = Callable[[str, list[str]], EventSource]
"""Group and hubs. Raises Unavailable."""


class Workers(Protocol):
    """What a stream needs of a pool."""

    def room(self) -> int:
        """Batches that may be submitted now."""
        ...

    def submit(self, kind: int, parts: list[Any], timeout_s: float, ended: Callable[[Fate, Result], None]) -> None:
        """Have a frame answered."""
        ...


class Stream:
    """See the module; `run` is a thread's work.

    Args:
        save_failing: directory for batches as they were when they failed first, see `saved`.
        after: told each step once it is done, for tests that die there.
    """

    def __init__(
        self,
        app: str,
        function: Function,
        open_source: OpenSource,
        pool: Workers,
        stop: threading.Event,
        *,
        save_failing: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        after: Callable[[str], None] = lambda step: None,
    ) -> None:
        self.function = function
        self.save_failing = save_failing
        self.group = group_of(app, function.name)
        self.dead_letters = dead_letters_of(app, function.name)
        self.hubs = [function.hub, again_of(app, function.name)]
        self.start_ms = function.start_ms
        self.account = Account()
        self.counters = self.account.counters
        self.state = "starting"
        self.lag_events = 0
        self.lag_s = 0.0
        self.starved_since: float | None = None
        """Since when batches wait for a worker."""
        self.places = 0
        self._open, self._pool, self._stop = open_source, pool, stop
        self._clock, self._after = clock, after

    def run(self) -> None:
        """Work until stopped, or until another host has taken the group over."""
        failures = 0
        while not self._stop.is_set():
            session = None
            try:
                session = Session(self, self._open(self.group, self.hubs))
                self.state = "running"
                session.run()
                failures = 0
            except FencedEpoch:
                self.state = "fenced"
                log.warning("another host has taken over", function=self.function.name, group=self.group)
                return
            except GridwireError as error:
                failures = 0 if session is not None and session.committed else failures + 1
                pause_s = RETRY_S[min(failures, len(RETRY_S) - 1)]
                self.state = "reconnecting"
                self.counters["reconnects"] += 1
                log.warning("source lost", function=self.function.name, reason=str(error), retry_s=pause_s)
                self._stop.wait(pause_s)
            finally:
                if session is not None:
                    session.close()
        self.state = "stopped"


class Session:
    """One source, from opening to losing it."""

    def __init__(self, stream: Stream, source: EventSource) -> None:
        self.committed = False
        self._stream = stream
        self._function = stream.function
        self._source = source
        self._pool, self._clock, self._after = stream._pool, stream._clock, stream._after
        self._stop = stream._stop
        self._account, self._counters = stream.account, stream.counters
        self._ended: queue.SimpleQueue[tuple[Lane, Group, Fate, Result]] = queue.SimpleQueue()
        self._lanes: dict[Place, Lane] = {}
        self._identity: dict[Place, int] = {}
        self._running = 0
        self._positions: dict[Place, int] = {}
        self._outputs: dict[Place, list[Published]] = {}
        self._dead: dict[Place, list[Event]] = {}
        self._waiting_bytes = 0
        self._committed_at = 0.0
        self._polled_at = 0.0
        self._partitions: dict[str, int] = {}
        self._turn = 0

    def run(self, finished: Callable[[], bool] = lambda: False) -> None:
        """Until told to stop, or `finished`; what is under way then may end and is committed."""
        self._make_hubs()
        self._take_assignment()
        self._after("opened")
        while not (self._stop.is_set() or finished()):
            self.step()
        self._drain()

    def step(self) -> None:
        """Poll, give out, take in, commit: once."""
        self._poll()
        self._give_out()
        self._take_in(self._patience())
        self._commit_if_due()
        self._measure()

    def close(self) -> None:
        """Let go of the source; results that come later find nobody."""
        try:
            self._source.close()
        except (GridwireError, OSError):
            pass

    # -- reading --------------------------------------------------------------------------------------------------

    def _make_hubs(self) -> None:
        targets = [output.target for output in self._function.outputs if output.kind not in ("http", "blob")]
        for hub in targets:
            try:
                self._source.partitions(hub)
            except UnknownHub:
                self._source.create_hub(hub)
        self._source.create_hub(self._stream.dead_letters, 1)
        if self._stream.start_ms == FROM_END:
            try:
                self._source.partitions(self._function.hub)
            except UnknownHub:
                self._stream.start_ms = None  # whatever it will have is of after the start

    def _take_assignment(self) -> None:
        """Compare what is ours with what was: a place that came anew starts over, one that went is forgotten."""
        positions = self._source.positions()
        now = dict(self._source.assigned())
        for place in [place for place in self._lanes if now.get(place) != self._identity[place]]:
            del self._lanes[place]
            for kept in (self._positions, self._outputs, self._dead):
                kept.pop(place, None)
        fresh = [place for place in positions if place in now and place not in self._lanes]
        positions |= self._begin(fresh)
        for place in fresh:
            self._lanes[place] = Lane(place, self._function, positions[place], positions[place])
        self._identity = now
        self._stream.places = len(self._lanes)

    def _begin(self, fresh: Sequence[Place]) -> dict[Place, int]:
        """Where the function begins in places of its hub that it has no position in, if not at the first event.

        That becomes its position: whatever comes after it is processed, however soon this source is lost.
        """
        start_ms, known = self._stream.start_ms, self._source.committed()
        new = [place for place in fresh if place[0] == self._function.hub and place not in known]
        if start_ms is None or not new:
            return {}
        offsets = self._source.offsets_at(start_ms)
        found = {place: offsets[place] for place in new if place in offsets}
        self._source.commit(found)
        for place, offset in found.items():
            self._source.seek(place, offset)
        return found

    def _poll(self) -> None:
        """Read on where there is room. Partitions that have enough are parked at their end meanwhile."""
        now = self._clock()
        hungry = any(not lane.full for lane in self._lanes.values()) or not self._lanes
        if not hungry and now - self._polled_at < ALIVE_S:
            return
        timeout_s = self._poll_s(now)
        if timeout_s is None and now - self._polled_at < ALIVE_S:
            return
        lag = self._source.lag()
        parked = {}
        for place, position in self._source.positions().items():
            if place in self._lanes and self._lanes[place].full:
                parked[place] = position
                self._source.seek(place, position + lag.get(place, 0))
        batches = self._source.poll(timeout_s or 0.0)
        self._polled_at = self._clock()
        there = self._source.positions().keys()
        for place, position in parked.items():
            if place in there:
                self._source.seek(place, position)
        if self._source.assigned() != self._identity:
            self._take_assignment()
        for batch in batches:
            place = (batch.hub, batch.partition)
            if place in self._lanes and place not in parked:
                self._lanes[place].add(batch, self._polled_at)
        if batches:
            self._after("polled")

    def _poll_s(self, now: float) -> float | None:
        """How long a poll may wait; None when there is no need for one."""
        due = [at for lane in self._lanes.values() if (at := lane.next_due(now)) is not None]
        if self._running == 0:
            until = min(due, default=now + IDLE_S) - now
            return min(IDLE_S, max(0.0, until))
        if self._pool.room() <= 0:
            return None
        return 0.0 if any(at <= now for at in due) else LINGER_S

    # -- working --------------------------------------------------------------------------------------------------

    def _give_out(self) -> None:
        """Give due pieces to workers, the partitions in turn."""
        now = self._clock()
        lanes = list(self._lanes.values())
        self._turn = (self._turn + 1) % max(1, len(lanes))
        waits = False
        for lane in lanes[self._turn :] + lanes[: self._turn]:
            while (due := lane.next_due(now)) is not None and due <= now:
                if self._pool.room() <= 0:
                    waits = True
                    break
                taken = lane.next(now)
                if taken is None:
                    break
                self._submit(lane, *taken)
        if not waits:
            self._stream.starved_since = None
        elif self._stream.starved_since is None:
            self._stream.starved_since = now

    def _submit(self, lane: Lane, group: Group, piece: Piece) -> None:
        retry = self._function.retry
        call = Call(
            self._function.name, uuid.uuid4().hex, *lane.place, tries=piece.tries, tries_max=retry.count,
            failure=piece.failure, trace=letters.trace_of(piece),
        )  # fmt: skip
        self._running += 1
        self._counters["invocations"] += 1
        self._pool.submit(BATCH, pack(call, piece.parts), self._function.timeout_s, partial(self._on_end, lane, group))
        self._after("given")

    def _on_end(self, lane: Lane, group: Group, fate: Fate, result: Result) -> None:
        """Called by the pool's threads."""
        self._ended.put((lane, group, fate, result))

    def _patience(self) -> float:
        """How long to wait for a call to end."""
        if self._running == 0:
            return 0.0
        now = self._clock()
        starving = any(not lane.full for lane in self._lanes.values())
        return BUSY_S if self._pool.room() <= 0 or not starving or now - self._polled_at > ALIVE_S else 0.0

    def _take_in(self, timeout_s: float) -> None:
        try:
            item = self._ended.get(timeout=timeout_s) if timeout_s > 0 else self._ended.get_nowait()
            while True:
                self._running -= 1
                lane, group, fate, result = item
                if self._lanes.get(lane.place) is lane:  # else the place went away meanwhile
                    self._settle(lane, group, fate, result)
                item = self._ended.get_nowait()
        except queue.Empty:
            return

    def _settle(self, lane: Lane, group: Group, fate: Fate, result: Result) -> None:
        piece = group.pieces[0]
        if fate == "lost":
            lane.again(group, self._clock())
            return
        if fate == "done":
            self._account.called(result)
        if result.rejected:
            self._reject(lane, piece, result)
        if not result.error:
            self._counters["events"] += len(piece)
            self._release(lane, group, result.published)
            self._after("done")
            return
        if result.done:  # of a function that takes single events: what came before the failing one stands
            piece = self._split(lane, group, piece, result)
        self._failed(lane, group, piece, fate, result)

    def _split(self, lane: Lane, group: Group, piece: Piece, result: Result) -> Piece:
        self._counters["events"] += result.done
        first, rest = piece.split(result.done)
        rest.whole = piece.whole
        lane.replace(group, first, rest)
        self._release(lane, group, result.published)
        return rest

    def _release(self, lane: Lane, group: Group, published: Sequence[Published]) -> None:
        """A piece is dealt with: its outputs, and how far the partition is done."""
        released = lane.done(group, list(published))
        if released is None:
            return
        for each in released:
            self._outputs.setdefault(lane.place, []).append(each)
            self._waiting_bytes += sum(map(len, each.values))
        self._positions[lane.place] = lane.position

    def _failed(self, lane: Lane, group: Group, piece: Piece, fate: Fate, result: Result) -> None:
        lost = fate in ("died", "hung")
        piece.tries += 1
        piece.deaths += lost
        piece.failure, piece.traceback = result.error, result.traceback or result.error
        self._account.failed({"died": "deaths", "hung": "timeouts"}.get(fate, "failures"), result.error)
        if piece.whole and piece.tries == 1 and self._stream.save_failing is not None:
            call = Call(self._function.name, uuid.uuid4().hex, *lane.place, failure=result.error)
            saved.save(self._stream.save_failing, call, piece.parts)
        one = not self._function.many
        events = 1 if one and not lost else len(piece)
        decision = decide(self._function.retry, events, piece.tries, piece.deaths, whole=piece.whole, lost=lost)
        log.warning(
            "function failed", function=self._function.name, hub=lane.place[0], partition=lane.place[1],
            offset=int(piece.parts[0].offsets[0]), events=len(piece), tries=piece.tries, next=decision.action,
            reason=result.error,
        )  # fmt: skip
        if decision.action == "again":
            self._counters["retries"] += 1
            lane.again(group, self._clock() + decision.delay_s)
        elif decision.action == "halves":
            self._counters["bisections"] += 1
            lane.replace(group, *piece.split(len(piece) // 2))
        else:
            self._bury(lane, group, piece)

    def _bury(self, lane: Lane, group: Group, piece: Piece) -> None:
        """The first event of the piece, alone unless the function takes single events, is a dead letter."""
        if len(piece) > 1:
            rest = piece.split(1)
            rest[1].whole = piece.whole
            lane.replace(group, *rest)
            first = rest[0]
            first.tries, first.failure, first.traceback = piece.tries, piece.failure, piece.traceback
            piece = first
        event = piece.events()[0]
        self._dead.setdefault(lane.place, []).append(
            letters.letter(event, lane.place, self._function.name, piece.failure, piece.traceback, piece.tries)
        )
        self._counters["dead_letters"] += 1
        self._release(lane, group, [])

    def _reject(self, lane: Lane, piece: Piece, result: Result) -> None:
        events = piece.events()
        for row, reason in result.rejected:
            letter = letters.letter(events[row], lane.place, self._function.name, reason, "", 1)
            self._dead.setdefault(lane.place, []).append(letter)
            self._counters["dead_letters"] += 1

    # -- committing -----------------------------------------------------------------------------------------------

    def _commit_if_due(self) -> None:
        if not self._positions:
            return
        now = self._clock()
        quiet = self._running == 0
        if quiet or now - self._committed_at >= COMMIT_S or self._waiting_bytes >= COMMIT_BYTES:
            self._commit()

    def _commit(self) -> None:
        positions, outputs = self._positions, self._built()
        self._after("committing")
        self._source.commit(positions, outputs)
        self._after("committed")
        self.committed = True
        self._committed_at = self._clock()
        self._counters["commits"] += 1
        self._counters["outputs"] += sum(len(output.events) for output in outputs)
        self._positions, self._outputs, self._dead, self._waiting_bytes = {}, {}, {}, 0

    def _built(self) -> list[Output]:
        """Outputs by hub and partition: by key where there is one, else the partition follows that of the input."""
        found: dict[Place, list[Event]] = defaultdict(list)
        for origin, handed_out in self._outputs.items():
            for published in handed_out:
                for place, events in spread(published, origin[1], self._count(published.hub)).items():
                    found[place] += events
        for dead in self._dead.values():
            found[self._stream.dead_letters, 0] += dead
        return [Output(hub, partition, events) for (hub, partition), events in found.items()]

    def _count(self, hub: str) -> int:
        if hub not in self._partitions:
            self._partitions[hub] = self._source.partitions(hub)
        return self._partitions[hub]

    def _drain(self) -> None:
        """Let calls under way end, commit, and leave the rest to the next owner."""
        deadline = self._clock() + DRAIN_S
        while self._running and self._clock() < deadline:
            self._take_in(BUSY_S)
        if self._positions:
            self._commit()
        self._after("drained")

    def _measure(self) -> None:
        lag = self._source.lag()
        behind = sum(lag.values()) + sum(lane.buffer.events + _size(lane) for lane in self._lanes.values())
        oldest = min((ms for lane in self._lanes.values() if (ms := lane.oldest_ms) is not None), default=None)
        self._stream.lag_events = behind
        self._stream.lag_s = 0.0 if oldest is None else max(0.0, time.time() - oldest / 1000)
        for lane in self._lanes.values():
            for reason, count in lane.flushed.items():
                self._counters[f"flushed_{reason}"] += count
            lane.flushed.clear()


def _size(lane: Lane) -> int:
    return sum(len(piece) for group in lane.groups for piece in group.pieces)


def spread(published: Published, partition: int, count: int) -> dict[Place, list[Event]]:
    """Outputs as events of partitions."""
    keys = published.keys or [None] * len(published.values)
    headers = published.headers or [[]] * len(published.values)
    found: dict[Place, list[Event]] = defaultdict(list)
    for value, key, lines in zip(published.values, keys, headers, strict=True):
        number = partition % count if key is None else partition_of(key, count)
        found[published.hub, number].append(Event(value, key, tuple((name, text) for name, text in lines)))
    return found
