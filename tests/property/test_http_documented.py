"""Whatever is asked of a real hub as its OpenAPI document allows is answered as the document says, never by a 5xx.

Requests are made of the document's schemas, of names that are there and of names that are not, and of nonsense.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api_document import FILE, Call, calls

DOCUMENT = json.loads(FILE.read_text())
STREAM = "text/event-stream"

asked = settings(
    max_examples=40, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip

PRINTABLE = st.characters(exclude_categories=["Cs"])
TEXTS = st.text(PRINTABLE, min_size=1, max_size=12)
HEADER_VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12)
KNOWN = {
    "hub": ("r", "grid.alerts", "__audit"), "group": ("g", "sg", "$Default"), "schema": ("s", "s:get-id"),
    "partition": (0, 7, -1), "version": (1, 10**18), "name": ("n",), "id": ("outage/feeder/F",),
    "app": ("a",), "function": ("f",), "usage_point": ("U1",), "publisher": ("p",), "policy": ("p",), "user": ("u",),
    "path": ("api/x", "admin/x"), "to_hub": ("copies",),
}  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a schema, as far as the document's schemas go: no more of JSON Schema than msgspec writes."""
    if "$ref" in schema:
        return values(DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return st.one_of([values(each) for each in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "pattern" in schema:
        return st.from_regex(schema["pattern"], fullmatch=True)
    kind = schema.get("type")
    if kind == "object":
        return objects(schema)
    if kind == "array":
        return st.lists(values(schema.get("items", {})), max_size=3)
    if kind == "integer":
        return st.integers(schema.get("minimum"), schema.get("maximum"))
    if kind == "number":
        return st.floats(allow_nan=False, allow_infinity=False)
    plain = {"string": st.text(PRINTABLE, max_size=8), "boolean": st.booleans(), "null": st.none()}
    return ANYTHING if kind is None else plain[kind]


def objects(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    known = {
        name: names_of(name) | names_of(name) | values(each) for name, each in schema.get("properties", {}).items()
    }
    required = set(schema.get("required", ()))
    fixed = st.fixed_dictionaries(
        {name: each for name, each in known.items() if name in required},
        optional={name: each for name, each in known.items() if name not in required},
    )
    more = schema.get("additionalProperties", {})
    if more is False:
        return fixed
    return st.builds(
        lambda free, own: free | own, st.dictionaries(st.text(PRINTABLE, max_size=5), values(more), max_size=2), fixed
    )


def names_of(name: str) -> st.SearchStrategy[Any]:
    """Names of things that are there, where a member is called like them."""
    return st.sampled_from(KNOWN[name]) if name in KNOWN else st.nothing()


@pytest.fixture(scope="module")
def client(hub_process: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client that may do everything, of a hub with sign-in."""
    data = tmp_path_factory.mktemp("documented") / "data"
    hub = hub_process(data, "--auth", "--no-workers", "--amqp-port", "off", "--durability", "os")
    root = dict(part.split("=", 1) for part in (data / "root.connection-string").read_text().strip().split(";") if part)
    who = (root["SharedAccessKeyName"], root["SharedAccessKey"])
    with httpx.Client(base_url=hub.http, auth=who, trust_env=False, timeout=30) as client:
        yield client
    hub.stop()


def fill(client: httpx.Client) -> None:
    """What requests may find; most of it is there already."""
    client.post("/v1/hubs/r/events", json=[{"kw": 1}, "text"])
    client.post("/v1/groups/g/positions", json={"hub": "r", "positions": [{"partition": 0, "position": 0}]})
    client.post("/v1/policies", json={"name": "p", "rights": ["Send"]})
    client.post("/v1/schemagroups", json={"name": "sg"})
    client.post("/v1/schemagroups/sg/schemas", json={"name": "s", "format": "Avro", "definition": '"string"'})


def query_value(call: Call, parameter: dict[str, Any]) -> st.SearchStrategy[str]:
    plain = values(parameter["schema"]).map(str)
    known = KNOWN.get(parameter["name"], (1, "earliest", "2016-06-14T07:45:00Z"))
    return st.sampled_from(known).map(str) | plain | TEXTS


def bodies(call: Call) -> st.SearchStrategy[tuple[str, bytes]]:
    """Content type and body."""
    content = call.told.get("requestBody", {}).get("content")
    if content is None:
        return st.just(("", b""))
    made = []
    for media, told in content.items():
        texts = ANYTHING.map(json.dumps) | st.text(PRINTABLE, max_size=30)
        if "json" in media and "schema" in told:
            fitting = values(told["schema"]).map(json.dumps)
            texts = fitting | fitting | fitting | texts
        made.append(st.tuples(st.just(media.replace("*/*", "text/plain")), texts.map(str.encode)))
    return st.one_of(made) | st.one_of(made) | st.tuples(HEADER_VALUES, st.binary(max_size=30))


@st.composite
def requests(draw: st.DrawFn, call: Call) -> httpx.Request:
    path, query, headers = call.path, [], {}
    for parameter in call.told["parameters"]:
        name = parameter["name"]
        if parameter["in"] == "path":
            there = st.sampled_from(KNOWN[name])
            names = there | there | there | TEXTS.filter(lambda text: text not in (".", ".."))
            path = path.replace(f"{{{name}}}", quote(str(draw(names)), safe="/" if name == "path" else ""))
        elif parameter["required"] or draw(st.booleans()):
            if parameter["in"] == "header":
                headers[name] = draw(HEADER_VALUES)
            else:
                query.append((name, draw(query_value(call, parameter))))
    content_type, body = draw(bodies(call))
    if content_type:
        headers["content-type"] = content_type
    return httpx.Request(call.method, "http://127.0.0.1" + path, params=query, headers=headers, content=body)


def send(client: httpx.Client, request: httpx.Request) -> httpx.Response:
    """The answer; of a stream its beginning."""
    url = client.base_url.copy_with(raw_path=request.url.raw_path)
    headers = {name: value for name, value in request.headers.items() if name in ("content-type", "last-event-id")}
    with client.stream(request.method, url, headers=headers, content=request.content) as answer:
        if not answer.headers.get("content-type", "").startswith(STREAM):
            answer.read()
        return answer


@pytest.mark.parametrize("call", [pytest.param(call, id=call.told["operationId"]) for call in calls(DOCUMENT)])
def test_answers_are_those_of_the_document(client: httpx.Client, call: Call) -> None:
    fill(client)

    @asked
    @given(requests(call))
    def ask(request: httpx.Request) -> None:
        answer = send(client, request)
        assert answer.status_code < 500, answer.text
        call.check(answer)

    ask()
    assert client.get("/readyz").status_code == 200
