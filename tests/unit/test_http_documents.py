"""The documents of the API: whole, valid, and true of what a hub answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from api_document import FILE, Call, by_name, calls
from gridwire.core.batch import Event, encode
from gridwire.core.hubs import ALERTS, NETWORK, TEMPLATES
from gridwire.grid import asyncapi, network
from gridwire.grid.findings import Finding, Severity
from gridwire.grid.meter_event import KINDS, MeterEvent, event_json
from gridwire.grid.reading import Reading, reading_json
from gridwire.grid.weather import Observation, weather_json
from gridwire.heads.http.api.document import openapi
from gridwire.heads.http.api.operations import OPERATIONS
from gridwire.heads.http.routes import Route

NOON_US = 1_450_000_000_000_000


class NoApps:
    """A hub's apps of functions, of which there are none."""

    def apps(self) -> list[dict[str, Any]]:
        return []


@pytest.fixture
def hub(http_hub: Any) -> Any:
    return http_hub(functions=NoApps())


@pytest.fixture
def client(hub: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=hub.url, trust_env=False) as client:
        yield client


@pytest.fixture
def document(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/v1/openapi.json").raise_for_status().json()
    return found


def test_what_is_served_is_what_the_reference_has(client: httpx.Client, document: dict[str, Any]) -> None:
    assert document == json.loads(FILE.read_text())
    assert client.get("/v1/asyncapi.json").json() == json.loads(json.dumps(asyncapi.document()))


def test_every_route_is_described_and_nothing_else(hub: Any, document: dict[str, Any]) -> None:
    routes = {(method, route.path) for route in hub.head.routes for method in route.methods}
    described = {(call.method, re.sub(r"/\{path\}\Z", "/*", call.path)) for call in calls(document)}
    assert described == routes == set(OPERATIONS)


def test_a_route_that_is_not_described_is_an_error() -> None:
    async def nothing(call: Any) -> None: ...

    with pytest.raises(LookupError, match=r"GET /v1/nothing is not described"):
        openapi([Route("nothing", "/v1/nothing", {"GET": nothing})])


def test_a_hub_without_functions_does_not_tell_of_them(http_hub: Any) -> None:
    found = httpx.get(f"{http_hub().url}/v1/openapi.json", trust_env=False).json()
    assert "/v1/hubs" in found["paths"]
    assert not [path for path in found["paths"] if "functions" in path or path.startswith("/apps")]


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    validate(document)


def test_every_call_says_what_it_takes_and_answers(document: dict[str, Any]) -> None:
    names = [call.told["operationId"] for call in calls(document)]
    assert len(set(names)) == len(names)
    for call in calls(document):
        assert call.told["summary"], call
        assert {each["name"] for each in call.told["parameters"] if each["in"] == "path"} == set(
            re.findall(r"\{(\w+)\}", call.path)
        )
        assert all(each["description"] for each in call.told["parameters"]), call.path
        assert [status for status in call.told["responses"] if status.startswith("2")], call.path
        assert ("requestBody" in call.told) <= (call.method in ("POST", "PUT", "PATCH", "DELETE")), call.path


# -- answers fit

Request = tuple[str, str, Any]


def _requests(hub: Any) -> dict[str, Request]:
    """A request that succeeds by operation, in an order in which they do: address, and body if there is one."""
    finding = f"/v1/alerts/{hub.finding.replace('/', '%2F').replace(':', '%3A')}"
    one, avro = "/$schemaGroups/sg/schemas/s", '{"type":"string"}'
    return {
        "createHub": ("/v1/hubs", "", {"name": "r", "partitions": 2}),
        "sendEvents": ("/v1/hubs/r/events?partition=0", "application/x-ndjson", b'{"kw":1}\n"y"\n'),
        "sendMessages": ("/r/messages", "", b"x"),
        "sendToPartition": ("/r/partitions/1/messages", "", b"x"),
        "sendAsPublisher": ("/r/publishers/p/messages", "", b"x"),
        "readEvents": ("/v1/hubs/r/events?limit=10", "", None),
        "copyEvents": ("/v1/hubs/r/copy", "", {"to_hub": "copies", "partition": 0}),
        "listHubs": ("/v1/hubs", "", None),
        "showHub": ("/v1/hubs/r", "", None),
        "alterHub": ("/v1/hubs/r", "", {"partitions": 3}),
        "resetGroup": ("/v1/groups/g/reset", "", {"hub": "r", "to": "earliest"}),
        "listGroups": ("/v1/groups", "", None),
        "showGroup": ("/v1/groups/g", "", None),
        "claimPartitions": ("/v1/groups/g/claims", "", {"hub": "r", "claims": [{"partition": 0, "owner": "me"}]}),
        "listClaims": ("/v1/groups/g/claims?hub=r", "", None),
        "commitPositions": ("/v1/groups/g/positions", "", {"hub": "r", "positions": [{"partition": 0, "position": 1}]}),
        "listPositions": ("/v1/groups/g/positions?hub=r", "", None),
        "createSchemaGroup": ("/v1/schemagroups", "", {"name": "sg"}),
        "listSchemaGroups": ("/v1/schemagroups", "", None),
        "addSchema": ("/v1/schemagroups/sg/schemas", "", {"name": "s", "format": "Avro", "definition": avro}),
        "listSchemas": ("/v1/schemagroups/sg/schemas", "", None),
        "showSchema": ("/v1/schemagroups/sg/schemas/s", "", None),
        "registerSchema": (one, "application/json; serialization=Avro", avro.encode()),
        "findSchema": (one + ":get-id", "application/json; serialization=Avro", avro.encode()),
        "getSchemaGroups": ("/$schemaGroups", "", None),
        "getSchemaVersions": (one + "/versions", "", None),
        "getSchemaVersion": (one + "/versions/1", "", None),
        "deleteSchema": ("/v1/schemagroups/sg/schemas/s", "", None),
        "deleteSchemaGroup": ("/v1/schemagroups/sg", "", None),
        "listAlerts": ("/v1/alerts?state=all", "", None),
        "showAlert": (finding, "", None),
        "acknowledgeAlert": (finding + "/ack", "", {"why": "crew sent"}),
        "beginSilence": ("/v1/silences", "", {"why": "works", "for_s": 60}),
        "listSilences": ("/v1/silences", "", None),
        "showNetwork": ("/v1/grid/network", "", None),
        "listUsagePoints": ("/v1/grid/usage-points?transformer=T1", "", None),
        "showRights": ("/v1/rights?hub=r", "", None),
        "listApps": ("/v1/functions", "", None),
        "showStatus": ("/v1/status", "", None),
        "readMetrics": ("/metrics", "", None),
        "isAlive": ("/healthz", "", None),
        "isHealthy": ("/health", "", None),
        "isReady": ("/readyz", "", None),
        "readOpenApi": ("/v1/openapi.json", "", None),
        "readAsyncApi": ("/v1/asyncapi.json", "", None),
        "deleteHub": ("/v1/hubs/r", "", None),
    }  # fmt: skip


@pytest.fixture
def filled(hub: Any, client: httpx.Client) -> Any:
    """A hub with a finding and a network model."""
    finding = Finding(
        kind="outage", subject_kind="transformer", subject="T1", started_us=NOON_US, severity=Severity.CRITICAL,
        confidence=0.9, detector="outages", evidence={"customers": 3},
    )  # fmt: skip
    hub.finding = finding.id
    model = network.Network(
        name="small", transformers=(network.Transformer(id="T1"),),
        feeders=(network.Feeder(id="F1", transformer="T1"),),
        usage_points=(network.UsagePoint(id="U1", transformer="T1", feeder="F1"),),
    )  # fmt: skip

    async def tell() -> None:
        for name, event in ((ALERTS, finding.to_event(1)), (NETWORK, Event(network.to_json(model)))):
            await hub.broker.create_hub(name, 1)
            await hub.broker.append(name, 0, encode([event]))

    hub.run(tell())
    return hub


def test_answers_are_what_the_document_says(filled: Any, client: httpx.Client, document: dict[str, Any]) -> None:
    known = by_name(document)
    for name, (path, content_type, body) in _requests(filled).items():
        call = known[name]
        given: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body} if body else {}
        headers = {"content-type": content_type} if content_type else {}
        answer = client.request(call.method, path, headers=headers, **given)
        assert answer.is_success, (name, answer.text)
        assert str(answer.status_code) in call.told["responses"], name
        call.check(answer)


def test_files_dry_runs_and_refusals_are_in_it_too(filled: Any, client: httpx.Client, document: dict[str, Any]) -> None:
    known = by_name(document)
    client.post("/v1/hubs", json={"name": "r"})
    client.post("/v1/hubs/r/events", json=[1, 2])
    for form in ("ndjson", "csv", "parquet"):
        known["readEvents"].check(client.get(f"/v1/hubs/r/events?format={form}").raise_for_status())
    dry = client.post("/v1/groups/g/reset", json={"hub": "r", "to": "latest", "dry_run": True}).raise_for_status()
    known["resetGroup"].check(dry)
    for name, method, path in (
        ("createHub", "POST", "/v1/hubs"), ("showHub", "GET", "/v1/hubs/none"), ("listPolicies", "GET", "/v1/policies"),
        ("sendMessages", "POST", "/none/messages"), ("getSchemaById", "GET", "/$schemaGroups/$schemas/none"),
        ("askLake", "POST", "/v1/sql"),
    ):  # fmt: skip
        answer = client.request(method, path)
        assert answer.is_client_error
        known[name].check(answer)


def test_a_wrong_answer_would_be_seen(client: httpx.Client, document: dict[str, Any]) -> None:
    """A negative control of `check`."""
    call = by_name(document)["listHubs"]
    answer = client.get("/v1/hubs")
    for document_weakened in (
        {"200": {"content": {"text/plain": {}}}},
        {"201": {}},
        {"200": {"content": {"application/json": {"schema": {"required": ["nothing"]}}}}},
    ):
        with pytest.raises(AssertionError):
            Call(call.method, call.path, {"responses": document_weakened}, document).check(answer)


# -- events of the platform's own hubs


def test_every_hub_with_a_meaning_is_in_the_other_document() -> None:
    document = asyncapi.document()
    assert document["channels"].keys() == TEMPLATES.keys()
    places = {each["channel"]["$ref"].removeprefix("#/channels/") for each in document["operations"].values()}
    assert places == TEMPLATES.keys()
    for reference in _references(document):
        found: Any = document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)


def _fits(message: str, value: bytes) -> None:
    document = asyncapi.document()
    name = document["components"]["messages"][message]["payload"]["$ref"].rpartition("/")[2]
    root = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    Draft202012Validator(root).validate(json.loads(value))


def test_events_are_what_the_document_says() -> None:
    _fits("reading", reading_json(Reading(NOON_US, 1, 213, -3, 900, "U1", "M1", "3.8.1", "feed", 2, 4)))
    for kind in KINDS:
        _fits("meterEvent", event_json(MeterEvent(NOON_US, kind, "M1", "U1", details=(("a", "b"),))))
    _fits("observation", weather_json(Observation("S", NOON_US, 3600, temperature_c=21.4)))
    finding = Finding(
        kind="outage", subject_kind="feeder", subject="F", started_us=NOON_US, ended_us=NOON_US + 1,
        severity=Severity.INFO, confidence=0.5, detector="outages",
    )  # fmt: skip
    _fits("finding", finding.to_event(1).value or b"")
    model = network.Network(name="n", transformers=(network.Transformer(id="T"),), feeders=(), usage_points=())
    _fits("network", network.to_json(model))
