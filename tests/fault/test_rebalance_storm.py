"""Eight members of a group are killed and replaced again and again while events flow: nobody's event is skipped.

Members are unmodified clients in processes of their own (storm_member.py); they note an event and then commit. Every
round waits until the group has got further, then kills three and adds three. All the time the committed positions are
watched, and for every one of them everything below it must have been noted by somebody. In the end every event was seen
at least once. Both group protocols.

Negative control: members that commit before they note are found out by the same watcher.

Longer: GRIDWIRE_TEST_STORM_ROUNDS=60. Another sequence: GRIDWIRE_TEST_SEED=n.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

ROUNDS = int(os.environ.get("GRIDWIRE_TEST_STORM_ROUNDS", "4"))
SEED = int(os.environ.get("GRIDWIRE_TEST_SEED", "20160101"))
MEMBERS = 8
KILLED_A_ROUND = 3
PARTITIONS = 6
ROUND_S = 1.0
WAIT_S = 90.0
EVENT_PAUSE_S = 0.005
HUB, GROUP = "storm", "crew"
SEEN_BYTES = 12

SHORT_SESSIONS = """
from gridwire.broker import membership
from gridwire.groups.consumer_model import ConsumerLimits
begin = membership.Membership.__init__
def short(self, clock, limits=None, consumer_limits=None):
    begin(self, clock, limits, ConsumerLimits(session_timeout_s=2.0, heartbeat_interval_ms=300))
membership.Membership.__init__ = short
"""


class Flow:
    """Events into every partition until told to end."""

    def __init__(self, address: str) -> None:
        self._producer = Producer({"bootstrap.servers": address, "linger.ms": 1, "log_level": 0})
        self._over = threading.Event()
        self.told = Counter[int]()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _told(self, error: Any, message: Any) -> None:
        assert error is None, error
        self.told[message.partition()] += 1

    def _run(self) -> None:
        number = 0
        while not self._over.wait(EVENT_PAUSE_S):
            self._producer.produce(HUB, b"%d" % number, partition=number % PARTITIONS, on_delivery=self._told)
            self._producer.poll(0)
            number += 1

    def end(self) -> dict[int, int]:
        """How many events each partition has."""
        self._over.set()
        self._thread.join(WAIT_S)
        assert self._producer.flush(WAIT_S) == 0
        return dict(self.told)


class Crew:
    """The members' processes and what they noted."""

    def __init__(self, address: str, protocol: str, directory: Path) -> None:
        self._address, self._protocol, self._directory = address, protocol, directory
        self.members: list[subprocess.Popen[bytes]] = []
        self._number = 0

    def add(self, *, careless: bool = False) -> None:
        self._number += 1
        script = Path(__file__).with_name("storm_member.py")
        command = [sys.executable, str(script), "--bootstrap", self._address, "--hub", HUB, "--group", GROUP]
        command += ["--protocol", self._protocol, "--seen", str(self._directory / f"{self._number}.seen")]
        command += ["--careless"] * careless
        self.members.append(subprocess.Popen(command, stdin=subprocess.PIPE))

    def kill(self, dice: random.Random) -> None:
        member = self.members.pop(dice.randrange(len(self.members)))
        member.kill()
        self._gone(member)

    def _gone(self, member: subprocess.Popen[bytes]) -> None:
        member.wait()
        if member.stdin is not None:
            member.stdin.close()

    def end(self) -> None:
        while self.members:
            member = self.members.pop()
            member.kill()
            self._gone(member)

    def seen(self) -> Counter[tuple[int, int]]:
        """How often each (partition, offset) was noted; the torn end of a killed member's file does not count."""
        found = Counter[tuple[int, int]]()
        for path in self._directory.glob("*.seen"):
            data = path.read_bytes()
            for at in range(0, len(data) - SEEN_BYTES + 1, SEEN_BYTES):
                found[int.from_bytes(data[at : at + 4], "big"), int.from_bytes(data[at + 4 : at + 12], "big")] += 1
        return found


class Watcher:
    """Compares committed positions with what was noted."""

    def __init__(self, address: str, crew: Crew) -> None:
        self._consumer = Consumer({"bootstrap.servers": address, "group.id": GROUP, "log_level": 0})
        self._places = [TopicPartition(HUB, number) for number in range(PARTITIONS)]
        self._crew = crew
        self.positions = [0] * PARTITIONS
        self.skipped: list[str] = []
        self.looks = 0

    def look(self) -> None:
        """Positions first: whatever lies below them was noted before."""
        found = [max(place.offset, 0) for place in self._consumer.committed(self._places, timeout=WAIT_S)]
        seen = self._crew.seen()
        for number, (before, now) in enumerate(zip(self.positions, found, strict=True)):
            if now < before:
                self.skipped.append(f"partition {number} went back from {before} to {now}")
            self.skipped += [f"{number}@{offset}" for offset in range(before, now) if (number, offset) not in seen]
        self.positions = found
        self.looks += 1

    def close(self) -> None:
        self._consumer.close()


@pytest.fixture
def hub(start_hub: Any) -> Any:
    hub = start_hub("--no-workers", prelude=SHORT_SESSIONS)
    hub.cli("hub", "create", HUB, "--partitions", str(PARTITIONS))
    return hub


@pytest.mark.slow
@pytest.mark.timeout(300 + 10 * ROUNDS)
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_no_event_is_skipped_in_a_rebalance_storm(hub: Any, tmp_path: Path, protocol: str, tell: Any) -> None:
    dice = random.Random(SEED)
    crew = Crew(hub.kafka, protocol, tmp_path)
    watcher = Watcher(hub.kafka, crew)
    flow = Flow(hub.kafka)
    try:
        for _ in range(MEMBERS):
            crew.add()
        for _ in range(ROUNDS):
            start_s, before = time.monotonic(), sum(watcher.positions)
            while time.monotonic() < start_s + ROUND_S or sum(watcher.positions) == before:
                assert time.monotonic() < start_s + WAIT_S, f"seed {SEED}: no progress from {watcher.positions}"
                watcher.look()
                time.sleep(0.1)
            for _ in range(KILLED_A_ROUND):
                crew.kill(dice)
                crew.add()
        ends = flow.end()
        calm_s = time.monotonic()
        while watcher.positions != [ends[number] for number in range(PARTITIONS)]:
            assert time.monotonic() < calm_s + WAIT_S, f"seed {SEED}: {watcher.positions} of {ends}"
            watcher.look()
            time.sleep(0.1)
        seen = crew.seen()
        assert watcher.skipped == [], f"seed {SEED}"
        assert set(seen) == {(number, offset) for number in ends for offset in range(ends[number])}
        killed, again = ROUNDS * KILLED_A_ROUND, sum(seen.values()) - len(seen)
        stable = {"seconds to the end of the log": round(time.monotonic() - calm_s, 1)}
        tell(f"rebalance storm, {protocol}", killed=killed, events=len(seen), skipped=0, again=again, **stable)
    finally:
        flow.end()
        crew.end()
        watcher.close()


def test_control_members_that_commit_first_are_found_out(hub: Any, tmp_path: Path) -> None:
    crew = Crew(hub.kafka, "classic", tmp_path)
    watcher = Watcher(hub.kafka, crew)
    flow = Flow(hub.kafka)
    try:
        crew.add(careless=True)
        deadline_s = time.monotonic() + WAIT_S
        while not watcher.skipped:
            assert time.monotonic() < deadline_s
            watcher.look()
            time.sleep(0.1)
    finally:
        flow.end()
        crew.end()
        watcher.close()
