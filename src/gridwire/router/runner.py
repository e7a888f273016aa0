"""One route at work: reads findings, delivers them, commits what is done.

A source blocks, so it has a thread of its own, and this loop alone speaks to it. Deliveries are tasks of the loop: a
few at a time while all is well, one at a time while the receiver is in trouble.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec
import structlog

from gridwire.alerts import SILENCED_HEADER, alert_of, moment
from gridwire.broker.alert_routes import RouteNote, RouteRecord, group_of, hubs_of, letters_of, parse_note
from gridwire.broker.port import ColumnBatch, EventSource, Output, Place
from gridwire.core.batch import Event
from gridwire.core.clock import Clock
from gridwire.core.errors import GridwireError, Rebalanced, StorageFailed, Unavailable, UnknownHub
from gridwire.core.letters import letter
from gridwire.core.limits import MIB
from gridwire.router.backlog import Backlog, Item
from gridwire.router.message import request_of
from gridwire.router.sender import Sender
from gridwire.router.verdict import Verdict, judge, route_wait_s, wait_s

POLL_S: Final = 0.5
"""Longest wait for findings, so that what is done is soon committed and a stop is noticed."""

POLL_BYTES: Final = MIB
COMMIT_S: Final = 1.0
"""Least time between two commits: a receiver may be told again what it was told since the last one."""

KEEP_S: Final = 20.0
"""How often a route that has no room tells its group that it is there."""

AT_ONCE: Final = 4
"""Deliveries of one route under way. With as many routes as there may be that is all a worker has under way."""

STOP_S: Final = 3.0
"""What deliveries under way get to end when the route stops."""

RETRY_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Pauses between attempts to reach the hub; the last one repeats."""

REASON_CHARS_MAX: Final = 300

log = structlog.get_logger("gridwire.router")


Wait = Callable[[asyncio.Event, float | None], Awaitable[None]]


async def wait_for(event: asyncio.Event, seconds: float | None) -> None:
    """Until an event is set, or the time is up."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


class Runner:
    """See the module.

    Args:
        open_source: (group, hubs) to a source.
        headers: those that go along besides the finding's own. Raises GridwireError: the secret does not open.
        stopped: called when the receiver wants no more. chance: 0 to 1, for the jitter of waits.
        wait: until an event is set, or so many seconds are over by the clock; None for no such limit.
    """

    def __init__(
        self,
        name: str,
        record: RouteRecord,
        open_source: Callable[[str, Sequence[str]], EventSource],
        sender: Sender,
        headers: Callable[[], Mapping[str, str]],
        *,
        clock: Clock,
        stopped: Callable[[str], Awaitable[None]],
        chance: Callable[[], float] = random.random,
        wait: Wait = wait_for,
    ) -> None:
        self.name, self.record = name, record
        self._open, self._sender, self._headers = open_source, sender, headers
        self._clock, self._stopped, self._chance, self._wait_for = clock, stopped, chance, wait
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"route-{name}")
        self._backlog = Backlog()
        self._assigned: dict[Place, int] = {}
        self._note = RouteNote()
        self._letters: list[tuple[Place, Event]] = []
        self._failures = 0
        self._not_before_s = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._moved = asyncio.Event()
        self._eased = asyncio.Event()
        self._end = asyncio.Event()
        self._bug: BaseException | None = None
        self._dirty = False
        self._committed_s = self._served_s = clock.monotonic()

    def stop(self) -> None:
        """Come to an end: nothing new is begun."""
        self._end.set()
        self._moved.set()
        self._eased.set()

    async def run(self) -> None:
        """Deliver until stopped. Raises FencedEpoch: another worker took the route over."""
        attempt = 0
        try:
            while not self._end.is_set():
                try:
                    await self._session()
                    attempt = 0
                except (Unavailable, UnknownHub, StorageFailed) as error:
                    pause_s = RETRY_S[min(attempt, len(RETRY_S) - 1)]
                    attempt += 1
                    log.warning("hub unavailable", route=self.name, reason=str(error), retry_s=pause_s)
                    await self._wait_for(self._end, pause_s)
        finally:
            self._thread.shutdown(wait=False)

    async def _session(self) -> None:
        """One source, from its opening to its end or the end of the hub."""
        source = await self._apart(self._open, group_of(self.name, self.record), hubs_of(self.name))
        delivering = asyncio.create_task(self._deliver())
        try:
            while not self._end.is_set():
                await self._turn(source)
                if delivering.done():
                    delivering.result()
        finally:
            delivering.cancel()
            try:
                await self._finish(source)
            finally:
                self._forget()
                await self._apart(source.close)

    async def _finish(self, source: EventSource) -> None:
        """Let deliveries under way end for a moment, and commit what became of them."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_S)
        for task in list(self._tasks):
            task.cancel()
        with contextlib.suppress(Unavailable, UnknownHub, StorageFailed):
            await self._commit(source)

    def _forget(self) -> None:
        """What was read and not committed is read again by whoever comes next."""
        for place in list(self._backlog.places):
            self._backlog.drop(place)
        self._assigned, self._letters, self._tasks = {}, [], set()

    async def _apart(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """A call that blocks, in the thread of this route."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: call(*arguments))

    # -- reading ------------------------------------------------------------------------------------------------

    async def _turn(self, source: EventSource) -> None:
        """One look for findings, and a commit if something is done."""
        if self._bug is not None:
            raise self._bug
        self._adopt(source)
        now_s = self._clock.monotonic()
        if self._has_room() or not self._assigned:
            batches = await self._apart(source.poll, POLL_S, POLL_BYTES)
            self._served_s = now_s
            self._adopt(source)
            self._take(source, batches)
        elif now_s - self._served_s >= KEEP_S:
            self._served_s = now_s
            self._put_back(source, await self._apart(source.poll, 0.0, POLL_BYTES))
        else:
            self._eased.clear()
            await wait_for(self._eased, POLL_S)
        if self._dirty and self._clock.monotonic() - self._committed_s >= COMMIT_S:
            await self._commit(source)

    def _has_room(self) -> bool:
        """Whether reading is worth it: not for every single telling that goes out."""
        return self._backlog.room * 2 >= self._backlog.waiting_max

    def _adopt(self, source: EventSource) -> None:
        """Let go of places that went to others, begin with those that came."""
        assigned = dict(source.assigned())
        if assigned == self._assigned:
            return
        for place in [place for place in self._assigned if assigned.get(place) != self._assigned[place]]:
            self._backlog.drop(place)
            self._letters = [(where, event) for where, event in self._letters if where != place]
        fresh = [place for place in assigned if place not in self._backlog.places]
        committed, positions = source.committed(), source.positions()
        notes = {place: parse_note(committed[place].metadata) for place in fresh if place in committed}
        if not self._assigned and notes:
            self._note = max(notes.values(), key=lambda note: (note.delivered + note.failed, note.tries))
        for place in fresh:
            beyond = notes[place].beyond if place in notes else {}
            self._backlog.begin(place, positions[place], beyond.get(f"{place[0]}/{place[1]}", ()))
        self._assigned = assigned

    def _take(self, source: EventSource, batches: Sequence[ColumnBatch]) -> None:
        """Take what goes this way, as much as there is room for; the rest is read again."""
        full: set[Place] = set()
        for batch in batches:
            place = (batch.hub, batch.partition)
            if place in full or place not in self._backlog.places:
                continue
            following = self._taken(place, batch)
            self._backlog.read(place, following)
            self._dirty = True
            if following < batch.next_offset:
                source.seek(place, following)
                full.add(place)
        if batches:
            self._moved.set()

    def _taken(self, place: Place, batch: ColumnBatch) -> int:
        """Take from one batch; returns the first offset that was not looked at."""
        for row, offset in enumerate(batch.columns.offsets.tolist()):
            if not self._backlog.room:
                return int(offset)
            if self._backlog.is_done(place, offset):
                continue
            event = batch.columns.event(row)
            alert = alert_of(event.value)
            silenced = any(name == SILENCED_HEADER for name, _ in event.headers)
            if alert is not None and self.record.takes(alert, silenced=silenced):
                self._backlog.add(Item(place, offset, alert.id, event))
        return batch.next_offset

    def _put_back(self, source: EventSource, batches: Sequence[ColumnBatch]) -> None:
        """Read again what came although there is no room."""
        self._adopt(source)
        for batch in reversed(batches):
            source.seek((batch.hub, batch.partition), batch.first_offset)

    # -- committing ---------------------------------------------------------------------------------------------

    async def _commit(self, source: EventSource) -> None:
        """Positions, dead letters and how the route is, durable together."""
        if not self._dirty or not self._assigned:
            return
        self._dirty = False
        letters, self._letters = self._letters, []
        outputs = []
        if letters:
            await self._apart(source.create_hub, letters_of(self.name), 1)
            outputs = [Output(letters_of(self.name), 0, [event for _, event in letters])]
        note = RouteNote(
            self._note.delivered, self._note.failed, self._note.tries, self._note.delivered_ms, self._note.error,
            self._note.error_ms, self._backlog.beyond(),
        )  # fmt: skip
        try:
            text = _encoded(note)
            await self._apart(source.commit, self._backlog.positions(), outputs, text)
            self._committed_s = self._clock.monotonic()
        except Rebalanced as reason:
            log.info("commit refused while places move between workers", route=self.name, reason=str(reason))
            self._letters, self._dirty = letters + self._letters, True

    # -- delivering ---------------------------------------------------------------------------------------------

    async def _deliver(self) -> None:
        """Begin deliveries as they become due."""
        while not self._end.is_set():
            self._give_up_late()
            item = self._next()
            if item is None:
                await self._wait()
                continue
            item.under_way = True
            if self.record.rate_per_min:
                self._not_before_s = self._clock.monotonic() + 60 / self.record.rate_per_min
            task = asyncio.create_task(self._try(item))
            self._tasks.add(task)
            task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        """There is a place for another delivery: told only now that it is, or who waits for it looks too early."""
        self._tasks.discard(task)
        if not task.cancelled():
            self._bug = self._bug or task.exception()
        self._moved.set()

    def _next(self) -> Item | None:
        now_s = self._clock.monotonic()
        return None if now_s < self._not_before_s or self._is_busy() else self._backlog.ready(now_s)

    def _is_busy(self) -> bool:
        """Whether one of the deliveries under way has to end before another one begins."""
        return len(self._tasks) >= (1 if self._failures else AT_ONCE)

    async def _wait(self) -> None:
        """Until something may be begun: a finding came, a delivery ended, or a wait is over."""
        self._moved.clear()
        now_s = self._clock.monotonic()
        due_s = self._backlog.next_due_s()
        if due_s is None or self._is_busy():
            await self._wait_for(self._moved, None)
        else:
            await self._wait_for(self._moved, max(0.0, due_s - now_s, self._not_before_s - now_s))

    async def _try(self, item: Item) -> None:
        """One delivery, and what becomes of it."""
        verdict = await self._verdict(item)
        if verdict.action in ("again", "stop"):
            self._repeat(item, verdict)
        elif self._backlog.done(item):
            self._ended(item, verdict)
        self._dirty = True
        if self._has_room():
            self._eased.set()
        if verdict.action == "stop":
            await self._say_stopped(verdict.reason)

    async def _say_stopped(self, reason: str) -> None:
        try:
            await self._stopped(reason)
        except GridwireError as error:
            log.warning("the route cannot be stopped yet", route=self.name, reason=str(error))
        else:
            self.stop()

    async def _verdict(self, item: Item) -> Verdict:
        try:
            own = self._headers()
            headers, body = request_of(item.event, self.record.mode)
            answer = await self._sender.ask("POST", self.record.url, {**headers, **own}, body)
        except GridwireError as error:
            return Verdict("again", str(error))
        except Exception:
            log.exception("a delivery failed in a way nobody thought of", route=self.name)
            return Verdict("again", "the hub failed at it; the log of its workers says why")
        verdict = judge(answer.status, answer.headers.get("retry-after", ""), moment(self._clock.now_ms()))
        if verdict.action == "done":
            return verdict
        return Verdict(verdict.action, _with_answer(verdict.reason, answer.body, own.values()), verdict.after_s)

    def _repeat(self, item: Item, verdict: Verdict) -> None:
        now_s = self._clock.monotonic()
        if not self._failures or now_s >= self._not_before_s:  # else it was under way beside one that failed just now
            self._failures += 1
        wait = max(verdict.after_s, wait_s(item.tries + 1, self._chance()))
        self._backlog.again(item, now_s + wait, verdict.reason)
        pause = max(verdict.after_s, route_wait_s(self._failures, self._chance()))
        self._not_before_s = max(self._not_before_s, now_s + pause)
        self._noted(verdict.reason)
        log.warning("not delivered", route=self.name, finding=item.finding, tries=item.tries, reason=verdict.reason)

    def _ended(self, item: Item, verdict: Verdict) -> None:
        """Delivered, or given up."""
        was_down, self._failures = self._failures > 1, 0
        if was_down:
            self._backlog.wake()
        if verdict.action == "done":
            self._note = _with(self._note, delivered=self._note.delivered + 1, delivered_ms=self._clock.now_ms())
        else:
            item.tries += 1
            self._noted(verdict.reason)
            self._give_up(item, verdict.reason)

    def _give_up_late(self) -> None:
        """What is older than the route's time limit while the receiver does not take anything."""
        before_ms = self._clock.now_ms() - self.record.time_limit_s * 1000
        while self._failures:
            late = [item for item in self._backlog.heads() if item.event.timestamp < before_ms]
            if not late:
                return
            for item in late:
                if self._backlog.done(item):
                    self._give_up(item, f"not delivered within the route's time limit: {item.reason or 'not tried'}")

    def _give_up(self, item: Item, reason: str) -> None:
        self._letters.append((item.place, letter(item.event, item.place, self.name, reason, "", item.tries)))
        self._note = _with(self._note, failed=self._note.failed + 1)
        self._dirty = True
        log.error("given up", route=self.name, finding=item.finding, tries=item.tries, reason=reason)

    def _noted(self, reason: str) -> None:
        error = reason[:REASON_CHARS_MAX]
        self._note = _with(self._note, tries=self._note.tries + 1, error=error, error_ms=self._clock.now_ms())


def _with(note: RouteNote, **changed: Any) -> RouteNote:
    return msgspec.structs.replace(note, **changed)


def _encoded(note: RouteNote) -> str:
    return msgspec.json.encode(note).decode()


def _with_answer(reason: str, body: str, secrets: Iterable[str]) -> str:
    """A reason with what the receiver said, in one line and without our secrets."""
    for secret in filter(None, secrets):
        body = body.replace(secret, "...")
    said = " ".join("".join(char if char.isprintable() else " " for char in body).split())
    return f"{reason}: {said}"[:REASON_CHARS_MAX] if said else reason
