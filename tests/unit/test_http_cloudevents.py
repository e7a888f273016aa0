"""CloudEvents in each of the three modes become the same event, laid out as the Kafka binding says."""

import base64

import msgspec
import pytest

from gridwire.wire.http import cloudevents
from gridwire.wire.http.problems import BadBody

NOW = 1_700_000_000_000
BASE = {"specversion": "1.0", "id": "1", "source": "/meters", "type": "org.example.reading"}


def structured(**members):
    return cloudevents.from_structured(msgspec.json.encode(BASE | members), NOW)


def test_structured_json_data_stays_verbatim():
    body = b'{"specversion":"1.0","id":"1","source":"/m","type":"t","data":{"kw": 3.20,\t"big":123456789012345678901}}'
    event = cloudevents.from_structured(body, NOW)
    assert event.value == b'{"kw": 3.20,\t"big":123456789012345678901}'
    assert event.headers == (
        ("content-type", b"application/json"),
        ("ce_specversion", b"1.0"),
        ("ce_id", b"1"),
        ("ce_source", b"/m"),
        ("ce_type", b"t"),
    )
    assert event.key is None
    assert event.timestamp == NOW


def test_three_modes_agree():
    attributes = BASE | {"subject": "m-1", "time": "2026-01-01T00:00:00Z", "flag": True, "count": 7}
    whole = attributes | {"datacontenttype": "application/json", "data": {"kw": 1}}
    one = cloudevents.from_structured(msgspec.json.encode(whole), NOW)
    [several] = cloudevents.from_batch(msgspec.json.encode([whole]), NOW)
    text = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in attributes.items()}
    headers = [(b"ce-" + name.encode(), value.encode()) for name, value in text.items()]
    binary = cloudevents.from_headers(headers, "application/json", b'{"kw":1}', NOW)
    assert one == several == binary
    assert dict(one.headers)["ce_flag"] == b"true"
    assert dict(one.headers)["ce_count"] == b"7"


def test_key_is_partitionkey_then_subject():
    assert structured(subject="s").key == b"s"
    assert structured(subject="s", partitionkey="p").key == b"p"
    assert structured(subject="s", partitionkey="").key == b"s"
    assert structured().key is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-01-01T01:00:00.1239999+01:00", 1_767_225_600_123),
        ("2026-01-01t00:00:00z", 1_767_225_600_000),
        ("1969-12-31T23:59:59Z", None),
        ("2026-01-01T00:00:60Z", None),
        ("2026-01-01", None),
        ("20260101T000000Z", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_time(text, expected):
    assert cloudevents.time_ms(text) == expected
    event = structured(time=text)
    assert event.timestamp == (NOW if expected is None else expected)
    assert dict(event.headers)["ce_time"] == text.encode()


def test_data_base64():
    event = structured(data_base64=base64.b64encode(b"\x00\xff").decode(), datacontenttype="application/octet-stream")
    assert event.value == b"\x00\xff"
    assert ("content-type", b"application/octet-stream") in event.headers


def test_text_data_of_a_type_that_is_not_json_is_its_text():
    assert structured(data="häl\nlo", datacontenttype="text/plain").value == "häl\nlo".encode()
    assert structured(data="x", datacontenttype="application/vnd.a+json").value == b'"x"'
    assert structured(data={"a": 1}, datacontenttype="application/xml").value == b'{"a":1}'


def test_no_data_is_a_null_value_and_null_attributes_are_absent():
    event = structured(subject=None, comexample=None)
    assert event.value is None
    assert [name for name, _ in event.headers] == ["ce_specversion", "ce_id", "ce_source", "ce_type"]


@pytest.mark.parametrize("missing", ["specversion", "id", "source", "type"])
@pytest.mark.parametrize("how", ["absent", "empty", "null"])
def test_required_attributes(missing, how):
    members = dict(BASE)
    if how == "absent":
        del members[missing]
    else:
        members[missing] = "" if how == "empty" else None
    with pytest.raises(BadBody, match=f"'{missing}' is required"):
        cloudevents.from_structured(msgspec.json.encode(members), NOW)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"specversion": "0.3"}, "specversion '0.3'"),
        ({"Bad": "x"}, "'Bad' is not allowed"),
        ({"a-b": "x"}, "'a-b' is not allowed"),
        ({"a" * 21: "x"}, "is not allowed: 1 to 20"),
        ({"": "x"}, "is not allowed"),
        ({"ext": 1.5}, "'ext' must be"),
        ({"ext": 2**31}, "'ext' must be"),
        ({"ext": {"a": 1}}, "'ext' must be"),
        ({"ext": "a\nb"}, "control character"),
        ({"data": 1, "data_base64": "AA=="}, "not both"),
        ({"data_base64": "A"}, "not a base64"),
        ({"data_base64": 1}, "not a base64"),
    ],
)
def test_refused(members, reason):
    with pytest.raises(BadBody, match=reason):
        structured(**members)


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"{", b'{"id":"\xff"}', b"[" * 100_000, b'{"a":' * 100_000])
def test_malformed_structured(body):
    with pytest.raises(BadBody):
        cloudevents.from_structured(body, NOW)


def test_a_bad_event_in_a_batch_is_named():
    with pytest.raises(BadBody, match="event 1: CloudEvents attribute 'id'"):
        cloudevents.from_batch(msgspec.json.encode([BASE, BASE | {"id": ""}]), NOW)


def binary(*extra, body=b"x", content_type="text/plain"):
    headers = [(b"ce-" + name.encode(), value.encode()) for name, value in BASE.items()]
    return cloudevents.from_headers([(b"host", b"h"), *headers, *extra], content_type, body, NOW)


def test_binary_values_are_percent_decoded_and_unquoted():
    event = binary((b"ce-subject", b"M%C3%BCller%20%22x%22%25"), (b"ce-note", b'"a \\"b\\" c"'))
    assert event.key == 'Müller "x"%'.encode()
    assert dict(event.headers)["ce_note"] == b'a "b" c'
    assert dict(event.headers)["content-type"] == b"text/plain"
    assert event.value == b"x"


def test_binary_without_body_or_type():
    event = binary(body=b"", content_type="")
    assert event.value is None
    assert "content-type" not in dict(event.headers)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ((b"ce-id", b"2"), "comes twice"),
        ((b"ce-datacontenttype", b"text/plain"), "not allowed in binary"),
        ((b"ce-data", b"x"), "not allowed in binary"),
        ((b"ce-x_y", b"x"), "is not allowed"),
        ((b"ce-subject", b"%FF"), "percent-encoded UTF-8"),
        ((b"ce-subject", b"a%0Ab"), "control character"),
    ],
)
def test_binary_refused(extra, reason):
    with pytest.raises(BadBody, match=reason):
        binary(extra)


@pytest.mark.parametrize(
    ("media", "expected"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("text/json", True),
        ("application/vnd.x+json", True),
        ("application/xml", False),
        ("", False),
        ("json", False),
    ],
)
def test_json_types(media, expected):
    assert cloudevents.is_json_type(media) is expected
