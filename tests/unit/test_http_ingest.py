"""POST events against a real broker: answers, partitions, keys, limits, refusals."""

import asyncio
import gzip
import socket
import time

import cramjam
import httpx
import pytest

from gridwire.core import batch
from gridwire.core.errors import DiskFull, StorageFailed
from gridwire.heads.http.ingest import Run, joined
from gridwire.heads.http.options import HttpLimits
from gridwire.wire.http.partitioner import partition_of

JSON = {"content-type": "application/json"}
NDJSON = {"content-type": "application/x-ndjson"}


@pytest.fixture
def hub(http_hub):
    return http_hub()


@pytest.fixture
def client(hub):
    with httpx.Client(base_url=hub.url) as client:
        yield client


def stored(hub, name, partition):
    async def read():
        found = await hub.broker.read(name, partition, 0, 2**26)
        return [event for at, _ in batch.iter_headers(found.data) for event in batch.decode(found.data, at)]

    return hub.run(read())


def everything(hub, name):
    return [event for number in range(hub.broker.hub(name).partitions) for event in stored(hub, name, number)]


def problem(response, status, reason):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    told = response.json()
    assert set(told) == {"type", "title", "status", "detail"}
    assert told["status"] == status
    assert reason in told["detail"]


def test_one_event(hub, client):
    answer = client.post("/v1/hubs/readings/events?partition=2", content=b'{"kw": 3.20}', headers=JSON)
    assert answer.status_code == 200
    assert answer.json() == {"partition": 2, "offset": 0, "durable": False}
    [event] = stored(hub, "readings", 2)
    assert (event.value, event.key, event.headers) == (b'{"kw": 3.20}', None, ())
    assert abs(event.timestamp - time.time() * 1000) < 60_000


def test_durable_is_said_only_when_synced(http_hub):
    hub = http_hub(durability="fsync")
    assert httpx.post(hub.url + "/v1/hubs/r/events", content=b"x").json()["durable"] is True


def test_several_events_are_listed_by_partition(hub, client):
    lines = b"\n".join(b'{"m":"meter-%d"}' % number for number in range(50))
    answer = client.post("/v1/hubs/r/events?key_field=m", content=lines, headers=NDJSON).json()
    assert answer["count"] == 50
    assert sum(row["count"] for row in answer["results"]) == 50
    assert {"partition": answer["partition"], "offset": answer["offset"]}.items() <= answer["results"][0].items()
    for number in range(4):
        for event in stored(hub, "r", number):
            assert partition_of(event.key, 4) == number
            assert event.value == b'{"m":"%b"}' % event.key
    again = client.post("/v1/hubs/r/events?partition=0", content=b"[1,2]", headers=JSON).json()
    before = sum(row["count"] for row in answer["results"] if row["partition"] == 0)
    assert again["results"] == [{"partition": 0, "offset": before, "count": 2}]


@pytest.mark.parametrize("how", ["query", "header", "cloudevent"])
def test_a_key_chooses_the_partition(hub, client, how):
    key = "m-0042 ä"
    headers, params = {}, {}
    if how == "query":
        params = {"key": key}
    elif how == "header":
        headers = {"x-gridwire-key": key.encode()}
    else:
        headers = {"ce-id": "1", "ce-source": "/s", "ce-type": "t", "ce-specversion": "1.0"}
        headers["ce-subject"] = "m-0042%20%C3%A4"
    answer = client.post("/v1/hubs/r/events", content=b"x", headers=headers, params=params)
    assert answer.json()["partition"] == partition_of(key.encode(), 4)
    [event] = everything(hub, "r")
    assert event.key == key.encode()


def test_headers_come_in_the_query(hub, client):
    answer = client.post("/v1/hubs/r/events", params={"header.unit": "kW", "header.ß": "x"}, json=[1, 2])
    assert answer.status_code == 200
    path = f"/v1/hubs/r/events?partition={answer.json()['partition']}"
    assert [event["headers"] for event in client.get(path).json()["events"]] == [{"unit": "kW", "ß": "x"}] * 2
    for bad in ("header.", "header.%FF", "header.%00"):
        refused = client.post(f"/v1/hubs/r/events?{bad}=1", json=1)
        assert (refused.status_code, "printable" in refused.json()["detail"]) == (400, True)


def test_without_a_key_requests_take_turns(client):
    places = [client.post("/v1/hubs/r/events", content=b"[1,2]", headers=JSON).json() for _ in range(8)]
    assert [len(place["results"]) for place in places] == [1] * 8
    assert sorted(place["partition"] for place in places) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_cloudevents_time_is_the_timestamp(hub, client):
    body = b'{"specversion":"1.0","id":"1","source":"/s","type":"t","time":"2026-01-01T00:00:00Z","data":{"a":1}}'
    client.post("/v1/hubs/r/events", content=body, headers={"content-type": "application/cloudevents+json"})
    client.post(
        "/v1/hubs/r/events", content=b"[" + body + b"]", headers={"content-type": "application/cloudevents-batch+json"}
    )
    assert [event.timestamp for event in everything(hub, "r")] == [1_767_225_600_000] * 2


def test_nothing_of_a_bad_request_is_stored(hub, client):
    lines = b"\n".join([b"1"] * 5000) + b"\nbad\n"
    problem(client.post("/v1/hubs/r/events", content=lines, headers=NDJSON), 400, "line 5001 is not JSON")
    assert [info.name for info in hub.broker.hubs() if not info.internal] == []


def test_large_requests_become_several_batches_in_order(hub, client):
    numbers = list(range(5000))
    body = b"\n".join(b"%d" % number for number in numbers)
    answer = client.post("/v1/hubs/r/events?partition=1", content=body, headers=NDJSON).json()
    assert answer["results"] == [{"partition": 1, "offset": 0, "count": 5000}]
    assert [int(event.value) for event in stored(hub, "r", 1)] == numbers


def test_batches_stay_below_the_hubs_own_limit(hub, client):
    client.post("/v1/hubs", json={"name": "small", "partitions": 1, "settings": {"message_bytes_max": 2048}})
    body = b"\n".join(b'"%s"' % (b"x" * 300) for _ in range(50))
    assert client.post("/v1/hubs/small/events", content=body, headers=NDJSON).json()["count"] == 50
    problem(client.post("/v1/hubs/small/events", content=b"x" * 3000), 413, "message_bytes_max")


def test_joined_runs():
    runs = [Run(0, 0, 2), Run(0, 2, 3), Run(0, 9, 1), Run(1, 10, 1)]
    assert joined(runs) == [Run(0, 0, 5), Run(0, 9, 1), Run(1, 10, 1)]


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("zstd", lambda data: bytes(cramjam.zstd.compress(data))),
        ("identity", bytes),
    ],
)
def test_content_encoding(hub, client, encoding, pack):
    answer = client.post("/v1/hubs/r/events", content=pack(b"[1,2]"), headers={**JSON, "content-encoding": encoding})
    assert answer.json()["count"] == 2
    assert [event.value for event in everything(hub, "r")] == [b"1", b"2"]


def test_bad_encodings(client):
    url = "/v1/hubs/r/events"
    problem(client.post(url, content=b"x", headers={"content-encoding": "br"}), 415, "'br' is not served")
    problem(client.post(url, content=b"x", headers={"content-encoding": "gzip"}), 400, "not what")
    problem(client.post(url, content=b"", headers={"content-encoding": "zstd"}), 400, "")


def test_decompression_bombs_are_refused_and_cost_nothing_later(http_hub):
    hub = http_hub(limits=HttpLimits(body_bytes_max=200_000, body_bytes_in_flight_max=250_000))
    url = hub.url + "/v1/hubs/r/events"
    for pack, name in ((gzip.compress, "gzip"), (lambda data: bytes(cramjam.zstd.compress(data)), "zstd")):
        for _ in range(3):
            answer = httpx.post(url, content=pack(b"0" * 5_000_000), headers={"content-encoding": name})
            problem(answer, 413, "decompresses to more than 200000")
            assert body_memory(hub) == 0
    assert (
        httpx.post(url, content=gzip.compress(b"0" * 199_999), headers={"content-encoding": "gzip"}).status_code == 200
    )


def test_body_limit_by_length_and_by_count(http_hub):
    hub = http_hub(limits=HttpLimits(body_bytes_max=1000))
    url = hub.url + "/v1/hubs/r/events"
    assert httpx.post(url, content=b"x" * 1000).status_code == 200
    problem(httpx.post(url, content=b"x" * 1001), 413, "above the limit of 1000")
    problem(httpx.post(url, content=iter([b"x" * 600, b"x" * 600])), 413, "above the limit of 1000")
    with httpx.Client(base_url=hub.url) as client:  # the same connection goes on after a refusal
        problem(client.post("/v1/hubs/r/events", content=b"x" * 300_000), 413, "above the limit")
        assert client.post("/v1/hubs/r/events", content=b"x").status_code == 200


def body_memory(hub):
    """Bytes of bodies the hub believes to hold."""
    return hub.head._app._ingest._memory.taken


def test_bodies_in_flight_are_bounded(http_hub):
    hub = http_hub(limits=HttpLimits(body_bytes_in_flight_max=1000))
    url = hub.url + "/v1/hubs/r/events"
    for _ in range(3):
        answer = httpx.post(url, content=b"x" * 1001)
        problem(answer, 429, "try again")
        assert answer.headers["retry-after"] == "1"
    for _ in range(3):
        assert httpx.post(url, content=b"x" * 999).status_code == 200


def talk(hub, data, timeout_s=10):
    """Send bytes on a connection of its own; everything that comes back until the hub closes it."""
    with socket.create_connection(("127.0.0.1", hub.head.port), timeout_s) as peer:
        peer.sendall(data)
        out = b""
        while chunk := peer.recv(65536):
            out += chunk
        return out


HEAD = b"POST /v1/hubs/r/events HTTP/1.1\r\nhost: localhost\r\n"


def test_slow_bodies_time_out(http_hub):
    hub = http_hub(limits=HttpLimits(body_idle_s=0.2))
    answer = talk(hub, HEAD + b"content-length: 10\r\n\r\nabc")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer
    assert body_memory(hub) == 0


def test_dripping_bodies_time_out(http_hub):
    hub = http_hub(limits=HttpLimits(body_idle_s=5, body_total_s=0.5))
    with socket.create_connection(("127.0.0.1", hub.head.port), 10) as peer:
        peer.sendall(HEAD + b"content-length: 1000\r\n\r\n")
        peer.settimeout(0.05)
        started = time.monotonic()
        answer = b""
        while not answer and time.monotonic() - started < 4:
            try:
                answer = peer.recv(65536)
            except TimeoutError:
                peer.sendall(b"x")
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_slow_heads_are_cut_off_and_idle_connections_are_not(http_hub):
    hub = http_hub(limits=HttpLimits(head_timeout_s=0.3))
    assert talk(hub, b"GET /healthz HT") == b""
    assert talk(hub, b"") == b""
    with httpx.Client(base_url=hub.url) as client:
        assert client.get("/healthz").status_code == 200
        port = local_port(client)
        asyncio.run(asyncio.sleep(0.6))  # longer than a head may take: the connection lies idle, which it may
        assert client.get("/healthz").status_code == 200
        assert local_port(client) == port


def local_port(client):
    [connection] = client._transport._pool.connections
    return connection._connection._network_stream.get_extra_info("client_addr")[1]


def test_large_heads_are_refused(http_hub):
    hub = http_hub(limits=HttpLimits(head_bytes_max=10_000))
    answer = talk(hub, b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-long: " + b"x" * 20_000)
    assert answer.startswith(b"HTTP/1.1 431 ")


def test_large_bodies_do_not_count_as_heads(http_hub):
    hub = http_hub(limits=HttpLimits(head_bytes_max=10_000))
    with httpx.Client(base_url=hub.url) as client:
        for _ in range(3):
            assert client.post("/v1/hubs/r/events", content=b"x" * 500_000).status_code == 200


def test_a_refused_body_that_never_ends_is_cut_off(http_hub):
    hub = http_hub(limits=HttpLimits(body_bytes_max=1000, discard_bytes_max=100_000))
    with socket.create_connection(("127.0.0.1", hub.head.port), 10) as peer:
        peer.sendall(HEAD + b"content-length: 10000000000\r\n\r\n")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for _ in range(1000):
                peer.sendall(b"x" * 65536)


def test_too_many_connections_are_closed(http_hub):
    hub = http_hub(limits=HttpLimits(connections_max=2))
    first = [socket.create_connection(("127.0.0.1", hub.head.port), 10) for _ in range(2)]
    deadline = time.monotonic() + 10
    while hub.head.counters.connections < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    with socket.create_connection(("127.0.0.1", hub.head.port), 10) as third:
        try:
            assert third.recv(1) == b""
        except ConnectionResetError:
            pass
    for peer in first:
        peer.close()


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/v1/hubs/__control/events", 403, "platform's own"),
        ("/v1/hubs/__mine/events", 403, "platform's own"),
        ("/v1/hubs/a%2Fb/events", 400, "not allowed"),
        ("/v1/hubs/../events", 400, "not allowed"),
        ("/v1/hubs/%00/events", 400, "not allowed"),
        ("/v1/hubs/" + "x" * 300 + "/events", 400, "not allowed"),
        ("/v1/hubs//events", 404, "nothing is at"),
        ("/v1/hubs/r/events?partition=x", 400, "whole number"),
        ("/v1/hubs/r/events?partition=4", 404, "partitions 0 to 3"),
        ("/v1/hubs/r/events?partition=-1", 404, "partitions 0 to 3"),
        ("/v1/hubs/r/events?" + "a=1&" * 40, 400, "32 query parameters"),
    ],
)
def test_refused_addresses(hub, path, status, reason):
    target = path.encode()
    answer = talk(
        hub, b"POST " + target + b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx"
    )
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert reason.encode() in answer


def test_auto_create_is_a_choice(http_hub):
    hub = http_hub(auto_create=False)
    url = hub.url + "/v1/hubs/r/events"
    problem(httpx.post(url, content=b"x"), 404, "gridwire hub create")
    assert httpx.post(hub.url + "/v1/hubs", json={"name": "r"}).status_code == 201
    assert httpx.post(url, content=b"x").status_code == 200


def test_many_first_requests_create_the_hub_once(hub):
    async def race():
        async with httpx.AsyncClient(base_url=hub.url) as client:
            return await asyncio.gather(*(client.post("/v1/hubs/new/events", content=b"x") for _ in range(20)))

    assert [answer.status_code for answer in asyncio.run(race())] == [200] * 20
    assert len(everything(hub, "new")) == 20


@pytest.mark.parametrize(("error", "status"), [(StorageFailed("EIO"), 503), (DiskFull("no space"), 507)])
def test_a_failing_disk_is_told_and_never_acknowledged(hub, client, error, status, monkeypatch):
    client.post("/v1/hubs", json={"name": "r"})

    def refuse(*_):
        future = hub.loop.create_future()
        future.set_exception(error)
        return future

    monkeypatch.setattr(hub.broker, "append", refuse)
    problem(client.post("/v1/hubs/r/events", content=b"x"), status, str(error))


def test_client_that_hangs_up_inside_its_body(hub):
    with socket.create_connection(("127.0.0.1", hub.head.port), 10) as peer:
        peer.sendall(HEAD + b"content-length: 10\r\n\r\nabc")
    deadline = time.monotonic() + 10
    while hub.head.counters.requests["events", 499] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert hub.head.counters.requests["events", 499] == 1
    assert body_memory(hub) == 0
    assert [info.name for info in hub.broker.hubs() if not info.internal] == []


def test_counters(hub, client):
    client.post("/v1/hubs/r/events", content=b"[1,2,3]", headers=JSON)
    client.post("/v1/hubs/r/events", content=b"[", headers=JSON)
    counters = hub.head.counters
    assert counters.requests == {("events", 200): 1, ("events", 400): 1}
    assert counters.problems == {"malformed-body": 1}
    assert (counters.events_received, counters.bytes_received, counters.batches_appended) == (3, 7, 1)
    assert sum(counters.append_buckets) == 1


def test_a_refusal_before_the_body_was_asked_for_closes_the_connection(hub):
    """The client may now send the body or not: what came next on this connection could not be told from a request."""
    head = b"POST /v1/hubs/__x/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n"
    answer = talk(hub, head)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"connection: close" in answer


def test_continue_is_sent_when_the_body_is_wanted(hub):
    with socket.create_connection(("127.0.0.1", hub.head.port), 10) as peer:
        peer.sendall(HEAD + b"content-length: 1\r\nconnection: close\r\nexpect: 100-continue\r\n\r\n")
        assert peer.recv(100).startswith(b"HTTP/1.1 100 ")
        peer.sendall(b"x")
        assert peer.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_an_empty_answer_has_no_length(hub, client):
    client.post("/v1/hubs", json={"name": "r"})
    assert "content-length" not in client.delete("/v1/hubs/r").headers
