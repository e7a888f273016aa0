"""The log on a simulated disk, against a plain list: crashes between any two operations, any unsynced part lost.

Every write, sync, truncation and change of a name goes through a disk that keeps what is durable apart from what is
only seen (forgetting.py). Hypothesis decides what is done, at which operation of it the power goes or the process is
killed, and which unsynced sectors and names survive. The list holds what was acknowledged:

    after any crash the log is the list, followed at most by the batch that was on its way
    repeating that batch stores it exactly once
    what retention deleted comes back at most as a whole run of segments, never with a hole

Time is a number in the test. The seed is printed; GRIDWIRE_TEST_SEED=n replays or changes it, and
GRIDWIRE_TEST_SIM_EXAMPLES says how many runs there are. Negative controls: a log whose syncs do nothing, one that
does not sync names, and one that publishes before it syncs all fail.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gridwire.core.batch import Event, check_produced, decode, encode, iter_headers
from gridwire.core.errors import Corruption, StorageFailed
from gridwire.core.settings import HubSettings
from gridwire.log import disk, partition
from gridwire.log.partition import PartitionLog, Stored

SEED = int(os.environ.get("GRIDWIRE_TEST_SEED", "20160101"))
EXAMPLES = int(os.environ.get("GRIDWIRE_TEST_SIM_EXAMPLES", "300"))
STEPS = 40
CHECKPOINT_BATCHES = 2
SETTINGS = HubSettings(segment_bytes=64 * 1024, retention_bytes=150_000)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the simulated disk follows POSIX names")


def _forgetting() -> ModuleType:
    path = Path(__file__).parents[1] / "fault" / "forgetting.py"
    spec = importlib.util.spec_from_file_location("forgetting", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


forgetting = _forgetting()


class PowerCut(BaseException):
    """The machine stops here. No `except` of the program may catch it."""


class SimDisk:
    """Stands in for the calls that change a disk, as long as it is installed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.names = forgetting.Directory()
        self.files: dict[int, Any] = {}
        self.steps_left: int | None = None
        self.fail_sync = self.fail_create = False
        self._saved: list[tuple[Any, str, Any]] = []

    def install(self) -> None:
        for owner, name, stand_in in (
            (disk, "open_file", self.open_file),
            (disk, "_write_some", self.write),
            (disk, "sync_data", self.sync),
            (disk, "sync_directory", self.sync_names),
            (disk, "write_atomic", self.write_atomic),
            (os, "ftruncate", self.truncate),
            (Path, "unlink", self._unlink()),
            (partition, "CHECKPOINT_BATCHES", CHECKPOINT_BATCHES),
        ):
            self._saved.append((owner, name, getattr(owner, name)))
            setattr(owner, name, stand_in)

    def remove(self) -> None:
        while self._saved:
            owner, name, original = self._saved.pop()
            setattr(owner, name, original)

    def _real(self, wanted: str) -> Any:
        return next(original for _, name, original in self._saved if name == wanted)

    def _step(self) -> None:
        if self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left < 0:
                raise PowerCut

    def open_file(self, path: Path) -> int:
        new = not path.exists()
        if new and self.fail_create:
            raise OSError(24, "Too many open files")
        descriptor = int(self._real("open_file")(path))
        if new:
            self.files[os.fstat(descriptor).st_ino] = file = forgetting.File()
            self.names.change({path.name: file})
            self._step()
        return descriptor

    def _file(self, descriptor: int) -> Any:
        return self.files[os.fstat(descriptor).st_ino]

    def write(self, descriptor: int, buffers: Any, position: int) -> int:
        data = b"".join(bytes(buffer) for buffer in buffers)
        self._file(descriptor).write(data, position)
        written = os.pwrite(descriptor, data, position)
        self._step()
        return written

    def truncate(self, descriptor: int, size: int) -> None:
        self._file(descriptor).cut_to(size)
        self._real("ftruncate")(descriptor, size)
        self._step()

    def sync(self, descriptor: int) -> None:
        self._step()
        if self.fail_sync:
            raise OSError(5, "Input/output error")
        self._file(descriptor).sync()

    def sync_names(self, path: Path) -> None:
        self._step()
        self.names.sync()

    def write_atomic(self, path: Path, data: bytes, *, sync: bool = True) -> None:
        temporary = path.with_name(path.name + ".tmp")
        temporary.unlink(missing_ok=True)
        descriptor = self.open_file(temporary)
        try:
            self.write(descriptor, [data], 0)
            if sync:
                self.sync(descriptor)
            self.names.change({temporary.name: None, path.name: self._file(descriptor)})
        finally:
            os.close(descriptor)
        temporary.replace(path)
        self._step()
        if sync:
            self.sync_names(path.parent)

    def _unlink(self) -> Callable[..., None]:
        real = Path.unlink
        sim = self

        def unlink(path: Path, missing_ok: bool = False) -> None:
            if path.parent == sim.directory and path.exists():
                sim.names.change({path.name: None})
                real(path)
                sim._step()
            else:
                real(path, missing_ok=missing_ok)

        return unlink

    def lose_power(self, choice: int, keep: float) -> None:
        """Only what was synced is left, and a part of the rest."""
        forgetting.Loss(choice, keep).cut(self.names)
        real = self._real("unlink")
        for path in list(self.directory.iterdir()):
            real(path)
        self.files.clear()
        for name, file in self.names.seen.items():
            path = self.directory / name
            path.write_bytes(file.seen)
            self.files[path.stat().st_ino] = file


class LogOnAForgettingDisk(RuleBasedStateMachine):
    """`acknowledged` are the values from offset `start` on that were promised to a producer."""

    publish_first = False

    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="gridwire-sim-"))
        self.disk = SimDisk(self.directory)
        self.disk.install()
        self.weaken()
        self.now_ms = 1_700_000_000_000
        self.acknowledged: list[bytes] = []
        self.start = 0
        self.in_flight: tuple[list[bytes], int] | None = None
        self.log = self.open()

    def weaken(self) -> None:
        """For the negative controls."""

    def teardown(self) -> None:
        if hasattr(self, "disk"):
            self.forget()
            self.disk.remove()
            shutil.rmtree(self.directory)

    def open(self) -> PartitionLog:
        return PartitionLog(self.directory, "hub", 0, SETTINGS, sync=True, now_ms=self.now_ms)

    def forget(self) -> None:
        """The process is gone, and with it its descriptors."""
        log = getattr(self, "log", None)
        for segment in log._segments if log is not None else ():
            segment.close()

    # what can happen

    @rule(sizes=st.lists(st.integers(0, 25_000), min_size=1, max_size=4), crash=st.none() | st.integers(0, 8),
          choice=st.integers(0, 2**31), keep=st.sampled_from([0.0, 0.3, 0.9, 1.0]), kill=st.booleans())  # fmt: skip
    def append(self, sizes: list[int], crash: int | None, choice: int, keep: float, kill: bool) -> None:
        number = self.start + len(self.acknowledged)
        self.in_flight = [b"%d|" % (number + row) + b"v" * size for row, size in enumerate(sizes)], number
        self.disk.steps_left = crash
        try:
            self.send()
        except PowerCut:
            self.crash(choice, keep, kill)
            self.send_again()
        finally:
            self.disk.steps_left = None

    def send(self) -> None:
        assert self.in_flight is not None
        values, number = self.in_flight
        events = [Event(value, timestamp=self.now_ms) for value in values]
        data = encode(events, producer_id=1, producer_epoch=0, base_sequence=number)
        results = self.log.append_group([(memoryview(data), check_produced(data))], self.now_ms)
        assert results == [Stored(number)], results
        if not self.publish_first:
            self.log.sync()
        self.log.publish()
        self.acknowledged += values
        self.in_flight = None

    def send_again(self) -> None:
        """What an idempotent producer does when the answer never came."""
        assert self.in_flight is not None
        values, number = self.in_flight
        data = encode([Event(value, timestamp=self.now_ms) for value in values], producer_id=1, producer_epoch=0,
                      base_sequence=number)  # fmt: skip
        there = self.log.end_offset > number
        results = self.log.append_group([(memoryview(data), check_produced(data))], self.now_ms)
        assert results == [Stored(number, duplicate=there)], results
        self.log.sync()
        self.log.publish()
        self.acknowledged += values
        self.in_flight = None

    def crash(self, choice: int, keep: float, kill: bool) -> None:
        """Everything in memory is gone; after a power cut so is some of what was not synced."""
        self.disk.steps_left = None
        self.disk.fail_sync = False
        self.forget()
        if not kill:
            self.disk.lose_power(choice, keep)
        self.log = self.open()
        self.compare_after_crash()
        if choice % 2:  # what readers see after a start stays, even if the power goes at once
            seen = self.read_all(self.start)
            self.forget()
            self.disk.lose_power(choice, 0)
            self.log = self.open()
            assert self.read_all(self.start) == seen, "readers saw what was not durable"

    def compare_after_crash(self) -> None:
        assert not self.log.recovery.damage, self.log.recovery
        found = self.read_all(self.log.start_offset)
        first = self.log.start_offset
        assert first <= self.start, "a segment that was kept is gone"
        found = found[self.start - first :]
        assert found[: len(self.acknowledged)] == self.acknowledged, "an acknowledged event is gone"
        extra = found[len(self.acknowledged) :]
        assert not extra or (self.in_flight is not None and extra == self.in_flight[0]), "an event nobody sent"
        self.start = first
        self.acknowledged = self.read_all(first)[: len(self.read_all(first)) - len(extra)]

    @rule(choice=st.integers(0, 2**31), keep=st.sampled_from([0.0, 0.5, 1.0]))
    def power_cut(self, choice: int, keep: float) -> None:
        self.crash(choice, keep, kill=False)

    @rule()
    def killed(self) -> None:
        self.crash(0, 0, kill=True)

    @rule(crash=st.none() | st.integers(0, 4), choice=st.integers(0, 2**31), kill=st.booleans())
    def restart(self, crash: int | None, choice: int, kill: bool) -> None:
        """A clean stop and start; the power may go in either."""
        self.disk.steps_left = crash
        try:
            self.log.close()
            self.log = self.open()
        except PowerCut:
            self.crash(choice, 0.5, kill)
        self.disk.steps_left = None

    @rule(crash=st.none() | st.integers(0, 3), choice=st.integers(0, 2**31), kill=st.booleans())
    def checkpoint(self, crash: int | None, choice: int, kill: bool) -> None:
        """All is synced, and the active segment's index is saved if it is due."""
        self.disk.steps_left = crash
        try:
            self.log.checkpoint()
        except PowerCut:
            self.crash(choice, 0.5, kill)
        self.disk.steps_left = None

    @rule(crash=st.none() | st.integers(0, 6), choice=st.integers(0, 2**31), kill=st.booleans())
    def retention(self, crash: int | None, choice: int, kill: bool) -> None:
        self.disk.steps_left = crash
        try:
            self.log.expire(self.now_ms)
        except PowerCut:
            self.crash_in_retention(choice, kill)
        self.disk.steps_left = None
        gone = self.log.start_offset - self.start
        self.acknowledged, self.start = self.acknowledged[gone:], self.log.start_offset

    def crash_in_retention(self, choice: int, kill: bool) -> None:
        """Any number of the oldest segments may be gone: what is left is a whole run."""
        self.disk.steps_left = None
        self.forget()
        if not kill:
            self.disk.lose_power(choice, 0.5)
        self.log = self.open()
        assert not self.log.recovery.damage, self.log.recovery
        kept = self.read_all(self.log.start_offset)
        assert kept, "retention leaves the newest segments"
        assert self.log.start_offset + len(kept) == self.start + len(self.acknowledged)
        known = self.acknowledged[-len(kept) :] if len(kept) <= len(self.acknowledged) else self.acknowledged
        assert kept[-len(known) :] == known if known else True
        self.acknowledged = kept
        self.start = self.log.start_offset

    @precondition(lambda self: self.acknowledged)
    @rule(choice=st.integers(0, 2**31), kill=st.booleans())
    def failed_sync(self, choice: int, kill: bool) -> None:
        """An error of the disk: no acknowledgement, nothing more is taken, reading goes on."""
        number = self.start + len(self.acknowledged)
        self.in_flight = [b"%d|never" % number], number
        self.disk.fail_sync = True
        with pytest.raises((StorageFailed, AssertionError)):
            self.send()
        assert self.log.failed is not None
        self.disk.fail_sync = False
        with pytest.raises((StorageFailed, AssertionError)):
            self.send()
        assert self.read_all(self.start) == self.acknowledged
        self.crash(choice, 0.5, kill)
        self.send_again()

    @rule(size=st.integers(0, 60_000))
    def out_of_descriptors(self, size: int) -> None:
        """A new segment cannot be made: the batch that needs it is refused, and nothing else changes."""
        number = self.start + len(self.acknowledged)
        value = b"%d|" % number + b"d" * size
        data = encode([Event(value, timestamp=self.now_ms)], producer_id=1, producer_epoch=0, base_sequence=number)
        self.disk.fail_create = True
        [outcome] = self.log.append_group([(memoryview(data), check_produced(data))], self.now_ms)
        self.disk.fail_create = False
        self.log.sync()
        self.log.publish()
        if outcome == Stored(number):
            self.acknowledged.append(value)
        else:
            assert isinstance(outcome, StorageFailed)

    @rule(days=st.integers(-400, 400))
    def clock_jumps(self, days: int) -> None:
        self.now_ms += days * 86_400_000

    # what must hold

    def read_all(self, offset: int) -> list[bytes]:
        found: list[bytes] = []
        while offset < self.log.end_offset:
            data = self.log.read(offset, 50_000)
            assert data
            for position, header in iter_headers(data):
                found += [event.value or b"" for event in decode(data, position) if event.offset >= offset]
                offset = header.next_offset
        return found

    @invariant()
    def the_log_is_the_list(self) -> None:
        if hasattr(self, "log"):
            assert self.log.start_offset == self.start
            assert self.read_all(self.start) == self.acknowledged


def _run(machine: type[LogOnAForgettingDisk], examples: int, *phases: Phase) -> None:
    run_state_machine_as_test(
        seed(SEED)(machine),
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=phases or tuple(Phase),
        ),
    )


@pytest.mark.slow
@pytest.mark.timeout(120 + 5 * EXAMPLES)
def test_the_log_on_a_forgetting_disk_is_a_list(capsys: Any) -> None:
    with capsys.disabled():
        print(f"\n  simulation: seed {SEED}, {EXAMPLES} runs of up to {STEPS} steps", end="")
    _run(LogOnAForgettingDisk, EXAMPLES)


class NoSync(LogOnAForgettingDisk):
    """Says synced and is not."""

    def weaken(self) -> None:
        disk.sync_data = lambda descriptor: None


class NoNames(LogOnAForgettingDisk):
    """Names of new segments are not synced."""

    def weaken(self) -> None:
        disk.sync_directory = lambda path: None


class PublishedFirst(LogOnAForgettingDisk):
    """Acknowledges what was only written."""

    publish_first = True


@pytest.mark.parametrize("machine", [NoSync, NoNames, PublishedFirst])
def test_control_a_weaker_log_is_found_out(machine: type[LogOnAForgettingDisk]) -> None:
    with pytest.raises((AssertionError, Corruption, pytest.fail.Exception)):
        _run(machine, 100, Phase.generate)
