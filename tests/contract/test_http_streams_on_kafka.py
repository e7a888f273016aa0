"""The HTTP head's tests of streams over a Kafka cluster, see `on_kafka`."""

from typing import Final

from on_kafka import take

LEFT_OUT: Final[dict[str, str]] = {}

take("unit/test_http_streams", LEFT_OUT, globals())
