"""Event Hubs' HTTP send API: what becomes of bodies, properties, keys and publishers, and what is refused."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET

import httpx
import pytest

from gridwire.auth import sas
from gridwire.broker.identities import Identities
from gridwire.core.batch import decode
from gridwire.core.clock import SystemClock
from gridwire.wire.http import eventhubs
from gridwire.wire.http.problems import BadBody

BATCH = {"content-type": eventhubs.BATCH}


@pytest.fixture
def hub(http_hub):
    hub = http_hub()
    hub.run(hub.broker.create_hub("readings", 4))
    return hub


@pytest.fixture
def client(hub):
    with httpx.Client(base_url=hub.url, trust_env=False) as client:
        yield client


def stored(hub, name="readings"):
    """(partition, event) of everything in a hub."""

    async def read():
        found = []
        for partition in range(hub.broker.hub(name).partitions):
            data = (await hub.broker.read(name, partition, 0, 1 << 20)).data
            at = 0
            while at < len(data):
                found += [(partition, event) for event in decode(data, at)]
                at += 12 + int.from_bytes(data[at + 8 : at + 12], "big")
        return found

    return hub.run(read())


def refused(answer, status, reason):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/xml; charset=utf-8"
    error = ET.fromstring(answer.text)
    assert (error.tag, error.findtext("Code")) == ("Error", str(status))
    assert reason in (error.findtext("Detail") or "")


def test_one_event_with_key_and_properties(hub, client):
    answer = client.post(
        "/readings/messages?timeout=60&api-version=2014-01",
        content=b'{"kw": 3.2}',
        headers={
            "content-type": "application/atom+xml;type=entry;charset=utf-8",
            "brokerproperties": '{"PartitionKey": "m-0042", "CorrelationId": "c1"}',
            "alert": '"Strong Wind"',
            "level": "3",
            "x-ms-retrypolicy": "NoRetry",
        },
    )
    assert (answer.status_code, answer.content) == (201, b"")
    [(_, event)] = stored(hub)
    assert (event.key, event.value) == (b"m-0042", b'{"kw": 3.2}')
    assert sorted(event.headers) == [("alert", b"Strong Wind"), ("correlation-id", b"c1"), ("level", b"3")]


def test_a_chosen_content_type_is_kept(hub, client):
    assert client.post("/readings/messages", json={"kw": 1}).status_code == 201
    [(_, event)] = stored(hub)
    assert event.headers == (("content-type", b"application/json"),)


def test_batch(hub, client):
    messages = [
        {"Body": "one", "UserProperties": {"n": 1, "ok": True, "x": None}, "BrokerProperties": {"PartitionKey": "k"}},
        {"Body": "dHdv", "IsBodyBase64": True, "BrokerProperties": {"PartitionKey": "k"}},
        {"Body": "dr\u00ed"},
    ]
    assert client.post("/readings/messages", json=messages, headers=BATCH).status_code == 201
    found = stored(hub)
    assert {event.value for _, event in found} == {b"one", b"two", "dr\u00ed".encode()}
    keyed = [(partition, event.value) for partition, event in found if event.key == b"k"]
    assert len({partition for partition, _ in keyed}) == 1
    assert [value for _, value in keyed] == [b"one", b"two"]
    [first] = [event for _, event in found if event.value == b"one"]
    assert first.headers == (("n", b"1"), ("ok", b"true"), ("x", None))


def test_to_a_partition_and_as_a_publisher(hub, client):
    assert client.post("/readings/partitions/3/messages", content=b"x").status_code == 201
    assert client.post("/readings/publishers/meter-7/messages", content=b"y").status_code == 201
    found = {event.value: (partition, event) for partition, event in stored(hub)}
    assert found[b"x"][0] == 3
    assert found[b"y"][1].key == b"meter-7"
    assert ("x-opt-publisher", b"meter-7") in found[b"y"][1].headers


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "reason"),
    [
        ("/nowhere/messages", "x", {}, 404, "nowhere"),
        ("/__audit/messages", "x", {}, 403, "platform"),
        ("/a%20b/messages", "x", {}, 400, "not allowed"),
        ("/readings/partitions/4/messages", "x", {}, 404, "0 to 3"),
        ("/readings/partitions/one/messages", "x", {}, 400, "whole number"),
        ("/readings/partitions/1/messages", "x", {"brokerproperties": '{"PartitionKey":"k"}'}, 400, "PartitionKey"),
        ("/readings/publishers/p/messages", "x", {"brokerproperties": '{"PartitionKey":"k"}'}, 400, "publisher"),
        ("/readings/messages", "x", {"brokerproperties": "[]"}, 400, "JSON object"),
        ("/readings/messages", "x", {"brokerproperties": '{"PartitionKey":1}'}, 400, "not text"),
        ("/readings/messages", "[]", BATCH, 400, "empty"),
        ("/readings/messages", "{", BATCH, 400, "batch"),
        ("/readings/messages", '[{"Body":1}]', BATCH, 400, "$[0].Body"),
        ("/readings/messages", '[{"Body":"?","IsBodyBase64":true}]', BATCH, 400, "message 0"),
        ("/readings/messages", '[{"Body":"x","UserProperties":{"a":[]}}]', BATCH, 400, "message 0"),
    ],
)
def test_what_is_refused_is_refused_whole_and_in_xml(hub, client, path, body, headers, status, reason):
    refused(client.post(path, content=body, headers=headers), status, reason)
    assert stored(hub) == []


def test_get_is_refused(client):
    refused(client.get("/readings/messages"), 405, "POST")


@pytest.mark.parametrize("body", [b"", b"\xff", b'[{"Body":"\xff"}]', b"[" * 100_000, b'[{"Body":"x"}' * 3])
def test_any_batch_gives_events_or_a_bad_body(body):
    with pytest.raises(BadBody):
        eventhubs.parse(eventhubs.BATCH, [], body, 1)


def test_tokens(http_hub, tmp_path):
    hub = http_hub()

    async def with_keys():
        access = Identities(hub.broker, tmp_path, SystemClock())
        await access.open()
        made = await access.create_policy("test", "meters", ["Send"], "readings")
        await hub.broker.create_hub("readings", 1)
        return access, made["primary_key"]

    access, key = hub.run(with_keys())
    from gridwire.heads.http.server import HttpHead

    head = HttpHead(hub.broker, hub.membership, status=lambda: hub.status, port=0, access=access)
    hub.run(head.start())
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{head.port}", trust_env=False) as client:

            def send(resource, path="/readings/messages", scheme="", lives_s=60):
                token = sas.sign(resource, "meters", key, int(time.time()) + lives_s)
                return client.post(path, content=b"x", headers={"authorization": scheme + token})

            refused(client.post("/readings/messages", content=b"x"), 401, "sign in")
            refused(send("sb://any.example/readings", lives_s=-1), 401, "time is up")
            assert send("sb://any.example/readings").status_code == 201
            assert send("https://any.example/readings", scheme="Bearer ").status_code == 201
            refused(send("sb://any.example/others"), 403, "Send")
            one = "sb://any.example/readings/publishers/meter-7"
            assert send(one, "/readings/publishers/meter-7/messages").status_code == 201
            refused(send(one, "/readings/publishers/meter-8/messages"), 401, "publisher")
            refused(send(one), 401, "publisher")
            assert send(one, "/v1/hubs/readings/events").status_code == 401
    finally:
        hub.run(head.stop())
    assert len(stored(hub)) == 3
