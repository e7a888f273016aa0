"""What every handler is given: the head's services, and one decoded request."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from gridwire.auth.model import Action
from gridwire.broker.identities import Identities
from gridwire.broker.membership import Membership
from gridwire.broker.port import Broker, HubInfo
from gridwire.core.clock import Clock
from gridwire.core.errors import UnknownHub
from gridwire.core.limits import MIB
from gridwire.groups.consumer_model import Topology
from gridwire.groups.model import GroupError
from gridwire.heads.backlog import Backlog
from gridwire.heads.kafka.sasl import Gate
from gridwire.wire.kafka.codec import RequestHeader
from gridwire.wire.kafka.compiler import Struct
from gridwire.wire.kafka.errors import ErrorCode
from gridwire.wire.kafka.primitives import Buffer

NODE_ID: Final = 1
"""This hub is the only node of its cluster, and its controller."""

LEADER_EPOCH: Final = 0
"""Leadership never moves."""

RECEIVE_BYTES_LEAST: Final = 16 * 1024
"""First buffer of a connection that has sent part of a request; one that has not needs none."""

RECEIVE_BYTES: Final = 64 * 1024
"""Receive buffer that all connections of the head share, and the largest of their own; a larger frame gets its own."""

FRAME_STEP_BYTES: Final = 4 * MIB
"""A larger frame's buffer grows as its bytes arrive, so that a size alone allocates no more than this."""

FRAME_STEP_BYTES_LEAST: Final = 128 * 1024
"""As above once the head holds a quarter of what it may: a thousand half-sent frames must not use it up."""

CONNECTION_BYTES_MAX: Final = 32 * MIB
"""Requests in flight on one connection; above it the next one is not read."""

CONNECTION_REQUESTS_MAX: Final = 1000
"""As above, counted: every pending request costs some hundred bytes whatever it carries."""

HEAD_BYTES_MAX: Final = 256 * MIB
"""Requests in flight and large frames being received, over all connections."""

HEAD_ANSWER_BYTES_MAX: Final = 256 * MIB
"""Answers that clients have not read yet, over all connections; above it those who read least are cut."""

FETCH_BYTES_LEAST: Final = 64 * 1024
"""What a fetch may still answer while there is no room left for more."""

WRITE_BUFFER_BYTES: Final = 1 * MIB
"""Answers not handed to the socket yet above which a connection's next request waits."""

WRITE_PAUSE_BYTES: Final = 64 * 1024
"""Bytes the system does not take at once above which a client counts as one that does not read."""

WRITE_STALL_S: Final = 60.0
"""A client that reads nothing of its answer for this long is cut."""

FRAME_STALL_S: Final = 30.0
"""A frame of which nothing arrives for this long is given up, with its buffer."""

ROOM_STALL_S: Final = 2.0
"""The same for large frames while others wait for room."""

ROOM_HELD_S: Final = 10.0
"""How long a large frame may take to arrive while others wait for room, even if it drips."""

IDLE_S: Final = 600.0
"""A connection without any traffic is closed; Kafka's `connections.max.idle.ms`."""

DRAIN_S: Final = 5.0
"""How long a stop waits for what is pending."""

Answer = Struct | list[Buffer]
"""A response body to encode, or the finished buffers of a whole frame."""

Handled = Answer | Coroutine[Any, Any, Answer]
"""What a handler returns: the answer, or the work that will make it."""


@dataclass(slots=True)
class Counters:
    """What this head has done since it started."""

    connections: int = 0
    connections_total: int = 0
    connections_refused: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    events_in: int = 0
    events_out: int = 0
    errors: int = 0
    requests: dict[str, int] = field(default_factory=dict)
    """By API name."""


@dataclass(slots=True)
class Context:
    """The head's services and settings."""

    broker: Broker
    membership: Membership
    clock: Clock
    cluster_id: str
    host: str
    """Address told to clients; empty: the one each client reached us at."""
    port: int
    auto_create: bool
    default_partitions: int
    counters: Counters = field(default_factory=Counters)
    waits: set[asyncio.Task[None]] = field(default_factory=set)
    """Long polls; cancelled when the head stops, so that their fetches answer at once."""
    topology: tuple[tuple[HubInfo, ...], Topology] | None = None
    """The hubs as consumer groups see them, and what they were made of."""
    metadata_frames: dict[Hashable, tuple[tuple[HubInfo, ...], bytes]] = field(default_factory=dict)
    """Encoded Metadata answers and the hubs they show."""

    names_by_id: dict[UUID, str] = field(default_factory=dict)
    """Names hubs had when their id was last asked for; see `hubs_by_id`."""

    access: Identities | None = None
    """Who is known; None when nobody has to sign in."""
    backlog: Backlog = field(default_factory=lambda: Backlog(HEAD_ANSWER_BYTES_MAX))
    """What clients have not read yet."""
    unsent_bytes: int = 0
    """Answers that no socket has been given yet, over all connections."""

    def answer_room(self) -> int:
        """Bytes that a fetch may answer now."""
        return max(FETCH_BYTES_LEAST, self.backlog.bytes_max - self.backlog.bytes - self.unsent_bytes)

    def hub(self, name: str) -> HubInfo | None:
        """The hub of that name, if there is one."""
        try:
            return self.broker.hub(name)
        except UnknownHub:
            return None

    def hubs_by_id(self, ids: Iterable[UUID]) -> dict[UUID, HubInfo]:
        """The hubs of some ids; an id nobody has is left out, and costs a walk over all hubs, once a request."""
        found, walked = {}, False
        for topic_id in ids:
            hub = self._remembered(topic_id)
            if hub is None and not walked:
                self.names_by_id = {hub.id: hub.name for hub in self.broker.hubs()}
                hub, walked = self._remembered(topic_id), True
            if hub is not None:
                found[topic_id] = hub
        return found

    def _remembered(self, topic_id: UUID) -> HubInfo | None:
        hub = self.hub(self.names_by_id.get(topic_id, ""))
        return hub if hub is not None and hub.id == topic_id else None

    def named(self, topics: Sequence[Struct]) -> list[Struct]:
        """Topics with the names of their ids, where a request has those only; of an id nobody has, an empty one."""
        ids = [topic["TopicId"] for topic in topics if "Name" not in topic]
        names = {topic_id: hub.name for topic_id, hub in self.hubs_by_id(ids).items()}
        return [topic if "Name" in topic else {**topic, "Name": names.get(topic["TopicId"], "")} for topic in topics]


@dataclass(frozen=True, slots=True)
class Request:
    """One decoded request, who sent it, and where it reached us."""

    header: RequestHeader
    body: Struct
    peer_host: str
    local_host: str
    reading: dict[Any, int]
    """Per connection: offset last answered with records by topic and partition; counts the events that went out."""
    gate: Gate | None = None
    """Who sent it; None when nobody has to sign in."""

    def may(self, action: Action, resource: str | None = None) -> bool:
        """Whether whoever sent it may do something."""
        return self.gate is None or self.gate.may(action, resource)

    @property
    def who(self) -> str:
        """Whoever sent it, for the audit hub."""
        return "?" if self.gate is None or self.gate.identity is None else self.gate.identity.name


def code_of_group(error: GroupError) -> int:
    """Kafka's code for a group error: the names are Kafka's own."""
    return ErrorCode[error.name].value
