"""The worker that forecasts: facts, weather and models in, forecasts and findings out.

    grid.transformers, grid.feeders, weather, models -> Scorer -> grid.forecasts, grid.demand, grid.alerts

It is the worker of `gridwire.grid.worker` with another stage. Models are one more hub that is read, and read from its
start whenever a state is made again: a snapshot has the state, not the model. Forecasts and positions are one
commit. What a rebuild issues on its way was told before, and is not told again.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from numpy.typing import NDArray

from gridwire.broker.port import ColumnBatch, Output, Place
from gridwire.core.batch import Event
from gridwire.core.hubs import ALERTS, DEMAND, FEEDERS, FORECASTS, MODELS, TRANSFORMERS, WEATHER
from gridwire.grid.findings import Finding
from gridwire.grid.lane import Stage
from gridwire.grid.loads import LoadsSettings
from gridwire.grid.models import normalising
from gridwire.grid.models.forecasts import ForecastWriter, Issue
from gridwire.grid.models.model_log import ModelLog
from gridwire.grid.models.normalising import DayDemand
from gridwire.grid.models.scoring import DETECTOR, Scorer, ScoringSettings
from gridwire.grid.network import Network
from gridwire.grid.network import to_json as network_json
from gridwire.grid.watch.base import SeenLoads, SeenWeather
from gridwire.grid.watch.hours import in_time
from gridwire.grid.watch.seen import Decoders
from gridwire.grid.watch.told import Told

HUBS: Final = (TRANSFORMERS, FEEDERS, WEATHER, MODELS)
"""What is read."""

_LOADS_LAST: Final = {MODELS: 0, WEATHER: 1}
"""Order in which the batches of one poll are taken: a forecast uses all that is there."""


class _NoRows:
    """What a lane asks a state for its restatement: a forecast of the past is told to nobody."""

    def forget_changes(self) -> None:
        """Nothing."""

    def used_rows(self) -> list[int]:
        """None."""
        return []

    def mark(self, row: int) -> None:
        """Nothing."""


class ForecastPipeline:
    """See the module, and `gridwire.grid.lane.Pipeline`."""

    def __init__(
        self, network: Network, settings: LoadsSettings, generation: int = 0, part: int | None = None,
        scoring: ScoringSettings | None = None,
    ) -> None:  # fmt: skip
        index = network.index()
        self.state = _NoRows()
        self.models = ModelLog()
        self.scorer = Scorer(index, scoring)
        self.fingerprint = hashlib.sha256(
            f"forecasts 1 {self.scorer.settings}".encode() + network_json(network)
        ).hexdigest()
        self._decoders = Decoders(index, settings.rules)
        self._writers = {
            "transformer": ForecastWriter(index.transformer_ids, index.rated_kva),
            "feeder": ForecastWriter(index.feeder_ids, index.rated_kva[index.transformer_of_feeder] * 0.0),
        }
        self._ids = {"transformer": index.transformer_ids, "feeder": index.feeder_ids}
        self._told = Told({DETECTOR})
        self._issues: list[Issue] = []
        self._days: list[DayDemand] = []
        self._findings: dict[str, Finding] = {}
        self._compared = False
        self._counts: Counter[str] = Counter()

    def take(
        self, batches: Sequence[ColumnBatch], publish: bool = True, behind: Collection[Place] = ()
    ) -> dict[Place, int]:
        """Apply batches: models and weather first, then loads."""
        self.scorer.use(self.models)
        loads: dict[str, list[SeenLoads]] = defaultdict(list)
        for batch in sorted(batches, key=lambda batch: _LOADS_LAST.get(batch.hub, 2)):
            if batch.hub == MODELS:
                self.models.feed(batch)
                self.scorer.use(self.models)
                continue
            seen, _ = self._decoders.decode(batch, batch.columns.timestamps * 1000)
            if isinstance(seen, SeenWeather):
                self.scorer.weather(seen)
            elif isinstance(seen, SeenLoads):
                loads[seen.level].append(seen)
        for parts in loads.values():
            self.scorer.loads(in_time(parts))
        issues, days = self.scorer.issues(), self.scorer.days()
        if publish:
            self._issues += issues
            self._days += days
        else:
            self.scorer.forget_due()
        self._findings |= {finding.id: finding for finding in self.scorer.findings()}
        return {(batch.hub, batch.partition): batch.next_offset for batch in batches}

    def recall(self, batches: Sequence[ColumnBatch]) -> None:
        """Models there are, and findings that were told."""
        for batch in batches:
            if batch.hub == ALERTS:
                self._told.recall(batch)
            else:
                self.models.feed(batch)

    def idle(self, now_ms: int) -> None:
        """Everything has been read: what was told and is found no more is withdrawn, once."""
        self.scorer.use(self.models)
        self._issues += self.scorer.issues()
        if not self._compared:
            self._compared = True
            for finding in self._told.withdrawals(self.scorer.open, now_ms * 1000):
                self._findings[finding.id] = finding

    def outputs(self, now_ms: int, partitions: Callable[[str], int]) -> list[Output]:
        """Forecasts issued and findings that say something new since the last call."""
        by_place: dict[Place, list[Event]] = {}
        for issue in self._issues:
            count = partitions(FORECASTS)
            for unit, event in self._writers[issue.level].events(issue, now_ms):
                by_place.setdefault((FORECASTS, unit % count), []).append(event)
                self._counts["forecasts"] += 1
        for day in self._days:
            for unit, event in normalising.events(day, self._ids[day.level], now_ms):
                by_place.setdefault((DEMAND, unit % partitions(DEMAND)), []).append(event)
                self._counts["days"] += 1
        for finding in self._findings.values():
            told = self._told.next(finding)
            if told is not None:
                partition = zlib.crc32(told.subject.encode()) % partitions(ALERTS)
                by_place.setdefault((ALERTS, partition), []).append(told.to_event(now_ms))
                self._counts["findings"] += 1
        self._issues.clear()
        self._days.clear()
        self._findings.clear()
        return [Output(hub, partition, events) for (hub, partition), events in by_place.items()]

    def counters(self) -> dict[str, int]:
        """Everything counted, by name."""
        return {
            **self._decoders.counts, **self._counts, "models_used": self.scorer.models_used,
            "models_refused": self.scorer.models_refused + self.models.refused,
        }  # fmt: skip

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """State for a snapshot."""
        return self.scorer.to_arrays()

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a snapshot. Raises ValueError or KeyError when it does not fit."""
        self.scorer.from_arrays(arrays)


def forecast_stage() -> Stage:
    """What the worker does that forecasts."""
    hubs = (WEATHER, MODELS, FORECASTS, DEMAND, ALERTS)
    return Stage(
        "forecasts",
        HUBS,
        (FORECASTS, DEMAND, ALERTS),
        ForecastPipeline,
        creates=hubs,
        recalls=(MODELS, ALERTS),
        timed=True,
    )
