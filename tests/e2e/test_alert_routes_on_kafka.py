"""Routes of alerts of gateways over a Kafka cluster, see `on_kafka`."""

from typing import Final

from on_kafka import take

LEFT_OUT: Final[dict[str, str]] = {}

take("e2e/test_alert_routes", LEFT_OUT, globals())
