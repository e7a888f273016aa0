"""Producers for the kill test, in a process of their own. Started by test_kill_hub.py, not a test.

Every producer writes its own numbers 0, 1, 2, ... to partition `number % partitions`, each in a 256-byte event that
carries its CRC. What the hub acknowledges goes to one file a producer, as (number, offset); that file lies outside
the hub and grows while it runs. Standard input closed means: flush and end. The last line of output is a JSON report.

First come the Kafka producers, which are idempotent: what was not acknowledged before a kill is sent again. Then those
of AMQP, which has no such thing: what was not accepted before a kill is in doubt and never sent again, so it is there
once or not at all. AMQP tells no offset; `ANYWHERE` stands for it.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import threading
import time
import zlib
from pathlib import Path

from amqp_peer import Peer, message
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from gridwire.wire.amqp.errors import AmqpError
from gridwire.wire.amqp.performatives import Accepted, Disposition

EVENT_BYTES = 256
HEAD = struct.Struct(">IIQ")
ACK = struct.Struct(">QQ")
WINDOW = 400
"""Unacknowledged events of one producer: enough to be killed in mid-flight, few enough to check afterwards."""
AMQP_WINDOW = 100
"""As above, over AMQP, where an answer comes sooner: with more, most events would be AMQP's."""
FLUSH_S = 60.0
ANYWHERE = (1 << 64) - 1
RECONNECT_S = 0.02
ANSWER_S = 5.0


def event(producer: int, number: int) -> bytes:
    """CRC, producer, number, and a filling that depends on both."""
    body = HEAD.pack(0, producer, number)[4:]
    body += (body * (EVENT_BYTES // len(body)))[: EVENT_BYTES - 4 - len(body)]
    return struct.pack(">I", zlib.crc32(body)) + body


class Numbered:
    """One producer and the files of what it was told."""

    def __init__(self, index: int, options: argparse.Namespace, stop: threading.Event) -> None:
        self.index = index
        self.hub = options.hub
        self.partitions = options.partitions
        self.next = self.acked = self.failed = 0
        self.fatal = ""
        self._stop = stop
        self._told = bytearray()
        self._file = (Path(options.directory) / f"acked-{index}.bin").open("ab", buffering=0)
        self._producer = Producer(
            {
                "bootstrap.servers": options.bootstrap,
                "enable.idempotence": not options.forgetful,
                "linger.ms": 2,
                "reconnect.backoff.ms": 20,
                "reconnect.backoff.max.ms": 100,
                "retry.backoff.ms": 20,
                "message.timeout.ms": 300_000,
                "topic.metadata.refresh.interval.ms": 10_000,
                "error_cb": self._error,
                "log_level": 0,
            }
        )

    def _error(self, error: KafkaError) -> None:
        if error.fatal():
            self.fatal = str(error)
            self._stop.set()

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.failed += 1
            self._error(error)
            return
        self.acked += 1
        head = message.value()[: HEAD.size]
        self._told += ACK.pack(HEAD.unpack(head)[2], message.offset())

    def work(self) -> None:
        """Fill the window and note what was acknowledged."""
        while self.next - self.acked - self.failed < WINDOW:
            partition = self.next % self.partitions
            value = event(self.index, self.next)
            self._producer.produce(self.hub, value, partition=partition, on_delivery=self._delivered)
            self.next += 1
        self._producer.poll(0.002)
        self._note()

    def _note(self) -> None:
        if self._told:
            self._file.write(self._told)
            self._told.clear()

    def end(self) -> None:
        """Wait for everything that is still on its way."""
        self._producer.flush(FLUSH_S)
        self._note()
        self._file.close()


class Accepting:
    """One AMQP producer with a link for each partition, and the file of what was accepted."""

    def __init__(self, index: int, options: argparse.Namespace) -> None:
        self.index = index
        self.address = options.amqp
        self.hub = options.hub
        self.partitions = options.partitions
        self.next = self.acked = self.failed = 0
        self.fatal = ""
        self._file = (Path(options.directory) / f"acked-{index}.bin").open("ab", buffering=0)
        self._peer: Peer | None = None
        self._flying: dict[int, int] = {}
        self._delivery_id = 0
        self._again_s = 0.0

    def work(self) -> None:
        """Connect if need be, fill the window and note what was accepted."""
        try:
            peer = self._peer or self._connect()
            if peer is None:
                return
            while len(self._flying) < AMQP_WINDOW:
                self._flying[self._delivery_id] = self.next
                payload = message(event(self.index, self.next))
                self.next += 1
                peer.transfer((self.next - 1) % self.partitions, self._delivery_id, payload)
                self._delivery_id += 1
            self._take(peer)
        except (OSError, AmqpError):
            self._lost()

    def _connect(self) -> Peer | None:
        if time.monotonic() < self._again_s:
            return None
        self._again_s = time.monotonic() + RECONNECT_S
        peer = Peer(self.address, wait_s=ANSWER_S)
        try:
            for partition in range(self.partitions):
                peer.attach_sender(partition, f"{self.hub}/Partitions/{partition}")
        except BaseException:
            peer.close()
            raise
        self._delivery_id = 0
        self._peer = peer
        return peer

    def _lost(self) -> None:
        """What was not accepted is in doubt: it is there once, or not at all."""
        if self._peer is not None:
            self._peer.close()
        self._peer = None
        self._flying.clear()

    def _take(self, peer: Peer) -> None:
        told = bytearray()
        try:
            for body, _ in peer.arrived():
                if isinstance(body, Disposition):
                    told += self._settled(body)
        finally:
            if told:
                self._file.write(told)

    def _settled(self, body: Disposition) -> bytes:
        told = b""
        for delivery_id in range(body.first, (body.first if body.last is None else body.last) + 1):
            number = self._flying.pop(delivery_id, None)
            if number is None:
                continue
            if isinstance(body.state, Accepted):
                self.acked += 1
                told += ACK.pack(number, ANYWHERE)
            else:
                self.failed += 1
        return told

    def end(self) -> None:
        """Wait for everything that is still on its way."""
        deadline_s = time.monotonic() + FLUSH_S
        while self._flying and time.monotonic() < deadline_s:
            try:
                assert self._peer is not None
                self._take(self._peer)
            except (OSError, AmqpError):
                self._lost()
            time.sleep(0.001)
        self._file.close()


def main() -> None:
    """Produce until told to end."""
    parser = argparse.ArgumentParser()
    for name in ("bootstrap", "hub", "directory"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--producers", type=int, default=4)
    parser.add_argument("--forgetful", action="store_true", help="without idempotence, for the negative control")
    parser.add_argument("--amqp", help="host:port of the AMQP head")
    parser.add_argument("--amqp-producers", type=int, default=2)
    options = parser.parse_args()
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    producers: list[Numbered | Accepting] = [Numbered(index, options, stop) for index in range(options.producers)]
    if options.amqp:
        producers += [Accepting(options.producers + index, options) for index in range(options.amqp_producers)]
    problem = ""
    while not stop.is_set():
        try:
            for producer in producers:
                producer.work()
        except (KafkaException, BufferError) as error:
            problem = str(error)
            break
        time.sleep(0.001)
    for producer in producers:
        producer.end()
    report = {name: [getattr(producer, name) for producer in producers] for name in ("next", "acked", "failed")}
    fatal = next((producer.fatal for producer in producers if producer.fatal), problem)
    print(json.dumps(report | {"fatal": fatal}), flush=True)


if __name__ == "__main__":
    main()
