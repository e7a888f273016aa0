"""Where a function begins that has never read its hub: host.json's initialOffsetOptions and autoOffsetReset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from event_hubs import EmbeddedHubs, KafkaHubs
from gridwire.core.hubs import again_of

APP = """
import azure.functions as func
app = func.FunctionApp()

@app.event_hub_message_trigger(arg_name="event", event_hub_name="in", connection="C")
@app.event_hub_output(arg_name="$return", event_hub_name="out", connection="C")
def f(event: func.EventHubEvent) -> str:
    return event.get_body().decode()
"""

KAFKA_APP = """
import azure.functions as func
app = func.FunctionApp()

@app.kafka_trigger(arg_name="event", topic="in", broker_list="B", data_type="binary")
@app.event_hub_output(arg_name="$return", event_hub_name="out", connection="C")
def f(event: func.KafkaEvent) -> str:
    return event.get_body().decode()
"""

FROM_END = {"extensions": {"eventHubs": {"initialOffsetOptions": {"type": "fromEnd"}}}}


@pytest.fixture(params=["embedded", "kafka"])
def hubs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedHubs | KafkaHubs]:
    embedded = request.param == "embedded"
    made = EmbeddedHubs(tmp_path / "hubs") if embedded else KafkaHubs(request.getfixturevalue("kafka").url)
    made.create("out", 1)
    yield made
    made.close()


@pytest.fixture
def start(hubs: Any, run_app: Callable[..., Any], until: Callable[..., Any]) -> Callable[..., Any]:
    """Run the app until it has so many partitions."""

    def run(code: str, host: Any, places: int) -> Any:
        app = run_app(code, host=host, opener=hubs.open)
        until(lambda: app.host.streams[0].places >= places, "the function has its partitions")
        return app

    return run


def outputs(hubs: Any) -> list[bytes]:
    return sorted(hubs.values("out", 0))


@pytest.mark.parametrize(
    ("code", "host"), [(APP, FROM_END), (KAFKA_APP, {"extensions": {"kafka": {"AutoOffsetReset": "Latest"}}})]
)
def test_from_the_end_nothing_is_passed_over_after_the_start(hubs, start, until, code, host):
    hubs.create("in")
    hubs.append("in", 0, b"before")
    first = start(code, host, 2)
    first.stop()
    hubs.append("in", 0, b"while it was down")
    hubs.append("in", 1, b"as well")
    start(code, host, 2)
    hubs.append("in", 1, b"after")
    until(lambda: len(outputs(hubs)) >= 3)
    assert outputs(hubs) == [b"after", b"as well", b"while it was down"]


def test_from_the_end_dead_letters_that_come_again_are_all_taken(hubs, start, until):
    hubs.create("in", 1)
    hubs.append("in", 0, b"before")
    start(APP, FROM_END, 1).stop()
    hubs.create(again_of("app", "f"), 1)
    hubs.append(again_of("app", "f"), 0, b"again")
    start(APP, FROM_END, 2)
    until(lambda: outputs(hubs) == [b"again"])


def test_from_the_end_of_a_hub_that_is_not_there_yet(hubs, start, until):
    stream = start(APP, FROM_END, 0).host.streams[0]
    until(lambda: stream.start_ms is None, "it has seen that the hub is not there")
    hubs.create("in", 1)
    hubs.append("in", 0, b"first")
    until(lambda: outputs(hubs) == [b"first"])


def test_from_a_time(hubs, start, until):
    hubs.create("in", 1)
    moment = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    for number, seconds in enumerate((-1, 0, 1)):
        hubs.append("in", 0, b"%d" % number, timestamp_ms=round(moment.timestamp() * 1000) + seconds * 1000)
    options = {"type": "FromEnqueuedTime", "enqueuedTimeUtc": moment.strftime("%Y-%m-%dT%H:%M:%SZ")}
    start(APP, {"extensions": {"eventHubs": {"initialOffsetOptions": options}}}, 1)
    until(lambda: len(outputs(hubs)) >= 2)
    assert outputs(hubs) == [b"1", b"2"]
