"""What tests of other people's clients share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trustme

from compacted_logs import write_compacted  # noqa: F401 - a fixture

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "scripts"))
import fetch_node  # noqa: E402

NODE_CASE_S = 120.0


def _absent(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def absent() -> Any:
    """Call it with the reason when a client cannot be had: the test is skipped, but CI insists on it."""
    return _absent


class NodeClients:
    """JavaScript clients from npm, as the lock file of one directory says; its scripts print `passed` at their end."""

    def __init__(self, name: str, absent: Any) -> None:
        self.scripts = HERE / name
        try:
            self._environment = fetch_node.environment(fetch_node.fetch(self.scripts))
        except fetch_node.NodeUnavailable as problem:
            absent(f"no JavaScript clients of {name}: {problem}")

    def run(self, script: str, *arguments: str, **environment: str) -> None:
        """Run one case."""
        command = ["node", str(self.scripts / script), *arguments]
        found = {**self._environment, **environment}
        done = subprocess.run(command, env=found, capture_output=True, text=True, timeout=NODE_CASE_S, check=False)
        assert done.stdout == "passed\n", done.stderr[-4000:]


@pytest.fixture(scope="session")
def node_clients(absent: Any) -> Any:
    """Give it a directory's name: the clients, fetched on first use."""
    return lambda name: NodeClients(name, absent)


class SecuredHub:
    """A hub with TLS and sign-in, and what its clients need: the root policy, and who vouches for it."""

    def __init__(self, directory: Path, hub_process: Any, cli: Any) -> None:
        self.ca = directory / "ca.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca))
        issued = authority.issue_cert("localhost", "127.0.0.1")
        issued.private_key_pem.write_to_path(str(directory / "key.pem"))
        issued.cert_chain_pems[0].write_to_path(str(directory / "cert.pem"))
        tls = ("--tls-cert", str(directory / "cert.pem"), "--tls-key", str(directory / "key.pem"))
        self._cli = cli
        self.hub = hub_process(directory / "data", "--auth", "--no-workers", *tls)
        self.root = (directory / "data" / "root.connection-string").read_text().strip()
        """The root policy's connection string."""

    def cli(self, *arguments: str) -> Any:
        """Run a `gridwire` command as root."""
        return self._cli(*arguments, "--connection-string", self.root, url=self.hub.http, ca=self.ca)

    def text(self, port: str = "") -> str:
        """Connection string of the root policy for an Azure SDK over TLS."""
        parts = dict(part.split("=", 1) for part in self.root.split(";") if part)
        name, key = parts["SharedAccessKeyName"], parts["SharedAccessKey"]
        return f"Endpoint=sb://localhost{port and ':' + port};SharedAccessKeyName={name};SharedAccessKey={key}"

    def port(self, way: str) -> str:
        """Port for a way: `amqps` or `websocket`."""
        address: str = self.hub.amqps if way == "amqps" else self.hub.http
        return address.rpartition(":")[2]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, hub_process: Any, gridwire_cli: Any) -> Iterator[SecuredHub]:
    """One hub with TLS and sign-in for a whole file."""
    secured = SecuredHub(tmp_path_factory.mktemp("secured"), hub_process, gridwire_cli)
    yield secured
    secured.hub.stop()
