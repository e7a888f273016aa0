"""The log against a plain list: any order of appends, reads, restarts and torn tails."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gridwire.core.batch import Event, check_produced, decode, encode, iter_headers
from gridwire.core.settings import HubSettings
from gridwire.log.partition import PartitionLog, Stored

NOW = 1_700_000_000_000


class LogModel(RuleBasedStateMachine):
    """`acknowledged` is what was synced; `pending` what is written but not yet promised to anybody."""

    @initialize()
    def start(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.acknowledged: list[bytes] = []
        self.sequence = 0
        self.start_offset = 0
        self.last: tuple[list[bytes], int, int] | None = None
        self.log = self.open()

    def open(self) -> PartitionLog:
        chosen = HubSettings(segment_bytes=64 * 1024)
        return PartitionLog(self.directory, "hub", 0, chosen, sync=False, now_ms=NOW, log_start=self.start_offset)

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            shutil.rmtree(self.directory)

    @rule(sizes=st.lists(st.integers(0, 20_000), min_size=1, max_size=5), codec=st.integers(0, 4))
    def append(self, sizes: list[int], codec: int) -> None:
        values = [b"%d|" % (len(self.acknowledged) + n) + b"v" * size for n, size in enumerate(sizes)]
        self._append(values, self.sequence, len(self.acknowledged), duplicate=False, codec=codec)
        self.last = (values, self.sequence, len(self.acknowledged))
        self.sequence += len(values)
        self.acknowledged += values

    @precondition(lambda self: self.last is not None)
    @rule()
    def repeat_the_last_batch(self) -> None:
        assert self.last is not None
        values, sequence, offset = self.last
        self._append(values, sequence, offset, duplicate=True)

    def _append(self, values: list[bytes], sequence: int, offset: int, *, duplicate: bool, codec: int = 0) -> None:
        events = [Event(value, timestamp=NOW) for value in values]
        data = encode(events, codec=codec, producer_id=1, producer_epoch=0, base_sequence=sequence)
        results = self.log.append_group([(memoryview(data), check_produced(data))], NOW)
        assert results == [Stored(offset, duplicate=duplicate)]
        self.log.publish()

    @rule(back=st.integers(0, 5))
    def delete_records(self, back: int) -> None:
        self.start_offset = max(self.start_offset, len(self.acknowledged) - back)
        self.log.advance_start(self.start_offset)
        assert self.log.start_offset == self.start_offset

    @rule()
    def restart(self) -> None:
        self.log.close()
        self.log = self.open()

    @rule()
    def crash(self) -> None:
        for segment in self.log._segments:
            segment.close()
        self.log = self.open()

    @rule(garbage=st.binary(min_size=1, max_size=200), whole=st.booleans())
    def crash_inside_a_write(self, garbage: bytes, whole: bool) -> None:
        """Unacknowledged bytes at the end: garbage, or the beginning of a batch."""
        path = max(self.directory.glob("*.log"))
        torn = encode([Event(b"never acknowledged")], base_offset=len(self.acknowledged))[: -1 - len(garbage) % 60]
        with path.open("ab") as file:
            file.write(bytes(torn) if whole else garbage)
        for segment in self.log._segments:
            segment.close()
        self.log = self.open()

    @rule(start=st.integers(0, 200), bytes_max=st.integers(1, 100_000))
    def read_from_anywhere(self, start: int, bytes_max: int) -> None:
        offset = max(min(start, len(self.acknowledged)), self.log.start_offset)
        data = self.log.read(offset, bytes_max)
        found = [e.value for p, _ in iter_headers(data) for e in decode(data, p) if e.offset >= offset]
        assert found == self.acknowledged[offset : offset + len(found)]
        assert bool(found) == (offset < len(self.acknowledged))

    @rule(start=st.integers(0, 200), bytes_max=st.integers(1, 200_000))
    def spans_hold_whole_batches(self, start: int, bytes_max: int) -> None:
        offset = max(min(start, len(self.acknowledged)), self.log.start_offset)
        found: list[bytes | None] = []
        for span in self.log.spans(offset, bytes_max):
            data = Path(span.path).read_bytes()[span.start : span.end]
            assert sum(header.size for _, header in iter_headers(data)) == len(data)
            found += [e.value for p, _ in iter_headers(data) for e in decode(data, p) if e.offset >= offset]
        assert found == self.acknowledged[offset : offset + len(found)]
        assert bool(found) == (offset < len(self.acknowledged))

    @invariant()
    def the_end_is_what_was_acknowledged(self) -> None:
        if hasattr(self, "log"):
            assert self.log.end_offset == len(self.acknowledged)


TestLogModel = LogModel.TestCase
TestLogModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
