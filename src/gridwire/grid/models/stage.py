"""The worker that forecasts: facts, weather and models in, forecasts and findings out.

    grid.transformers, grid.feeders, weather, models -> Scorer -> grid.forecasts, grid.demand, grid.alerts
    grid.health, models -> RiskScorer -> grid.risk, grid.alerts

It is the worker of `gridwire.grid.worker` with another stage. Models are one more hub that is read, and read from its
start whenever a state is made again: a snapshot has the state, not the model. Forecasts and positions are one
commit. What a rebuild issues on its way was told before, and is not told again.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from gridwire.broker.port import ColumnBatch, Output, Place
from gridwire.core.batch import Event
from gridwire.core.hubs import ALERTS, DEMAND, FEEDERS, FORECASTS, HEALTH, MODELS, RISK, TRANSFORMERS, WEATHER
from gridwire.grid.findings import Finding
from gridwire.grid.lane import NothingToRestate, Stage
from gridwire.grid.loads import LoadsSettings
from gridwire.grid.models import normalising, risk
from gridwire.grid.models.forecasts import ForecastWriter, Issue
from gridwire.grid.models.model_log import ModelLog
from gridwire.grid.models.normalising import DayDemand
from gridwire.grid.models.risk import Risks, RiskScorer
from gridwire.grid.models.scoring import DETECTOR, Scorer, ScoringSettings
from gridwire.grid.network import Network
from gridwire.grid.watch.base import SeenLoads, SeenWeather
from gridwire.grid.watch.demand import below
from gridwire.grid.watch.hours import HOUR_US, in_time
from gridwire.grid.watch.seen import Decoders, part_of
from gridwire.grid.watch.told import Told
from gridwire.grid.watch.weather import stations_of_feeders

HUBS: Final = (TRANSFORMERS, FEEDERS, WEATHER, HEALTH, MODELS)
"""What is read."""

_LOADS_LAST: Final = {MODELS: 0, WEATHER: 1, HEALTH: 1}
"""Order in which the batches of one poll are taken: a forecast uses all that is there."""


AHEAD_US: Final = 12 * HOUR_US
"""How far the facts of one place may be ahead of another's that has more to come."""


EVENTS_A_COMMIT: Final = 100_000
"""Forecasts of one commit, some 20 MB: 100,000 units have five million at one issue. What a worker that dies has not
told of an issue is told with the next one."""

_COUNTER: Final = {FORECASTS: "forecasts", DEMAND: "days", RISK: "risks"}


@dataclass(frozen=True, slots=True)
class _Decoded:
    """Facts of a batch; `rows`: where in the batch each of them is."""

    batch: ColumnBatch
    seen: SeenLoads
    rows: NDArray[np.int64]


class ForecastPipeline:
    """See the module, and `gridwire.grid.lane.Pipeline`."""

    def __init__(
        self, network: Network, settings: LoadsSettings, generation: int = 0, part: int | None = None,
        scoring: ScoringSettings | None = None,
    ) -> None:  # fmt: skip
        index = network.index()
        self.state = NothingToRestate()
        self.models = ModelLog()
        self.scorer = Scorer(index, scoring)
        self.risk = RiskScorer(index.transformer_ids)
        self.fingerprint = f"forecasts 3 {self.scorer.settings} {devices_digest(network).hex()}"
        self._decoders = Decoders(index, settings.rules)
        self._writers = {
            "transformer": ForecastWriter(index.transformer_ids, index.rated_kva),
            "feeder": ForecastWriter(index.feeder_ids, index.rated_kva[index.transformer_of_feeder] * 0.0),
        }
        self._ids = {"transformer": index.transformer_ids, "feeder": index.feeder_ids}
        self._told = Told({DETECTOR, risk.DETECTOR})
        self._telling: deque[tuple[str, Iterator[tuple[int, Event]]]] = deque()
        self._newest: dict[Place, int] = {}
        self._issues: list[Issue] = []
        self._days: list[DayDemand] = []
        self._risks: list[Risks] = []
        self._findings: dict[str, Finding] = {}
        self._compared = False
        self._counts: Counter[str] = Counter()

    def take(
        self, batches: Sequence[ColumnBatch], publish: bool = True, behind: Collection[Place] = ()
    ) -> dict[Place, int]:
        """Apply batches: models and weather first, then loads.

        Args:
            behind: places with more to come: facts that are `AHEAD_US` later than theirs wait.
        """
        self._use_models()
        positions = {(batch.hub, batch.partition): batch.next_offset for batch in batches}
        loads: list[_Decoded] = []
        for batch in sorted(batches, key=lambda batch: _LOADS_LAST.get(batch.hub, 2)):
            if batch.hub == MODELS:
                self.models.feed(batch)
                self._use_models()
                continue
            if batch.hub == HEALTH:
                self.risk.take(self.risk.decode(batch))
                continue
            seen, rows = self._decoders.decode(batch, batch.columns.timestamps * 1000)
            if isinstance(seen, SeenWeather):
                self.scorer.weather(seen)
                self._pass((batch.hub, batch.partition), seen.ts_us)
            elif isinstance(seen, SeenLoads):
                loads.append(_Decoded(batch, seen, rows))
        for parts in self._not_ahead(loads, behind, positions).values():
            self.scorer.loads(in_time(parts))
        issues, days, risks = self.scorer.issues(), self.scorer.days(), self.risk.risks()
        if publish:
            self._risks += risks
            self._issues += issues
            self._days += days
        else:
            self.scorer.forget_due()
        self._findings |= {finding.id: finding for each in (self.scorer, self.risk) for finding in each.findings()}
        return positions

    def _use_models(self) -> None:
        self.scorer.use(self.models)
        self.risk.use(self.models)

    def _pass(self, place: Place, times_us: NDArray[np.int64]) -> None:
        """Remember how far a place has been taken."""
        if len(times_us):
            self._newest[place] = max(self._newest.get(place, 0), int(times_us.max()))

    def _not_ahead(
        self, loads: Sequence[_Decoded], behind: Collection[Place], positions: dict[Place, int]
    ) -> dict[str, list[SeenLoads]]:
        """Facts to be taken now, by level; `positions` is put back to the first fact of each place that waits.

        A broker may hand out weeks of one partition before the first fact of another: hours must not close by that.
        """
        found: dict[str, list[SeenLoads]] = defaultdict(list)
        timed = [self._newest.get(place, 0) for place in behind if place[0] not in (MODELS, HEALTH)]
        firsts = [int(each.seen.ts_end_us[0]) for each in loads if len(each.seen)]
        limit_us = None
        if timed and firsts:  # the earliest is always taken, or a place that is stuck would hold all others for ever
            limit_us = max(min(timed), min(firsts)) + AHEAD_US
        for each in loads:
            seen, count, place = each.seen, len(each.seen), (each.batch.hub, each.batch.partition)
            if limit_us is not None:
                ahead = np.flatnonzero(seen.ts_end_us > limit_us)
                if len(ahead):
                    count = int(ahead[0])
                    first = int(each.batch.columns.offsets[each.rows[count]])
                    positions[place] = min(positions[place], first)
            self._pass(place, seen.ts_end_us[:count])
            if count:
                found[seen.level].append(cast(SeenLoads, part_of(seen, 0, count)))
        return found

    def recall(self, batches: Sequence[ColumnBatch]) -> None:
        """Models there are, and findings that were told."""
        for batch in batches:
            if batch.hub == ALERTS:
                self._told.recall(batch)
            else:
                self.models.feed(batch)

    def idle(self, now_ms: int) -> None:
        """Everything has been read: what was told and is found no more is withdrawn, once."""
        self._use_models()
        self._issues += self.scorer.issues()
        self._risks += self.risk.risks()
        if not self._compared:
            self._compared = True
            for finding in self._told.withdrawals(self.scorer.open | self.risk.open, now_ms * 1000):
                self._findings[finding.id] = finding

    def outputs(self, now_ms: int, partitions: Callable[[str], int]) -> list[Output]:
        """Forecasts, days and findings that say something new; of the first two `EVENTS_A_COMMIT` at once."""
        self._telling += [(FORECASTS, self._writers[each.level].events(each, now_ms)) for each in self._issues]
        self._telling += [(DEMAND, normalising.events(each, self._ids[each.level], now_ms)) for each in self._days]
        self._telling += [(RISK, risk.events(each, self._ids["transformer"], now_ms)) for each in self._risks]
        by_place: dict[Place, list[Event]] = {}
        for hub, unit, event in islice(self._next(), EVENTS_A_COMMIT):
            by_place.setdefault((hub, unit % partitions(hub)), []).append(event)
            self._counts[_COUNTER[hub]] += 1
        for finding in self._findings.values():
            told = self._told.next(finding)
            if told is not None:
                partition = zlib.crc32(told.subject.encode()) % partitions(ALERTS)
                by_place.setdefault((ALERTS, partition), []).append(told.to_event(now_ms))
                self._counts["findings"] += 1
        self._issues.clear()
        self._days.clear()
        self._risks.clear()
        self._findings.clear()
        return [Output(hub, partition, events) for (hub, partition), events in by_place.items()]

    def _next(self) -> Iterator[tuple[str, int, Event]]:
        """What is still to be told: (hub, unit, event)."""
        while self._telling:
            hub, events = self._telling[0]
            for unit, event in events:
                yield hub, unit, event
            self._telling.popleft()

    def counters(self) -> dict[str, int]:
        """Everything counted, by name."""
        return {
            **self._decoders.counts, **self._counts, "models_used": self.scorer.models_used + self.risk.models_used,
            "models_refused": self.scorer.models_refused + self.risk.models_refused + self.models.refused,
        }  # fmt: skip

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """State for a snapshot."""
        return self.scorer.to_arrays() | {f"risk.{name}": array for name, array in self.risk.to_arrays().items()}

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a snapshot. Raises ValueError or KeyError when it does not fit."""
        self.scorer.from_arrays(arrays)
        self.risk.from_arrays(below(arrays, "risk."))


def devices_digest(network: Network) -> bytes:
    """Of what forecasts go by: devices and their stations. Where usage points hang is nothing to them."""
    index = network.index()
    devices = (
        index.interval_s, index.transformer_ids, index.rated_kva.tolist(), index.station_of_transformer,
        index.feeder_ids, index.transformer_of_feeder.tolist(), stations_of_feeders(index),
    )  # fmt: skip
    return hashlib.sha256(repr(devices).encode()).digest()


def forecast_stage() -> Stage:
    """What the worker does that forecasts."""
    hubs = (WEATHER, HEALTH, MODELS, FORECASTS, DEMAND, RISK, ALERTS)
    return Stage(
        "forecasts",
        HUBS,
        (FORECASTS, DEMAND, RISK, ALERTS),
        ForecastPipeline,
        creates=hubs,
        recalls=(MODELS, ALERTS),
        relevant=devices_digest,
        timed=True,
    )
