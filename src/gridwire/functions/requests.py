"""Arguments and answers of calls that are not events: HTTP requests, timers, Event Grid's events, warm-up."""

from __future__ import annotations

from typing import Any

import azure.functions as func
import msgspec
from azure.functions import timer
from azure.functions.meta import Datum

from gridwire.functions import model
from gridwire.functions.model import Call, Function


def argument(function: Function, call: Call) -> Any:
    """What the function's trigger parameter gets."""
    given = call.arguments
    if function.trigger == model.HTTP:
        return func.HttpRequest(
            given["method"], given["url"], headers=given["headers"], params=given["params"],
            route_params=given["route_params"], body=given["body"],
        )  # fmt: skip
    if function.trigger == model.TIMER:
        return timer.TimerRequest(
            past_due=given["IsPastDue"], schedule_status=given["ScheduleStatus"], schedule=given["Schedule"]
        )
    if function.trigger == model.EVENT_GRID:
        from azure.functions.eventgrid import EventGridEventInConverter

        return EventGridEventInConverter.decode(Datum(given["event"], "json"), trigger_metadata=None)
    return msgspec.json.decode(given["body"]) if given.get("body") else {}


def names_of(call: Call) -> dict[str, Any]:
    """What a binding expression may name: route parameters, query, members of a JSON body."""
    given = call.arguments
    names: dict[str, Any] = {}
    body = given.get("body") or given.get("event")
    if body:
        try:
            found = msgspec.json.decode(body)
            names |= found if isinstance(found, dict) else {}
        except msgspec.DecodeError:
            pass
    names["Query"] = given.get("params", {})
    names.update(given.get("params", {}))
    names.update(given.get("route_params", {}))
    return names


def answer(function: Function, value: Any) -> Any:
    """An HTTP answer as plain values: (status, headers, body)."""
    if function.trigger != model.HTTP:
        return None
    if value is None:
        return 204, [], b""
    if isinstance(value, str):
        return 200, [("content-type", "text/plain; charset=utf-8")], value.encode()
    if not isinstance(value, func.HttpResponse):
        raise TypeError(f"an HTTP function must return func.HttpResponse or str, not {type(value).__name__}")
    headers = [(name.lower(), text) for name, text in value.headers.items()]
    if not any(name == "content-type" for name, _ in headers):
        charset = f"; charset={value.charset}" if value.mimetype.startswith("text/") else ""
        headers.append(("content-type", f"{value.mimetype}{charset}"))
    return value.status_code, headers, value.get_body() or b""
