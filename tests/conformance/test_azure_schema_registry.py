"""The unmodified azure-schemaregistry client and its Avro and JSON encoders, over TLS, against a hub with sign-in."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.schemaregistry import SchemaFormat, SchemaRegistryClient
from azure.schemaregistry.aio import SchemaRegistryClient as AsyncSchemaRegistryClient
from azure.schemaregistry.encoder.avroencoder import AvroEncoder
from azure.schemaregistry.encoder.jsonencoder import JsonSchemaEncoder

from gridwire.address import HubAddress
from gridwire.azure import KeyCredential
from gridwire.azure.aio import KeyCredential as AsyncKeyCredential

READING = {
    "type": "record",
    "name": "Reading",
    "namespace": "org.example",
    "fields": [{"name": "meter", "type": "string"}, {"name": "kw", "type": "double"}],
}
WIDER = {**READING, "fields": [*READING["fields"], {"name": "phase", "type": ["null", "int"], "default": None}]}
BROKEN = {**READING, "fields": [*READING["fields"], {"name": "phase", "type": "int"}]}
GROUPS = {"readings": ("Avro", "Backward"), "alarms": ("Json", "Full"), "raw": ("Custom", "None")}
ALARM = {"$id": "alarm", "title": "alarm", "type": "object", "properties": {"kind": {"type": "string"}}}


class Served:
    """A hub with TLS and sign-in, and how to reach it."""

    def __init__(self, hub: Any, ca: Path, keys: dict[str, str]) -> None:
        self.hub, self.ca, self.keys = hub, ca, keys
        self.namespace = hub.http.removeprefix("https://")

    def client(self, who: str = "writer") -> SchemaRegistryClient:
        credential = KeyCredential(self.keys[who])
        return SchemaRegistryClient(self.namespace, credential, connection_verify=str(self.ca), retry_total=0)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, hub_process: Any) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_pem.write_to_path(directory / "key.pem")
    issued.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    tls = ("--tls-cert", str(directory / "cert.pem"), "--tls-key", str(directory / "key.pem"))
    hub = hub_process(directory / "data", "--auth", *tls, kafka_port="off")
    try:
        keys = {"root": (directory / "data" / "root.connection-string").read_text().strip()}
        address = HubAddress.found(hub.http, keys["root"], str(directory / "ca.pem"))
        with httpx.Client(**address.options()) as client:
            for name, rights, scope in (("writer", "Send", None), ("reader", "Listen", None), ("meter", "Send", "h")):
                made = client.post("/v1/policies", json={"name": name, "rights": [rights], "hub": scope}).json()
                keys[name] = f"Endpoint={hub.http};SharedAccessKeyName={name};SharedAccessKey={made['primary_key']}"
            keys["nobody"] = keys["writer"].replace("SharedAccessKey=", "SharedAccessKey=wrong")
            for group, (kind, rule) in GROUPS.items():
                made = client.post("/v1/schemagroups", json={"name": group, "format": kind, "compatibility": rule})
                assert made.status_code == 201
        yield Served(hub, directory / "ca.pem", keys)
    finally:
        hub.stop()


def test_register_and_read_back(served: Served) -> None:
    text = json.dumps(READING)
    with served.client() as client:
        made = client.register_schema("readings", "reading", text, SchemaFormat.AVRO)
        assert (made.version, made.group_name, made.name, made.format) == (1, "readings", "reading", SchemaFormat.AVRO)
        again = client.register_schema("readings", "reading", json.dumps(READING, indent=4), "Avro")
        assert (again.id, again.version) == (made.id, 1)
        wider = client.register_schema("readings", "reading", json.dumps(WIDER), "Avro")
        assert wider.version == 2
    with served.client("reader") as client:
        for found in (client.get_schema(made.id), client.get_schema(group_name="readings", name="reading", version=1)):
            assert (found.definition, found.properties.id, found.properties.version) == (text, made.id, 1)
            assert found.properties.format is SchemaFormat.AVRO
        assert client.get_schema_properties("readings", "reading", json.dumps(WIDER), "Avro").id == wider.id
        assert set(client._generated_client.list_schema_groups()) >= {"alarms", "raw", "readings"}
        assert list(client._generated_client.list_schema_versions("readings", "reading")) == [1, 2]


def test_encoders(served: Served) -> None:
    with served.client() as client:
        avro = AvroEncoder(client=client, group_name="readings", auto_register=True)
        message = avro.encode({"meter": "m-1", "kw": 3.5}, schema=json.dumps({**READING, "name": "Encoded"}))
        assert message["content_type"].startswith("avro/binary+")
        assert avro.decode(message) == {"meter": "m-1", "kw": 3.5}
        schema = json.dumps(
            {"$id": "alarm", "title": "alarm", "type": "object", "properties": {"kind": {"type": "string"}}}
        )
        client.register_schema("alarms", "alarm", schema, SchemaFormat.JSON)
        json_encoder = JsonSchemaEncoder(client=client, group_name="alarms", validate=lambda schema, content: None)
        packed = json_encoder.encode({"kind": "outage"}, schema=schema)
        assert json_encoder.decode(packed) == {"kind": "outage"}
        assert client.get_schema(packed["content_type"].partition("+")[2]).properties.format is SchemaFormat.JSON


def test_asyncio_and_custom_schemas(served: Served) -> None:
    async def ask() -> tuple[Any, Any]:
        credential = AsyncKeyCredential(served.keys["writer"])
        async with AsyncSchemaRegistryClient(
            served.namespace, credential, connection_verify=str(served.ca), retry_total=0
        ) as client:
            made = await client.register_schema("raw", "frame", "8 bytes, big-endian", SchemaFormat.CUSTOM)
            return made, await client.get_schema(made.id)

    made, found = asyncio.run(ask())
    assert (found.definition, found.properties.format) == ("8 bytes, big-endian", SchemaFormat.CUSTOM)
    assert found.properties.id == made.id


@pytest.mark.parametrize(
    ("group", "name", "definition", "kind", "status", "reason"),
    [
        ("nowhere", "s", READING, "Avro", 404, "no schema group"),
        ("readings", "a b", READING, "Avro", 400, "not allowed"),
        ("readings", "s", READING, "Json", 415, "format"),
        ("readings", "s", {"type": "recrod"}, "Avro", 400, "no Avro schema"),
        ("alarms", "s", [1], "Json", 400, "no JSON Schema"),
        ("readings", "kept", BROKEN, "Avro", 400, "phase"),
    ],
)
def test_refusals(served: Served, group: str, name: str, definition: Any, kind: str, status: int, reason: str) -> None:
    with served.client() as client:
        client.register_schema("readings", "kept", json.dumps(READING), "Avro")
        with pytest.raises(HttpResponseError, match=reason) as refused:
            client.register_schema(group, name, json.dumps(definition), kind)
        assert refused.value.status_code == status
        with pytest.raises(ResourceNotFoundError):
            client.get_schema("0" * 32)
        with pytest.raises(ResourceNotFoundError):
            client.get_schema(group_name="readings", name="kept", version=2)
        with pytest.raises(ResourceNotFoundError):
            client.get_schema_properties("readings", "kept", json.dumps(BROKEN), "Avro")


def test_rights(served: Served) -> None:
    with served.client("nobody") as client, pytest.raises(ClientAuthenticationError):
        client.get_schema("0" * 32)
    for who in ("reader", "meter"):
        with served.client(who) as client:
            with pytest.raises(HttpResponseError, match="Send") as refused:
                client.register_schema("readings", "mine", json.dumps(READING), "Avro")
            assert refused.value.status_code == 403
            with pytest.raises(ResourceNotFoundError):
                client.get_schema("0" * 32)


def test_command_line_and_audit(served: Served, gridwire_cli: Any, tmp_path: Path) -> None:
    file = tmp_path / "reading.avsc"
    file.write_text(json.dumps(READING))

    def cli(*arguments: str, check: bool = True) -> Any:
        return gridwire_cli(
            *arguments, "--url", served.hub.http, "--connection-string", served.keys["root"], check=check, ca=served.ca
        )

    cli("schema", "create-group", "meters", "--compatibility", "full")
    assert "version 1" in cli("schema", "register", "meters", "reading", str(file)).stdout
    assert "meters\tAvro\tFull\t1" in cli("schema", "list").stdout
    assert "reading\t1\t" in cli("schema", "list", "meters").stdout
    assert json.loads(cli("schema", "show", "meters", "reading").stdout) == READING
    file.write_text(json.dumps(BROKEN))
    assert (
        "not full compatible with version 1"
        in cli("schema", "register", "meters", "reading", str(file), check=False).stderr
    )
    assert "still has schemas" in cli("schema", "delete-group", "meters", check=False).stderr
    cli("schema", "delete", "meters", "reading", "--yes")
    cli("schema", "delete-group", "meters")
    deadline = time.monotonic() + 30
    wanted = {"http.POST.schemagroups", "http.POST.schemas", "http.DELETE.schemas", "http.DELETE.schemagroups"}
    address = HubAddress.found(served.hub.http, served.keys["root"], str(served.ca))
    with httpx.Client(**address.options()) as client:
        while True:
            events = client.get("/v1/hubs/__audit/events?limit=10000").json()["events"]
            if wanted <= {event["value"]["action"] for event in events}:
                return
            assert time.monotonic() < deadline, "changes of schemas are not in the audit hub"
            time.sleep(0.05)
