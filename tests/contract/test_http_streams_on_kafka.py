"""The HTTP head's tests of streams over a Kafka cluster, see `http_on_kafka`."""

from typing import Final

from http_on_kafka import take

LEFT_OUT: Final[dict[str, str]] = {}

take("test_http_streams", LEFT_OUT, globals())
