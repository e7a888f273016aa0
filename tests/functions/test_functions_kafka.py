"""Functions on a real Apache Kafka: members share partitions, one of them keeps the timers, effects happen once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
import uuid
from functools import partial
from typing import Any

import httpx
import pytest
from confluent_kafka import Producer

from event_hubs import SESSION_S, KafkaHubs
from gridwire.broker.kafka_source import KafkaSource
from gridwire.functions import saved
from gridwire.functions.replay import Range, replay

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


LEASE_SESSION_S = 8.0
"""A host on a busy machine must not lose its lease before it is killed."""

SINGLE = """
import json, os
import azure.functions as func
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

@app.route(route="put", methods=["POST"])
@app.kafka_output(arg_name="out", topic="put", broker_list="B")
def put(req: func.HttpRequest, out: func.Out[str]) -> str:
    out.set(req.get_body().decode())
    return "done"

@app.event_grid_trigger(arg_name="event")
@app.event_hub_output(arg_name="$return", event_hub_name="put", connection="C")
def grid(event: func.EventGridEvent) -> str:
    return event.subject

@app.timer_trigger(arg_name="timer", schedule="* * * * * *")
@app.event_hub_output(arg_name="$return", event_hub_name="ticks", connection="C")
def tick(timer: func.TimerRequest) -> str:
    return json.dumps({"at": timer.schedule_status["Next"], "host": os.getppid()})
"""

HOST = """
import asyncio, sys
from functools import partial
from pathlib import Path
from gridwire.broker.kafka_address import KafkaAddress
from gridwire.broker.kafka_source import KafkaSource
from gridwire.functions.host import Host, HostOptions

directory, state, url, prefix, session_s = sys.argv[1:]
opener = partial(KafkaSource, KafkaAddress.parse(url, prefix=prefix), session_s=float(session_s), topics_s=0.3)
host = Host("app", Path(directory), opener, HostOptions(Path(state), port=0, workers_max=1))
host.learn()
asyncio.run(host.serve(asyncio.Event()))
"""


def ticks(kafka_hubs: KafkaHubs) -> list[dict[str, Any]]:
    return [json.loads(value or b"") for partition in range(2) for value in kafka_hubs.values("ticks", partition)]


def test_a_timer_fires_once_an_app_and_another_host_takes_over(kafka, kafka_hubs, run_app, write_app, until, tmp_path):
    kafka_hubs.create("ticks")
    kafka_hubs.create("put", 1)
    opener = partial(KafkaSource, kafka_hubs.address, session_s=LEASE_SESSION_S, topics_s=0.3)
    arguments = [
        str(write_app(SINGLE)),
        str(tmp_path / "first"),
        kafka.url,
        kafka_hubs.address.prefix,
        str(LEASE_SESSION_S),
    ]
    owner = subprocess.Popen([sys.executable, "-c", HOST, *arguments], stderr=subprocess.DEVNULL)
    try:
        until(lambda: ticks(kafka_hubs), "the first host keeps the timer")
        second = run_app(SINGLE, opener=opener)
        until(lambda: second.host._lease is not None)
        with httpx.Client(base_url=second.url, timeout=60) as client:  # needs no lease
            assert client.post("/api/put", content=b"a").text == "done"
            event = {"id": "1", "subject": "b", "eventType": "e", "eventTime": "2026-01-01T00:00:00Z", "topic": "t",
                     "data": {}, "dataVersion": "1"}  # fmt: skip
            hook = "/runtime/webhooks/EventGrid?functionName=grid"
            assert client.post(hook, json=[event]).status_code == 202
        assert kafka_hubs.values("put", 0) == [b"a", b"b"], "durable before the answer"
        known = len(ticks(kafka_hubs))
        until(lambda: len(ticks(kafka_hubs)) >= known + 2)
        # A lease may move while both live; that no time comes twice is what counts.
        assert {tick["host"] for tick in ticks(kafka_hubs)} <= {owner.pid, os.getpid()}
        owner.send_signal(signal.SIGKILL)
        until(lambda: {tick["host"] for tick in ticks(kafka_hubs)} == {owner.pid, os.getpid()}, "taken over")
    finally:
        owner.kill()
        owner.wait(60)
    until(lambda: sum(tick["host"] == os.getpid() for tick in ticks(kafka_hubs)) >= 2)
    times = [tick["at"] for tick in ticks(kafka_hubs)]
    assert len(times) == len(set(times)), "no time twice"


def test_negative_control_without_a_common_lease_a_timer_fires_for_each(kafka_hubs, run_app, until):
    kafka_hubs.create("ticks")
    opener = partial(KafkaSource, kafka_hubs.address, session_s=SESSION_S, topics_s=0.3)
    for name in ("one", "two"):  # another app name is another lease
        run_app(SINGLE, opener=opener, name=name)

    def twice() -> bool:
        times = [tick["at"] for tick in ticks(kafka_hubs)]
        return len(times) > len(set(times))

    until(twice)


def test_a_range_in_time_is_replayed(kafka_hubs, write_app, tmp_path):
    producer = Producer({"bootstrap.servers": kafka_hubs.address.bootstrap})
    for second in range(10):
        producer.produce(
            kafka_hubs.address.topic("in"),
            b"%d" % second,
            partition=second % 2,
            timestamp=1_700_000_000_000 + second * 1000,
        )
    assert producer.flush(60) == 0
    opener = partial(KafkaSource, kafka_hubs.address, session_s=SESSION_S, topics_s=0.3)
    wanted = Range.parse("2023-11-14T22:13:22Z", "2023-11-14T22:13:25Z")  # seconds 2, 3 and 4
    with saved.opened(write_app(APP), tmp_path / "blobs", (tmp_path / "log").open("ab")) as (app, pool):
        function = saved.stream_of(app, "f")
        summary = replay("app", function, opener, pool, wanted, threading.Event(), publish=True)
    assert (summary.complete, summary.events, summary.offsets) == (True, 3, 8), "nothing before the time is read"
    assert sorted([*kafka_hubs.values("out", 0), *kafka_hubs.values("out", 1)]) == [b"2", b"3", b"4"]
