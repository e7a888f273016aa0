"""The network model: which usage point hangs on which feeder and transformer, and what each is expected to send.

One model is one event of the hub `grid.network`; the newest one holds:

    {"name": "Demo utility", "interval_s": 900,
     "transformers": [{"id": "T1", "rated_kva": 160.0, "substation": "MV1"}],
     "feeders": [{"id": "T1 Feeder 1", "transformer": "T1"}],
     "usage_points": [{"id": "U1", "transformer": "T1", "feeder": "T1 Feeder 1", "expects": ["import_kwh"]}]}

A feeder may lie under one transformer (low voltage) or feed several (medium voltage, `transformer` absent).
Unknown fields are ignored, so that newer models stay readable.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from gridwire.core import hubs
from gridwire.core.errors import GridwireError
from gridwire.grid import reading_types

if TYPE_CHECKING:  # a model can be checked and passed on without paying for numpy
    import numpy as np
    from numpy.typing import NDArray

NETWORK_HUB: Final = hubs.NETWORK
"""The hub that holds network models."""


NOMINAL_V: Final = 230.0
"""Voltage between phase and neutral where nothing else is said."""


class InvalidNetwork(GridwireError):
    """A network model that contradicts itself; the message names the element."""


class Transformer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A distribution transformer. `rated_kva` 0 is unknown, `substation` "" too; `station` is where its weather is
    measured, "" for the utility's first station.

    Args:
        nominal_v: what meters of its usage points measure at 1 pu: phase to neutral, or between legs of a split phase.
        meter: usage point that measures all it delivers, "" for none. It lies under another transformer (the
            substation's), or its energy would be summed twice.
        indoors: in a kiosk or building, where its surroundings are warmer than the weather.
        upgraded_paper: thermally upgraded insulation.
    """

    id: str
    rated_kva: float = 0.0
    substation: str = ""
    station: str = ""
    nominal_v: float = NOMINAL_V
    meter: str = ""
    indoors: bool = False
    upgraded_paper: bool = False


class Feeder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line that feeds usage points; `transformer` is "" when it feeds several transformers."""

    id: str
    transformer: str = ""


class UsagePoint(msgspec.Struct, frozen=True, kw_only=True):
    """A place where energy is metered. `expects`: aliases of the reading types due every interval. `phase`: the one it
    is connected to, 1 to 3; 0 is several or unknown.
    """

    id: str
    transformer: str
    feeder: str
    expects: tuple[str, ...] = ("import_kwh",)
    phase: int = 0


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A whole network model. Elements keep their order; positions in it are the indexes of `NetworkIndex`.

    Args:
        interval_s: length of the expected readings' interval.
        voltage_standard: what voltages are judged by: EN 50160 or ANSI C84.1.
    """

    name: str
    transformers: tuple[Transformer, ...]
    feeders: tuple[Feeder, ...]
    usage_points: tuple[UsagePoint, ...]
    interval_s: int = 900
    voltage_standard: Literal["en50160", "ansi_c84_1"] = "en50160"

    def index(self) -> NetworkIndex:
        """The model as arrays, for grouping."""
        return _index(self)


@dataclass(frozen=True, slots=True)
class NetworkIndex:
    """A network as arrays. Units are the usage points in the model's order.

    **Shape**: `transformer_of_unit`, `feeder_of_unit` `int32[n_units]`, `phase_of_unit` `int8[n_units]`; `rated_kva`,
    `nominal_v` `float64[n_transformers]`; `indoors`, `upgraded_paper` `bool[n_transformers]`; `meter_of_transformer`
    `int32[n_transformers]`, a usage point or -1;
    `transformer_of_feeder` `int32[n_feeders]`, -1 when the feeder feeds several; `expected_*` `int32`, readings
    due per interval; `channel_unit` `int32[n_channels]` and `channel_type` `int16[n_channels]`, one channel for
    every (usage point, expected reading type), ordered by unit.
    """

    unit_ids: tuple[str, ...]
    transformer_ids: tuple[str, ...]
    feeder_ids: tuple[str, ...]
    substation_of_transformer: tuple[str, ...]
    station_of_transformer: tuple[str, ...]
    transformer_of_unit: NDArray[np.int32]
    feeder_of_unit: NDArray[np.int32]
    phase_of_unit: NDArray[np.int8]
    rated_kva: NDArray[np.float64]
    nominal_v: NDArray[np.float64]
    meter_of_transformer: NDArray[np.int32]
    indoors: NDArray[np.bool_]
    upgraded_paper: NDArray[np.bool_]
    transformer_of_feeder: NDArray[np.int32]
    channel_unit: NDArray[np.int32]
    channel_type: NDArray[np.int16]
    expected_of_transformer: NDArray[np.int32]
    expected_of_feeder: NDArray[np.int32]
    interval_s: int
    voltage_standard: str


_DECODER = msgspec.json.Decoder(Network)
_ENCODER = msgspec.json.Encoder()


def to_json(network: Network) -> bytes:
    """The model as the value of one event."""
    return _ENCODER.encode(network)


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
    transformers = _unique("transformer", (row.id for row in network.transformers))
    feeders = _unique("feeder", (row.id for row in network.feeders))
    _unique("usage point", (row.id for row in network.usage_points))
    _check_meters(network)
    if network.interval_s <= 0:
        raise InvalidNetwork(f"interval_s must be positive, not {network.interval_s}")
    for row in network.transformers:
        if not 0 <= row.rated_kva < float("inf"):
            raise InvalidNetwork(f"transformer {row.id!r} is rated {row.rated_kva} kVA")
        if not 0 < row.nominal_v < float("inf"):
            raise InvalidNetwork(f"transformer {row.id!r} has a nominal voltage of {row.nominal_v} V")
    for feeder in network.feeders:
        if feeder.transformer and feeder.transformer not in transformers:
            raise InvalidNetwork(f"feeder {feeder.id!r} names unknown transformer {feeder.transformer!r}")
    above = {feeder.id: feeder.transformer for feeder in network.feeders}
    for unit in network.usage_points:
        if unit.transformer not in transformers or unit.feeder not in feeders:
            raise InvalidNetwork(
                f"usage point {unit.id!r} names unknown transformer {unit.transformer!r} or feeder {unit.feeder!r}"
            )
        if above[unit.feeder] not in ("", unit.transformer):
            raise InvalidNetwork(f"usage point {unit.id!r} is not under the transformer of its feeder")
        if unit.phase not in (0, 1, 2, 3):
            raise InvalidNetwork(f"usage point {unit.id!r} has phase {unit.phase}, which is not 0 to 3")
        for alias in unit.expects:
            if alias not in reading_types.BY_ALIAS:
                raise InvalidNetwork(f"usage point {unit.id!r} expects unknown reading type {alias!r}")


def _check_meters(network: Network) -> None:
    above = {unit.id: unit.transformer for unit in network.usage_points}
    _unique("meter of a transformer:", (row.meter for row in network.transformers if row.meter))
    for row in network.transformers:
        if row.meter and above.get(row.meter, row.id) == row.id:
            raise InvalidNetwork(
                f"meter {row.meter!r} of transformer {row.id!r} must be a usage point under another transformer"
            )


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
    units = network.usage_points
    metered = {row.meter: i for i, row in enumerate(network.transformers) if row.meter}
    meter_of_transformer = np.full(len(transformer_at), -1, np.int32)
    for i, unit in enumerate(units) if metered else ():
        if unit.id in metered:
            meter_of_transformer[metered[unit.id]] = i
    transformer_of_unit = np.array([transformer_at[unit.transformer] for unit in units], np.int32)
    feeder_of_unit = np.array([feeder_at[unit.feeder] for unit in units], np.int32)
    channels = [(i, reading_types.BY_ALIAS[alias].id) for i, unit in enumerate(units) for alias in unit.expects]
    channel_unit = np.array([unit for unit, _ in channels], np.int32)
    return NetworkIndex(
        unit_ids=tuple(unit.id for unit in units),
        transformer_ids=tuple(transformer_at),
        feeder_ids=tuple(feeder_at),
        substation_of_transformer=tuple(row.substation for row in network.transformers),
        station_of_transformer=tuple(row.station for row in network.transformers),
        transformer_of_unit=transformer_of_unit,
        feeder_of_unit=feeder_of_unit,
        phase_of_unit=np.array([unit.phase for unit in units], np.int8),
        rated_kva=np.array([row.rated_kva for row in network.transformers], np.float64),
        nominal_v=np.array([row.nominal_v for row in network.transformers], np.float64),
        meter_of_transformer=meter_of_transformer,
        indoors=np.array([row.indoors for row in network.transformers], np.bool_),
        upgraded_paper=np.array([row.upgraded_paper for row in network.transformers], np.bool_),
        transformer_of_feeder=np.array([transformer_at.get(row.transformer, -1) for row in network.feeders], np.int32),
        channel_unit=channel_unit,
        channel_type=np.array([type for _, type in channels], np.int16),
        expected_of_transformer=np.bincount(transformer_of_unit[channel_unit], minlength=len(transformer_at)).astype(
            np.int32
        ),
        expected_of_feeder=np.bincount(feeder_of_unit[channel_unit], minlength=len(feeder_at)).astype(np.int32),
        interval_s=network.interval_s,
        voltage_standard=network.voltage_standard,
    )
