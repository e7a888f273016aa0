"""Models: what is fitted, how it is packed, which is in effect."""

from __future__ import annotations

from datetime import UTC, date, datetime

import msgspec
import numpy as np
import pytest

from grid_series import START_US, Utility, facts, network, weather
from gridwire.grid import baselines
from gridwire.grid.models import forecast, normal, package, train
from gridwire.grid.models.calendar import local
from gridwire.grid.models.dataset import Dataset, Loads, TooLittleData
from gridwire.grid.models.model_log import KEPT, ModelLog
from gridwire.grid.models.scoring import Scorer, ScoringSettings

FIRST_HOUR = START_US // 3_600_000_000 + 1
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def hourly(days, units=4, seed=1):
    utility = Utility(units, days, seed=seed, intervals=24)
    return utility, np.concatenate([utility.day(day) for day in range(days)]).astype(np.float32)


def dataset(days, units=4, seed=1, with_weather=True):
    utility, load = hourly(days, units, seed)
    loads = Loads("transformer", tuple(f"T{i}" for i in range(units)), FIRST_HOUR, load,
                  np.zeros(units, np.int64) - (not with_weather), np.full(units, 100.0))  # fmt: skip
    temperature = utility.temperature_c[:, None] if with_weather else np.zeros((days * 24, 0))
    return Dataset({"transformer": loads}, ("S1",) if with_weather else (), {"transformer": temperature}, {"t": 3})


def test_the_load_forecast_beats_seasonal_naive_and_knows_its_error():
    trained = train.train("load_forecast", dataset(140), "UTC", NOW)
    found = trained.manifest.metrics["transformer"]
    assert trained.manifest.better
    assert found["skill"] > 0.15
    assert found["rcrps"] < found["naive_rcrps"]
    assert 0.65 < found["coverage"] < 0.92
    assert trained.manifest.data == {"t": 3}
    assert trained.manifest.trained_from == datetime(2016, 1, 1, tzinfo=UTC)


def test_nothing_of_the_test_is_known_to_the_fit():
    """Another future gives the same forecasts: features, fit and quantiles end where the test begins."""
    _, load = hourly(80)
    other = load.copy()
    other[60 * 24 :] *= 3
    temperature = np.full_like(load, np.nan)
    issue = 60 * 24 - 1
    found = []
    for series in (load, other):
        sample = forecast.Sample(FIRST_HOUR, series, temperature, "UTC")
        model = forecast.calibrate(forecast.fit(sample, 0, 50 * 24), sample, 50 * 24, 60 * 24)
        found.append(model.forecast(sample.history(issue))[0])
    assert np.array_equal(found[0], found[1])
    sample = forecast.Sample(FIRST_HOUR, other, temperature, "UTC")
    leaky = forecast.calibrate(forecast.fit(sample, 0, 62 * 24), sample, 50 * 24, 62 * 24)  # the negative control
    assert not np.array_equal(found[0], leaky.forecast(sample.history(issue))[0])


def test_too_little_data_is_said():
    with pytest.raises(TooLittleData, match=r"has 30\.0 days"):
        train.train("load_forecast", dataset(30), "UTC", NOW)
    with pytest.raises(TooLittleData, match="no weather"):
        train.train("weather_normalisation", dataset(100, with_weather=False), "UTC", NOW)
    with pytest.raises(package.InvalidModel, match="unknown kind"):
        train.train("horoscope", dataset(30), "UTC", NOW)


def test_a_unit_without_lags_gets_no_forecast_and_gaps_are_bridged():
    data = dataset(90).loads["transformer"]
    load = data.load_kw.copy()
    temperature = np.full_like(load, np.nan)
    sample = forecast.Sample(FIRST_HOUR, load, temperature, "UTC")
    model = forecast.calibrate(forecast.fit(sample, 0, 60 * 24), sample, 60 * 24, 80 * 24)
    row = 85 * 24 - 1
    load[row + 5 - 168, 0] = np.nan
    load[row - 600 :, 1] = np.nan
    found, weather_known = model.forecast(forecast.Sample(FIRST_HOUR, load, temperature, "UTC").history(row))
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()
    assert not weather_known.any()
    assert (found[0, :, 0] <= found[0, :, 1]).all() and (found[0, :, 1] <= found[0, :, 2]).all()


def test_a_useless_regression_gives_way_to_seasonal_naive():
    rng = np.random.default_rng(4)
    load = np.tile(rng.uniform(5, 10, (168, 1)), (12, 1)).astype(np.float32)  # last week is exactly right
    load[:, 0] += 0.0
    sample = forecast.Sample(FIRST_HOUR, load, np.full_like(load, np.nan), "UTC")
    model = forecast.fit(sample, 0, 8 * 168)
    model.coefficients[:] += 0.05
    model = forecast.calibrate(model, sample, 8 * 168, 10 * 168)
    assert model.naive.all()
    history = sample.history(11 * 168 - 1)
    assert np.allclose(model.forecast(history)[0][0, :, 1], load[10 * 168 : 10 * 168 + 48, 0], atol=1e-3)


def test_weather_normalisation_finds_slopes_and_removes_a_cold_year():
    utility, _ = hourly(365, units=3)
    trained = train.train("weather_normalisation", dataset(365, units=3), "UTC", NOW)
    assert trained.manifest.better
    model = normal.NormalModel.from_arrays(package.unpack(trained.data), "transformer")
    mean_of_shape = utility.shape.mean()
    assert np.allclose(model.parts[2], utility.heating_kw_per_c * mean_of_shape, rtol=0.25)
    assert np.median(model.r2) > 0.6
    cold = normal.Daily(np.array([17_000]), np.array([False]), np.full((1, 3), 50.0), np.full((1, 3), -5.0))
    assert (model.normalised(cold) < 50.0).all()


def test_local_hours_know_daylight_saving():
    at = int(datetime(2016, 3, 27, 1, tzinfo=UTC).timestamp()) // 3600
    hour, kind, day = local(np.array([at, at + 1, at + 2]), "Europe/Berlin")
    assert hour.tolist() == [1, 3, 4]
    assert kind.tolist() == [2, 2, 2]
    assert (day == (date(2016, 3, 27) - date(1970, 1, 1)).days).all()


# -- packages and the log of models -------------------------------------------------------------------------------


def model(number=0, size=10):
    data = package.pack({"a": np.random.default_rng(number).integers(0, 255, size).astype(np.uint8)})
    sha256 = package.digest(data)
    manifest = package.Manifest(
        kind="k", version=f"v{number}", created=NOW, sha256=sha256, bytes=len(data),
        chunks=len(package.pieces_of(data)), trained_from=NOW, trained_to=NOW, units=1,
    )  # fmt: skip
    return manifest, data


def feed(log, events):
    for event in events:
        log.take(event.value, dict(event.headers))


def test_a_model_comes_in_pieces_and_is_whole_or_not_there():
    manifest, data = model(size=3 * package.CHUNK_BYTES)
    events = package.events(manifest, data)
    assert len(events) == 5 and all(len(event.value) <= package.CHUNK_BYTES for event in events)
    log = ModelLog()
    feed(log, events)
    assert log.current("k").manifest == manifest
    assert np.array_equal(log.current("k").arrays()["a"], package.unpack(data)["a"])
    for missing in range(4):
        broken = ModelLog()
        feed(broken, events[:missing] + events[missing + 1 :])
        assert broken.current("k") is None and broken.refused == 1
    damaged = ModelLog()
    other = events[0].value[:-1] + bytes([events[0].value[-1] ^ 1])
    damaged.take(other, dict(events[0].headers))
    feed(damaged, events[1:])
    assert damaged.current("k") is None and damaged.refused == 1


def test_the_same_arrays_give_the_same_digest():
    assert model(1)[0].sha256 == model(1)[0].sha256 != model(2)[0].sha256


def test_promotion_and_going_back():
    log = ModelLog()
    for number in range(3):
        feed(log, package.events(*model(number)))
    assert log.current("k").manifest.version == "v2" and log.previous("k") == "v1"
    feed(log, [package.promotion_event("k", "v0", NOW)])
    assert log.current("k").manifest.version == "v0" and log.previous("k") == "v2"
    feed(log, [package.promotion_event("k", "v9", NOW)])
    assert log.current("k").manifest.version == "v0" and log.refused == 1


def test_old_models_are_forgotten_but_the_one_in_effect_is_not():
    log = ModelLog()
    for number in range(KEPT + 3):
        manifest, data = model(number)
        feed(log, package.events(msgspec.structs.replace(manifest, promoted=number == 0), data))
    assert log.current("k").arrays()
    with pytest.raises(package.InvalidModel, match="train it again"):
        log.models["k"]["v1"].arrays()


@pytest.mark.parametrize(
    "value", [b"", b"{}", b"null", b'{"type":"model"}', b'{"type":"promotion","kind":"k"}', b"\xff"]
)
def test_nonsense_is_refused(value):
    log = ModelLog()
    log.take(value, {})
    log.take(value, {"chunk": b"x", "chunks": b"1"})
    log.take(value, {"chunk": b"5", "chunks": b"2"})
    assert log.refused == 3


def test_arrays_that_are_none():
    for data in (b"", b"PK\x03\x04", package.pack({"a": np.zeros(3)})[:-30]):
        with pytest.raises(package.InvalidModel):
            package.unpack(data)
    arrays = package.unpack(train.train("load_forecast", dataset(60), "UTC", NOW).data)
    arrays["transformer.scale"] = arrays["transformer.scale"][:2]
    with pytest.raises(package.InvalidModel, match="features"):
        forecast.ForecastModel.from_arrays(arrays, "transformer", "UTC")


# -- scoring ------------------------------------------------------------------------------------------------------


def stored(data, zone="UTC"):
    trained = train.train("load_forecast", data, zone, NOW)
    log = ModelLog()
    feed(log, package.events(trained.manifest, trained.data))
    return log


def version_of(log):
    return log.current("load_forecast").manifest.version


@pytest.fixture(scope="module")
def models():
    return stored(dataset(90)), stored(dataset(80))


def scored(scorer, utility, begin, end, scale=1.0):
    for day in range(begin, end):
        scorer.loads(facts(day, utility.day(day, scale), interval_s=3600))
    return scorer.issues(), scorer.findings()


def test_the_stream_issues_forecasts_with_the_model_in_effect(models):
    scorer = Scorer(network(4, 3600, rated_kva=1000.0).index())
    utility = Utility(4, 110, intervals=24)
    scorer.weather(weather(utility.temperature_c))
    issues, _ = scored(scorer, utility, 0, 30)
    assert issues == []  # no model
    scorer.use(models[0])
    (issue,) = scorer.issues()
    assert issue.model == version_of(models[0])
    assert issue.weather.all()
    issues, findings = scored(scorer, utility, 30, 34)
    assert len(issues) == 4  # facts of a day come at once here, and only the newest hour is news
    scorer.use(models[1])
    assert [each.model for each in scorer.issues()] == [version_of(models[1])]
    scorer.use(models[1])
    assert scorer.issues() == []
    assert not [f for f in findings if f.kind == "forecast.overload"]
    actual = utility.base_kw.mean()
    assert 0.5 * actual < np.nanmean(issue.quantiles_kw[:, :, 1]) < 2.5 * actual


def test_a_model_of_other_units_forecasts_those_it_knows(models):
    scorer = Scorer(network(2, 3600).index())
    utility = Utility(2, 40, intervals=24)
    scored(scorer, utility, 0, 20)
    scorer.use(models[0])
    (issue,) = scorer.issues()
    assert np.isfinite(issue.quantiles_kw).all() and not issue.weather.any()


def test_a_model_that_does_not_fit_changes_nothing(models):
    scorer = Scorer(network(4, 3600).index())
    scored(scorer, Utility(4, 40, intervals=24), 0, 20)
    scorer.use(models[0])
    manifest, _ = model(7)
    log = ModelLog()
    bad = package.pack({"transformer.ids": np.array([b"T0"]), "transformer.scale": np.ones(1)})
    manifest = msgspec.structs.replace(manifest, kind="load_forecast", sha256=package.digest(bad), chunks=1)
    feed(log, package.events(manifest, bad))
    scorer.use(log)
    assert scorer.models_refused == 1
    assert scorer.issues()[-1].model == version_of(models[0])


def test_overload_is_foretold_and_called_off(models):
    scorer = Scorer(network(4, 3600, rated_kva=40.0).index())
    utility = Utility(4, 60, intervals=24)
    scored(scorer, utility, 0, 20)
    scorer.use(models[0])
    opened = {f.subject: f for f in scorer.findings() if f.kind == "forecast.overload"}
    assert opened and all(f.confidence >= 0.5 and f.evidence["peak_kw"] > 38 for f in opened.values())
    _, findings = scored(scorer, utility, 20, 45, scale=0.2)
    closed = {f.subject for f in findings if f.kind == "forecast.overload" and f.state == "closed"}
    assert closed == set(opened)


def test_a_load_far_from_its_forecast_is_told_once_it_lasts(models):
    scorer = Scorer(network(4, 3600).index(), ScoringSettings(band_hours=6))
    utility = Utility(4, 60, intervals=24)
    scored(scorer, utility, 0, 20)
    scorer.use(models[0])
    up = np.array([3.0, 1, 1, 1])
    _, findings = scored(scorer, utility, 20, 21, up)
    found = [f for f in findings if f.kind == "load.unexpected"]
    assert {f.subject for f in found} == {"T0"}
    assert found[0].evidence["direction"] == "above" and found[0].evidence["hours"] == 6
    again = Scorer(network(4, 3600).index(), ScoringSettings(band_hours=6))
    again.from_arrays({name: array.copy() for name, array in scorer.to_arrays().items()})
    again.use(models[0])
    assert again.issues() == [] and again.open == scorer.open
    _, findings = scored(scorer, utility, 21, 40)
    assert [f.state for f in findings if f.subject == "T0" and f.kind == "load.unexpected"][-1] == "closed"


def test_normalised_demand_of_every_day_is_told(models):
    trained = train.train("weather_normalisation", dataset(120), "Europe/Berlin", NOW)
    log = ModelLog()
    feed(log, package.events(trained.manifest, trained.data))
    scorer = Scorer(network(4, 3600).index())
    utility = Utility(4, 60, intervals=24)
    scorer.use(log)
    scorer.weather(weather(utility.temperature_c[: 20 * 24]))
    scored(scorer, utility, 0, 30)
    days = [day for day in scorer.days() if day.level == "transformer"]
    assert [day.day for day in days] == list(range(days[0].day, days[0].day + len(days)))
    assert len(days) == 29
    known = [bool(np.isfinite(day.normalised_kw).all()) for day in days]
    assert known[:15] == [True] * 15 and not known[-1]
    expected = utility.heating_kw_per_c * utility.shape.mean()
    for day in days[1:10]:
        colder = np.maximum(0, 14 - day.temperature_c) - np.maximum(0, 14 - day.normal_c)
        assert np.allclose(day.load_kw - day.normalised_kw, colder * expected, atol=4.0)


# -- baselines ----------------------------------------------------------------------------------------------------

MONDAY = date(2016, 6, 6)


def days(values):
    return np.array([np.full(24, float(value)) for value in values])


def test_ten_of_ten_and_the_middle_eight():
    loads = days([10, 11, 12, 13, 14, 99, 99, 15, 16, 17, 18, 19, 0, 0, 20])  # weeks from Monday on, weekends odd
    loads[14, 14:18] = 5.0
    event = date(2016, 6, 20)
    plain = baselines.Method("plain", cap=0.0)
    found = baselines.deliver(loads, MONDAY, event, 14, 18, plain)
    assert found.baseline_kw.tolist() == [14.5] * 4
    assert found.delivered_kwh == pytest.approx(4 * 9.5)
    assert len(found.days) == 10 and all(day.weekday() < 5 for day in found.days)
    middle = baselines.deliver(loads, MONDAY, event, 14, 18, baselines.ERCOT)
    assert date(2016, 6, 6) not in middle.days and date(2016, 6, 17) not in middle.days and len(middle.days) == 8
    assert middle.adjustment == 1.2  # 20 over 14.5 is more than the cap
    assert baselines.deliver(loads, MONDAY, event, 14, 18, baselines.CAISO).baseline_kw[0] == pytest.approx(14.5 * 1.2)


def test_days_of_other_events_are_left_out_and_too_few_are_said():
    loads = days([10] * 12)
    event, other = date(2016, 6, 17), date(2016, 6, 16)
    found = baselines.deliver(loads, MONDAY, event, 14, 18, baselines.CAISO, [other])
    assert other not in found.days
    with pytest.raises(baselines.NoBaseline, match="are needed"):
        baselines.deliver(loads, MONDAY, date(2016, 6, 8), 14, 18, baselines.CAISO)
    loads[11, 15] = np.nan
    with pytest.raises(baselines.NoBaseline, match="not known completely"):
        baselines.deliver(loads, MONDAY, event, 14, 18, baselines.CAISO)
    with pytest.raises(baselines.NoBaseline, match="outside"):
        baselines.deliver(loads, MONDAY, date(2017, 1, 1), 14, 18, baselines.CAISO)
