"""W3C trace context from an event to the function and on to its outputs, over Kafka's protocol and AMQP."""

from __future__ import annotations

import json
from functools import partial

import confluent_kafka as ck
import pytest
from azure.eventhub import EventData, EventHubConsumerClient, EventHubProducerClient

from gridwire.broker.local import LocalSource
from gridwire.functions.context import trace_in

APP = """
import azure.functions as func
app = func.FunctionApp()

@app.event_hub_message_trigger(arg_name="event", event_hub_name="in", connection="C", cardinality="one")
@app.event_hub_output(arg_name="$return", event_hub_name="out", connection="C")
def f(event: func.EventHubEvent, context: func.Context) -> str:
    return event.get_body().decode() + " " + context.trace_context.trace_parent
"""

TRACES = [f"{number:032x}" for number in range(1, 6)]
SPAN = "b7ad6b7169203331"
DEADLINE_S = 60.0


def parent(trace: str) -> str:
    return f"00-{trace}-{SPAN}-01"


@pytest.fixture
def served(start_hub, tmp_path):
    hub = start_hub("--no-workers", data=tmp_path / "served")
    for name in ("in", "out"):
        hub.cli("hub", "create", name, "--partitions", "1")
    return hub


def send(served) -> None:
    """An event of each kind, and one without a trace between them."""
    producer = ck.Producer({"bootstrap.servers": served.kafka})
    sent = [
        ("kafka", [("traceparent", parent(TRACES[0]).encode()), ("tracestate", b"a=1")]),
        ("none", []),
        ("cloud", [("ce_specversion", b"1.0"), ("ce_traceparent", parent(TRACES[1]).encode())]),
    ]
    for value, headers in sent:
        producer.produce("in", value, headers=headers)
    assert producer.flush(DEADLINE_S) == 0
    with EventHubProducerClient.from_connection_string(connection(served), eventhub_name="in") as client:
        batch = client.create_batch()
        names = {"amqp": "traceparent", "older": "Diagnostic-Id", "cloud-amqp": "cloudEvents:traceparent"}
        for (value, name), trace in zip(names.items(), TRACES[2:], strict=True):
            event = EventData(value)
            event.properties = {name: parent(trace)}
            batch.add(event)
        client.send_batch(batch)


def connection(served) -> str:
    address = served.amqp.removeprefix("amqp://")
    return f"Endpoint=sb://{address};SharedAccessKeyName=a;SharedAccessKey=b;UseDevelopmentEmulator=true;"


def read_kafka(served, count: int) -> list[tuple[str, dict[str, str]]]:
    consumer = ck.Consumer({"bootstrap.servers": served.kafka, "group.id": "t", "auto.offset.reset": "earliest"})
    consumer.subscribe(["out"])
    found = []
    while len(found) < count:
        message = consumer.poll(DEADLINE_S)
        assert message is not None
        assert message.error() is None
        found.append((message.value().decode(), {k: v.decode() for k, v in message.headers() or []}))
    consumer.close()
    return found


def read_amqp(served, count: int) -> list[tuple[str, dict[str, str]]]:
    found: list[tuple[str, dict[str, str]]] = []
    client = EventHubConsumerClient.from_connection_string(
        connection(served), "$Default", eventhub_name="out", load_balancing_interval=1.0
    )

    def take(_, event):
        if event is not None:
            properties = {_text(name): _text(value) for name, value in (event.properties or {}).items()}
            found.append((event.body_as_str(), properties))
        if len(found) >= count:
            client.close()

    with client:
        client.receive(take, starting_position="-1", max_wait_time=0.5)
    return found


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else value


def test_a_trace_goes_from_event_to_function_to_output_on_both_protocols(served, run_app):
    send(served)
    run_app(APP, opener=partial(LocalSource, served.data))
    outputs = read_kafka(served, 6)
    told = dict(line.split(" ") for line, _ in outputs)
    for value, trace in zip(("kafka", "cloud", "amqp", "older", "cloud-amqp"), TRACES, strict=True):
        version, found, span, flags = told[value].split("-")
        assert (version, found, flags) == ("00", trace, "01"), value
        assert span != SPAN, "the call's span is its own"
    spans = [line.split("-")[-2] for line in told.values()]
    assert len(set(spans)) == len(spans), "each call has one"
    for line, headers in outputs:
        value, inside = line.split(" ")
        assert headers.get("traceparent") == (None if value == "none" else inside), "outputs name the call as parent"
        assert headers.get("tracestate") == ("a=1" if value == "kafka" else None)
    for line, properties in read_amqp(served, 6):
        value, inside = line.split(" ")
        assert properties.get("traceparent") == (None if value == "none" else inside), json.dumps(properties)


def test_what_is_no_trace_is_none():
    assert trace_in(()) == ("", "")
    assert trace_in((("tracestate", b"a=1"),)) == ("", "")
    assert trace_in((("traceparent", None), ("ce_traceparent", b"x"))) == ("x", "")
    assert len(trace_in((("traceparent", b"x" * 100_000),))[0]) == 4096
