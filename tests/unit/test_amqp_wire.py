"""The AMQP core without a socket: frames, windows, credit, drain, and the condition that answers each broken rule."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gridwire.wire.amqp import connection as engine
from gridwire.wire.amqp import errors, frames, performatives, types
from gridwire.wire.amqp.connection import Connection, ConnectionSettings
from gridwire.wire.amqp.frames import frame, protocol_header
from gridwire.wire.amqp.link import INCOMING_WINDOW, Link, ranges
from gridwire.wire.amqp.performatives import (
    AMQP_FRAMES,
    RECEIVER,
    SASL_FRAMES,
    SENDER,
    SETTLED,
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Flow,
    Open,
    Released,
    SaslInit,
    Source,
    Target,
    Transfer,
    decode_frame,
    encode_composite,
    rejected,
)
from gridwire.wire.amqp.states import ConnectionState

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amqp_machine import Client, Remote

BODY = b"\x00\x53\x75\xa0\x01x"


class Wire:
    """A client and a connection, with bytes going both ways until nothing is left to say."""

    def __init__(self, client: Client | None = None, *, step: int = 0) -> None:
        self.client = client or Client()
        self.server = Connection(ConnectionSettings("hub"))
        self.events: list[Any] = []
        self.step = step

    def run(self) -> None:
        while self.client.out or self.server.out:
            data = b"".join(self.client.out)
            self.client.out.clear()
            for at in range(0, len(data), self.step or len(data) or 1):
                self.server.feed(data[at : at + (self.step or len(data))])
                self.events += self.server.events()
            data = b"".join(self.server.out)
            self.server.out.clear()
            self.client.take(data)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def link(self, role: bool, **fields: Any) -> tuple[Remote, Link]:
        """An accepted link, from both sides. `credit`: granted to a sender."""
        credit = fields.pop("credit", 100)
        remote = self.client.attach(role, "hub", **fields)
        self.run()
        link: Link = self.of(engine.Attached)[-1].link
        self.server.accept(link, settled=role is RECEIVER)
        if role is SENDER:
            self.server.grant(link, credit)
        self.run()
        return remote, link


# -- the way in


@pytest.mark.parametrize("step", [1, 2, 7, 0])
def test_bytes_may_come_in_any_pieces(step: int) -> None:
    wire = Wire(step=step)
    remote, _ = wire.link(SENDER)
    for number in range(3):
        wire.client.send(remote, BODY * (number + 1))
    wire.client.send(remote, b"y" * 1000, frame_max=512)
    wire.run()
    bodies = [event.delivery.data[event.delivery.start : event.delivery.end] for event in wire.of(engine.Delivered)]
    assert bodies == [BODY, BODY * 2, BODY * 3, b"y" * 1000]
    assert wire.client.closed is None


def test_links_may_take_turns_in_the_middle_of_deliveries() -> None:
    wire = Wire()
    (one, first), (two, second) = wire.link(SENDER), wire.link(SENDER)
    for index, piece in enumerate((b"a", b"b", b"c")):
        wire.client.say(Transfer(one.handle, 0, b"1", 0, False, index < 2), piece)
        wire.client.say(Transfer(two.handle, 1, b"2", 0, False, index < 2), piece.upper())
    wire.run()
    found = {event.link.handle: event.delivery.data for event in wire.of(engine.Delivered)}
    assert found == {first.handle: b"abc", second.handle: b"ABC"}


def test_an_aborted_delivery_is_forgotten() -> None:
    wire = Wire()
    remote, _ = wire.link(SENDER)
    wire.client.say(Transfer(remote.handle, 0, b"1", 0, False, True), b"half")
    wire.client.say(Transfer(remote.handle, aborted=True))
    wire.client.say(Transfer(remote.handle, 1, b"2"), b"whole")
    wire.run()
    assert [event.delivery.id for event in wire.of(engine.Delivered)] == [1]


def test_resumed_deliveries_are_ignored_for_nothing_is_kept_of_a_link() -> None:
    wire = Wire()
    held = {b"1": None, b"2": None}
    remote, _ = wire.link(SENDER, unsettled=held, source=Source("c", durable=2, expiry_policy="never", timeout=60))
    assert remote.attached is not None
    assert not remote.attached.unsettled
    assert remote.attached.source is not None
    assert (remote.attached.source.durable, remote.attached.source.expiry_policy) == (0, "link-detach")
    wire.client.say(Transfer(remote.handle, 0, b"2", 0, False, True, resume=True), b"ol")
    wire.client.say(Transfer(remote.handle, 0, b"2", 0, False, False), b"d")
    wire.client.say(Transfer(remote.handle, 1, b"2", 0, False, False), b"again")
    wire.run()
    assert [event.delivery.data for event in wire.of(engine.Delivered)] != []
    assert [event.delivery.id for event in wire.of(engine.Delivered)] == [1]


def test_credit_counts_down_and_is_granted_again() -> None:
    wire = Wire()
    remote, link = wire.link(SENDER, credit=2)
    for _ in range(2):
        wire.client.send(remote, BODY)
    wire.run()
    assert (link.credit, remote.credit) == (0, 0)
    wire.server.grant(link, 5)
    wire.run()
    assert (link.credit, remote.credit) == (5, 5)


def test_a_session_window_is_renewed_before_it_ends() -> None:
    wire = Wire()
    remote, _ = wire.link(SENDER, credit=1_000_000)
    for _ in range(3 * INCOMING_WINDOW):
        wire.client.send(remote, BODY, settled=True)
    assert wire.client.queue
    wire.run()
    assert len(wire.of(engine.Delivered)) == 3 * INCOMING_WINDOW
    assert not wire.client.queue


def test_acceptances_leave_as_ranges_and_never_after_the_end() -> None:
    assert ranges([3, 1, 2, 9]) == [(1, 3), (9, 9)]
    wire = Wire()
    remote, link = wire.link(SENDER)
    for _ in range(4):
        wire.client.send(remote, BODY)
    wire.run()
    link.session.settling += [0, 1, 3]
    wire.server.settle_accepted()
    wire.server.settle(link, 2, rejected("a:b", "no"))
    wire.run()
    assert {key: type(value).__name__ for key, value in wire.client.outcomes.items()} == {
        0: "Accepted", 1: "Accepted", 2: "Rejected", 3: "Accepted",
    }  # fmt: skip
    link.session.settling.append(0)
    wire.server.close("a:b", "over")
    assert [decoded(each).__class__ for each in wire.server.out] == [Disposition, Close]
    link.session.settling.append(1)
    wire.server.settle_accepted()
    assert len(wire.server.out) == 2


def decoded(data: bytes) -> Any:
    return decode_frame(data, 8, len(data), {kind.CODE: kind for kind in (Open, Close, Disposition, Detach, Flow)})[0]


# -- the way out


def test_a_large_message_obeys_frame_size_and_window() -> None:
    wire = Wire(Client(frame_max=512, window=3))
    remote, link = wire.link(RECEIVER)
    wire.client.flow(remote, 10)
    wire.run()
    wire.server.send_transfer(link, b"z" * 5000, b"t")
    assert link.session.room == 0
    wire.run()
    assert remote.deliveries == []
    windows = 0
    while not remote.deliveries:
        wire.client.window = 3
        wire.client.flow()
        wire.run()
        windows += 1
    assert windows > 2
    assert remote.deliveries[0][1] == b"z" * 5000
    assert link.credit == 9


def test_what_waits_for_a_window_goes_with_its_link() -> None:
    wire = Wire(Client(frame_max=512, window=1))
    remote, link = wire.link(RECEIVER)
    wire.client.flow(remote, 10)
    wire.run()
    wire.server.send_transfer(link, b"z" * 5000, b"t")
    wire.server.detach(link, errors.LINK_STOLEN, "taken")
    wire.client.window = 100
    wire.client.flow()
    wire.run()
    assert remote.detached is not None
    assert (remote.deliveries, link.session.waiting) == ([], type(link.session.waiting)())


def test_drain_uses_up_credit() -> None:
    wire = Wire()
    remote, link = wire.link(RECEIVER)
    wire.client.flow(remote, 10, drain=True)
    wire.run()
    assert (link.credit, link.drain) == (10, True)
    wire.server.send_transfer(link, BODY, b"")
    wire.server.drained(link)
    wire.run()
    assert (remote.credit, remote.count, remote.flows[-1].drain) == (0, 10, True)
    assert len(remote.deliveries) == 1


def test_credit_is_what_the_receiver_means_not_what_it_says() -> None:
    """Credit counts from the delivery-count it has seen; what was under way is taken off."""
    wire = Wire()
    remote, link = wire.link(RECEIVER)
    wire.client.flow(remote, 5)
    wire.run()
    wire.server.send_transfer(link, BODY, b"")
    wire.client.say(Flow(0, 100, 0, 100, remote.handle, 0, 5))
    wire.run()
    assert link.credit == 4
    wire.client.say(Flow(0, 100, 0, 100, remote.handle, 0, 0))
    wire.run()
    assert link.credit == 0


def test_an_echo_is_answered() -> None:
    wire = Wire()
    remote, _ = wire.link(RECEIVER)
    wire.client.flow(remote, 3, echo=True)
    wire.client.flow(echo=True)
    wire.run()
    assert remote.flows[-1].link_credit == 3


def test_a_heartbeat_is_an_empty_frame() -> None:
    wire = Wire()
    wire.run()
    wire.client.out.append(frames.EMPTY_FRAME)
    wire.run()
    wire.server.heartbeat()
    assert wire.server.out == [frames.EMPTY_FRAME]


def test_a_link_attached_again_steals_itself() -> None:
    wire = Wire()
    first, _ = wire.link(SENDER, name="same")
    receiving, _ = wire.link(RECEIVER, name="same")
    second, _ = wire.link(SENDER, name="same")
    assert first.detached is not None
    assert first.detached.error is not None
    assert first.detached.error.condition == errors.LINK_STOLEN
    assert (second.detached, receiving.detached) == (None, None)


def test_a_refused_link_is_attached_without_a_node_then_detached() -> None:
    wire = Wire()
    for role in (SENDER, RECEIVER):
        remote = wire.client.attach(role, "nowhere")
        wire.run()
        wire.server.refuse(wire.of(engine.Attached)[-1].link, errors.NOT_FOUND, "none")
        wire.run()
        assert remote.attached is not None
        assert (remote.attached.target if role is SENDER else remote.attached.source) is None
        assert remote.detached is not None
        assert (remote.detached.closed, remote.detached.error.condition) == (True, errors.NOT_FOUND)  # type: ignore[union-attr]


# -- rules broken: the condition, and what ends


def attached(role: bool = SENDER) -> Callable[[Wire], Remote]:
    return lambda wire: wire.link(role)[0]


CLOSES: dict[str, tuple[Callable[[Client], None], str]] = {
    "a session on a channel twice": (lambda client: client.say(Begin(None, 0, 1, 1)), errors.NOT_ALLOWED),
    "a channel beyond channel-max": (lambda client: client.say(Begin(None, 0, 1, 1), channel=5000), errors.NOT_ALLOWED),
    "an attach without a session": (
        lambda client: client.say(Attach("a", 0, SENDER), channel=2), errors.NOT_ALLOWED,
    ),
    "open twice": (lambda client: client.say(Open("again"), channel=0), errors.ILLEGAL_STATE),
    "a handle beyond handle-max": (lambda client: client.say(Attach("a", 256, SENDER)), errors.FRAMING_ERROR),
    "a performative that is none": (
        lambda client: client.out.append(frame(1, b"\x00\x53\x99\x45")), errors.DECODE_ERROR,
    ),
    "bytes that are no performative": (lambda client: client.out.append(frame(1, b"\x40")), errors.DECODE_ERROR),
    "a field that is missing": (lambda client: client.out.append(frame(1, b"\x00\x53\x14\x45")), errors.DECODE_ERROR),
    "a field of another type": (
        lambda client: client.out.append(frame(1, b"\x00\x53\x14\xc0\x03\x01\xa1\x00")), errors.DECODE_ERROR,
    ),
    "too many fields": (
        lambda client: client.out.append(frame(1, b"\x00\x53\x17\xc0\x03\x02\x40\x40")), errors.DECODE_ERROR,
    ),
    "a frame that is too large": (
        lambda client: client.out.append(b"\x7f\xff\xff\xff\x02\x00\x00\x00"), errors.FRAMING_ERROR,
    ),
    "a frame that is too small": (
        lambda client: client.out.append(b"\x00\x00\x00\x07\x02\x00\x00\x00"), errors.FRAMING_ERROR,
    ),
    "a data offset beyond the frame": (
        lambda client: client.out.append(b"\x00\x00\x00\x08\x03\x00\x00\x00"), errors.FRAMING_ERROR,
    ),
    "a SASL frame after open": (
        lambda client: client.out.append(frame(0, b"\x00\x53\x41\x45", 1)), errors.DECODE_ERROR,
    ),
    "values nested without end": (
        lambda client: client.out.append(frame(1, b"\x00\x53\x14" + b"\xc0\x10\x01" * 40)), errors.DECODE_ERROR,
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", CLOSES)
def test_a_broken_rule_closes_the_connection(rule: str) -> None:
    breaks, condition = CLOSES[rule]
    wire = Wire()
    wire.run()
    breaks(wire.client)
    wire.run()
    assert wire.client.closed is not None
    assert wire.client.closed.error is not None
    assert wire.client.closed.error.condition == condition
    assert wire.server.state in (ConnectionState.CLOSING, ConnectionState.CLOSED)
    wire.client.say(Close(), channel=0)
    wire.run()
    assert wire.server.state is ConnectionState.CLOSED


ENDS: dict[str, tuple[Callable[[Wire], Any], Callable[[Wire, Remote], None], str]] = {
    "a handle in use": (
        attached(), lambda wire, link: wire.client.say(Attach("b", link.handle, SENDER)), errors.HANDLE_IN_USE,
    ),
    "a transfer on no link": (
        attached(), lambda wire, _: wire.client.say(Transfer(7, 0, b"")), errors.UNATTACHED_HANDLE,
    ),
    "a flow on no link": (
        attached(), lambda wire, _: wire.client.say(Flow(0, 1, 0, 1, 7)), errors.UNATTACHED_HANDLE,
    ),
    "a detach of no link": (attached(), lambda wire, _: wire.client.say(Detach(7)), errors.UNATTACHED_HANDLE),
    "a name that is too long": (
        attached(), lambda wire, _: wire.client.say(Attach("n" * 2000, 9, SENDER)), errors.LIMIT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", ENDS)
def test_a_broken_rule_ends_the_session_and_nothing_else(rule: str) -> None:
    begins, breaks, condition = ENDS[rule]
    wire = Wire()
    breaks(wire, begins(wire))
    wire.run()
    assert wire.client.ended is not None
    assert wire.client.ended.error is not None
    assert wire.client.ended.error.condition == condition
    assert wire.of(engine.Detached)
    wire.client.say(Transfer(0, 0, b""), b"late")
    wire.client.say(End())
    wire.client.say(Begin(None, 0, 1, 1))
    wire.run()
    assert wire.client.closed is None


DETACHES: dict[str, tuple[bool, Callable[[Wire, Remote], None], str]] = {
    "no delivery-id": (SENDER, lambda wire, link: wire.client.say(Transfer(link.handle), b"x"), errors.INVALID_FIELD),
    "a tag that is too long": (
        SENDER, lambda wire, link: wire.client.say(Transfer(link.handle, 0, b"t" * 33), b"x"), errors.INVALID_FIELD,
    ),
    "another delivery in the middle of one": (
        SENDER,
        lambda wire, link: [wire.client.say(Transfer(link.handle, n, b"", more=True), b"x") for n in (0, 1)] and None,
        errors.INVALID_FIELD,
    ),
    "a transfer to a receiver": (
        RECEIVER, lambda wire, link: wire.client.say(Transfer(link.handle, 0, b""), b"x"), errors.NOT_ALLOWED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", DETACHES)
def test_a_broken_rule_detaches_the_link_and_nothing_else(rule: str) -> None:
    role, breaks, condition = DETACHES[rule]
    wire = Wire()
    other, _ = wire.link(SENDER)
    remote, link = wire.link(role)
    breaks(wire, remote)
    wire.run()
    assert remote.detached is not None
    assert remote.detached.error is not None
    assert (remote.detached.closed, remote.detached.error.condition) == (True, condition)
    wire.client.say(Transfer(remote.handle, 5, b""), b"late")
    wire.client.say(Detach(remote.handle, True))
    wire.client.send(other, BODY)
    wire.run()
    assert len(wire.of(engine.Delivered)) == 1
    assert (wire.client.ended, wire.client.closed, wire.server.links) == (None, None, 1)
    assert not link.parts


def test_a_message_beyond_the_limit_detaches_before_it_is_whole() -> None:
    wire = Wire()
    remote = wire.client.attach(SENDER, "hub")
    wire.run()
    link = wire.of(engine.Attached)[-1].link
    wire.server.accept(link, max_message_size=1000)
    wire.run()
    for _ in range(3):
        wire.client.say(Transfer(remote.handle, 0, b"", more=True), b"x" * 400)
    wire.run()
    assert remote.detached is not None
    assert remote.detached.error is not None
    assert remote.detached.error.condition == errors.SIZE_EXCEEDED
    assert (link.parts, link.parts_size) == ([], 0)


def test_detaching_and_closing_are_answered() -> None:
    wire = Wire()
    remote, _ = wire.link(SENDER)
    wire.client.say(Detach(remote.handle, False))
    wire.client.say(Close(), channel=0)
    wire.run()
    assert (remote.detached, wire.client.closed) == (Detach(0, False), Close())
    assert wire.server.state is ConnectionState.CLOSED


def test_every_event_of_a_frame_is_told_however_it_is_asked_for() -> None:
    wire = Wire()
    wire.link(SENDER)
    wire.link(RECEIVER)
    wire.client.say(End())
    wire.server.feed(b"".join(wire.client.out))
    found = [wire.server.next_event() for _ in range(3)]
    assert [type(event) for event in found] == [engine.Detached, engine.Detached, type(None)]
    wire.server.close()
    assert isinstance(wire.server.next_event(), engine.Closed)


# -- signing in


def sasl(settings: ConnectionSettings, *out: bytes) -> tuple[Connection, list[Any]]:
    server = Connection(settings)
    events: list[Any] = []
    for data in out:
        server.feed(data)
        for event in server.events():
            events.append(event)
            if isinstance(event, engine.SigningIn):
                server.sasl_outcome(event.response == b"good")
    return server, events


def init(response: bytes) -> bytes:
    return frame(0, encode_composite(SaslInit("PLAIN", response, None)), 1)


def test_a_sign_in_comes_before_open() -> None:
    settings = ConnectionSettings("hub", ("PLAIN",), sasl=True)
    amqp, first = protocol_header(frames.AMQP), protocol_header(frames.SASL)
    good, _ = sasl(settings, first, init(b"good"), amqp + frame(0, encode_composite(Open("c"))))
    assert good.state is ConnectionState.OPENED
    bad, events = sasl(settings, first, init(b"bad"))
    outcome, _ = decode_frame(bad.out[-1], 8, len(bad.out[-1]), SASL_FRAMES)
    assert (bad.state, outcome.code, isinstance(events[-1], engine.Closed)) == (ConnectionState.CLOSED, 1, True)  # type: ignore[attr-defined]
    skipped, events = sasl(settings, amqp)
    assert (skipped.out, skipped.state) == ([first], ConnectionState.CLOSED)
    allowed, _ = sasl(ConnectionSettings("hub"), amqp)
    assert allowed.state is ConnectionState.OPEN


@pytest.mark.parametrize(
    "data",
    [b"HTTP/1.1", b"AMQP\x00\x01\x00\x01", b"AMQP\x02\x01\x00\x00", b"AMQP\x09\x01\x00\x00"],
    ids=["another protocol", "another version", "TLS inside", "nonsense"],
)
def test_another_protocol_is_closed(data: bytes) -> None:
    server = Connection(ConnectionSettings("hub"))
    server.feed(data)
    assert [type(event) for event in server.events()] == [engine.Closed]
    assert server.state is ConnectionState.CLOSED


# -- values


def test_what_python_can_say_comes_back() -> None:
    values: list[Any] = [None, True, 0, -1, 2**40, 1.5, "text", types.Symbol("s"), b"b", [1, [2]], {"a": None}, []]
    for value in values:
        data = types.encode(value)
        assert types.decode(data) == (value, len(data))
        assert types.skip(data, 0, len(data)) == len(data)


def test_shortest_forms_are_read() -> None:
    assert types.decode(b"\x45") == ([], 1)
    assert types.decode(b"\x43")[0] == 0
    assert decode_frame(b"\x00\x53\x17\x45", 0, 4, {End.CODE: End})[0] == End()
    body = b"\x00\x53\x15\xc0\x09\x05\x41\x43\x40\x41\x00\x53\x26\x45"
    assert decode_frame(body, 0, len(body), {Disposition.CODE: Disposition})[0] == Disposition(
        RECEIVER, 0, None, True, Released()
    )


TRANSFERS = (
    encode_composite(Transfer(0, 300, b"tag!", 0, False, True)),
    encode_composite(Transfer(7, 0xFFFFFFFF, b"", 0x80013700, True)),
    encode_composite(Transfer(1)),
    b"\x00\x53\x14\xc0\x08\x04\x43\x52\x05\xa0\x01x\x43",
    b"\x00\x53\x14\xc0\x09\x05\x43\x52\x05\xa0\x01x\x43\x41",
    b"\x00\x53\x14\xc0\x0a\x06\x43\x52\x05\xa0\x01x\x43\x42\x41",
)
"""As the hub writes them, and as those do who leave out trailing nulls."""


def _changed() -> Iterator[bytes]:
    """Each of them whole, cut anywhere, and with every byte made each of the codes that mean something."""
    codes = (0x00, 0x01, 0x04, 0x0B, 0x0C, 0x14, 0x40, 0x41, 0x42, 0x43, 0x45, 0x52, 0x56, 0x70, 0x80, 0xA0, 0xC0, 0xFF)
    for text in TRANSFERS:
        yield text
        yield from (text[:size] for size in range(len(text)))
        yield from (text[:at] + bytes((code,)) + text[at + 1 :] for at in range(len(text)) for code in codes)


def _decoded(text: bytes, end: int) -> Any:
    try:
        return decode_frame(text, 0, end, AMQP_FRAMES)
    except errors.AmqpError as error:
        return error.condition, error.description


def test_the_quick_way_reads_transfers_as_the_general_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [
        (text + more, len(text + paid)) for text in _changed() for more, paid in ((b"", b""), (BODY, BODY), (BODY, b""))
    ]
    quick = [_decoded(text, end) for text, end in texts]
    taken = sum(performatives._usual_transfer(text, 0, end) is not None for text, end in texts)
    monkeypatch.setattr(performatives, "_usual_transfer", lambda *_: None)
    assert quick == [_decoded(text, end) for text, end in texts]
    assert taken > 3 * len(TRANSFERS)


def test_the_modes_asked_for_are_told_back() -> None:
    wire = Wire()
    remote, link = wire.link(SENDER, snd_settle_mode=SETTLED)
    assert link.settled
    assert remote.attached is not None
    assert (remote.attached.snd_settle_mode, remote.attached.target) == (SETTLED, Target("hub"))
