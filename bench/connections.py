"""How many single small events a second do 1, 50 and 500 connections get acknowledged, and how long does one take?

    python bench/connections.py [--quick] [--rounds N] [--no-peer]

What a fleet of meters does to a server: each connection sends one event of 100 B in a request of its own (Produce v3,
acks=all), waits for its acknowledgement and sends the next. Servers:

    gridwire       as it comes: fdatasync before every acknowledgement
    kafka          Apache Kafka as it comes: acknowledged from the page cache
    kafka flush    Apache Kafka with log.flush.interval.messages=1: synced before every acknowledgement

The hub has four partitions, a connection keeps to one of them. The client is not one of Kafka's: 500 of them would
need more of the machine than the servers do. It is one process with one `poll` loop that repeats prepared bytes and
reads the error code of every answer; it takes the same CPU from each server. Half a second goes before the clock runs.
Rates and milliseconds are of the client's clock, CPU is the whole server process. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

import support
from gridwire.core.batch import Event, encode
from kafka_client import make_topics
from kafka_peer import Kafka, PeerUnavailable
from support import Hub, Spread, percentile, spread_text

CONNECTIONS: Final = (1, 50, 500)
PARTITIONS: Final = 4
VALUE_BYTES: Final = 100
WARM_S: Final = 0.5
TOPIC: Final = "connections"
OURS, PEER, PEER_FLUSH = "gridwire", "kafka", "kafka flush"

_ANSWER = struct.Struct(f">ii i h{len(TOPIC)}s i i h")
"""Length, correlation, one topic, its name, one partition, its number, the error code; three fields more follow."""


# -- the client: a process of its own --------------------------------------------------------------------------------


def request(partition: int) -> bytes:
    """A whole Produce v3 request with one event.

    Source: Kafka protocol guide, Produce request and RequestHeader v1.
    """
    topic, client = TOPIC.encode(), b"bench"
    batch = encode([Event(b"x" * VALUE_BYTES, timestamp=time.time_ns() // 1_000_000)])
    header = struct.pack(f">hhih{len(client)}s", 0, 3, 1, len(client), client)
    body = struct.pack(f">hhiih{len(topic)}s", -1, -1, 30_000, 1, len(topic), topic)
    body += struct.pack(">iii", 1, partition, len(batch)) + batch
    return struct.pack(">i", len(header) + len(body)) + header + body


class Caller:
    """One connection with one event under way."""

    __slots__ = ("answer", "bytes", "sent_s", "socket")

    def __init__(self, host: str, port: int, partition: int) -> None:
        self.socket = socket.create_connection((host, port), 30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.bytes = request(partition)
        self.answer = b""
        self.sent_s = 0.0

    def send(self, now_s: float) -> None:
        self.sent_s = now_s
        self.socket.sendall(self.bytes)

    def received(self) -> bool:
        """Take what arrived; whether the answer is whole. Raises SystemExit when it is no acknowledgement."""
        part = self.socket.recv(4096)
        if not part:
            raise SystemExit("the server closed a connection")
        self.answer += part
        if len(self.answer) < 4 or len(self.answer) < 4 + int.from_bytes(self.answer[:4], "big"):
            return False
        error = _ANSWER.unpack_from(self.answer)[-1]
        if error:
            raise SystemExit(f"an event was refused with code {error}")
        self.answer = b""
        return True


def call(address: str, connections: int, seconds: float) -> dict[str, float]:
    """Keep one event under way on each connection for so long; rate and milliseconds of what was acknowledged."""
    host, _, port = address.rpartition(":")
    callers = [Caller(host, int(port), number % PARTITIONS) for number in range(connections)]
    poll = select.poll()
    for caller in callers:
        poll.register(caller.socket, select.POLLIN)
    by_descriptor = {caller.socket.fileno(): caller for caller in callers}
    taken: list[float] = []
    for caller in callers:
        caller.send(time.perf_counter())
    begun_s = time.perf_counter() + WARM_S
    end_s = begun_s + seconds
    now_s = 0.0
    while now_s < end_s:
        for descriptor, _ in poll.poll(30_000) or _silent():
            caller = by_descriptor[descriptor]
            if caller.received():
                now_s = time.perf_counter()
                if begun_s <= now_s < end_s:
                    taken.append((now_s - caller.sent_s) * 1000)
                caller.send(now_s)
    for caller in callers:
        caller.socket.close()
    return {"events_s": len(taken) / seconds, "p50_ms": percentile(taken, 0.5), "p99_ms": percentile(taken, 0.99)}


def _silent() -> list[tuple[int, int]]:
    raise SystemExit("no answer for 30 s")


# -- a round ---------------------------------------------------------------------------------------------------------


def run(server: Hub | Kafka, seconds: float) -> dict[str, float]:
    """Every number of connections once."""
    found: dict[str, float] = {}
    for connections in CONNECTIONS:
        support.settle(0.25)
        before_s = server.cpu_s
        told = _call_in_process(server.kafka, connections, seconds)
        cpu_s = server.cpu_s - before_s
        found |= {f"{name} {connections}": value for name, value in told.items()}
        found[f"cpu_us {connections}"] = cpu_s / (told["events_s"] * (seconds + WARM_S)) * 1e6
    found["memory_mb"] = server.memory_bytes / 1e6
    return found


def _call_in_process(address: str, connections: int, seconds: float) -> dict[str, float]:
    command = [sys.executable, __file__, "--client", address, str(connections), str(seconds)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120, check=False)
    if told.returncode:
        raise RuntimeError(f"{connections} connections to {address}: {told.stderr[-500:]}")
    result: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
    return result


def start_servers(stack: ExitStack, peer: bool) -> tuple[dict[str, Hub | Kafka], str]:
    """All servers that can be had with the hub in them, and why the peer is missing if it is."""
    servers: dict[str, Hub | Kafka] = {OURS: Hub(stack.enter_context(support.scratch("connections")), "--no-workers")}
    stack.callback(servers[OURS].stop)
    missing = "" if peer else "left out by --no-peer"
    try:
        for name, flush in ((PEER, False), (PEER_FLUSH, True)) if peer else ():
            servers[name] = Kafka(stack.enter_context(support.scratch("kafka")), flush=flush)
            stack.callback(servers[name].stop)
    except PeerUnavailable as error:
        missing = str(error)
    for server in servers.values():
        make_topics(server.kafka, TOPIC, PARTITIONS)
    return servers, missing


# -- the report ------------------------------------------------------------------------------------------------------


def goal_rows(found: Mapping[str, list[dict[str, float]]], missing: str) -> list[dict[str, Any]]:
    """What `make bench` puts into its table."""
    rows = []
    for connections in CONNECTIONS:
        for field, unit in (("events_s", "events/s"), ("p99_ms", "p99 ms")):
            for peer, shown in ((PEER_FLUSH, "kafka, flush"), (PEER, "kafka, no fsync")):
                name = f"{field} {connections}"
                theirs = [each[name] for each in found[peer]] if peer in found else missing
                what = f"single events, {connections} connection{'s'[: connections > 1]}, fsync, {unit}"
                rows.append(support.row(what, [each[name] for each in found[OURS]], shown, theirs))
    return rows


def print_tables(found: Mapping[str, list[dict[str, float]]]) -> None:
    fields = (("events_s", "events/s"), ("p50_ms", "p50 ms"), ("p99_ms", "p99 ms"), ("cpu_us", "CPU us"))
    lines = [
        [f"{connections} x {shown}", *_cells(found, f"{field} {connections}")]
        for connections in CONNECTIONS
        for field, shown in fields
    ]
    print(f"\nmedian (min to max) of {len(found[OURS])} rounds; CPU is the server's, an event")
    print(support.table(["connections", *found], [*lines, ["memory MB", *_cells(found, "memory_mb")]]))


def _cells(found: Mapping[str, list[dict[str, float]]], field: str) -> list[str]:
    return [spread_text(Spread.of([each[field] for each in rows])) for rows in found.values()]


def main() -> None:
    if sys.argv[1:2] == ["--client"]:
        address, connections, seconds = sys.argv[2:]
        print(json.dumps(call(address, int(connections), float(seconds))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter and fewer rounds")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--no-peer", action="store_true", help="without Apache Kafka")
    options = parser.parse_args()
    rounds, seconds = options.rounds or (1 if options.quick else 3), 1.0 if options.quick else 3.0
    about = support.heading("connections", rounds=rounds, seconds=seconds)
    support.touch_memory(1)
    with ExitStack() as stack:
        servers, missing = start_servers(stack, not options.no_peer)
        if missing:
            print(f"SKIPPED: Apache Kafka, {missing}")
        for server in servers.values():  # the peer's compiler needs about that
            _call_in_process(server.kafka, CONNECTIONS[-1], 2 * seconds)
        found = support.interleave({name: partial(run, each, seconds) for name, each in servers.items()}, rounds)
    print_tables(found)
    support.print_result(about | {"rows": goal_rows(found, missing)})


if __name__ == "__main__":
    main()
