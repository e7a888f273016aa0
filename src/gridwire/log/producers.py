"""What the log remembers of idempotent producers, so that a repeated batch is stored once.

Per producer id: its epoch and its last five batches (a client may have five requests in flight). A batch is
* a duplicate if its sequence range is one of those five: answered with the offset it already has;
* in order if it starts right after the last sequence, or starts at 0 under a newer epoch, or is the first we ever see;
* otherwise out of order: something before it is missing, and the client must not go on as if nothing happened.

Source: Kafka KIP-98, KIP-360.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec

from gridwire.core.batch import BatchHeader
from gridwire.core.errors import DuplicateSequence, FencedEpoch, OutOfOrderSequence

REMEMBERED_BATCHES: Final = 5
"""In-flight requests a client may have with idempotence on."""

PRODUCERS_MAX: Final = 20_000
"""Producer ids remembered per partition; the one silent for longest is forgotten first."""

_SEQUENCE_MASK: Final = 0x7FFFFFFF

Remembered = tuple[int, int, int]
"""(first sequence, last sequence, base offset) of one batch."""


@dataclass(slots=True)
class Producer:
    """State of one producer id in one partition."""

    epoch: int
    batches: list[Remembered] = field(default_factory=list)


class ProducerTable:
    """All producers of one partition. Changes can be undone until the write that carries them is on disk."""

    def __init__(self) -> None:
        self._producers: dict[int, Producer] = {}

    def __len__(self) -> int:
        return len(self._producers)

    def check(self, header: BatchHeader) -> int | None:
        """Return the offset of the stored batch if this one repeats it, None if it is new.

        Raises:
            OutOfOrderSequence, FencedEpoch, DuplicateSequence: it must not be appended.
        """
        known = self._producers.get(header.producer_id)
        if known is None:
            return None
        if header.producer_epoch < known.epoch:
            raise FencedEpoch(
                f"producer {header.producer_id} epoch {header.producer_epoch} was replaced by {known.epoch}"
            )
        if header.producer_epoch > known.epoch:
            if header.base_sequence != 0:
                raise OutOfOrderSequence(
                    f"producer {header.producer_id} starts a new epoch at sequence {header.base_sequence}"
                )
            return None
        return self._check_sequence(header, known)

    def _check_sequence(self, header: BatchHeader, known: Producer) -> int | None:
        if not known.batches:  # the epoch is known from a marker only
            if header.base_sequence != 0:
                raise OutOfOrderSequence(
                    f"producer {header.producer_id} starts an epoch at sequence {header.base_sequence}"
                )
            return None
        for first, last, offset in known.batches:
            if first == header.base_sequence and last == header.last_sequence:
                return offset
        expected = (known.batches[-1][1] + 1) & _SEQUENCE_MASK
        if header.base_sequence == expected:
            return None
        if (expected - header.base_sequence) & _SEQUENCE_MASK < _SEQUENCE_MASK // 2:
            raise DuplicateSequence(f"producer {header.producer_id} repeats sequence {header.base_sequence}")
        raise OutOfOrderSequence(
            f"producer {header.producer_id} sent sequence {header.base_sequence}, expected {expected}"
        )

    def record(self, header: BatchHeader, base_offset: int) -> None:
        """Remember a batch that is being appended."""
        known = self._producers.pop(header.producer_id, None)
        if known is None or known.epoch != header.producer_epoch:
            known = Producer(header.producer_epoch)
        newest = (header.base_sequence, header.last_sequence, base_offset)
        batches = [*known.batches[1 - REMEMBERED_BATCHES :], newest]
        self._producers[header.producer_id] = Producer(known.epoch, batches)
        if len(self._producers) > PRODUCERS_MAX:
            del self._producers[next(iter(self._producers))]

    def fence(self, producer_id: int, epoch: int) -> None:
        """Refuse earlier epochs from now on: a marker with a newer one was appended."""
        known = self._producers.get(producer_id)
        if known is None or known.epoch < epoch:
            self._producers[producer_id] = Producer(epoch)

    def epoch(self, producer_id: int) -> int:
        """The newest epoch seen of a producer; 0 when it was forgotten."""
        known = self._producers.get(producer_id)
        return 0 if known is None else known.epoch

    def last_batches(self) -> dict[int, int]:
        """Base offset of the last batch of every producer, for those who must not remove it."""
        return {pid: known.batches[-1][2] for pid, known in list(self._producers.items()) if known.batches}

    def remembered(self, producer_id: int) -> Producer | None:
        """The entry to hand to `restore` should the write fail."""
        return self._producers.get(producer_id)

    def restore(self, producer_id: int, entry: Producer | None) -> None:
        """Undo `record`."""
        if entry is None:
            self._producers.pop(producer_id, None)
        else:
            self._producers[producer_id] = entry

    def dump(self) -> bytes:
        """The table as bytes, for the sidecar of a segment."""
        return msgspec.msgpack.encode([(pid, p.epoch, p.batches) for pid, p in self._producers.items()])

    @classmethod
    def load(cls, data: bytes) -> ProducerTable:
        """The inverse of `dump`."""
        table = cls()
        rows = msgspec.msgpack.decode(data, type=list[tuple[int, int, list[Remembered]]])
        table._producers = {pid: Producer(epoch, batches) for pid, epoch, batches in rows}
        return table
