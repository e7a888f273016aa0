"""The two sides of `gridwire move` (a cluster, a hub that runs, a data directory), and what each is asked over HTTP."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import quote, urlsplit

from gridwire.auth.plain import parse_connection_string
from gridwire.broker.kafka_address import CLUSTER_DEFAULT, SCHEME, KafkaAddress
from gridwire.cli.client import HubClient
from gridwire.core.errors import GridwireError, InvalidSetting, NotAuthenticated

if TYPE_CHECKING:
    from gridwire.broker.identities import Identities

ANSWER_S: Final = 60.0
"""How long a hub of this process may take to open its log, or to do anything else."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """How to sign in to a cluster that is named by kafka://."""

    sasl: str = ""
    """PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"""
    user: str = ""
    """who to sign in as"""
    password_file: Path | None = None
    """the file his password is in"""
    tls: bool = False
    """encrypt; on by itself with one of the files"""
    ca: str = ""
    """authorities (PEM)"""
    cert: str = ""
    """client certificate (PEM)"""
    key: str = ""
    """its key (PEM)"""
    prefix: str = ""
    """in front of every topic and group of gridwire's"""
    gateway: str | None = None
    """HTTP address of a gateway of that cluster; policies, schemas and capture go through it"""

    def address(self, url: str, **more: Any) -> KafkaAddress:
        """The cluster with all of this. Raises InvalidSetting."""
        password = "" if self.password_file is None else self.password_file.read_text().strip()
        return KafkaAddress.parse(
            url, sasl=self.sasl, user=self.user, password=password, tls=self.tls, ca=self.ca, cert=self.cert,
            key=self.key, prefix=self.prefix, **more,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Target(Cluster):
    """The same of a destination, where topics are made."""

    replication: int = CLUSTER_DEFAULT
    """replication factor of topics made; -1 leaves it to the cluster"""
    min_insync: int = CLUSTER_DEFAULT
    """min.insync.replicas of topics made; -1 leaves it to the cluster"""


class Door(Protocol):
    """Where identities are asked for and put; see `gridwire.broker.identity_move`."""

    def recipient(self) -> bytes:
        """The public key to seal for."""
        ...

    def export(self, recipient: bytes) -> bytes:
        """Everything, sealed for the holder of a public key."""
        ...

    def take(self, sealed: bytes) -> dict[str, int]:
        """Add what was sealed for this side; counts by kind."""
        ...


class HttpDoor:
    """The door of a hub or gateway that serves HTTP."""

    def __init__(self, client: HubClient) -> None:
        self.client = client

    def recipient(self) -> bytes:
        """See `Door`."""
        return _bytes(self.client.get("/v1/identities/recipient")["recipient"])

    def export(self, recipient: bytes) -> bytes:
        """See `Door`."""
        return _bytes(self.client.post("/v1/identities/export", {"recipient": _text(recipient)})["sealed"])

    def take(self, sealed: bytes) -> dict[str, int]:
        """See `Door`."""
        found: dict[str, int] = self.client.post("/v1/identities/import", {"sealed": _text(sealed)})
        return found


class DirectDoor:
    """The door of a data directory that nobody serves at present: whoever may read it has its keys anyway."""

    def __init__(self, access: Identities, run: Callable[[Any], Any]) -> None:
        from gridwire.broker.identity_move import IdentityMove

        self._move = IdentityMove(access)
        self._run = run

    def recipient(self) -> bytes:
        """See `Door`."""
        return self._move.recipient()

    def export(self, recipient: bytes) -> bytes:
        """See `Door`."""
        found: bytes = self._run(self._move.export("gridwire move", recipient))
        return found

    def take(self, sealed: bytes) -> dict[str, int]:
        """See `Door`."""
        found: dict[str, int] = self._run(self._move.take("gridwire move", sealed))
        return found


@dataclasses.dataclass(frozen=True)
class Side:
    """A side as it was found.

    Args:
        client: of its HTTP API; None for a cluster without a gateway. door: for identities, where there is sign-in.
    """

    address: KafkaAddress
    client: HubClient | None
    door: Door | None


@contextlib.contextmanager
def opened(place: str, cluster: Cluster, connection_string: str | None, **more: Any) -> Iterator[Side]:
    """A side by what it is called on the command line. Raises Unavailable, InvalidSetting, NotAuthenticated."""
    if place.startswith(SCHEME):
        client = None if cluster.gateway is None else HubClient(cluster.gateway, connection_string=connection_string)
        signs_in = client is not None and client.get("/v1/status")["auth"] == "on"
        yield Side(cluster.address(place, **more), client, HttpDoor(client) if client and signs_in else None)
    elif place.startswith(("http://", "https://")):
        yield _by_status(place, connection_string)
    else:
        with _served(Path(place)) as side:
            yield side


def _by_status(url: str, connection_string: str | None) -> Side:
    """A hub that runs, which tells where its Kafka endpoint is."""
    client = HubClient(url, connection_string=connection_string)
    status = client.get("/v1/status")
    endpoint = status["endpoints"].get("kafka")
    if endpoint is None:
        raise InvalidSetting(f"{url} serves no Kafka: of a gateway name the cluster, and give the gateway beside it")
    host, port = urlsplit(client.url).hostname, endpoint.rpartition(":")[2]
    settings: dict[str, Any] = {"tls": status["tls"], "ca": os.environ.get("GRIDWIRE_CA_FILE", "")}
    if status["auth"] == "on":
        if connection_string is None:
            raise NotAuthenticated(f"{url} asks who calls: give the connection string of a policy with Manage")
        known = parse_connection_string(connection_string)
        settings |= {"sasl": "SCRAM-SHA-256", "user": known.name, "password": known.key}
    address = KafkaAddress.parse(f"{SCHEME}{f'[{host}]' if host and ':' in host else host}:{port}", **settings)
    return Side(address, client, HttpDoor(client) if status["auth"] == "on" else None)


@contextlib.contextmanager
def _served(directory: Path) -> Iterator[Side]:
    """A data directory, served for as long as the move takes on a loopback port, inside this process."""
    from gridwire import app, config
    from gridwire.broker.identities import Identities
    from gridwire.broker.key_file import KEY_FILE

    flags = {  # whatever a settings file says: on loopback, for this process
        "data": str(directory), "host": "127.0.0.1", "kafka_port": "0", "http_port": "0", "amqp_port": "off",
        "workers": False, "auth": False, "tls_cert": "", "tls_key": "", "entities": "",
    }  # fmt: skip
    hub = app.Hub(config.load(flags, environment={}))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="hub", daemon=True)
    thread.start()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(ANSWER_S)

    try:
        run(hub.start())
        try:
            access = None
            if (directory / KEY_FILE).exists():
                access = Identities(hub.broker, directory, hub.clock)
                run(access.open())
            endpoints = hub.endpoints()
            client = HubClient(endpoints["http"])
            door = None if access is None else DirectDoor(access, run)
            yield Side(KafkaAddress.parse(SCHEME + endpoints["kafka"]), client, door)
        finally:
            run(hub.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(ANSWER_S)


def moved_schemas(here: HubClient, there: HubClient) -> int:
    """Register every version of every schema there, in order; ids stay what they are in the events. Returns how many.

    Raises:
        GridwireError: the registry there has other schemas of the same names.
    """
    count = 0
    present = {group["name"] for group in there.get("/v1/schemagroups")["groups"]}
    for group in here.get("/v1/schemagroups")["groups"]:
        if group["name"] not in present:
            there.post("/v1/schemagroups", {name: group[name] for name in ("name", "format", "compatibility")})
        path = f"/v1/schemagroups/{quote(group['name'], safe='')}/schemas"
        for name in sorted({schema["name"] for schema in here.get(path)["schemas"]}):
            for version in here.get(f"{path}/{quote(name, safe='')}")["versions"]:
                body = {"name": name, "definition": version["definition"], "format": group["format"]}
                made = there.post(path, body)
                if (made["id"], made["version"]) != (version["id"], version["version"]):
                    raise GridwireError(f"schema {name!r} of group {group['name']!r} is another one at the destination")
                count += 1
    return count


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise GridwireError("the hub's answer is not Base64") from None


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
