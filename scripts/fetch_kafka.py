"""Fetch Apache Kafka's Java client and its own tools from Maven's central repository, for tests and benchmarks.

    python scripts/fetch_kafka.py

Prints the directory with the jars. It lies in `.kafka/` beside the sources (git-ignored), so only the first run needs
a network. Needs Java 17 or newer and Maven; without them the caller is told why.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

VERSION: Final = "4.3.1"
SLF4J: Final = "1.7.36"
"""The logging backend for the major of slf4j-api that Kafka resolves."""

CACHE: Final = Path(__file__).resolve().parent.parent / ".kafka"
FETCH_S: Final = 600.0

_POM: Final = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>gridwire</groupId>
  <artifactId>kafka-tools</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{kafka}</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{kafka}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>{slf4j}</version></dependency>
  </dependencies>
</project>
"""


class KafkaUnavailable(Exception):
    """The Java client cannot be had here; the text says why."""


def java(program: str = "java") -> str:
    """Path of a program of Java 17 or newer. Raises KafkaUnavailable."""
    found = tool(program)
    told = subprocess.run([found, "-version"], capture_output=True, text=True, check=False)
    major = java_major(told.stderr or told.stdout)
    if major < 17:
        raise KafkaUnavailable(f"Java {major} is too old ({program} of 17 or newer is needed)")
    return found


def tool(program: str) -> str:
    """Path of a program that comes with Java. Raises KafkaUnavailable."""
    found = shutil.which(program)
    if found is None:
        raise KafkaUnavailable(f"Java is not installed ({program} of 17 or newer is needed)")
    return found


def java_major(told: str) -> int:
    """Major version out of what `java -version` or `javac -version` prints; 0 if it cannot be read."""
    number = told.split('"')[1] if '"' in told else told.split()[-1] if told.split() else ""
    parts = number.split(".")
    try:
        return int(parts[1]) if parts[0] == "1" else int(parts[0].split("-")[0])
    except (IndexError, ValueError):
        return 0


def copied(name: str, pom: str, what: str, cache: Path = CACHE) -> Path:
    """The directory `name` with the jars a POM asks for, filled by Maven on first use. Raises KafkaUnavailable."""
    libs = cache / name
    if (libs / ".complete").exists():
        return libs
    maven = shutil.which("mvn")
    if maven is None:
        raise KafkaUnavailable(f"Maven is not installed (it fetches {what})")
    cache.mkdir(parents=True, exist_ok=True)
    file = cache / f"{name}.pom.xml"
    file.write_text(pom)
    command = [maven, "-q", "-B", "-f", str(file), "dependency:copy-dependencies", f"-DoutputDirectory={libs}"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_S, check=False)
    except subprocess.TimeoutExpired:
        raise KafkaUnavailable(f"Maven did not fetch {what} within {FETCH_S:.0f} s") from None
    if told.returncode:
        reason = next((line for line in (told.stdout + told.stderr).splitlines() if "ERROR" in line), "no reason given")
        raise KafkaUnavailable(f"Maven could not fetch {what}: {reason[:200]}")
    (libs / ".complete").touch()
    return libs


def fetch(cache: Path = CACHE) -> Path:
    """The directory with Kafka's jars. Raises KafkaUnavailable."""
    pom = _POM.format(kafka=VERSION, slf4j=SLF4J)
    return copied(f"kafka-{VERSION}", pom, f"Apache Kafka {VERSION}", cache)


if __name__ == "__main__":
    try:
        print(fetch())
    except KafkaUnavailable as problem:
        sys.exit(str(problem))
