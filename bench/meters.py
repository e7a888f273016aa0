"""A utility of any size for the benchmarks: its model, its readings as JSON events in record batches, a client that
sends them, and what the workers of the hub make of them."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import support
from gridwire.columnar.encode import encode_batch
from gridwire.grid.network import Feeder, Network, Transformer, UsagePoint
from gridwire.grid.network_parts import to_events
from gridwire.wire.kafka.codec import PRODUCE, decode_response, encode_request

POINTS_PER_TRANSFORMER: Final = 50
TRANSFORMERS_PER_FEEDER: Final = 40
INTERVAL_S: Final = 900
BATCH_READINGS: Final = 7_000
"""About a mebibyte, what Apache Kafka takes in one batch unless told otherwise."""

CATCH_UP_S: Final = 1_200.0
_PRODUCE_VERSION: Final = 7


def network(points: int) -> Network:
    """Usage points under transformers under feeders; nobody's names are alike."""
    transformers = -(-points // POINTS_PER_TRANSFORMER)
    return Network(
        name=f"{points} meters",
        transformers=tuple(
            Transformer(id=f"T{i:06d}", rated_kva=400.0, substation=f"S{i // 1000:03d}") for i in range(transformers)
        ),
        feeders=tuple(Feeder(id=f"F{i:05d}") for i in range(-(-transformers // TRANSFORMERS_PER_FEEDER))),
        usage_points=tuple(
            UsagePoint(id=f"UP{i:08d}", transformer=f"T{t:06d}", feeder=f"F{t // TRANSFORMERS_PER_FEEDER:05d}")
            for i in range(points)
            for t in [i // POINTS_PER_TRANSFORMER]
        ),
    )


def make_hubs(hub: support.Hub, partitions: int) -> None:
    """Those of a utility's readings and network model, where a worker has not made them yet."""
    import urllib.error

    for name, count in (("readings", partitions), ("grid.network", 1)):
        try:
            hub.request("POST", "/v1/hubs", {"name": name, "partitions": count})
        except urllib.error.HTTPError as error:
            if error.code != 409:
                raise


def publish(hub: support.Hub, points: int) -> int:
    """Make the model current; the number of events it took."""
    import urllib.request

    count = 0
    for value in to_events(network(points)):
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{hub.http}/v1/hubs/grid.network/events?key=network", value, headers)
        urllib.request.urlopen(request, timeout=support.START_S).close()
        count += 1
    return count


@dataclass(frozen=True, slots=True)
class Frame:
    """A produce request of one batch: `count` readings, `watt_hours` in all."""

    data: bytearray
    count: int
    watt_hours: int


def frames(points: int, ts_end_s: int, partitions: int, seed: int = 1) -> Iterator[Frame]:
    """One interval's readings of every usage point, turn by turn for each partition; the meters of a transformer
    share a partition."""
    per_partition = -(-points // partitions)
    per_partition = -(-per_partition // POINTS_PER_TRANSFORMER) * POINTS_PER_TRANSFORMER
    amounts = np.random.default_rng((seed, ts_end_s)).integers(0, 1_500, points)
    for within in range(0, per_partition, BATCH_READINGS):
        for partition in range(partitions):
            first = partition * per_partition + within
            last = min(first + BATCH_READINGS, (partition + 1) * per_partition, points)
            if first < last:
                yield _frame(first, amounts[first:last], ts_end_s, partition)


def _frame(first: int, amounts: NDArray[np.int64], ts_end_s: int, partition: int) -> Frame:
    count = len(amounts)
    ts_end = datetime.fromtimestamp(ts_end_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    text = (
        f'{{"usage_point":"UP00000000","ts_end":"{ts_end}","interval_s":900,"reading_type":"import_kwh","value":0.000}}'
    )
    values = np.tile(np.frombuffer(text.encode(), np.uint8), (count, 1))
    points = np.arange(first, first + count)
    _digits(values, text.index("UP") + 2, 8, points)
    _digits(values, len(text) - 6, 1, amounts // 1000)
    _digits(values, len(text) - 4, 3, amounts % 1000)
    keys = np.tile(np.frombuffer(b"T000000", np.uint8), (count, 1))
    _digits(keys, 1, 6, points // POINTS_PER_TRANSFORMER)
    batch = encode_batch(_spans(values), _spans(keys), int(time.time() * 1000))
    part = {"Index": partition, "Records": bytes(batch)}
    body = {
        "TransactionalId": None,
        "Acks": -1,
        "TimeoutMs": 60_000,
        "TopicData": [{"Name": "readings", "PartitionData": [part]}],
    }
    return Frame(encode_request(PRODUCE, _PRODUCE_VERSION, 1, "bench", body), count, int(amounts.sum()))


def _digits(rows: NDArray[np.uint8], at: int, width: int, numbers: NDArray[np.int64]) -> None:
    for place in range(width):
        rows[:, at + place] = 48 + numbers // 10 ** (width - 1 - place) % 10


def _spans(rows: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int32]]:
    count, width = rows.shape
    return rows.reshape(-1), np.arange(count, dtype=np.int64) * width, np.full(count, width, np.int32)


class Sender:
    """Sends produce requests over several connections, each pipelined; every one must be accepted."""

    def __init__(self, address: str, connections: int = 4) -> None:
        host, _, port = address.rpartition(":")
        self._sockets = [socket.create_connection((host, int(port)), support.START_S) for _ in range(connections)]
        for each in self._sockets:
            each.settimeout(CATCH_UP_S)

    def send(self, requests: Sequence[Frame]) -> float:
        """Seconds until the last acknowledgement. Raises RuntimeError when one is refused."""
        problems: list[BaseException] = []
        begun_s = time.perf_counter()
        shares = [(each, requests[i :: len(self._sockets)]) for i, each in enumerate(self._sockets)]
        threads = [
            threading.Thread(target=_guarded, args=(work, each, share, problems), daemon=True)
            for each, share in shares
            for work in (_write, _read)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if problems:
            raise RuntimeError(f"sending failed: {problems[0]!r}")
        return time.perf_counter() - begun_s

    def close(self) -> None:
        for each in self._sockets:
            each.close()


def _guarded(work: Any, each: socket.socket, requests: Sequence[Frame], problems: list[BaseException]) -> None:
    try:
        work(each, requests)
    except BaseException as error:
        problems.append(error)


def _write(each: socket.socket, requests: Sequence[Frame]) -> None:
    for request in requests:
        each.sendall(request.data)


def _read(each: socket.socket, requests: Sequence[Frame]) -> None:
    stream = each.makefile("rb")
    for _ in requests:
        head = stream.read(4)
        _, told = decode_response(PRODUCE, _PRODUCE_VERSION, head + stream.read(struct.unpack(">i", head)[0]))
        part = told["Responses"][0]["PartitionResponses"][0]
        if part["ErrorCode"]:
            raise RuntimeError(f"the hub refused a batch with error {part['ErrorCode']}")


# -- what the workers made of it ------------------------------------------------------------------------------------

GROUPS: Final = {"summed": "grid.loads", "in the lake": "lake.capture"}


def await_groups(hub: support.Hub, begun_s: float, groups: dict[str, str] = GROUPS) -> dict[str, float]:
    """Seconds from `begun_s` until each group has committed everything that is in the hub `readings`."""
    ends = {row["partition"]: row["end"] for row in hub.request("GET", "/v1/hubs/readings")["bounds"]}
    found: dict[str, float] = {}
    while len(found) < len(groups):
        for name, group in groups.items():
            if name not in found and _reached(hub, group, ends):
                found[name] = time.perf_counter() - begun_s
        if time.perf_counter() - begun_s > CATCH_UP_S:
            raise RuntimeError(f"after {CATCH_UP_S:.0f} s only {sorted(found)} are done")
        time.sleep(0.05)
    return found


def _reached(hub: support.Hub, group: str, ends: dict[int, int]) -> bool:
    import urllib.error

    try:
        rows = hub.request("GET", f"/v1/groups/{group}")["partitions"]
    except urllib.error.HTTPError:
        return False
    behind = {row["partition"]: row["lag_events"] for row in rows if row["hub"] == "readings"}
    return all(end == 0 or behind.get(partition, end) == 0 for partition, end in ends.items())


def processes(hub: support.Hub) -> dict[str, dict[str, float]]:
    """Of the hub and each kind of worker: `bytes` of its own (without files it maps), `cpu_s` since its start."""
    import psutil

    root = psutil.Process(hub.process.pid)
    found: dict[str, dict[str, float]] = {}
    for process in [root, *root.children(recursive=True)]:
        try:
            words, times, own_bytes = process.cmdline(), process.cpu_times(), process.memory_full_info().uss
        except psutil.NoSuchProcess:  # a worker that has just made room for its successor
            continue
        name = words[words.index("worker") + 1] if "worker" in words[:-1] else "hub" if process == root else "other"
        sums = found.setdefault(name, {"bytes": 0, "cpu_s": 0})
        sums["bytes"] += own_bytes
        sums["cpu_s"] += times.user + times.system
    return found


def processes_text(found: dict[str, dict[str, float]]) -> str:
    """One line."""
    return "  ".join(f"{name} {row['bytes'] / 1e6:,.0f} MB {row['cpu_s']:.1f} CPU s" for name, row in found.items())


def summed(data: Path, ts_end_s: int) -> tuple[int, int]:
    """(watt-hours, readings) of the newest facts of all transformers for an interval, read from the log."""
    import orjson

    from gridwire.broker.local import LocalSource

    ts_end = datetime.fromtimestamp(ts_end_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    newest: dict[str, tuple[int, int, int]] = {}
    source = LocalSource(data, "bench", [], follow=["grid.transformers"])
    try:
        while any(source.lag().values()):
            for batch in source.poll(1.0):
                for row in range(len(batch.columns)):
                    fact = orjson.loads(batch.columns.value(row) or b"{}")
                    if fact["ts_end"] == ts_end and fact["version"] >= newest.get(fact["transformer"], (-1, 0, 0))[0]:
                        newest[fact["transformer"]] = (fact["version"], round(fact["import_kwh"] * 1000), fact["count"])
    finally:
        source.close()
    return sum(row[1] for row in newest.values()), sum(row[2] for row in newest.values())
