"""Deliveries that share an append: who is refused is refused alone, and events of one link never change places."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amqp_head import HoldingBroker, message, run, sending
from gridwire.core.batch import decode, iter_headers
from gridwire.core.errors import InvalidRecord
from gridwire.heads.amqp import appender
from gridwire.heads.amqp.connection import Connection
from gridwire.wire.amqp import types
from gridwire.wire.amqp.performatives import Accepted, Rejected

SMALL = {"message_bytes_max": 4096}
TOO_LARGE = types.described(0x72, types.map_([(types.symbol("a"), types.NULL)] * 250)) + message(
    "too large as a record"
)
"""1 KB as a message and 5 KB as a record: `a` becomes `amqp.annotation.a`."""
MALFORMED = b"\x00\x53\x75\xa0\x7fx"


async def values(broker: HoldingBroker, hub: str) -> list[str]:
    found = await broker.read(hub, 0, 0, 1 << 20)
    return [(event.value or b"").decode() for at, _ in iter_headers(found.data) for event in decode(found.data, at)]


def outcomes(machine: Any, numbers: Iterable[int]) -> list[str]:
    """`accepted`, or the condition of the refusal."""
    states = [machine.outcomes[number] for number in numbers]
    return ["accepted" if isinstance(state, Accepted) else str(state.error.condition) for state in states]


async def send(speaker: Any, machine: Any, link: Any, payloads: list[bytes]) -> list[int]:
    """Send them in one write and wait for what becomes of them."""
    numbers = [machine.send(link, payload) for payload in payloads]
    await speaker.until(lambda: all(number in machine.outcomes for number in numbers))
    return numbers


REFUSALS = {
    "too large": (TOO_LARGE, "amqp:link:message-size-exceeded"),
    "malformed": (MALFORMED, "amqp:decode-error"),
    "not allowed": (message("not allowed"), "amqp:unauthorized-access"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_only_the_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    payload, condition = REFUSALS[kind]

    async def main() -> None:
        async with sending(tmp_path, SMALL) as (broker, speaker, machine, link):
            if kind == "not allowed":
                answers = iter([True, True, False, True, True])
                monkeypatch.setattr(Connection, "may_send", lambda *_: next(answers))
            sent = [message("a"), message("b"), payload, message("c"), message("d")]
            numbers = await send(speaker, machine, link, sent)
            assert outcomes(machine, numbers) == ["accepted"] * 2 + [condition] + ["accepted"] * 2
            assert await values(broker, "h") == ["a", "b", "c", "d"]

    run(main())


def test_control_without_the_second_attempt_all_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: they do share one append, and it is refused as a whole."""
    monkeypatch.setattr(appender, "_OF_CONTENT", ())

    async def main() -> None:
        async with sending(tmp_path, SMALL) as (broker, speaker, machine, link):
            numbers = await send(speaker, machine, link, [message("a"), TOO_LARGE])
            assert outcomes(machine, numbers) == ["amqp:link:message-size-exceeded"] * 2
            assert await values(broker, "h") == []

    run(main())


def test_a_refusal_that_comes_later_is_told_apart_too(tmp_path: Path) -> None:
    """As a cluster refuses: after a while. The shared append is repeated one by one, in order."""

    async def main() -> None:
        async with sending(tmp_path) as (broker, speaker, machine, link):
            broker.hold = True
            numbers = [machine.send(link, message(text)) for text in "ab"]
            await speaker.settled_round()
            assert len(broker.held) == 1
            await broker.release(InvalidRecord("send keys"))
            await speaker.settled_round()
            assert (len(broker.held), machine.outcomes) == (2, {})
            await broker.release(InvalidRecord("send keys"))
            await broker.release()
            await speaker.until(lambda: len(machine.outcomes) == 2)
            assert outcomes(machine, numbers) == ["com.microsoft:argument-error", "accepted"]

    run(main())


def test_nothing_is_repeated_behind_a_later_event(tmp_path: Path) -> None:
    """Where a later batch is under way already, repeating would change the order: they are told to come again."""

    async def main() -> None:
        async with sending(tmp_path) as (broker, speaker, machine, link):
            broker.hold = True
            numbers = [machine.send(link, message(text)) for text in "ab"]
            await speaker.settled_round()
            numbers.append(machine.send(link, message("c")))
            await speaker.settled_round()
            await broker.release(InvalidRecord("send keys"))
            await broker.release()
            await speaker.until(lambda: len(machine.outcomes) == 3)
            assert outcomes(machine, numbers) == ["com.microsoft:server-busy"] * 2 + ["accepted"]
            assert broker.held == []
            assert isinstance(machine.outcomes[numbers[0]], Rejected)

    run(main())
