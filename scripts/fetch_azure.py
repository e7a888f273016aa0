"""Fetch Azure's Event Hubs SDK for Java from Maven's central repository, for tests.

    python scripts/fetch_azure.py

Prints the directory with the jars, in `.kafka/` as those of `fetch_kafka`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from fetch_kafka import SLF4J, KafkaUnavailable, copied

BOM: Final = "1.3.8"
"""Azure's own list of versions that fit each other."""

VERSION: Final = "5.21.5"
"""The version of azure-messaging-eventhubs on that list."""

_POM: Final = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>gridwire</groupId>
  <artifactId>azure-eventhubs</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencyManagement><dependencies>
    <dependency><groupId>com.azure</groupId><artifactId>azure-sdk-bom</artifactId><version>{BOM}</version><type>pom</type><scope>import</scope></dependency>
  </dependencies></dependencyManagement>
  <dependencies>
    <dependency><groupId>com.azure</groupId><artifactId>azure-messaging-eventhubs</artifactId></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>{SLF4J}</version></dependency>
  </dependencies>
</project>
"""


def fetch() -> Path:
    """The directory with the jars. Raises KafkaUnavailable."""
    return copied(f"azure-eventhubs-{VERSION}", _POM, f"Azure's Event Hubs SDK {VERSION}")


if __name__ == "__main__":
    try:
        print(fetch())
    except KafkaUnavailable as problem:
        sys.exit(str(problem))
