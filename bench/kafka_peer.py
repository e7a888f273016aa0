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
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final

from support import START_S, Server, free_port, scratch

VERSION: Final = "4.3.1"
SLF4J: Final = "1.7.36"
CACHE: Final = Path(__file__).resolve().parent.parent / ".kafka"
FETCH_S: Final = 600.0
STARTED: Final = "Kafka Server started"

_POM: Final = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>gridwire.bench</groupId>
  <artifactId>kafka-peer</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{kafka}</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{kafka}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>{slf4j}</version></dependency>
  </dependencies>
</project>
"""

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


class PeerUnavailable(Exception):
    """There is no Kafka to compare with; the text says why."""


def java() -> str:
    """Path of Java 17 or newer. Raises PeerUnavailable."""
    found = shutil.which("java")
    if found is None:
        raise PeerUnavailable("Java is not installed (17 or newer is needed)")
    told = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
    major = java_major(told)
    if major < 17:
        raise PeerUnavailable(f"Java {major} is too old (17 or newer is needed)")
    return found


def java_major(told: str) -> int:
    """Major version out of what `java -version` prints; 0 if it cannot be read."""
    quoted = told.split('"')
    number = quoted[1] if len(quoted) > 1 else ""
    parts = number.split(".")
    try:
        return int(parts[1]) if parts[0] == "1" else int(parts[0].split("-")[0])
    except (IndexError, ValueError):
        return 0


def fetch(cache: Path = CACHE) -> Path:
    """The directory with Kafka's jars, filled by Maven on first use. Raises PeerUnavailable."""
    libs = cache / f"kafka-{VERSION}"
    if (libs / ".complete").exists():
        return libs
    maven = shutil.which("mvn")
    if maven is None:
        raise PeerUnavailable("Maven is not installed (it fetches Apache Kafka)")
    cache.mkdir(parents=True, exist_ok=True)
    pom = cache / "pom.xml"
    pom.write_text(_POM.format(kafka=VERSION, slf4j=SLF4J))
    command = [maven, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={libs}"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_S, check=False)
    except subprocess.TimeoutExpired:
        raise PeerUnavailable(f"Maven did not fetch Apache Kafka within {FETCH_S:.0f} s") from None
    if told.returncode:
        reason = next((line for line in (told.stdout + told.stderr).splitlines() if "ERROR" in line), "no reason given")
        raise PeerUnavailable(f"Maven could not fetch Apache Kafka {VERSION}: {reason[:200]}")
    (libs / ".complete").touch()
    return libs


class Kafka(Server):
    """One Kafka node on free loopback ports; `kafka` is its address, `start_s` the time until it says it is started.

    Args:
        directory: an empty one, for its data and its log.
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
        self._format([program, *classpath], properties)
        begun_s = time.perf_counter()
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [program, *_JVM, *_QUIET, *classpath, "kafka.Kafka", str(properties)],
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=directory,
            )  # fmt: skip
        try:
            self._await_start()
        except BaseException:
            self.stop()
            raise
        self.start_s = time.perf_counter() - begun_s

    def _format(self, command: list[str], properties: Path) -> None:
        tool = [*command, "kafka.tools.StorageTool"]
        made = subprocess.run([*tool, "random-uuid"], capture_output=True, text=True, timeout=START_S, check=False)
        cluster_id = (made.stdout.split() or [""])[-1]
        arguments = [*tool, "format", "-t", cluster_id, "-c", str(properties)]
        told = subprocess.run(arguments, capture_output=True, text=True, timeout=START_S, check=False)
        if told.returncode:
            raise PeerUnavailable(f"Kafka's storage could not be formatted: {(told.stderr or made.stderr)[-300:]}")

    def _await_start(self) -> None:
        deadline_s = time.perf_counter() + START_S
        while STARTED not in self._log.read_text(errors="replace"):
            if self.process.poll() is not None:
                raise PeerUnavailable(f"Kafka ended: {self._log.read_text(errors='replace')[-300:]}")
            if time.perf_counter() > deadline_s:
                raise PeerUnavailable(f"Kafka was not ready within {START_S:.0f} s")
            time.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flush", action="store_true", help="sync every message before it is acknowledged")
    options = parser.parse_args()
    with scratch("kafka") as directory:
        peer = Kafka(directory, flush=options.flush)
        print(f"Apache Kafka {VERSION} at {peer.kafka}, started in {peer.start_s:.1f} s", flush=True)
        try:
            peer.process.wait()
        except KeyboardInterrupt:
            pass
        finally:
            peer.stop()


if __name__ == "__main__":
    main()
