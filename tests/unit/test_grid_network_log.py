"""Versions of the network model in time: what holds when, whatever order, corrections, parts and clocks."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridwire.broker.port import ColumnBatch
from gridwire.columnar.decode import decode
from gridwire.core import batch
from gridwire.core.batch import Event
from gridwire.core.timeline import instant_us
from gridwire.grid import network as net
from gridwire.grid import network_log
from gridwire.grid.models.stage import devices_digest
from gridwire.grid.network_log import AHEAD_MAX, NetworkLog
from gridwire.grid.network_parts import to_events
from gridwire.grid.placements import FIRST_SLOT

DAY_MS = 86_400_000
DAY_US = DAY_MS * 1000


def model(name="A", valid_from="", points=1):
    return net.Network(
        name=name,
        transformers=(net.Transformer(id="T0"),),
        feeders=(net.Feeder(id="F0", transformer="T0"),),
        usage_points=tuple(net.UsagePoint(id=f"U{i}", transformer="T0", feeder="F0") for i in range(points)),
        valid_from=valid_from,
    )


def day(number):
    return f"1970-01-{number + 1:02d}T00:00:00Z"


def feed(networks, values, partition=0, start=0, together=True):
    """Feed (value, timestamp in ms) pairs of one partition."""
    events = [Event(value, None, (), at, start + n) for n, (value, at) in enumerate(values)]
    for some in [events] if together else [[event] for event in events]:
        data = bytes(batch.encode(some, base_offset=some[0].offset))
        [columns] = decode(data, 0, len(data), from_offset=some[0].offset).columns
        networks.feed(ColumnBatch("grid.network", partition, columns, some[-1].offset + 1))
    return networks


def names(networks, *days):
    found = []
    for number in days:
        version = networks.at(number * DAY_US)
        found.append(None if version is None else version.digest)
    by_digest = {net.digest(model(name, points=points)): name for name in "ABCDE" for points in (1,)}
    return "".join("-" if digest is None else by_digest[digest] for digest in found)


def sent(*told):
    """(name, day of the event, day it holds from or None)."""
    rows = [(net.to_json(model(name, "" if since is None else day(since))), at * DAY_MS) for name, at, since in told]
    return feed(NetworkLog(), rows)


def test_without_a_word_a_model_holds_from_its_event_on():
    networks = sent(("A", 1, None), ("B", 3, None))
    assert names(networks, 0, 1, 2, 3, 9) == "AAABB"
    assert networks.current.network.name == "B"
    assert networks.current.ordinal == 1


def test_nothing_holds_before_there_is_a_model():
    networks = NetworkLog()
    assert names(networks, 5) == "-"
    assert networks.current is None
    assert networks.now(0) is None


def test_the_newest_published_of_those_that_hold_wins():
    assert names(sent(("A", 1, 0), ("B", 2, 4), ("C", 3, 2)), 1, 2, 3, 4, 9) == "ACCCC"
    assert names(sent(("A", 1, 0), ("B", 2, 2), ("C", 3, 4)), 1, 2, 3, 4, 9) == "ABBCC"


def test_a_correction_replaces_what_it_corrects():
    networks = sent(("A", 1, 0), ("B", 2, 2), ("C", 9, 2))
    assert names(networks, 1, 2, 9) == "ACC"
    assert [networks.ordinal(version) for version in networks.versions] == [0, 2]


def test_the_same_model_again_is_no_version():
    networks = sent(("A", 1, None), ("A", 2, None), ("B", 3, None), ("B", 3, 4), ("B", 4, 3))
    assert [(v.valid_from_us // DAY_US, networks.ordinal(v)) for v in networks.versions] == [(1, 0), (3, 2)]


def test_the_same_model_from_an_earlier_time_on_is_one():
    networks = sent(("A", 1, 0), ("B", 3, 3), ("B", 4, 2))
    assert [(v.valid_from_us // DAY_US, networks.ordinal(v)) for v in networks.versions] == [(0, 0), (2, 2)]


def test_going_back_to_an_older_model_is_a_change():
    networks = sent(("A", 1, None), ("B", 1, None), ("A", 1, None))
    assert networks.current.ordinal == 2
    assert names(networks, 0, 5) == "AA"


def test_a_clock_that_is_set_back_puts_no_model_before_an_earlier_one():
    networks = sent(("A", 5, None), ("B", 2, None))
    assert names(networks, 4, 5, 6) == "BBB"
    assert networks.versions[0].published_ms == 5 * DAY_MS


def test_damaged_models_are_passed_over():
    good = net.to_json(model("A"))
    bad = [b"\xff", b"[]", net.to_json(model("B", "yesterday")), net.to_json(model("B", "2026-01-01T00:00:00"))]
    uneven = net.to_json(msgspec.structs.replace(model("B"), interval_s=7_000))
    networks = feed(NetworkLog(), [(value, DAY_MS) for value in (*bad, good, uneven, *bad)])
    assert names(networks, 9) == "A"
    assert networks.current.ordinal == len(bad)
    assert networks.position(("grid.network", 0)) == 2 * len(bad) + 2


@pytest.mark.parametrize("together", [True, False])
def test_a_model_in_parts_holds_when_its_last_part_is_there(together):
    large = model("A", day(2), points=400)
    parts = list(to_events(large, 8_000))
    assert len(parts) > 2
    rows = [(net.to_json(model("B")), DAY_MS), *((part, 3 * DAY_MS) for part in parts)]
    networks = feed(NetworkLog(), rows[:-1], together=together)
    assert networks.current.network.name == "B"
    feed(networks, rows[-1:], start=len(rows) - 1)
    assert [v.valid_from_us // DAY_US for v in networks.versions] == [1, 2]
    assert networks.current.network.valid_from == day(2)
    assert networks.current.ordinal == len(parts)


def test_a_model_sent_ahead_waits_for_its_time():
    networks = sent(("A", 1, None), ("B", 2, 8))
    assert networks.current.network.name == "B"
    assert networks.now(7 * DAY_MS).network.name == "A"
    assert networks.now(8 * DAY_MS).network.name == "B"
    assert networks.now(0).network.name == "A"


def test_the_models_that_are_kept_are_few():
    networks = sent(*(("ABCDE"[number % 5], number, None) for number in range(20)))
    assert len(networks._networks) == 1
    networks = sent(("A", 1, None), *(("BCDE"[number % 4], 2, 10 + number) for number in range(16)))
    assert len(networks._networks) <= AHEAD_MAX + 1
    assert networks.now(3 * DAY_MS) is not None


def test_places_are_kept_of_versions_in_effect_and_of_the_last_ones_that_were_replaced(monkeypatch):
    monkeypatch.setattr(network_log, "ERAS_MAX", 3)
    monkeypatch.setattr(network_log, "REPLACED_MAX", 2)
    rows = [(net.to_json(model("A", day(number), points=number + 1)), DAY_MS) for number in range(9)]
    networks = feed(NetworkLog(placed=True), rows)
    eras = networks.current.timeline.eras
    assert [era.ordinal for era in eras] == [6, 7, 8]
    assert eras[0].first_slot == FIRST_SLOT
    feed(networks, [(net.to_json(model("B", day(0))), DAY_MS)], start=9)
    assert [era.ordinal for era in networks.current.timeline.eras] == [9]
    assert [networks.timeline_of(ordinal) is not None for ordinal in (7, 8, 9, 10)] == [False, True, True, False]
    assert len(networks._placements) == 2


def test_models_of_another_interval_are_no_part_of_a_timeline():
    rows = [
        (net.to_json(msgspec.structs.replace(model("A", day(number)), interval_s=interval_s)), DAY_MS)
        for number, interval_s in enumerate((900, 1800, 1800, 900))
    ]
    networks = feed(NetworkLog(placed=True), rows[:3])
    assert [era.ordinal for era in networks.current.timeline.eras] == [1]  # the same model again is none
    feed(networks, rows[3:], start=3)
    assert [era.ordinal for era in networks.current.timeline.eras] == [3]
    assert networks.current.timeline.interval_s == 900


def test_a_model_that_differs_in_nothing_that_matters_is_the_same():
    def placed(transformer, rated=100.0):
        return net.Network(
            name=transformer,
            transformers=tuple(net.Transformer(id=id, rated_kva=rated, station="S") for id in ("T0", "T1")),
            feeders=(net.Feeder(id="MV"),),
            usage_points=(net.UsagePoint(id="U", transformer=transformer, feeder="MV"),),
        )

    for changed, versions in ((placed("T1"), 1), (placed("T0", 200.0), 2)):
        networks = NetworkLog(digest=devices_digest)
        feed(networks, [(net.to_json(placed("T0")), DAY_MS), (net.to_json(changed), 2 * DAY_MS)])
        assert len(networks.versions) == versions


events = st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 9), st.none() | st.integers(0, 9)), max_size=12)


@settings(deadline=None)
@given(events, events)
def test_two_partitions_give_the_same_history_in_any_order(left, right):
    streams = [
        [(net.to_json(model(name, "" if since is None else day(since))), at * DAY_MS) for name, at, since in told]
        for told in (left, right)
    ]
    first, second = NetworkLog(), NetworkLog()
    for networks, order in ((first, (0, 1)), (second, (1, 0))):
        for partition in order:
            if streams[partition]:
                feed(networks, streams[partition], partition, together=partition == 0)
    assert first.versions == second.versions
    assert [first.ordinal(v) for v in first.versions] == [second.ordinal(v) for v in second.versions]


@settings(deadline=None)
@given(events)
def test_what_holds_is_the_newest_published_of_those_that_hold(told):
    networks = sent(*told) if told else NetworkLog()
    times, newest = [], 0
    for name, at, since in told:
        newest = max(newest, at)
        times.append((name, newest if since is None else since))
    for number in range(10):
        wanted = [name for name, since in times if since <= number]
        if wanted:
            assert names(networks, number) == wanted[-1]
    ordinals = [networks.ordinal(version) for version in networks.versions]
    assert ordinals == sorted(set(ordinals))


@pytest.mark.parametrize("text", ["", "2026-01-01", "2026-01-01T00:00:00", "0001-01-01T00:00:00+23:00", "x" * 1000])
def test_what_is_no_instant(text):
    with pytest.raises(ValueError):
        instant_us(text)


def test_instants_are_exact():
    assert instant_us("1970-01-01T01:00:00.000001+01:00") == 1
    assert instant_us("1969-12-31T23:59:59Z") == -1_000_000
