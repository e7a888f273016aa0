"""Partitioner, event rendering, stream frames, and the error table."""

import msgspec
import pytest

from gridwire.core import errors
from gridwire.core.batch import Event
from gridwire.wire.http import partitioner, problems, rendering, sse


@pytest.mark.parametrize(
    ("key", "expected"),
    [  # vectors of Apache Kafka's own UtilsTest, as unsigned numbers
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_vectors(key, expected):
    assert partitioner.murmur2(key) == expected & 0xFFFFFFFF


def test_partition_ignores_the_sign_bit():
    assert partitioner.partition_of(b"21", 7) == (-973932308 & 0x7FFFFFFF) % 7
    assert partitioner.partition_of(b"k" * 1000, 1) == 0


@pytest.mark.parametrize(
    ("value", "form", "shown"),
    [
        (b'{"a":1.50,"b":123456789012345678901}', "json", b'{"a":1.50,"b":123456789012345678901}'),
        (b'{"a":\n1}\r\n', "json", b'{"a": 1}  '),
        (b"12", "json", b"12"),
        (b"plain", "text", b'"plain"'),
        (b"NaN", "text", b'"NaN"'),
        (b"", "text", b'""'),
        ("ä\n".encode(), "text", '"ä\\n"'.encode()),
        (b"\xff\x00", "base64", b'{"base64":"/wA="}'),
        (None, "null", b"null"),
    ],
)
def test_event_json_value(value, form, shown):
    line = rendering.event_json(3, Event(value, offset=7, timestamp=5))
    assert b"\n" not in line
    assert b'"value":' + shown + b',"format":"' + form.encode() + b'"' in line
    assert msgspec.json.decode(line)["format"] == form


def test_event_json_key_and_headers():
    event = Event(b"1", b"\xff", (("a", b"x"), ("b", None), ("a", b"\xfe"), ("a", b"z")), 5, 7)
    shown = msgspec.json.decode(rendering.event_json(0, event))
    assert shown["key"] == {"base64": "/w=="}
    assert shown["headers"] == {"a": ["x", {"base64": "/g=="}, "z"], "b": None}
    assert (shown["partition"], shown["offset"], shown["timestamp"]) == (0, 7, 5)


def test_frames():
    assert sse.frame(b"{}") == b"data: {}\n\n"
    assert sse.frame(b"{}", event="skipped", event_id="0:1") == b"event: skipped\nid: 0:1\ndata: {}\n\n"
    assert sse.mark("0:-1") == b"id: 0:-1\n\n"


def test_ids_round_trip():
    sent = {0: 11, 1: 20, 2: -1}
    text = sse.place_id(1, 20, sent)
    assert text == "1:20,0:11,2:-1"
    assert sse.read_id(text) == sent
    many = dict.fromkeys(range(sse.ID_PLACES_MAX + 1), 5)
    assert sse.place_id(3, 9, many) == "3:9"


@pytest.mark.parametrize(
    "text", ["", "x", "0", "0:", ":1", "0:1,", "0:-2", "0:1 ", "0:1\n", "٣:١", "0:1," * 70 + "0:1"]
)
def test_a_foreign_id_is_no_id(text):
    assert sse.read_id(text) == {}


def every_error(kind=errors.GridwireError):
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ in (errors.__name__, problems.__name__):
            yield from every_error(child)


@pytest.mark.parametrize("kind", sorted(set(every_error()) - {problems.HttpError}, key=lambda kind: kind.__name__))
def test_every_error_has_an_answer(kind):
    problem = problems.problem_of(kind("why"))
    assert problem.status in (400, 401, 403, 404, 409, 413, 415, 500, 503, 507)
    assert msgspec.json.decode(problem.body()) == {
        "type": problem.type,
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
    }
    assert "why" in problem.detail
    if issubclass(kind, errors.RemoteProtocolError):
        assert problem.status < 500


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.UnknownHub("x"), 404),
        (errors.UnknownPartition("x"), 404),
        (errors.HubExists("x"), 409),
        (errors.InvalidName("x"), 400),
        (errors.InvalidSetting("x"), 400),
        (errors.MessageTooLarge("x"), 413),
        (errors.Unavailable("x"), 503),
        (errors.StorageFailed("x"), 503),
        (errors.DiskFull("x"), 507),
        (problems.BadBody("x"), 400),
        (problems.Forbidden("x"), 403),
        (problems.HttpError(408, "x"), 408),
        (ZeroDivisionError("secret"), 500),
    ],
)
def test_statuses(error, status):
    problem = problems.problem_of(error)
    assert problem.status == status
    assert "secret" not in problem.detail
    assert problem.type.startswith("urn:gridwire:problem:")
