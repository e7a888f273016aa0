"""The HTTP head's tests of ingest over a Kafka cluster, see `on_kafka`."""

from typing import Final

from on_kafka import take

LEFT_OUT: Final = {
    "test_durable_is_said_only_when_synced": "one broker, one copy: test_kafka_broker.py says what durable means here",
}

take("unit/test_http_ingest", LEFT_OUT, globals())
