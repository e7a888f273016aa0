"""Kafka's error codes as our errors: the one place where a cluster's answers get their meaning."""

from __future__ import annotations

from typing import Final

from gridwire.core import errors
from gridwire.core.errors import GridwireError


class Again(errors.Unavailable):
    """What passes by itself: a leader that moves, a coordinator that loads. Ask again."""


PASSING: Final = {
    3: "the broker does not know the partition (yet)",
    5: "the partition has no leader at present",
    6: "the broker does not lead the partition (any more)",
    7: "the request timed out in the cluster",
    8: "the broker is not available",
    9: "the replica is not available",
    13: "the broker lost its connection",
    14: "the group's coordinator is loading",
    15: "the group has no coordinator at present",
    16: "the group's coordinator moved",
    19: "too few replicas are in sync",
    20: "too few replicas were in sync after the append",
    27: "the group is rebalancing",
    41: "the broker is not the controller",
    51: "another transaction is being ended",
    56: "the broker's disk failed",
    74: "the broker has an older view of who leads",
    75: "the broker has a newer view of who leads",
    78: "the offset is not known to the new leader yet",
    89: "the cluster throttles us",
    100: "the broker does not know the topic's id (yet)",
}
"""Codes after which asking again makes sense."""

_LASTING: Final[dict[int, type[GridwireError]]] = {
    2: errors.InvalidBatch,
    10: errors.MessageTooLarge,
    17: errors.InvalidName,
    18: errors.MessageTooLarge,
    22: errors.FencedEpoch,
    25: errors.FencedEpoch,
    29: errors.NotAllowed,
    30: errors.NotAllowed,
    32: errors.InvalidRecord,
    31: errors.NotAllowed,
    35: errors.Unsupported,
    36: errors.HubExists,
    37: errors.InvalidSetting,
    38: errors.InvalidSetting,
    39: errors.InvalidSetting,
    40: errors.InvalidSetting,
    42: errors.InvalidSetting,
    43: errors.Unsupported,
    44: errors.InvalidSetting,
    45: errors.OutOfOrderSequence,
    46: errors.DuplicateSequence,
    47: errors.FencedEpoch,
    53: errors.NotAllowed,
    59: errors.OutOfOrderSequence,
    65: errors.NotAllowed,
    68: errors.FencedEpoch,
    72: errors.Unsupported,
    73: errors.NotAllowed,
    76: errors.Unsupported,
    82: errors.FencedEpoch,
    86: errors.FencedEpoch,
    87: errors.InvalidRecord,
    90: errors.FencedEpoch,
}

_WORDS: Final = {
    29: "the cluster's rules do not let gridwire use this topic",
    30: "the cluster's rules do not let gridwire use this group",
    31: "the cluster's rules do not let gridwire do this",
    18: "the batch is larger than the cluster's segments",
    25: "the group has members: stop them first",
    32: "the event's time is outside of what the cluster takes",
    45: "a sequence number was skipped",
    47: "a newer epoch of this producer wrote",
    59: "the cluster does not know this producer (any more)",
    68: "the group has members: stop them first",
    86: "the group's members read this hub: stop them first",
}


def failure(code: int, what: str, told: str | None = None) -> GridwireError:
    """The error to raise for a code other than 0.

    Args:
        what: what was tried, for the message. told: what the cluster says, where it says something.
    """
    if code in PASSING:
        return Again(f"{what}: {told or PASSING[code]}")
    kind = _LASTING.get(code, GridwireError)
    if kind is errors.NotAllowed:
        return errors.NotAllowed(f"{what}: {told or _WORDS.get(code, 'the cluster does not allow it')}")
    return kind(f"{what}: {told or _WORDS.get(code, f'Kafka error {code}')}")
