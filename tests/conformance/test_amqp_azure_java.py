"""The unmodified azure-messaging-eventhubs from Maven against the AMQP head, on loopback, over TLS and over WebSocket.

One JVM runs every case (`java_azure/EventHubs.java`); it is started once for the whole file.
"""

from __future__ import annotations

import base64
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "scripts"))
import fetch_azure  # noqa: E402
import fetch_kafka  # noqa: E402

CASE_S = 150.0
PARTITIONS = {"processors": 4}
STORE_PASSWORD = "changeit"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
_numbers = itertools.count()


class Jvm:
    """A JVM that runs one case after the other."""

    def __init__(self, classes: Path, libs: Path, trusted: Path) -> None:
        settings = {
            "org.slf4j.simpleLogger.defaultLogLevel": "off",
            "javax.net.ssl.trustStore": trusted, "javax.net.ssl.trustStorePassword": STORE_PASSWORD,
        }  # fmt: skip
        command = [fetch_kafka.java(), "-Xmx256m", "-XX:TieredStopAtLevel=1"]
        command += [f"-D{name}={value}" for name, value in settings.items()]
        command += ["-cp", f"{classes}{os.pathsep}{libs}{os.sep}*", "EventHubs"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def case(self, cli: Any, name: str, connection_string: str, endpoint: str = "-", way: str = "amqp") -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        hub = f"java-{next(_numbers)}"
        cli("hub", "create", hub, "--partitions", str(PARTITIONS.get(name, 2)))
        self._process.stdin.write(f"{name} {connection_string} {hub} {endpoint} {way}\n")
        self._process.stdin.flush()
        patience = threading.Timer(CASE_S, self._process.kill)
        patience.start()
        answer = self._process.stdout.readline().strip()
        patience.cancel()
        assert answer, "the JVM ended, or did not answer in time"
        assert answer == "passed", base64.b64decode(answer).decode()

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def jvm(tmp_path_factory: pytest.TempPathFactory, absent: Any, secured: Any) -> Iterator[Jvm]:
    try:
        compiler, keytool, libs = fetch_kafka.java("javac"), fetch_kafka.tool("keytool"), fetch_azure.fetch()
    except fetch_kafka.KafkaUnavailable as problem:
        absent(f"no Event Hubs SDK for Java: {problem}")
        raise
    classes = tmp_path_factory.mktemp("classes")
    source = str(HERE / "java_azure" / "EventHubs.java")
    subprocess.run([compiler, "-cp", f"{libs}{os.sep}*", "-d", str(classes), source], check=True, timeout=120)
    trusted = classes / "trusted.p12"
    arguments = ["-importcert", "-noprompt", "-alias", "ca", "-file", str(secured.ca), "-keystore", str(trusted)]
    told = [keytool, *arguments, "-storetype", "PKCS12", "-storepass", STORE_PASSWORD]
    subprocess.run(told, check=True, timeout=120, capture_output=True)
    running = Jvm(classes, libs, trusted)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, hub_process: Any) -> Iterator[Any]:
    running = hub_process(tmp_path_factory.mktemp("azure-java") / "data", "--no-workers")
    yield running
    running.stop()


@pytest.mark.parametrize("name", ["sends", "positions", "latest", "owner", "processors"])
def test_on_loopback(jvm: Jvm, hub: Any, name: str) -> None:
    address = hub.amqp.removeprefix("amqp://")
    signed = "SharedAccessKeyName=anybody;SharedAccessKey=secret;UseDevelopmentEmulator=true"
    jvm.case(hub.cli, name, f"Endpoint=sb://{address};{signed}")


@pytest.mark.parametrize(
    ("name", "way"), [("positions", "amqps"), ("positions", "websocket"), ("refused", "amqps")]
)  # fmt: skip
def test_with_keys(jvm: Jvm, secured: Any, name: str, way: str) -> None:
    kind = "websocket" if way == "websocket" else "amqp"
    jvm.case(secured.cli, name, secured.text(), f"https://localhost:{secured.port(way)}", kind)
