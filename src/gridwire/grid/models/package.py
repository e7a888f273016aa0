"""A model as events of the hub `models`: its arrays in pieces, then its manifest, and later who is promoted.

    headers model=load_forecast/20260101T000000Z-1a2b3c4d chunk=0 chunks=2      value: bytes
    headers model=... chunk=1 chunks=2                                          value: bytes
    {"type":"model","kind":"load_forecast","version":"20260101T000000Z-1a2b3c4d","sha256":"...","promoted":true, ...}
    {"type":"promotion","kind":"load_forecast","version":"20251201T000000Z-5e6f7a8b"}

The pieces are one `.npz` file. A manifest whose pieces are missing or do not give its digest is no model, so a
publisher that dies in between leaves nothing behind but bytes. Of each kind the model promoted last is in
effect; a manifest with `promoted` promotes itself.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from gridwire.core import hubs
from gridwire.core.batch import Event
from gridwire.core.errors import GridwireError
from gridwire.core.limits import KIB, MIB

MODELS_HUB: Final = hubs.MODELS
"""The hub of models."""

CHUNK_BYTES: Final = 512 * KIB
"""One piece: below the 1 MiB that Kafka clusters take by default."""

MODEL_BYTES_MAX: Final = 256 * MIB
"""Largest model, packed or not: 100,000 units have some 60 MB."""

Arrays = dict[str, NDArray[Any]]


class InvalidModel(GridwireError):
    """Events that are no model, or one that does not fit; the message says why."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, tag="model", tag_field="type"):
    """What is known of a model without its arrays.

    Args:
        trained_from, trained_to: the hours it learnt from. data: version of each table it learnt from.
        metrics: of the back-test, by name. better: than seasonal naive, in that test. settings: it was trained with.
        forced: published although it is not better.
    """

    kind: str
    version: str
    created: datetime
    sha256: str
    bytes: int
    chunks: int
    trained_from: datetime
    trained_to: datetime
    units: int
    data: dict[str, int] = {}
    metrics: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    better: bool = True
    forced: bool = False
    promoted: bool = True
    software: str = ""


class Promotion(msgspec.Struct, frozen=True, kw_only=True, tag="promotion", tag_field="type"):
    """Which model of a kind is in effect from here on."""

    kind: str
    version: str
    at: datetime


_DECODER: Final = msgspec.json.Decoder(Manifest | Promotion)
_ENCODER: Final = msgspec.json.Encoder()


def parse(value: bytes) -> Manifest | Promotion:
    """An event of the hub that is no piece. Raises InvalidModel."""
    try:
        told: Manifest | Promotion = _DECODER.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidModel(f"neither a model nor a promotion: {error}") from None
    return told


def pack(arrays: Arrays) -> bytes:
    """Arrays as one `.npz` file. The same arrays give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=4) as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy")  # no time of day: the digest is of the content
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, member.getvalue())
    return buffer.getvalue()


def unpack(data: bytes) -> Arrays:
    """Arrays of `pack`. Raises InvalidModel."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MODEL_BYTES_MAX:
                raise InvalidModel(f"a model has at most {MODEL_BYTES_MAX // MIB} MiB of arrays")
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError, MemoryError) as error:
        raise InvalidModel(f"arrays cannot be read: {error}") from None


def version_of(created: datetime, sha256: str) -> str:
    """Name of a version: when it was made and what it is."""
    return f"{created.astimezone(UTC):%Y%m%dT%H%M%SZ}-{sha256[:8]}"


def events(manifest: Manifest, data: bytes) -> list[Event]:
    """A model as events, in the order they are to be sent. Raises InvalidModel: too large."""
    if len(data) > MODEL_BYTES_MAX:
        raise InvalidModel(f"a model has at most {MODEL_BYTES_MAX // MIB} MiB, this one {len(data) // MIB}")
    key = name_of(manifest.kind, manifest.version)
    pieces = pieces_of(data)
    found = [
        Event(piece, key, (("model", key), ("chunk", str(number).encode()), ("chunks", str(len(pieces)).encode())))
        for number, piece in enumerate(pieces)
    ]
    return [*found, Event(_ENCODER.encode(manifest), key, (("content-type", b"application/json"),))]


def name_of(kind: str, version: str) -> bytes:
    """What the events of a model are keyed by."""
    return f"{kind}/{version}".encode()


def pieces_of(data: bytes) -> Sequence[bytes]:
    """Bytes in pieces."""
    return [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)] or [b""]


def promotion_event(kind: str, version: str, at: datetime) -> Event:
    """A promotion as an event."""
    value = _ENCODER.encode(Promotion(kind=kind, version=version, at=at))
    return Event(value, name_of(kind, version), (("content-type", b"application/json"),))


def digest(data: bytes) -> str:
    """SHA-256 of a packed model."""
    return hashlib.sha256(data).hexdigest()


def summary(manifest: Manifest) -> Mapping[str, Any]:
    """The manifest as JSON would have it."""
    found: Mapping[str, Any] = msgspec.to_builtins(manifest)
    return found
