"""The AMQP head over a broker whose acknowledgements the test completes: when what is told, and to whom."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gridwire.core.errors import GridwireError, StorageFailed, Unavailable
from gridwire.wire.amqp.performatives import RECEIVER, SENDER, Accepted, Close, Detach, End, Rejected, Released

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amqp_head import message, run, sending, serve


def test_accepted_leaves_only_after_the_append(tmp_path: Path) -> None:

    async def main() -> None:
        async with sending(tmp_path) as (broker, speaker, machine, link):
            broker.hold = True
            first = machine.send(link, message("a"))
            await speaker.until(lambda: True)
            await speaker.settled_round()
            second = machine.send(link, message("b"))
            await speaker.until(lambda: True)
            await speaker.settled_round()
            assert machine.outcomes == {}
            await broker.release()
            await speaker.until(lambda: machine.outcomes)
            assert {key: type(state) for key, state in machine.outcomes.items()} == {first: Accepted}
            await broker.release()
            await speaker.until(lambda: second in machine.outcomes)

    run(main())


@pytest.mark.parametrize("error", [StorageFailed("the disk is full"), Unavailable("not now")])
def test_a_failed_append_is_server_busy_and_nothing_else(tmp_path: Path, error: GridwireError) -> None:

    async def main() -> None:
        async with sending(tmp_path) as (broker, speaker, machine, link):
            broker.hold = True
            number = machine.send(link, message("a"))
            await speaker.settled_round()
            await broker.release(error)
            await speaker.until(lambda: number in machine.outcomes)
            state = machine.outcomes[number]
            assert isinstance(state, Rejected)
            assert state.error is not None
            assert state.error.condition == "com.microsoft:server-busy"
            broker.hold = False
            again = machine.send(link, message("a"))
            await speaker.until(lambda: again in machine.outcomes)
            assert isinstance(machine.outcomes[again], Accepted)

    run(main())


def test_an_end_before_the_append_is_not_spoken_into(tmp_path: Path) -> None:
    """The append succeeds after its session ended, or its link: nothing is said there, and nothing else is hurt."""

    async def main() -> None:
        async with sending(tmp_path) as (broker, speaker, machine, link):
            broker.hold = True
            machine.send(link, message("a"))
            await speaker.settled_round()
            machine.say(End())
            await speaker.until(lambda: machine.ended is not None)
            await broker.release()
            machine.say(Close(), channel=0)
            await speaker.until(lambda: machine.closed is not None)
            assert machine.outcomes == {}
            assert (await broker.bounds("h", 0)).end == 1

    run(main())


def test_an_event_sent_settled_is_not_answered(tmp_path: Path) -> None:

    async def main() -> None:
        async with sending(tmp_path) as (broker, speaker, machine, link):
            silent = machine.send(link, message("a"), settled=True)
            told = machine.send(link, message("b"))
            await speaker.until(lambda: told in machine.outcomes)
            assert silent not in machine.outcomes
            assert (await broker.bounds("h", 0)).end == 2

    run(main())


def test_a_share_goes_on_where_the_one_before_committed(tmp_path: Path) -> None:
    """What the leaver settled last is committed before anybody takes over, so it does not come twice."""

    async def main() -> None:
        async with serve(tmp_path) as (_, connect):
            sender, one, two = await connect(), await connect(), await connect()
            link = await sender.link(SENDER, "h/Partitions/0")
            for number in range(4):
                sender.machine.send(link, message(str(number)))
            await sender.until(lambda: len(sender.machine.outcomes) == 4)
            leaving = await one.link(RECEIVER, "h", credit=3)
            await one.until(lambda: len(leaving.deliveries) == 3)
            staying = await two.link(RECEIVER, "h", credit=10)
            one.machine.settle(0, 1, Accepted())
            one.machine.settle(2, 2, Released())
            one.machine.say(Detach(leaving.handle, True))
            await one.until(lambda: leaving.detached is not None)
            await two.until(lambda: len(staying.deliveries) == 2)
            bodies = [data[-1:] for _, data in staying.deliveries]
            assert bodies == [b"2", b"3"]

    run(main())
