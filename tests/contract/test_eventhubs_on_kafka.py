"""Event Hubs' HTTP send API over a Kafka cluster, see `on_kafka`."""

from typing import Final

from on_kafka import take

LEFT_OUT: Final[dict[str, str]] = {}

take("unit/test_http_eventhubs", LEFT_OUT, globals())
