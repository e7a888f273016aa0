"""`gridwire doctor`, `gridwire verify`."""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gridwire.cli.client import HubClient
from gridwire.cli.output import Common, print_json, print_table, say, size_text
from gridwire.core.errors import GridwireError, Unavailable
from gridwire.log import disk

KAFKA: Final = "kafka"
REPLICAS_LEAST: Final = 3
INSYNC_LEAST: Final = 2
"""With three copies and two in sync one broker may fail: nothing is lost, and writing goes on."""

_FREE_BYTES_LEAST: Final = 2 * 1024**3
_SYNC_SAMPLES: Final = 100
_SYNC_MS_LEAST: Final = 0.02
"""No disk has written and flushed 4 KiB in less; a sync that returns sooner did nothing."""

_CHANNEL_BYTES: Final = 16_384
"""What the VEE rules hold of a channel."""

_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_ELSEWHERE: Final = ("nfs", "cifs", "smb", "9p", "virtiofs", "fuse", "overlay", "ceph", "glusterfs")
_NO_BARRIERS: Final = frozenset({"nobarrier", "barrier=0"})


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `verdict` is ok, warn or bad; `advice` says what to do about it."""

    verdict: str
    what: str
    found: str
    advice: str = ""


def doctor(*, data: Path = Path("gridwire-data"), common: Common = Common()) -> int:  # noqa: B008
    """Look at this machine and the hub, and say what an acknowledgement means here.

    Args:
        data: the data directory.
    """
    client = common.client()
    status = _status(client)
    on_kafka = status is not None and status["broker"]["kind"] == KAFKA
    findings = [] if on_kafka else [*_disk_findings(data)]  # a gateway keeps nothing on its disk
    findings += _hub_findings(client, status)
    if common.json:
        print_json([{name: getattr(f, name) for name in ("verdict", "what", "found", "advice")} for f in findings])
    else:
        for finding in findings:
            advice = f": {finding.advice}" if finding.advice else ""
            say(f"{finding.verdict:<4}  {finding.what:<12} {finding.found}{advice}")
    return 1 if any(finding.verdict == "bad" for finding in findings) else 0


def _disk_findings(data: Path) -> Iterator[Finding]:
    where = data if data.is_dir() else data.absolute().parent
    try:
        samples = _sync_times_ms(where)
    except OSError as error:
        yield Finding("bad", "disk", f"cannot write to {where}", f"{error.strerror}; check its owner and mode")
        return
    p50, p99 = statistics.median(samples), sorted(samples)[int(len(samples) * 0.99) - 1]
    slow = p99 > 50
    yield Finding(
        "warn" if slow else "ok",
        "disk sync",
        f"p50 {p50:.2f} ms, p99 {p99:.2f} ms for 4 KiB",
        "every acknowledgement waits for one; use a faster disk" if slow else "",
    )
    yield word_of(disk.mount_of(where), p50)
    free = disk.free_bytes(where)
    low = free < _FREE_BYTES_LEAST
    yield Finding("warn" if low else "ok", "disk free", size_text(free), "free space soon" if low else "")


def word_of(mount: disk.Mount | None, sync_ms: float) -> Finding:
    """Whether a finished sync means that the bytes outlive a power cut, as far as a program can see from above."""
    what = "disk's word"
    if mount is None:
        return Finding("warn", what, "this system does not tell what the disk is", _ASK)
    found = f"{mount.kind} on {mount.device}"
    if mount.kind in _IN_MEMORY:
        return Finding("bad", what, found, "it lies in memory and nothing of it outlives a power cut; choose another")
    if mount.options & _NO_BARRIERS:
        return Finding("bad", what, f"{found} without barriers", "syncs do not flush the drive; mount it with barriers")
    if mount.kind.startswith(_ELSEWHERE):
        return Finding("warn", what, found, f"whoever is behind it decides what a sync means; {_ASK}")
    if sync_ms < _SYNC_MS_LEAST:
        return Finding("warn", what, f"{found}, synced in {sync_ms:.3f} ms", f"no disk is that fast; {_ASK}")
    cache = f", cache {mount.write_cache}" if mount.write_cache else ""
    return Finding("ok", what, f"{found}{cache}, flushed by every sync")


def word_of_sign_in(auth: str) -> Finding:
    """What the hub's status says about sign-in: `on`, `off`, or `off (loopback only)`."""
    if auth == "on":
        return Finding("ok", "sign-in", auth)
    return Finding("warn", "sign-in", auth, "anybody who reaches the ports can read and write; start with --auth")


_ASK: Final = "see docs/reliability.md on how to try a power cut"


def _sync_times_ms(where: Path) -> list[float]:
    path = where / f".doctor-{os.getpid()}"
    descriptor = disk.open_file(path)
    try:
        times = []
        for number in range(_SYNC_SAMPLES):
            start = time.perf_counter()
            disk.write_all(descriptor, [b"\0" * 4096], number * 4096)
            disk.sync_data(descriptor)
            times.append((time.perf_counter() - start) * 1000)
        return times
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


def _status(client: HubClient) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = client.get("/v1/status")
    except Unavailable:
        return None
    return found


def _hub_findings(client: HubClient, status: dict[str, Any] | None) -> Iterator[Finding]:
    if status is None:
        yield Finding(
            "warn", "hub", f"none answers at {client.url}", "start one with `gridwire up`, or name it with --url"
        )
        return
    yield Finding("ok" if status["ready"] else "bad", "hub", f"version {status['version']} at {client.url}")
    yield from cluster_findings(status) if status["broker"]["kind"] == KAFKA else _embedded_findings(status)
    yield word_of_sign_in(status["auth"])
    yield from _worker_findings(status)
    if not status["ready"]:
        return
    yield from judged_findings(client.raw("/metrics").decode())
    for group in client.get("/v1/groups")["groups"]:
        behind = (group["lag_seconds"] or 0) > 60
        yield Finding(
            "warn" if behind else "ok",
            "lag",
            f"{group['group']}: {group['lag_events']:,} events",
            "add readers or look why they are slow" if behind else "",
        )


def cluster_findings(status: Mapping[str, Any]) -> Iterator[Finding]:
    """What an acknowledgement means on the Kafka cluster behind a gateway, and whose rules hold where."""
    broker = status["broker"]
    trouble = broker["trouble"]
    yield Finding(
        "bad" if trouble else "ok", "cluster", f"{broker['brokers']} brokers at {broker['address']}", trouble or ""
    )
    replicas, insync = broker["replication"], broker["min_insync"]
    advice = ""
    if insync < INSYNC_LEAST:
        advice = "an acknowledged event may be in one broker's memory only: set min.insync.replicas to 2"
    elif replicas < REPLICAS_LEAST:
        advice = "one broker down stops writing, for min.insync leaves no room: use replication factor 3"
    yield Finding(
        "warn" if advice else "ok",
        "ack means",
        f"in {insync} of {replicas} brokers at least (acks=all; the weakest hub counts)",
        advice,
    )
    yield Finding(
        "ok",
        "rights",
        f"gridwire's on its heads; Kafka's own for Kafka clients, at {status['endpoints']['kafka']}",
    )


def _embedded_findings(status: Mapping[str, Any]) -> Iterator[Finding]:
    meaning = {"fsync": "on disk", "os": "in the operating system's memory"}.get(
        status["durability"], f"on disk within {status['durability'].partition(':')[2]} ms"
    )
    kept = status["durability"] == "fsync"
    yield Finding(
        "ok" if kept else "warn", "ack means", meaning, "" if kept else "a power cut loses acknowledged events"
    )


def _worker_findings(status: Mapping[str, Any]) -> Iterator[Finding]:
    for worker in status["workers"]:
        fine = worker["state"] == "running"
        yield Finding(
            "ok" if fine else "bad",
            "worker",
            f"{worker['name']} {worker['state']}, {worker['restarts']} restarts",
            "" if fine else "look at the hub's log",
        )


def judged_findings(metrics: str) -> Iterator[Finding]:
    """Whether the VEE rules judge readings, by the text of /metrics."""
    told = re.search(r'^gridwire_part_count\{[^}]*"vee_channels_not_judged"[^}]*\} ([0-9.e+]+)', metrics, re.MULTILINE)
    if told is not None:
        channels = int(float(told[1]))
        yield Finding(
            "warn",
            "vee",
            f"readings of {channels:,} channels are summed and kept, but not judged by the VEE rules",
            f"that would take {channels * _CHANNEL_BYTES / 2**30:.1f} GiB: set vee_channels where there is as much",
        )


def verify(
    *,
    data: Path = Path("gridwire-data"),
    kill: int | None = None,
    durability: str = "fsync",
    common: Common = Common(),  # noqa: B008
) -> int:
    """Check the CRC-32C of every batch on disk. Reads only; works while the hub runs.

    With --kill, test this machine instead: a hub of its own is killed that many times under load, in a scratch
    directory beside the data directory, and everything acknowledged must be there afterwards.

    Args:
        data: the data directory.
        kill: how many times to kill.
        durability: of the hub that is killed: fsync, interval:MS or os.
    """
    if kill is not None:
        from gridwire.cli.crash_test import crash_test

        return crash_test(kill, durability, data, json=common.json)
    if not (data / "hubs").is_dir():
        raise GridwireError(f"{data} is no data directory of a hub: name one with --data")
    rows = [_verify_partition(path, name) for path, name in _partitions(data)]
    if common.json:
        print_json(rows)
    else:
        columns = ("hub", "partition", "batches", "events", "bytes", "damaged", "torn_bytes")
        print_table(columns, [[row[c] for c in columns] for row in rows], columns[1:])
        for row in rows:
            for place in row["places"]:
                say(f"damaged: hub {row['hub']} partition {row['partition']} {place}")
        damaged = sum(row["damaged"] for row in rows)
        say(f"{sum(row['batches'] for row in rows):,} batches checked, {damaged} damaged places")
    return 1 if any(row["damaged"] for row in rows) else 0


def _partitions(data: Path) -> Iterator[tuple[Path, str]]:
    yield data / "control", "__control"
    names = _hub_names(data)
    for hub in sorted((data / "hubs").iterdir(), key=lambda path: names.get(path.name, path.name)):
        for partition in sorted(hub.iterdir(), key=lambda path: int(path.name)):
            yield partition, names.get(hub.name, hub.name)


def _hub_names(data: Path) -> dict[str, str]:
    """Directory to hub name, from the control journal."""
    import msgspec

    from gridwire.broker.control import ControlState, HubRecord
    from gridwire.core.batch import decode
    from gridwire.log.scan import Found, scan

    state = ControlState()
    for path in sorted((data / "control").glob("*.log")):
        descriptor = disk.open_read(path)
        try:
            for found in scan(descriptor, 0, 0):
                if isinstance(found, Found):
                    raw = disk.read_at(descriptor, found.header.size, found.position)
                    state.apply({(event.key or b"").decode(): event.value for event in decode(raw)})
        finally:
            os.close(descriptor)
    hubs = ((name, msgspec.msgpack.decode(value, type=HubRecord)) for name, value in state.under("hub/"))
    return {record.id.replace("-", ""): name for name, record in hubs}


def _verify_partition(directory: Path, hub: str) -> dict[str, Any]:
    from gridwire.log.scan import Damage, scan
    from gridwire.log.segment import covered, current_files

    row: dict[str, Any] = {"hub": hub, "partition": int(directory.name) if directory.name.isdigit() else 0}
    row |= {"batches": 0, "events": 0, "bytes": 0, "damaged": 0, "torn_bytes": 0, "places": []}
    segments, _ = current_files(directory)
    expected: int | None = None
    for path in segments:
        if expected not in (None, covered(path)[0]):
            row["damaged"] += 1
            row["places"].append(f"offsets {expected} to {covered(path)[0] - 1} are missing before segment {path.name}")
        expected = covered(path)[0]
        descriptor = disk.open_read(path)
        try:
            end = 0
            for found in scan(descriptor, 0, covered(path)[0]):
                if isinstance(found, Damage):
                    row["damaged"] += 1
                    row["places"].append(f"segment {path.name}, position {found.start} to {found.end}")
                    continue
                row["batches"] += 1
                row["events"] += found.header.record_count
                end = found.position + found.header.size
                expected = found.header.next_offset
            size = os.fstat(descriptor).st_size
            row["bytes"] += end
            if end < size and path is not segments[-1]:
                row["damaged"] += 1
                row["places"].append(f"segment {path.name}, position {end} to its end at {size}")
            row["torn_bytes"] += size - end
        finally:
            os.close(descriptor)
    return row
