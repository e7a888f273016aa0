"""A route at work, over a hub in memory that can fail at every step, by a clock that jumps to the next thing to do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from gridwire.alerts import SILENCED_HEADER
from gridwire.broker.alert_routes import RouteRecord, parse_note
from gridwire.core.batch import Event
from gridwire.core.clock import ManualClock
from gridwire.core.errors import FencedEpoch, GridwireError, Unavailable
from gridwire.grid.findings import Finding, FindingState, Severity
from gridwire.router.runner import AT_ONCE, Runner
from gridwire.router.sender import Answer, NotSent
from gridwire.router.verdict import WAITS_S
from worker_hub import Hub, Source

ALERTS = "grid.alerts"
GROUP = "alert-route.ops.a"
T0_US = 1_767_225_600_000_000


@dataclass
class FakeSender:
    """What a receiver answers, and what it was told when."""

    clock: ManualClock
    answers: Callable[[str, int], Answer | Exception] = lambda id, tries: Answer(200, {})
    told: list[tuple[float, str, int]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    under_way: int = 0
    most: int = 0

    async def ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        id, at = headers["ce-id"], self.clock.monotonic()
        tries = 1 + sum(other == id for _, other, _ in self.told)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        answer = self.answers(id, tries)
        self.told.append((at, id, answer.status if isinstance(answer, Answer) else 0))
        self.bodies.append(body)
        self.headers.append(headers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def taken(self) -> list[str]:
        return [id for _, id, status in self.told if 200 <= status < 300]


class Bench:
    """A runner over a hub in memory."""

    def __init__(self, **route: Any) -> None:
        self.clock = ManualClock(T0_US // 1000)
        self.hub = Hub({ALERTS: 2})
        self.sender = FakeSender(self.clock)
        self.record = RouteRecord(**{"id": "a", "url": "https://x/", "mode": "binary", **route})
        self.stopped: list[str] = []
        self.headers: Callable[[], Mapping[str, str]] = dict
        self.early_s = 0.0

    def tell(self, number: int, version: int = 0, later_s: int = 0) -> str:
        """Tell a finding; returns the id of its event."""
        state = FindingState.OPENED if version == 0 else FindingState.CHANGED
        found = Finding(
            kind="outage", subject_kind="transformer", subject=f"T{number}", started_us=T0_US, detector="outages",
            severity=Severity.CRITICAL, confidence=0.9, state=state, version=version,
        )  # fmt: skip
        return self.put(number % 2, found.to_event(self.clock.now_ms() + later_s * 1000))

    def put(self, partition: int, event: Event) -> str:
        log = self.hub.log[ALERTS, partition]
        log.append(Event(event.value, event.key, event.headers, event.timestamp, len(log)))
        return dict(event.headers)["ce_id"].decode()

    def open(self, group: str, hubs: Sequence[str]) -> Source:
        return self.hub.open(group, list(hubs), [])

    async def _say_stopped(self, reason: str) -> None:
        self.stopped.append(reason)

    async def _jump(self, event: asyncio.Event, seconds: float | None) -> None:
        """When nothing else is to be done, the time is there at once."""
        for _ in range(5):  # let deliveries that were begun get to where they wait
            if event.is_set():
                return
            await asyncio.sleep(0)
        if seconds is None:
            await event.wait()
        else:
            self.clock.advance(max(0.0, seconds - self.early_s))

    def runner(self) -> Runner:
        sender: Any = self.sender
        return Runner(
            "ops", self.record, self.open, sender, lambda: self.headers(), clock=self.clock,
            stopped=self._say_stopped, chance=lambda: 0.5, wait=self._jump,
        )  # fmt: skip

    def run(self, until: Callable[[], bool]) -> None:
        """Work until something is so, then stop; what was done by then is committed."""

        async def work() -> None:
            runner = self.runner()
            task = asyncio.create_task(runner.run())
            async with asyncio.timeout(30):
                while not until() and not task.done():
                    if runner._dirty and not len(runner._backlog):  # nothing is left but to commit
                        self.clock.advance(0.1)
                    await asyncio.sleep(0.001)
            runner.stop()
            await task

        asyncio.run(work())

    def committed(self) -> dict[int, int]:
        return {partition: self.hub.committed.get((GROUP, (ALERTS, partition)), 0) for partition in (0, 1)}

    def letters(self) -> list[str]:
        return [dict(e.headers)["dlq-reason"].decode() for e in self.hub.events("dlq.alert-route.ops")]


def test_everything_is_delivered_once_and_committed() -> None:
    bench = Bench()
    ids = [bench.tell(number, version) for version in range(3) for number in range(50)]
    bench.run(lambda: len(bench.sender.told) >= 150)
    assert sorted(bench.sender.taken()) == sorted(ids)
    assert bench.committed() == {0: 75, 1: 75}
    assert 1 < bench.sender.most <= AT_ONCE
    note = parse_note(bench.hub.notes[GROUP, (ALERTS, 0)])
    assert (note.delivered, note.failed, note.beyond) == (150, 0, {})
    again = len(bench.sender.told)
    bench.run(lambda: bench.hub.epochs[GROUP] == 2)
    assert len(bench.sender.told) == again


def test_waits_grow_while_a_receiver_is_down_and_all_goes_out_when_it_is_back() -> None:
    bench = Bench()
    first, *others = [bench.tell(number) for number in range(0, 20, 2)]
    down_until = 90.0

    def answers(id: str, tries: int) -> Answer | Exception:
        return NotSent("nobody there") if bench.clock.monotonic() < down_until else Answer(200, {})

    bench.sender.answers = answers
    bench.run(lambda: len(bench.sender.taken()) == 10)
    failed = [at for at, _, status in bench.sender.told if status == 0]
    probes = [at for at in failed if at > 0]
    assert len(failed) <= AT_ONCE + 6, "one try at a time, ever less often"
    assert [round(at - before, 3) for before, at in zip([0.0, *probes], probes, strict=False)] == list(
        WAITS_S[: len(probes)]
    )
    back = [at for at, _, status in bench.sender.told if status == 200]
    assert max(back) - min(back) < 1.0, "who waited for an hour goes at once"
    assert set(bench.sender.taken()) == {first, *others}


def test_a_finding_that_is_never_taken_holds_up_nobody_and_is_given_up_in_time() -> None:
    bench = Bench(time_limit_s=600)
    bad = bench.tell(0)
    later = [bench.tell(0, 1, later_s=1000), *(bench.tell(number) for number in range(2, 40, 2))]
    bench.sender.answers = lambda id, tries: Answer(500, {}, "poison") if id == bad else Answer(200, {})
    bench.run(lambda: len(bench.letters()) == 1 and len(bench.sender.taken()) == 20)
    assert sorted(bench.sender.taken()) == sorted(later)
    order = [id for _, id, _ in bench.sender.told]
    assert order[-1] == later[0], "the next telling of the same finding waits for the first one"
    tries = [at for at, id, _ in bench.sender.told if id == bad]
    waits = [round(after - before) for before, after in pairwise(tries)]
    assert waits == [1, 2, 5, 10, 30, 60, 300]
    assert bench.letters() == ["not delivered within the route's time limit: the receiver answered 500: poison"]
    assert bench.committed()[0] == 21


def test_a_receiver_that_asks_for_time_gets_it_from_the_whole_route() -> None:
    bench = Bench()
    ids = [bench.tell(number) for number in range(0, 12, 2)]
    bench.sender.answers = lambda id, tries: (
        Answer(429, {"retry-after": "120"}) if bench.clock.monotonic() < 1 else Answer(200, {})
    )
    bench.run(lambda: len(bench.sender.taken()) == 6)
    assert all(at == 0.0 or at >= 120.0 for at, _, _ in bench.sender.told)
    assert set(bench.sender.taken()) == set(ids)


def test_a_rate_that_a_receiver_allows_is_kept_to() -> None:
    bench = Bench(rate_per_min=30)
    for number in range(5):
        bench.tell(number)
    bench.run(lambda: len(bench.sender.told) == 5)
    times = [at for at, _, _ in bench.sender.told]
    assert all(after - before >= 2.0 for before, after in pairwise(times))


@pytest.mark.parametrize("status", [400, 401, 403, 413])
def test_what_no_other_try_would_change_is_a_dead_letter_at_once(status: int) -> None:
    bench = Bench()
    bench.tell(0)
    bench.sender.answers = lambda id, tries: Answer(status, {})
    bench.run(lambda: bool(bench.letters()))
    assert bench.letters() == [f"the receiver answered {status}"]
    (letter,) = bench.hub.events("dlq.alert-route.ops")
    headers = dict(letter.headers)
    assert (headers["dlq-hub"], headers["dlq-offset"], headers["dlq-tries"]) == (b"grid.alerts", b"0", b"1")
    assert headers["ce_type"] == b"gridwire.outage.opened" and letter.value == bench.hub.log[ALERTS, 0][0].value


def test_a_receiver_that_is_gone_stops_the_route_and_its_telling_waits() -> None:
    bench = Bench()
    bench.tell(0)
    bench.sender.answers = lambda id, tries: Answer(410, {})
    bench.run(lambda: False)
    assert bench.stopped == ["the receiver answered 410: it wants no more"]
    assert bench.committed() == {0: 0, 1: 0}


def test_silenced_findings_and_what_is_no_finding_are_passed_over() -> None:
    for silenced, count in ((False, 1), (True, 2)):
        bench = Bench(silenced=silenced)
        bench.put(0, Event(b"nonsense", None, (("ce_id", b"1"),)))
        bench.put(0, Event(None, b"key", (("ce_id", b"2"),)))
        bench.tell(0)
        known = bench.hub.log[ALERTS, 0][-1]
        marked = Event(known.value, known.key, ((SILENCED_HEADER, b"s"), *known.headers), known.timestamp)
        bench.put(0, marked)
        bench.run(lambda bench=bench: bench.committed()[0] == 4)  # type: ignore[misc]
        assert len(bench.sender.told) == count


def test_a_secret_that_does_not_open_is_a_reason_and_not_the_end() -> None:
    bench = Bench()
    bench.tell(0)
    failing = [True]

    def headers() -> Mapping[str, str]:
        if failing and bench.clock.monotonic() < 3:
            raise GridwireError("the key file is another one")
        return {"Authorization": "secret"}

    bench.headers = headers
    bench.run(lambda: bool(bench.sender.told))
    assert bench.sender.headers[0]["Authorization"] == "secret"
    note = parse_note(bench.hub.notes[GROUP, (ALERTS, 0)])
    assert (note.error, note.tries, note.delivered) == ("the key file is another one", 2, 1)


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_lost_and_order_is_kept_wherever_the_hub_fails(seed: int) -> None:
    dice = random.Random(seed)
    bench = Bench()
    wanted = {(number, version): bench.tell(number, version) for version in range(4) for number in range(30)}

    def step(name: str) -> None:
        if name != "close" and dice.random() < 0.1:
            raise Unavailable(name)

    def answers(id: str, tries: int) -> Answer | Exception:
        return Answer(dice.choice([500, 503, 429]), {}) if dice.random() < 0.2 else Answer(200, {})

    bench.hub.step, bench.sender.answers = step, answers
    bench.hub.poll_events_max = dice.choice([1, 7, 1000])
    for _ in range(3):  # its process ends and another begins
        so_far = len(bench.sender.told)
        bench.run(lambda so_far=so_far: len(bench.sender.told) > so_far + 20)  # type: ignore[misc]
    bench.hub.step = lambda name: None
    bench.run(lambda: bench.committed() == {0: 60, 1: 60})
    assert set(bench.sender.taken()) == set(wanted.values())
    assert bench.letters() == []
    first = {id: at for at, id in reversed(list(enumerate(bench.sender.taken())))}
    for number in range(30):
        places = [first[wanted[number, version]] for version in range(4)]
        assert places == sorted(places)


def test_a_storm_waits_in_its_hub_and_not_in_memory() -> None:
    bench = Bench()
    for number in range(3000):
        bench.tell(number)
    held: list[int] = []
    runner = bench.runner()

    def answers(id: str, tries: int) -> Answer | Exception:
        held.append(len(runner._backlog))
        return Answer(200, {})

    bench.sender.answers = answers
    bench.runner = lambda: runner  # type: ignore[method-assign]
    bench.run(lambda: len(bench.sender.told) == 3000)
    assert max(held) <= runner._backlog.waiting_max
    assert bench.committed() == {0: 1500, 1: 1500}


def test_who_was_replaced_says_so() -> None:
    bench = Bench()
    bench.tell(0)

    def step(name: str) -> None:
        if name == "before commit":
            raise FencedEpoch("a newer one")

    bench.hub.step = step
    with pytest.raises(FencedEpoch):
        bench.run(lambda: bool(bench.sender.told))


class Ticking(ManualClock):
    """Time passes between two looks at it, as it does."""

    tick_s = 0.0

    def monotonic(self) -> float:
        self.advance(self.tick_s)
        return super().monotonic()


@pytest.mark.parametrize("tick_ms", [0.3, 0.5, 0.7, 0.9, 1.1])
def test_a_wait_that_ends_a_moment_early_is_not_the_last_one(tick_ms: float) -> None:
    bench = Bench()
    bench.clock = bench.sender.clock = clock = Ticking(T0_US // 1000)
    clock.tick_s = tick_ms / 1000
    bench.early_s = 0.001
    bench.tell(0)
    bench.sender.answers = lambda id, tries: Answer(200 if tries == 6 else 503, {})
    bench.run(lambda: len(bench.sender.taken()) == 1)
    assert len(bench.sender.told) == 6
