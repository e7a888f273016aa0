"""AMQP peers that break the rules: memory stays bounded, and the links of others go on as if nothing were.

    no credit          receivers that attach and never give credit
    never reading      receivers that give credit and read nothing
    never settled      a receiver that takes deliveries and tells no outcome
    never whole        senders that begin large messages on many links and finish none
    half-open          connections that fall silent at every stage of opening
    too large          frames beyond what was negotiated, in both directions
    flood              see `test_memory.py`: as many idle connections as the head takes

Limits are made small in the hub under test, and its peak memory is what the kernel counted. Negative controls: the same
peers against a hub whose limits are out of reach break the bound.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from amqp_peer import WINDOW, Peer, address, message, opening

from gridwire.wire.amqp import frames
from gridwire.wire.amqp.performatives import (
    RECEIVER,
    Accepted,
    Close,
    Detach,
    Disposition,
    Flow,
    Transfer,
    encode_composite,
)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")

KIB, MIB = 1024, 1024 * 1024
WAIT_S = 60.0
UNREAD_BYTES = 16 * MIB
"""Of what waits for those who do not read, and once more of what was read from the log for them."""
ARRIVING_BYTES = 32 * MIB
BOUND_BYTES = 80 * MIB
"""Either limit, and what else a busy hub may take: a batch or two, the allocator's holes."""
CONTROL_BYTES = 2 * BOUND_BYTES
"""What the same peers take where there is no limit."""
LARGE, LARGE_BYTES = 24, MIB
"""Events in the hub `large`."""
SMALL = 12_000
"""Events in the hub `small`."""
UNSETTLED = 5000

SMALL_LIMITS = f"""
from gridwire.heads.amqp import connection, context, receivers, server
context.HEAD_UNREAD_BYTES_MAX = receivers.HELD_BYTES_MAX = {UNREAD_BYTES}
context.HEAD_ARRIVING_BYTES_MAX = {ARRIVING_BYTES}
connection.ARRIVING_BYTES_MAX = {9 * MIB}
"""
IMPATIENT = "from gridwire.heads.amqp import connection; connection.SIGN_IN_S = connection.SILENCE_S = 1"
NO_LIMITS = """
from gridwire.heads.amqp import connection, context, receivers
context.HEAD_UNREAD_BYTES_MAX = context.HEAD_ARRIVING_BYTES_MAX = receivers.HELD_BYTES_MAX = 1 << 40
connection.ARRIVING_BYTES_MAX = receivers.UNSETTLED_MAX = receivers.CONNECTION_UNSETTLED_MAX = 1 << 40
"""
_names = itertools.count()


class Hub:
    """A hub with events in it, and what its memory did."""

    def __init__(self, process: Any) -> None:
        self.process = process
        self.amqp: str = process.amqp
        with contextlib.closing(Peer(self.amqp)) as peer:
            self._fill(peer, 0, "large/Partitions/0", LARGE, LARGE_BYTES - 100)
            self._fill(peer, 1, "small/Partitions/0", SMALL, 10)

    def _fill(self, peer: Peer, handle: int, target: str, count: int, size: int) -> None:
        peer.attach_sender(handle, target)
        left, step = count, 500
        for first in range(0, count, step):
            for number in range(first, min(first + step, count)):
                peer.transfer(handle, handle * 1_000_000 + number, message(b"x" * size))
            due = min(left, step)
            left -= due
            while due:
                told = peer.wait_for(Disposition)
                assert isinstance(told.state, Accepted)
                due -= told.last - told.first + 1

    def memory(self, line: str) -> int:
        found = Path(f"/proc/{self.process.process.pid}/status").read_text().partition(f"{line}:")[2]
        return int(found.split()[0]) * KIB

    def count(self, name: str) -> int:
        """A counter of the AMQP head."""
        with urllib.request.urlopen(f"{self.process.http}/metrics", timeout=WAIT_S) as answer:
            lines = answer.read().decode().splitlines()
        [line] = [line for line in lines if line.startswith(f'gridwire_part_count{{name="{name}",part="amqp"}}')]
        return int(float(line.rpartition(" ")[2]))

    @contextlib.contextmanager
    def growth(self) -> Iterator[list[int]]:
        """How far its memory rose at most while the block ran."""
        Path(f"/proc/{self.process.process.pid}/clear_refs").write_text("5")
        before, found = self.memory("VmRSS"), []
        yield found
        found.append(self.memory("VmHWM") - before)


@pytest.fixture(scope="module")
def bounded(hub_process: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with small limits."""
    process = hub_process(tmp_path_factory.mktemp("bounded") / "data", "--no-workers", prelude=SMALL_LIMITS)
    yield Hub(process)
    process.stop()


@pytest.fixture
def unbounded(start_hub: Any) -> Hub:
    """The control's: limits out of reach, and no memory that another test left to be used again."""
    return Hub(start_hub("--no-workers", prelude=NO_LIMITS))


@pytest.fixture
def join() -> Iterator[Callable[..., Peer]]:
    """Open peers; they are reset at the end."""
    peers: list[Peer] = []

    def opened(hub: Hub, **options: Any) -> Peer:
        peers.append(Peer(hub.amqp, **options))
        return peers[-1]

    yield opened
    for peer in peers:
        peer.close()


@contextlib.contextmanager
def others(hub: Hub) -> Iterator[None]:
    """An honest sender and an honest receiver on links of their own, all the while; both must get on."""
    name = f"honest-{next(_names)}/Partitions/0"
    over, seen, problems = threading.Event(), [0], []

    def work() -> None:
        try:
            with contextlib.closing(Peer(hub.amqp)) as sender, contextlib.closing(Peer(hub.amqp)) as receiver:
                sender.attach_sender(0, name)
                receiver.attach_receiver(0, name, 1_000_000)
                while not over.is_set() or seen[0] < 3:
                    sender.transfer(0, seen[0], message(b"<%d>" % seen[0]))
                    assert isinstance(sender.wait_for(Disposition).state, Accepted)
                    body, payload = receiver.receive()
                    while not isinstance(body, Transfer):
                        body, payload = receiver.receive()
                    assert payload.endswith(b"<%d>" % seen[0])
                    seen[0] += 1
                    receiver.socket.sendall(frames.EMPTY_FRAME)
        except BaseException as problem:
            problems.append(problem)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(WAIT_S)
    assert not problems, problems
    assert not thread.is_alive(), f"stuck after {seen[0]} events"


def until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {WAIT_S:.0f} s for {what}"
        time.sleep(0.02)


def gone(peer: Peer) -> bool:
    """Whether the hub closed the connection; what it said before is read, and forgotten."""
    try:
        peer.arrived()
    except OSError:
        return True
    return False


# Receivers


def test_receivers_without_credit_are_sent_nothing(bounded: Hub, join: Any) -> None:
    peers = [join(bounded) for _ in range(8)]
    with bounded.growth() as grown, others(bounded):
        for peer, handle in itertools.product(peers, range(64)):
            peer.attach_receiver(handle, f"large/ConsumerGroups/g{handle}-{id(peer)}/Partitions/0")
    assert grown[0] < BOUND_BYTES
    for peer in peers:
        assert not [body for body, _ in peer.arrived() if isinstance(body, Transfer)]


STUCK = 224


def never_reading(hub: Hub, join: Any) -> None:
    for number in range(STUCK):
        peer = join(hub)
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
        peer.attach_receiver(0, f"large/ConsumerGroups/n{number}/Partitions/0", LARGE)


def test_receivers_that_never_read_are_cut_when_too_much_waits_for_them(bounded: Hub, join: Any) -> None:
    with bounded.growth() as grown, others(bounded):
        before = bounded.count("connections")
        never_reading(bounded, join)
        until(lambda: bounded.count("connections") <= before + UNREAD_BYTES // LARGE_BYTES + 2, "them to be cut")
    assert grown[0] < BOUND_BYTES


def test_control_without_the_limit_they_are_not(unbounded: Hub, join: Any) -> None:
    before = unbounded.memory("VmRSS")
    never_reading(unbounded, join)
    until(lambda: unbounded.memory("VmRSS") - before > CONTROL_BYTES, "the bound to be broken")
    assert unbounded.count("connections") >= STUCK


def asking_for_echoes(hub: Hub, join: Any) -> int:
    """A peer that asks for an answer again and again and reads none. Returns the bytes it could send."""
    peer = join(hub, wait_s=2)
    echo = frames.frame(0, encode_composite(Flow(0, WINDOW, 0, WINDOW, echo=True))) * 1000
    sent = 0
    with contextlib.suppress(OSError):
        while sent < 4 * CONTROL_BYTES:
            sent += peer.socket.send(echo)
    return sent


def test_who_does_not_read_answers_is_not_read_either(bounded: Hub, join: Any) -> None:
    with bounded.growth() as grown, others(bounded):
        assert asking_for_echoes(bounded, join) < 4 * CONTROL_BYTES
    assert grown[0] < BOUND_BYTES


def taken_without_outcome(hub: Hub, join: Any, at_least: int) -> int:
    """Deliveries a receiver of a whole hub gets that tells no outcome; returns when the hub sends no more."""
    peer = join(hub)
    peer.attach_receiver(0, f"small/ConsumerGroups/taker-{next(_names)}", SMALL)
    taken = 0
    while taken < at_least:
        taken += isinstance(peer.receive()[0], Transfer)
    peer.write(Flow(taken, WINDOW, 0, WINDOW, 0, taken, SMALL, echo=True))
    peer.wait_for(Flow)
    with others(hub):  # it has had time to send more
        return taken + sum(isinstance(body, Transfer) for body, _ in peer.arrived())


def test_a_receiver_that_settles_nothing_gets_no_more_than_the_limit(bounded: Hub, join: Any) -> None:
    with bounded.growth() as grown:
        assert taken_without_outcome(bounded, join, UNSETTLED) == UNSETTLED
    assert grown[0] < BOUND_BYTES


def test_control_without_the_limit_it_gets_everything(unbounded: Hub, join: Any) -> None:
    assert taken_without_outcome(unbounded, join, SMALL) == SMALL


def test_links_of_one_connection_share_a_limit_and_go_on_when_one_settles(bounded: Hub, join: Any) -> None:
    """Five links of 5,000 would be 25,000; 20,000 are allowed."""
    peer = join(bounded)
    group = f"shared-{next(_names)}"
    for handle in range(5):
        peer.attach_receiver(handle, f"small/ConsumerGroups/{group}-{handle}")
    for handle in range(5):
        peer.give(handle, SMALL)
    found: dict[int, list[int]] = {handle: [] for handle in range(5)}

    def take(count: int) -> None:
        while sum(map(len, found.values())) < count:
            body, _ = peer.receive()
            if isinstance(body, Transfer):
                found[body.handle].append(body.delivery_id)

    take(4 * UNSETTLED)
    peer.write(Flow(4 * UNSETTLED, WINDOW, 0, WINDOW, echo=True))
    peer.wait_for(Flow)
    assert not [body for body, _ in peer.arrived() if isinstance(body, Transfer)]
    for delivery_id in max(found.values(), key=len)[:1000]:
        peer.write(Disposition(RECEIVER, delivery_id, delivery_id, True, Accepted()))
    take(4 * UNSETTLED + 1000)


# Senders


PIECE_BYTES = 900 * KIB


def never_whole(hub: Hub, join: Any, links: int) -> list[Peer]:
    """Peers with that many links each, on every one of which a message begins and does not end."""
    peers = [join(hub) for _ in range(320 // links)]
    for peer in peers:
        with contextlib.suppress(OSError):
            for handle in range(links):
                peer.attach_sender(handle, f"parts/Partitions/{handle % 2}")
                peer.transfer(handle, handle, b"x" * PIECE_BYTES, more=True)
    return peers


@pytest.mark.parametrize("links", [1, 80])
def test_messages_that_never_become_whole_have_a_limit(bounded: Hub, join: Any, links: int) -> None:
    with bounded.growth() as grown, others(bounded):
        peers = never_whole(bounded, join, links)
        allowed = ARRIVING_BYTES // PIECE_BYTES if links == 1 else 0
        until(lambda: sum(not gone(peer) for peer in peers) <= allowed, "those who hold most to be cut")
    assert grown[0] < BOUND_BYTES


def test_control_without_the_limit_they_have_none(unbounded: Hub, join: Any) -> None:
    before = unbounded.memory("VmRSS")
    peers = never_whole(unbounded, join, 4)
    until(lambda: unbounded.memory("VmRSS") - before > CONTROL_BYTES, "the bound to be broken")
    assert not any(gone(peer) for peer in peers)


def test_an_honest_large_message_becomes_whole_among_them(bounded: Hub, join: Any) -> None:
    slow = join(bounded)
    slow.attach_sender(0, "parts/Partitions/0")
    body = message(b"y" * (2 * MIB))
    pieces = [body[at : at + 256 * KIB] for at in range(0, len(body), 256 * KIB)]
    for number, piece in enumerate(pieces):
        slow.transfer(0, 7, piece, more=number + 1 < len(pieces), first=number == 0)
        never_whole(bounded, join, 80) if number == 3 else None
    assert isinstance(slow.wait_for(Disposition).state, Accepted)


# Silence


def test_peers_that_fall_silent_are_closed_at_every_stage(start_hub: Any) -> None:
    hub = start_hub("--no-workers", prelude=IMPATIENT)
    whole, silent = opening(), []
    stages = [b"", whole[:5], whole[:8], whole[:20], frames.protocol_header(frames.SASL)]
    for data in stages:
        silent.append(socket.create_connection(address(hub.amqp), WAIT_S))
        silent[-1].sendall(data)
    with contextlib.closing(Peer(hub.amqp)) as peer, others(hub):
        peer.attach_sender(0, "silent/Partitions/0")
        for connection in silent:
            with connection, contextlib.suppress(ConnectionError):
                while connection.recv(4096):
                    pass
        assert "nothing came" in str(peer.wait_for(Close).error)


# Frames


def test_a_frame_beyond_what_was_negotiated_is_refused_before_it_comes(bounded: Hub, join: Any) -> None:
    peer = join(bounded)
    with others(bounded):
        peer.socket.sendall(struct.pack(">IBBH", frames.FRAME_BYTES_MAX + 1, 2, 0, 0))
        assert str(peer.wait_for(Close).error.condition) == "amqp:connection:framing-error"


def test_a_message_beyond_what_was_negotiated_ends_its_link_only(bounded: Hub, join: Any) -> None:
    peer = join(bounded)
    limit = peer.attach_sender(0, "parts/Partitions/0").max_message_size
    peer.attach_sender(1, "parts/Partitions/1")
    piece = b"x" * (512 * KIB)
    for number in range(limit // len(piece) + 1):
        peer.transfer(0, 0, piece, more=True, first=number == 0)
    assert str(peer.wait_for(Detach).error.condition) == "amqp:link:message-size-exceeded"
    peer.transfer(1, 1, message(b"fine"))
    assert isinstance(peer.wait_for(Disposition).state, Accepted)


def test_the_hub_sends_no_frame_beyond_what_the_peer_takes(bounded: Hub, join: Any) -> None:
    peer = join(bounded, frame_bytes_max=frames.FRAME_BYTES_LEAST)
    peer.attach_receiver(0, "large/Partitions/0", 1)
    peer.wait_for(Transfer, lambda body: not body.more)
    assert peer.largest_frame_bytes == frames.FRAME_BYTES_LEAST
