"""Fitting models to a dataset, each with an honest back-test: what is tested was seen by no part of the fit.

    |-- fit ------------------------------|-- calibrate --|-- test --|      metrics
    |-- fit --------------------------------------------------------|      what is published

The model of failures is tested on transformers instead of days, for failures are rare: see `hazard`.

The load forecast is tested on the last `TEST_SHARE` of the hours; quantiles, and the choice between regression and
seasonal naive, come from the share before it. What is published is fitted to everything; its quantiles are those of the
tested model over calibration and test, hours it had not been fitted to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np

import gridwire
from gridwire.grid.models import forecast, hazard, normal
from gridwire.grid.models.dataset import Dataset, Loads, TooLittleData, at_units
from gridwire.grid.models.forecast import ForecastModel, Sample
from gridwire.grid.models.metrics import Score
from gridwire.grid.models.package import Arrays, InvalidModel, Manifest, digest, pack, pieces_of, version_of

TEST_SHARE: Final = 0.15
TEST_DAYS_MIN, TEST_DAYS_MAX = 7, 60
FIT_DAYS_MIN: Final = 14
"""Days of outcomes the least fit has, after the lags."""

DAYS_MIN: Final = forecast.LEAST_H // 24 + FIT_DAYS_MIN + 2 * TEST_DAYS_MIN
"""Days of facts the load forecast needs: 43."""

KNOWN_SHARE: Final = 0.5
"""Share of hours a unit must have to be forecast."""

TEST_STEP_H: Final = 5
"""Hours from one tested issue to the next."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A model that is not yet published."""

    manifest: Manifest
    data: bytes


@dataclass(frozen=True, slots=True)
class _Result:
    arrays: Arrays
    metrics: dict[str, Any]
    better: bool
    units: int
    begin: int
    end: int


def train(kind: str, data: Dataset, zone: str, now: datetime) -> Trained:
    """Fit one kind of model.

    Args:
        kind: one of `KINDS`. zone: of the utility's days. now: becomes part of the version's name.

    Raises:
        TooLittleData: the message says what is missing. InvalidModel: there is no such kind.
    """
    check_kind(kind)
    result = _TRAINERS[kind](data, zone)
    packed = pack(result.arrays)
    sha256 = digest(packed)
    manifest = Manifest(
        kind=kind, version=version_of(now, sha256), created=now.astimezone(UTC), sha256=sha256, bytes=len(packed),
        chunks=len(pieces_of(packed)), trained_from=_moment(result.begin - 1), trained_to=_moment(result.end),
        units=result.units, data=dict(data.versions), metrics=result.metrics, settings={"zone": zone},
        better=result.better, software=gridwire.__version__,
    )  # fmt: skip
    return Trained(manifest, packed)


def check_kind(kind: str) -> None:
    """Raise InvalidModel unless it can be trained."""
    if kind not in _TRAINERS:
        raise InvalidModel(f"unknown kind of model {kind!r}: choose from {', '.join(_TRAINERS)}")


def forced(trained: Trained) -> Trained:
    """The same model, published although it is not better than seasonal naive."""
    manifest = trained.manifest
    return replace(trained, manifest=_with(manifest, forced=not manifest.better))


def unpromoted(trained: Trained) -> Trained:
    """The same model, published but not put in effect."""
    return replace(trained, manifest=_with(trained.manifest, promoted=False))


def _with(manifest: Manifest, **changes: Any) -> Manifest:
    import msgspec

    return msgspec.structs.replace(manifest, **changes)


def _moment(hour: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(hours=hour)


# -- the load forecast --------------------------------------------------------------------------------------------


def _load_forecast(data: Dataset, zone: str) -> _Result:
    arrays: Arrays = {}
    metrics: dict[str, Any] = {}
    units, begin, end, reasons = 0, [], [], []
    for level, loads in data.loads.items():
        try:
            model, found = _forecast_of(loads, data, zone)
        except TooLittleData as error:
            reasons.append(str(error))
            continue
        arrays |= model.to_arrays(level)
        metrics[level] = found
        units += len(model.ids)
        begin.append(loads.first_hour)
        end.append(loads.first_hour + len(loads.load_kw) - 1)
    if not arrays:
        raise TooLittleData("; ".join(reasons))
    better = all(found["skill"] > 0 for found in metrics.values())
    return _Result(arrays, metrics, better, units, min(begin), max(end))


def _forecast_of(loads: Loads, data: Dataset, zone: str) -> tuple[ForecastModel, dict[str, Any]]:
    rows = len(loads.load_kw)
    if rows < DAYS_MIN * 24:
        raise TooLittleData(
            f"the lake has {rows / 24:.1f} days of {loads.level} facts: a load forecast needs {DAYS_MIN}"
        )
    kept = np.flatnonzero(np.isfinite(loads.load_kw).mean(axis=0) >= KNOWN_SHARE)
    if not len(kept):
        raise TooLittleData(f"no {loads.level} has {KNOWN_SHARE:.0%} of its hours complete")
    window = int(min(max(TEST_SHARE * rows, TEST_DAYS_MIN * 24), TEST_DAYS_MAX * 24))
    test, calibration = rows - window, rows - 2 * window
    result, parts, known = Score(len(kept)), [], 0.0
    for block in forecast.blocks(len(kept)):
        units = kept[block]
        of_units = at_units(data.temperature_c[loads.level], loads.station_of_unit[units]).astype(np.float32)
        sample = Sample(loads.first_hour, loads.load_kw[:, units], of_units, zone)
        tested = forecast.calibrate(forecast.fit(sample, 0, calibration), sample, calibration, test)
        score(result, tested, sample, calibration, test, rows)
        final = forecast.fit(sample, 0, rows)
        spread = forecast.calibrate(tested, sample, calibration, rows)
        ids = tuple(loads.ids[row] for row in units.tolist())
        parts.append(ForecastModel(ids, final.scale, final.coefficients, spread.naive, spread.quantiles, zone))
        known += float(np.isfinite(of_units).mean()) * len(units) / len(kept)
    model = ForecastModel.joined(parts)
    metrics = result.metrics() | {
        "units_left_out": len(loads.ids) - len(kept), "units_naive": int(model.naive.sum()),
        "weather_share": round(known, 4), "test_days": round(window / 24, 1),
    }  # fmt: skip
    return model, metrics


def score(found: Score, model: ForecastModel, sample: Sample, calibration: int, test: int, end: int) -> None:
    """Score the hours `[test, end)` beside seasonal naive with quantiles of `[calibration, test)`."""
    nothing = ForecastModel(
        model.ids, model.scale, np.zeros_like(model.coefficients), model.naive, model.quantiles, model.zone
    )
    naive = forecast.calibrate(nothing, sample, calibration, test)
    for row in sample.issues(test, end, TEST_STEP_H):
        history = sample.history(row)
        found.add(sample.outcome(row), model.forecast(history)[0], naive.forecast(history)[0])


# -- weather normalisation ----------------------------------------------------------------------------------------


def _normalisation(data: Dataset, zone: str) -> _Result:
    if not data.stations:
        raise TooLittleData(
            "the lake has no weather: `gridwire ingest weather-csv FILE` sends some to the hub `weather`"
        )
    arrays: Arrays = {}
    metrics: dict[str, Any] = {}
    units, begin, end = 0, [], []
    for level, loads in data.loads.items():
        days = normal.daily(loads.hours, loads.load_kw, data.temperature_of_units(level), zone)
        known = np.isfinite(days.load_kw) & np.isfinite(days.temperature_c)
        kept = np.flatnonzero(known.sum(axis=0) >= 60)
        if not len(kept):
            continue
        days = normal.Daily(days.day, days.weekend, days.load_kw[:, kept], days.temperature_c[:, kept])
        metrics[level] = _normal_score(days) | {"units": len(kept), "units_left_out": len(loads.ids) - len(kept)}
        model = normal.fit(days)
        metrics[level]["r2"] = round(float(np.nanmedian(model.r2)), 4)
        arrays |= replace_ids(model, tuple(loads.ids[row] for row in kept.tolist())).to_arrays(level)
        units += len(kept)
        begin.append(loads.first_hour)
        end.append(loads.first_hour + len(loads.load_kw) - 1)
    if not arrays:
        raise TooLittleData("no unit has 60 days with both load and weather")
    better = all(found["skill"] > 0 for found in metrics.values())
    return _Result(arrays, metrics, better, units, min(begin), max(end))


def replace_ids(model: normal.NormalModel, ids: tuple[str, ...]) -> normal.NormalModel:
    """The model under the names of its units."""
    return normal.NormalModel(ids, model.parts, model.normal_c, model.r2)


def _normal_score(days: normal.Daily) -> dict[str, Any]:
    """Error on the last days when told their temperature, beside the same weekday of the week before."""
    split = int(len(days.day) * (1 - 2 * TEST_SHARE))
    fitted, test = normal.fit(days.part(0, split)), days.part(split, len(days.day))
    predicted = fitted.predict(test.temperature_c, test.weekend)
    naive = days.load_kw[split - 7 : len(days.day) - 7]
    known = np.isfinite(test.load_kw) & np.isfinite(predicted) & np.isfinite(naive)
    if not known.any():
        return {"skill": 0.0, "days": 0}
    error = np.abs(test.load_kw - predicted)[known].mean()
    naive_error = np.abs(test.load_kw - naive)[known].mean()
    return {
        "mae_kw": float(f"{error:.5g}"), "naive_mae_kw": float(f"{naive_error:.5g}"),
        "skill": round(1 - float(error / max(naive_error, 1e-12)), 4), "days": len(test.day),
    }  # fmt: skip


# -- failures of transformers -------------------------------------------------------------------------------------


def _failures(data: Dataset, zone: str) -> _Result:
    past = data.health
    if past is None:
        raise TooLittleData("no failures are known, or no facts of grid.health: --failures names those there were")
    rows = hazard.rows_of(past)
    failed = len(np.unique(rows.unit[rows.y]))
    if failed < hazard.FAILURES_MIN:
        raise TooLittleData(
            f"{failed} of the failures have a week of grid.health before them: {hazard.FAILURES_MIN} are needed"
        )
    if rows.y.all():
        raise TooLittleData(f"no transformer is known to have lasted {hazard.HORIZON_DAYS} days")
    found = hazard.metrics(rows, hazard.back_test(rows, len(past.ids)))
    model = replace(hazard.fit(rows), alert=found["alert"])
    better = found["skill"] > 0 and found["auc"] > found["risk_auc"]
    begin = past.first_day * 24 + 1
    end = begin + past.days.shape[1] * 24 - 1
    return _Result(model.to_arrays(), {"transformer": found}, better, len(past.ids), begin, end)


_TRAINERS: Final[Mapping[str, Callable[[Dataset, str], _Result]]] = {
    forecast.KIND: _load_forecast,
    normal.KIND: _normalisation,
    hazard.KIND: _failures,
}

KINDS: Final = tuple(_TRAINERS)
"""What can be trained."""
