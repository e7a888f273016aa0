"""Late history on a gateway: the test of the hub again, with a Kafka cluster as its broker."""

from __future__ import annotations

from on_kafka import take

take("e2e/test_late_readings", {}, globals())
