"""A member of the storm's group: an unmodified client in a process of its own. Started by test_rebalance_storm.py.

It notes every event as (partition, offset) in its own file, works for a moment, and only then commits. Told to be
careless, it commits first and never notes: what the negative control is about.
"""

from __future__ import annotations

import argparse
import struct
import sys
import threading
import time
from pathlib import Path

from confluent_kafka import Consumer, KafkaException

WORK_S = 0.05
SEEN = struct.Struct(">IQ")


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("bootstrap", "hub", "group", "protocol", "seen"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--careless", action="store_true")
    options = parser.parse_args()
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    session = {"session.timeout.ms": 2000, "heartbeat.interval.ms": 300} if options.protocol == "classic" else {}
    consumer = Consumer(
        {
            "bootstrap.servers": options.bootstrap, "group.id": options.group, "group.protocol": options.protocol,
            "auto.offset.reset": "earliest", "enable.auto.commit": False, "log_level": 0, **session,
        }
    )  # fmt: skip
    consumer.subscribe([options.hub])
    with Path(options.seen).open("ab", buffering=0) as seen:
        while not stop.is_set():
            found = [message for message in consumer.consume(50, 0.05) if message.error() is None]
            if not found:
                continue
            if not options.careless:
                seen.write(b"".join(SEEN.pack(message.partition(), message.offset()) for message in found))
                time.sleep(WORK_S)  # long enough to be killed in between
            try:
                consumer.commit(asynchronous=False)
            except KafkaException:
                continue  # not ours any more: somebody else reads it again
            while options.careless and not stop.is_set():
                time.sleep(0.1)
    consumer.close()


if __name__ == "__main__":
    main()
