"""Fetch Apache Qpid JMS from Maven's central repository, for tests.

    python scripts/fetch_qpid.py

Prints the directory with the jars; see fetch_kafka.py for where it lies and what it takes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from fetch_kafka import KafkaUnavailable, copied

VERSION: Final = "2.7.0"
SLF4J: Final = "2.0.17"

_POM: Final = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>gridwire</groupId>
  <artifactId>qpid-tools</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.qpid</groupId><artifactId>qpid-jms-client</artifactId><version>{qpid}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId><version>{slf4j}</version></dependency>
  </dependencies>
</project>
"""


def fetch() -> Path:
    """The directory with the jars, filled by Maven on first use. Raises KafkaUnavailable."""
    return copied(f"qpid-jms-{VERSION}", _POM.format(qpid=VERSION, slf4j=SLF4J), f"Qpid JMS {VERSION}")


if __name__ == "__main__":
    try:
        print(fetch())
    except KafkaUnavailable as problem:
        sys.exit(str(problem))
