"""The HTTP head's tests of admin over a Kafka cluster, see `http_on_kafka`."""

from typing import Final

from http_on_kafka import take

LEFT_OUT: Final[dict[str, str]] = {}

take("test_http_admin", LEFT_OUT, globals())
