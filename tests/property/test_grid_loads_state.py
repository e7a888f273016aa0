"""The state of the loads worker against a dictionary that does the same in plain Python."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridwire.grid.network import Feeder, Network, Transformer, UsagePoint
from gridwire.grid.placements import Timeline
from gridwire.grid.state import Facts, LoadState

INTERVAL_S = 21_600  # four intervals a day: small enough for every edge to be hit
PER_DAY = 4
DAYS = 2
FIRST_DAY = 16_801
POINTS = 5

NETWORK = Network(
    name="five",
    interval_s=INTERVAL_S,
    transformers=(Transformer(id="T0", rated_kva=100.0), Transformer(id="T1")),
    feeders=(Feeder(id="F0", transformer="T0"), Feeder(id="F1"), Feeder(id="F2")),
    usage_points=tuple(
        UsagePoint(id=f"U{i}", transformer=transformer, feeder=feeder)
        for i, (transformer, feeder) in enumerate(
            [("T0", "F0"), ("T1", "F1"), ("T0", "F0"), ("T0", "F1"), ("T1", "F1")]
        )
    ),
)
INDEX = NETWORK.index()
TIMELINE = Timeline.of(NETWORK)

Row = tuple[int, int, int, int, int, int]
"""(partition, slot, point, channel, amount, version)."""


def rows_strategy(days: int = 1, versions: int = 0, partitions: int = 1) -> st.SearchStrategy[list[Row]]:
    first = FIRST_DAY * PER_DAY
    row = st.tuples(
        st.integers(0, partitions - 1),
        st.integers(first, first + days * PER_DAY - 1),
        st.integers(0, POINTS - 1),
        st.integers(0, 1),
        st.integers(0, 3),
        st.integers(0, versions),
    )
    return st.lists(row, max_size=40)


def apply(state: LoadState, rows: list[Row]) -> None:
    """Apply rows in order, consecutive ones of the same partition together."""
    start = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end][0] != rows[start][0]:
            part = rows[start:end]
            columns = list(zip(*part, strict=True))
            state.apply(
                part[0][0],
                np.array(columns[1], np.int64),
                np.array(columns[2], np.int32),
                np.array(columns[3], np.int8),
                np.array(columns[4], np.int64),
                np.array(columns[5], np.int16),
            )
            start = end


def told(facts: list[Facts]) -> dict[tuple[str, int, int], dict[str, int]]:
    """Facts by (kind, group, slot); later ones replace earlier ones."""
    out = {}
    for table in facts:
        for i in range(len(table)):
            out[table.kind, int(table.groups[i]), int(table.slots[i])] = {
                "import": int(table.imported[i]),
                "export": int(table.exported[i]),
                "count": int(table.counts[i]),
                "max": int(table.largest[i]),
                "version": int(table.versions[i]),
                "peak": int(table.peaks[i]),
                "peak_slot": int(table.peak_slots[i]),
            }
    return out


class Model:
    """The rules, one reading at a time, with dictionaries."""

    def __init__(self) -> None:
        self.cells: dict[tuple[int, int, int], tuple[int, int, int]] = {}
        self.seen: dict[tuple[str, int, int], int] = {}
        self.newest_day = -1
        self.too_old = 0

    def apply(self, rows: list[Row]) -> None:
        for partition, slot, point, channel, amount, version in rows:
            day = slot // PER_DAY
            if day > self.newest_day:
                self.newest_day = day
                oldest = (day - DAYS + 1) * PER_DAY
                self.cells = {key: cell for key, cell in self.cells.items() if key[0] >= oldest}
                self.seen = {key: count for key, count in self.seen.items() if key[2] >= oldest}
            if day <= self.newest_day - DAYS:
                self.too_old += 1
                continue
            for kind, groups in self.groups().items():
                key = (kind, int(groups[point]), slot)
                self.seen[key] = self.seen.get(key, 0) + 1
            old = self.cells.get((slot, point, channel))
            if old is None or (version, partition) >= old[:2]:
                self.cells[slot, point, channel] = (version, partition, amount)

    @staticmethod
    def groups() -> dict[str, Any]:
        return {"transformer": INDEX.transformer_of_unit, "feeder": INDEX.feeder_of_unit}

    def facts(self) -> dict[tuple[str, int, int], dict[str, int]]:
        out: dict[tuple[str, int, int], dict[str, int]] = {}
        for (slot, point, channel), (_, _, amount) in self.cells.items():
            for kind, groups in self.groups().items():
                key = (kind, int(groups[point]), slot)
                fact = out.setdefault(key, {"import": 0, "export": 0, "count": 0, "max": 0})
                fact["export" if channel else "import"] += amount
                fact["count"] += 1
                fact["max"] = max(fact["max"], amount if channel == 0 else 0)
        for key, fact in out.items():
            fact["version"] = self.seen[key] - 1
        return self.with_peaks(out)

    @staticmethod
    def with_peaks(facts: dict[tuple[str, int, int], dict[str, int]]) -> dict[tuple[str, int, int], dict[str, int]]:
        for (kind, group, slot), fact in facts.items():
            day = [
                (-(other["import"] - other["export"]), at)
                for (other_kind, other_group, at), other in facts.items()
                if (other_kind, other_group) == (kind, group) and at // PER_DAY == slot // PER_DAY
            ]
            highest, place = min(day)
            fact["peak"], fact["peak_slot"] = -highest, place
        return facts


def all_facts(state: LoadState) -> dict[tuple[str, int, int], dict[str, int]]:
    """What the state holds now, whatever it has still to tell of days that left."""
    state.forget_changes()
    for row in state.used_rows():
        state.mark(row)
    return told(state.collect())


@settings(max_examples=200, deadline=None)
@given(rows_strategy(days=4, versions=2, partitions=3))
def test_the_state_is_the_model(rows: list[Row]) -> None:
    state, model = LoadState(TIMELINE, DAYS), Model()
    apply(state, rows)
    model.apply(rows)
    assert all_facts(state) == model.facts()
    assert int(state.counts[4]) == model.too_old


@settings(max_examples=100, deadline=None)
@given(rows_strategy(), st.randoms(use_true_random=False), st.data())
def test_shuffled_and_repeated_readings_give_the_same_sums(rows: list[Row], random: Any, data: st.DataObject) -> None:
    unique = list({row[1:4]: row for row in rows}.values())
    mixed = unique + (data.draw(st.lists(st.sampled_from(unique), max_size=20)) if unique else [])
    random.shuffle(mixed)
    first, second = LoadState(TIMELINE, DAYS), LoadState(TIMELINE, DAYS)
    apply(first, unique)
    apply(second, mixed)
    sums = [
        {key: {name: fact[name] for name in fact if name != "version"} for key, fact in all_facts(state).items()}
        for state in (first, second)
    ]
    assert sums[0] == sums[1]


@settings(max_examples=150, deadline=None)
@given(rows_strategy(days=3, versions=1), st.lists(st.integers(0, 40), max_size=6))
def test_any_cut_into_commits_tells_the_same_in_the_end(rows: list[Row], cuts: list[int]) -> None:
    whole, pieces = LoadState(TIMELINE, DAYS), LoadState(TIMELINE, DAYS)
    apply(whole, rows)
    at_once = told(whole.collect())
    step_by_step: dict[tuple[str, int, int], dict[str, int]] = {}
    bounds = [0, *sorted(cut for cut in cuts if cut <= len(rows)), len(rows)]
    for start, end in itertools.pairwise(bounds):
        apply(pieces, rows[start:end])
        for key, fact in told(pieces.collect()).items():
            known = step_by_step.get(key)
            assert known is None or fact["version"] > known["version"], "a version was used twice"
            step_by_step[key] = fact
    # A peak is as of its commit, so only the sums are compared fact by fact ...
    sums = ("import", "export", "count", "max")
    assert {k: [f[n] for n in sums] for k, f in step_by_step.items()} == {
        k: [f[n] for n in sums] for k, f in at_once.items()
    }
    # ... and what the state holds in the end is the same to the last bit.
    assert all_facts(pieces) == all_facts(whole)


@settings(max_examples=100, deadline=None)
@given(rows_strategy(days=3, versions=2, partitions=3), st.randoms(use_true_random=False))
def test_partitions_may_take_turns_in_any_way(rows: list[Row], random: Any) -> None:
    streams = [[row for row in rows if row[0] == partition] for partition in range(3)]
    mixed = []
    while any(streams):
        mixed.append(random.choice([stream for stream in streams if stream]).pop(0))
    first, second = LoadState(TIMELINE, DAYS), LoadState(TIMELINE, DAYS)
    apply(first, rows)
    apply(second, mixed)
    assert all_facts(first) == all_facts(second)


@settings(max_examples=50, deadline=None)
@given(rows_strategy(days=4, versions=1), rows_strategy(days=4, versions=1))
def test_a_snapshot_continues_where_it_was_taken(before: list[Row], after: list[Row]) -> None:
    state = LoadState(TIMELINE, DAYS)
    apply(state, before)
    state.forget_changes()
    copy = LoadState(TIMELINE, DAYS)
    copy.from_arrays({name: array.copy() for name, array in (state.to_arrays() | state.pieces()).items()})
    assert copy.changed_pieces() == set()
    for one in (state, copy):
        apply(one, after)
    assert told(state.collect()) == told(copy.collect())
    assert np.array_equal(state.counts, copy.counts)


def test_a_snapshot_of_another_window_is_refused() -> None:
    arrays = LoadState(TIMELINE, DAYS).to_arrays()
    with pytest.raises(ValueError, match="another window"):
        LoadState(TIMELINE, DAYS + 1).from_arrays(arrays)


def test_a_refused_reading_is_remembered_before_its_day_is_open_and_forgotten_with_it() -> None:
    state, slot = LoadState(TIMELINE, DAYS), FIRST_DAY * PER_DAY
    state.touch(np.array([slot + 2], np.int64))
    assert state.rows_since(slot) == []
    apply(state, [(0, slot, 0, 0, 1, 0)])
    assert sorted(state.slot_of_row(np.array(state.rows_since(slot))).tolist()) == [slot, slot + 2]
    apply(state, [(0, slot + DAYS * PER_DAY, 0, 0, 1, 0)])
    assert len(state.rows_since(slot)) == 1
