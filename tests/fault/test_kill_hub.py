"""The hub dies by SIGKILL again and again under load, and loses nothing it acknowledged.

Fault model: the process ends between any two instructions; what it wrote to the kernel stays (a power cut is another
test). Four idempotent librdkafka producers keep one session each over all restarts on the same port and directory; two
AMQP producers come back after each, and never repeat what was in doubt. Now and then the hub is killed again while it
is still recovering. Afterwards an unmodified consumer reads everything from offset 0 and compares it with what the
producers were told:

    lost          acknowledged, and nowhere
    moved         acknowledged, and not at the offset that was acknowledged
    duplicate     the same number of one producer twice
    nonmonotonic  a producer's number after a higher one in the same partition
    gap           an offset that is missing
    damaged       an event whose bytes are not what was sent

Negative controls: producers without idempotence do leave duplicates under the same kills; a hub that accepts AMQP
deliveries before they are written loses some; cutting the last batch off a segment file after a kill shows as lost;
copying it shows as duplicate; and the checker sees every kind of fault in made-up logs.

More cycles: GRIDWIRE_TEST_KILL_CYCLES=1000. Another sequence of kills: GRIDWIRE_TEST_SEED=n.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from gridwire.core.batch import iter_headers, stamp

HUB = "numbers"
PARTITIONS = 4
PRODUCERS = 4
AMQP_PRODUCERS = 2
CYCLES = int(os.environ.get("GRIDWIRE_TEST_KILL_CYCLES", "50"))
SEED = int(os.environ.get("GRIDWIRE_TEST_SEED", "20160101"))
CYCLES_A_ROUND = 50
"""A round has its own log, so that a soak of a thousand cycles is checked in pieces that fit in memory."""
START_S = 30.0
FIRST_ACK_S = 45.0
READ_S = 60.0
KILL_AFTER_MS = (20, 400)
KILL_IN_START_MS = (50, 600)
HEAD = struct.Struct(">IIQ")
ACK = struct.Struct(">QQ")
ANYWHERE = (1 << 64) - 1
"""The offset of an event that AMQP accepted: it tells none."""

Told = dict[tuple[int, int], int]
"""(producer, number) -> acknowledged offset; the partition follows from the number."""

Seen = tuple[int, int, bytes]
"""(partition, offset, value)."""


def free_port() -> int:
    """A port no outgoing connection takes while the hub is away: below the ephemeral range."""
    picker = random.Random()
    while True:
        port = picker.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Hub:
    """`gridwire up` on one directory and the same ports, started and killed many times.

    Args:
        prelude: Python that the process runs first; a negative control weakens a rule there.
    """

    def __init__(self, directory: Path, prelude: str = "") -> None:
        self.directory = directory
        self.data = directory / "data"
        self.port = free_port()
        self.amqp_port = free_port()
        self.prelude = prelude
        self._errors = directory / "hub.err"
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start it, without waiting for anything."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GRIDWIRE_")}
        code = f"{self.prelude}\nfrom gridwire.cli.main import main\nmain()"
        command = [sys.executable, "-c", code, "up", "--data", str(self.data), "--host", "127.0.0.1"]
        command += ["--kafka-port", str(self.port), "--amqp-port", str(self.amqp_port), *self.flags()]
        with self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, cwd=self.directory, env=environment
            )

    def flags(self) -> list[str]:
        """What else it is started with."""
        return ["--http-port", "0"]

    def start(self) -> None:
        """Start it and wait for `ready` and its endpoints."""
        self.launch()
        output = b""
        deadline_s = time.monotonic() + START_S
        stream = self._process.stdout
        while b"ready\n" not in output or b"kafka " not in output:
            left_s = deadline_s - time.monotonic()
            readable, _, _ = select.select([stream], [], [], max(0.0, left_s))
            piece = os.read(stream.fileno(), 4096) if readable else b""
            assert piece, f"the hub did not get ready: {output!r}\n{self.complaints()}"
            output += piece

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM. Returns the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        code = process.wait(30)
        process.stdout.close()
        return code

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def complaints(self) -> str:
        """The end of what it wrote to standard error."""
        return self._errors.read_text(errors="replace")[-3000:]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def create(self) -> None:
        """Create the hub of the test."""
        admin = AdminClient({"bootstrap.servers": self.address, "log_level": 0})
        admin.create_topics([NewTopic(HUB, PARTITIONS, 1)])[HUB].result(20)

    def segment(self, partition: int) -> Path:
        """The segment file appended to last; there is no other hub in this directory."""
        return max(self.data.glob(f"hubs/*/{partition}/*.log"))


class Load:
    """The producers' process."""

    def __init__(self, hub: Hub, directory: Path, *, forgetful: bool = False) -> None:
        self.directory = directory
        script = Path(__file__).with_name("kill_producers.py")
        command = [sys.executable, str(script), "--bootstrap", hub.address, "--hub", HUB, "--directory", str(directory)]
        command += ["--partitions", str(PARTITIONS), "--producers", str(PRODUCERS)]
        command += ["--amqp", f"127.0.0.1:{hub.amqp_port}", "--amqp-producers", str(AMQP_PRODUCERS)]
        command += ["--forgetful"] * forgetful
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def acked_bytes(self) -> list[int]:
        """Of Kafka's producers and of AMQP's: grows with every acknowledgement."""
        sizes = {int(path.stem[6:]): path.stat().st_size for path in self.directory.glob("acked-*.bin")}
        return [sum(size for index, size in sizes.items() if (index >= PRODUCERS) == amqp) for amqp in (False, True)]

    def wait_for_ack(self, above: Sequence[int], hub: Hub) -> None:
        """Wait until somebody was told of an event since `above`, over each protocol."""
        deadline_s = time.monotonic() + FIRST_ACK_S
        while any(now <= before for now, before in zip(self.acked_bytes(), above, strict=True)):
            assert self._process.poll() is None, f"the producers ended: {self._process.stdout.read()!r}"
            assert hub.running, f"the hub ended by itself\n{hub.complaints()}"
            assert time.monotonic() < deadline_s, f"nothing was acknowledged for {FIRST_ACK_S} s\n{hub.complaints()}"
            time.sleep(0.002)

    def finish(self) -> dict[str, object]:
        """Let everything on its way arrive, and return the producers' report."""
        output, _ = self._process.communicate(timeout=90)
        return json.loads(output.splitlines()[-1])

    def abort(self) -> None:
        """End the process whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def told(self) -> Told:
        """What was acknowledged. The same number twice is a fault of its own."""
        told: Told = {}
        for producer in range(PRODUCERS + AMQP_PRODUCERS):
            for number, offset in ACK.iter_unpack((self.directory / f"acked-{producer}.bin").read_bytes()):
                assert told.setdefault((producer, number), offset) == offset, "one event was acknowledged twice"
        return told


@dataclass
class Findings:
    """What the checker has to say; the first few of each kind by name."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, kind: str, what: str) -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= 3:
            self.examples.append(f"{kind}: {what}")


def check(seen: Iterable[Seen], told: Told) -> Findings:
    """Compare a log, in order of offsets per partition, with what producers were told."""
    findings = Findings()
    placed: dict[tuple[int, int], int] = {}
    copies: set[tuple[int, int, int]] = set()
    expected = Counter[int]()
    last: dict[tuple[int, int], int] = {}
    for partition, offset, value in seen:
        if offset != expected[partition]:
            findings.add("gap", f"partition {partition} goes from {expected[partition] - 1} to {offset}")
        expected[partition] = offset + 1
        crc, producer, number = HEAD.unpack_from(value)
        if zlib.crc32(value[4:]) != crc or number % PARTITIONS != partition:
            findings.add("damaged", f"partition {partition} offset {offset}")
            continue
        if (producer, number) in placed:
            findings.add("duplicate", f"producer {producer} number {number} at {offset} in {partition}")
            copies.add((producer, number, offset))
        elif number < last.get((producer, partition), -1):
            findings.add("nonmonotonic", f"producer {producer} number {number} at {offset} in {partition}")
        placed.setdefault((producer, number), offset)
        last[producer, partition] = max(number, last.get((producer, partition), -1))
    for (producer, number), offset in told.items():
        found = placed.get((producer, number))
        if found is None:
            findings.add("lost", f"producer {producer} number {number} acknowledged at {offset}")
        elif offset not in (found, ANYWHERE) and (producer, number, offset) not in copies:
            findings.add("moved", f"producer {producer} number {number} acknowledged at {offset} is at {found}")
    return findings


def read_all(hub: Hub) -> Iterator[Seen]:
    """Everything from offset 0, by an unmodified consumer."""
    consumer = Consumer(
        {
            "bootstrap.servers": hub.address,
            "group.id": "checker",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "log_level": 0,
        }
    )
    try:
        for partition in range(PARTITIONS):
            place = TopicPartition(HUB, partition, 0)
            end = consumer.get_watermark_offsets(place, timeout=READ_S)[1]
            consumer.assign([place])
            offset = 0
            deadline_s = time.monotonic() + READ_S
            while offset < end:
                messages = consumer.consume(5000, timeout=0.1)
                for message in messages:
                    assert message.error() is None, message.error()
                    offset = message.offset() + 1
                    yield partition, message.offset(), message.value()
                deadline_s = time.monotonic() + READ_S if messages else deadline_s
                assert time.monotonic() < deadline_s, f"reading stopped at {offset} of {end} in {partition}"
    finally:
        consumer.close()


def cycle(hub: Hub, load: Load, dice: random.Random) -> None:
    """Start, wait for the first acknowledgement, let it run for a moment, kill; sometimes kill in recovery too."""
    if dice.random() < 0.2:
        hub.launch()
        time.sleep(dice.uniform(*KILL_IN_START_MS) / 1000)
        hub.kill()
    before = load.acked_bytes()
    hub.start()
    load.wait_for_ack(before, hub)
    time.sleep(dice.uniform(*KILL_AFTER_MS) / 1000)
    assert hub.running, f"the hub ended by itself\n{hub.complaints()}"
    hub.kill()


def killed_round(
    directory: Path, cycles: int, dice: random.Random, *, forgetful: bool = False, prelude: str = ""
) -> tuple[Findings, dict[str, object], Told]:
    """Some cycles on a fresh log, and what is left of it."""
    directory.mkdir()
    hub = Hub(directory, prelude)
    hub.start()
    load: Load | None = None
    try:
        hub.create()
        hub.kill()
        load = Load(hub, directory, forgetful=forgetful)
        for _ in range(cycles):
            cycle(hub, load, dice)
        hub.start()
        report = load.finish()
        told = load.told()
        findings = check(read_all(hub), told)
        assert hub.stop() == 0, hub.complaints()
        return findings, report, told
    finally:
        if load is not None:
            load.abort()
        hub.kill()


@pytest.mark.slow
@pytest.mark.timeout(120 + 10 * CYCLES)
def test_nothing_acknowledged_is_lost_or_doubled_by_kills(tmp_path, tell):
    dice = random.Random(SEED)
    left, acknowledged, faults = CYCLES, Counter[bool](), Counter[str]()
    while left:
        cycles = min(left, CYCLES_A_ROUND)
        findings, report, told = killed_round(tmp_path / f"round-{left}", cycles, dice)
        story = f"seed {SEED}, {cycles} kills, {len(told)} acknowledged: {dict(findings.counts)}, {report}"
        acknowledged += Counter(producer >= PRODUCERS for producer, _ in told)
        faults += findings.counts
        assert not findings.counts, "\n".join([story, *findings.examples])
        assert not report["fatal"], story
        assert sum(report["acked"]) == len(told)
        assert all(report["acked"]), story
        shutil.rmtree(tmp_path / f"round-{left}")
        left -= cycles
    kinds = {"acknowledged over Kafka": acknowledged[False], "over AMQP": acknowledged[True]}
    tell("kill -9", cycles=CYCLES, **kinds, lost=faults["lost"], duplicated=faults["duplicate"])


# Negative controls


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_control_without_idempotence_the_same_kills_leave_duplicates(tmp_path, tell):
    """A kill between write and answer is what this test is about; about one kill in three hits that moment."""
    dice = random.Random(SEED)
    for attempt in range(10):
        findings, _, _ = killed_round(tmp_path / f"attempt-{attempt}", 3, dice, forgetful=True)
        assert set(findings.counts) <= {"duplicate", "nonmonotonic"}, findings.examples
        if findings.counts["duplicate"]:
            tell("kill -9, control without idempotence", duplicated=findings.counts["duplicate"])
            return
    pytest.fail("thirty kills, and none of them between write and answer")


HASTY = """
import asyncio
from msgspec import structs
from gridwire.heads.amqp.senders import Sender
deliver = Sender.deliver
def hasty(self, delivery):
    self._link.session.settling.append(delivery.id)
    self._connection.flush_soon()
    asyncio.get_running_loop().call_later(0.5, deliver, self, structs.replace(delivery, settled=True))
Sender.deliver = hasty
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_control_a_hub_that_accepts_before_it_writes_loses_events(tmp_path, tell):
    dice = random.Random(SEED)
    for attempt in range(20):
        findings, _, _ = killed_round(tmp_path / f"attempt-{attempt}", 1, dice, prelude=HASTY)
        assert set(findings.counts) <= {"lost"}, findings.examples
        if findings.counts["lost"]:
            tell("kill -9, control of AMQP: accepted at once", lost=findings.counts["lost"])
            return
    pytest.fail("twenty kills, and none of them between answer and write")


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, Told]:
    """The data directory of a hub that was killed after all it got was acknowledged, and what was."""
    directory = tmp_path_factory.mktemp("written")
    hub = Hub(directory)
    hub.start()
    load: Load | None = None
    try:
        hub.create()
        load = Load(hub, directory)
        load.wait_for_ack([200 * ACK.size] * 2, hub)
        load.finish()
        hub.kill()
        return hub.data, load.told()
    finally:
        if load is not None:
            load.abort()
        hub.kill()


def spoil(written: tuple[Path, Told], directory: Path, change) -> tuple[Findings, int]:
    """Change a segment file in a copy of the dead hub's data, and look at it through a living hub."""
    data, told = written
    hub = Hub(directory)
    shutil.copytree(data, hub.data)
    path = hub.segment(0)
    content = path.read_bytes()
    position, last = list(iter_headers(content))[-1]
    path.write_bytes(change(content, position, last))
    hub.start()
    try:
        return check(read_all(hub), told), last.record_count
    finally:
        hub.kill()


def cut_last_batch(content: bytes, position: int, last) -> bytes:
    return content[:position]


def repeat_last_batch(content: bytes, position: int, last) -> bytes:
    copy = bytearray(content[position : position + last.size])
    stamp(copy, last.next_offset)
    return content[: position + last.size] + copy


def leave_alone(content: bytes, position: int, last) -> bytes:
    return content


def test_control_the_checker_is_content_with_an_untouched_log(written, tmp_path):
    findings, _ = spoil(written, tmp_path, leave_alone)
    assert not findings.counts, findings.examples


def test_control_a_batch_cut_off_after_the_kill_is_reported_as_lost(written, tmp_path):
    findings, count = spoil(written, tmp_path, cut_last_batch)
    assert findings.counts == {"lost": count}, findings.examples


def test_control_a_batch_written_twice_is_reported_as_duplicate(written, tmp_path):
    findings, count = spoil(written, tmp_path, repeat_last_batch)
    assert findings.counts == {"duplicate": count}, findings.examples


def value(producer: int, number: int) -> bytes:
    body = HEAD.pack(0, producer, number)[4:]
    return struct.pack(">I", zlib.crc32(body)) + body


GOOD: Sequence[Seen] = [(0, 0, value(1, 0)), (0, 1, value(2, 0)), (0, 2, value(1, 4)), (1, 0, value(1, 1))]
TOLD: Told = {(1, 0): 0, (2, 0): 1, (1, 4): 2, (1, 1): 0}


@pytest.mark.parametrize(
    ("seen", "kinds"),
    [
        (GOOD, {}),
        (GOOD[:2] + GOOD[3:], {"lost": 1}),
        ([*GOOD, (0, 3, value(1, 4))], {"duplicate": 1}),
        ([*GOOD, (0, 3, value(3, 8)), (0, 4, value(3, 4))], {"nonmonotonic": 1}),
        ([*GOOD, (0, 5, value(3, 4))], {"gap": 1}),
        ([*GOOD[:3], (1, 0, value(1, 1)[:-1] + b"!")], {"damaged": 1, "lost": 1}),
        ([(0, 0, value(2, 0)), (0, 1, value(1, 0)), *GOOD[2:]], {"moved": 2}),
        ([*GOOD, (1, 1, value(3, 4))], {"damaged": 1}),
    ],
)
def test_control_the_checker_sees_every_kind_of_fault(seen, kinds):
    assert check(seen, TOLD).counts == kinds
