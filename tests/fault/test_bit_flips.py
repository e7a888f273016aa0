"""One bit is flipped somewhere in a data directory: it is noticed, and only the batch that has it is refused.

    data segments    any bit of any batch, sealed or active: reading that batch is refused, everything else is served
                     as it was written; `gridwire verify` finds it too
    sidecars         thrown away and rebuilt: nothing is lost, repeated batches are still recognised
    control journal  the hub does not start and says what to do; `gridwire salvage` then keeps every event
    gridwire.json    the hub does not start and says what to do

The last batch of a hub that was killed (no sidecar vouches for it) looks like a torn tail: it is cut off, and that is
reported. Negative control: without the checks a flipped bit is served.

More flips: GRIDWIRE_TEST_BIT_FLIPS=100000. Another sequence: GRIDWIRE_TEST_SEED=n.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gridwire.broker import identity
from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.port import Position
from gridwire.broker.salvage import salvage
from gridwire.cli.checks import _verify_partition
from gridwire.core.batch import Event, check_produced, crc_matches, decode, encode, iter_headers
from gridwire.core.errors import Corruption, GridwireError
from gridwire.core.settings import HubSettings
from gridwire.log import partition as partition_module
from gridwire.log.partition import PartitionLog, Stored
from gridwire.log.segment import Segment

FLIPS = int(os.environ.get("GRIDWIRE_TEST_BIT_FLIPS", "1000"))
SEED = int(os.environ.get("GRIDWIRE_TEST_SEED", "20160101"))
NOW = 1_700_000_000_000
SETTINGS = HubSettings(segment_bytes=64 * 1024)
BATCHES = 60


def open_log(directory: Path) -> PartitionLog:
    return PartitionLog(directory, "hub", 0, SETTINGS, sync=False, now_ms=NOW)


def batch(number: int, sequence: int) -> bytearray:
    """A few events; their number, size and codec depend on the batch's number."""
    events = [
        Event(
            b"%d/%d|" % (number, row) + random.Random(100 * number + row).randbytes(300 + 37 * (number % 40)),
            b"k%d" % row,
        )
        for row in range(1 + number % 7)
    ]
    return encode(events, codec=number % 5, producer_id=9, producer_epoch=0, base_sequence=sequence)


@dataclass
class Written:
    """A partition's directory, what is in it, and where its batches lie: (file, position, size, offset, count)."""

    directory: Path
    events: list[tuple[bytes | None, bytes | None]]
    batches: list[tuple[str, int, int, int, int]]
    files: dict[str, bytes]

    def restore(self) -> None:
        """As it was before the flip."""
        for path in self.directory.iterdir():
            if path.name not in self.files:
                path.unlink()
        for name, content in self.files.items():
            path = self.directory / name
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)


def write(directory: Path, *, killed: bool) -> Written:
    log = open_log(directory)
    events: list[tuple[bytes | None, bytes | None]] = []
    for number in range(BATCHES):
        data = batch(number, len(events))
        assert log.append_group([(memoryview(data), check_produced(data))], NOW) == [Stored(len(events))]
        log.publish()
        events += [(event.key, event.value) for event in decode(data)]
    if killed:
        for segment in log._segments:
            segment.close()
    else:
        log.close()
    batches = []
    for path in sorted(directory.glob("*.log")):
        for position, header in iter_headers(path.read_bytes()):
            batches.append((path.name, position, header.size, header.base_offset, header.last_offset_delta + 1))
    assert len(list(directory.glob("*.log"))) >= 4
    return Written(directory, events, batches, {path.name: path.read_bytes() for path in directory.iterdir()})


@pytest.fixture(scope="module", params=["closed", "killed"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write(tmp_path_factory.mktemp("written") / "0", killed=request.param == "killed")


def flip(path: Path, dice: random.Random) -> int:
    """Flip one bit; returns its byte."""
    content = bytearray(path.read_bytes())
    place = dice.randrange(len(content))
    content[place] ^= 1 << dice.randrange(8)
    path.write_bytes(content)
    return place


def served(log: PartitionLog, dice: random.Random) -> tuple[dict[int, tuple[Any, Any]], set[int]]:
    """Everything that can be read, and the offsets that are refused."""
    found: dict[int, tuple[Any, Any]] = {}
    refused: set[int] = set()
    offset = log.start_offset
    while offset < log.end_offset:
        try:
            data = log.read(offset, dice.choice([1, 3000, 1_000_000]))
        except Corruption:
            refused.add(offset)
            offset += 1
            continue
        assert data, f"nothing at {offset} of {log.end_offset}"
        for position, header in iter_headers(data):
            assert crc_matches(data, header, position), "damaged bytes were served"
            for event in decode(data, position):
                found[event.offset] = event.key, event.value
            assert header.next_offset > offset or position == 0
            offset = max(offset, header.next_offset)
    return found, refused


def share(part: float) -> int:
    return max(1, int(FLIPS * part))


@pytest.mark.timeout(60 + FLIPS // 2)
def test_a_flip_in_a_segment_is_noticed_and_costs_only_its_batch(written: Written, tell: Any) -> None:
    dice = random.Random(SEED)
    killed = len([name for name in written.files if name.endswith(".meta")]) < len(
        list(written.directory.glob("*.log"))
    )
    for _ in range(share(0.35)):
        name, position, size, offset, count = (
            written.batches[-1] if dice.random() < 0.1 else dice.choice(written.batches)
        )
        path = written.directory / name
        content = bytearray(written.files[name])
        place = position + (dice.randrange(24) if dice.random() < 0.3 else dice.randrange(size))
        content[place] ^= 1 << dice.randrange(8)
        path.write_bytes(content)
        what = f"seed {SEED}: bit in byte {place - position} of the batch at {position} of {name}"
        checked = _verify_partition(written.directory, "hub")
        assert checked["damaged"] + bool(checked["torn_bytes"]) >= 1, f"verify did not notice: {what}"
        log = open_log(written.directory)
        found, refused = served(log, dice)
        lost = set(range(offset, offset + count))
        if killed and (name, position) == written.batches[-1][:2]:
            assert log.recovery.truncated_bytes == size, what
            assert log.end_offset == offset, what
        else:
            assert refused == lost, what
        assert found == {n: event for n, event in enumerate(written.events) if n not in lost}, what
        for segment in log._segments:
            segment.close()
        written.restore()
    tell("bit flips, data segments", flips=share(0.35), detected=share(0.35))


@pytest.mark.timeout(60 + FLIPS // 2)
def test_a_flip_in_a_sidecar_costs_nothing(written: Written, tell: Any) -> None:
    dice = random.Random(SEED + 1)
    sidecars = [name for name in written.files if name.endswith(".meta")]
    last = written.batches[-1]
    for _ in range(share(0.1)):
        name = dice.choice(sidecars)
        place = flip(written.directory / name, dice)
        what = f"seed {SEED}: byte {place} of {name}"
        assert Segment(written.directory, int(Path(name).stem), NOW).load_meta() is None, what
        log = open_log(written.directory)
        assert served(log, dice) == (dict(enumerate(written.events)), set()), what
        assert log.recovery.damage == (), what
        again = batch(BATCHES - 1, last[3])
        assert log.append_group([(memoryview(again), check_produced(again))], NOW) == [Stored(last[3], duplicate=True)]
        for segment in log._segments:
            segment.close()
        written.restore()
    tell("bit flips, indexes and producer snapshots", flips=share(0.1), detected=share(0.1))


def test_control_without_the_checks_a_flipped_bit_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = write(tmp_path / "0", killed=False)
    name, position, size, _, _ = closed.batches[5]
    content = bytearray(closed.files[name])
    content[position + size - 1] ^= 1
    (closed.directory / name).write_bytes(content)
    monkeypatch.setattr(partition_module.Segment, "distrust", lambda segment: None)
    with pytest.raises(AssertionError, match="damaged bytes were served"):
        served(open_log(closed.directory), random.Random(SEED))


# A whole data directory


async def _fill(directory: Path) -> None:
    broker = await EmbeddedBroker.open(directory, "fsync", default_partitions=2)
    for number in range(12):
        await broker.create_hub(f"hub-{number}")
        await broker.append(f"hub-{number}", number % 2, encode([Event(b"event of %d" % number)]))
        await broker.commit("readers", {(f"hub-{number}", number % 2): Position(1)})
    await broker.new_producer_id()
    await broker.close()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "data"
    asyncio.run(_fill(path))
    return path


@pytest.fixture
def copy(directory: Path, tmp_path: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(directory, tmp_path / "copy"))


async def _events(directory: Path) -> dict[str, list[bytes | None]]:
    """What every hub holds, after a start."""
    broker = await EmbeddedBroker.open(directory, "fsync")
    found: dict[str, list[bytes | None]] = {}
    for hub in broker.hubs():
        values = found.setdefault(hub.name, [])
        for number in range(hub.partitions):
            data = (await broker.read(hub.name, number, 0, 1 << 20)).data
            values += [event.value for at, _ in iter_headers(data) for event in decode(data, at)]
    await broker.close()
    return found


@pytest.mark.timeout(60 + FLIPS // 2)
def test_a_flip_in_the_control_journal_stops_the_hub_and_salvage_keeps_every_event(copy: Path, tell: Any) -> None:
    dice = random.Random(SEED + 2)
    [journal] = (copy / "control").glob("*.log")
    sound = journal.read_bytes()
    sidecar = journal.with_suffix(".meta").read_bytes()
    for number in range(share(0.1)):
        place = flip(journal, dice)
        what = f"seed {SEED}: byte {place} of the journal"
        with pytest.raises(GridwireError, match=r"journal is damaged: .* position \d+.*gridwire salvage"):
            asyncio.run(_events(copy))
        if number % 10 == 0:
            rescued = Path(shutil.copytree(copy, copy.parent / f"rescued-{number}"))
            done = salvage(rescued, NOW)
            assert done.damaged_places == 1 or done.change_sets == len(list(iter_headers(sound))) - 1, what
            found = asyncio.run(_events(rescued))
            assert sorted(v for values in found.values() for v in values) == sorted(
                b"event of %d" % n for n in range(12)
            ), what
            assert done.kept_at.is_dir()
            shutil.rmtree(rescued)
        journal.write_bytes(sound)
        journal.with_suffix(".meta").write_bytes(sidecar)
    assert len(asyncio.run(_events(copy))) == 12
    tell("bit flips, offsets and metadata", flips=share(0.1), detected=share(0.1))


def test_a_missing_journal_does_not_cost_the_events(copy: Path) -> None:
    shutil.rmtree(copy / "control")
    with pytest.raises(GridwireError, match="journal is empty: restore"):
        asyncio.run(_events(copy))
    taken = salvage(copy, NOW).hubs_taken_over
    assert len(taken) == 12
    found = asyncio.run(_events(copy))
    assert set(found) == set(taken.values())
    assert sorted(v for values in found.values() for v in values) == sorted(b"event of %d" % n for n in range(12))


def test_salvage_leaves_a_running_hub_alone(copy: Path) -> None:
    async def scenario() -> None:
        broker = await EmbeddedBroker.open(copy, "fsync")
        with pytest.raises(GridwireError, match="in use by another hub"):
            salvage(copy, NOW)
        await broker.close()

    asyncio.run(scenario())


@pytest.mark.timeout(60 + FLIPS // 2)
def test_a_flip_in_the_identity_stops_the_hub(copy: Path, tell: Any) -> None:
    path = copy / "gridwire.json"
    sound = path.read_bytes()
    places = [(byte, bit) for byte in range(len(sound)) for bit in range(8)]
    done = min(len(places), share(0.05))
    for byte, bit in random.Random(SEED + 3).sample(places, done):
        content = bytearray(sound)
        content[byte] ^= 1 << bit
        path.write_bytes(content)
        with pytest.raises(GridwireError, match=r"is damaged|has format"):
            identity.cluster_id(copy)
    path.write_bytes(sound)
    assert identity.cluster_id(copy)
    tell("bit flips, identity", flips=done, detected=done)
