"""Filters on events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridwire.core.batch import Event
from gridwire.wire.http.problems import HttpError
from gridwire.wire.http.where import TEXT_MAX, Fields, parse

EVENT = Event(
    b'{"transformer":"T1","load_kw":120.5,"ok":true,"nothing":null,"data":{"items":[{"kw":3}]},"key":"inner","n":"12"}',
    b"meter-7",
    (("reason", b"CRC wrong"), ("reason", b"CRC-16 differs"), ("bytes", b"\xff")),
    1_767_225_600_000,
    42,
)


@pytest.mark.parametrize(
    "text",
    [
        "transformer = T1", "load_kw > 100", "load_kw >= 120.5", "load_kw<121", "load_kw != 5", "load_kw = 120.50",
        "transformer = 'T1' and load_kw > 100 AND partition = 2", "header.reason ~ crc-16", "key = meter-7",
        "offset >= 42", "timestamp >= 2026-01-01T00:00:00Z", "timestamp < '2026-01-01T00:00:01+00:00'",
        "timestamp = 1767225600000", "data.items.0.kw = 3", "value.key = inner", "ok = true", "nothing = null",
        "missing != 5", "value ~ 'LOAD_KW'", "transformer > S", "n = 12", "n > 9", "data ~ items",
        "transformer == 'T1'",
    ],
)  # fmt: skip
def test_what_holds(text):
    assert parse(text).matches(2, EVENT)


@pytest.mark.parametrize(
    "text",
    [
        "transformer = T2", "load_kw > 200", "load_kw > T1", "transformer > 5", "missing = 5", "missing > 5",
        "header.other ~ x", "header.reason = 'CRC wrong'", "partition = 1", "data.items.1.kw = 3", "ok = 1",
        "transformer = T1 and load_kw > 200", "data.items.kw = 3", "timestamp > 2026-01-01T00:00:00Z",
    ],
)  # fmt: skip
def test_what_does_not(text):
    assert not parse(text).matches(2, EVENT)


@pytest.mark.parametrize("value", [None, b"", b"no json", b"\xff"])
def test_values_that_are_no_json_have_no_fields(value):
    assert not parse("a = 1").matches(0, Event(value))
    assert parse("a != 1").matches(0, Event(value))


@pytest.mark.parametrize(
    "text", ["", "a", "a =", "= 1", "a = 1 or b = 2", "a = 1 and", "a = 'b", "timestamp > 2026-01-01T00:00"]
)
def test_what_cannot_be_understood_is_said(text):
    with pytest.raises(HttpError) as told:
        parse(text)
    assert told.value.status == 400


def test_the_length_is_bounded():
    with pytest.raises(HttpError, match="characters"):
        parse("a = " + "b" * TEXT_MAX)
    with pytest.raises(HttpError, match="at most"):
        parse(" and ".join(["a = 1"] * 21))


@given(st.text(max_size=60), st.binary(max_size=40))
def test_any_text_is_a_filter_or_refused(text, value):
    try:
        found = parse(text)
    except HttpError:
        return
    assert found.matches(0, Event(value)) in (True, False)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("value > 5", b'{"value":6}'), ("value = 6", b'{"value":6.0}'), ("value ~ b", b'{"value":"abc","c":1}'),
        ("value ~ other", b'{"other":6}'), ("value = 6", b"6"), ("value ~ plain", b"plain text"),
        ("value ~ 6", b"[5,6]"), ("value.value = 6", b'{"value":6}'),
    ],
)  # fmt: skip
def test_value_is_the_field_of_an_object_that_has_it_and_else_all_of_it(text, value):
    assert parse(text).matches(0, Event(value))


@pytest.mark.parametrize(
    ("text", "value"), [("value > 5", b'{"value":4}'), ("value ~ other", b'{"value":1,"other":2}')]
)
def test_value_of_an_object_is_not_its_text(text, value):
    assert not parse(text).matches(0, Event(value))


def test_fields_are_named_as_in_a_filter():
    chosen = Fields.parse(" load_kw, data.items.0.kw,key,header.reason,missing,offset,key")
    assert chosen.names == ["load_kw", "data.items.0.kw", "key", "header.reason", "missing", "offset"]
    assert list(chosen.of(2, EVENT)) == [120.5, 3, "meter-7", "CRC-16 differs", None, 42]
    for text in ("", " , ", ",".join(f"f{n}" for n in range(51))):
        with pytest.raises(HttpError, match="fields are"):
            Fields.parse(text)
