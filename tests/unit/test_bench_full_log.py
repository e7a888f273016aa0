"""The sparse log of the benchmarks is a log: the hub's own code reads every batch of it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import full_log
from gridwire.core.batch import iter_headers
from gridwire.core.settings import HubSettings
from gridwire.log.partition import PartitionLog

SEGMENT_BYTES = 1_000_000


def test_every_partition_has_whole_batches_and_takes_new_ones(tmp_path: Path) -> None:
    hub = tmp_path / "hubs" / "hub"
    for number in range(2):
        (hub / str(number)).mkdir(parents=True)
    directories = full_log.directories(tmp_path, 2)
    end = full_log.fill(directories, 3, SEGMENT_BYTES)
    for directory in directories:
        log = PartitionLog(directory, "hub", 0, HubSettings(), sync=True, now_ms=0)
        assert not log.recovery.damage and log.recovery.truncated_bytes == 0
        assert (log.start_offset, log.end_offset) == (0, end)
        assert log.size_bytes > 2.8 * SEGMENT_BYTES
        offset = 0
        while offset < end:  # what was on the disk before is checked when it is read
            for _, header in iter_headers(log.read(offset, 300_000)):
                assert header.base_offset == offset
                offset = header.next_offset
        log.close()
    assert len({path.stat().st_ino for path in hub.glob("*/*.log")}) == 3 + 2
