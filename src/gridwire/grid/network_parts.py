"""Network models that do not fit one event: the same form, in parts.

    {"name": ..., "interval_s": 900, "model": "5f2c...", "part": 0, "parts": 480,
     "transformers": [...], "feeders": [...], "usage_points": [...]}

`model` is the same in all parts of one model and in no other. Parts follow each other in one partition, 0 first; a part
that does not continue its model makes that model void. What is above stands before what is below: all transformers,
then all feeders, then usage points and meters, so that a reader keeps columns and never all objects. The model is the
newest one when its last part is there. A model without these fields is whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from gridwire.grid.meter_install import MeterInstall
from gridwire.grid.network import (
    Feeder,
    InvalidNetwork,
    Network,
    Transformer,
    UsagePoint,
    check,
    check_devices,
    check_point,
    check_rest,
    columns_for,
    to_json,
)
from gridwire.grid.usage_points import UsagePoints

PART_BYTES_MAX: Final = 900_000
"""Of one event: Apache Kafka takes a batch of 1 MiB unless told otherwise."""

PARTS_MAX: Final = 10_000
"""Some hundred million usage points: nobody has more, and what is kept of unfinished models stays bounded."""

UNFINISHED_MAX: Final = 2
"""Unfinished models remembered at a time; the oldest is given up."""

_HEAD_BYTES: Final = 4_000
"""Of a part, at most: its fields beside the elements, with the utility's name."""


class Part(Network, frozen=True, kw_only=True):
    """One event: a whole model, or a part of one."""

    model: str = ""
    part: int = 0
    parts: int = 1


class _Shared(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fields of a network that are no elements, see `gridwire.grid.network.Network`."""

    name: str
    interval_s: int = 900
    voltage_standard: str = "en50160"
    zone: str = "UTC"
    vee: dict[str, Any] = {}
    valid_from: str = ""


_DECODER = msgspec.json.Decoder(Part)
_ENCODER = msgspec.json.Encoder()


def to_events(network: Network, bytes_max: int = PART_BYTES_MAX) -> Iterator[bytes]:
    """A model as the values of as many events as it takes."""
    slices = list(_slices(network, bytes_max))
    if len(slices) <= 1:
        yield to_json(network)
        return
    shared = msgspec.to_builtins(network_without_elements(network))
    hashed = hashlib.sha256(_ENCODER.encode(shared))
    for body in slices:
        hashed.update(body)
    model = hashed.hexdigest()
    for number, body in enumerate(slices):
        head = {"model": model, "part": number, "parts": len(slices)}
        yield _ENCODER.encode(shared | head)[:-1] + b"," + body[1:]


def network_without_elements(network: Network) -> _Shared:
    """What every part says of the whole."""
    return _Shared(**{field: getattr(network, field) for field in _Shared.__struct_fields__})


def _slices(network: Network, bytes_max: int) -> Iterator[bytes]:
    """The elements as JSON objects of at most so many bytes each, one kind of element after the other."""
    kinds: tuple[tuple[str, Sequence[msgspec.Struct]], ...] = (
        ("transformers", network.transformers), ("feeders", network.feeders), ("usage_points", network.usage_points),
        ("meters", network.meters),
    )  # fmt: skip
    waiting: dict[str, list[bytes]] = {kind: [] for kind, _ in kinds}
    size = 0
    for kind, elements in kinds:
        for element in elements:
            text = _ENCODER.encode(element)
            if size + len(text) > bytes_max - _HEAD_BYTES and size:
                yield _body(waiting)
                waiting, size = {kind: [] for kind, _ in kinds}, 0
            waiting[kind].append(text)
            size += len(text) + 1
    yield _body(waiting)


def _body(elements: dict[str, list[bytes]]) -> bytes:
    return b"{" + b",".join(b'"%b":[%b]' % (kind.encode(), b",".join(texts)) for kind, texts in elements.items()) + b"}"


class _Unfinished:
    """A model of which parts are still to come."""

    def __init__(self, first: Part) -> None:
        self.parts = first.parts
        self._shared = network_without_elements(first)
        self.next = 0
        self._transformers: list[Transformer] = []
        self._feeders: list[Feeder] = []
        self._points: UsagePoints | None = None
        self._meters: list[MeterInstall] = []
        self._hashed = hashlib.sha256()

    def add(self, part: Part, value: bytes) -> None:
        if (part.part, part.parts) != (self.next, self.parts):
            raise InvalidNetwork(f"part {part.part} of {part.parts} where part {self.next} of {self.parts} was due")
        if self._points is not None and (part.transformers or part.feeders):
            raise InvalidNetwork("transformers and feeders stand before all usage points")
        self.next += 1
        self._hashed.update(value)
        self._transformers += part.transformers
        self._feeders += part.feeders
        if part.usage_points:
            self._add_points(part.usage_points)
        self._meters += part.meters

    def _add_points(self, points: Sequence[UsagePoint]) -> None:
        if self._points is None:
            devices = self._network(())
            check_devices(devices)
            self._points = columns_for(devices)
        for point in points:
            check_point(point)
        try:
            self._points.extend(points)
        except KeyError as error:
            raise InvalidNetwork(f"a usage point names unknown transformer or feeder {error}") from None
        except ValueError as error:
            raise InvalidNetwork(str(error)) from None

    def finish(self) -> Network:
        points = self._points
        if points is None:
            network = self._network(())
            check(network)
            return network
        if (twice := points.twice()) is not None:
            raise InvalidNetwork(f"usage point id {twice!r} is empty or used twice")
        points.digest = self._hashed.digest()
        network = self._network(points)
        check_rest(network)
        return network

    def _network(self, points: Sequence[UsagePoint]) -> Network:
        return Network(
            transformers=tuple(self._transformers),
            feeders=tuple(self._feeders),
            usage_points=points,  # type: ignore[arg-type]  # reads like the tuple of them
            meters=tuple(self._meters),
            **{field: getattr(self._shared, field) for field in _Shared.__struct_fields__},
        )


class Assembly:
    """Takes the events of `grid.network` in their order and gives the models that become whole."""

    def __init__(self) -> None:
        self._unfinished: dict[str, _Unfinished] = {}

    def take(self, value: bytes) -> Network | None:
        """The model that is whole with this event; None when parts are still to come.

        Raises:
            InvalidNetwork: as `network.from_json` does, and for a part that does not continue its model.
        """
        try:
            part = _DECODER.decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InvalidNetwork(f"not a network model: {error}") from None
        if part.parts == 1:
            return _whole(part)
        if not (part.model and 0 <= part.part < part.parts <= PARTS_MAX):
            raise InvalidNetwork(f"part {part.part} of {part.parts} of model {part.model!r}: at most {PARTS_MAX}")
        if part.part == 0:
            self._unfinished.pop(part.model, None)
            while len(self._unfinished) >= UNFINISHED_MAX:
                del self._unfinished[next(iter(self._unfinished))]
            self._unfinished[part.model] = _Unfinished(part)
        return self._continue(part, value)

    def _continue(self, part: Part, value: bytes) -> Network | None:
        unfinished = self._unfinished.pop(part.model, None)
        if unfinished is None:
            raise InvalidNetwork(f"part {part.part} of a model without its first part")
        unfinished.add(part, value)
        if unfinished.next == unfinished.parts:
            return unfinished.finish()
        self._unfinished[part.model] = unfinished
        return None


def _whole(part: Part) -> Network:
    network = Network(**{field: getattr(part, field) for field in Network.__struct_fields__})
    check(network)
    return network
