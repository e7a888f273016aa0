"""A member that was taken for dead comes back: its commit is refused, and no position goes back.

The member is a real process (group_member.py). It joins alone, reads, and is stopped by SIGSTOP before it commits. Its
session runs out, an unmodified client takes its partition over, reads on and commits. Then SIGCONT: the zombie commits
where it was. Both group protocols.

Negative control: a hub that does not ask who commits takes the zombie's position.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")

WAIT_S = 60.0
EVENTS = 50
REFUSALS = {"classic": {22, 25}, "consumer": {25, 113}}
"""ILLEGAL_GENERATION or UNKNOWN_MEMBER_ID; UNKNOWN_MEMBER_ID or STALE_MEMBER_EPOCH."""

SHORT_SESSIONS = """
from gridwire.broker import membership
from gridwire.groups.consumer_model import ConsumerLimits
begin = membership.Membership.__init__
def short(self, clock, limits=None, consumer_limits=None):
    begin(self, clock, limits, ConsumerLimits(session_timeout_s=3.0, heartbeat_interval_ms=300))
membership.Membership.__init__ = short
"""
ANYBODY_COMMITS = """
membership.Membership.check_commit = lambda self, *who: membership.GroupError.NONE
"""


class Member:
    """The process that becomes a zombie."""

    def __init__(self, address: str, protocol: str) -> None:
        script = Path(__file__).with_name("group_member.py")
        command = [sys.executable, str(script), "--bootstrap", address, "--hub", "work", "--group", "workers"]
        self._process = subprocess.Popen(
            [*command, "--protocol", protocol], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None and self._process.stdin is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        assert self._out.readline().startswith("joined")

    def commit(self, offset: int) -> int:
        """Kafka's error code."""
        self._in.write(f"commit {offset}\n")
        self._in.flush()
        return int(self._out.readline())

    def stop(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._in.close()
        self._out.close()


@contextlib.contextmanager
def successor(address: str, protocol: str) -> Iterator[Consumer]:
    """An unmodified client in the same group."""
    session = {"session.timeout.ms": 10_000} if protocol == "classic" else {}
    consumer = Consumer(
        {
            "bootstrap.servers": address, "group.id": "workers", "group.protocol": protocol, "log_level": 0,
            "auto.offset.reset": "earliest", "enable.auto.commit": False, **session,
        }
    )  # fmt: skip
    consumer.subscribe(["work"])
    try:
        yield consumer
    finally:
        consumer.close()


def read_everything(consumer: Consumer) -> None:
    """From where the group stands to the end; committed."""
    deadline_s = time.monotonic() + WAIT_S
    offset = -1
    while offset < EVENTS - 1:
        assert time.monotonic() < deadline_s, f"the successor got no further than {offset}"
        for message in consumer.consume(EVENTS, 0.2):
            assert message.error() is None, message.error()
            offset = message.offset()
    consumer.commit(asynchronous=False)


def position(consumer: Consumer) -> int:
    return int(consumer.committed([TopicPartition("work", 0)], timeout=WAIT_S)[0].offset)


def outlive(hub: Any, protocol: str) -> tuple[int, int, int]:
    """(error code the zombie is told, position before its commit, position after it)."""
    producer = Producer({"bootstrap.servers": hub.kafka, "log_level": 0})
    for number in range(EVENTS):
        producer.produce("work", b"%d" % number, partition=0)
    assert producer.flush(WAIT_S) == 0
    zombie = Member(hub.kafka, protocol)
    try:
        assert zombie.commit(7) == 0
        zombie.stop()
        with successor(hub.kafka, protocol) as heir:
            read_everything(heir)
            before = position(heir)
            zombie.go_on()
            return zombie.commit(10), before, position(heir)
    finally:
        zombie.end()


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_zombie_is_fenced_and_moves_nothing(start_hub: Any, protocol: str) -> None:
    hub = start_hub("--no-workers", "--partitions", "1", prelude=SHORT_SESSIONS)
    code, before, after = outlive(hub, protocol)
    assert code in REFUSALS[protocol]
    assert (before, after) == (EVENTS, EVENTS)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_control_a_hub_that_asks_nobody_lets_it_move_the_position_back(start_hub: Any, protocol: str) -> None:
    hub = start_hub("--no-workers", "--partitions", "1", prelude=SHORT_SESSIONS + ANYBODY_COMMITS)
    assert outlive(hub, protocol) == (0, EVENTS, 10)
