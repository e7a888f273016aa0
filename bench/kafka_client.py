"""The unmodified Kafka client of the benchmarks: confluent-kafka, each run in a process of its own.

It writes idempotently with acks=all, linger 5 ms, batches of up to 1 MB, no compression; it reads with its default
fetch sizes. Two of its habits are kept out of the figures, for every server alike: an idempotent producer waits up to
half a second for its id (one event goes before the clock runs), and a consumer with 100,000 events in its queue pauses
for a second. Rates are of the client's clock, from the first call to the last acknowledgement, or from the first
message to the last.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import support

CLIENT_S: Final = 120.0

_PRODUCER: Final = {
    "acks": "all",
    "enable.idempotence": True,
    "linger.ms": 5,
    "batch.size": 1_000_000,
    "queue.buffering.max.messages": 1_000_000,
    "queue.buffering.max.kbytes": 1_000_000,
}
_CONSUMER: Final = {
    "group.id": "bench",
    "enable.auto.commit": False,
    "auto.offset.reset": "earliest",
    "queued.min.messages": 1_000_000,  # with the default of 100,000 the client itself pauses a second at a time
    "queued.max.messages.kbytes": 262_144,
    "fetch.queue.backoff.ms": 5,
}


# -- the client's side of the process ------------------------------------------------------------------------------


def client_produce(address: str, topic: str, size: int, count: int) -> dict[str, float]:
    """Send `count` events; the clock stops when the last one is acknowledged."""
    return _produce(address, [topic], size, count, 0)


def client_spread(address: str, topics: str, partitions: int, size: int, count: int) -> dict[str, float]:
    """The same, turn by turn to every partition of every topic; `topics` is `name*number`, see `topic_names`."""
    return _produce(address, topic_names(topics), size, count, partitions)


def _produce(address: str, topics: Sequence[str], size: int, count: int, partitions: int) -> dict[str, float]:
    import confluent_kafka as ck

    lost: list[Any] = []

    def delivered(error: Any, _: Any) -> None:
        if error is not None:
            lost.append(error)

    producer = ck.Producer(_PRODUCER | {"bootstrap.servers": address, "on_delivery": delivered})
    value = b"x" * size
    produce, poll = producer.produce, producer.poll
    # -1: whichever the client's own partitioner takes
    places = [(topic, number) for topic in topics for number in (range(partitions) if partitions else (-1,))]
    first = places[: min(count, len(places))]
    for topic, number in first:
        produce(topic, value, partition=number)
    producer.flush(CLIENT_S)  # connected, and the producer id is there: the client asks for it every half second only
    begun_s = time.perf_counter()
    left = count - len(first)
    for row in range(left):
        topic, number = places[row % len(places)]
        try:
            produce(topic, value, partition=number)
        except BufferError:
            poll(1)
            produce(topic, value, partition=number)
        if row % 10_000 == 0:
            poll(0)
    unsent = producer.flush(CLIENT_S)
    seconds = time.perf_counter() - begun_s
    if unsent or lost:
        raise SystemExit(f"{unsent} events were not acknowledged, {len(lost)} failed: {lost[:1]}")
    return {"events_s": left / seconds}


def client_consume(
    address: str, topics: str, partitions: int, start: int, count: int, within_s: float = CLIENT_S
) -> dict[str, float]:
    """Read `count` events from offset `start` of every partition on."""
    import confluent_kafka as ck

    consumer = ck.Consumer(_CONSUMER | {"bootstrap.servers": address})
    names = topic_names(topics)
    consumer.assign([ck.TopicPartition(topic, number, start) for topic in names for number in range(partitions)])
    deadline_s = time.perf_counter() + within_s
    messages = []
    while not messages and time.perf_counter() < deadline_s:
        messages = consumer.consume(1, 1)
    seen, begun_s = len(messages), time.perf_counter()
    while seen < count and time.perf_counter() < deadline_s:
        messages = consumer.consume(min(10_000, count - seen), 1)  # asked for more it would wait for more
        seen += len(messages)
        broken = next((message.error() for message in messages if message.error() is not None), None)
        if broken is not None:
            raise SystemExit(f"reading failed: {broken}")
    seconds = time.perf_counter() - begun_s
    consumer.close()
    if seen != count:
        raise SystemExit(f"{seen} of {count} events were read")
    return {"events_s": count / seconds}


def client_single(address: str, topic: str, size: int, count: int) -> dict[str, float]:
    """One event, its acknowledgement, the next: milliseconds each."""
    import confluent_kafka as ck

    producer = ck.Producer(_PRODUCER | {"bootstrap.servers": address, "linger.ms": 0})
    value, taken = b"x" * size, []
    for row in range(count + count // 10):
        begun_s = time.perf_counter()
        producer.produce(topic, value)
        if producer.flush(CLIENT_S):
            raise SystemExit("an event was not acknowledged")
        if row >= count // 10:  # the first ones find out where the partition is
            taken.append((time.perf_counter() - begun_s) * 1000)
    return {"p50_ms": support.percentile(taken, 0.5), "p99_ms": support.percentile(taken, 0.99)}


def topic_names(topics: str) -> list[str]:
    """`name*3` is name-0, name-1 and name-2; a name without a star is itself."""
    name, star, number = topics.partition("*")
    return [f"{name}-{row}" for row in range(int(number))] if star else [name]


_CLIENTS: Final = {
    "produce": client_produce,
    "spread": client_spread,
    "consume": client_consume,
    "single": client_single,
}


# -- the benchmark's side ------------------------------------------------------------------------------------------


def run_client(kind: str, address: str, topics: str, *numbers: int) -> dict[str, float]:
    """Run a client in a process of its own. Raises RuntimeError when it fails."""
    command = [sys.executable, __file__, kind, address, topics, *map(str, numbers)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=2 * CLIENT_S + 60, check=False)
    if told.returncode:
        raise RuntimeError(f"{kind} at {address} failed: {told.stderr[-500:]}")
    result: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
    return result


def make_topics(address: str, topics: str, partitions: int) -> None:
    """Create what `topic_names` says, each with so many partitions."""
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": address, "log_level": 4})
    wanted = [NewTopic(name, partitions, replication_factor=1) for name in topic_names(topics)]
    for future in admin.create_topics(wanted, operation_timeout=support.START_S).values():
        future.result(support.START_S)


def ends(address: str, topic: str, partitions: int) -> list[int]:
    """The offset the next event of each partition will have."""
    import confluent_kafka as ck

    consumer = ck.Consumer(_CONSUMER | {"bootstrap.servers": address})
    try:
        places = [ck.TopicPartition(topic, number) for number in range(partitions)]
        return [consumer.get_watermark_offsets(place, support.START_S)[1] for place in places]
    finally:
        consumer.close()


def drop_topic(address: str, topic: str) -> None:
    """Delete a topic and wait until it is gone, so that its name can be used again."""
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": address, "log_level": 4})
    for future in admin.delete_topics([topic]).values():
        future.result(support.START_S)
    deadline_s = time.perf_counter() + support.START_S
    while topic in admin.list_topics(timeout=10).topics:
        if time.perf_counter() > deadline_s:
            raise RuntimeError(f"{topic} was not deleted")
        time.sleep(0.05)


if __name__ == "__main__":
    kind, address, topics, *numbers = sys.argv[1:]
    print(json.dumps(_CLIENTS[kind](address, topics, *map(int, numbers))))
