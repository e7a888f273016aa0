"""A real Apache Kafka on this machine: one node, or three with replication factor 3, in KRaft mode on loopback.

For the demo, tests and benchmarks. Every node is a process of its own that can be killed and started again. A guard
process holds a pipe from the process that started it and kills its node when the pipe closes, so no node survives,
however that process ends.
"""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import trustme
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from cryptography.hazmat.primitives import serialization

sys.path.insert(0, str(Path(__file__).resolve().parent))

import fetch_kafka

START_S: Final = 120.0
"""A JVM on a busy machine takes its time."""

USER: Final = "gateway"
PASSWORD: Final = "a password of this machine"
"""Known to the SASL listener, as PLAIN and as SCRAM-SHA-256 and -512."""

_GUARD: Final = """\
import os, subprocess, sys, threading
node = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
def end():
    while os.read(0, 64):
        pass
    node.kill()
threading.Thread(target=end, daemon=True).start()
os.write(int(os.environ["GUARD_TELLS"]), b"%d\\n" % node.pid)
os.close(int(os.environ["GUARD_TELLS"]))
sys.exit(node.wait() != 0)
"""

_JVM: Final = (
    "-Xms64m",
    "-Xmx384m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)

_PROPERTIES: Final = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},SECURE://127.0.0.1:{secure},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SECURE://127.0.0.1:{secure}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SECURE:SASL_SSL
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.secure.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
user_{user}="{password}";
listener.name.secure.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.secure.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.secure.ssl.keystore.type=PEM
listener.name.secure.ssl.keystore.location={keystore}
log.dirs={data}
default.replication.factor={replicas}
min.insync.replicas={insync}
offsets.topic.replication.factor={replicas}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={insync}
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.min.heartbeat.interval.ms=200
group.consumer.heartbeat.interval.ms=500
log.initial.task.delay.ms=500
log.retention.check.interval.ms=500
log.retention.ms=-1
log.cleaner.backoff.ms=500
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=4000
replica.lag.time.max.ms=4000
controller.quorum.election.timeout.ms=1000
controller.quorum.fetch.timeout.ms=2000
"""


def free_port() -> int:
    """A loopback port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Node:
    """One broker and controller. `port` stays the same over restarts."""

    def __init__(self, directory: Path, number: int) -> None:
        self.number = number
        self.directory = directory
        self.port, self.secure_port, self.controller_port = free_port(), free_port(), free_port()
        self.log = directory / "kafka.log"
        self._guard: subprocess.Popen[bytes] | None = None
        self.pid = 0

    @property
    def properties(self) -> Path:
        """Its settings file; may be edited between two starts."""
        return self.directory / "server.properties"

    @property
    def formatted(self) -> bool:
        """Whether its data directory was made before."""
        return (self.directory / "data" / "meta.properties").exists()

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._guard is not None and self._guard.poll() is None

    def start(self) -> None:
        """Start the process; does not wait until it serves."""
        assert not self.running
        told, tells = os.pipe()
        command = [fetch_kafka.java(), *_JVM, "-cp", f"{fetch_kafka.fetch()}{os.sep}*", "kafka.Kafka"]
        with self.log.open("ab") as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-S", "-c", _GUARD, *command, str(self.properties)],
                stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, cwd=self.directory,
                pass_fds=(tells,), env={**os.environ, "GUARD_TELLS": str(tells)}, start_new_session=True,
            )  # fmt: skip
        os.close(tells)
        with os.fdopen(told, "rb") as lines:
            self.pid = int(lines.readline())

    def kill(self) -> None:
        """SIGKILL: what it did not write is lost."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM: it hands its leaderships over first."""
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        if self._guard is None:
            return
        if self._guard.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
            try:
                self._guard.wait(START_S)
            except subprocess.TimeoutExpired:
                pass
        assert self._guard.stdin is not None
        self._guard.stdin.close()  # whatever still runs is killed by its guard
        self._guard.wait(START_S)


class KafkaCluster:
    """A cluster of one or three nodes on free loopback ports. Use as a context manager.

    Started again in the same directory it has what it had, on other ports.

    Raises:
        fetch_kafka.KafkaUnavailable: no Java, no Maven, or it does not start.
    """

    def __init__(self, directory: Path, nodes: int = 1) -> None:
        self.directory = directory
        self.nodes = [Node(directory / f"node{number}", number) for number in range(1, nodes + 1)]
        self.ca = directory / "ca.pem"
        self._prepare()

    @property
    def bootstrap(self) -> str:
        """`host:port` of every node, for clients without security."""
        return ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    @property
    def url(self) -> str:
        """What `gridwire up --broker` takes."""
        return f"kafka://{self.bootstrap}"

    @property
    def secure(self) -> str:
        """`host:port` of every node's SASL_SSL listener: `USER`, `PASSWORD`, authority in `ca`."""
        return ",".join(f"127.0.0.1:{node.secure_port}" for node in self.nodes)

    def _prepare(self) -> None:
        authority = trustme.CA()
        self.directory.mkdir(parents=True, exist_ok=True)
        authority.cert_pem.write_to_path(self.ca)
        keystore = self.directory / "node.pem"
        issued = authority.issue_cert("127.0.0.1", "localhost")
        key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )  # Java reads no other form
        keystore.write_bytes(key + b"".join(each.bytes() for each in issued.cert_chain_pems))
        voters = ",".join(f"{node.number}@127.0.0.1:{node.controller_port}" for node in self.nodes)
        replicas = len(self.nodes)
        for node in self.nodes:
            node.directory.mkdir(exist_ok=True)
            text = _PROPERTIES.format(
                node=node.number, port=node.port, secure=node.secure_port, controller=node.controller_port,
                voters=voters, user=USER, password=PASSWORD, keystore=keystore, data=node.directory / "data",
                replicas=replicas, insync=min(2, replicas),
            )  # fmt: skip
            node.properties.write_text(text)
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if cluster_id.startswith("-"):  # would be taken for an option
            cluster_id = "A" + cluster_id[1:]
        with ThreadPoolExecutor(replicas) as pool:
            list(pool.map(lambda node: _format(node, cluster_id), (n for n in self.nodes if not n.formatted)))

    def start(self) -> KafkaCluster:
        """Start all nodes that do not run and wait until all serve."""
        for node in self.nodes:
            if not node.running:
                node.start()
        self.await_ready()
        return self

    def await_ready(self, brokers: int | None = None) -> None:
        """Wait until the cluster names `brokers` live brokers (None: all), each of which answers itself."""
        wanted = len(self.nodes) if brokers is None else brokers
        deadline_s = time.monotonic() + START_S
        asked = [node for node in self.nodes if node.running]
        for node in asked:
            while _brokers_known_to(node) < wanted:
                if not node.running:
                    raise fetch_kafka.KafkaUnavailable(f"Kafka ended: {node.log.read_text(errors='replace')[-2000:]}")
                if time.monotonic() > deadline_s:
                    raise fetch_kafka.KafkaUnavailable(f"Kafka was not ready within {START_S:.0f} s")
                time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL every node."""
        for node in self.nodes:
            node.kill()

    def leader(self, topic: str, partition: int = 0) -> Node:
        """The node that leads a partition now."""
        described = AdminClient(_quiet(self.bootstrap)).list_topics(topic, timeout=30)
        number = described.topics[topic].partitions[partition].leader
        return next(node for node in self.nodes if node.number == number)

    def __enter__(self) -> KafkaCluster:
        try:
            return self.start()
        except BaseException:
            self.kill()
            raise

    def __exit__(self, *_: object) -> None:
        self.kill()


def _format(node: Node, cluster_id: str) -> None:
    tool = [fetch_kafka.java(), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx128m"]
    tool += ["-cp", f"{fetch_kafka.fetch()}{os.sep}*", "kafka.tools.StorageTool", "format"]
    users: Sequence[str] = [
        option
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
        for option in ("--add-scram", f'{mechanism}=[name="{USER}",password="{PASSWORD}"]')
    ]
    told = subprocess.run(
        [*tool, "-t", cluster_id, "-c", str(node.properties), *users],
        capture_output=True, text=True, timeout=START_S, check=False,
    )  # fmt: skip
    if told.returncode:
        raise fetch_kafka.KafkaUnavailable(f"Kafka's storage could not be formatted: {told.stderr[-500:]}")


def _quiet(address: str) -> dict[str, object]:
    return {"bootstrap.servers": address, "log_level": 0, "error_cb": lambda _: None}


def _brokers_known_to(node: Node) -> int:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", node.port)):
            return 0
    with contextlib.suppress(KafkaException):
        found = AdminClient(_quiet(f"127.0.0.1:{node.port}")).list_topics(timeout=5)
        return len(found.brokers) if found.controller_id > 0 else 0
    return 0
