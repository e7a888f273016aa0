"""Any bytes give AMQP events or a protocol error that the peer is told, nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gridwire.wire.amqp import frames, performatives, types
from gridwire.wire.amqp.connection import Connection, ConnectionSettings
from gridwire.wire.amqp.errors import AmqpError
from gridwire.wire.amqp.records import BATCH_FORMAT, Records

OPEN = frames.frame(0, performatives.encode_composite(performatives.Open("fuzz")))
BEGIN = frames.frame(1, performatives.encode_composite(performatives.Begin(None, 0, 100, 100)))


@given(st.binary(max_size=300))
def test_any_bytes_are_values_or_an_error(data: bytes) -> None:
    try:
        _, end = types.decode(data)
    except AmqpError:
        return
    assert 0 < end <= len(data)


@given(st.binary(max_size=300), st.sampled_from([0, BATCH_FORMAT]))
def test_any_bytes_are_events_or_an_error(data: bytes, message_format: int) -> None:
    records = Records()
    try:
        records.add_delivery(data, 0, len(data), message_format)
    except AmqpError:
        assert (records.count, records.parts) == (0, [])


@given(st.lists(st.tuples(st.sampled_from([0, 1]), st.integers(0, 2), st.binary(max_size=80)), max_size=8))
def test_any_frames_are_events_or_a_close(bodies: list[tuple[int, int, bytes]]) -> None:
    connection = Connection(ConnectionSettings("hub"))
    data = frames.protocol_header(frames.AMQP) + OPEN + BEGIN
    data += b"".join(frames.frame(channel, body, kind) for kind, channel, body in bodies)
    connection.feed(data)
    for _ in connection.events():
        pass
