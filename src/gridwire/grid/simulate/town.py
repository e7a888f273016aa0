"""The utility itself: substations, feeders, transformers, usage points, and what each usage point is like.

Some 40 usage points a transformer (log-normal), 25 transformers a feeder and 8 feeders a substation. The published
model is what the utility believes: a few usage points stand under a wrong transformer of the same feeder in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.network import Feeder, Network, Transformer, UsagePoint
from gridwire.grid.simulate.scenario import INTERVAL_S, Scenario

POINTS_A_TRANSFORMER: Final = 40
TRANSFORMERS_A_FEEDER: Final = 25
FEEDERS_A_SUBSTATION: Final = 8
RATINGS_KVA: Final = np.array([25, 50, 100, 160, 250, 400, 630, 1000], np.float64)
"""Sizes that are sold."""

KW_A_POINT: Final = 1.6
"""Peak of a usage point that a transformer is sized for: households do not cook at the same minute."""

HOUSEHOLD, BUSINESS, FARM = 0, 1, 2
_SHARES: Final = (0.85, 0.11, 0.04)


@dataclass(frozen=True, slots=True)
class Town:
    """n usage points under m transformers.

    **Shape**: `transformer` (where a point really hangs), `believed` (where the model has it) `int32[n]`; `kind`
    `int8[n]`; `scale`, `heating`, `cooling`, `generation` `float32[n]`: mean kW, kW a degree below 15 and above 22,
    peak kW of the generator; `sends_voltage` `bool[n]`; `feeder` `int32[m]`, `substation` `int32[feeders]`;
    `rated_kva` `float64[m]`.
    """

    transformer: NDArray[np.int32]
    believed: NDArray[np.int32]
    kind: NDArray[np.int8]
    scale: NDArray[np.float32]
    heating: NDArray[np.float32]
    cooling: NDArray[np.float32]
    generation: NDArray[np.float32]
    sends_voltage: NDArray[np.bool_]
    feeder: NDArray[np.int32]
    substation: NDArray[np.int32]
    rated_kva: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.transformer)

    @property
    def transformers(self) -> int:
        """How many."""
        return len(self.feeder)

    def network(self) -> Network:
        """The model as the utility has it."""
        feeders = [feeder_id(number) for number in range(len(self.substation))]
        transformers = [transformer_id(number) for number in range(self.transformers)]
        stations = [station_id(number) for number in range(int(self.substation.max()) + 1)]
        of_feeder = self.feeder.tolist()
        has_generator = (self.generation > 0).tolist()
        return Network(
            name="Simulated utility",
            interval_s=INTERVAL_S,
            transformers=tuple(
                Transformer(id=transformers[t], rated_kva=rated, substation=stations[self.substation[of_feeder[t]]])
                for t, rated in enumerate(self.rated_kva.tolist())
            ),
            feeders=tuple(Feeder(id=id) for id in feeders),
            usage_points=tuple(
                UsagePoint(
                    id=point_id(unit), transformer=transformers[t], feeder=feeders[of_feeder[t]],
                    expects=_BOTH if has_generator[unit] else _IMPORT,
                )
                for unit, t in enumerate(self.believed.tolist())
            ),
        )  # fmt: skip


_IMPORT: Final = ("import_kwh",)
_BOTH: Final = ("import_kwh", "export_kwh")


def point_id(number: int) -> str:
    """Id of a usage point."""
    return f"U{number:07d}"


def transformer_id(number: int) -> str:
    """Id of a transformer."""
    return f"T{number:06d}"


def feeder_id(number: int) -> str:
    """Id of a feeder."""
    return f"F{number:05d}"


def station_id(number: int) -> str:
    """Id of a substation, and of its weather station."""
    return f"S{number:04d}"


def build(scenario: Scenario) -> Town:
    """The town of a scenario."""
    random = scenario.random("town")
    transformer = _members(scenario, random)
    count = int(transformer[-1]) + 1
    points = len(transformer)
    feeder = (np.arange(count) // TRANSFORMERS_A_FEEDER).astype(np.int32)
    kind = random.choice(3, points, p=_SHARES).astype(np.int8)
    scale = np.select([kind == HOUSEHOLD, kind == BUSINESS], [0.4, 2.2], 1.0) * random.lognormal(0, 0.45, points)
    electric_heat, cooled = random.random(points) < 0.15, random.random(points) < 0.25
    demand_kw = np.bincount(transformer, KW_A_POINT * np.where(kind == BUSINESS, 4.0, 1.0), minlength=count)
    rating = np.searchsorted(RATINGS_KVA, np.minimum(demand_kw, RATINGS_KVA[-1]))
    return Town(
        transformer=transformer,
        believed=_believed(scenario, transformer, feeder),
        kind=kind,
        scale=scale.astype(np.float32),
        heating=np.where(electric_heat, random.uniform(0.03, 0.12, points), 0).astype(np.float32),
        cooling=np.where(cooled, random.uniform(0.03, 0.15, points), 0).astype(np.float32),
        generation=np.where(random.random(points) < scenario.export, random.uniform(3, 10, points), 0).astype(
            np.float32
        ),
        sends_voltage=random.random(points) < scenario.voltages,
        feeder=feeder,
        substation=(np.arange(int(feeder[-1]) + 1) // FEEDERS_A_SUBSTATION).astype(np.int32),
        rated_kva=RATINGS_KVA[rating],
    )


def _members(scenario: Scenario, random: np.random.Generator) -> NDArray[np.int32]:
    """The transformer of each usage point, ascending."""
    wanted = max(1, round(scenario.meters / POINTS_A_TRANSFORMER))
    sizes = np.maximum(1, np.rint(random.lognormal(np.log(POINTS_A_TRANSFORMER) - 0.08, 0.4, wanted))).astype(np.int64)
    while sizes.sum() < scenario.meters:
        sizes = np.append(sizes, max(1, scenario.meters - int(sizes.sum())))
    return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[: scenario.meters]


def _believed(scenario: Scenario, transformer: NDArray[np.int32], feeder: NDArray[np.int32]) -> NDArray[np.int32]:
    """Most where they are; some under the next transformer of the same feeder."""
    random = scenario.random("misplaced")
    moved = np.flatnonzero(random.random(len(transformer)) < scenario.misplaced)
    other = np.minimum(transformer[moved] + 1, len(feeder) - 1)
    other = np.where(feeder[other] == feeder[transformer[moved]], other, transformer[moved] - 1)
    fits = (other >= 0) & (feeder[np.maximum(other, 0)] == feeder[transformer[moved]])
    believed = transformer.copy()
    believed[moved[fits]] = other[fits]
    return believed
