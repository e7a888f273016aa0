"""Functions that ask for the Event Hubs SDK's own `EventData`, as Azure's extension package lets them."""

from __future__ import annotations

import pytest

from gridwire.core.errors import InvalidSetting

APP = """
import json
from typing import List
import azure.functions as func
import azurefunctions.extensions.bindings.eventhub as eh

app = func.FunctionApp()

def told(event):
    return json.dumps({
        "body": event.body_as_str(), "offset": event.offset, "sequence": event.sequence_number,
        "key": event.partition_key and event.partition_key.decode(), "at": event.enqueued_time.isoformat(),
        "type": event.content_type, "message": event.message_id,
        "properties": {name.decode(): value.decode() for name, value in event.properties.items()},
    })

@app.event_hub_message_trigger(arg_name="event", event_hub_name="in", connection="C")
@app.event_hub_output(arg_name="$return", event_hub_name="ones", connection="C")
def one(event: eh.EventData) -> str:
    return told(event)

@app.event_hub_message_trigger(arg_name="events", event_hub_name="in", connection="C", cardinality="many")
@app.event_hub_output(arg_name="out", event_hub_name="manys", connection="C")
def many(events: List[eh.EventData], out: func.Out[list]):
    out.set([told(event) for event in events])
"""

NOT_SUPPORTED = """
import azure.functions as func
import azurefunctions.extensions.bindings.eventhub as eh
import azurefunctions.extensions.bindings.blob as blob

app = func.FunctionApp()

@app.kafka_trigger(arg_name="event", topic="in", broker_list="B")
def of_kafka(event: eh.EventData):
    pass

@app.event_hub_message_trigger(arg_name="event", event_hub_name="in", connection="C")
@app.blob_input(arg_name="client", path="a/b", connection="S")
def of_blob(event: func.EventHubEvent, client: blob.BlobClient):
    pass
"""


@pytest.fixture
def extension(write_app):
    """The annotations alone: the package itself is in beta and pins an older SDK. What it hands out is the SDK's."""
    for name, kind in (("eventhub", "EventData"), ("blob", "BlobClient")):
        package = write_app("").joinpath("azurefunctions", "extensions", "bindings", name)
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"class {kind}: ...\n")


def test_events_of_the_sdk(hub, run_app, until, extension):
    hub.create("in", 1)
    hub.append("in", 0, b"plain")
    hub.append("in", 0, b"rich", key=b"k", headers=(("content-type", b"text/plain"), ("message-id", b"7"), ("p", b"v")))
    run_app(APP)
    until(lambda: len(hub.json("ones")) == len(hub.json("manys")) == 2)
    plain = {"body": "plain", "offset": "0", "sequence": 0, "key": None, "at": "1970-01-01T00:00:01+00:00",
             "type": None, "message": None, "properties": {}}  # fmt: skip
    rich = plain | {"body": "rich", "offset": "1", "sequence": 1, "key": "k", "type": "text/plain", "message": "7",
                    "properties": {"p": "v"}}  # fmt: skip
    assert hub.json("ones") == [plain, rich]
    assert sorted(hub.json("manys"), key=lambda row: row["sequence"]) == [plain, rich]


def test_other_types_of_sdks_are_refused_before_anything_starts(hub, run_app, extension):
    with pytest.raises(InvalidSetting) as refused:
        run_app(NOT_SUPPORTED)
    text = str(refused.value)
    assert "function of_kafka: parameter 'event': azurefunctions.extensions.bindings.eventhub.EventData is not" in text
    assert "function of_blob: parameter 'client': azurefunctions.extensions.bindings.blob.BlobClient is not" in text
