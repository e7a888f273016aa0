"""Any request is answered with a success or a 4xx problem: never a 5xx, never silence, never a hub that is gone."""

import gzip
import json
import socket
from urllib.parse import quote

import cramjam
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gridwire.heads.http.options import HttpLimits

fuzzed = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

CONTENT_TYPES = st.sampled_from(
    [
        "",
        "application/json",
        "application/json; charset=latin-1",
        "text/json",
        "application/x-ndjson",
        "application/jsonl",
        "application/cloudevents+json",
        "application/cloudevents-batch+json",
        "application/cloudevents+avro",
        "application/octet-stream",
        "multipart/form-data",
        ";;;",
    ]
) | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)

SCALARS = st.none() | st.booleans() | st.integers(-(2**66), 2**66) | st.floats() | st.text(max_size=10)
ATTRIBUTES = st.sampled_from(
    ["specversion", "id", "source", "type", "time", "subject", "partitionkey", "datacontenttype", "data", "data_base64"]
)
OBJECTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ATTRIBUTES | st.text(max_size=4), inner, max_size=8),
    max_leaves=20,
)
JSON_TEXTS = OBJECTS.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
LINES = st.lists(JSON_TEXTS | st.binary(max_size=10), max_size=5).map(b"\n".join)
EVENT = st.dictionaries(ATTRIBUTES, SCALARS | st.just("1.0"), max_size=10).map(
    lambda found: json.dumps({"specversion": "1.0", "id": "1", "source": "s", "type": "t"} | found).encode()
)
BODIES = st.one_of(
    st.binary(max_size=200),
    JSON_TEXTS,
    LINES,
    EVENT,
    EVENT.map(lambda one: b"[" + one + b"]"),
    st.sampled_from([b"[" * 5000, b'{"a":' * 5000, b'"\\ud800"', b"9" * 5000, b"1e999", b"-", b'{"a":1}\x00']),
)
HEADER_VALUES = st.binary(max_size=20).map(
    lambda raw: bytes(byte for byte in raw if byte >= 32 and byte != 127).strip()
)
CE_HEADERS = st.dictionaries(
    st.sampled_from(
        [b"ce-id", b"ce-source", b"ce-type", b"ce-specversion", b"ce-subject", b"ce-time", b"ce-", b"ce-A"]
    ),
    HEADER_VALUES,
    max_size=5,
)
TEXTS = st.text(max_size=8) | st.integers().map(str)


@pytest.fixture
def hub(http_hub):
    return http_hub(limits=HttpLimits(body_idle_s=2, head_timeout_s=2))


@pytest.fixture
def client(hub):
    with httpx.Client(base_url=hub.url) as client:
        yield client


def check(answer):
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code


@fuzzed
@given(
    content_type=CONTENT_TYPES,
    body=BODIES,
    headers=st.just({}) | CE_HEADERS,
    params=st.dictionaries(
        st.sampled_from(["key", "partition", "key_field", "header.a", "header.", "x"]), TEXTS, max_size=2
    ),
)
def test_events(client, content_type, body, headers, params):
    sent = {b"content-type": content_type.encode(), **headers}
    answer = client.post("/v1/hubs/r/events", content=body, headers=sent, params=params)
    check(answer)
    if answer.status_code == 200:
        assert answer.json()["offset"] >= 0


PACKED = st.one_of(
    st.binary(max_size=100),
    BODIES.map(gzip.compress),
    BODIES.map(lambda body: bytes(cramjam.zstd.compress(body))),
    BODIES.map(gzip.compress).flatmap(lambda packed: st.integers(0, len(packed)).map(lambda cut: packed[:cut])),
)


@fuzzed
@given(body=PACKED, encoding=st.sampled_from(["gzip", "zstd", "x-gzip", "deflate", "gzip, gzip", ""]))
def test_encoded_bodies(client, body, encoding):
    check(client.post("/v1/hubs/r/events", content=body, headers={"content-encoding": encoding}))


ADMIN_PATHS = st.sampled_from(
    ["/v1/hubs", "/v1/hubs/r", "/v1/groups/g/reset", "/v1/hubs/none", "/v1/hubs/r/copy", "/v1/alert-rules",
     "/v1/alert-rules/try"]
)  # fmt: skip
PLACES = st.sampled_from(["earliest", "latest", "-2", "2026-01-01T00:00:00Z", 0, 1])
ADMIN_BODIES = BODIES | st.fixed_dictionaries(
    {},
    optional={
        "name": st.text(max_size=5) | SCALARS,
        "partitions": st.integers(-5, 5) | SCALARS,
        "settings": st.dictionaries(st.sampled_from(["retention_ms", "cleanup", "x"]), SCALARS, max_size=2) | SCALARS,
        "hub": st.just("r") | SCALARS,
        "to": PLACES | SCALARS,
        "from": PLACES | SCALARS,
        "to_hub": st.sampled_from(["c", "r", "__x"]) | SCALARS,
        "before": PLACES | SCALARS,
        "stamp": st.sampled_from(["now", "kept"]) | SCALARS,
        "where": st.just("value > 0") | SCALARS,
        "partition": st.integers(-1, 5) | SCALARS,
    },
).map(lambda value: json.dumps(value).encode())


@settings(fuzzed, max_examples=150)
@given(method=st.sampled_from(["POST", "PATCH", "PUT"]), path=ADMIN_PATHS, body=ADMIN_BODIES)
def test_administration(client, method, path, body):
    client.post("/v1/hubs/r/events", content=b"x")
    check(client.request(method, path, content=body))


READ_PATHS = st.sampled_from(["/v1/hubs/r/events", "/v1/groups", "/v1/groups/g", "/v1/hubs/r", "/metrics", "/", "/x"])


@settings(fuzzed, max_examples=200)
@given(
    path=READ_PATHS | st.text(max_size=10).map(lambda text: "/v1/hubs/" + quote(text, safe="", errors="replace")),
    params=st.dictionaries(st.sampled_from(["partition", "offset", "limit"]), TEXTS, max_size=3),
)
def test_reading(client, path, params):
    client.post("/v1/hubs/r/events", content=b"\xff{", headers={"content-type": "a/b"})
    check(client.get(path, params=params))


RANGES = st.fixed_dictionaries(
    {"format": st.sampled_from(["ndjson", "csv"]) | TEXTS},
    optional={
        "offset": PLACES | TEXTS,
        "to": PLACES | TEXTS,
        "partition": st.integers(0, 1) | TEXTS,
        "where": st.just("value ~ a") | TEXTS,
        "fields": st.sampled_from(["a", "value,key,header.x,offset", "a.0.b"]) | TEXTS,
    },
)


@settings(fuzzed, max_examples=200)
@given(params=RANGES, body=BODIES)
def test_files(client, params, body):
    client.post("/v1/hubs/r/events?key=k", content=body, headers={"content-type": "a/b"})
    check(client.get("/v1/hubs/r/events", params=params))


@settings(fuzzed, max_examples=200)
@given(body=ADMIN_BODIES.filter(bool), partition=st.integers(0, 1))
def test_copies(client, body, partition):
    client.post("/v1/hubs/r/events", content=b"x")
    try:
        wanted = json.loads(body)
    except (ValueError, RecursionError):
        return
    if isinstance(wanted, dict):
        check(client.post("/v1/hubs/r/copy", json={"to_hub": "c", "partition": partition} | wanted))


@settings(fuzzed, max_examples=100)
@given(
    st.one_of(
        st.binary(min_size=1, max_size=100),
        st.binary(max_size=40).map(lambda raw: b"GET /" + raw + b" HTTP/1.1\r\nhost: localhost\r\n\r\n"),
        st.binary(max_size=40).map(lambda raw: b"GET / HTTP/1.1\r\n" + raw + b"\r\n\r\n"),
        st.binary(max_size=40).map(
            lambda raw: (
                b"POST /v1/hubs/r/events HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n" + raw
            )
        ),
    )
)
def test_bytes_on_the_wire(hub, data):
    with socket.create_connection(("127.0.0.1", hub.head.port), 10) as peer:
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
        out = b""
        try:
            while chunk := peer.recv(65536):
                out += chunk
        except ConnectionResetError:
            pass
    assert out == b"" or out.startswith(b"HTTP/1.1 "), out
    assert not out.startswith(b"HTTP/1.1 5"), out
    assert httpx.get(hub.url + "/healthz").status_code == 200
