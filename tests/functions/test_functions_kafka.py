"""A function on a real Apache Kafka: members share partitions, a poison event is a dead letter, effects once."""

from __future__ import annotations

import urllib.request
import uuid
from functools import partial
from typing import Any

import pytest

from event_hubs import SESSION_S, KafkaHubs
from gridwire.broker.kafka_source import KafkaSource

APP = """
import azure.functions as func
app = func.FunctionApp()

@app.event_hub_message_trigger(arg_name="events", event_hub_name="in", connection="C", cardinality="many")
@app.event_hub_output(arg_name="$return", event_hub_name="out", connection="C")
def f(events) -> list:
    if any(event.get_body() == b"poison" for event in events):
        raise ValueError("poison")
    return [event.get_body() for event in events]
"""


@pytest.fixture
def kafka_hubs(kafka: Any) -> KafkaHubs:
    made = KafkaHubs(kafka.url)
    made.create("in")
    made.create("out")
    return made


def test_two_hosts_share_a_function_on_kafka(kafka_hubs, run_app, until):
    opener = partial(KafkaSource, kafka_hubs.address, session_s=SESSION_S, topics_s=0.3)
    first = run_app(APP, opener=opener)
    until(lambda: first.host.streams[0].places >= 2)
    second = run_app(APP, opener=opener)
    until(lambda: all(app.host.streams[0].places == 1 for app in (first, second)), "each has a partition")
    kafka_hubs.append("in", 0, b"a", b"poison", b"b")
    kafka_hubs.append("in", 1, b"c")

    def out():
        return sorted([*kafka_hubs.values("out", 0), *kafka_hubs.values("out", 1)])

    until(lambda: len(out()) >= 3)
    second.stop()
    until(lambda: first.host.streams[0].places >= 2, "the one that stays has both")
    kafka_hubs.append("in", 0, b"d")
    kafka_hubs.append("in", 1, b"e")
    until(lambda: len(out()) >= 5)
    assert out() == [b"a", b"b", b"c", b"d", b"e"]
    assert kafka_hubs.values("dlq.app.f", 0) == [b"poison"]


def test_an_app_deployed_through_one_gateway_runs_on_both(kafka, start_hub, write_app, until, tmp_path):
    prefix = f"t{uuid.uuid4().hex[:12]}."
    flags = ("--broker", kafka.url, "--broker-prefix", prefix, "--amqp-port", "off")
    one, two = (start_hub(*flags, data=tmp_path / name, kafka_port="off") for name in ("one", "two"))
    one.cli("hub", "create", "in", "--partitions", "2")
    one.cli("hub", "create", "out", "--partitions", "1")
    assert "version 1 is running" in one.cli("fn", "deploy", str(write_app(APP))).stdout
    until(lambda: [row["state"] for row in two.get("/v1/functions")["apps"]] == ["running"])
    for number in range(6):
        body = f"e{number}".encode()
        request = urllib.request.Request(f"{one.http}/v1/hubs/in/events", body, {"content-type": "text/plain"})
        urllib.request.urlopen(request, timeout=60).close()

    def out():
        return sorted(e["value"] for e in one.get("/v1/hubs/out/events?partition=0&offset=0&limit=100")["events"])

    until(lambda: len(out()) >= 6)
    assert out() == [f"e{number}" for number in range(6)]
    assert two.cli("fn", "invoke", "app", "f", "tried").stdout.startswith("out  tried\n1 events")
    two.cli("fn", "remove", "app")
    until(lambda: one.get("/v1/functions") == {"apps": []})
