"""Capture dies at every named step and at random moments; the lake still has every event exactly once.

The hub is a directory of record batches with the behaviour of a real event source; it stays when capture dies. Capture
runs in children forked from one warm process, so that a kill costs milliseconds. Negative controls: with the position
committed after the rows instead of with them, the same kills leave duplicates, and the check says so.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from uuid import UUID

import fastavro
import pytest
import structlog
from deltalake import DeltaTable

from gridwire.broker.port import ColumnBatch, Output, Place, Position
from gridwire.capture import decoders
from gridwire.capture.avro import AvroWriter
from gridwire.capture.delta import TableWriter, Upkeep
from gridwire.capture.layout import Layout
from gridwire.capture.worker import run
from gridwire.columnar.arrow import to_arrow
from gridwire.columnar.decode import decode
from gridwire.config import AVRO_PATH
from gridwire.core.batch import Event, encode

HUB = "readings"
HUB_ID = UUID("6f2f0d3e-5a6b-4c7d-8e9f-000000000001")
PARTITIONS = 3
STEPS = (
    "opened", "polled", "created", "appended", "synced", "committed",
    "compacting", "compacted", "checkpointing", "checkpointed", "vacuumed",
)  # fmt: skip
AVRO_STEPS = ("opened", "polled", "staged", "recorded", "renamed", "committed")
UPKEEP = Upkeep(compact_versions=3, merge_versions=9, checkpoint_versions=4, vacuum_versions=5, keep_hours=0)


class DirectorySource:
    """An event source over `<root>/<partition>/<base offset>.batch`; its committed positions lie beside."""

    group = "capture"

    def __init__(self, root: Path) -> None:
        self._root = root
        self._positions: dict[Place, int] = {(HUB, p): 0 for p in range(PARTITIONS)}

    whole_hubs = True

    def assigned(self) -> dict[Place, int]:
        return dict.fromkeys(self._positions, 0)

    def committed(self) -> dict[Place, Position]:
        return {(HUB, int(p)): Position(offset) for p, offset in committed_positions(self._root).items()}

    def hub_id(self, hub: str) -> UUID:
        return HUB_ID

    def partitions(self, hub: str) -> int:
        return PARTITIONS

    def positions(self) -> dict[Place, int]:
        return dict(self._positions)

    def seek(self, place: Place, offset: int) -> None:
        self._positions[place] = offset

    def poll(self, timeout_s: float, bytes_max: int = 1 << 25) -> list[ColumnBatch]:
        found = []
        for (hub, partition), position in self._positions.items():
            before = [path for base, path in batches(self._root, partition) if base <= position]
            if not before:
                continue
            data = before[-1].read_bytes()
            decoded = decode(data, 0, len(data), from_offset=position, hub=hub, partition=partition)
            found += [ColumnBatch(hub, partition, columns, decoded.next_offset) for columns in decoded.columns]
            self._positions[hub, partition] = decoded.next_offset
        return found

    def commit(self, positions: Mapping[Place, int], outputs: Sequence[Output] = (), note: str = "") -> None:
        committed = committed_positions(self._root) | {str(p): offset for (_, p), offset in positions.items()}
        scratch = self._root / "committed.tmp"
        scratch.write_text(json.dumps(committed))
        scratch.replace(self._root / "committed")

    def lag(self) -> dict[Place, int]:
        return dict.fromkeys(self._positions, 0)

    def close(self) -> None:
        return


def batches(root: Path, partition: int) -> list[tuple[int, Path]]:
    return sorted((int(path.stem), path) for path in (root / str(partition)).glob("*.batch"))


def committed_positions(root: Path) -> dict[str, int]:
    path = root / "committed"
    return json.loads(path.read_text()) if path.exists() else {}


def rows_of(batch: ColumnBatch):
    import pyarrow as pa

    rows = to_arrow(batch.columns)
    return rows.append_column("partition", pa.array([batch.partition] * len(batch.columns), pa.int32()))


# ---------------------------------------------------------------------------------------------- the process that dies


def weaken(hub: Path) -> None:
    """Write rows without their position, and believe the hub's, which is committed later."""
    import gridwire.capture.delta as delta

    whole = delta.CommitProperties
    delta.CommitProperties = lambda app_transactions=None, **rest: whole(**rest)  # type: ignore[misc]
    TableWriter.position = lambda self, partition: committed_positions(hub).get(str(partition))  # type: ignore[method-assign]


def weaken_avro(hub: Path) -> None:
    """Believe the hub's position, which is committed after the files."""
    AvroWriter.position = lambda self, partition: committed_positions(hub).get(str(partition))  # type: ignore[method-assign]


def avro_writer(lake: Path, after: Callable[[str], None]) -> Callable[[str, UUID], AvroWriter]:
    return partial(AvroWriter, lake, Layout(AVRO_PATH, "namespace"), after=after)


def capture(hub: Path, lake: Path, step: str, nth: int, drain: bool, avro: bool) -> None:
    """One life of the worker: dies after `step` for the nth time, or ends when everything is captured."""
    stop = threading.Event()
    left = nth
    ends = {p: sum(int(path.read_text()) for path in (hub / str(p)).glob("*.count")) for p in range(PARTITIONS)}

    def after(done: str) -> None:
        nonlocal left
        left -= done == step
        if left == 0 and done == step:
            os.kill(os.getpid(), signal.SIGKILL)
        if drain and committed_positions(hub) == {str(p): end for p, end in ends.items()}:
            stop.set()

    decode = decoders.events if avro else rows_of
    opener = avro_writer(lake, after) if avro else None
    source = partial(DirectorySource, hub)
    run(source, lake, {HUB: decode}, stop, flush_s=0.0, upkeep=UPKEEP, after=after, open_writer=opener)


def serve() -> None:
    """For each request on stdin: fork, say who it is, say how it ended."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    rows_of(ColumnBatch(HUB, 0, decode(one := bytes(encode([Event(b"x")])), 0, len(one), from_offset=0).columns[0], 1))
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code, hub = 1, Path(request["hub"])
            try:
                if request["weak"]:
                    (weaken_avro if request["avro"] else weaken)(hub)
                lake, avro = Path(request["lake"]), request["avro"]
                capture(hub, lake, request["step"], request["nth"], request["drain"], avro)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


# ------------------------------------------------------------------------------------------------------ the test's side


class Capture:
    """A hub, the lake it is captured into, and the lives of the process that does it."""

    def __init__(self, process: subprocess.Popen[str], root: Path, kind: str) -> None:
        self.hub, self.lake, self._weak, self._avro = root / "hub", root / "lake", "weak" in kind, "avro" in kind
        self.hub.mkdir()
        self._ends = [0] * PARTITIONS
        self._rng = random.Random(7)
        self._process = process

    def send(self, batches_per_partition: int) -> None:
        for _ in range(batches_per_partition):
            for partition in range(PARTITIONS):
                first, count = self._ends[partition], self._rng.randint(1, 40)
                events = [Event(f"{partition}@{first + i}".encode(), timestamp=1000 + i) for i in range(count)]
                directory = self.hub / str(partition)
                directory.mkdir(exist_ok=True)
                (directory / f"{first}.batch").write_bytes(encode(events, base_offset=first))
                (directory / f"{first}.count").write_text(str(count))
                self._ends[partition] += count

    def live(self, step: str = "", nth: int = 1, kill_after_s: float | None = None, drain: bool = False) -> int:
        """One life of the worker; returns the signal that ended it, 0 for a clean end."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        request = {"hub": str(self.hub), "lake": str(self.lake), "weak": self._weak, "avro": self._avro}
        stdin.write(json.dumps(request | {"step": step, "nth": nth, "drain": drain}) + "\n")
        stdin.flush()
        pid = int(stdout.readline())
        if kill_after_s is not None:
            time.sleep(kill_after_s)  # the moment of the kill is the point, nothing is waited for
            os.kill(pid, signal.SIGKILL)
        status = int(stdout.readline())
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "capture failed instead of being killed"
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0

    def check(self) -> None:
        """Every event once, byte for byte."""
        rows = sorted(self._avro_rows() if self._avro else self._delta_rows())
        expected = [(p, o, f"{p}@{o}".encode()) for p, end in enumerate(self._ends) for o in range(end)]
        assert len(rows) == len(set(rows)), f"{len(rows) - len(set(rows))} duplicate rows"
        assert rows == expected

    def _delta_rows(self) -> list[tuple[int, int, bytes]]:
        table = DeltaTable(str(self.lake / HUB)).to_pyarrow_table(columns=["partition", "offset", "value"])
        return list(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))

    def _avro_rows(self) -> list[tuple[int, int, bytes]]:
        """From whole files only: every one that has its final name can be read to its end."""
        rows = []
        for path in self.lake.glob("namespace/**/*.avro"):
            partition = int(path.relative_to(self.lake / "namespace" / HUB).parts[0])
            with path.open("rb") as file:
                rows += [(partition, each["SequenceNumber"], each["Body"]) for each in fastavro.reader(file)]
        return rows


@pytest.fixture(scope="module")
def warm() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process
    process.communicate(timeout=20)


@pytest.fixture
def worker(warm: subprocess.Popen[str], tmp_path: Path, request: pytest.FixtureRequest) -> Capture:
    return Capture(warm, tmp_path, getattr(request, "param", ""))


def test_every_event_is_in_the_lake_once_whatever_step_capture_died_at(worker: Capture) -> None:
    for step in STEPS:
        for nth in (1, 2) if step not in ("opened", "created") else (1,):
            if step == "created" and (worker.lake / HUB).exists():
                continue
            worker.send(8)
            assert worker.live(step, nth) == signal.SIGKILL, f"never came to {step}"
    rng = random.Random(11)
    for _ in range(12):
        worker.send(4)
        assert worker.live(kill_after_s=rng.uniform(0.002, 0.15)) == signal.SIGKILL
    worker.send(2)
    assert worker.live(drain=True) == 0
    worker.check()


def test_orphans_of_killed_writes_are_vacuumed(worker: Capture) -> None:
    worker.send(2)
    assert worker.live("synced", 1) == signal.SIGKILL
    (worker.lake / HUB / "part-00000-of-a-write-without-a-commit.zstd.parquet").write_bytes(b"half a file")
    worker.send(8)
    assert worker.live(drain=True) == 0
    writer = TableWriter(worker.lake, HUB, HUB_ID)
    writer.vacuum(keep_hours=0)
    writer.close()
    named = {Path(uri).name for uri in DeltaTable(str(worker.lake / HUB)).file_uris()}
    assert {path.name for path in (worker.lake / HUB).glob("*.parquet")} == named
    worker.check()


@pytest.mark.parametrize("worker", ["weak"], indirect=True)
def test_control_positions_outside_the_tables_commit_leave_duplicates(worker: Capture) -> None:
    for _ in range(3):
        worker.send(3)
        assert worker.live("synced", 1) == signal.SIGKILL
    assert worker.live(drain=True) == 0
    with pytest.raises(AssertionError, match="duplicate rows"):
        worker.check()


@pytest.mark.parametrize("worker", ["avro"], indirect=True)
def test_every_event_is_in_one_avro_file_whatever_step_capture_died_at(worker: Capture) -> None:
    for step in AVRO_STEPS:
        for nth in (1, 2) if step != "opened" else (1,):
            worker.send(4)
            assert worker.live(step, nth) == signal.SIGKILL, f"never came to {step}"
    rng = random.Random(13)
    for _ in range(8):
        worker.send(4)
        worker.live(kill_after_s=rng.uniform(0.002, 0.15))
    worker.send(2)
    assert worker.live(drain=True) == 0
    worker.check()
    assert not list(worker.lake.glob("@state/*.tmp"))


@pytest.mark.parametrize("worker", ["avro weak"], indirect=True)
def test_control_positions_outside_the_record_leave_duplicates(worker: Capture) -> None:
    for _ in range(3):
        worker.send(3)
        assert worker.live("renamed", 1) == signal.SIGKILL
    assert worker.live(drain=True) == 0
    with pytest.raises(AssertionError, match="duplicate rows"):
        worker.check()


if __name__ == "__main__":
    serve()
