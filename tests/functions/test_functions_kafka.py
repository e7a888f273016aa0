"""A function on a real Apache Kafka: members share partitions, a poison event is a dead letter, effects once."""

from __future__ import annotations

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
