"""`gridwire verify --kill N`: a hub of its own is killed again and again; what was acknowledged must be there.

Four idempotent producers send numbered events, each to a partition of its own, and repeat a batch until it is
acknowledged, as a client with idempotence does. The hub dies by SIGKILL at random moments and is started again on the
same directory. In the end every event is read back and compared with what was acknowledged.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from gridwire.cli.client import HubClient
from gridwire.cli.output import print_json, say
from gridwire.core.batch import Event, decode, encode
from gridwire.core.errors import GridwireError
from gridwire.log import disk
from gridwire.log.scan import Found, scan
from gridwire.log.segment import covered, current_files

HUB: Final = "crash-test"
PRODUCERS: Final = 4
BATCH_EVENTS: Final = 20
START_S: Final = 60.0
ACK_S: Final = 60.0
RUN_S: Final = (0.02, 0.4)
_FIRST_PRODUCER_ID: Final = 1 << 40  # far above what the hub gives to others
_RETRIABLE: Final = (3, 5, 6, 7)  # not there yet after a start


@dataclass(slots=True)
class Report:
    """What came of it. Recovery: from the start of the process until it says ready."""

    kills: int = 0
    acknowledged: int = 0
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    recovery_s: list[float] = field(default_factory=list)
    kept_at: str = ""

    @property
    def failed(self) -> bool:
        """Whether the hub broke its promise."""
        return bool(self.lost or self.duplicated or self.out_of_order or not self.acknowledged)


class Victim:
    """The hub that is killed: always the same directory and port."""

    def __init__(self, directory: Path, durability: str) -> None:
        self._directory = directory
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            second.bind(("127.0.0.1", 0))
            self._http_port, self.kafka_port = first.getsockname()[1], second.getsockname()[1]
        command = [sys.executable, "-m", "gridwire", "up", "--data", str(directory / "data"), "--host", "127.0.0.1"]
        command += ["--amqp-port", "off"]
        command += ["--kafka-port", str(self.kafka_port), "--http-port", str(self._http_port), "--no-workers"]
        self._command = [*command, "--durability", durability]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its HTTP address."""
        return f"http://127.0.0.1:{self._http_port}"

    def start(self) -> float:
        """Start it; returns the seconds until it was ready."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GRIDWIRE_")}
        began_s = time.monotonic()
        with (self._directory / "hub.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log, env=kept)
        watchdog = threading.Timer(START_S, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline() if self._process.stdout else b""
        finally:
            watchdog.cancel()
        if line.strip() != b"ready":
            raise GridwireError(f"the hub did not start again: see {self._directory / 'hub.log'}")
        return time.monotonic() - began_s

    def end(self, *, kill: bool) -> None:
        """SIGKILL, or SIGTERM."""
        process, self._process = self._process, None
        if process is None:
            return
        if kill:
            process.kill()
        else:
            process.terminate()
        process.wait()
        if process.stdout:
            process.stdout.close()


class Wire:
    """Produce requests (version 3) on one connection: all that an idempotent producer needs of the Kafka protocol."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), ACK_S)
        self._number = 0

    def produce(self, hub: str, partition: int, batch: bytes) -> tuple[int, int]:
        """Append a batch; returns (error code, offset)."""
        self._number += 1
        name = hub.encode()
        request = struct.pack(">hhih", 0, 3, self._number, -1)  # produce, version, number, no client id
        request += struct.pack(">hhii", -1, -1, 30_000, 1)  # no transaction, all acks, timeout, one topic
        request += struct.pack(">h", len(name)) + name + struct.pack(">iii", 1, partition, len(batch)) + batch
        self._socket.sendall(struct.pack(">i", len(request)) + request)
        answer = self._read(struct.unpack(">i", self._read(4))[0])
        code, offset = struct.unpack_from(">hq", answer, 4 + 4 + 2 + len(name) + 4 + 4)
        return code, offset

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            if not more:
                raise ConnectionError("the hub closed the connection")
            data += more
        return data

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class Sender(threading.Thread):
    """One idempotent producer. `acknowledged` is the number of its events that it was told are stored."""

    def __init__(self, port: int, partition: int, stop: threading.Event) -> None:
        super().__init__(name=f"crash-test-{partition}", daemon=True)
        self.acknowledged = 0
        self.wrong_offset = 0
        self.trouble = ""
        self._port = port
        self._partition = partition
        self._stop_asked = stop
        self._wire: Wire | None = None

    def run(self) -> None:
        """Send until told to stop; a batch on its way is repeated until it is acknowledged."""
        while not self._stop_asked.is_set() and not self.trouble:
            if self._send(self.acknowledged):
                self.acknowledged += BATCH_EVENTS
        if self._wire is not None:
            self._wire.close()

    def _send(self, first: int) -> bool:
        now_ms = time.time_ns() // 1_000_000
        events = [Event(b"%d" % (first + row), timestamp=now_ms) for row in range(BATCH_EVENTS)]
        producer_id = _FIRST_PRODUCER_ID + self._partition
        batch = encode(events, producer_id=producer_id, producer_epoch=0, base_sequence=first)
        deadline_s = time.monotonic() + START_S + ACK_S
        while time.monotonic() < deadline_s:
            try:
                self._wire = self._wire or Wire(self._port)
                code, offset = self._wire.produce(HUB, self._partition, bytes(batch))
            except OSError:
                self._wire = None
                time.sleep(0.01)
                continue
            if code == 0:
                self.wrong_offset += offset != first
                return True
            if code not in _RETRIABLE:
                self.trouble = f"partition {self._partition} answered Kafka error {code}"
                return False
            time.sleep(0.01)
        return False


def crash_test(kills: int, durability: str, beside: Path, *, json: bool) -> int:
    """Run it in a scratch directory beside `beside`, on the same disk; returns the exit code."""
    if kills < 1:
        raise GridwireError("--kill takes the number of kills, 1 or more")
    beside.absolute().parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="gridwire-crash-test-", dir=beside.absolute().parent))
    report = Report()
    try:
        _kill_again_and_again(directory, kills, durability, report, quiet=json)
    except BaseException:
        say(f"the data directory is kept in {directory}")
        raise
    if report.failed:
        report.kept_at = str(directory)
    else:
        shutil.rmtree(directory, ignore_errors=True)
    _print(report, durability, json=json)
    return 1 if report.failed else 0


def _kill_again_and_again(directory: Path, kills: int, durability: str, report: Report, *, quiet: bool) -> None:
    victim = Victim(directory, durability)
    stop = threading.Event()
    senders: list[Sender] = []
    dice = random.Random()
    try:
        victim.start()
        HubClient(victim.url).post("/v1/hubs", {"name": HUB, "partitions": PRODUCERS})
        senders += [Sender(victim.kafka_port, number, stop) for number in range(PRODUCERS)]
        for sender in senders:
            sender.start()
        for _ in range(kills):
            _wait_for_ack(senders)
            time.sleep(dice.uniform(*RUN_S))
            victim.end(kill=True)
            report.kills += 1
            report.recovery_s.append(victim.start())
            if not quiet:
                told = sum(sender.acknowledged for sender in senders)
                say(f"kill {report.kills:>3} of {kills}: {told:,} acknowledged, back in {report.recovery_s[-1]:.2f} s")
        _wait_for_ack(senders)
        stop.set()
        for sender in senders:
            sender.join(START_S + ACK_S)
        victim.end(kill=True)
    finally:
        stop.set()
        victim.end(kill=True)
    _compare(directory / "data", senders, report)


def _wait_for_ack(senders: list[Sender]) -> None:
    before = [sender.acknowledged for sender in senders]
    deadline_s = time.monotonic() + ACK_S
    while all(sender.acknowledged == told for sender, told in zip(senders, before, strict=True)):
        trouble = next((sender.trouble for sender in senders if sender.trouble), "")
        if trouble:
            raise GridwireError(f"a producer was refused: {trouble}")
        if time.monotonic() > deadline_s:
            raise GridwireError(f"nothing was acknowledged for {ACK_S:.0f} s")
        time.sleep(0.005)


def _compare(data: Path, senders: list[Sender], report: Report) -> None:
    """Look at the files themselves: the hub is dead, nobody can make them look better."""
    hub = next((data / "hubs").iterdir())
    for number, sender in enumerate(senders):
        found = _numbers(hub / str(number))
        report.acknowledged += sender.acknowledged
        report.lost += len(set(range(sender.acknowledged)) - set(found))
        report.duplicated += len(found) - len(set(found))
        report.out_of_order += sender.wrong_offset + sum(a > b for a, b in pairwise(found))


def _numbers(partition: Path) -> list[int]:
    numbers: list[int] = []
    for path in current_files(partition)[0]:
        descriptor = disk.open_read(path)
        try:
            for found in scan(descriptor, 0, covered(path)[0]):
                if isinstance(found, Found):
                    batch = disk.read_at(descriptor, found.header.size, found.position)
                    numbers += [int(event.value or b"-1") for event in decode(batch)]
        finally:
            os.close(descriptor)
    return numbers


def _print(report: Report, durability: str, *, json: bool) -> None:
    ordered = sorted(report.recovery_s)
    summary: dict[str, Any] = {
        "durability": durability,
        "kills": report.kills,
        "acknowledged": report.acknowledged,
        "lost": report.lost,
        "duplicated": report.duplicated,
        "out_of_order": report.out_of_order,
        "recovery_p50_s": round(ordered[len(ordered) // 2], 3),
        "recovery_max_s": round(ordered[-1], 3),
    }
    if report.kept_at:
        summary["kept_at"] = report.kept_at
    if json:
        print_json(summary)
        return
    say(f"{report.acknowledged:,} events acknowledged over {report.kills} kills, durability {durability}")
    say(f"{report.lost} lost, {report.duplicated} duplicated, {report.out_of_order} out of order")
    say(f"ready again after {summary['recovery_p50_s']} s (median), {summary['recovery_max_s']} s at most")
    if report.kept_at:
        say(f"the data directory is kept in {report.kept_at}")
    say("a kill leaves the operating system running; what a power cut does is in docs/reliability.md")
