"""The stream's side of the model of failures: facts of `grid.health` in, a probability a transformer and day out.

    {"transformer":"T1","day":"2026-01-01","probability":0.031,"horizon_days":30,"load_factor_max":0.92,
     "hot_spot_max_c":101.4,"sign_share":0.0,"because":["ageing","load"],"model":"20260101T000000Z-1a2b3c4d"}

of the hub `grid.risk`, keyed by transformer; `day` is a UTC day that has ended, `because` names what makes it more
probable than for a usual transformer, the strongest first. A day ends for a transformer with its first fact of a later
one. A new model tells the last day again. `transformer.at_risk` opens where the back-test's best threshold is reached
and closes below half of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from gridwire.broker.port import ColumnBatch
from gridwire.columnar.json_columns import JsonDecoder, JsonField
from gridwire.columnar.text_index import TextIndex
from gridwire.core import hubs
from gridwire.core.batch import Event
from gridwire.grid.findings import Finding, FindingState, Severity
from gridwire.grid.models.hazard import DAILY, FEATURES, HORIZON_DAYS, KIND, WINDOW_DAYS, HazardModel, week
from gridwire.grid.models.model_log import ModelLog
from gridwire.grid.models.package import InvalidModel
from gridwire.grid.watch.seen import floats, ids_of
from gridwire.grid.watch.told import from_json, to_json

RISK_HUB: Final = hubs.RISK
"""The hub of probabilities."""

DETECTOR: Final = "failures"
"""Who finds what is found here."""

DAY_US: Final = 86_400_000_000
CLOSE_SHARE: Final = 0.5
"""Of the threshold, below which a finding closes."""

_SLOTS: Final = WINDOW_DAYS + 1  # the day that goes on, and the week before it
_HOURS, _LOAD, _HOT, _AGEING, _SIGN, _RISK, _WEAR = range(len(DAILY))
_NUMBERS: Final = ("load_factor", "hot_spot_c", "ageing_factor", "risk", "loss_of_life_h", "watched_h")
_FIELDS: Final = (
    JsonField("transformer", "text", required=True),
    JsonField("ts_end", "timestamp_us", required=True),
    JsonField("signature", "text", required=True),
    *(JsonField(name, "decimal", required=True) for name in _NUMBERS),
)

log = structlog.get_logger(__name__)


class RiskFact(msgspec.Struct, kw_only=True):
    """See the module."""

    transformer: str
    day: str
    probability: float
    horizon_days: int
    load_factor_max: float
    hot_spot_max_c: float
    sign_share: float
    because: list[str]
    model: str


@dataclass(frozen=True, slots=True)
class SeenHealth:
    """n facts of `grid.health` of known transformers. **Shape**: every array `[n]`, `numbers` `[len(_NUMBERS), n]`."""

    units: NDArray[np.int32]
    ts_end_us: NDArray[np.int64]
    sign: NDArray[np.bool_]
    numbers: NDArray[np.float64]

    def part(self, rows: NDArray[np.int64]) -> SeenHealth:
        """Some of them."""
        return SeenHealth(self.units[rows], self.ts_end_us[rows], self.sign[rows], self.numbers[:, rows])


@dataclass(frozen=True, slots=True)
class Risks:
    """Probabilities of one day. **Shape**: `units` `[n]`, `features` `[len(FEATURES), n]`, `parts` the same."""

    day: int
    model: str
    units: NDArray[np.int64]
    probability: NDArray[np.float64]
    features: NDArray[np.float64]
    parts: NDArray[np.float64]


class RiskScorer:
    """All transformers of one network; a function of what it was given, in the order it was given.

    **Shape**: `ring` `float64[len(DAILY), 8, n]`, the days of each; `days` `int64[8, n]`, which they are.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        n = len(ids)
        self._ids, self._index = tuple(ids), TextIndex(ids)
        self._json = JsonDecoder(_FIELDS)
        self.ring, self.days = np.zeros((len(DAILY), _SLOTS, n)), np.full((_SLOTS, n), -1, np.int64)
        self._last_us = np.full(n, -1, np.int64)
        self._model: HazardModel | None = None
        self._version = self._told_version = ""
        self._open: dict[str, Finding] = {}
        self._news: list[Finding] = []
        self._risks: list[Risks] = []
        self.models_used = self.models_refused = 0

    # -- what comes in ----------------------------------------------------------------------------------------

    def use(self, models: ModelLog) -> None:
        """The model in effect; nothing happens while it is the one that is used already."""
        stored = models.current(KIND)
        if stored is None or stored.manifest.version == self._version:
            return
        self._version = stored.manifest.version
        try:
            self._model = HazardModel.from_arrays(stored.arrays())
        except InvalidModel as error:
            self.models_refused += 1
            log.warning("model does not fit, the one before stays in effect", model=self._version, reason=str(error))
            return
        self.models_used += 1
        log.info("model in effect", model=self._version)
        if self._told_version != self._version:
            self._told_version = self._version
            self._tell_again()

    def decode(self, batch: ColumnBatch) -> SeenHealth:
        """Facts of transformers the network knows."""
        found = self._json.decode(batch.columns)
        units = ids_of(found, "transformer", self._index)
        numbers = np.stack([floats(found, name) for name in _NUMBERS])
        sign = found.text("signature")[1] > 0
        good = (found.status == 0) & (units >= 0) & np.isfinite(numbers).all(axis=0)
        rows = np.flatnonzero(good)
        return SeenHealth(units[rows], found.timestamp_us("ts_end")[rows], sign[rows], numbers[:, rows])

    def take(self, seen: SeenHealth) -> None:
        """Take facts; of a transformer and hour the first one counts, and none that is not newer than the last."""
        order = np.lexsort((seen.units, seen.ts_end_us))
        seen = seen.part(order)
        twice = (np.diff(seen.ts_end_us, prepend=-1) == 0) & (np.diff(seen.units, prepend=-1) == 0)
        seen = seen.part(np.flatnonzero(~twice & (seen.ts_end_us > self._last_us[seen.units])))
        day_of = (seen.ts_end_us - 1) // DAY_US
        for day in np.unique(day_of).tolist():
            self._day(day, seen.part(np.flatnonzero(day_of == day)))

    def _day(self, day: int, seen: SeenHealth) -> None:
        units, slot = seen.units, day % _SLOTS
        fresh = np.unique(units[self.days[slot, units] != day]).astype(np.int64)
        if len(fresh):
            before = self.days[:, fresh].max(axis=0)
            for closed in np.unique(before[before >= 0]).tolist():
                self._close(closed, fresh[before == closed])
            self.days[slot, fresh] = day
            self.ring[:, slot, fresh] = 0.0
        load, hot, ageing, risk, lost_h, watched_h = seen.numbers
        ring = self.ring[:, slot]
        for number, values in ((_HOURS, np.ones(len(units))), (_AGEING, ageing), (_SIGN, seen.sign), (_RISK, risk)):
            np.add.at(ring[number], units, values)
        np.maximum.at(ring[_LOAD], units, load)
        np.maximum.at(ring[_HOT], units, hot)
        ring[_WEAR, units] = lost_h / np.maximum(watched_h, 1.0)  # in the order of time: the last one stays
        self._last_us[units] = seen.ts_end_us

    def _tell_again(self) -> None:
        """The last day that has ended, under a new model."""
        newest = self.days.max(axis=0)
        ended = np.where(self.days == newest, -1, self.days).max(axis=0)
        for day in np.unique(ended[ended >= 0]).tolist():
            self._close(day, np.flatnonzero(ended == day))

    def _close(self, day: int, units: NDArray[np.int64]) -> None:
        """Judge a day that has ended."""
        if self._model is None:
            return
        inside = (self.days[:, units] > day - WINDOW_DAYS) & (self.days[:, units] <= day)
        features = week(np.where(inside, self.ring[:, :, units], 0.0))
        known = np.isfinite(features).all(axis=0)
        units, features = units[known], features[:, known]
        if not len(units):
            return
        found = Risks(
            day, self._version, units, self._model.probability(features), features, self._model.parts(features)
        )
        self._risks.append(found)
        self._find(found, self._model.alert)

    def _find(self, found: Risks, alert: float) -> None:
        opened = np.flatnonzero(found.probability >= alert).tolist()
        known = [row for row, unit in enumerate(found.units.tolist()) if self._ids[unit] in self._open]
        for row in sorted({*opened, *known}):
            id, p = self._ids[found.units[row]], float(found.probability[row])
            finding = self._open.get(id)
            evidence = {
                "probability": round(p, 4), "horizon_days": HORIZON_DAYS, "because": because(found, row),
                **plain_features(found, row), "model": found.model,
            }  # fmt: skip
            end_us = (found.day + 1) * DAY_US
            if finding is None:
                self._tell(id, Finding(
                    kind="transformer.at_risk", subject_kind="transformer", subject=id, started_us=end_us,
                    severity=Severity.WARNING, confidence=p, detector=DETECTOR, evidence=evidence,
                ))  # fmt: skip
            elif p < CLOSE_SHARE * alert:
                del self._open[id]
                end_us = max(end_us, finding.started_us)
                closed = replace(finding, state=FindingState.CLOSED, ended_us=end_us, version=finding.version + 1)
                self._news.append(replace(closed, confidence=p, evidence=evidence))
            else:
                changed = replace(finding, state=FindingState.CHANGED, version=finding.version + 1)
                self._tell(id, replace(changed, confidence=p, evidence=evidence))

    def _tell(self, id: str, finding: Finding) -> None:
        self._open[id] = finding
        self._news.append(finding)

    # -- what goes out ----------------------------------------------------------------------------------------

    def risks(self) -> list[Risks]:
        """Days judged since the last call."""
        found, self._risks = self._risks, []
        return found

    def findings(self) -> list[Finding]:
        """Findings that are new or changed since the last call."""
        found, self._news = self._news, []
        return found

    @property
    def open(self) -> set[str]:
        """Ids of the findings that are open."""
        return {finding.id for finding in self._open.values()}

    # -- snapshots --------------------------------------------------------------------------------------------

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state but for the model, which is in its hub."""
        notes = {"told": self._told_version, "open": [to_json(each).decode() for each in self._open.values()]}
        text = np.frombuffer(json.dumps(notes).encode(), np.uint8)
        return {"ring": self.ring, "days": self.days, "last_us": self._last_us, "notes": text}

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a snapshot. Raises ValueError or KeyError when it does not fit."""
        if arrays["ring"].shape != self.ring.shape or arrays["days"].shape != self.days.shape:
            raise ValueError("snapshot of another network")
        notes = json.loads(arrays["notes"].tobytes())
        self.ring, self.days, self._last_us = (arrays[name].copy() for name in ("ring", "days", "last_us"))
        self._told_version = str(notes["told"])
        findings = [from_json(text.encode()) for text in notes["open"]]
        self._open = {finding.subject: finding for finding in findings}


def because(found: Risks, row: int) -> list[str]:
    """Names of the features that raise its odds by half or more, the strongest first; three at most."""
    parts = found.parts[:, row]
    order = np.argsort(-parts)[:3]
    return [FEATURES[place] for place in order.tolist() if parts[place] > np.log(1.5)]


def plain_features(found: Risks, row: int) -> dict[str, float]:
    """What a week says, in units people know."""
    load, hot, _, sign, _, _ = found.features[:, row].tolist()
    return {"load_factor_max": round(load, 3), "hot_spot_max_c": round(hot, 1), "sign_share": round(sign, 4)}


def events(found: Risks, ids: Sequence[str], now_ms: int) -> Iterator[tuple[int, Event]]:
    """(position of the transformer, event) of every one that was judged."""
    encode = msgspec.json.Encoder().encode
    day = str(np.datetime64(found.day, "D"))
    for row, unit in enumerate(found.units.tolist()):
        fact = RiskFact(
            transformer=ids[unit], day=day, probability=round(float(found.probability[row]), 6),
            horizon_days=HORIZON_DAYS, because=because(found, row), model=found.model, **plain_features(found, row),
        )  # fmt: skip
        yield unit, Event(encode(fact), ids[unit].encode(), (), now_ms)
