"""Whatever JSON values are sent, and however they are packed, the events are those values' own bytes."""

import json

from hypothesis import given
from hypothesis import strategies as st

from gridwire.core.batch import Event
from gridwire.heads.http.ingest import chunks, record_bytes
from gridwire.wire.http import bodies, rendering

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
SEPARATORS = st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " : ")])


@st.composite
def texts(draw):
    return [
        json.dumps(value, separators=draw(SEPARATORS), ensure_ascii=draw(st.booleans())).encode("utf-8", "replace")
        for value in draw(st.lists(VALUES, min_size=1, max_size=8))
    ]


def events(content_type, body):
    return [event for block in bodies.parse(content_type, [], body, 1).blocks for event in block]


@given(texts())
def test_array_elements_are_verbatim(elements):
    body = b" [ " + b" ,\n".join(elements) + b" ] "
    assert [event.value for event in events("application/json", body)] == elements


@given(texts(), st.sampled_from([b"\n", b"\r\n", b"\n\n", b" \n\t"]))
def test_lines_are_verbatim(elements, separator):
    assert [event.value for event in events("application/x-ndjson", separator.join(elements))] == elements


@given(texts())
def test_rendering_keeps_json_values(elements):
    for value in elements:
        line = rendering.event_json(0, Event(value, offset=0))
        assert b"\n" not in line
        shown = json.loads(line)
        if shown["format"] == "json":
            assert shown["value"] == json.loads(value)
        else:  # a number beyond what a double holds
            assert shown["value"] == value.decode()


EVENTS = st.builds(
    Event,
    st.none() | st.binary(max_size=60),
    st.none() | st.binary(max_size=20),
    st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=10)), max_size=3).map(tuple),
    st.integers(0, 2**45),
)


@given(st.lists(EVENTS, min_size=1, max_size=40), st.integers(150, 2000))
def test_chunks_hold_everything_in_order_and_within_the_limit(sent, bytes_max):
    from gridwire.core import batch

    cut = list(chunks(sent, bytes_max))
    assert [event for chunk in cut for event in chunk] == sent
    for chunk in cut:
        encoded = len(batch.encode(chunk))
        assert encoded <= batch.HEADER_BYTES + sum(map(record_bytes, chunk))
        assert encoded <= bytes_max or len(chunk) == 1
