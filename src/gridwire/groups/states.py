"""The classic consumer group: members agree, round by round, on who reads what. A state machine without I/O.

Theory of operation. A group lives in generations. Each begins by collecting a join from everybody (Preparing);
when all are in, or the rebalance timeout is over, the generation number goes up, one protocol that all support is
voted for, and every join is answered. The leader's answer carries everybody's metadata. Now every member syncs
(Completing); all wait until the leader's sync brings the assignments, which are opaque bytes to us (Stable). Any
change of the membership starts over; members learn of it from the answer to their heartbeat.

    Empty --member came--> Preparing --collected--> Completing --assigned--> Stable
      ^                     |     ^                     |                      |
      +------nobody left----+     +-------changed-------+-------changed--------+

An empty group may be deleted; that state, Dead, is final.

Who waits for an answer of ours needs no heartbeat; everybody else is removed when its session times out. A new
member may first be given just an id (pending), so that a client that dies and retries does not leave a ghost. A
static member is known by its instance: a new process with that instance gets a new member id, keeps the
assignment, and fences the old process.

Source: Apache Kafka protocol guide, group membership; KIP-62, KIP-345 (static), KIP-394 (member id required).
"""

from __future__ import annotations

import enum
from typing import Final

from gridwire.groups.model import GroupError, GroupState


class Cause(enum.Enum):
    """Why a group changes its state."""

    MEMBER_CAME = enum.auto()
    CHANGED = enum.auto()
    COLLECTED = enum.auto()
    NOBODY_LEFT = enum.auto()
    ASSIGNED = enum.auto()
    DELETED = enum.auto()


_E, _P, _C, _S, _D = GroupState

MOVES: Final = {
    (_E, Cause.MEMBER_CAME): _P,
    (_E, Cause.DELETED): _D,
    (_P, Cause.COLLECTED): _C,
    (_P, Cause.NOBODY_LEFT): _E,
    (_C, Cause.ASSIGNED): _S,
    (_C, Cause.CHANGED): _P,
    (_S, Cause.CHANGED): _P,
}
"""Every legal change of state; anything else is a bug of ours."""

_GO, _AGAIN = GroupError.NONE, GroupError.REBALANCE_IN_PROGRESS

HEARTBEAT_ANSWERS: Final = {_P: _AGAIN, _C: _GO, _S: _GO}
"""What a member in good standing hears. In Completing it has just joined: nothing to do but wait."""

COMMIT_ANSWERS: Final = {_P: _GO, _C: _AGAIN, _S: _GO}
"""Preparing: commit what was read under the old generation, while it still holds. Completing: too late, it does not."""
