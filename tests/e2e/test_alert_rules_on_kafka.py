"""Rules of users on a gateway: the tests of the hub again, with a Kafka cluster as its broker."""

from __future__ import annotations

from on_kafka import take

take("e2e/test_alert_rules", {}, globals())
