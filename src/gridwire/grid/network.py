"""The network model: which usage point hangs on which feeder and transformer, and what each is expected to send.

One model is one event of the hub `grid.network`; the newest one holds:

    {"name": "Demo utility", "interval_s": 900,
     "transformers": [{"id": "T1", "rated_kva": 160.0, "substation": "MV1"}],
     "feeders": [{"id": "T1 Feeder 1", "transformer": "T1"}],
     "usage_points": [{"id": "U1", "transformer": "T1", "feeder": "T1 Feeder 1", "expects": ["import_kwh"]}]}

A feeder may lie under one transformer (low voltage) or feed several (medium voltage, `transformer` absent).
Unknown fields are ignored, so that newer models stay readable. A model too large for one event comes in several, see
`gridwire.grid.network_parts`; its usage points are then columns that read like the tuple of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from gridwire.core import hubs
from gridwire.core.errors import GridwireError
from gridwire.grid import reading_types
from gridwire.grid.usage_points import UsagePoints

if TYPE_CHECKING:  # a model can be checked and passed on without paying for numpy
    import numpy as np
    from numpy.typing import NDArray

NETWORK_HUB: Final = hubs.NETWORK
"""The hub that holds network models."""


class InvalidNetwork(GridwireError):
    """A network model that contradicts itself; the message names the element."""


class Transformer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A distribution transformer. `rated_kva` 0 is unknown, `substation` "" too."""

    id: str
    rated_kva: float = 0.0
    substation: str = ""


class Feeder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line that feeds usage points; `transformer` is "" when it feeds several transformers."""

    id: str
    transformer: str = ""


class UsagePoint(msgspec.Struct, frozen=True, kw_only=True):
    """A place where energy is metered. `expects`: aliases of the reading types due every interval."""

    id: str
    transformer: str
    feeder: str
    expects: tuple[str, ...] = ("import_kwh",)


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A whole network model. Elements keep their order; positions in it are the indexes of `NetworkIndex`.

    Args:
        interval_s: length of the expected readings' interval.
    """

    name: str
    transformers: tuple[Transformer, ...]
    feeders: tuple[Feeder, ...]
    usage_points: tuple[UsagePoint, ...]
    interval_s: int = 900

    def index(self) -> NetworkIndex:
        """The model as arrays, for grouping."""
        return _index(self)


@dataclass(frozen=True, slots=True)
class NetworkIndex:
    """A network as arrays. Units are the usage points in the model's order.

    **Shape**: `transformer_of_unit`, `feeder_of_unit` `int32[n_units]`; `rated_kva` `float64[n_transformers]`;
    `transformer_of_feeder` `int32[n_feeders]`, -1 when the feeder feeds several; `expected_*` `int32`, readings
    due per interval; `channel_unit` `int32[n_channels]` and `channel_type` `int16[n_channels]`, one channel for
    every (usage point, expected reading type), ordered by unit.
    """

    unit_ids: Sequence[str]
    transformer_ids: tuple[str, ...]
    feeder_ids: tuple[str, ...]
    substation_of_transformer: tuple[str, ...]
    transformer_of_unit: NDArray[np.int32]
    feeder_of_unit: NDArray[np.int32]
    rated_kva: NDArray[np.float64]
    transformer_of_feeder: NDArray[np.int32]
    channel_unit: NDArray[np.int32]
    channel_type: NDArray[np.int16]
    expected_of_transformer: NDArray[np.int32]
    expected_of_feeder: NDArray[np.int32]
    interval_s: int


_DECODER = msgspec.json.Decoder(Network)
_ENCODER = msgspec.json.Encoder()


def to_json(network: Network) -> bytes:
    """The model as the value of one event."""
    return _ENCODER.encode(network)


def listed(network: Network) -> Network:
    """The same model with an object for each usage point."""
    return msgspec.structs.replace(network, usage_points=tuple(network.usage_points))


def digest(network: Network) -> bytes:
    """Of a model, to compare it with another. That of a model in parts is one of its events as they were sent."""
    points = network.usage_points
    given = points.digest if isinstance(points, UsagePoints) else to_json(network)
    return hashlib.sha256(given).digest()


def columns_of(network: Network) -> UsagePoints:
    """The usage points of a valid model as columns."""
    points = network.usage_points
    if isinstance(points, UsagePoints):
        return points
    made = columns_for(network)
    made.extend(points)
    return made


def columns_for(network: Network) -> UsagePoints:
    """Columns without a row, for usage points of a model's transformers and feeders."""
    transformer_at = {row.id: i for i, row in enumerate(network.transformers)}
    return UsagePoints(
        list(transformer_at), {row.id: transformer_at.get(row.transformer, -1) for row in network.feeders}
    )


def from_json(data: bytes) -> Network:
    """Read and check a model.

    Raises:
        InvalidNetwork: not JSON of this shape, an id twice, or a reference to nothing.
    """
    try:
        network = _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidNetwork(f"not a network model: {error}") from None
    check(network)
    return network


def check(network: Network) -> None:
    """Raise InvalidNetwork unless ids are unique, references exist and numbers make sense."""
    transformers, feeders = check_devices(network)
    _unique("usage point", (row.id for row in network.usage_points))
    above = {feeder.id: feeder.transformer for feeder in network.feeders}
    for unit in network.usage_points:
        if unit.transformer not in transformers or unit.feeder not in feeders:
            raise InvalidNetwork(
                f"usage point {unit.id!r} names unknown transformer {unit.transformer!r} or feeder {unit.feeder!r}"
            )
        if above[unit.feeder] not in ("", unit.transformer):
            raise InvalidNetwork(f"usage point {unit.id!r} is not under the transformer of its feeder")
        check_expected(unit)


def check_expected(unit: UsagePoint) -> None:
    """Raise InvalidNetwork unless what is expected of a usage point is known."""
    for alias in unit.expects:
        if alias not in reading_types.BY_ALIAS:
            raise InvalidNetwork(f"usage point {unit.id!r} expects unknown reading type {alias!r}")


def check_devices(network: Network) -> tuple[set[str], set[str]]:
    """Ids of the transformers and feeders. Raises InvalidNetwork as `check` does."""
    transformers = _unique("transformer", (row.id for row in network.transformers))
    feeders = _unique("feeder", (row.id for row in network.feeders))
    if network.interval_s <= 0:
        raise InvalidNetwork(f"interval_s must be positive, not {network.interval_s}")
    for row in network.transformers:
        if not 0 <= row.rated_kva < float("inf"):
            raise InvalidNetwork(f"transformer {row.id!r} is rated {row.rated_kva} kVA")
    for feeder in network.feeders:
        if feeder.transformer and feeder.transformer not in transformers:
            raise InvalidNetwork(f"feeder {feeder.id!r} names unknown transformer {feeder.transformer!r}")
    return transformers, feeders


def _unique(kind: str, ids: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    for id in ids:
        if not id or id in seen:
            raise InvalidNetwork(f"{kind} id {id!r} is empty or used twice")
        seen.add(id)
    return seen


def _index(network: Network) -> NetworkIndex:
    import numpy as np

    transformer_at = {row.id: i for i, row in enumerate(network.transformers)}
    feeder_at = {row.id: i for i, row in enumerate(network.feeders)}
    points = columns_of(network)
    transformer_of_unit, feeder_of_unit, kind, kinds = points.columns()
    types = [[reading_types.BY_ALIAS[alias].id for alias in expects] for expects in kinds]
    per_unit = np.array([len(of_kind) for of_kind in types], np.int64)[kind] if kinds else np.zeros(0, np.int64)
    channel_unit = np.repeat(np.arange(len(points), dtype=np.int32), per_unit)
    within = np.arange(len(channel_unit)) - np.repeat(np.cumsum(per_unit) - per_unit, per_unit)
    first_of_kind = np.cumsum([0, *map(len, types)])[:-1]
    flat = np.array([type for of_kind in types for type in of_kind], np.int16)
    return NetworkIndex(
        unit_ids=points.ids if isinstance(network.usage_points, UsagePoints) else tuple(points.ids),
        transformer_ids=tuple(transformer_at),
        feeder_ids=tuple(feeder_at),
        substation_of_transformer=tuple(row.substation for row in network.transformers),
        transformer_of_unit=transformer_of_unit,
        feeder_of_unit=feeder_of_unit,
        rated_kva=np.array([row.rated_kva for row in network.transformers], np.float64),
        transformer_of_feeder=np.array([transformer_at.get(row.transformer, -1) for row in network.feeders], np.int32),
        channel_unit=channel_unit,
        channel_type=flat[first_of_kind[kind[channel_unit]] + within],
        expected_of_transformer=np.bincount(transformer_of_unit[channel_unit], minlength=len(transformer_at)).astype(
            np.int32
        ),
        expected_of_feeder=np.bincount(feeder_of_unit[channel_unit], minlength=len(feeder_at)).astype(np.int32),
        interval_s=network.interval_s,
    )
