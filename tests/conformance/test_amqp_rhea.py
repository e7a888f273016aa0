"""rhea from npm, unmodified, against the AMQP head on a real port, with every way to sign in."""

from __future__ import annotations

import itertools
import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def clients(node_clients: Any) -> Any:
    return node_clients("rhea")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, hub_process: Any) -> Iterator[Any]:
    running = hub_process(tmp_path_factory.mktemp("rhea") / "data", "--no-workers")
    yield running
    running.stop()


@pytest.fixture
def case(clients: Any) -> Callable[..., None]:
    def run(name: str, address: str, hub_name: str, **options: Any) -> None:
        host, _, port = address.rpartition("/")[2].rpartition(":")
        clients.run("rhea.mjs", name, host, port, hub_name, OPTIONS=json.dumps(options))

    return run


@pytest.mark.parametrize("name", ["values", "settling", "credit", "large", "nodes", "reconnect", "signed"])
def test_case(case: Callable[..., None], hub: Any, name: str) -> None:
    hub_name = f"rhea-{next(_numbers)}"
    told = json.dumps({"name": hub_name, "partitions": 2}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{hub.http}/v1/hubs", told), timeout=120.0).close()
    case(name, hub.amqp, hub_name)


class Secured:
    """A hub with TLS and sign-in: its addresses, its root policy, and a client whose certificate it knows."""

    def __init__(self, directory: Path, hub_process: Any, cli: Any) -> None:
        self.directory = directory
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(directory / "ca.pem"))
        self._issue(authority, "server", "localhost", "127.0.0.1")
        self._issue(authority, "client", "meter-1.example")
        tls = ("--tls-cert", self.file("server.pem"), "--tls-key", self.file("server.key"))
        tls += ("--tls-client-ca", self.file("ca.pem"))
        self.hub = hub_process(directory / "data", "--auth", "--no-workers", *tls)
        root = (directory / "data" / "root.connection-string").read_text().strip()
        words = dict(part.split("=", 1) for part in root.split(";") if part)
        self.user, self.key = words["SharedAccessKeyName"], words["SharedAccessKey"]
        common = {"url": self.hub.http, "ca": directory / "ca.pem"}
        cli("policy", "create", "send", "--rights", "Send", "--connection-string", root, **common)
        cli("policy", "certificate", "meter-1.example", "--policies", "send", "--connection-string", root, **common)

    def _issue(self, authority: trustme.CA, name: str, *hosts: str) -> None:
        issued = authority.issue_cert(*hosts)
        issued.private_key_pem.write_to_path(self.file(f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(self.file(f"{name}.pem"))

    def file(self, name: str) -> str:
        return str(self.directory / name)

    @property
    def tls(self) -> dict[str, Any]:
        return {"transport": "tls", "ca": self.file("ca.pem"), "servername": "localhost"}

    @property
    def address(self) -> str:
        return f"amqps://localhost:{self.hub.amqps.rpartition(':')[2]}"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, hub_process: Any, gridwire_cli: Any) -> Iterator[Secured]:
    made = Secured(tmp_path_factory.mktemp("rhea-secured"), hub_process, gridwire_cli)
    yield made
    made.hub.stop()


def test_plain_over_tls(case: Callable[..., None], secured: Secured) -> None:
    case("signed", secured.address, "h", username=secured.user, password=secured.key, **secured.tls)


def test_a_certificate_signs_in(case: Callable[..., None], secured: Secured) -> None:
    shown = {"cert": secured.file("client.pem"), "key": secured.file("client.key"), "enable_sasl_external": True}
    case("signed", secured.address, "h", username=None, **shown, **secured.tls)


def test_a_wrong_key_and_no_sign_in_at_all_are_refused(case: Callable[..., None], secured: Secured) -> None:
    case("refused", secured.address, "h", username=secured.user, password="wrong", **secured.tls)
    case("refused", secured.address, "h", username=None, **secured.tls)
