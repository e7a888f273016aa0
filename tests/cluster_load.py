"""Readings through every head at once, for tests in which parts of a cluster die: Kafka directly, HTTP and AMQP through
gateways.

Each head has usage points of its own and sends an interval of a point at most once, so every reading is a value of its
own. What is acknowledged is remembered. What gets no answer, or a refusal, may be there or not, and is not sent again:
HTTP and AMQP have no idempotent producer.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from azure.eventhub import EventData, EventHubProducerClient
from confluent_kafka import KafkaError, Producer

ANSWER_S = 20.0
QUARTER_S = 0.1
"""How long a quarter of an hour takes here."""

QUIET: dict[str, Any] = {"error_cb": lambda _: None, "log_level": 0}


def quarter_text(quarter: int) -> str:
    return (datetime(2016, 1, 1) + timedelta(minutes=15 * quarter)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Clock:
    """Everybody's quarter of an hour: a head that was held up goes on where the others are."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()

    def quarter(self) -> int:
        return 1 + int((time.monotonic() - self._start_s) / QUARTER_S)


class Load:
    """A thread that sends a quarter hour of its usage points, partition by partition, until it is ended."""

    def __init__(self, clock: Clock, points: Sequence[str], partitions: int) -> None:
        self.acked: list[bytes] = []
        self.unanswered = 0
        self.problem: BaseException | None = None
        self._clock, self._points, self._partitions = clock, points, partitions
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> Load:
        self._thread.start()
        return self

    def _run(self) -> None:
        before = 0
        try:
            while not self._stop.wait(QUARTER_S / 4):
                quarter = self._clock.quarter()
                if quarter > before:
                    before = quarter
                    for number in range(self._partitions):
                        values = [reading(point, quarter) for point in self._points[number :: self._partitions]]
                        self._send(number, values)
        except BaseException as problem:
            self.problem = problem

    def _send(self, partition: int, values: list[bytes]) -> None:
        raise NotImplementedError

    def end(self) -> list[bytes]:
        """What was acknowledged, once nothing is under way any more."""
        self._stop.set()
        self._thread.join(10 * ANSWER_S)
        assert not self._thread.is_alive()
        if self.problem is not None:
            raise self.problem
        return self.acked


def reading(point: str, quarter: int) -> bytes:
    amount = (quarter * 7 + len(point) + ord(point[-1])) % 50 / 10
    fields = {"usage_point": point, "ts_end": quarter_text(quarter), "interval_s": 900}
    return json.dumps(fields | {"reading_type": "import_kwh", "value": amount}).encode()


class KafkaLoad(Load):
    """An unmodified idempotent producer, straight to the cluster; at its end all is acknowledged."""

    def __init__(self, clock: Clock, points: Sequence[str], partitions: int, bootstrap: str, topic: str) -> None:
        super().__init__(clock, points, partitions)
        settings = {"enable.idempotence": True, "acks": "all", "delivery.timeout.ms": 600_000, "linger.ms": 5}
        self._topic = topic
        self._producer = Producer({"bootstrap.servers": bootstrap, **settings, **QUIET})

    def _send(self, partition: int, values: list[bytes]) -> None:
        for value in values:
            self._producer.produce(self._topic, value, partition=partition, on_delivery=self._told(value))
        self._producer.poll(0)

    def _told(self, value: bytes) -> Callable[[KafkaError | None, Any], None]:
        def told(error: KafkaError | None, _: Any) -> None:
            assert error is None, error
            self.acked.append(value)

        return told

    def end(self) -> list[bytes]:
        super().end()
        assert self._producer.flush(10 * ANSWER_S) == 0
        return self.acked


class GatewayLoad(Load):
    """Goes from one gateway to the next whenever the one it talks to fails it."""

    def __init__(
        self, clock: Clock, points: Sequence[str], partitions: int, addresses: Sequence[str], hub: str
    ) -> None:
        super().__init__(clock, points, partitions)
        self._addresses, self._hub = list(addresses), hub
        self._turn = 0
        self._connection: Any = None

    def _send(self, partition: int, values: list[bytes]) -> None:
        try:
            if self._connection is None:
                self._connection = self._connect(self._addresses[self._turn % len(self._addresses)])
            self._call(partition, values)
        except Exception:  # whatever it is: unanswered, and another gateway's turn
            self.unanswered += len(values)
            self._turn += 1
            self._hang_up()
        else:
            self.acked += values

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()

    def end(self) -> list[bytes]:
        super().end()
        self._hang_up()
        return self.acked

    def _connect(self, address: str) -> Any:
        raise NotImplementedError

    def _call(self, partition: int, values: list[bytes]) -> None:
        raise NotImplementedError


class HttpLoad(GatewayLoad):
    """`POST /v1/hubs/HUB/events` over one connection."""

    def _connect(self, address: str) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(address.removeprefix("http://"), timeout=ANSWER_S)

    def _call(self, partition: int, values: list[bytes]) -> None:
        path = f"/v1/hubs/{self._hub}/events?partition={partition}"
        self._connection.request("POST", path, b"\n".join(values), {"content-type": "application/x-ndjson"})
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise ConnectionError(body)


class AmqpLoad(GatewayLoad):
    """An unmodified Azure SDK, told not to try again by itself."""

    def _connect(self, address: str) -> EventHubProducerClient:
        text = (
            f"Endpoint=sb://{address.removeprefix('amqp://')};SharedAccessKeyName=any;SharedAccessKey=any;"
            "UseDevelopmentEmulator=true"
        )
        return EventHubProducerClient.from_connection_string(text, eventhub_name=self._hub, retry_total=0)

    def _call(self, partition: int, values: list[bytes]) -> None:
        batch = self._connection.create_batch(partition_id=str(partition))
        for value in values:
            batch.add(EventData(value))
        self._connection.send_batch(batch, timeout=ANSWER_S)
