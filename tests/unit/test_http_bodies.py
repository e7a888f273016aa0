"""Bodies that are not CloudEvents: what becomes an event, and that its bytes are the ones that came."""

import pytest

from gridwire.core.errors import MessageTooLarge
from gridwire.core.limits import EVENT_BYTES_MAX
from gridwire.wire.http import bodies
from gridwire.wire.http.problems import BadBody

NOW = 1_700_000_000_000


def events(content_type, body, key=None, key_field=None):
    parsed = bodies.parse(content_type, [], body, NOW, key, key_field)
    return [event for block in parsed.blocks for event in block]


def values(content_type, body):
    return [event.value for event in events(content_type, body)]


def test_json_object_is_one_event_verbatim():
    assert values("application/json", b' {"a": 1.50,\n "b":[1]} \n') == [b'{"a": 1.50,\n "b":[1]}']
    assert values("application/json; charset=utf-8", b"3") == [b"3"]
    assert events("application/json", b"{}")[0].timestamp == NOW


def test_json_array_is_one_event_an_element_verbatim():
    assert values("application/json", b'\n[ {"a": 1.50 } ,2,\t"x", [3], null]') == [
        b'{"a": 1.50 }',
        b"2",
        b'"x"',
        b"[3]",
        b"null",
    ]


def test_ndjson_skips_blank_lines_and_carriage_returns():
    assert values("application/x-ndjson", b'{"a": 1}\r\n\n  \n{"b":2} \n') == [b'{"a": 1}', b'{"b":2}']
    assert values("application/jsonl", b"1") == [b"1"]


def test_several_says_whether_the_form_can_hold_more():
    several = [
        bodies.parse(content_type, [], body, NOW).several
        for content_type, body in [
            ("application/json", b"{}"),
            ("application/json", b"[{}]"),
            ("application/x-ndjson", b"{}"),
            ("text/plain", b"x"),
        ]
    ]
    assert several == [False, True, True, False]


def test_blocks_let_others_run_between():
    body = b"\n".join(b"%d" % number for number in range(2 * bodies.BLOCK_EVENTS + 1))
    sizes = [len(block) for block in bodies.parse("application/x-ndjson", [], body, NOW).blocks]
    assert sizes == [bodies.BLOCK_EVENTS, bodies.BLOCK_EVENTS, 1]


def test_raw_body_keeps_a_chosen_content_type():
    [event] = events("application/cbor", b"\xa1\x00")
    assert (event.value, event.headers) == (b"\xa1\x00", (("content-type", b"application/cbor"),))
    for unchosen in ("", "application/octet-stream", "application/x-www-form-urlencoded"):
        [event] = events(unchosen, b"a=b")
        assert (event.value, event.headers) == (b"a=b", ())


def test_request_key_is_every_events_key():
    assert [event.key for event in events("application/json", b"[1,2]", key=b"k")] == [b"k", b"k"]
    assert events("text/plain", b"x", key=b"k")[0].key == b"k"
    headers = [(b"ce-" + name, b"x") for name in (b"id", b"source", b"type")] + [(b"ce-specversion", b"1.0")]
    parsed = bodies.parse("", [*headers, (b"ce-subject", b"s")], b"x", NOW, b"k")
    assert next(iter(parsed.blocks))[0].key == b"k"


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (b'{"m":"a"}', b"a"),
        (b'{"x":{"m":"no"},"m":"\\u00e4"}', "ä".encode()),
        (b'{"m":12}', b"12"),
        (b'{"m": 1.50}', b"1.50"),
        (b'{"m":true}', b"true"),
        (b'{"m":null}', None),
        (b'{"m":""}', None),
        (b"{}", None),
    ],
)
@pytest.mark.parametrize("form", ["object", "array", "lines"])
def test_key_field(value, key, form):
    content_type = "application/x-ndjson" if form == "lines" else "application/json"
    body = b"[" + value + b"]" if form == "array" else value
    assert [event.key for event in events(content_type, body, key_field="m")] == [key]
    assert [event.key for event in events(content_type, body, key=b"k", key_field="m")] == [key or b"k"]


def test_key_field_of_any_name():
    for name in ("class", "__init__", "a b", "ä", "key"):
        assert events("application/json", f'{{"{name}":"v"}}'.encode(), key_field=name)[0].key == b"v"


@pytest.mark.parametrize(
    ("content_type", "body", "reason"),
    [
        ("application/json", b"", "empty"),
        ("application/x-ndjson", b"", "empty"),
        ("application/x-ndjson", b"\n \r\n", "only blank lines"),
        ("text/plain", b"", "empty"),
        ("application/json", b"[]", "array is empty"),
        ("application/json", b"{", "not JSON"),
        ("application/json", b'{"a":1}x', "not JSON"),
        ("application/json", b"[1,]", "not JSON"),
        ("application/json", b"NaN", "not JSON"),
        ("application/json", b'"\xff"', "not UTF-8: byte 1"),
        ("application/json", b"\xef\xbb\xbf{}", "not JSON"),
        ("application/json", b"[" * 100_000, "not JSON"),
        ("application/x-ndjson", b"1\n\n{x}\n2", "line 3 is not JSON"),
        ("application/x-ndjson", b'1\n"\xff"', "not UTF-8"),
        ("application/x-ndjson", b"1\n" + b"[" * 100_000, "line 2 is not JSON"),
        ("application/x-ndjson", b"[1\n,2]", "line 1 is not JSON"),
        ("application/cloudevents+avro", b"x", "not served"),
        ("application/cloudevents-batch+json", b"[]", "batch is empty"),
    ],
)
def test_refused(content_type, body, reason):
    with pytest.raises(BadBody, match=reason):
        events(content_type, body)


@pytest.mark.parametrize(
    ("content_type", "body", "field", "reason"),
    [
        ("text/plain", b"x", "m", "works with JSON"),
        ("application/cloudevents+json", b'{"specversion":"1.0","id":"1","source":"s","type":"t"}', "m", "works with"),
        ("application/json", b"1", "m", "cannot be keyed"),
        ("application/json", b'[{},{"m":{}}]', "m", "element 1 cannot be keyed"),
        ("application/x-ndjson", b'{}\n{"m":[1]}', "m", "line 2 cannot be keyed"),
        ("application/x-ndjson", b"{}\nx", "m", "line 2 cannot be keyed"),
        ("application/json", b"{}", "", "key_field must be"),
        ("application/json", b"{}", "x" * 129, "key_field must be"),
        ("application/json", b"{}", "a\nb", "key_field must be"),
    ],
)
def test_key_field_refused(content_type, body, field, reason):
    with pytest.raises(BadBody, match=reason):
        events(content_type, body, key_field=field)


@pytest.mark.parametrize(
    ("content_type", "start", "end", "what"),
    [
        ("text/plain", b"", b"", "the event"),
        ("application/json", b'"', b'"', "the event"),
        ("application/json", b'[1,"', b'"]', "element 1"),
        ("application/x-ndjson", b'1\n"', b'"', "line 2"),
    ],
)
def test_one_event_is_bounded(content_type, start, end, what):
    filler = EVENT_BYTES_MAX - (2 if b'"' in start else 0)
    assert events(content_type, start + b"x" * filler + end)
    with pytest.raises(MessageTooLarge, match=what):
        events(content_type, start + b"x" * (filler + 1) + end)


@pytest.mark.parametrize("field", ["", "\\", 'a"b', "a\nb", "x" * 129])
def test_a_key_field_that_cannot_be_a_plain_member_name_is_refused(field: str) -> None:
    with pytest.raises(BadBody, match="key_field"):
        bodies.parse("application/json", [], b"{}", 1, None, field)
