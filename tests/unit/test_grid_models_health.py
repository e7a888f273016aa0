"""The model of failures: what it learns from, what it finds, and that the stream says what the batch would."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pytest

from gridwire.broker.port import ColumnBatch
from gridwire.columnar.decode import decode
from gridwire.core.batch import Event, encode
from gridwire.core.hubs import HEALTH, MODELS
from gridwire.grid.models import hazard, package, risk, train
from gridwire.grid.models.dataset import Dataset, TooLittleData
from gridwire.grid.models.hazard import FEATURES, HORIZON_DAYS, WINDOW_DAYS, HealthDays
from gridwire.grid.models.model_log import ModelLog
from gridwire.grid.models.risk import RiskScorer

NOW = datetime(2026, 6, 1, tzinfo=UTC)
FIRST_DAY = 20_454  # 2026-01-01
UNITS, DAYS = 80, 90
DAY_S = 86_400


def history(seed=1, units=UNITS, days=DAYS, cause="hot"):
    """Facts of every hour; every fourth transformer is hotter for four weeks, and fails then."""
    random = np.random.default_rng(seed)
    load = steady(seed, units, days)
    failed = np.array([(unit, int(random.integers(35, days))) for unit in range(0, units, 4)])
    if cause == "hot":
        for unit, day in failed.tolist():
            load[day - 28 : day, :, unit] += 0.6
    return load, failed


def steady(seed, units, days):
    return 0.5 + 0.1 * np.random.default_rng(seed).random((days, 24, units))


def fact(unit, day, hour, load, watched):
    end = datetime.fromtimestamp((FIRST_DAY + day) * DAY_S + (hour + 1) * 3600, UTC)
    return {
        "transformer": f"T{unit}", "ts_end": end.strftime("%Y-%m-%dT%H:%M:%SZ"), "load_factor": round(float(load), 6),
        "hot_spot_c": round(40 + 50 * float(load), 4), "ageing_factor": round(float(load) ** 4, 8),
        "loss_of_life_h": round(0.01 * watched, 4), "watched_h": watched, "signature": "lv_side" if load > 1.15 else "",
        "risk": 0.1,
    }  # fmt: skip


def days_of(load):
    told = np.zeros((len(hazard.DAILY), *load.shape[::2]))
    ageing = np.round(load**4, 8)
    told[0], told[1], told[2] = 24, load.max(axis=1), 40 + 50 * load.max(axis=1)
    told[3], told[4], told[5], told[6] = ageing.sum(axis=1), (load > 1.15).sum(axis=1), 2.4, 0.01
    return told


def past(seed=1, **more):
    load, failed = history(seed, **more)
    return HealthDays(tuple(f"T{i}" for i in range(load.shape[2])), FIRST_DAY, days_of(load), failed)


def trained(seed=1, **more):
    return train.train("transformer_health", Dataset({}, (), {}, {}, past(seed, **more)), "UTC", NOW)


def batch(hub, events, offset=0):
    data = bytes(encode(events, base_offset=offset))
    (columns,) = decode(data, 0, len(data), from_offset=offset).columns
    return ColumnBatch(hub, 0, columns, offset + len(events))


def models(*published):
    log = ModelLog()
    for each in published:
        for event in package.events(each.manifest, each.data):
            log.take(event.value, {name: value or b"" for name, value in event.headers})
    return log


def health(load, days, units=None):
    events = [
        Event(json.dumps(fact(unit, day, hour, load[day, hour, unit], day * 24.0 + hour + 1)).encode(), None, (), 0)
        for day in days
        for hour in range(24)
        for unit in (range(load.shape[2]) if units is None else units)
    ]
    return batch(HEALTH, events)


def test_it_finds_those_that_fail_and_knows_how_probable_that_is():
    found = trained().manifest
    metrics = found.metrics["transformer"]
    assert found.better
    assert metrics["failures"] == UNITS // 4
    assert metrics["auc"] > 0.7 > 0.55 > metrics["risk_auc"]
    assert 0.7 < metrics["calibration"] < 1.4
    assert metrics["skill"] > 0.1
    assert found.units == UNITS
    assert (found.trained_to - found.trained_from).days == DAYS


def test_what_has_no_cause_is_not_published():
    assert not trained(cause="none").manifest.better


def test_too_few_failures_are_said_to_be():
    few = past()
    with pytest.raises(TooLittleData, match="9 of the failures"):
        train.train(
            "transformer_health",
            Dataset({}, (), {}, {}, HealthDays(few.ids, few.first_day, few.days, few.failed[:9])),
            "UTC",
            NOW,
        )
    with pytest.raises(TooLittleData, match="--failures"):
        train.train("transformer_health", Dataset({}, (), {}), "UTC", NOW)


def test_days_without_a_known_end_teach_nothing():
    """The last month may still fail; after a failure the week is half of another transformer."""
    known = past()
    rows = hazard.rows_of(known)
    quiet = rows.day[~rows.y]
    assert quiet.max() == DAYS - HORIZON_DAYS - 1
    for unit, day in known.failed.tolist():
        mine = rows.day[rows.unit == unit]
        assert not np.isin(mine, np.arange(day, day + WINDOW_DAYS)).any()
        before = rows.y[(rows.unit == unit) & (rows.day < day) & (rows.day >= day - HORIZON_DAYS)]
        assert before.all() and len(before)


def test_the_back_test_has_not_seen_the_transformer_it_judges():
    rows = hazard.rows_of(past())
    other = hazard.Rows(rows.x.copy(), rows.y.copy(), rows.unit, rows.day, rows.weight)
    mine = rows.unit == 4
    other.y[mine] = ~other.y[mine]
    before, after = (hazard.back_test(each, UNITS)[mine] for each in (rows, other))
    assert np.array_equal(before, after)


def test_a_sample_of_many_rows_weighs_what_all_do(monkeypatch):
    whole = hazard.rows_of(past())
    monkeypatch.setattr(hazard, "ROWS_MAX", 500)
    some = hazard.rows_of(past())
    assert some.y.sum() == whole.y.sum()
    assert len(some.y) == whole.y.sum() + 500
    assert some.weight.sum() == pytest.approx(len(whole.y))
    assert abs(hazard.fit(some).coefficients[-1] - hazard.fit(whole).coefficients[-1]) < 0.5


def test_ties_count_half():
    truth = np.array([True, False, True, False])
    assert hazard.auc(np.array([2.0, 1.0, 2.0, 1.0]), truth, np.ones(4)) == 1.0
    assert hazard.auc(np.ones(4), truth, np.ones(4)) == 0.5
    assert hazard.auc(np.array([1.0, 1.0, 2.0, 2.0]), truth, np.array([1.0, 3.0, 1.0, 1.0])) == 0.625


@pytest.mark.parametrize("change", ["features", "scale", "nan", "shape", "missing"])
def test_a_model_that_does_not_fit_is_refused(change):
    arrays = package.unpack(trained().data)
    if change == "features":
        arrays["features"] = arrays["features"][::-1]
    elif change == "scale":
        arrays["scale"] = arrays["scale"] * 0
    elif change == "nan":
        arrays["alert"] = np.array([np.nan])
    elif change == "shape":
        arrays["coefficients"] = arrays["coefficients"][:-1]
    else:
        del arrays["middle"]
    with pytest.raises(package.InvalidModel):
        hazard.HazardModel.from_arrays(arrays)


def scored(load, published, cut=None):
    """Facts of all days in batches of one day or as `cut`: {(unit, day): probability}."""
    scorer = RiskScorer([f"T{i}" for i in range(load.shape[2])])
    scorer.use(models(published))
    found = {}
    for begin in range(0, len(load), cut or 1):
        scorer.take(scorer.decode(health(load, range(begin, min(begin + (cut or 1), len(load))))))
        for each in scorer.risks():
            found |= {(unit, each.day - FIRST_DAY): p for unit, p in zip(each.units, each.probability, strict=True)}
    return scorer, found


def test_the_stream_says_what_the_batch_would():
    load = steady(2, 12, 20)
    published = trained()
    _, found = scored(load, published)
    model = hazard.HazardModel.from_arrays(package.unpack(published.data))
    days = days_of(load)
    for day in range(19):
        wanted = model.probability(hazard.week(days[:, max(0, day + 1 - WINDOW_DAYS) : day + 1]))
        for unit in range(12):
            assert found.get((unit, day), np.nan) == pytest.approx(wanted[unit], abs=1e-6, nan_ok=True)
    assert (0, 2) not in found and (0, 3) in found  # four whole days are needed
    assert scored(load, published, cut=5)[1] == found


def test_facts_told_again_change_nothing():
    load = steady(2, 3, 9)
    published = trained()
    scorer, found = scored(load, published)
    scorer.take(scorer.decode(health(load, range(5, 9))))
    assert scorer.risks() == []
    assert np.array_equal(scorer.ring[0].max(axis=0), np.full(3, 24.0))
    assert found


def test_a_transformer_at_risk_is_told_and_let_go():
    load = steady(2, 3, 30)
    load[10:20, :, 1] += 0.6
    published = trained()
    scorer, _ = scored(load, published)
    told = scorer.findings()
    assert {each.subject for each in told} == {"T1"}
    assert [told[0].state, told[-1].state] == ["opened", "closed"]
    assert [each.version for each in told] == list(range(len(told)))
    assert told[0].kind == "transformer.at_risk"
    assert told[0].evidence["horizon_days"] == HORIZON_DAYS
    assert set(told[0].evidence["because"]) & {"load", "hot_spot_c", "ageing", "sign"}
    assert told[0].evidence["load_factor_max"] > 1.0
    assert scorer.open == set()


def test_a_new_model_tells_the_last_day_again():
    load = steady(2, 3, 9)
    scorer, _ = scored(load, trained())
    scorer.use(models(trained(), trained(seed=3)))
    (again,) = scorer.risks()
    assert again.day - FIRST_DAY == 7
    assert again.model == trained(seed=3).manifest.version
    scorer.use(models(trained(), trained(seed=3)))
    assert scorer.risks() == []


def test_a_snapshot_goes_on_where_it_was():
    load = steady(2, 3, 20)
    load[8:20, :, 1] += 0.6
    published = trained()
    whole, found = scored(load, published)
    first, _ = scored(load[:12], published)
    first.findings()
    second = RiskScorer(["T0", "T1", "T2"])
    second.from_arrays(first.to_arrays())
    second.use(models(published))
    assert second.risks() == []  # it was told by whoever took the snapshot
    second.take(second.decode(health(load, range(12, 20))))
    rest = {
        (unit, each.day - FIRST_DAY): p
        for each in second.risks()
        for unit, p in zip(each.units, each.probability, strict=True)
    }
    assert rest == {key: p for key, p in found.items() if key[1] >= 11}
    assert [each.id for each in whole.findings()][-1] == [each.id for each in second.findings()][-1]
    with pytest.raises(ValueError, match="another network"):
        RiskScorer(["T0"]).from_arrays(first.to_arrays())


def test_what_is_no_fact_of_a_known_transformer_is_passed_over():
    scorer = RiskScorer(["T0"])
    good = fact(0, 0, 0, 0.5, 1.0)
    bad = [
        b"",
        b"[]",
        b"{",
        json.dumps(good | {"transformer": "T9"}).encode(),
        json.dumps(good | {"risk": None}).encode(),
    ]
    seen = scorer.decode(batch(HEALTH, [Event(value, None, (), 0) for value in [*bad, json.dumps(good).encode()]]))
    assert len(seen.units) == 1


def test_facts_of_risk_say_why():
    load = steady(2, 2, 12)
    load[3:12, :, 1] += 0.6
    scorer = RiskScorer(["T0", "T1"])
    scorer.use(models(trained()))
    scorer.take(scorer.decode(health(load, range(12))))
    told = [json.loads(event.value) for each in scorer.risks() for _, event in risk.events(each, ["T0", "T1"], 0)]
    last = {each["transformer"]: each for each in told if each["day"] == "2026-01-11"}
    assert last["T1"]["probability"] > 3 * last["T0"]["probability"]
    assert last["T1"]["because"] and not last["T0"]["because"]
    assert last["T1"]["load_factor_max"] == pytest.approx(load[4:11, :, 1].max(), abs=1e-3)
    assert len(FEATURES) == 6 and MODELS == "models"
