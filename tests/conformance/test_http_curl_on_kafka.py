"""curl against a gateway, see `on_kafka`."""

from typing import Final

from on_kafka import take

LEFT_OUT: Final = {
    "test_the_first_event": "one broker, one copy: test_kafka_broker.py says what durable means here",
}

take("conformance/test_http_curl", LEFT_OUT, globals())
