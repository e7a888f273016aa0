"""`gridwire move`: hubs, settings, positions and identities from one side to the other, while both serve."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Protocol
from urllib.parse import urlsplit

from cyclopts import Parameter

from gridwire.auth.plain import parse_connection_string
from gridwire.broker.kafka_address import CLUSTER_DEFAULT, SCHEME, KafkaAddress
from gridwire.cli.client import HubClient, hub_path
from gridwire.cli.output import print_table, say
from gridwire.core.errors import GridwireError, InvalidSetting, NotAuthenticated

if TYPE_CHECKING:
    from gridwire.broker.identities import Identities
    from gridwire.move.mover import Progress, Result

ANSWER_S: Final = 60.0
SOURCE_KEY: Final = "GRIDWIRE_FROM_CONNECTION_STRING"
TARGET_KEY: Final = "GRIDWIRE_TO_CONNECTION_STRING"


@dataclasses.dataclass(frozen=True)
class _Cluster:
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
    """HTTP address of a gateway of that cluster; policies and capture go through it"""

    def address(self, url: str, **more: Any) -> KafkaAddress:
        password = "" if self.password_file is None else self.password_file.read_text().strip()
        return KafkaAddress.parse(
            url, sasl=self.sasl, user=self.user, password=password, tls=self.tls, ca=self.ca, cert=self.cert,
            key=self.key, prefix=self.prefix, **more,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Target(_Cluster):
    replication: int = CLUSTER_DEFAULT
    """replication factor of topics made; -1 leaves it to the cluster"""
    min_insync: int = CLUSTER_DEFAULT
    """min.insync.replicas of topics made; -1 leaves it to the cluster"""


class _Door(Protocol):
    """Where identities and settings that only gridwire knows are asked for and put."""

    def recipient(self) -> bytes: ...

    def export(self, recipient: bytes) -> bytes: ...

    def take(self, sealed: bytes) -> dict[str, int]: ...

    def set_capture(self, hub: str, table: str) -> None: ...


class _HttpDoor:
    """The door of a hub or gateway that serves HTTP."""

    def __init__(self, client: HubClient) -> None:
        self.client = client

    def recipient(self) -> bytes:
        return _bytes(self.client.get("/v1/identities/recipient")["recipient"])

    def export(self, recipient: bytes) -> bytes:
        return _bytes(self.client.post("/v1/identities/export", {"recipient": _text(recipient)})["sealed"])

    def take(self, sealed: bytes) -> dict[str, int]:
        found: dict[str, int] = self.client.post("/v1/identities/import", {"sealed": _text(sealed)})
        return found

    def set_capture(self, hub: str, table: str) -> None:
        self.client.patch(hub_path(hub), {"settings": {"capture": table}})


class _DirectDoor:
    """The door of a data directory that nobody serves at present: whoever may read it has its keys anyway."""

    def __init__(self, access: Identities, run: Callable[[Any], Any]) -> None:
        from gridwire.broker.identity_move import IdentityMove

        self._move = IdentityMove(access)
        self._run = run

    def recipient(self) -> bytes:
        return self._move.recipient()

    def export(self, recipient: bytes) -> bytes:
        found: bytes = self._run(self._move.export("gridwire move", recipient))
        return found

    def take(self, sealed: bytes) -> dict[str, int]:
        found: dict[str, int] = self._run(self._move.take("gridwire move", sealed))
        return found

    def set_capture(self, hub: str, table: str) -> None:
        raise InvalidSetting("an embedded hub takes capture with its topic")


@dataclasses.dataclass(frozen=True)
class _Side:
    """A side as it was found. `signs_in`: whether it asks who calls, which means that there are identities."""

    address: KafkaAddress
    door: _Door | None
    signs_in: bool


def move(
    *,
    from_: Annotated[str, Parameter(name="--from")],
    to: str,
    hub: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    follow: bool = False,
    identities: bool = True,
    source: Annotated[_Cluster, Parameter(name="--from")] = _Cluster(),
    target: Annotated[_Target, Parameter(name="--to")] = _Target(),
    from_connection_string: str | None = None,
    to_connection_string: str | None = None,
    output: Annotated[Literal["table", "json"], Parameter(name=["-o", "--output"], help="how to print")] = "table",
) -> None:
    """Move hubs, settings, positions of groups and identities to another place, while both serve.

    Either side is a Kafka cluster (kafka://host:9092,host2:9092), a hub that runs (http://host:8700), or the data
    directory of one that does not. What was moved is read back and compared. Started again it brings what came since.

    Args:
        from_: where from.
        to: where to.
        hub: only these hubs.
        follow: go on until Ctrl-C or SIGTERM, then check and hand the groups over.
        identities: policies, users, certificates and access control lists too, where the source has sign-in.
        from_connection_string: policy and key to sign in with [default: GRIDWIRE_FROM_CONNECTION_STRING].
        to_connection_string: the same for the destination [default: GRIDWIRE_TO_CONNECTION_STRING].
    """
    with contextlib.ExitStack() as stack:
        there = stack.enter_context(
            _opened(to, target, to_connection_string or os.environ.get(TARGET_KEY),
                    replication=target.replication, min_insync=target.min_insync)
        )  # fmt: skip
        here = stack.enter_context(_opened(from_, source, from_connection_string or os.environ.get(SOURCE_KEY)))
        screen = stack.enter_context(_screen(output == "json"))
        result = _moved(here, there, hub or [], screen, _stopped_by_signals() if follow else None)
        notes = _captured(there, result)
        counts, problem = _identities(here, there) if identities and here.signs_in else ({}, None)
        notes += [problem] if problem else []
    _print(result, counts, notes, as_json=output == "json")


def _moved(
    here: _Side, there: _Side, hubs: list[str], screen: Callable[[Progress], None], stop: threading.Event | None
) -> Result:
    from gridwire.move.mover import Mover
    from gridwire.move.side import Side

    mover = Mover(Side(here.address), Side(there.address), hubs, screen)
    return mover.run(follow=stop is not None, stop=stop)


def _captured(there: _Side, result: Result) -> list[str]:
    """Give hubs their captures through a gateway; what is left to be done by hand."""
    notes = []
    for hub, table in sorted(result.captures.items()):
        if there.door is not None:
            there.door.set_capture(hub, table)
        else:
            notes.append(f"hub {hub}: capture={table} was not moved, Kafka has no such config: give a --to.gateway")
    return notes


def _identities(here: _Side, there: _Side) -> tuple[dict[str, int], str | None]:
    if here.door is None or there.door is None:
        side = "--from.gateway" if here.door is None else "--to.gateway"
        return {}, f"policies and users were not moved: they are gridwire's, give a gateway ({side}) with sign-in"
    if not there.signs_in:
        return {}, "policies and users were not moved: sign-in is off at the destination"
    return there.door.take(here.door.export(there.door.recipient())), None


def _stopped_by_signals() -> threading.Event:
    """Set by the first Ctrl-C or SIGTERM; the second ends the program, and the next run goes on."""
    stop = threading.Event()

    def handle(number: int, _: Any) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
    return stop


# -- sides --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(place: str, cluster: _Cluster, connection_string: str | None, **more: Any) -> Iterator[_Side]:
    if place.startswith(SCHEME):
        client = None if cluster.gateway is None else HubClient(cluster.gateway, connection_string=connection_string)
        signs_in = client is not None and client.get("/v1/status").get("auth") == "on"
        yield _Side(cluster.address(place, **more), None if client is None else _HttpDoor(client), signs_in)
    elif place.startswith(("http://", "https://")):
        yield _by_status(place, connection_string)
    else:
        with _served(Path(place)) as side:
            yield side


def _by_status(url: str, connection_string: str | None) -> _Side:
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
    return _Side(address, _HttpDoor(client), status["auth"] == "on")


@contextlib.contextmanager
def _served(directory: Path) -> Iterator[_Side]:
    """A data directory, served for as long as the move takes on a loopback port, inside this process."""
    from gridwire import app, config
    from gridwire.broker.identities import KEY_FILE, Identities

    flags = {"data": str(directory), "kafka_port": "0", "http_port": "off", "workers": False, "auth": False}
    hub = app.Hub(config.load(flags, environment={}))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="hub", daemon=True)
    thread.start()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(ANSWER_S)

    try:
        run(hub.start())
        access = None
        if (directory / KEY_FILE).exists():
            access = Identities(hub.broker, directory, hub.clock)
            run(access.open())
        door = None if access is None else _DirectDoor(access, run)
        assert hub.kafka is not None
        yield _Side(KafkaAddress.parse(f"{SCHEME}127.0.0.1:{hub.kafka.port}"), door, door is not None)
        run(hub.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(ANSWER_S)


# -- what is shown ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _screen(as_json: bool) -> Iterator[Callable[[Progress], None]]:
    """Progress: a line of JSON each time, a bar on a terminal, else nothing."""
    if as_json:
        yield lambda told: _line(json.dumps(dataclasses.asdict(told)))
    elif not sys.stderr.isatty():
        yield lambda _: None
    else:
        from rich import progress
        from rich.console import Console

        columns = (
            "{task.description}",
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=Console(stderr=True)) as bar:
            tasks: dict[str, Any] = {}

            def show(told: Progress) -> None:
                if told.phase not in tasks:
                    tasks[told.phase] = bar.add_task(told.phase)
                bar.update(tasks[told.phase], completed=told.events, total=told.of)

            yield show


def _line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _print(result: Result, identities: dict[str, int], notes: list[str], *, as_json: bool) -> None:
    if as_json:
        told = {
            "partitions": [dataclasses.asdict(row) for row in result.partitions],
            "positions": [dataclasses.asdict(row) for row in result.positions],
            "identities": identities, "notes": notes,
        }  # fmt: skip
        _line(json.dumps(told))
        return
    columns = ("hub", "partition", "events", "checksum")
    print_table(columns, [dataclasses.astuple(row) for row in result.partitions], ("partition", "events"))
    if result.positions:
        say("")
        shown = ("group", "hub", "partition", "old", "new", "state")
        rows = [(row.group, row.hub, row.partition, row.source, row.target, row.state) for row in result.positions]
        print_table(shown, rows, shown[2:5])
    if any(identities.values()):
        say("moved: " + ", ".join(f"{count} {kind}" for kind, count in identities.items() if count))
    for note in notes:
        sys.stderr.write(f"note: {note}\n")


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise GridwireError("the hub's answer is not Base64") from None


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
