"""Whole apps, unmodified in their shape, run by a real host with real workers against a real broker."""

from __future__ import annotations

import io
import json
import time

import fastavro
import httpx
import pyarrow as pa
import pytest

from gridwire.core.errors import InvalidSetting

MANY = """
import json, logging
import azure.functions as func

app = func.FunctionApp()

@app.event_hub_message_trigger(arg_name="events", event_hub_name="%HUB%", connection="CONNECTION", cardinality="many")
@app.event_hub_output(arg_name="alerts", event_hub_name="alerts", connection="CONNECTION")
def high(events: list[func.EventHubEvent], alerts: func.Out[list[str]], context: func.Context):
    assert all(isinstance(event, func.EventHubEvent) for event in events)
    out = []
    for event in events:
        reading = json.loads(event.get_body().decode("utf-8"))
        if reading["kw"] > 5:
            out.append(json.dumps({
                "meter": reading["meter"], "offset": event.offset, "sequence": event.sequence_number,
                "key": event.partition_key, "year": event.enqueued_time.year,
                "hub": event.metadata["PartitionContext"]["EventHubName"],
                "offsets": event.metadata["OffsetArray"],
                "property": event.metadata["PropertiesArray"][0].get("p"),
                "function": context.function_name,
            }))
    alerts.set(out)

@app.function_name("one")
@app.event_hub_message_trigger(arg_name="event", event_hub_name="single", connection="CONNECTION")
@app.event_hub_output(arg_name="$return", event_hub_name="copies", connection="CONNECTION")
async def one_at_a_time(event: func.EventHubEvent) -> str:
    return json.dumps({"is": [event.get_body().decode(), event.offset, event.metadata["SequenceNumber"]]})

@app.kafka_trigger(arg_name="records", topic="records", broker_list="%BROKERS%", cardinality="many", data_type="string")
@app.kafka_output(arg_name="out", topic="kafka-out", broker_list="%BROKERS%")
def kafka(records, out: func.Out[str]):
    out.set(json.dumps([[r.get_body().decode(), r.key, r.offset, r.partition, r.topic] for r in records]))

@app.kafka_trigger(arg_name="record", topic="records", broker_list="%BROKERS%", data_type="binary")
@app.kafka_output(arg_name="$return", topic="kafka-whole", broker_list="%BROKERS%")
def whole(record: func.KafkaEvent):
    headers = json.loads(record.metadata["Headers"])
    return {"Offset": 0, "Partition": 0, "Topic": "t", "Timestamp": "", "Value": record.get_body().decode(),
            "Key": record.metadata["Key"], "Headers": [{"Key": headers[0]["Key"], "Value": "w"}]}
"""


def test_events_reach_functions_and_outputs_reach_hubs(hub, run_app, until):
    for name in ("readings", "single", "records"):
        hub.create(name)
    app = run_app(MANY, settings={"HUB": "readings", "BROKERS": "x:9092", "CONNECTION": "Endpoint=sb://localhost"})
    hub.append("readings", 1, {"meter": "a", "kw": 9}, {"meter": "b", "kw": 1}, key=b"k", headers=(("p", b"q"),))
    hub.append("single", 0, b"x", b"y")
    hub.append("records", 1, b"r", key=b"k", headers=(("h", b"v"),))
    until(lambda: hub.events("alerts") and len(hub.events("copies")) == 2 and hub.events("kafka-out"))
    [alert] = hub.json("alerts")
    assert alert == {
        "meter": "a", "offset": 0, "sequence": 0, "key": "k", "year": 1970, "hub": "readings", "offsets": [0, 1],
        "property": "q", "function": "high",
    }  # fmt: skip
    assert hub.json("copies") == [{"is": ["x", "0", 0]}, {"is": ["y", "1", 1]}]
    [[body, *rest]] = hub.json("kafka-out")  # an array is an event for each element
    assert rest == ["k", 0, 1, "records"]
    assert json.loads(body) == {
        "Offset": 0, "Partition": 1, "Topic": "records", "Timestamp": "1970-01-01T00:00:01Z", "Value": "r", "Key": "k",
        "Headers": [{"Key": "h", "Value": "dg=="}],
    }  # fmt: skip
    until(lambda: hub.events("kafka-whole"))
    [whole] = hub.events("kafka-whole")
    assert (whole.value, whole.key, whole.headers) == (b"r", b"k", (("h", b"w"),))
    assert hub.position("fn.app.high", "readings") == 2
    figures = httpx.get(app.url + "/admin/host/status").json()["functions"]["high"]
    assert (figures["events"], figures["outputs"], figures["lag_events"]) == (2, 1, 0)
    assert 'gridwire_function_events{app="app",function="high"} 2' in httpx.get(app.url + "/metrics").text


FAILING = """
import json
import azure.functions as func
app = func.FunctionApp()

@app.event_hub_message_trigger(arg_name="events", event_hub_name="in", connection="C", cardinality="many")
@app.event_hub_output(arg_name="$return", event_hub_name="out", connection="C")
@app.retry(strategy="fixed_delay", max_retry_count="1", delay_interval="00:00:00")
def f(events, context) -> list:
    if any(event.get_body() == b"poison" for event in events):
        raise ValueError(f"poison among {len(events)}, try {context.retry_context.retry_count}")
    return [event.get_body() for event in events]

@app.event_hub_message_trigger(arg_name="event", event_hub_name="in", connection="C")
@app.event_hub_output(arg_name="$return", event_hub_name="single", connection="C")
def g(event: func.EventHubEvent) -> bytes:
    if event.get_body() == b"poison":
        raise ValueError("poison")
    return event.get_body()
"""


def test_a_poison_event_becomes_a_dead_letter_and_stops_nothing(hub, run_app, until):
    hub.create("in", 1)
    values = [b"%d" % n for n in range(20)]
    hub.append("in", 0, *values[:13], b"poison", *values[13:], key=b"k")
    app = run_app(FAILING)
    until(lambda: hub.position("fn.app.f", "in") == hub.position("fn.app.g", "in") == 21)
    assert [event.value for event in hub.events("out")] == values
    assert [event.value for event in hub.events("single")] == values
    for function in "fg":
        [letter] = hub.events(f"dlq.app.{function}")
        told = dict(letter.headers)
        assert (letter.value, letter.key) == (b"poison", b"k")
        assert (told["dlq-hub"], told["dlq-offset"], told["dlq-function"]) == (b"in", b"13", function.encode())
        assert b"function_app.py" in told["dlq-traceback"]
    assert b"poison among 1, try 1" in dict(hub.events("dlq.app.f")[0].headers)["dlq-reason"]
    figures = app.host.figures()["f"]
    assert figures["dead_letters"] == 1
    assert figures["bisections"] >= 4
    assert figures["retries"] == 2, "the policy counts for the whole batch and for the event alone"


UNTELLABLE = """
import azure.functions as func
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

class Untellable(Exception):
    def __str__(self):
        raise RuntimeError("no text")
    __repr__ = __str__

@app.event_hub_message_trigger(arg_name="event", event_hub_name="in", connection="C")
def f(event):
    raise Untellable("foo")

@app.route(route="fail")
def fail(req):
    raise Untellable("foo")

@app.route(route="fail_async")
async def fail_async(req):
    raise Untellable("foo")
"""


def test_an_exception_that_cannot_be_told_is_one_like_others(hub, run_app, until):
    hub.create("in", 1)
    hub.append("in", 0, b"x")
    app = run_app(UNTELLABLE)
    for name in ("fail", "fail_async"):
        assert httpx.get(f"{app.url}/api/{name}", timeout=60).status_code == 500
    (letter,) = until(lambda: hub.events("dlq.app.f"))
    told = dict(letter.headers)
    assert told["dlq-reason"] == b"Untellable, whose text cannot be made: RuntimeError"
    assert b"function_app.py" in told["dlq-traceback"]


HANGING = """
import os, time
import azure.functions as func
app = func.FunctionApp()

@app.event_hub_message_trigger(arg_name="events", event_hub_name="in", connection="C", cardinality="many")
@app.event_hub_output(arg_name="$return", event_hub_name="out", connection="C")
def f(events) -> list:
    for event in events:
        while event.get_body() == b"hang":
            pass
        if event.get_body() == b"die":
            os._exit(9)
    return [event.get_body() for event in events]
"""


def test_code_that_hangs_or_dies_costs_its_worker_and_nothing_else(hub, run_app, until):
    hub.create("in", 1)
    hub.append("in", 0, b"a", b"hang", b"b", b"die", b"c")
    app = run_app(HANGING, host={"functionTimeout": "00:00:01"})
    until(lambda: hub.position("fn.app.f", "in") == 5)
    assert [event.value for event in hub.events("out")] == [b"a", b"b", b"c"]
    letters = {event.value: dict(event.headers)["dlq-reason"].decode() for event in hub.events("dlq.app.f")}
    assert "took longer than 1 s" in letters[b"hang"]
    assert "exit code 9" in letters[b"die"]
    assert app.host.pool.timeouts >= 2


WEB = """
import json, logging
import azure.functions as func
app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
warm = []

@app.route(route="products/{category:alpha}/{id:int?}", methods=["GET", "POST"])
@app.event_hub_output(arg_name="out", event_hub_name="requests", connection="C")
def products(req: func.HttpRequest, out: func.Out[str]) -> func.HttpResponse:
    body = req.get_json() if req.method == "POST" else None
    out.set(json.dumps(body))
    told = {"route": dict(req.route_params), "query": dict(req.params), "body": body}
    told["header"] = req.headers.get("X-Thing")
    return func.HttpResponse(json.dumps(told), status_code=201, mimetype="application/json", headers={"x-a": "b"})

@app.route(route="open", auth_level=func.AuthLevel.ANONYMOUS)
async def open_to_all(req: func.HttpRequest, context: func.Context) -> str:
    return f"{warm} {context.trace_context.trace_parent}"

@app.route(route="broken", auth_level="anonymous")
def broken(req):
    raise RuntimeError("boom")

@app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *", run_on_startup=True)
@app.blob_output(arg_name="blob", path="ticks/first.txt", connection="C")
@app.event_hub_output(arg_name="$return", event_hub_name="ticks", connection="C")
def tick(timer: func.TimerRequest, blob: func.Out[str]):
    blob.set("done")
    return json.dumps({"past_due": timer.past_due})

@app.event_grid_trigger(arg_name="event")
@app.event_grid_output(arg_name="out", topic_endpoint_uri="TOPIC", topic_key_setting="KEY")
def grid(event: func.EventGridEvent, out: func.Out[func.EventGridOutputEvent]):
    kind = getattr(event, "event_type", None) or event.type
    out.set(func.EventGridOutputEvent(id="1", data={"was": event.get_json()}, subject=event.subject or "",
            event_type=kind, event_time=None, data_version="1"))

@app.warm_up_trigger("warmup")
def warm_up(warmup):
    warm.append("warm")
"""


def test_http_timer_event_grid_and_warm_up(hub, run_app, until, tmp_path):
    app = run_app(
        WEB, options={"keys": True, "workers_max": 1}, settings={"TOPIC": "https://alarms.europe.example/api/events"}
    )
    keys = json.loads((tmp_path / "state" / "keys.json").read_text())
    with httpx.Client(base_url=app.url, timeout=60) as client:
        assert client.get("/api/products/toys/7").status_code == 401
        code = keys["functions"]["products"]["default"]
        answer = client.post(
            f"/api/products/toys/7?code={code}&a=b", json={"n": 1}, headers={"x-thing": "y"}
        )  # fmt: skip
        assert (answer.status_code, answer.headers["x-a"]) == (201, "b")
        told = answer.json()
        assert told["route"] == {"category": "toys", "id": "7"}
        assert told["query"]["a"] == "b"
        assert (told["header"], told["body"]) == ("y", {"n": 1})
        assert hub.json("requests") == [{"n": 1}], "outputs are on disk before the answer"
        assert client.get("/api/products/toys", headers={"x-functions-key": keys["host"]["default"]}).status_code == 201
        assert client.put("/api/open").status_code == 200
        assert client.delete("/api/products/toys/7").status_code == 405
        assert client.get("/api/nowhere").status_code == 404
        assert client.get("/api/broken").status_code == 500
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        text = client.get("/api/open", headers={"traceparent": trace}).text
        assert text.startswith("['warm'] 00-0af7651916cd43dd8448eb211c80319c-")
        assert trace not in text, "the function's span is its own"
        until(lambda: hub.events("ticks"))
        assert hub.json("ticks") == [{"past_due": False}]
        assert (tmp_path / "state" / "blobs" / "ticks" / "first.txt").read_text() == "done"
        grid(client, hub, keys["system"])
        assert client.post("/admin/functions/tick", json={"input": ""}).status_code == 401
        master = {"x-functions-key": keys["master"]}
        assert client.post("/admin/functions/tick", json={"input": ""}, headers=master).status_code == 202
        assert len(hub.events("ticks")) == 2


def grid(client, hub, key):
    where = {"functionName": "grid", "code": key}
    hook = "/runtime/webhooks/EventGrid"
    assert client.post(hook, params={"functionName": "grid"}, json=[]).status_code == 401
    validation = {"eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "data": {"validationCode": "7"}}
    assert client.post(hook, params=where, json=[validation]).json() == {"validationResponse": "7"}
    shake = client.request("OPTIONS", hook, params=where, headers={"webhook-request-origin": "me"})
    assert shake.headers["webhook-allowed-origin"] == "me"
    event = {"id": "1", "topic": "t", "subject": "s", "eventType": "e", "eventTime": "2026-01-01T00:00:00Z",
             "data": {"a": 1}, "dataVersion": "1"}  # fmt: skip
    assert client.post(hook, params=where, json=[event]).status_code == 202
    cloud = {"specversion": "1.0", "id": "2", "source": "x", "type": "c", "data": {"b": 2}}
    assert client.post(hook, params=where, json=cloud).status_code == 202
    binary = {
        "ce-specversion": "1.0",
        "ce-id": "3",
        "ce-source": "x",
        "ce-type": "d",
        "content-type": "application/json",
    }
    assert client.post(hook, params=where, content=b'{"c":3}', headers=binary).status_code == 202
    told = [(event["eventType"], event["data"]["was"]) for event in hub.json("alarms")]
    assert sorted(told) == [("c", {"b": 2}), ("d", {"c": 3}), ("e", {"a": 1})]


MOUNTED = """
import azure.functions as func
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

async def hello(request):
    return PlainTextResponse("hello " + request.path_params["name"] + " " + request.query_params.get("q", ""))

web = Starlette(routes=[Route("/hello/{name}", hello)])
app = func.AsgiFunctionApp(app=web, http_auth_level=func.AuthLevel.ANONYMOUS)
"""

WSGI = """
import azure.functions as func

def web(environ, start_response):
    start_response("200 OK", [("content-type", "text/plain")])
    return [environ["REQUEST_METHOD"].encode(), b" ", environ["PATH_INFO"].encode(), b" ", environ["wsgi.input"].read()]

app = func.WsgiFunctionApp(app=web, http_auth_level=func.AuthLevel.ANONYMOUS)
"""


def test_asgi_and_wsgi_apps(hub, run_app):
    asgi = run_app(MOUNTED, host={"extensions": {"http": {"routePrefix": ""}}})
    assert httpx.get(asgi.url + "/hello/you?q=1", timeout=60).text == "hello you 1"
    assert httpx.get(asgi.url + "/nowhere", timeout=60).status_code == 404
    wsgi = run_app(WSGI, name="wsgi", host={"extensions": {"http": {"routePrefix": ""}}})
    assert httpx.post(wsgi.url + "/a/b", content=b"body", timeout=60).text == "POST /a/b body"


WRONG = """
import azure.functions as func
app = func.FunctionApp()
bp = func.Blueprint()

@bp.queue_trigger(arg_name="m", queue_name="q", connection="C")
def queued(m): pass

@bp.event_hub_message_trigger(arg_name="e", event_hub_name="%MISSING%", connection="C")
def unset(e): pass

@app.timer_trigger(arg_name="t", schedule="61 * * * * *")
@app.cosmos_db_output(arg_name="doc", database_name="d", container_name="c", connection="C")
def late(t, doc: func.Out[str]): pass

@app.event_hub_message_trigger(arg_name="events", event_hub_name="a b", connection="C")
def spaced(event): pass

@app.event_hub_message_trigger(arg_name="e", event_hub_name="a", connection="C")
@app.event_hub_output(arg_name="o", event_hub_name="b", connection="C")
def same(e, o): pass

@app.function_name("same")
@app.event_hub_message_trigger(arg_name="e", event_hub_name="a", connection="C")
@app.event_hub_output(arg_name="o", event_hub_name="b", connection="C")
def same_again(e, o: str): pass

app.register_functions(bp)
"""


def test_all_problems_of_an_app_are_told_at_once(hub, run_app):
    with pytest.raises(InvalidSetting) as told:
        run_app(WRONG)
    text = str(told.value)
    for part in (
        "function queued: trigger 'queueTrigger' is not supported",
        "function unset: setting 'MISSING'",
        "function late: the schedule's second must be 0 to 59",
        "function late: output binding 'cosmosDB' (doc) is not supported",
        "function spaced: parameter 'event' has no binding",
        "function spaced: binding 'events' is not among",
        "function spaced: hub name 'a b'",
        "function same: another function has this name",
    ):
        assert part in text, text


@pytest.mark.parametrize(
    ("code", "part"),
    [
        ("import nowhere\n", "ModuleNotFoundError: No module named 'nowhere' (function_app.py line 1)"),
        ("x = 1\n", "exactly one FunctionApp"),
        ("def f(:\n", "SyntaxError"),
        ("import azure.functions as func\napp = func.FunctionApp()\n", "the app has no functions"),
        ("raise SystemExit(3)\n", "SystemExit"),
    ],
)
def test_apps_that_cannot_be_loaded(hub, run_app, code, part):
    with pytest.raises(InvalidSetting) as told:
        run_app(code)
    assert part in str(told.value)


ARROW = """
import azure.functions as func
import pyarrow as pa
import pyarrow.compute as pc
import polars as pl
app = func.FunctionApp()

@app.event_hub_message_trigger(arg_name="batch", event_hub_name="in", connection="C",
                               columns={"meter": "text", "kw": "float", "n": "int", "at": "timestamp", "ok": "bool"})
@app.event_hub_output(arg_name="$return", event_hub_name="sums", connection="C")
def declared(batch: pa.RecordBatch) -> pa.Table:
    assert [str(field.type) for field in batch.schema] == ["string", "double", "int64", "timestamp[us, tz=UTC]", "bool"]
    return pa.table(batch.filter(pc.greater(batch["kw"], 1))).group_by("meter").aggregate([("kw", "sum")])

@app.event_hub_message_trigger(arg_name="frame", event_hub_name="in", connection="C")
@app.event_hub_output(arg_name="$return", event_hub_name="frames", connection="C")
def inferred(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(pl.col("kw").sum(), pl.len().alias("rows"))
"""


def test_functions_over_columns_and_values_that_do_not_fit(hub, run_app, until):
    hub.create("in", 1)
    rows = [{"meter": f"m{n % 2}", "kw": n + 0.25, "n": n, "at": "2026-01-01T00:00:00Z", "ok": True} for n in range(4)]
    hub.append("in", 0, *rows[:2], b"{nonsense", *rows[2:])
    run_app(ARROW)
    until(lambda: hub.position("fn.app.declared", "in") == hub.position("fn.app.inferred", "in") == 5)
    sums = {row["meter"]: row["kw_sum"] for row in hub.json("sums")}
    assert sums == {"m0": 2.25, "m1": 1.25 + 3.25}
    assert hub.json("frames") == [{"kw": 7.0, "rows": 4}]
    for function in ("declared", "inferred"):
        [letter] = hub.events(f"dlq.app.{function}")
        assert letter.value == b"{nonsense"
        assert b"malformed JSON" in dict(letter.headers)["dlq-reason"]


FILES = """
import azure.functions as func
import pyarrow as pa
app = func.FunctionApp()

@app.event_hub_message_trigger(arg_name="table", event_hub_name="avro", connection="C")
@app.event_hub_output(arg_name="$return", event_hub_name="sums", connection="C")
def of_avro(table: pa.Table) -> pa.Table:
    return table.group_by("meter").aggregate([("kw", "sum")])

@app.event_hub_message_trigger(arg_name="table", event_hub_name="arrow", connection="C")
@app.event_hub_output(arg_name="$return", event_hub_name="sums", connection="C")
def of_arrow(table: pa.Table) -> pa.Table:
    return table.group_by("meter").aggregate([("kw", "sum")])
"""


def avro_file(rows):
    fields = [{"name": "meter", "type": "string"}, {"name": "kw", "type": "double"}]
    out = io.BytesIO()
    fastavro.writer(out, {"type": "record", "name": "Reading", "fields": fields}, rows)
    return out.getvalue()


def arrow_file(rows, stream):
    table, out = pa.Table.from_pylist(rows), pa.BufferOutputStream()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue().to_pybytes()


def test_values_that_are_files_of_rows_become_one_table(hub, run_app, until):
    """Avro containers and Arrow IPC streams and files; one that is cut short is a dead letter."""
    rows = [{"meter": f"m{n % 2}", "kw": n + 0.25} for n in range(4)]
    hub.create("avro", 1)
    hub.append("avro", 0, avro_file(rows[:3]), avro_file(rows)[:-9], avro_file(rows[3:]))
    hub.create("arrow", 1)
    hub.append("arrow", 0, arrow_file(rows[:3], True), arrow_file(rows, True)[:200], arrow_file(rows[3:], False))
    run_app(FILES)
    until(lambda: hub.position("fn.app.of_avro", "avro") == hub.position("fn.app.of_arrow", "arrow") == 3)
    wanted = [{"meter": "m0", "kw_sum": 2.5}, {"meter": "m1", "kw_sum": 4.5}]
    assert sorted(hub.json("sums"), key=lambda row: row["meter"]) == [wanted[0], wanted[0], wanted[1], wanted[1]]
    for function in ("of_avro", "of_arrow"):
        [letter] = hub.events(f"dlq.app.{function}")
        assert dict(letter.headers)["dlq-offset"] == b"1"


PARALLEL = """
import azure.functions as func
app = func.FunctionApp()

@app.event_hub_message_trigger(arg_name="events", event_hub_name="in", connection="C", cardinality="many",
                               max_batch_size=5, max_parallel_batches=3)
@app.event_hub_output(arg_name="$return", event_hub_name="out", connection="C")
def f(events) -> list:
    for event in events:
        if event.get_body().endswith(b"bad"):
            raise ValueError("cannot take it")
    return [event.get_body() for event in events]
"""


def test_parallel_batches_keep_the_order_of_each_key_past_events_that_fail(hub, run_app, until):
    hub.create("in", 1)
    sent = [(b"k%d" % (n * 7 % 4), b"%d bad" % n if n % 10 == 9 else b"%d" % n) for n in range(60)]
    for key, value in sent:
        hub.append("in", 0, value, key=key)
    app = run_app(PARALLEL, options={"workers_max": 2})
    until(lambda: hub.position("fn.app.f", "in") == 60)
    found = [event.value for event in hub.events("out")]
    good = [value for _, value in sent if not value.endswith(b"bad")]
    assert sorted(found) == sorted(good), "each once"
    for key in {key for key, _ in sent}:
        of_key = [value for each, value in sent if each == key and value in good]
        assert [value for value in found if value in of_key] == of_key
    assert sorted(event.value for event in hub.events("dlq.app.f")) == sorted(
        value for _, value in sent if value.endswith(b"bad")
    )
    counters = app.host.streams[0].counters
    assert sum(counters[f"flushed_{reason}"] for reason in ("size", "bytes", "idle", "wait")) >= 4


COLD = """
import azure.functions as func
app = func.FunctionApp()

@app.event_hub_message_trigger(arg_name="event", event_hub_name="in", connection="C")
@app.event_hub_output(arg_name="$return", event_hub_name="out", connection="C")
def f(event: func.EventHubEvent) -> bytes:
    return event.get_body()
"""


def test_an_idle_app_has_no_worker_and_the_first_event_starts_one(hub, run_app, until):
    hub.create("in", 1)
    app = run_app(COLD, options={"idle_s": 0.1})
    until(lambda: app.host.pool.count() == 0)
    hub.append("in", 0, b"a")
    until(lambda: hub.events("out"))
    assert app.host.pool.starts >= 2
    until(lambda: app.host.pool.count() == 0)


def test_a_newer_host_takes_over_and_the_older_one_ends(hub, run_app, until):
    hub.create("in", 1)
    first = run_app(COLD)
    hub.append("in", 0, b"a")
    until(lambda: hub.events("out"))
    run_app(COLD)
    hub.append("in", 0, b"b")
    until(lambda: len(hub.events("out")) == 2)
    first.join()
    assert "another host" in str(first.error)
    assert [event.value for event in hub.events("out")] == [b"a", b"b"]


def test_a_host_that_is_told_to_stop_lets_calls_end_and_commits(hub, run_app, until, tmp_path):
    hub.create("in", 1)
    slow = COLD.replace(
        "return event",
        f"import time, pathlib; pathlib.Path({str(tmp_path / 'began')!r}).touch(); time.sleep(1); return event",
    )
    app = run_app(slow)
    hub.append("in", 0, b"a")
    until((tmp_path / "began").exists)
    begun = time.monotonic()
    app.stop()
    assert time.monotonic() - begun < 60
    assert [event.value for event in hub.events("out")] == [b"a"]
    assert hub.position("fn.app.f", "in") == 1
