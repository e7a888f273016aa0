"""A worker's side of a Kafka cluster: columns from the leaders' own bytes, position and outputs in one transaction.

Two halves that know nothing of each other:

    membership   confluent-kafka (librdkafka): who works on what, committed positions, the transactional producer.
                 It fetches nothing: what it is assigned is paused.
    events       `LeaderFetcher`: raw record batches of the assigned places, decoded by the same kernel as segments.

A commit is one Kafka transaction: outputs, then positions with the membership they were read under, then the decision.
A member that lost its place in the group meanwhile (its generation is over, it was taken for dead) cannot commit: the
group's coordinator refuses the positions, the transaction is aborted, and no reader of committed data ever sees its
outputs. It looks at the membership alone, not at the places: so the membership is taken when places are given out, is
renewed only while it is the same member, and a place that went away is refused here. See docs/decisions/0021.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from gridwire.broker.kafka_address import KafkaAddress
from gridwire.broker.kafka_fetch import EARLIEST, LATEST, Fetched, LeaderFetcher, Topic
from gridwire.broker.port import ColumnBatch, Output, Place, Position
from gridwire.columnar.decode import Decoded, decode
from gridwire.core import batch
from gridwire.core.errors import LocalProtocolError, NotAllowed, Rebalanced, Unavailable, UnknownHub
from gridwire.core.hubs import TEMPLATES
from gridwire.core.settings import HubSettings, topic_configs, with_changes
from gridwire.log.transactions import Aborted

ANSWER_S: Final = 30.0
"""What a call to the cluster may take; a broker that dies is replaced well within."""

HANG_S: Final = 40.0
"""When a call that should have ended after `ANSWER_S` is taken for hung."""

SESSION_S: Final = 10.0
"""A member that is silent for longer is taken for dead, and its places are given to others."""

WORK_S_MAX: Final = 300.0
"""A member that does not poll for longer is taken for stuck, and its places are given to others."""

TRANSACTION_S: Final = 15.0
"""A transaction whose member died in it is aborted after this time; readers of its places wait as long."""

QUEUE_MESSAGES: Final = 2_000_000
QUEUE_KIB: Final = 512 * 1024
"""Outputs of one commit that the producer may hold."""

TOPICS_S: Final = 5.0
"""How soon new partitions and hubs are noticed."""

_free_ids: Final[defaultdict[str, list[str]]] = defaultdict(list)
"""Transactional ids by group that this process let go of: who takes one ends what its predecessor left open."""

_client_log: Final = logging.getLogger("gridwire.librdkafka")
_client_log.addHandler(logging.NullHandler())
_client_log.propagate = False  # every call that suffers from it fails by itself, and says why

_REFUSED: Final = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.FENCED_INSTANCE_ID, KafkaError._STATE,
    }
)  # fmt: skip
"""Why the coordinator does not take positions of a member: it is not the one who works on them any more."""

_FORBIDDEN: Final = (KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED)

log = structlog.get_logger("gridwire.source")


class KafkaSource:
    """`EventSource` on a Kafka cluster; see `gridwire.broker.port`.

    Args:
        hubs: what the group works on, from where it has committed, else from their start.
        follow: hubs that every member reads from their start, outside of the group.
        whole_hubs: all partitions of a hub go to one member, the one that is assigned its partition 0.
        together: all hubs go to one member, the one that is assigned partition 0 of the first of them.
        session_s: see `SESSION_S`. work_s_max: see `WORK_S_MAX`. topics_s: see `TOPICS_S`.

    Raises:
        Unavailable: no broker answers. NotAuthenticated, NotAllowed: the cluster refuses us.
    """

    def __init__(
        self,
        address: KafkaAddress,
        group: str,
        hubs: Sequence[str],
        *,
        follow: Sequence[str] = (),
        whole_hubs: bool = False,
        together: bool = False,
        session_s: float = SESSION_S,
        work_s_max: float = WORK_S_MAX,
        topics_s: float = TOPICS_S,
    ) -> None:
        self.group = group
        self.whole_hubs = whole_hubs or together
        self._together = together
        self.malformed_batches = 0
        self._address = address
        self._hubs, self._followed = list(hubs), list(follow)
        self._granted: set[Place] = set()
        self._assigned: dict[Place, int] = {}
        self._ids: dict[Place, UUID] = {}
        self._positions: dict[Place, int] = {}
        self._committed: dict[Place, Position] = {}
        self._ends: dict[Place, int] = {}
        self._grants = 0
        self._unsettled = True
        self._topics_s = topics_s
        self._looked_s = time.monotonic()
        self._member = ""
        self._membership: Any = None
        self._fetcher = LeaderFetcher(address)
        self._consumer: Any = None
        self._producer: Any = None
        try:
            self._fetcher.look_up([*self._hubs, *self._followed])
            if hubs:
                self._join(session_s, work_s_max)
            self._settle()
        except BaseException:
            self.close()
            raise

    def _join(self, session_s: float, work_s_max: float) -> None:
        common = {**self._address.confluent(), "error_cb": _noted, "logger": _client_log}
        free = _free_ids[self.group]
        self._transactional_id = free.pop() if free else f"{self.group}-{uuid.uuid4().hex}"
        self._consumer = Consumer(
            {
                **common,
                "group.id": self._address.group(self.group),
                "partition.assignment.strategy": "cooperative-sticky",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "allow.auto.create.topics": False,
                "session.timeout.ms": int(session_s * 1000),
                "heartbeat.interval.ms": max(100, int(session_s * 1000 / 5)),
                "max.poll.interval.ms": int(max(work_s_max, session_s) * 1000),
                "topic.metadata.refresh.interval.ms": int(self._topics_s * 1000),
                "queued.min.messages": 1,
            }
        )
        self._producer = Producer(
            {
                **common,
                "transactional.id": self._address.transactional_id(self._transactional_id),
                "transaction.timeout.ms": int(TRANSACTION_S * 1000),
                "linger.ms": 5,
                "queue.buffering.max.messages": QUEUE_MESSAGES,
                "queue.buffering.max.kbytes": QUEUE_KIB,
            }
        )
        with _translated("the transactional producer cannot start"):
            self._producer.init_transactions(ANSWER_S)
        self._consumer.subscribe(
            [self._address.topic(hub) for hub in self._hubs],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_revoke,
        )

    # -- membership ---------------------------------------------------------------------------------------------

    def _on_assign(self, consumer: Any, parts: list[TopicPartition]) -> None:
        consumer.incremental_assign([TopicPartition(part.topic, part.partition, 0) for part in parts])
        consumer.pause(parts)  # membership only: the bytes come from the leaders
        self._granted |= self._places(parts)
        self._unsettled = True

    def _on_revoke(self, consumer: Any, parts: list[TopicPartition]) -> None:
        with contextlib.suppress(KafkaException):
            consumer.incremental_unassign(parts)
        gone = self._places(parts)
        self._granted -= gone
        for place in gone:
            self._ids.pop(place, None)  # should it come back within the same poll, it is another assignment
        self._unsettled = True

    def _places(self, parts: Iterable[TopicPartition]) -> set[Place]:
        return {(self._address.hub(part.topic) or "", part.partition) for part in parts}

    def _serve_group(self, timeout_s: float = 0.0) -> None:
        """Let the client do its work; callbacks run in here and nowhere else."""
        if self._consumer is not None:
            self._consumer.poll(timeout_s)
            self._take_membership()
        if time.monotonic() - self._looked_s >= self._topics_s:
            self._fetcher.look_up(())
            self._looked_s = time.monotonic()
            self._unsettled = True

    def _take_membership(self) -> None:
        """Renew the proof of membership, unless the group took us for dead: then the old one must go on to fail."""
        before = self._consumer.memberid()
        found = self._consumer.consumer_group_metadata()
        if before and before == self._consumer.memberid() and (self._unsettled or before == self._member):
            self._membership = found
            self._member = before

    def _wanted(self) -> dict[Place, UUID]:
        """Places this member works on, with the identity of their hub."""
        topics = self._fetcher.topics
        if self.whole_hubs:
            owned = {hub for hub, number in self._granted if number == 0 and hub in topics}
            if self._together:
                owned = topics.keys() & set(self._hubs) if self._hubs[:1] and self._hubs[0] in owned else set()
            return {(hub, number): topics[hub].id for hub in owned for number in topics[hub].leaders}
        # A topic made anew may have fewer partitions than the group still knows of.
        return {(h, n): topics[h].id for h, n in sorted(self._granted) if h in topics and n in topics[h].leaders}

    def _settle(self) -> bool:
        """Take over what was assigned and let go of what was not; whether anything changed."""
        self._unsettled = False
        if any(hub not in self._fetcher.topics for hub, _ in self._granted):
            self._fetcher.look_up(())
        wanted = self._wanted()
        fresh = [place for place, id in wanted.items() if self._ids.get(place) != id or place not in self._assigned]
        changed = bool(fresh) or wanted.keys() != self._assigned.keys()
        self._ids = wanted
        self._assigned = {place: self._assigned[place] for place in wanted if place in self._assigned}
        for place in self._positions.keys() - wanted.keys():
            if place[0] not in self._followed:
                del self._positions[place]
        self._begin(fresh)
        for place in fresh:
            self._grants += 1
            self._assigned[place] = self._grants
        self._follow()
        return changed

    def _begin(self, fresh: Sequence[Place]) -> None:
        """Find out where to read on in places that are new here."""
        if not fresh:
            return
        committed = self._read_committed(fresh)
        first = self._fetcher.offsets(fresh, EARLIEST)
        for place in fresh:
            known = committed.get(place)
            self._committed.pop(place, None)
            if known is not None:
                self._committed[place] = known
            self._positions[place] = first[place] if known is None else known.offset
        self._ends |= self._fetcher.offsets(fresh, LATEST)

    def _read_committed(self, places: Sequence[Place]) -> dict[Place, Position]:
        """Committed positions; waits for transactions that have not been decided."""
        asked = [TopicPartition(self._address.topic(hub), number) for hub, number in places]
        with _translated("committed positions cannot be read"):
            told = _patiently(lambda: self._consumer.committed(asked, timeout=ANSWER_S))
        found = {}
        for part in told:
            if part.error is not None:
                raise Unavailable(f"committed position of {part.topic}/{part.partition}: {part.error}")
            if part.offset >= 0:
                place = (self._address.hub(part.topic) or "", part.partition)
                found[place] = Position(part.offset, part.metadata or "")
        return found

    def _follow(self) -> None:
        topics = self._fetcher.topics
        followed = {
            (hub, number): topics[hub].id for hub in self._followed if hub in topics for number in topics[hub].leaders
        }
        fresh = [place for place in followed if place not in self._positions]
        if fresh:
            self._positions |= self._fetcher.offsets(fresh, EARLIEST)
            self._ends |= self._fetcher.offsets(fresh, LATEST)
        for place in [place for place in self._positions if place[0] in self._followed and place not in followed]:
            del self._positions[place]

    # -- the port -----------------------------------------------------------------------------------------------

    def partitions(self, hub: str) -> int:
        """Number of partitions. Raises UnknownHub."""
        if hub not in self._fetcher.topics:
            self._fetcher.look_up([hub])
        return len(self._topic(hub).leaders)

    def hub_id(self, hub: str) -> UUID:
        """The id of a subscribed hub; another one after it was deleted and created again. Raises UnknownHub."""
        for place, id in self._ids.items():
            if place[0] == hub:
                return id
        return self._topic(hub).id

    def _topic(self, hub: str) -> Topic:
        if hub not in self._fetcher.topics:
            raise UnknownHub(f"no hub {hub!r}")
        return self._fetcher.topics[hub]

    def create_hub(self, hub: str, partitions: int | None = None) -> None:
        """Create a topic unless it exists, with the configs a gateway gives it."""
        asked = TEMPLATES.get(hub, {})
        config = topic_configs(with_changes(HubSettings(), asked), {*asked, "message_bytes_max"})
        if self._address.min_insync > 0:
            config["min.insync.replicas"] = str(self._address.min_insync)
        topic = NewTopic(self._address.topic(hub), partitions or -1, self._address.replication, config=config)
        admin: Any = AdminClient(self._address.confluent())
        (answer,) = admin.create_topics([topic]).values()
        try:
            answer.result(ANSWER_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise Unavailable(f"hub {hub!r} cannot be created: {error.args[0].str()}") from None
        self._fetcher.look_up([hub])

    def assigned(self) -> dict[Place, int]:
        """Places of this member and the number of their assignment."""
        return dict(self._assigned)

    def committed(self) -> dict[Place, Position]:
        """Committed positions of this member's places, where there are any."""
        return {place: self._committed[place] for place in self._assigned if place in self._committed}

    def positions(self) -> dict[Place, int]:
        """Where the next poll reads."""
        return dict(self._positions)

    def seek(self, place: Place, offset: int) -> None:
        """Read from elsewhere; does not change the committed position."""
        if place in self._positions:
            self._positions[place] = offset

    def offsets_at(self, timestamp_ms: int | None) -> dict[Place, int]:
        """First offset of that time or later, by place; the leaders look into their time indexes."""
        places = list(self._assigned)
        found = self._fetcher.offsets(places, EARLIEST if timestamp_ms is None else max(0, timestamp_ms))
        none = [place for place, offset in found.items() if offset < 0]
        return found | (self._fetcher.offsets(none, LATEST) if none else {})

    def poll(self, timeout_s: float, bytes_max: int = 32 * 1024 * 1024) -> list[ColumnBatch]:
        """Columns that arrived; empty when the time is up or the assignment changed.

        Raises:
            Corruption: damaged bytes, named. Unavailable: the cluster went away. NotAllowed: it refuses us.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self._serve_group()
            if self._unsettled and self._settle():
                return []
            left = deadline - time.monotonic()
            if not self._positions:
                self._wait_for_places(left)
            else:
                self._fetcher.ask(self._positions)
                batches = [each for answer in self._fetcher.answers(left) for each in self._columns(answer)]
                if batches:
                    self._fetcher.ask(self._positions)  # leaders work while the worker does
                    return batches
            if time.monotonic() >= deadline and not self._unsettled:
                return []

    def _wait_for_places(self, left_s: float) -> None:
        if self._consumer is not None:
            self._serve_group(max(0.0, left_s))
        else:
            time.sleep(max(0.0, min(left_s, 0.2)))

    def _columns(self, answer: Fetched) -> list[ColumnBatch]:
        place = answer.place
        position = self._positions.get(place)
        if position is None or answer.asked != position:
            return []  # asked before a seek or before the place went away
        if answer.out_of_range:
            self._jump(place)
            return []
        self._ends[place] = answer.stable
        found: list[ColumnBatch] = []
        for start, end, following in _stretches(answer.records, answer.aborted):
            read = self._decoded(place, answer.records, start, end, found)
            if read.next_position < end:
                break
            self._positions[place] = max(self._positions[place], following)
        return found

    def _decoded(self, place: Place, records: memoryview, start: int, end: int, found: list[ColumnBatch]) -> Decoded:
        hub, number = place
        first = self._positions[place]
        read = decode(
            records, start, end, from_offset=first, hub=hub, partition=number, segment="fetched",
            check_crc=True, skip_malformed=True,
        )  # fmt: skip
        self._positions[place] = read.next_offset
        for damage in read.damaged:
            # Its checksum is right: a producer wrote it so. Stopping here would let any producer stop every worker.
            self.malformed_batches += 1
            log.error("malformed batch skipped, its bytes stay in the hub", reason=str(damage))
        for columns in read.columns:
            last = columns is read.columns[-1]
            following = read.next_offset if last else int(columns.offsets[-1]) + 1
            found.append(ColumnBatch(hub, number, columns, following, first))
            first = following
        return read

    def _jump(self, place: Place) -> None:
        """Retention was faster than we: go on at the first event kept, and say how many are gone."""
        position = self._positions[place]
        start, end = (self._fetcher.offsets([place], when)[place] for when in (EARLIEST, LATEST))
        target = start if position < start else end
        log.warning(
            "the position is not in the log any more", hub=place[0], partition=place[1], position=position, now=target
        )
        self._positions[place] = target

    def commit(self, positions: Mapping[Place, int], outputs: Sequence[Output] = (), note: str = "") -> None:
        """Positions and outputs become durable together or not at all.

        Raises:
            Rebalanced: this member does not work on the places any more, nothing happened. Unavailable: no answer;
            the committed positions of the next source tell what happened.
        """
        if self._producer is None:
            raise LocalProtocolError("a source without a group has nothing to commit")
        lost = [place for place in positions if place not in self._assigned]
        if lost or (positions and self._membership is None):
            raise Rebalanced(f"{sorted(lost)[:3]} of group {self.group!r} went to another member")
        offsets = [
            TopicPartition(self._address.topic(hub), number, offset, note)
            for (hub, number), offset in positions.items()
        ]
        try:
            self._producer.begin_transaction()
            for output in outputs:
                self._produce(output)
            if offsets:
                self._send_positions(offsets)
            _patiently(lambda: self._producer.commit_transaction(ANSWER_S))
        except KafkaException as error:
            self._undo(error.args[0])
        self._committed |= {place: Position(offset, note) for place, offset in positions.items()}

    def _send_positions(self, offsets: list[TopicPartition]) -> None:
        """Put positions into the transaction. Raises Unavailable.

        The client may stay in this call for ever when the group's coordinator went away (librdkafka issue 5456: its
        timeout is not looked at), so it is made beside us. A producer that hangs is left to its thread; the next source
        of this process takes its transactional id over, which ends what it had open.
        """
        producer, membership = self._producer, self._membership
        call = _Call(lambda: _patiently(lambda: producer.send_offsets_to_transaction(offsets, membership, ANSWER_S)))
        call.start()
        call.join(HANG_S)
        if call.is_alive():
            raise Unavailable(f"the coordinator of group {self.group!r} does not answer")
        if call.problem is not None:
            raise call.problem

    def _produce(self, output: Output) -> None:
        topic = self._address.topic(output.hub)
        for event in output.events:
            arguments: dict[str, Any] = {"partition": output.partition, "headers": list(event.headers)}
            if event.timestamp:
                arguments["timestamp"] = event.timestamp
            while True:
                try:
                    self._producer.produce(topic, event.value, event.key, **arguments)
                    break
                except BufferError:
                    self._producer.poll(0.1)

    def _undo(self, error: KafkaError) -> None:
        """Abort what failed, and say what it means for the worker."""
        if error.txn_requires_abort():
            with _translated("the transaction cannot be aborted"):
                _patiently(lambda: self._producer.abort_transaction(ANSWER_S))
            if error.code() in _REFUSED:
                raise Rebalanced(f"group {self.group!r} does not take our positions any more: {error.str()}")
        raise Unavailable(f"commit of group {self.group!r}: {error.str()}")

    def lag(self) -> dict[Place, int]:
        """Events between the reading position and the end, as last told by the cluster."""
        return {place: max(0, self._ends.get(place, 0) - offset) for place, offset in self._positions.items()}

    def close(self) -> None:
        """Leave the group and hang up."""
        self._fetcher.close()
        if self._consumer is not None:
            with contextlib.suppress(KafkaException, RuntimeError):
                self._consumer.close()
        if self._producer is not None:
            _free_ids[self.group].append(self._transactional_id)
        self._consumer = self._producer = None
        self._granted.clear()


def _stretches(records: memoryview, aborted: Sequence[Aborted]) -> Iterator[tuple[int, int, int]]:
    """(start, end, offset to go on from) of what lies between batches of aborted transactions; usually everything."""
    if not aborted:
        yield 0, len(records), 0
        return
    waiting = sorted(aborted, key=lambda each: each.first, reverse=True)
    ending: set[int] = set()
    start = 0
    for position, header in batch.iter_headers(records):
        while waiting and waiting[-1].first <= header.base_offset:
            ending.add(waiting.pop().producer_id)
        if header.producer_id not in ending or not header.attributes & batch.TRANSACTIONAL:
            continue
        if header.attributes & batch.CONTROL:
            ending.discard(header.producer_id)
            continue
        yield start, position, header.next_offset
        start = position + header.size
    yield start, len(records), 0


class _Call(threading.Thread):
    """A call of the client that may not return."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.problem: BaseException | None = None

    def run(self) -> None:
        try:
            self._call()
        except BaseException as error:
            self.problem = error


def _patiently(call: Callable[[], Any]) -> Any:
    """Call again as long as the client says that this may help, a minute at most."""
    deadline = time.monotonic() + 2 * ANSWER_S
    while True:
        try:
            return call()
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except KafkaException as error:
        problem = error.args[0]
        raise (NotAllowed if problem.code() in _FORBIDDEN else Unavailable)(f"{what}: {problem.str()}") from None


def _noted(error: KafkaError) -> None:
    """What the client says between calls; every call that suffers from it fails by itself."""
    log.debug("kafka client", reason=error.str())
