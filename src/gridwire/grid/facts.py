"""Facts as events: one JSON object for a unit and an interval, as the page, the lake and any client read it.

    {"transformer":"T1","ts_end":"2016-01-01T00:15:00Z","interval_s":900,"import_kwh":3.1,"export_kwh":0.4,
     "load_kw":10.8,"count":13,"expected":17,"max_kw":4.2,"peak_kw":55.1,"peak_at":"2016-01-01T00:15:00Z",
     "rated_kva":160.0,"version":12}

A fact of which a part is estimated says so: `"estimated":1` readings that `count` leaves out, and their
`"estimated_kwh":0.21`, imported and exported, in the sums. Without them all is measured.

A feeder's fact names the `feeder`, and the `transformer` it lies under if there is one. Of several facts of a unit and
interval the one with the highest version holds. Numbers are exact: milliwatt-hours divided by a power of ten print as
the decimal they are. `rated_kva` is 0 when unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from gridwire.core import hubs
from gridwire.core.batch import Event
from gridwire.grid.placements import Timeline
from gridwire.grid.state import Facts

TRANSFORMERS_HUB: Final = hubs.TRANSFORMERS
"""The hub of transformer facts."""

FEEDERS_HUB: Final = hubs.FEEDERS
"""The hub of feeder facts."""

HUB_OF_KIND: Final = {"transformer": TRANSFORMERS_HUB, "feeder": FEEDERS_HUB}
"""Where facts of a kind go."""

_MWH_PER_KWH = 1e6


class TransformerFact(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is known of a transformer in one interval."""

    transformer: str
    ts_end: str
    interval_s: int
    import_kwh: float
    export_kwh: float
    load_kw: float
    count: int
    expected: int
    max_kw: float
    peak_kw: float
    peak_at: str
    rated_kva: float
    version: int
    estimated: int = 0
    estimated_kwh: float | None = None


class FeederFact(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is known of a feeder in one interval."""

    feeder: str
    transformer: str = ""
    ts_end: str
    interval_s: int
    import_kwh: float
    export_kwh: float
    load_kw: float
    count: int
    expected: int
    max_kw: float
    peak_kw: float
    peak_at: str
    rated_kva: float
    version: int
    estimated: int = 0
    estimated_kwh: float | None = None


class FactWriter:
    """Writes facts of networks in time: what a fact says of its unit is what the model of its interval says."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._interval_s = timeline.interval_s
        self._ids = {"transformer": timeline.numbering.transformer_ids, "feeder": timeline.numbering.feeder_ids}
        self._keys = {kind: [id.encode() for id in ids] for kind, ids in self._ids.items()}
        self._times: dict[int, str] = {}
        self._encode = msgspec.json.Encoder().encode

    def events(self, facts: Facts, now_ms: int) -> Iterator[Event]:
        """One event a fact, in the order of `facts`."""
        keys = self._keys[facts.kind]
        encode = self._encode
        for group, row in zip(facts.groups.tolist(), self._rows(facts), strict=True):
            yield Event(encode(row), keys[group], (), now_ms)

    def _rows(self, facts: Facts) -> Iterator[Any]:
        transformer_ids, feeder_ids = self._ids["transformer"], self._ids["feeder"]
        interval_s = self._interval_s
        make = TransformerFact if facts.kind == "transformer" else None
        for (
            group, place, ts_end, imported, exported, load, count, expected, largest, peak, peak_at, rated, version,
            guesses, guessed,
        ) in zip(*self._columns(facts), strict=True):  # fmt: skip
            if make is not None:
                yield make(
                    transformer=transformer_ids[group], ts_end=ts_end, interval_s=interval_s, import_kwh=imported,
                    export_kwh=exported, load_kw=load, count=count, expected=expected, max_kw=largest, peak_kw=peak,
                    peak_at=peak_at, rated_kva=rated, version=version, estimated=guesses,
                    estimated_kwh=guessed if guesses else None,
                )  # fmt: skip
            else:
                yield FeederFact(
                    feeder=feeder_ids[group], transformer=transformer_ids[place] if place >= 0 else "",
                    ts_end=ts_end, interval_s=interval_s,
                    import_kwh=imported, export_kwh=exported, load_kw=load, count=count, expected=expected,
                    max_kw=largest, peak_kw=peak, peak_at=peak_at, rated_kva=rated, version=version,
                    estimated=guesses,
                    estimated_kwh=guessed if guesses else None,
                )  # fmt: skip

    def _columns(self, facts: Facts) -> tuple[list[Any], ...]:
        def kilowatts(energy: Any) -> list[Any]:
            # Multiplied as an integer: the one division then gives the decimal itself, not a neighbour of it.
            return list((energy * 3600 / (self._interval_s * _MWH_PER_KWH)).tolist())

        def model(field: str) -> list[Any]:
            return list(self._timeline.pick(field, facts.slots, facts.groups).tolist())

        return (
            facts.groups.tolist(),
            facts.groups.tolist() if facts.kind == "transformer" else model("transformer_of_feeder"),
            self._texts(facts.slots.tolist()),
            (facts.imported / _MWH_PER_KWH).tolist(),
            (facts.exported / _MWH_PER_KWH).tolist(),
            kilowatts(facts.imported - facts.exported),
            facts.counts.tolist(),
            model(f"expected_of_{facts.kind}"),
            kilowatts(facts.largest),
            kilowatts(facts.peaks),
            self._texts(facts.peak_slots.tolist()),
            model("rated_kva" if facts.kind == "transformer" else "rated_of_feeder"),
            facts.versions.tolist(),
            facts.estimates.tolist(),
            (facts.estimated / _MWH_PER_KWH).tolist(),
        )

    def _texts(self, slots: list[int]) -> list[str]:
        times = self._times
        if len(times) > 10_000:
            times.clear()
        for slot in set(slots) - times.keys():
            moment = datetime.fromtimestamp(slot * self._interval_s, UTC)
            times[slot] = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
        return [times[slot] for slot in slots]
