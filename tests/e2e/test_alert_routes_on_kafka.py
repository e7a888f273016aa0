"""Routes of alerts of gateways over a Kafka cluster, see `on_kafka`; and two gateways that share a route."""

import contextlib
import os
import signal
import sys
import uuid
from pathlib import Path
from typing import Any, Final

import pytest

from hub_process import HubProcess
from kafka_cluster import KafkaCluster
from on_kafka import take
from webhook_receiver import Receiver

LEFT_OUT: Final[dict[str, str]] = {}

take("e2e/test_alert_routes", LEFT_OUT, globals())
routes: Any = sys.modules["on_kafka_test_alert_routes"]


@pytest.mark.timeout(300)
def test_when_the_gateway_that_delivers_is_killed_another_one_does(
    kafka: KafkaCluster, tmp_path: Path, receiver: Receiver
) -> None:
    flags = ("--broker", kafka.url, "--broker-prefix", f"t{uuid.uuid4().hex[:12]}.")
    one, two = HubProcess(tmp_path / "one", *flags), HubProcess(tmp_path / "two", *flags)
    try:
        routes.make_hub(one)
        routes.add(one, "ops", receiver)
        routes.tell(one, *(routes.found(number) for number in range(10)))
        routes.until(lambda: len({row["id"] for row in receiver.taken()}) == 10, "one of them delivers")
        routes.until(lambda: routes.route(two, "ops")["delivered"] >= 10, "the other one knows")
        (worker,) = [row["pid"] for row in one.get("/v1/status")["workers"] if row["name"] == "router"]
        one.kill()
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
        routes.tell(two, *(routes.found(number) for number in range(10, 20)))
        routes.until(lambda: len({row["id"] for row in receiver.taken()}) == 20, "the other one delivers")
        routes.until(lambda: routes.route(two, "ops")["delivered"] >= 20, "and goes on counting")
    finally:
        two.stop()
        one.stop()
