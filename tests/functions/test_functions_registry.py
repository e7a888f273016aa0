"""Kafka triggers with a schema registry: a server that answers as Confluent's does, frames as its serializers write."""

from __future__ import annotations

import io
import json
import threading
from base64 import b64decode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fastavro
import httpx
import pytest

from gridwire.core.errors import InvalidSetting
from gridwire.functions.registry import PAUSES_S, Registry

PAYMENT = {"type": "record", "name": "Payment", "fields": [
    {"name": "id", "type": "string"}, {"name": "amount", "type": "double"}]}  # fmt: skip

APP = """
import azure.functions as func
app = func.FunctionApp()

@app.kafka_trigger(arg_name="event", topic="in", broker_list="B", schema_registry_url="RegistryUrl",
                   schema_registry_username="%RegistryUser%", schema_registry_password="RegistryPassword")
@app.kafka_output(arg_name="$return", topic="out", broker_list="B")
def f(event: func.KafkaEvent) -> str:
    return event.get_body().decode()

@app.kafka_trigger(arg_name="event", topic="in", broker_list="B", schema_registry_url="RegistryUrl",
                   data_type="binary")
@app.kafka_output(arg_name="$return", topic="raw", broker_list="B")
def raw(event: func.KafkaEvent) -> str:
    return event.get_body().hex()
"""


class Schemas:
    """A registry: `schemas` by id, `failures` to answer with first, `asked` paths and who asked."""

    def __init__(self) -> None:
        self.schemas: dict[int, dict[str, Any]] = {}
        self.failures: list[int] = []
        self.asked: list[tuple[str, str]] = []
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                who = b64decode(self.headers.get("authorization", "").removeprefix("Basic ")).decode()
                registry.asked.append((self.path, who))
                number = int(self.path.rpartition("/")[2])
                found = registry.schemas.get(number)
                status = registry.failures.pop(0) if registry.failures else 200 if found else 404
                body = json.dumps(found or {"error_code": 40403}).encode()
                self.send_response(status)
                self.send_header("content-type", "application/vnd.schemaregistry.v1+json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def schemas() -> Iterator[Schemas]:
    made = Schemas()
    made.schemas = {7: {"schema": json.dumps(PAYMENT)}, 8: {"schemaType": "JSON", "schema": "{}"},
                    9: {"schemaType": "PROTOBUF", "schema": ""},
                    10: {"schema": json.dumps(PAYMENT), "references": [{"name": "other"}]},
                    11: {"schema": "no schema"}}  # fmt: skip
    yield made
    made.close()


def framed(number: int, record: Any) -> bytes:
    data = io.BytesIO()
    fastavro.schemaless_writer(data, PAYMENT, record)
    return b"\0" + number.to_bytes(4, "big") + data.getvalue()


def test_values_are_read_by_the_schema_they_name(schemas):
    registry = Registry(schemas.url + "/", "me", "secret")
    for _ in range(2):
        assert json.loads(registry.to_json(framed(7, {"id": "a", "amount": 1.5}))) == {"id": "a", "amount": 1.5}
    assert registry.to_json(b'\0\0\0\0\x08{"any": "JSON"}') == b'{"any": "JSON"}'
    assert schemas.asked == [("/schemas/ids/7", "me:secret"), ("/schemas/ids/8", "me:secret")], "each once"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b"", "0 and a schema id"),
        (b"{}   ", "0 and a schema id"),
        (b"\0\0\0\0\7\xff\xff", "does not fit its Avro schema"),
        (b"\0\0\0\0\x01x", "has no schema 1 for us: HTTP 404"),
        (b"\0\0\0\0\x09x", "type PROTOBUF"),
        (b"\0\0\0\0\x0ax", "refer to others"),
        (b"\0\0\0\0\x0bx", "is not Avro"),
    ],
)
def test_values_that_cannot_be_read(schemas, value, told):
    with pytest.raises(ValueError, match=told):
        Registry(schemas.url).to_json(value)


def test_a_registry_that_does_not_answer_is_asked_again(schemas):
    pauses: list[float] = []
    schemas.failures = [500, 503]
    registry = Registry(schemas.url, sleep=pauses.append)
    assert json.loads(registry.to_json(framed(7, {"id": "a", "amount": 1.5})))["id"] == "a"
    assert pauses == list(PAUSES_S[:2])
    schemas.close()
    pauses.clear()
    with pytest.raises(httpx.HTTPError):
        registry.to_json(framed(8, {"id": "a", "amount": 1.5}))
    assert pauses == list(PAUSES_S)


def test_a_trigger_with_a_registry_gets_records_and_one_that_wants_bytes_the_frame(hub, run_app, until, schemas):
    hub.create("in", 1)
    good, unknown = framed(7, {"id": "a", "amount": 1.5}), framed(99, {"id": "b", "amount": 1})
    hub.append("in", 0, good, unknown, framed(7, {"id": "c", "amount": 2}))
    run_app(APP, settings={"RegistryUrl": schemas.url, "RegistryUser": "me", "RegistryPassword": "secret"})
    until(lambda: len(hub.json("out")) == 2 and len(hub.events("raw")) == 3)
    assert hub.json("out") == [{"id": "a", "amount": 1.5}, {"id": "c", "amount": 2.0}]
    (letter,) = until(lambda: hub.events("dlq.app.f"))
    assert letter.value == unknown
    assert b"has no schema 99 for us" in dict(letter.headers)["dlq-reason"]
    assert bytes.fromhex(hub.events("raw")[0].value.decode()) == good
    assert {who for _, who in schemas.asked} == {"me:secret"}


def test_a_registry_that_is_nowhere_is_told_before_anything_starts(hub, run_app):
    with pytest.raises(InvalidSetting, match="schema_registry_url 'RegistryUrl' is neither a setting nor an address"):
        run_app(APP)
