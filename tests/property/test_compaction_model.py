"""Any keyed history, compacted at any time and crashed at any time, against a dictionary."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gridwire.core.batch import Event, check_produced, decode, encode, iter_headers
from gridwire.core.settings import HubSettings
from gridwire.log import compaction
from gridwire.log.partition import PartitionLog
from gridwire.log.transactions import ABORT, COMMIT, is_aborted, marker

NOW = 1_700_000_000_000
RETENTION_MS = 1000
KEYS = [b"a", b"b", b"c", b"d", b"e" * 50]

Pairs = list[tuple[bytes, bool]]


class Reader:
    """Reads committed events a little at a time, as a consumer that fills a table does."""

    def __init__(self, now_ms: int) -> None:
        self.position = 0
        self.started_ms = now_ms
        self.state: dict[bytes, bytes] = {}
        self.last: dict[bytes, int] = {}

    def step(self, log: PartitionLog, bytes_max: int) -> None:
        data = log.read(self.position, bytes_max, committed=True)
        aborted = log.aborted(self.position, log.stable_offset)
        for at, header in iter_headers(data):
            if not header.attributes & 0x20 and not is_aborted(header, aborted):
                for event in decode(data, at):
                    if event.offset >= self.position:
                        self.take(event)
            self.position = header.next_offset

    def take(self, event: Event) -> None:
        assert event.key is not None
        assert event.offset > self.last.get(event.key, -1), "an older value after a newer one"
        self.last[event.key] = event.offset
        self.state.pop(event.key, None)
        if event.value is not None:
            self.state[event.key] = event.value


class CompactionModel(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.model: dict[bytes, bytes] = {}
        self.pending: Pairs | None = None
        self.now_ms = NOW
        self.count = 0
        self.log = self.open()
        self.readers: list[Reader] = []

    def open(self) -> PartitionLog:
        chosen = HubSettings(cleanup="compact", compact_dirty_percent=1, tombstone_retention_ms=RETENTION_MS)
        return PartitionLog(self.directory, "hub", 0, chosen, sync=False, now_ms=self.now_ms)

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            shutil.rmtree(self.directory)

    def _put(self, pairs: Pairs, codec: int, attributes: int = 0, **producer: int) -> dict[bytes, bytes | None]:
        changes: dict[bytes, bytes | None] = {}
        events = []
        for key, kept in pairs:
            self.count += 1
            changes[key] = b"%d" % self.count if kept else None
            events.append(Event(changes[key], key, timestamp=self.now_ms))
        self._append(encode(events, codec=codec, attributes=attributes, **producer))
        return changes

    def _append(self, data: bytearray) -> None:
        self.log.append_group([(memoryview(data), check_produced(data))], self.now_ms)
        self.log.publish()

    def _apply(self, changes: dict[bytes, bytes | None]) -> None:
        for key, value in changes.items():
            self.model.pop(key, None)
            if value is not None:
                self.model[key] = value

    pairs = st.lists(st.tuples(st.sampled_from(KEYS), st.booleans()), min_size=1, max_size=4)

    @rule(pairs=pairs, codec=st.integers(0, 4))
    def put(self, pairs: Pairs, codec: int) -> None:
        self._apply(self._put(pairs, codec))

    @rule(pairs=pairs, commit=st.booleans(), between=st.booleans())
    def transaction(self, pairs: Pairs, commit: bool, between: bool) -> None:
        changes = self._put(pairs, 0, 0x10, producer_id=5, producer_epoch=0)
        if between:
            self.log.append_group([(memoryview(b""), ())], self.now_ms)
            self.log.publish()
            self.compact()
        assert COMMIT != ABORT
        self._append(marker(5, 0, commit=commit, timestamp_ms=self.now_ms))
        if commit:
            self._apply(changes)

    @rule()
    def seal(self) -> None:
        self.log.append_group([(memoryview(b""), ())], self.now_ms)
        self.log.publish()

    @rule()
    def compact(self) -> None:
        compaction.compact(self.log, self.now_ms)

    @rule(step_ms=st.integers(1, 700))
    def time_passes(self, step_ms: int) -> None:
        self.now_ms += step_ms

    @rule(clean=st.booleans(), forget=st.sampled_from(["", "*.meta", "compaction"]))
    def restart(self, clean: bool, forget: str) -> None:
        if clean:
            self.log.close()
        for path in self.directory.glob(forget) if forget else ():
            path.unlink()
        self.log = self.open()
        assert self.log.recovery.damage == ()

    @rule()
    def start_reading(self) -> None:
        if len(self.readers) < 3:
            self.readers.append(Reader(self.now_ms))

    @rule(which=st.integers(0, 2), bytes_max=st.integers(1, 2000))
    def read_on(self, which: int, bytes_max: int) -> None:
        if which < len(self.readers):
            self.readers[which].step(self.log, bytes_max)

    @rule()
    def delete_behind_a_reader(self) -> None:
        """It has seen values whose deletion it must still see, however soon everything is compacted."""
        self.readers = [Reader(self.now_ms)]
        self.readers[0].step(self.log, 1)
        self._apply(self._put([(key, False) for key in KEYS], 0))
        self.seal()
        self.compact()
        self.compact()
        self.finish_reading()

    @rule()
    def finish_reading(self) -> None:
        for reader in self.readers:
            while reader.position < self.log.end_offset:
                reader.step(self.log, 500)
            if self.now_ms - reader.started_ms < RETENTION_MS:
                assert reader.state == self.model
        self.readers = []

    @invariant()
    def a_fresh_reader_finds_the_model(self) -> None:
        if not hasattr(self, "log"):
            return
        reader = Reader(self.now_ms)
        while reader.position < self.log.end_offset:
            reader.step(self.log, 10_000)
        assert reader.state == self.model
        assert len(reader.last) <= len(KEYS)


TestCompactionModel: Any = CompactionModel.TestCase
TestCompactionModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
