"""The new consumer group, answer by answer: identity, epochs, wishes, static members, assignors, patterns."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Any

import pytest

from gridwire.groups import consumer
from gridwire.groups.assignors import Subscriber, ranges, uniform
from gridwire.groups.consumer_model import (
    NOTHING,
    Beat,
    BeatResult,
    ConsumerGroup,
    ConsumerGroupState,
    ConsumerLimits,
    Expire,
    Remove,
    Topology,
)
from gridwire.groups.model import GroupError
from gridwire.groups.pattern import InvalidPattern, Pattern

LIMITS = ConsumerLimits(members_max=3)
ALL_A = frozenset([("a", 0), ("a", 1), ("a", 2), ("a", 3)])


class Life:
    """A group and what was said to it."""

    def __init__(self) -> None:
        self.group = ConsumerGroup("g")
        self.topology = Topology({"a": 4, "b": 2, "__control": 1})
        self.now_s = 0.0

    def step(self, command: Any) -> Any:
        self.group, result = consumer.step(self.group, command, self.topology, self.now_s, LIMITS)
        return result

    def join(self, member_id: str, **more: Any) -> BeatResult:
        wish = {"names": frozenset("a"), "rebalance_timeout_ms": 20_000, "owned": NOTHING} | more
        return self.step(Beat(member_id=member_id, epoch=0, **wish))

    def beat(self, member_id: str, epoch: int, **more: Any) -> BeatResult:
        return self.step(Beat(member_id=member_id, epoch=epoch, **more))

    def two(self) -> None:
        """Members m1 and m2 with two places each, at epoch 2."""
        self.join("m1")
        self.join("m2")
        self.beat("m1", 1)
        self.beat("m1", 1, owned=self.group.members["m1"].assigned)
        self.beat("m2", 2)
        assert {len(member.assigned) for member in self.group.members.values()} == {2}
        assert self.group.state is ConsumerGroupState.STABLE


def test_alone_gets_everything_at_once() -> None:
    life = Life()
    result = life.join("m1")
    assert (result.error, result.epoch, result.assigned) == (GroupError.NONE, 1, ALL_A)
    again = life.beat("m1", 1)
    assert (again.epoch, again.assigned, again.interval_ms) == (1, None, LIMITS.heartbeat_interval_ms)


def test_second_waits_until_the_first_lets_go() -> None:
    life = Life()
    life.join("m1")
    second = life.join("m2")
    assert (second.epoch, second.assigned, second.interval_ms) == (2, NOTHING, LIMITS.reconciling_interval_ms)
    first = life.beat("m1", 1)
    assert first.epoch == 1
    assert first.assigned is not None
    assert len(first.assigned) == 2
    assert life.beat("m2", 2).assigned is None
    assert life.beat("m1", 1, owned=ALL_A).epoch == 1  # it has not let go yet
    assert life.beat("m2", 2).assigned is None
    assert life.beat("m1", 1, owned=first.assigned).epoch == 2
    assert life.beat("m2", 2).assigned == ALL_A - first.assigned
    assert life.group.state is ConsumerGroupState.STABLE


@pytest.mark.parametrize(
    ("beat", "error"),
    [
        ({"epoch": -3}, GroupError.INVALID_REQUEST),
        ({"member_id": ""}, GroupError.INVALID_REQUEST),
        ({"epoch": -2}, GroupError.INVALID_REQUEST),
        ({"instance": ""}, GroupError.INVALID_REQUEST),
        ({"owned": None}, GroupError.INVALID_REQUEST),
        ({"owned": ALL_A}, GroupError.INVALID_REQUEST),
        ({"rebalance_timeout_ms": -1}, GroupError.INVALID_REQUEST),
        ({"names": None}, GroupError.INVALID_REQUEST),
        ({"names": None, "regex": "("}, GroupError.INVALID_REGULAR_EXPRESSION),
        ({"assignor": "sticky"}, GroupError.UNSUPPORTED_ASSIGNOR),
        ({"epoch": 1}, GroupError.UNKNOWN_MEMBER_ID),
        ({"epoch": -1}, GroupError.UNKNOWN_MEMBER_ID),
    ],
)
def test_wrong_joins_change_nothing(beat: dict[str, Any], error: GroupError) -> None:
    life = Life()
    good = Beat(member_id="m", epoch=0, names=frozenset("a"), rebalance_timeout_ms=1, owned=NOTHING)
    assert life.step(replace(good, **beat)).error is error
    assert life.group.epoch == 0
    assert not life.group.members


def test_epochs_are_fenced_but_for_a_lost_answer() -> None:
    life = Life()
    life.two()
    assert life.beat("m1", 3).error is GroupError.FENCED_MEMBER_EPOCH
    assert life.beat("m1", 1).error is GroupError.FENCED_MEMBER_EPOCH  # it does not say what it owns
    assert life.beat("m1", 1, owned=ALL_A).error is GroupError.FENCED_MEMBER_EPOCH
    kept = life.group.members["m1"].assigned
    again = life.beat("m1", 1, owned=kept)
    assert (again.error, again.epoch, again.assigned) == (GroupError.NONE, 2, kept)


def test_positions_need_the_epoch() -> None:
    life = Life()
    assert consumer.check_position(life.group, "", -1) is GroupError.NONE
    life.two()
    answers = {
        ("m1", 2): GroupError.NONE,
        ("m1", 1): GroupError.STALE_MEMBER_EPOCH,
        ("m1", -1): GroupError.STALE_MEMBER_EPOCH,
        ("x", 2): GroupError.UNKNOWN_MEMBER_ID,
        ("", -1): GroupError.UNKNOWN_MEMBER_ID,
    }
    assert {asked: consumer.check_position(life.group, *asked) for asked in answers} == answers


def test_who_does_not_let_go_is_removed_after_its_rebalance_timeout() -> None:
    life = Life()
    life.join("m1")
    life.join("m2")
    life.beat("m1", 1)
    life.now_s = 19.9
    life.step(Expire())
    assert set(life.group.members) == {"m1", "m2"}
    assert consumer.deadline_s(life.group, LIMITS) == 20.0
    life.now_s = 20.0
    life.step(Expire())
    assert set(life.group.members) == {"m2"}
    assert life.beat("m1", 1, owned=ALL_A).error is GroupError.UNKNOWN_MEMBER_ID
    assert life.beat("m2", 2).assigned == ALL_A


def test_silence_ends_a_session() -> None:
    life = Life()
    life.two()
    life.now_s = 44.0
    life.beat("m1", 2)
    life.now_s = 45.0
    life.step(Expire())
    assert set(life.group.members) == {"m1"}
    assert life.beat("m1", 2).assigned == ALL_A


def test_static_member_comes_back_and_nobody_notices() -> None:
    life = Life()
    first = life.join("m1", instance="one")
    assert life.join("m2", instance="one").error is GroupError.UNRELEASED_INSTANCE_ID
    assert life.beat("m1", -2, instance="one").epoch == -2
    back = life.join("m2", instance="one")
    assert (back.epoch, back.assigned) == (first.epoch, ALL_A)
    assert life.beat("m1", 1, instance="one").error is GroupError.FENCED_INSTANCE_ID
    assert life.beat("m2", 1, instance="two").error is GroupError.UNKNOWN_MEMBER_ID


def test_static_member_that_stays_away_is_removed() -> None:
    life = Life()
    life.join("m1", instance="one")
    life.beat("m1", -2, instance="one")
    assert life.join("m3").assigned == NOTHING
    life.now_s = 44.0
    life.beat("m3", 2)
    life.now_s = 45.0
    life.step(Expire())
    assert life.beat("m3", 2).assigned == ALL_A


def test_wishes_hubs_and_patterns_move_the_target() -> None:
    life = Life()
    life.join("m1", names=None, regex="[ab]|_.*")
    assert {hub for hub, _ in life.group.members["m1"].assigned} == {"a", "b"}
    life.topology = Topology({**life.topology.partitions, "a": 5})
    assert ("a", 4) in (life.beat("m1", 1).assigned or ())
    assert life.beat("m1", 2, regex="", names=frozenset("b")).assigned == frozenset([("b", 0), ("b", 1)])
    life.topology = Topology({"a": 5})
    assert life.beat("m1", 2).assigned == NOTHING


def test_a_hub_of_an_old_name_is_another_hub() -> None:
    life = Life()
    life.topology = Topology({"a": 4}, {"a": 1})
    life.join("m1")
    life.topology = Topology({"a": 4}, {"a": 1})
    assert life.beat("m1", 1).assigned is None
    life.topology = Topology({"a": 4}, {"a": 2})
    told = life.beat("m1", 1)
    assert (told.epoch, told.assigned) == (2, ALL_A)
    assert life.beat("m1", 2).assigned is None


def test_leaving_removing_and_the_limit() -> None:
    life = Life()
    for name in ("m1", "m2", "m3"):
        life.join(name)
    assert life.join("m4").error is GroupError.GROUP_MAX_SIZE_REACHED
    assert life.beat("m3", -1).epoch == -1
    assert life.step(Remove((("m2", None), ("x", None)))) == (GroupError.NONE, GroupError.UNKNOWN_MEMBER_ID)
    assert set(life.group.members) == {"m1"}
    life.beat("m1", -1)
    assert life.group.state is ConsumerGroupState.EMPTY


def test_assignor_is_elected() -> None:
    life = Life()
    life.join("m1", assignor="range")
    assert life.group.assignor == "range"
    life.join("m2")
    assert life.group.assignor == "range"
    life.beat("m1", -1)
    assert life.group.assignor == "uniform"


# -- assignors


def subscriber(name: str, hubs: str, before: frozenset = NOTHING) -> Subscriber:
    return Subscriber(name, name, frozenset(hubs), before)


def test_ranges_cut_each_hub() -> None:
    found = ranges([subscriber("x", "ab"), subscriber("y", "ab"), subscriber("z", "a")], {"a": 5, "b": 3})
    assert found["x"] == {("a", 0), ("a", 1), ("b", 0), ("b", 1)}
    assert found["y"] == {("a", 2), ("a", 3), ("b", 2)}
    assert found["z"] == {("a", 4)}


@pytest.mark.parametrize("seed", range(50))
def test_uniform_covers_levels_and_keeps(seed: int) -> None:
    rng = random.Random(seed)
    partitions = {hub: rng.randrange(1, 12) for hub in "abc"}
    wishes = ["abc"] if seed % 2 else ["a", "ab", "abc", "bc"]
    members = [subscriber(f"m{n}", rng.choice(wishes)) for n in range(rng.randrange(1, 7))]
    found = uniform(members, partitions)
    wanted = {hub for member in members for hub in member.hubs}
    given = [place for share in found.values() for place in share]
    assert sorted(given) == [(hub, n) for hub in sorted(wanted) for n in range(partitions[hub])]
    hubs = {member.member_id: member.hubs for member in members}
    assert all(place[0] in hubs[name] for name, share in found.items() for place in share)
    for share in found.values():
        others = [len(found[each]) for each in hubs if any(place[0] in hubs[each] for place in share)]
        assert len(share) <= min(others, default=0) + 1 or not share
    settled = [replace(member, before=found[member.member_id]) for member in members]
    assert uniform(settled, partitions) == found
    joined = uniform([*settled, subscriber("new", "abc")], partitions)
    if all(each == frozenset("abc") for each in hubs.values()):
        assert all(joined[name] <= found[name] for name in found)


# -- patterns


def test_patterns_agree_with_another_engine() -> None:
    rng = random.Random(7)
    parts = [*"ab.*+?|()^$", "[ab]", "[^a]", "a{2}", "{1,2}", r"\d", "{2,}", "(?:", "[a-b]"]
    compared = 0
    for _ in range(20_000):
        expression = "".join(rng.choice(parts) for _ in range(rng.randrange(1, 7)))
        try:
            pattern = Pattern(expression)
        except InvalidPattern:
            continue
        other = re.compile(expression)
        for _ in range(5):
            name = "".join(rng.choice("ab1") for _ in range(rng.randrange(6)))
            assert pattern.matches(name) == bool(other.fullmatch(name)), (expression, name)
            compared += 1
    assert compared > 10_000


@pytest.mark.parametrize(
    "expression",
    ["(", ")", "a**", "[a", "a{2", "a{3,2}", "a{1001}", r"\p{L}", r"\bx", "(?i)a", "(?=a)", "[[:alpha:]]", "x" * 1001,
     "(((a{100}){100}){100})", "*a", "\\"],
)  # fmt: skip
def test_what_is_not_understood_is_refused(expression: str) -> None:
    with pytest.raises(InvalidPattern):
        Pattern(expression)


def test_no_pattern_goes_back() -> None:
    assert not Pattern("(a|a)*(a|a)*(a|a)*(a|a)*b").matches("a" * 240)
    assert Pattern("^grid\\.(feeders|transformers)$").matches("grid.feeders")
    assert Pattern("(^grid.*)|(^demo$)").matches("demo")
    assert not Pattern("a^b|(^a$)b").matches("ab")
    assert not Pattern("grid.feeders").matches("grid.feeders2")
