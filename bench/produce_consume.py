"""What rate does an unmodified Kafka client reach, and what does it cost the server?

    python bench/produce_consume.py [--quick] [--rounds N] [--partitions N] [--no-peer]

Servers, each a process of its own on this machine, one client process at a time:

    gridwire         as it comes: fdatasync before every acknowledgement
    gridwire os      --durability os: acknowledged from the page cache
    kafka            Apache Kafka as it comes: acknowledged from the page cache
    kafka flush      Apache Kafka with log.flush.interval.messages=1: synced before every acknowledgement

The client is confluent-kafka. It writes idempotently with acks=all, linger 5 ms, batches of up to 1 MB, no compression;
it reads with its default fetch sizes, only the pauses it makes when its queue is long are switched off. A round writes
events of 100 B and of 1 KB to a new topic of each server in turn, reads them back with consume(10,000), and sends
single events one at a time for the latency. One whole round goes before. Rates are of the client's clock, from the
first call to the last acknowledgement, or from the first message to the last. Before each run everything unsynced is
written out and memory is touched, so that nobody pays for what another one left behind. The server's CPU is its whole
process, all threads.

What is measured is server and client on the same cores: a server that needs less leaves more to the client. The ratios,
taken within each round, are the result. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import support
from kafka_peer import Kafka, PeerUnavailable
from support import Hub, Spread, pairwise, percentile, short, spread_text

CLIENT_S: Final = 120.0
SIZES: Final = {"100 B": 100, "1 KB": 1000}
OURS, OURS_OS, PEER, PEER_FLUSH = "gridwire", "gridwire os", "kafka", "kafka flush"

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


# -- the client: one process each ---------------------------------------------------------------------------------


def client_produce(address: str, topic: str, size: int, count: int) -> dict[str, float]:
    """Send `count` events; the clock stops when the last one is acknowledged."""
    import confluent_kafka as ck

    lost: list[Any] = []

    def delivered(error: Any, _: Any) -> None:
        if error is not None:
            lost.append(error)

    producer = ck.Producer(_PRODUCER | {"bootstrap.servers": address, "on_delivery": delivered})
    value = b"x" * size
    produce, poll = producer.produce, producer.poll
    produce(topic, value)
    producer.flush(CLIENT_S)  # connected, and the producer id is there: the client asks for it every half second only
    begun_s = time.perf_counter()
    for row in range(count - 1):
        try:
            produce(topic, value)
        except BufferError:
            poll(1)
            produce(topic, value)
        if row % 10_000 == 0:
            poll(0)
    left = producer.flush(CLIENT_S)
    seconds = time.perf_counter() - begun_s
    if left or lost:
        raise SystemExit(f"{left} events were not acknowledged, {len(lost)} failed: {lost[:1]}")
    return {"events_s": count / seconds}


def client_consume(
    address: str, topic: str, partitions: int, count: int, within_s: float = CLIENT_S
) -> dict[str, float]:
    """Read `count` events from the first one on."""
    import confluent_kafka as ck

    consumer = ck.Consumer(_CONSUMER | {"bootstrap.servers": address})
    consumer.assign([ck.TopicPartition(topic, number, 0) for number in range(partitions)])
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
    return {"p50_ms": percentile(taken, 0.5), "p99_ms": percentile(taken, 0.99)}


_CLIENTS: Final = {"produce": client_produce, "consume": client_consume, "single": client_single}


def run_client(kind: str, address: str, topic: str, *numbers: int) -> dict[str, float]:
    """Run a client in a process of its own. Raises RuntimeError when it fails."""
    command = [sys.executable, __file__, "--client", kind, address, topic, *map(str, numbers)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_S + 60, check=False)
    if told.returncode:
        raise RuntimeError(f"{kind} at {address} failed: {told.stderr[-500:]}")
    result: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
    return result


# -- a round ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """How much of everything a run sends, and what is done before each part of it."""

    counts: dict[str, int]
    singles: int
    partitions: int
    before: Callable[[], None] = support.settle


def run(server: Hub | Kafka, load: Load, number: list[int]) -> dict[str, float]:
    """Everything once with one server: produce and consume each size, then single sends."""
    found: dict[str, float] = {}
    for label, size in SIZES.items():
        number[0] += 1
        topic, count = f"bench-{number[0]}", load.counts[label]
        make_topic(server.kafka, topic, load.partitions)
        load.before()
        for kind, numbers in (("produce", (size, count)), ("consume", (load.partitions, count))):
            before_s = server.cpu_s
            rate = run_client(kind, server.kafka, topic, *numbers)["events_s"]
            found[f"{kind} {label}"] = rate
            found[f"{kind} {label} cpu"] = (server.cpu_s - before_s) / count * 1e6
        drop_topic(server.kafka, topic)
    make_topic(server.kafka, "single", 1)
    load.before()
    single = run_client("single", server.kafka, "single", 100, load.singles)
    drop_topic(server.kafka, "single")
    found |= single
    found["memory_mb"] = server.memory_bytes / 1e6
    return found


def make_topic(address: str, topic: str, partitions: int) -> None:
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": address, "log_level": 4})
    for future in admin.create_topics([NewTopic(topic, partitions)]).values():
        future.result(support.START_S)


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


def start_servers(stack: ExitStack, peer: bool) -> tuple[dict[str, Hub | Kafka], str]:
    """All servers that can be had, and why the peer is missing if it is."""
    servers: dict[str, Hub | Kafka] = {}
    for name, flags in ((OURS, ()), (OURS_OS, ("--durability", "os"))):
        directory = stack.enter_context(support.scratch("bench"))
        servers[name] = Hub(directory, "--no-workers", *flags)
        stack.callback(servers[name].stop)
    if not peer:
        return servers, "left out by --no-peer"
    try:
        for name, flush in ((PEER, False), (PEER_FLUSH, True)):
            directory = stack.enter_context(support.scratch("kafka"))
            servers[name] = Kafka(directory, flush=flush)
            stack.callback(servers[name].stop)
    except PeerUnavailable as error:
        return servers, str(error)
    return servers, ""


# -- the report ---------------------------------------------------------------------------------------------------

_MEASURES: Final = tuple(f"{kind} {label}" for label in SIZES for kind in ("produce", "consume"))


def print_tables(found: dict[str, list[dict[str, float]]]) -> None:
    names = list(found)

    def cells(field: str) -> list[str]:
        return [spread_text(Spread.of([row[field] for row in found[name]])) for name in names]

    print(f"\nevents a second, median (min to max) of {len(found[OURS])} rounds")
    print(support.table(["", *names], [[measure, *cells(measure)] for measure in _MEASURES]))
    rates = {measure: SIZES[measure.split(" ", 1)[1]] for measure in _MEASURES}
    medians = {m: [Spread.of([row[m] for row in found[name]]).median for name in names] for m in _MEASURES}
    print("\nMB/s, median")
    print(support.table(["", *names], [[m, *(f"{v * rates[m] / 1e6:.0f}" for v in medians[m])] for m in _MEASURES]))
    print("\nCPU seconds of the server per million events")
    print(support.table(["", *names], [[measure, *cells(f"{measure} cpu")] for measure in _MEASURES]))
    print("\none event at a time, 100 B, milliseconds; memory of the server after the round, MB")
    rows = [["p50 ms", "p50_ms"], ["p99 ms", "p99_ms"], ["memory MB", "memory_mb"]]
    print(support.table(["", *names], [[shown, *cells(field)] for shown, field in rows]))


def goal_rows(found: dict[str, list[dict[str, float]]], missing: str) -> list[dict[str, Any]]:
    """What `make bench` puts into its table."""
    rows = []
    for measure in _MEASURES:
        ours = [row[measure] for row in found[OURS]]
        goal = 1.0 if measure.startswith("produce") else None
        rows.append(
            _row(f"Kafka {measure}, fsync, events/s", ours, found, measure, PEER, "kafka, no fsync", goal, missing)
        )
        if measure.startswith("produce"):
            rows.append(
                _row(
                    f"Kafka {measure}, fsync, events/s", ours, found, measure, PEER_FLUSH, "kafka, flush", None, missing
                )
            )
    for field, shown in (("p50_ms", "p50"), ("p99_ms", "p99")):
        ours = [row[field] for row in found[OURS]]
        what = f"one event at a time, fsync, {shown} ms"
        rows.append(_row(what, ours, found, field, PEER_FLUSH, "kafka, flush", None, missing))
    return rows


def _row(
    what: str, ours: Sequence[float], found: dict[str, list[dict[str, float]]], field: str, peer: str, shown: str,
    goal: float | None, missing: str,
) -> dict[str, Any]:  # fmt: skip
    row: dict[str, Any] = {"what": what, "ours": Spread.of(ours).fields(), "peer": shown}
    if peer not in found:
        return row | {"skipped": missing, "goal_ratio": goal}
    theirs = [entry[field] for entry in found[peer]]
    ratio = Spread.of(pairwise(ours, theirs))
    return row | {"theirs": Spread.of(theirs).fields(), "ratio": ratio.fields(), "goal_ratio": goal}


def print_ratios(found: dict[str, list[dict[str, float]]]) -> None:
    print("\ngridwire with fsync against each peer, ratio within each round, median (min to max)")
    peers = [name for name in found if name != OURS]
    lines = []
    for measure in _MEASURES:
        ours = [row[measure] for row in found[OURS]]
        against = [Spread.of(pairwise(ours, [row[measure] for row in found[name]])) for name in peers]
        lines.append([measure, *(spread_text(ratio) for ratio in against)])
    print(support.table(["", *(f"/ {name}" for name in peers)], lines))


def measure_all(options: argparse.Namespace) -> None:
    rounds = options.rounds or (2 if options.quick else 5)
    counts = {"100 B": 150_000, "1 KB": 50_000} if options.quick else {"100 B": 1_000_000, "1 KB": 300_000}
    settle = partial(support.settle, 0.25) if options.quick else support.settle
    load = Load(counts, 100 if options.quick else 1000, options.partitions, settle)
    about = support.heading("produce_consume", rounds=rounds, partitions=options.partitions)
    print("sent a round: " + ", ".join(f"{short(count)} events of {label}" for label, count in counts.items()))
    support.touch_memory(1 if options.quick else 4)
    with ExitStack() as stack:
        servers, missing = start_servers(stack, not options.no_peer)
        if missing:
            print(f"SKIPPED: Apache Kafka, {missing}")
        number = [0]
        warm = Load(counts, load.singles, options.partitions, lambda: None)
        for server in servers.values():  # a whole round: the peer's compiler needs about that
            run(server, warm, number)
        found = support.interleave(
            {name: partial(run, server, load, number) for name, server in servers.items()}, rounds
        )
    print_tables(found)
    print_ratios(found)
    medians = {
        name: {field: round(Spread.of([row[field] for row in rows]).median, 3) for field in rows[0]}
        for name, rows in found.items()
    }
    support.print_result(about | {"medians": medians, "rows": goal_rows(found, missing)})


def main() -> None:
    if sys.argv[1:2] == ["--client"]:
        kind, address, topic, *numbers = sys.argv[2:]
        print(json.dumps(_CLIENTS[kind](address, topic, *map(int, numbers))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer events and rounds")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--partitions", type=int, default=1, help="of every topic [default: 1]")
    parser.add_argument("--no-peer", action="store_true", help="without Apache Kafka")
    measure_all(parser.parse_args())


if __name__ == "__main__":
    main()
