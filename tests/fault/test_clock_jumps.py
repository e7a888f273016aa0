"""The wall clock is set a day forward and back: offsets go on, nothing is deleted early, nobody's time runs out.

Ages of events are counted by a clock that no jump moves forward (`AgeClock`), timeouts by the monotonic clock; only
what others wrote as wall time, the expiry of a token, goes by the wall clock. Most of it is shown with a clock that the
test sets; one test sets the clock of a real hub with libfaketime.

Negative controls: ages by the wall clock lose events at once; sessions by the wall clock lose members.
"""

from __future__ import annotations

import asyncio
import glob
import json
import time
import urllib.request
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer

from gridwire.auth import sas
from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.identities import Identities
from gridwire.broker.membership import GroupError, Membership
from gridwire.core.batch import Event, encode
from gridwire.core.clock import SETTLE_S, AgeClock, ManualClock
from gridwire.core.errors import NotAuthenticated
from gridwire.groups.model import JoinResult

DAY_S = 24 * 3600.0
HOUR_MS = 3_600_000
WAIT_S = 60.0


def run(scenario: Awaitable[None]) -> None:
    asyncio.run(scenario)  # type: ignore[arg-type]


# Ages


def test_a_jump_forward_makes_nothing_old_until_it_has_stood_for_a_day() -> None:
    clock = ManualClock()
    start_ms, age = clock.now_ms(), AgeClock(clock)
    clock.jump(DAY_S)
    clock.advance(10)
    assert age.now_ms() == start_ms + 10_000
    clock.advance(SETTLE_S - 11)
    assert age.now_ms() == start_ms + round(SETTLE_S - 1) * 1000
    clock.advance(11)
    assert age.now_ms() == clock.now_ms()
    assert age.ahead_ms == 0


def test_a_jump_that_is_taken_back_leaves_no_trace() -> None:
    clock = ManualClock()
    age = AgeClock(clock)
    for _ in range(3):
        clock.jump(DAY_S)
        clock.advance(SETTLE_S / 2)
        age.now_ms()
        clock.jump(-DAY_S)
        assert age.now_ms() == clock.now_ms()


def test_a_second_jump_waits_a_day_of_its_own() -> None:
    clock = ManualClock()
    start_ms, age = clock.now_ms(), AgeClock(clock)
    clock.jump(DAY_S)
    age.now_ms()
    clock.advance(SETTLE_S - 1)
    clock.jump(DAY_S)
    age.now_ms()
    clock.advance(2)
    assert age.now_ms() == start_ms + round(SETTLE_S + 1) * 1000


def test_a_jump_back_is_followed_and_small_corrections_too() -> None:
    clock = ManualClock()
    age = AgeClock(clock)
    for seconds in (-DAY_S, 30, -3, 59):
        clock.jump(seconds)
        clock.advance(1)
        assert age.now_ms() == clock.now_ms()


async def written(broker: EmbeddedBroker) -> int:
    """Events in several segments that are kept for an hour; returns how many."""
    if not broker.hubs():
        await broker.create_hub("hub", 1, {"retention_ms": HOUR_MS, "segment_bytes": 64 * 1024})
    for _ in range(4):
        batch = encode([Event(b"x" * 40_000, timestamp=broker.clock.now_ms())])
        await broker.append("hub", 0, batch)
    return (await broker.bounds("hub", 0)).end


def scenario_of_a_jump(directory: Path, seconds: float) -> tuple[int, int]:
    """(events written, first offset left) after the clock jumped and housekeeping ran."""
    found: list[int] = []

    async def scenario() -> None:
        clock = ManualClock()
        broker = await EmbeddedBroker.open(directory, "os", clock=clock)
        try:
            assert await written(broker) == 4
            clock.jump(seconds)
            await broker.maintain()
            assert await written(broker) == 8, "offsets go on"
            await broker.maintain()
            bounds = await broker.bounds("hub", 0)
            found.extend((bounds.end, bounds.start))
        finally:
            await broker.close()

    run(scenario())
    return found[0], found[1]


@pytest.mark.parametrize("seconds", [DAY_S, -DAY_S])
def test_a_jump_deletes_nothing_early(tmp_path: Path, seconds: float) -> None:
    assert scenario_of_a_jump(tmp_path, seconds) == (8, 0)


def test_control_ages_by_the_wall_clock_delete_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AgeClock, "now_ms", lambda age: age._clock.now_ms())
    assert scenario_of_a_jump(tmp_path, DAY_S)[1] > 0


def test_time_that_really_passes_still_deletes(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = ManualClock()
        broker = await EmbeddedBroker.open(tmp_path, "os", clock=clock)
        try:
            await written(broker)
            clock.advance(2 * HOUR_MS / 1000)
            await broker.maintain()
            assert (await broker.bounds("hub", 0)).start > 0
        finally:
            await broker.close()

    run(scenario())


# Timeouts


class WallOnly(ManualClock):
    """The rule taken away: timeouts by the wall clock."""

    def monotonic(self) -> float:
        return self.now_ms() / 1000


async def join(membership: Membership) -> JoinResult:
    return await membership.join(
        "group", "", None, "client", "host", 10_000, 10_000, "consumer", [("range", b"")], require_known_member=False
    )


@pytest.mark.parametrize(
    ("kind", "seconds", "kept"),
    [(ManualClock, DAY_S, True), (ManualClock, -DAY_S, True), (WallOnly, DAY_S, False)],
    ids=["forward", "back", "control"],
)
def test_a_member_keeps_its_session_over_a_jump(kind: type[ManualClock], seconds: float, kept: bool) -> None:
    async def scenario() -> None:
        clock = kind()
        membership = Membership(clock)
        joined = await join(membership)
        await membership.sync("group", joined.generation, joined.member_id, None, "consumer", "range", [])
        clock.jump(seconds)
        membership.tick()
        alive = membership.heartbeat("group", joined.generation, joined.member_id, None) is GroupError.NONE
        clock.jump(-seconds)
        clock.advance(11)
        membership.tick()
        gone = membership.heartbeat("group", joined.generation, joined.member_id, None) is not GroupError.NONE
        await membership.close()
        assert (alive and gone) is kept

    run(scenario())


# Tokens


def test_a_signature_expires_by_the_wall_clock(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = ManualClock()
        broker = await EmbeddedBroker.open(tmp_path, "os", clock=clock)
        access = Identities(broker, tmp_path, clock)
        await access.open()
        key = (await access.create_policy("test", "meters", ["Send"], None, None))["primary_key"]
        token = sas.sign("http://h/", "meters", key, clock.now_ms() // 1000 + 600)
        assert access.by_sas(token).name == "meters"
        clock.jump(DAY_S)
        with pytest.raises(NotAuthenticated):
            access.by_sas(token)
        clock.jump(-2 * DAY_S)
        assert access.by_sas(token).name == "meters"
        await access.close()
        await broker.close()

    run(scenario())


# A real hub

LIBRARIES = glob.glob("/usr/lib/*/faketime/libfaketime*MT.so.1") + glob.glob("/usr/lib*/faketime/libfaketimeMT.so.1")
OFTEN = "from gridwire.broker import embedded; embedded.MAINTENANCE_S = 0.2"
BY_THE_WALL = """
from gridwire.core import clock
clock.AgeClock.now_ms = lambda age: age._clock.now_ms()
"""


def post(hub: Any, value: bytes) -> int:
    request = urllib.request.Request(f"{hub.http}/v1/hubs/jumps/events?partition=0", value)
    request.add_header("content-type", "application/octet-stream")
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
        return int(json.load(answer)["offset"])


def wait_for(condition: Any, what: str) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"waited for {what}"
        time.sleep(0.05)


@pytest.mark.skipif(not LIBRARIES, reason="needs libfaketime, package faketime")
@pytest.mark.parametrize("rule", ["kept", "control"])
def test_the_clock_of_a_real_hub_is_set(start_hub: Any, tmp_path: Path, rule: str) -> None:
    setting = tmp_path / "clock"
    setting.write_text("+0")
    faked = {
        "LD_PRELOAD": LIBRARIES[0], "FAKETIME_TIMESTAMP_FILE": str(setting), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    prelude = OFTEN + (BY_THE_WALL if rule == "control" else "")
    hub = start_hub("--no-workers", prelude=prelude, environment=faked)
    hub.cli("hub", "create", "jumps", "--partitions", "1", "--retention", "1h")
    hub.cli("hub", "create", "other", "--partitions", "1")
    settings = json.dumps({"settings": {"segment_bytes": 65536}}).encode()
    request = urllib.request.Request(f"{hub.http}/v1/hubs/jumps", settings, {"content-type": "application/json"})
    request.method = "PATCH"
    urllib.request.urlopen(request, timeout=WAIT_S).close()
    revoked: list[Any] = []
    consumer = Consumer({"bootstrap.servers": hub.kafka, "group.id": "g", "auto.offset.reset": "earliest"})
    consumer.subscribe(["jumps"], on_revoke=lambda _, places: revoked.extend(places))
    values = [b"%d" % number * 40_000 for number in range(9)]
    try:
        for number in range(3):
            assert post(hub, values[number]) == number
        wait_for(lambda: consumer.consume(1, 0.2), "the first event")
        for jump, first in (("+1d", 3), ("-1d", 6)):
            setting.write_text(jump)
            for number in range(first, first + 3):
                assert post(hub, values[number]) == number, "offsets go on"
            if rule == "control":
                wait_for(lambda: start_of(hub) > 0, "the control to lose events")
                return
            wait_for(lambda: "wall clock jumped forward" in hub.log.read_text(), "housekeeping to notice")
            assert start_of(hub) == 0
        read = 1
        deadline_s = time.monotonic() + WAIT_S
        while read < 9:
            assert time.monotonic() < deadline_s, f"{read} events"
            read += sum(message.error() is None for message in consumer.consume(9, 0.2))
        assert revoked == [], "a member lost its session"
    finally:
        consumer.close()


def start_of(hub: Any) -> int:
    return int(hub.get("/v1/hubs/jumps")["bounds"][0]["start"])
