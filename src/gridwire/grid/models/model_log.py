"""Which model of each kind is in effect: follows the hub `models` from its start, event by event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from gridwire.broker.port import ColumnBatch, Place
from gridwire.grid.models.package import (
    CHUNK_BYTES,
    MODEL_BYTES_MAX,
    Arrays,
    InvalidModel,
    Manifest,
    digest,
    name_of,
    parse,
    unpack,
)

KEPT: Final = 8
"""Models of a kind whose arrays are kept: what can be promoted again without training; and the one in effect
and the one before it, however old."""

OPEN_MAX: Final = 4
"""Models whose pieces have come but not their manifest: publishers that died are forgotten, the oldest first."""

_CHUNKS_MAX: Final = MODEL_BYTES_MAX // CHUNK_BYTES

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Stored:
    """A whole model; `data` is None when it is too old to be kept."""

    manifest: Manifest
    data: bytes | None

    def arrays(self) -> Arrays:
        """Its arrays. Raises InvalidModel."""
        if self.data is None:
            raise InvalidModel(f"model {self.manifest.version} is older than the {KEPT} that are kept: train it again")
        return unpack(self.data)


@dataclass(slots=True)
class ModelLog:
    """Feed it every event of the hub in order; what was fed before is passed over. Memory: `KEPT` models of each kind,
    and `OPEN_MAX` half ones.

    Attributes:
        promoted: versions by kind, oldest promotion first; the last one is in effect.
        refused: events that made no sense.
    """

    models: dict[str, dict[str, Stored]] = field(default_factory=dict)
    promoted: dict[str, list[str]] = field(default_factory=dict)
    refused: int = 0
    _read: dict[Place, int] = field(default_factory=dict)
    _pieces: dict[bytes, dict[int, bytes]] = field(default_factory=dict)

    def current(self, kind: str) -> Stored | None:
        """The model in effect."""
        history = self.promoted.get(kind)
        return self.models[kind][history[-1]] if history else None

    def previous(self, kind: str) -> str | None:
        """The version that was in effect before the present one."""
        history = self.promoted.get(kind, [])
        earlier = [version for version in history if version != history[-1]]
        return earlier[-1] if earlier else None

    def feed(self, batch: ColumnBatch) -> None:
        """Take every event of a batch; what makes no sense is told and passed over."""
        columns, at = batch.columns, (batch.hub, batch.partition)
        for row in range(len(columns)):
            if int(columns.offsets[row]) < self._read.get(at, 0):
                continue
            headers = {name: value or b"" for name, value in columns.headers(row)}
            place = f"{batch.hub}/{batch.partition}@{int(columns.offsets[row])}"
            self.take(columns.value(row) or b"", headers, place)
            self._read[at] = int(columns.offsets[row]) + 1

    def take(self, value: bytes, headers: Mapping[str, bytes], place: str = "") -> None:
        """Take one event."""
        try:
            if "chunk" in headers:
                self._piece(value, headers)
                return
            told = parse(value)
            if isinstance(told, Manifest):
                self._model(told)
            elif told.version not in self.models.get(told.kind, {}):
                raise InvalidModel(f"there is no model {told.kind} {told.version} to promote")
            else:
                self.promoted.setdefault(told.kind, []).append(told.version)
        except (InvalidModel, ValueError) as error:
            self.refused += 1
            log.warning("event of the hub of models refused", source=place, reason=str(error))

    def _piece(self, value: bytes, headers: Mapping[str, bytes]) -> None:
        number, count = int(headers["chunk"]), int(headers.get("chunks", b"0"))
        if not 0 <= number < count <= _CHUNKS_MAX or len(value) > CHUNK_BYTES:
            raise InvalidModel("a piece of a model is larger or more than allowed")
        self._pieces.setdefault(headers.get("model", b""), {})[number] = value
        while len(self._pieces) > OPEN_MAX:
            del self._pieces[next(iter(self._pieces))]

    def _model(self, manifest: Manifest) -> None:
        pieces = self._pieces.pop(name_of(manifest.kind, manifest.version), {})
        if sorted(pieces) != list(range(manifest.chunks)):
            raise InvalidModel(f"{len(pieces)} of {manifest.chunks} pieces of {manifest.version} are there")
        data = b"".join(pieces[number] for number in sorted(pieces))
        if digest(data) != manifest.sha256:
            raise InvalidModel(f"the bytes of {manifest.version} are not those its manifest names")
        known = self.models.setdefault(manifest.kind, {})
        known.pop(manifest.version, None)
        known[manifest.version] = Stored(manifest, data)
        if manifest.promoted:
            self.promoted.setdefault(manifest.kind, []).append(manifest.version)
        self._forget(manifest.kind)

    def _forget(self, kind: str) -> None:
        keep = {*self.promoted.get(kind, [])[-1:], self.previous(kind), *list(self.models[kind])[-KEPT:]}
        for version, stored in self.models[kind].items():
            if version not in keep:
                stored.data = None
