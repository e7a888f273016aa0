"""Parts of moving that need no broker: checksums, runs, translated positions."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gridwire.broker.port import Bounds
from gridwire.move.checksum import EMPTY, chained
from gridwire.move.copy import runs_of
from gridwire.move.journal import Step
from gridwire.move.positions import translated

_FIELD = st.none() | st.binary(max_size=4)
_EVENT = st.tuples(
    st.integers(-1, 3), _FIELD, _FIELD, st.lists(st.tuples(st.text(max_size=2), _FIELD), max_size=2).map(tuple)
)


def total(events: list[Any]) -> bytes:
    found = EMPTY
    for event in events:
        found = chained(found, *event)
    return found


@given(st.lists(_EVENT, max_size=4), st.lists(_EVENT, max_size=4))
def test_a_checksum_is_the_same_for_the_same_events_only(left: list[Any], right: list[Any]) -> None:
    assert (total(left) == total(right)) == (left == right)


def test_fields_do_not_run_into_each_other() -> None:
    same = [(0, b"ab", b"c", ()), (0, b"a", b"bc", ()), (0, None, b"", ()), (0, b"", None, ()), (0, b"", b"", ())]
    same += [(0, None, None, (("a", b"b"),)), (0, None, None, (("ab", b""),)), (0, None, None, (("", b"ab"),))]  # type: ignore[list-item]
    assert len({chained(EMPTY, *each) for each in same}) == len(same)


@st.composite
def _copies(draw: Any) -> tuple[list[int], list[int], list[int]]:
    count = draw(st.integers(0, 20))
    gaps = st.lists(st.integers(0, 3), min_size=count, max_size=count)
    offsets: list[list[int]] = []
    for _ in range(2):
        at, found = draw(st.integers(0, 5)), []
        for gap in draw(gaps):
            at += gap
            found.append(at)
            at += 1
        offsets.append(found)
    return offsets[0], offsets[1], draw(st.lists(st.integers(0, count), max_size=3).map(sorted))


@given(_copies(), st.lists(st.integers(0, 90), max_size=8))
def test_a_position_is_where_the_next_event_lies(
    copy: tuple[list[int], list[int], list[int]], asked: list[int]
) -> None:
    source, target, cuts = copy
    steps = []
    for first, last in zip([0, *cuts], [*cuts, len(source)], strict=True):
        runs = runs_of(zip(source[first:last], target[first:last], strict=True))
        steps.append((("hub", 0), Step(0, last, b"", runs)))
    found = translated(steps, {("hub", 0): asked}, {("hub", 0): Bounds(7, 7)})
    for offset in asked:
        later = [there for here, there in zip(source, target, strict=True) if here >= offset]
        end = target[-1] + 1 if target else 7
        assert found[("hub", 0), offset] == (later[0] if later else end)
