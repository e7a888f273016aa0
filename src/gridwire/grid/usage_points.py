"""Millions of usage points as columns: what a large network model holds in place of an object for each.

An object with its id takes 140 bytes, a row here 20 and the bytes of the id.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final, overload

from msgspec import structs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gridwire.grid.network import UsagePoint

PLACE_FIELDS: Final = 3
"""The fields a usage point begins with: id, transformer, feeder."""

CHUNK: Final = 65_536
"""Objects made at a time while walking through all."""


class Texts(Sequence[str]):
    """Texts back to back in one buffer; reads like a tuple of them."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._ends = array("q", [0])

    def extend(self, texts: Sequence[str]) -> None:
        """Add texts at the end."""
        encoded = [text.encode() for text in texts]
        begin = self._ends[-1]
        self._ends.extend(begin + end for end in accumulate(map(len, encoded)))
        self._data += b"".join(encoded)

    def buffers(self) -> tuple[bytearray, array[int]]:
        """The bytes of all, and where each begins and the last one ends. Nothing can be added while they are in use."""
        return self._data, self._ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[str]: ...
    def __getitem__(self, at: int | slice) -> str | Sequence[str]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        at = range(len(self))[at]
        return self._data[self._ends[at] : self._ends[at + 1]].decode()

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), CHUNK):
            ends = self._ends[first : first + CHUNK + 1]
            data = bytes(self._data[ends[0] : ends[-1]])
            base = ends[0]
            yield from (data[a - base : b - base].decode() for a, b in pairwise(ends))


class UsagePoints(Sequence["UsagePoint"]):
    """Usage points of one model; reads like a tuple of them. `digest`: of what they were read from."""

    def __init__(self, transformers: Sequence[str], feeders: Mapping[str, int]) -> None:
        self.ids = Texts()
        self.digest = b""
        self._transformers, self._feeders = tuple(transformers), tuple(feeders)
        self._transformer_at = {id: i for i, id in enumerate(self._transformers)}
        self._feeder_at = {id: i for i, id in enumerate(self._feeders)}
        # The transformer of each feeder, -1: it feeds several.
        self._above = array("i", feeders.values())
        self._transformer, self._feeder, self._kind = array("i"), array("i"), array("i")
        self.kinds: list[UsagePoint] = []
        """What usage points are beside their places: one of each, without id, transformer and feeder."""
        self._kind_at: dict[tuple[object, ...], int] = {}

    def extend(self, points: Sequence[UsagePoint]) -> None:
        """Add usage points, all or none.

        Raises:
            KeyError: one names a transformer or feeder that there is not. ValueError: one is not under its feeder's
            transformer, or has no id.
        """
        transformer = [self._transformer_at[point.transformer] for point in points]
        feeder = [self._feeder_at[point.feeder] for point in points]
        above = self._above
        for at, (mine, line) in enumerate(zip(transformer, feeder, strict=True)):
            if above[line] != mine and above[line] != -1:
                raise ValueError(f"usage point {points[at].id!r} is not under the transformer of its feeder")
        ids = [point.id for point in points]
        if not all(ids):
            raise ValueError("a usage point has no id")
        kind = [self._kind_of(point) for point in points]
        self._transformer.extend(transformer)
        self._feeder.extend(feeder)
        self._kind.extend(kind)
        self.ids.extend(ids)

    def _kind_of(self, point: UsagePoint) -> int:
        beside = structs.astuple(point)[PLACE_FIELDS:]
        known = self._kind_at.get(beside)
        if known is None:
            known = self._kind_at[beside] = len(self.kinds)
            self.kinds.append(structs.replace(point, id="", transformer="", feeder=""))
        return known

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, at: int) -> UsagePoint: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[UsagePoint]: ...
    def __getitem__(self, at: int | slice) -> UsagePoint | Sequence[UsagePoint]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        at = range(len(self))[at]
        return self._point(self.ids[at], at)

    def __iter__(self) -> Iterator[UsagePoint]:
        return (self._point(id, at) for at, id in enumerate(self.ids))

    def _point(self, id: str, at: int) -> UsagePoint:
        transformer, feeder = self._transformers[self._transformer[at]], self._feeders[self._feeder[at]]
        return structs.replace(self.kinds[self._kind[at]], id=id, transformer=transformer, feeder=feeder)

    def columns(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], list[UsagePoint]]:
        """(transformer, feeder, kind) of every usage point, and the kinds."""
        import numpy as np

        kind = np.array(self._kind, np.int32)
        return np.array(self._transformer, np.int32), np.array(self._feeder, np.int32), kind, self.kinds

    def twice(self) -> str | None:
        """An id that is there twice; None when there is none."""
        import numpy as np

        hashes = np.fromiter(map(hash, self.ids), np.int64, len(self))
        order = np.argsort(hashes, kind="stable")
        same = order[1:][hashes[order[1:]] == hashes[order[:-1]]]
        suspects = set(hashes[same].tolist())
        seen: set[str] = set()
        for at in np.flatnonzero(np.isin(hashes, list(suspects))).tolist() if suspects else ():
            if self.ids[at] in seen:
                return self.ids[at]
            seen.add(self.ids[at])
        return None
