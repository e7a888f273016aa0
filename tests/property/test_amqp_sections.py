"""Whatever a message's sections hold, its record gives them back, types and all."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gridwire.core.batch import read_header, varint_at
from gridwire.wire.amqp import types
from gridwire.wire.amqp.deliveries import event_sections, open_batch
from gridwire.wire.amqp.errors import AmqpError
from gridwire.wire.amqp.mapping import ENQUEUED_TIME, OURS
from gridwire.wire.amqp.records import BATCH_FORMAT, Records, data_section, key_of
from gridwire.wire.amqp.sections_in import section
from gridwire.wire.amqp.types import NULL, described

TIME = types.symbol(ENQUEUED_TIME) + types.timestamp(0)
TEXT = st.text(max_size=300)
NAMES = st.one_of(st.text(max_size=20), st.sampled_from(["unit", "content-type", "amqp.to", "cloudEvents:id", "ce_id"]))
SYMBOLS = st.text("abc-:.", max_size=20)
SIMPLE = st.one_of(
    TEXT.map(types.string), st.binary(max_size=300).map(types.binary), SYMBOLS.map(types.symbol),
    st.booleans().map(types.boolean), st.integers(0, 255).map(types.ubyte), st.integers(0, 2**16 - 1).map(types.ushort),
    st.integers(0, 2**32 - 1).map(types.uint), st.integers(0, 2**64 - 1).map(types.ulong),
    st.integers(-(2**31), 2**31 - 1).map(types.int_), st.integers(-(2**63), 2**63 - 1).map(types.long),
    st.floats(allow_nan=False).map(types.double), st.integers(-(2**40), 2**40).map(types.timestamp),
    st.uuids().map(types.uuid),
)  # fmt: skip
ANY = st.one_of(SIMPLE, st.just(NULL), st.lists(SIMPLE, max_size=3).map(types.list_))
"""What application properties may hold, and what some clients put there against the rules."""
PROPERTIES = st.tuples(
    *[st.one_of(st.just(NULL), each) for each in (
        st.one_of(TEXT.map(types.string), st.integers(0, 2**64 - 1).map(types.ulong), st.uuids().map(types.uuid)),
        st.binary(max_size=20).map(types.binary), TEXT.map(types.string), TEXT.map(types.string),
        TEXT.map(types.string), st.one_of(TEXT.map(types.string), st.binary(max_size=9).map(types.binary)),
        SYMBOLS.map(types.symbol), SYMBOLS.map(types.symbol), st.integers(0, 2**40).map(types.timestamp),
        st.integers(0, 2**40).map(types.timestamp), TEXT.map(types.string),
        st.integers(0, 2**32 - 1).map(types.uint), TEXT.map(types.string),
    )]
)  # fmt: skip
TRANSPORT = st.tuples(
    st.just(types.TRUE), st.one_of(st.just(NULL), st.integers(0, 255).map(types.ubyte)),
    st.one_of(st.just(NULL), st.integers(0, 2**32 - 1).map(types.uint)),
)  # fmt: skip
BODIES = st.one_of(
    st.binary(max_size=400).map(data_section), st.just(data_section(b"a") + data_section(b"b")),
    SIMPLE.map(lambda value: described(0x77, value)),
    st.lists(SIMPLE, max_size=3).map(lambda values: described(0x76, types.list_(values))),
)  # fmt: skip


def mapped(keys: st.SearchStrategy[str], form: Any) -> st.SearchStrategy[bytes]:
    return st.dictionaries(keys, ANY, max_size=5).map(
        lambda found: types.map_((form(key), value) for key, value in found.items())
    )


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    parts = []
    for code, strategy in (
        (0x70, TRANSPORT.map(types.list_)),
        (0x72, mapped(SYMBOLS.filter(lambda name: name not in OURS), types.symbol)),
        (0x73, PROPERTIES.map(types.list_)),
        (0x74, mapped(NAMES, types.string)),
    ):
        if draw(st.booleans()):
            parts.append(described(code, draw(strategy)))
    return b"".join((*parts, draw(BODIES)))


def out(records: Records) -> list[bytes]:
    """The messages a receiver gets of records."""
    data = bytes(records.batch(1))
    cursor = open_batch(data, 0, read_header(data))
    found, position = [], 0
    for offset in range(cursor.left):
        size, at = varint_at(cursor.data, position)
        position = at + size
        _, key_at = varint_at(cursor.data, varint_at(cursor.data, at + 1)[1])
        found.append(event_sections(cursor.data, key_at, position, offset, TIME))
    return found


def sections(message: bytes) -> list[tuple[int, Any]]:
    """Sections with what is in them, without what is empty; integers keep their types."""
    found: list[tuple[int, Any]] = []
    position = 0
    while position < len(message):
        code, at = section(message, position, len(message))
        value, position = types.decode(message, at)
        if code == 0x72:
            value = {key: each for key, each in value.items() if key not in OURS}
        if code in (0x70, 0x73):
            while value and value[-1] is None:
                value = value[:-1]
        if value or code > 0x74:
            found.append((code, repr(value)))
    return found


@settings(max_examples=50)
@given(st.lists(messages(), min_size=1, max_size=4), st.booleans())
def test_sections_come_back(sent: list[bytes], batched: bool) -> None:
    records = Records()
    if batched:
        batch = b"".join(data_section(message) for message in sent)
        assert records.add_delivery(batch, 0, len(batch), BATCH_FORMAT) == len(sent)
    else:
        for message in sent:
            padded = b"\xa1\xff" + message + b"\x00\x53\x75"  # neighbours in the same read of the socket
            records.add_delivery(padded, 2, 2 + len(message), 0)
    assert [sections(message) for message in out(records)] == [sections(message) for message in sent]


@settings(max_examples=50)
@given(messages(), st.data())
def test_a_message_that_is_cut_is_an_error_or_another_message(message: bytes, data: st.DataObject) -> None:
    """Where the bytes after it are those of others: none of them may get into the record."""
    end = data.draw(st.integers(0, len(message)))
    alone, among = Records(), Records()
    outcomes = []
    for records, given_bytes in ((alone, message[:end]), (among, message)):
        try:
            key_of(given_bytes, 0, end)
            records.add_delivery(given_bytes, 0, end, 0)
            outcomes.append(b"".join(records.parts))
        except AmqpError:
            assert (records.parts, records.count, records.size) == ([], 0, 0)
            outcomes.append(b"refused")
    assert outcomes[0] == outcomes[1]
