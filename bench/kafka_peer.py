"""The peer: a real Apache Kafka, one node in KRaft mode, from its Maven artifacts.

    python bench/kafka_peer.py [--flush]

fetches it, starts it, prints its address and stops it on Ctrl-C. Needs Java 17 and Maven; the artifacts are kept in
`.kafka/` beside the sources (git-ignored) and Maven's own cache, so only the first run needs a network.

Two configurations: as it comes (an acknowledged record is in the page cache) and with `log.flush.interval.messages=1`
(synced before the acknowledgement, which is what gridwire does by default). Everything else is Kafka's default, with
the JVM flags of its own start script; only addresses, directories and the replication of internal topics on one node
are set.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from support import START_S, Server, free_port, scratch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from fetch_kafka import VERSION, fetch, java, java_major
from fetch_kafka import KafkaUnavailable as PeerUnavailable

__all__ = ["Kafka", "PeerUnavailable", "fetch", "java_major"]

STARTED: Final = "Kafka Server started"

_PROPERTIES: Final = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
"""

_JVM: Final = (
    "-Xms1g",
    "-Xmx1g",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-Djava.awt.headless=true",
)
"""What Kafka's own start script passes."""

_QUIET: Final = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
)


class Kafka(Server):
    """One Kafka node on free loopback ports; `kafka` is its address, `start_s` the time until it says it is started.

    Args:
        directory: for its data and its log: an empty one, or one that it had before.
        flush: sync every message before it is acknowledged.

    Raises:
        PeerUnavailable: it cannot be fetched or does not start.
    """

    def __init__(self, directory: Path, *, flush: bool = False) -> None:
        program, libs = java(), fetch()
        port, controller = free_port(), free_port()
        directory.mkdir(parents=True, exist_ok=True)
        properties = directory / "server.properties"
        text = _PROPERTIES.format(port=port, controller=controller, data=directory / "data")
        properties.write_text(text + ("log.flush.interval.messages=1\n" if flush else ""))
        classpath = ["-cp", f"{libs}{os.sep}*"]
        self.kafka = f"127.0.0.1:{port}"
        self._log = directory / "kafka.log"
        self._log.unlink(missing_ok=True)
        if not (directory / "data" / "meta.properties").exists():
            self._format([program, *classpath], properties)
        begun_s = time.perf_counter()
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [program, *_JVM, *_QUIET, *classpath, "kafka.Kafka", str(properties)],
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=directory,
            )  # fmt: skip
        self.await_word(STARTED, self._log, "Kafka", PeerUnavailable)
        self.start_s = time.perf_counter() - begun_s

    def _format(self, command: list[str], properties: Path) -> None:
        tool = [*command, "kafka.tools.StorageTool"]
        made = subprocess.run([*tool, "random-uuid"], capture_output=True, text=True, timeout=START_S, check=False)
        cluster_id = (made.stdout.split() or [""])[-1]
        arguments = [*tool, "format", "-t", cluster_id, "-c", str(properties)]
        told = subprocess.run(arguments, capture_output=True, text=True, timeout=START_S, check=False)
        if told.returncode:
            raise PeerUnavailable(f"Kafka's storage could not be formatted: {(told.stderr or made.stderr)[-300:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flush", action="store_true", help="sync every message before it is acknowledged")
    options = parser.parse_args()
    with scratch("kafka") as directory:
        peer = Kafka(directory, flush=options.flush)
        peer.serve(f"Apache Kafka {VERSION} at {peer.kafka}, started in {peer.start_s:.1f} s")


if __name__ == "__main__":
    main()
