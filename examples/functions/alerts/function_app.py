"""Alerts from readings: a plain Azure Functions app, nothing of gridwire in it."""

import json
import logging

import azure.functions as func

app = func.FunctionApp()


@app.event_hub_message_trigger(
    arg_name="events", event_hub_name="readings", connection="EventHubConnection", cardinality="many"
)
@app.event_hub_output(arg_name="alerts", event_hub_name="alerts", connection="EventHubConnection")
def high_load(events: list[func.EventHubEvent], alerts: func.Out[list[str]]) -> None:
    """Say which meters draw more than 5 kW."""
    high = []
    for event in events:
        reading = json.loads(event.get_body())
        if reading["kw"] > 5:
            high.append(json.dumps({"meter": reading["meter"], "kw": reading["kw"]}))
    alerts.set(high)
    logging.info("%d of %d readings are high", len(high), len(events))
