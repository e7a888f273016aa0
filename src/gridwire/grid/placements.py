"""Which usage point hangs where, in several network models at once: all of them in one numbering.

An id has the same number in every model that is placed, so models can be compared and readings be summed under the one
that was right at their time. A model takes little: what differs from one that came before it.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from gridwire.columnar.text_index import TextIndex
from gridwire.grid.network import Network, NetworkIndex
from gridwire.grid.network import digest as digest_of
from gridwire.grid.reading_types import EXPORT_KWH, IMPORT_KWH

NOWHERE: Final = -1
"""The transformer and feeder of a usage point that a model does not have."""

CHANGED_SHARE: Final = 4
"""A model that differs in more than one of so many usage points from the one it is told by stands for itself."""

UNFOLDED_MAX: Final = 4
"""Models whose usage points are kept as whole columns: those that readings arrive for."""

FIRST_SLOT: Final = -(2**62)
"""Before every interval."""

_CHUNK: Final = 65_536

Ints = NDArray[np.int32]
A = TypeVar("A", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """One model in the numbering of all. Compared by identity.

    What came into the numbering later is in none of its arrays.

    Args:
        base: transformer and feeder of every unit in the model it is told by. changed: units that are elsewhere.

    **Shape**: `rated_kva`, `expected_of_transformer` `[n_transformers]`; `transformer_of_feeder` (-1: several),
    `rated_of_feeder` (that transformer's), `expected_of_feeder`, `wide` (usage points of several transformers hang on
    it) `[n_feeders]`. `expected_*` are readings of energy due per interval.
    """

    interval_s: int
    base: tuple[Ints, Ints]
    changed: Ints
    places: tuple[Ints, Ints]
    rated_kva: NDArray[np.float64]
    expected_of_transformer: NDArray[np.int64]
    expected_of_feeder: NDArray[np.int64]
    rated_of_feeder: NDArray[np.float64]
    transformer_of_feeder: Ints
    wide: NDArray[np.bool_]

    def unfold(self, units: int) -> tuple[Ints, Ints]:
        """Transformer and feeder of every unit. **Shape** `[units]`, NOWHERE for those it does not have."""
        if not len(self.changed) and len(self.base[0]) == units:
            return self.base
        return self._unfold(0, units), self._unfold(1, units)

    def _unfold(self, column: int, units: int) -> Ints:
        out = np.full(units, NOWHERE, np.int32)
        out[: len(self.base[column])] = self.base[column]
        out[self.changed] = self.places[column]
        return out


class Numbering:
    """Numbers of usage points, transformers and feeders, in the order in which models were placed. It only grows."""

    def __init__(self) -> None:
        self.units = TextIndex()
        self.transformer_ids: list[str] = []
        self.feeder_ids: list[str] = []
        self.history: list[bytes] = []
        """After each model: a hash of all models so far. The numbers of two numberings agree as far as these do."""
        self._transformer_at: dict[str, int] = {}
        self._feeder_at: dict[str, int] = {}
        self._base: tuple[Ints, Ints] = (np.zeros(0, np.int32), np.zeros(0, np.int32))
        self._unfolded: OrderedDict[Placement, tuple[Ints, Ints]] = OrderedDict()

    def place(self, network: Network, digest: bytes = b"") -> Placement:
        """Take a valid model. `digest`: of the model."""
        index = network.index()
        before = self.history[-1] if self.history else b""
        self.history.append(hashlib.sha256(before + digest).digest())
        transformer_at = _numbers(self._transformer_at, self.transformer_ids, index.transformer_ids)
        feeder_at = _numbers(self._feeder_at, self.feeder_ids, index.feeder_ids)
        units = self._unit_numbers(index)
        columns = tuple(np.full(len(self.units), NOWHERE, np.int32) for _ in range(2))
        columns[0][units] = transformer_at[index.transformer_of_unit]
        columns[1][units] = feeder_at[index.feeder_of_unit]
        changed = self._changed((columns[0], columns[1]))
        if len(changed) * CHANGED_SHARE > len(self.units):
            self._base, changed = (columns[0], columns[1]), np.zeros(0, np.int32)
        return self._placement(index, transformer_at, feeder_at, changed, (columns[0][changed], columns[1][changed]))

    def unfolded(self, placement: Placement) -> tuple[Ints, Ints]:
        """`Placement.unfold` for all units, kept for the few models asked for last."""
        found = self._unfolded.pop(placement, None)
        if found is None or len(found[0]) < len(self.units):
            found = placement.unfold(len(self.units))
        self._unfolded[placement] = found
        while len(self._unfolded) > UNFOLDED_MAX:
            self._unfolded.popitem(last=False)
        return found

    def _unit_numbers(self, index: NetworkIndex) -> Ints:
        if not len(self.units):  # the first model's numbers are its own
            self.units = index.points()
            return np.arange(len(index.unit_ids), dtype=np.int32)
        left = iter(index.unit_ids)
        chunks = [np.zeros(0, np.int32)]
        while chunk := list(islice(left, _CHUNK)):
            chunks.append(self.units.add_all(chunk))
        return np.concatenate(chunks)

    def _changed(self, columns: tuple[Ints, Ints]) -> Ints:
        differs = np.zeros(len(self.units), np.bool_)
        for column, base in zip(columns, self._base, strict=True):
            differs[: len(base)] |= column[: len(base)] != base
            differs[len(base) :] |= column[len(base) :] != NOWHERE
        return np.flatnonzero(differs).astype(np.int32)

    def _placement(
        self, index: NetworkIndex, transformer_at: Ints, feeder_at: Ints, changed: Ints, places: tuple[Ints, Ints]
    ) -> Placement:
        transformers, feeders = len(self.transformer_ids), len(self.feeder_ids)
        above = np.append(transformer_at, np.int32(NOWHERE))[index.transformer_of_feeder]
        points = index.channel_unit[np.isin(index.channel_type, (IMPORT_KWH, EXPORT_KWH))]
        of_transformer, of_feeder = index.transformer_of_unit[points], index.feeder_of_unit[points]
        return Placement(
            interval_s=index.interval_s,
            base=self._base,
            changed=changed,
            places=places,
            rated_kva=_spread(index.rated_kva, transformer_at, transformers, 0.0),
            expected_of_transformer=np.bincount(transformer_at[of_transformer], minlength=transformers),
            expected_of_feeder=np.bincount(feeder_at[of_feeder], minlength=feeders),
            rated_of_feeder=_spread(
                np.append(index.rated_kva, 0.0)[index.transformer_of_feeder], feeder_at, feeders, 0.0
            ),
            transformer_of_feeder=_spread(above, feeder_at, feeders, NOWHERE),
            wide=_spread(wide_feeders(index), feeder_at, feeders, False),
        )


@dataclass(frozen=True, slots=True)
class Era:
    """Intervals from one on, for which a model holds. `ordinal`: see `gridwire.grid.network_log.CurrentNetwork`."""

    placement: Placement
    ordinal: int
    first_slot: int
    digest: bytes

    @property
    def key(self) -> tuple[int, int, bytes]:
        """The same for the same model from the same slot on."""
        return self.first_slot, self.ordinal, self.digest


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """The models that hold one after the other. All of them have the same interval.

    An interval belongs to the model in effect when it begins; what lies before all of them, to the first one.
    """

    numbering: Numbering
    eras: tuple[Era, ...]

    @staticmethod
    def of(network: Network, ordinal: int = 0) -> Timeline:
        """One model that always holds."""
        numbering, digest = Numbering(), digest_of(network)
        return Timeline(numbering, (Era(numbering.place(network, digest), ordinal, FIRST_SLOT, digest),))

    @property
    def key(self) -> tuple[tuple[int, int, bytes], ...]:
        """The same for timelines of the same models."""
        return tuple(era.key for era in self.eras)

    @property
    def fingerprint(self) -> str:
        """Of the models, when they hold, and their numbers."""
        return hashlib.sha256(repr((self.key, self.numbering.history[-1])).encode()).hexdigest()

    @property
    def ordinal(self) -> int:
        """Of its newest model, which every change of it changes."""
        return self.eras[-1].ordinal

    @property
    def interval_s(self) -> int:
        """Of all its models."""
        return self.eras[0].placement.interval_s

    def era_of(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of the era of each slot. **Shape** `[n]`."""
        return np.searchsorted(self._bounds(), slots, side="right")

    def eras_between(self, first_slot: int, last_slot: int) -> range:
        """Numbers of the eras of some slots."""
        first, last = self.era_of(np.array([first_slot, last_slot], np.int64)).tolist()
        return range(first, last + 1)

    def era_at(self, slot: int) -> Era:
        """The era of one slot."""
        return self.eras[bisect_right(self.eras, slot, lo=1, key=lambda era: era.first_slot) - 1]

    def ordinals(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ordinal of the model of each slot. **Shape** `[n]`."""
        return np.array([era.ordinal for era in self.eras], np.int64)[self.era_of(slots)]

    def pick(self, field: str, slots: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[Any]:
        """What the model of each slot says of a transformer or feeder: a field of `Placement`. **Shape** `[n]`.

        What a model does not have has no rating, and nothing is expected of it.
        """
        nothing = NOWHERE if field == "transformer_of_feeder" else 0
        columns = [getattr(era.placement, field) for era in self.eras]
        out = np.full(len(slots), nothing, columns[0].dtype)
        eras = self.era_of(slots)
        for number in np.unique(eras).tolist():
            values = columns[number]
            chosen = np.flatnonzero((eras == number) & (groups < len(values)))
            out[chosen] = values[groups[chosen]]
        return out

    def left(self, before: Timeline, slot: int) -> tuple[Ints, Ints]:
        """Transformers and feeders that a usage point of a slot has left, from earlier models to these."""
        now, then = (each.numbering.unfolded(each.era_at(slot).placement) for each in (self, before))
        return _left(then[0], now[0]), _left(then[1], now[1])

    def _bounds(self) -> NDArray[np.int64]:
        return np.array([era.first_slot for era in self.eras[1:]], np.int64)


def placement_digest(network: Network) -> bytes:
    """Of what sums depend on: devices, what hangs where and which energies are expected of it."""
    index = network.index()
    energy = np.isin(index.channel_type, (IMPORT_KWH, EXPORT_KWH))
    devices = (index.interval_s, index.transformer_ids, index.feeder_ids)
    hashed = hashlib.sha256(repr(devices).encode())
    for column in (
        index.rated_kva, index.transformer_of_feeder, index.transformer_of_unit, index.feeder_of_unit,
        index.channel_unit[energy], index.channel_type[energy],
    ):  # fmt: skip
        hashed.update(b"%d\n" % len(column) + column.tobytes())
    left = iter(index.unit_ids)
    while chunk := list(islice(left, _CHUNK)):
        hashed.update(repr(chunk).encode())
    return hashed.digest()


def first_difference(before: Sequence[tuple[int, int, bytes]], after: Sequence[tuple[int, int, bytes]]) -> int | None:
    """The first slot for which two timelines (`Timeline.key`) differ; None when they do not."""
    for old, new in zip_longest(before, after):
        if old != new:
            return min(key[0] for key in (old, new) if key is not None)
    return None


def first_slot(valid_from_us: int, interval_s: int) -> int:
    """The first slot (end of an interval, in intervals) that begins at a time or after it."""
    return -(-valid_from_us // (interval_s * 1_000_000)) + 1


def wide_feeders(index: NetworkIndex) -> NDArray[np.bool_]:
    """**Shape** `[n_feeders]`: whether usage points of several transformers hang on the feeder."""
    lowest = np.full(len(index.feeder_ids), np.iinfo(np.int32).max, np.int32)
    highest = np.full(len(index.feeder_ids), -1, np.int32)
    np.minimum.at(lowest, index.feeder_of_unit, index.transformer_of_unit)
    np.maximum.at(highest, index.feeder_of_unit, index.transformer_of_unit)
    return highest > lowest


def _left(then: Ints, now: Ints) -> Ints:
    """Where units were that are elsewhere now."""
    found: Ints = np.unique(then[(then != now[: len(then)]) & (then != NOWHERE)])
    return found


def _numbers(known: dict[str, int], ids: list[str], given: Sequence[str]) -> Ints:
    """The number of each id; new ones are added."""
    for id in given:
        if known.setdefault(id, len(ids)) == len(ids):
            ids.append(id)
    return np.array([known[id] for id in given], np.int32)


def _spread(values: NDArray[A], at: Ints, count: int, otherwise: float) -> NDArray[A]:
    """Values at their numbers, and something else at all others."""
    out = np.full(count, otherwise, values.dtype)
    out[at] = values
    return out
