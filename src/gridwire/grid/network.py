"""The network model: which usage point hangs on which feeder and transformer, and what each is expected to send.

One model is one event of the hub `grid.network`; the newest one holds:

    {"name": "Demo utility", "interval_s": 900,
     "transformers": [{"id": "T1", "rated_kva": 160.0, "substation": "MV1"}],
     "feeders": [{"id": "T1 Feeder 1", "transformer": "T1"}],
     "usage_points": [{"id": "U1", "transformer": "T1", "feeder": "T1 Feeder 1", "expects": ["import_kwh"]}]}

A feeder may lie under one transformer (low voltage) or feed several (medium voltage, `transformer` absent).
`valid_from` says from when on the model holds, see `gridwire.core.timeline`; without it, from the time of its event.
`zone` says where days begin, for the network or a usage point of its own. `meters` says which meter measured what when,
`vee` how readings are validated and estimated; see `gridwire.grid.registers` and `gridwire.grid.vee.config`.
Unknown fields are ignored, so that newer models stay readable. A model too large for one event comes in several, see
`gridwire.grid.network_parts`; its usage points are then columns that read like the tuple of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal
from zoneinfo import ZoneInfo

import msgspec

from gridwire.core import hubs
from gridwire.core.errors import GridwireError
from gridwire.core.timeline import instant_us
from gridwire.grid import reading_types
from gridwire.grid.meter_install import MeterInstall, problems_of
from gridwire.grid.usage_points import Texts, UsagePoints
from gridwire.grid.vee import config as vee_config

if TYPE_CHECKING:  # a model can be checked and passed on without paying for numpy
    import numpy as np
    from numpy.typing import NDArray

    from gridwire.columnar.text_index import TextIndex

NETWORK_HUB: Final = hubs.NETWORK
"""The hub that holds network models."""


NOMINAL_V: Final = 230.0
"""Voltage between phase and neutral where nothing else is said."""


class InvalidNetwork(GridwireError):
    """A network model that contradicts itself; the message names the element."""


class Transformer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A distribution transformer. `rated_kva` 0 is unknown, `substation` "" too.

    Args:
        station: where its weather is measured, "" for the utility's first station.
        nominal_v: what meters of its usage points measure at 1 pu: phase to neutral, or between legs of a split phase.
        meter: usage point that measures all it delivers, "" for none. It lies under another transformer (the
            substation's), or its energy would be summed twice.
        indoors: in a kiosk or building, where its surroundings are warmer than the weather.
        upgraded_paper: thermally upgraded insulation.
        lon, lat: where it stands, degrees of WGS 84; None: unknown. The page's map shows what has both.
    """

    id: str
    rated_kva: float = 0.0
    substation: str = ""
    station: str = ""
    nominal_v: float = NOMINAL_V
    meter: str = ""
    indoors: bool = False
    upgraded_paper: bool = False
    lon: float | None = None
    lat: float | None = None


class Feeder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line that feeds usage points; `transformer` is "" when it feeds several transformers."""

    id: str
    transformer: str = ""


class UsagePoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A place where energy is metered.

    Args:
        expects: aliases of the reading types due every interval.
        zone: IANA time zone; "" is the network's.
        category: class of customers, for settings of their own.
        active: False where nobody is supplied.
        phase: the one it is connected to, 1 to 3; 0 is several or unknown.
    """

    id: str
    transformer: str
    feeder: str
    expects: tuple[str, ...] = ("import_kwh",)
    phase: int = 0
    zone: str = ""
    category: str = ""
    active: bool = True


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A whole network model. Elements keep their order; positions in it are the indexes of `NetworkIndex`.

    Args:
        interval_s: length of the expected readings' interval.
        valid_from: from when on it is right, RFC 3339 with an offset; "": from the time of its event.
        voltage_standard: what voltages are judged by: EN 50160 or ANSI C84.1.
        zone: IANA time zone of usage points that do not name one.
        meters: which meter was where, when. vee: see `gridwire.grid.vee.config`.
    """

    name: str
    transformers: tuple[Transformer, ...]
    feeders: tuple[Feeder, ...]
    usage_points: tuple[UsagePoint, ...]
    interval_s: int = 900
    voltage_standard: Literal["en50160", "ansi_c84_1"] = "en50160"
    zone: str = "UTC"
    meters: tuple[MeterInstall, ...] = ()
    vee: dict[str, Any] = {}
    valid_from: str = ""

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

    unit_ids: Sequence[str]
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

    def points(self) -> TextIndex:
        """Positions of usage points by their ids."""
        import numpy as np

        from gridwire.columnar.text_index import TextIndex

        if not isinstance(self.unit_ids, Texts):
            return TextIndex(self.unit_ids)
        texts, bounds = self.unit_ids.buffers()
        return TextIndex.over(texts, np.frombuffer(bounds, np.int64))


_DECODER = msgspec.json.Decoder(Network)
_ENCODER = msgspec.json.Encoder()


def to_json(network: Network) -> bytes:
    """The model as the value of one event."""
    return _ENCODER.encode(network)


def listed(network: Network) -> Network:
    """The same model with an object for each usage point."""
    return msgspec.structs.replace(network, usage_points=tuple(network.usage_points))


def digest(network: Network) -> bytes:
    """Of a model, to compare it with another, whenever they hold. That of a model in parts is one of its events as they
    were sent."""
    points = network.usage_points
    undated = msgspec.structs.replace(network, valid_from="")
    given = points.digest if isinstance(points, UsagePoints) else to_json(undated)
    return hashlib.sha256(given).digest()


def columns_of(network: Network) -> UsagePoints:
    """The usage points of a valid model as columns."""
    points = network.usage_points
    if isinstance(points, UsagePoints):
        return points
    made = columns_for(network)
    made.extend(points)
    return made


def channels_of(network: Network) -> int:
    """Number of channels: a usage point has one for each reading type that is expected of it."""
    import numpy as np

    _, _, kind, kinds = columns_of(network).columns()
    expected = np.array([len(each.expects) for each in kinds] or [0], np.int64)
    return int(expected[kind].sum())


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
        check_point(unit)
    check_rest(network)


def check_rest(network: Network) -> None:
    """Raise InvalidNetwork unless meters, zones and rules fit the elements, which have been checked before."""
    _check_valid_from(network)
    _check_transformer_meters(network)
    _check_zones(network)
    _check_meters(network)
    try:
        vee_config.parse(network.vee)
    except vee_config.InvalidVee as error:
        raise InvalidNetwork(str(error)) from None


def check_point(unit: UsagePoint) -> None:
    """Raise InvalidNetwork unless what is said of a usage point itself makes sense."""
    if unit.phase not in (0, 1, 2, 3):
        raise InvalidNetwork(f"usage point {unit.id!r} has phase {unit.phase}, which is not 0 to 3")
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
        if not 0 < row.nominal_v < float("inf"):
            raise InvalidNetwork(f"transformer {row.id!r} has a nominal voltage of {row.nominal_v} V")
        if not (-180 <= (row.lon or 0) <= 180 and -90 <= (row.lat or 0) <= 90):
            raise InvalidNetwork(f"transformer {row.id!r} has lon {row.lon} and lat {row.lat}: nowhere on earth")
    for feeder in network.feeders:
        if feeder.transformer and feeder.transformer not in transformers:
            raise InvalidNetwork(f"feeder {feeder.id!r} names unknown transformer {feeder.transformer!r}")
    return transformers, feeders


def valid_from_us(network: Network) -> int | None:
    """From when on a valid model says that it holds, microseconds since the epoch; None: it does not say."""
    return instant_us(network.valid_from) if network.valid_from else None


def _check_valid_from(network: Network) -> None:
    try:
        valid_from_us(network)
    except ValueError:
        raise InvalidNetwork(
            f"valid_from {network.valid_from!r} is no time with an offset: write 2026-01-01T00:00:00Z"
        ) from None


def _check_transformer_meters(network: Network) -> None:
    if not any(row.meter for row in network.transformers):
        return
    above = {unit.id: unit.transformer for unit in network.usage_points}
    _unique("meter of a transformer:", (row.meter for row in network.transformers if row.meter))
    for row in network.transformers:
        if row.meter and above.get(row.meter, row.id) == row.id:
            raise InvalidNetwork(
                f"meter {row.meter!r} of transformer {row.id!r} must be a usage point under another transformer"
            )


def _check_zones(network: Network) -> None:
    points = network.usage_points
    alike = points.kinds if isinstance(points, UsagePoints) else points
    for zone in {network.zone, *(unit.zone for unit in alike if unit.zone)}:
        try:
            ZoneInfo(zone)
        except (ValueError, OSError, KeyError):
            raise InvalidNetwork(f"unknown time zone {zone!r}") from None


def _check_meters(network: Network) -> None:
    if not network.meters:
        return
    known = {unit.id for unit in network.usage_points}
    if problems := problems_of(network.meters, known):
        raise InvalidNetwork("meters: " + "; ".join(problems))


def _unique(kind: str, ids: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    for id in ids:
        if not id or id in seen:
            raise InvalidNetwork(f"{kind} id {id!r} is empty or used twice")
        seen.add(id)
    return seen


def _meters_at(network: Network) -> list[int]:
    """The usage point that meters each transformer, -1 for none."""
    metered = {row.meter for row in network.transformers if row.meter}
    at = {unit.id: i for i, unit in enumerate(network.usage_points if metered else ()) if unit.id in metered}
    return [at.get(row.meter, -1) for row in network.transformers]


def _index(network: Network) -> NetworkIndex:
    import numpy as np

    transformer_at = {row.id: i for i, row in enumerate(network.transformers)}
    feeder_at = {row.id: i for i, row in enumerate(network.feeders)}
    points = columns_of(network)
    transformer_of_unit, feeder_of_unit, kind, kinds = points.columns()
    types = [[reading_types.BY_ALIAS[alias].id for alias in each.expects] for each in kinds]
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
        station_of_transformer=tuple(row.station for row in network.transformers),
        transformer_of_unit=transformer_of_unit,
        feeder_of_unit=feeder_of_unit,
        phase_of_unit=np.array([each.phase for each in kinds] or [0], np.int8)[kind],
        rated_kva=np.array([row.rated_kva for row in network.transformers], np.float64),
        nominal_v=np.array([row.nominal_v for row in network.transformers], np.float64),
        meter_of_transformer=np.array(_meters_at(network), np.int32),
        indoors=np.array([row.indoors for row in network.transformers], np.bool_),
        upgraded_paper=np.array([row.upgraded_paper for row in network.transformers], np.bool_),
        transformer_of_feeder=np.array([transformer_at.get(row.transformer, -1) for row in network.feeders], np.int32),
        channel_unit=channel_unit,
        channel_type=flat[first_of_kind[kind[channel_unit]] + within],
        expected_of_transformer=np.bincount(transformer_of_unit[channel_unit], minlength=len(transformer_at)).astype(
            np.int32
        ),
        expected_of_feeder=np.bincount(feeder_of_unit[channel_unit], minlength=len(feeder_at)).astype(np.int32),
        interval_s=network.interval_s,
        voltage_standard=network.voltage_standard,
    )
