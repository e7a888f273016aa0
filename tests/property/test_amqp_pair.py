"""A client and the hub as machines, wired by bytes: whatever sizes, windows and cuts, every message comes whole."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from gridwire.wire.amqp import connection as engine
from gridwire.wire.amqp.connection import Connection, ConnectionSettings
from gridwire.wire.amqp.performatives import RECEIVER, SENDER, Accepted

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amqp_machine import Client

MESSAGES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3000)), max_size=12)
"""(link, bytes)."""
CUTS = st.lists(st.integers(1, 700), min_size=1, max_size=6)


def body(index: int, size: int) -> bytes:
    return bytes((index + at) % 251 for at in range(size))


class Pair:
    """Both machines, and the bytes between them cut into pieces of the sizes in `cuts`, over and over."""

    def __init__(self, client: Client, cuts: list[int]) -> None:
        self.client, self.server = client, Connection(ConnectionSettings("hub"))
        self.cuts, self.turn = cuts, 0
        self.events: list[engine.Event] = []

    def cut(self, data: bytes) -> list[bytes]:
        pieces = []
        while data:
            size = self.cuts[self.turn % len(self.cuts)]
            self.turn += 1
            pieces.append(data[:size])
            data = data[size:]
        return pieces

    def run(self) -> None:
        while self.client.out or self.server.out:
            data = b"".join(self.client.out)
            self.client.out.clear()
            for piece in self.cut(data):
                self.server.feed(piece)
                for event in self.server.events():
                    self.events.append(event)
                    if isinstance(event, engine.Attached):
                        self.server.accept(event.link)
                    elif isinstance(event, engine.Delivered) and not event.delivery.settled:
                        event.link.session.settling.append(event.delivery.id)
            self.server.settle_accepted()
            data = b"".join(self.server.out)
            self.server.out.clear()
            for piece in self.cut(data):
                self.client.take(piece)


@given(MESSAGES, CUTS, st.integers(512, 4000), st.booleans())
def test_what_a_client_sends_comes_whole_and_is_accepted(
    messages: list[tuple[int, int]], cuts: list[int], frame_max: int, settled: bool
) -> None:
    pair = Pair(Client(), cuts)
    links = [pair.client.attach(SENDER, "hub") for _ in range(3)]
    pair.run()
    for event in list(pair.events):
        if isinstance(event, engine.Attached):
            pair.server.grant(event.link, 100)
    pair.run()
    sent = [
        (
            which,
            body(index, size),
            pair.client.send(links[which], body(index, size), settled=settled, frame_max=frame_max),
        )
        for index, (which, size) in enumerate(messages)
    ]
    pair.run()
    came = [
        (event.link.handle, event.delivery.data[event.delivery.start : event.delivery.end], event.delivery.id)
        for event in pair.events
        if isinstance(event, engine.Delivered)
    ]
    assert came == sent
    assert pair.client.outcomes == ({} if settled else {number: Accepted() for _, _, number in sent})
    assert pair.client.closed is None


@given(MESSAGES, CUTS, st.integers(512, 4000), st.integers(1, 20))
def test_what_the_hub_sends_comes_whole_within_every_window(
    messages: list[tuple[int, int]], cuts: list[int], frame_max: int, window: int
) -> None:
    client = Client(frame_max=frame_max, window=window)
    pair = Pair(client, cuts)
    remotes = [client.attach(RECEIVER, "hub") for _ in range(3)]
    pair.run()
    links = {event.link.handle: event.link for event in pair.events if isinstance(event, engine.Attached)}
    for remote in remotes:
        client.flow(remote, len(messages))
    pair.run()
    for index, (which, size) in enumerate(messages):
        link = links[which]
        while not link.session.room:
            client.window = window
            client.flow()
            pair.run()
        pair.server.send_transfer(link, body(index, size), index.to_bytes(4, "big"))
        pair.run()
    while links[0].session.waiting:
        client.window = window
        client.flow()
        pair.run()
    for which, remote in enumerate(remotes):
        expected = [body(index, size) for index, (to, size) in enumerate(messages) if to == which]
        assert [data for _, data in remote.deliveries] == expected
        assert remote.credit == len(messages) - len(expected) == links[which].credit
