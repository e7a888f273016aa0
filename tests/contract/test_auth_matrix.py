"""Every verb of every protocol, asked by everybody: it is done exactly when the one table says so."""

from __future__ import annotations

import asyncio
import base64
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from api_document import by_name
from gridwire.auth import sas
from gridwire.auth.acl import Binding, Operation, Pattern, Permission, ResourceType
from gridwire.auth.model import TABLE, Action, Identity, Over, Policy, allowed, parse_rights
from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.identities import Identities
from gridwire.broker.membership import Membership
from gridwire.core.batch import Event, encode
from gridwire.core.clock import SystemClock
from gridwire.heads.http.server import HttpHead
from gridwire.heads.kafka import KafkaHead
from gridwire.heads.kafka.rights import GUARDS
from gridwire.wire.kafka import codec

HUB, OTHER, GROUP = "readings", "others", "readers"
HOLDERS: dict[str, tuple[list[str], str | None, str | None]] = {
    "send": (["Send"], HUB, None),
    "listen": (["Listen"], HUB, None),
    "manage": (["Manage"], HUB, None),
    "everything": (["Manage"], None, None),
    "all-send": (["Send"], None, None),
    "all-listen": (["Listen"], None, None),
    "wrong-entity": (["Manage"], OTHER, None),
    "group": (["Listen"], HUB, GROUP),
    "wrong-group": (["Listen"], HUB, "strangers"),
    "acl-reader": (["Listen"], OTHER, "strangers"),
    "acl-writer": (["Listen"], OTHER, "strangers"),
    "acl-admin": (["Listen"], OTHER, "strangers"),
    "acl-refused": (["Manage"], HUB, None),
    "acl-elsewhere": (["Listen"], OTHER, "strangers"),
}
ELSEWHERE = "192.0.2.1"
"""An address nobody here has."""
DENY, PREFIXED = Permission.DENY, Pattern.PREFIXED


def _binding(
    who: str, kind: ResourceType, name: str, operation: Operation, pattern: Pattern = Pattern.LITERAL,
    permission: Permission = Permission.ALLOW, host: str = "*",
) -> Binding:  # fmt: skip
    return Binding(kind, name, pattern, "User:" + who, host, operation, permission)


TOPICS, GROUPS, TRANSACTIONS = ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID
CLUSTER = (ResourceType.CLUSTER, "kafka-cluster")
ACLS = (
    _binding("acl-reader", TOPICS, HUB[:4], Operation.READ, PREFIXED),
    _binding("acl-reader", GROUPS, GROUP, Operation.READ),
    _binding("acl-reader", TOPICS, HUB, Operation.ALTER_CONFIGS),
    _binding("acl-writer", TOPICS, HUB, Operation.WRITE),
    _binding("acl-writer", TRANSACTIONS, "tx", Operation.ALL, PREFIXED),
    _binding("acl-admin", *CLUSTER, Operation.ALL),
    _binding("acl-admin", TOPICS, HUB, Operation.ALL),
    _binding("acl-admin", TOPICS, HUB, Operation.ALTER, permission=DENY),
    _binding("acl-admin", GROUPS, "*", Operation.ALL),
    _binding("acl-refused", TOPICS, HUB, Operation.WRITE, permission=DENY),
    _binding("acl-refused", TOPICS, "read", Operation.DESCRIBE_CONFIGS, PREFIXED, DENY),
    _binding("acl-refused", GROUPS, GROUP, Operation.ALL, permission=DENY),
    _binding("everything", TOPICS, "*", Operation.ALL, permission=DENY),
    _binding("acl-elsewhere", TOPICS, "*", Operation.ALL, host=ELSEWHERE),
    _binding("acl-elsewhere", *CLUSTER, Operation.ALL, host=ELSEWHERE),
)
"""What is said of the holders whose name begins with `acl`, and of one whom no list binds."""
STRANGERS = ("nobody", "wrong-key", "expired")
REFUSALS = {29, 30, 31, 53}


@dataclass
class Hub:
    kafka: int
    http: str
    keys: dict[str, str]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    started, over, found = threading.Event(), [], []

    async def main(directory: Path) -> None:
        clock = SystemClock()
        broker = await EmbeddedBroker.open(directory, "os")
        membership, access = Membership(clock), Identities(broker, directory, clock)
        await access.open()
        keys = {}
        for name, (rights, scope, group) in HOLDERS.items():
            keys[name] = (await access.create_policy("test", name, rights, scope, group))["primary_key"]
        assert not any(await access.acls.create("test", ACLS))
        for name in (HUB, OTHER):
            await broker.create_hub(name, 1)
            await broker.append(name, 0, encode([Event(b"x", timestamp=1)]))
        kafka = KafkaHead(
            broker, membership, host="127.0.0.1", port=0, cluster_id="c", auto_create=False, access=access
        )
        http = HttpHead(broker, membership, status=lambda: {"ready": True, "workers": []}, port=0, access=access)
        await kafka.start()
        await http.start()
        stop = asyncio.Event()
        over.append((asyncio.get_running_loop(), stop))
        found.append(Hub(kafka.port, f"http://127.0.0.1:{http.port}", keys))
        started.set()
        await stop.wait()
        await membership.close()
        await kafka.stop()
        await http.stop()
        await broker.close()

    thread = threading.Thread(target=lambda: asyncio.run(main(tmp_path_factory.mktemp("hub"))))
    thread.start()
    assert started.wait(30)
    yield found[0]
    loop, stop = over[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(30)
    assert not thread.is_alive()


def expected(holder: str, action: Action, resource: str | None) -> bool:
    if holder in STRANGERS:
        return False
    rights, scope, group = HOLDERS[holder]
    said = tuple(each for each in ACLS if each.principal == "User:" + holder)
    policy = Policy("x", parse_rights(rights), scope, group)
    return allowed(Identity("x", "key", (policy,), bindings=said), action, resource, "127.0.0.1")


# -- Kafka


async def call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: int, version: int, body: Any) -> Any:
    writer.write(codec.encode_request(key, version, 1, "t", body))
    head = await reader.readexactly(4)
    frame = head + await reader.readexactly(struct.unpack(">i", head)[0])
    return codec.decode_response(key, version, frame)[1]


def codes(value: Any) -> set[int]:
    """Every error code of an answer."""
    if isinstance(value, dict):
        own = {value["ErrorCode"]} if "ErrorCode" in value else set()
        return own.union(*(codes(each) for each in value.values()))
    return set().union(*map(codes, value)) if isinstance(value, list) else set()


def _partition(**more: Any) -> list[Any]:
    return [{"Name": HUB, "Partitions": [{"PartitionIndex": 0, **more}]}]


_RECORDS = bytes(encode([Event(b"x", timestamp=1)]))
_JOIN = {"GroupId": GROUP, "SessionTimeoutMs": 10_000, "RebalanceTimeoutMs": 10_000, "MemberId": "",
         "ProtocolType": "consumer", "Protocols": [{"Name": "range", "Metadata": b""}]}  # fmt: skip
_ASKED = [{"ResourceType": 2, "ResourceName": HUB, "ConfigurationKeys": None}]
_CONFIG = [{"ResourceType": 2, "ResourceName": HUB, "Configs": []}]
_ANY_ACL = {"ResourceTypeFilter": 1, "ResourceNameFilter": None, "PatternTypeFilter": 1, "PrincipalFilter": None,
            "HostFilter": None, "Operation": 1, "PermissionType": 1}  # fmt: skip
_NO_ACL = {"ResourceType": 9, "ResourceName": "x", "ResourcePatternType": 3, "Principal": "User:x", "Host": "*",
           "Operation": 2, "PermissionType": 3}  # fmt: skip
KAFKA: dict[str, tuple[int, int, Any, Action, str | None]] = {
    "metadata": (3, 9, {"Topics": [{"Name": HUB}]}, Action.DESCRIBE_HUB, HUB),
    "metadata of all": (3, 9, {"Topics": None}, Action.LIST, None),
    "produce": (0, 9, {"Acks": -1, "TimeoutMs": 1, "TopicData": [
        {"Name": HUB, "PartitionData": [{"Index": 0, "Records": _RECORDS}]}]}, Action.SEND, HUB),
    "fetch": (1, 11, {"MaxWaitMs": 0, "MinBytes": 0, "Topics": [{"Topic": HUB, "Partitions": [
        {"Partition": 0, "FetchOffset": 0, "PartitionMaxBytes": 1000}]}]}, Action.READ, HUB),
    "list offsets": (2, 5, {"ReplicaId": -1, "Topics": _partition(Timestamp=-1)}, Action.LOOK_UP_OFFSETS, HUB),
    "leader epoch": (23, 3, {"Topics": [{"Topic": HUB, "Partitions": [
        {"Partition": 0, "CurrentLeaderEpoch": 0, "LeaderEpoch": 0}]}]}, Action.LOOK_UP_OFFSETS, HUB),
    "coordinator": (10, 2, {"Key": GROUP}, Action.DESCRIBE_GROUP, GROUP),
    "coordinators": (10, 4, {"CoordinatorKeys": [GROUP]}, Action.DESCRIBE_GROUP, GROUP),
    "join": (11, 5, _JOIN, Action.USE_GROUP, GROUP),
    "sync": (14, 3, {"GroupId": GROUP, "GenerationId": 1, "MemberId": "m", "Assignments": []}, Action.USE_GROUP, GROUP),
    "heartbeat": (12, 3, {"GroupId": GROUP, "GenerationId": 1, "MemberId": "m"}, Action.USE_GROUP, GROUP),
    "leave": (13, 3, {"GroupId": GROUP, "Members": []}, Action.USE_GROUP, GROUP),
    "commit": (8, 7, {"GroupId": GROUP, "Topics": _partition(CommittedOffset=0, CommittedMetadata="")},
               Action.USE_GROUP, GROUP),
    "positions": (9, 7, {"GroupId": GROUP, "Topics": None}, Action.DESCRIBE_GROUP, GROUP),
    "positions of groups": (9, 8, {"Groups": [{"GroupId": GROUP, "Topics": None}]}, Action.DESCRIBE_GROUP, GROUP),
    "describe group": (15, 5, {"Groups": [GROUP]}, Action.DESCRIBE_GROUP, GROUP),
    "list groups": (16, 3, {}, Action.LIST, None),
    "delete group": (42, 2, {"GroupsNames": [GROUP]}, Action.DELETE_GROUP, GROUP),
    "forget positions": (47, 0, {"GroupId": GROUP, "Topics": []}, Action.DELETE_GROUP, GROUP),
    "create": (19, 5, {"Topics": [{"Name": HUB, "NumPartitions": 1, "ReplicationFactor": 1, "Assignments": [],
                                   "Configs": []}], "ValidateOnly": True}, Action.CREATE_HUB, HUB),
    "grow": (37, 2, {"Topics": [{"Name": HUB, "Count": 2}], "TimeoutMs": 1, "ValidateOnly": True},
             Action.GROW_HUB, HUB),
    "delete events": (21, 2, {"Topics": _partition(Offset=0), "TimeoutMs": 1}, Action.DELETE_EVENTS, HUB),
    "describe configs": (32, 4, {"Resources": _ASKED}, Action.DESCRIBE_SETTINGS, HUB),
    "broker configs": (32, 4, {"Resources": [{"ResourceType": 4, "ResourceName": "1", "ConfigurationKeys": None}]},
                       Action.INSPECT_SETTINGS, None),
    "alter configs": (44, 1, {"Resources": _CONFIG, "ValidateOnly": True}, Action.ALTER_HUB, HUB),
    "replace configs": (33, 2, {"Resources": _CONFIG, "ValidateOnly": True}, Action.ALTER_HUB, HUB),
    "producer id": (22, 4, {"TransactionalId": None, "TransactionTimeoutMs": 1}, Action.PRODUCE_IDEMPOTENTLY, None),
    "transactional id": (22, 4, {"TransactionalId": "tx-1", "TransactionTimeoutMs": 60_000}, Action.TRANSACT, "tx-1"),
    "transaction's coordinator": (10, 4, {"KeyType": 1, "CoordinatorKeys": ["tx-1"]},
                                  Action.DESCRIBE_TRANSACTION, "tx-1"),
    "end transaction": (26, 3, {"TransactionalId": "tx-2", "ProducerId": 1, "ProducerEpoch": 0, "Committed": True},
                        Action.TRANSACT, "tx-2"),
    "describe ACLs": (29, 3, _ANY_ACL, Action.INSPECT, None),
    "create ACLs": (30, 3, {"Creations": [_NO_ACL]}, Action.OPERATE, None),
    "delete ACLs": (31, 3, {"Filters": [_ANY_ACL | {"PrincipalFilter": "User:none"}]}, Action.OPERATE, None),
    "describe quotas": (48, 1, {"Components": [], "Strict": False}, Action.INSPECT_SETTINGS, None),
    "alter quotas": (49, 1, {"Entries": [{"Entity": [{"EntityType": "ip", "EntityName": "x"}], "Ops": []}],
                             "ValidateOnly": True}, Action.OPERATE, None),
    "describe SCRAM": (50, 0, {"Users": None}, Action.INSPECT, None),
    "alter SCRAM": (51, 0, {"Deletions": [{"Name": "none", "Mechanism": 1}], "Upsertions": []}, Action.OPERATE, None),
    "log dirs": (35, 3, {"Topics": None}, Action.INSPECT, None),
    "partitions": (75, 0, {"Topics": [{"Name": HUB}], "Cursor": None}, Action.DESCRIBE_HUB, HUB),
    "cluster": (60, 1, {"IncludeClusterAuthorizedOperations": False}, Action.LIST, None),
    "new heartbeat": (68, 0, {"GroupId": GROUP, "MemberId": "m", "MemberEpoch": -1}, Action.USE_GROUP, GROUP),
    "new describe": (69, 0, {"GroupIds": [GROUP], "IncludeAuthorizedOperations": False}, Action.DESCRIBE_GROUP, GROUP),
}  # fmt: skip


@pytest.mark.parametrize("holder", [*HOLDERS, "nobody", "wrong-key"])
@pytest.mark.parametrize("verb", KAFKA)
def test_kafka(hub: Hub, verb: str, holder: str) -> None:
    key, version, body, action, resource = KAFKA[verb]

    async def ask() -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", hub.kafka)
        try:
            if holder != "nobody":
                await call(reader, writer, 17, 1, {"Mechanism": "PLAIN"})
                name, secret = ("send", "wrong") if holder == "wrong-key" else (holder, hub.keys[holder])
                message = f"\0{name}\0{secret}".encode()
                answer = await call(reader, writer, 36, 2, {"AuthBytes": message})
                if holder == "wrong-key":
                    assert answer["ErrorCode"] == 58
                    return await reader.read(1) != b""
                assert answer["ErrorCode"] == 0
            try:
                answer = await call(reader, writer, key, version, body)
            except asyncio.IncompleteReadError:
                assert holder == "nobody"
                return False
            return not codes(answer) & REFUSALS
        finally:
            writer.close()

    may = expected(holder, action, resource)
    if verb == "commit":  # which is about a hub as well
        may = may and expected(holder, Action.READ, HUB)
    assert asyncio.run(ask()) == may


def test_every_api_has_a_verb_here() -> None:
    before_sign_in, own_effect = {17, 18, 36}, {20}
    assert {row[0] for row in KAFKA.values()} | before_sign_in | own_effect >= set(codec.APIS) - _NOT_YET


_NOT_YET = {24, 25, 28}
"""Transactions: see the next test."""


def test_every_api_has_a_guard() -> None:
    assert set(codec.APIS) <= set(GUARDS) | {0, 17, 36}


def test_others_do_not_see_what_they_may_not(hub: Hub) -> None:
    async def ask() -> Any:
        reader, writer = await asyncio.open_connection("127.0.0.1", hub.kafka)
        await call(reader, writer, 17, 1, {"Mechanism": "PLAIN"})
        message = f"\0wrong-entity\0{hub.keys['wrong-entity']}".encode()
        await call(reader, writer, 36, 2, {"AuthBytes": message})
        found = await call(reader, writer, 3, 9, {"Topics": None})
        named = await call(reader, writer, 3, 9, {"Topics": [{"Name": each} for each in (HUB, OTHER, "none")]})
        writer.close()
        return [each["Name"] for each in found["Topics"]], {each["Name"]: each["ErrorCode"] for each in named["Topics"]}

    assert asyncio.run(ask()) == ([OTHER], {HUB: 29, OTHER: 0, "none": 29})


@pytest.mark.parametrize("version", [1, 9, 13])
def test_where_the_hub_is_may_be_known_with_every_topic_refused(hub: Hub, version: int) -> None:
    async def ask() -> Any:
        reader, writer = await asyncio.open_connection("127.0.0.1", hub.kafka)
        await call(reader, writer, 17, 1, {"Mechanism": "PLAIN"})
        await call(reader, writer, 36, 2, {"AuthBytes": f"\0wrong-entity\0{hub.keys['wrong-entity']}".encode()})
        found = await call(reader, writer, 3, version, {"Topics": [{"Name": HUB}]})
        writer.close()
        return len(found["Brokers"]), [(each["Name"], each["ErrorCode"]) for each in found["Topics"]]

    assert asyncio.run(ask()) == (1, [(HUB, 29)])


@pytest.mark.parametrize("holder", HOLDERS)
def test_topics_named_by_id_are_the_same_topics(hub: Hub, holder: str) -> None:
    async def sign_in(name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", hub.kafka)
        await call(reader, writer, 17, 1, {"Mechanism": "PLAIN"})
        await call(reader, writer, 36, 2, {"AuthBytes": f"\0{name}\0{hub.keys[name]}".encode()})
        return reader, writer

    async def ask() -> dict[str, set[int]]:
        root = await sign_in("everything")
        [topic] = (await call(*root, 3, 12, {"Topics": [{"Name": HUB}]}))["Topics"]
        mine = await sign_in(holder)
        found = {}
        for kind, topic_id in (("known", topic["TopicId"]), ("unknown", UUID(int=7))):
            parts = [{"Index": 0, "Records": _RECORDS}]
            sent = {"Acks": -1, "TimeoutMs": 1, "TopicData": [{"TopicId": topic_id, "PartitionData": parts}]}
            found[f"send {kind}"] = codes(await call(*mine, 0, 13, sent))
            read = {"Partition": 0, "FetchOffset": 0, "PartitionMaxBytes": 1000}
            asked = {"MaxWaitMs": 0, "MinBytes": 0, "Topics": [{"TopicId": topic_id, "Partitions": [read]}]}
            found[f"read {kind}"] = codes(await call(*mine, 1, 18, asked))
            place = {"PartitionIndex": 0, "CommittedOffset": 0, "CommittedMetadata": ""}
            body = {"GroupId": GROUP, "Topics": [{"TopicId": topic_id, "Partitions": [place]}]}
            found[f"commit {kind}"] = codes(await call(*mine, 8, 10, body))
        for _, writer in (root, mine):
            writer.close()
        return found

    found = asyncio.run(ask())
    group = expected(holder, Action.USE_GROUP, GROUP)
    send, read = expected(holder, Action.SEND, HUB), expected(holder, Action.READ, HUB)
    assert found == {
        "send known": {0 if send else 29}, "send unknown": {100},
        "read known": {0} if read else {0, 29}, "read unknown": {0, 100},
        "commit known": {30} if not group else {0 if read else 29}, "commit unknown": {100 if group else 30},
    }  # fmt: skip


# -- HTTP

_HUB_PATH = f"/v1/hubs/{HUB}"
HTTP: dict[str, tuple[str, str, Any, Callable[[str], bool]]] = {}
NEEDS: dict[str, tuple[tuple[Action, str | None], ...]] = {}


def _verb(name: str, method: str, path: str, body: Any, *needs: tuple[Action, str | None]) -> None:
    NEEDS[name] = needs
    HTTP[name] = (method, path, body, lambda holder: all(expected(holder, *need) for need in needs))


_verb("send", "POST", _HUB_PATH + "/events", {"a": 1}, (Action.SEND, HUB))
_verb("read", "GET", _HUB_PATH + "/events", None, (Action.READ, HUB))
_verb("export", "GET", _HUB_PATH + "/events?format=csv&fields=a", None, (Action.READ, HUB))
_verb("copy", "POST", _HUB_PATH + "/copy", {"to_hub": OTHER, "partition": 0, "to": "earliest"},
      (Action.READ, HUB), (Action.SEND, OTHER))  # fmt: skip
_verb("rights", "GET", f"/v1/rights?hub={HUB}", None, (Action.LIST, None))
_verb("show", "GET", _HUB_PATH, None, (Action.DESCRIBE_HUB, HUB))
_verb("alter", "PATCH", _HUB_PATH, {}, (Action.ALTER_HUB, HUB))
_verb("grow", "PATCH", _HUB_PATH, {"partitions": 1}, (Action.ALTER_HUB, HUB), (Action.GROW_HUB, HUB))
_verb("create", "POST", "/v1/hubs", {"name": HUB}, (Action.CREATE_HUB, HUB))
_verb("delete", "DELETE", "/v1/hubs/none", None, (Action.DELETE_HUB, "none"))
_verb("send to none", "POST", "/v1/hubs/__audit/events", {"a": 1}, (Action.SEND, "__audit"))
_verb("read audit", "GET", "/v1/hubs/__audit/events", None, (Action.READ, "__audit"))
_verb("list", "GET", "/v1/hubs", None, (Action.LIST, None))
_verb("groups", "GET", "/v1/groups", None, (Action.LIST, None))
_verb("group", "GET", f"/v1/groups/{GROUP}", None, (Action.DESCRIBE_GROUP, GROUP))
_verb("reset", "POST", f"/v1/groups/{GROUP}/reset", {"hub": HUB, "to": "latest"},
      (Action.USE_GROUP, GROUP), (Action.READ, HUB))  # fmt: skip
_verb("Event Hubs send", "POST", f"/{HUB}/messages", {"a": 1}, (Action.SEND, HUB))
_verb("Event Hubs publish", "POST", f"/{HUB}/publishers/p/messages", {"a": 1}, (Action.SEND, HUB))
_verb("claims", "GET", f"/v1/groups/{GROUP}/claims?hub={HUB}", None, (Action.USE_GROUP, GROUP), (Action.READ, HUB))
_verb("claim", "POST", f"/v1/groups/{GROUP}/claims", {"hub": HUB, "claims": []},
      (Action.USE_GROUP, GROUP), (Action.READ, HUB))  # fmt: skip
_verb("positions", "GET", f"/v1/groups/{GROUP}/positions?hub={HUB}", None,
      (Action.USE_GROUP, GROUP), (Action.READ, HUB))  # fmt: skip
_verb("commit", "POST", f"/v1/groups/{GROUP}/positions", {"hub": HUB, "positions": []},
      (Action.USE_GROUP, GROUP), (Action.READ, HUB))  # fmt: skip
_verb("Azure's schema groups", "GET", "/$schemaGroups", None, (Action.READ_SCHEMA, None))
_verb("schema groups", "GET", "/v1/schemagroups", None, (Action.READ_SCHEMA, None))
_verb("schema by id", "GET", "/$schemaGroups/$schemas/none", None, (Action.READ_SCHEMA, None))
_verb("schema by text", "POST", "/$schemaGroups/none/schemas/none:get-id", {}, (Action.READ_SCHEMA, None))
_verb("put schema", "PUT", "/$schemaGroups/none/schemas/none", {}, (Action.REGISTER_SCHEMA, None))
_verb("post schema", "POST", "/v1/schemagroups/none/schemas", {}, (Action.REGISTER_SCHEMA, None))
_verb("schemas", "GET", "/v1/schemagroups/none/schemas", None, (Action.READ_SCHEMA, None))
_verb("drop schema", "DELETE", "/v1/schemagroups/none/schemas/none", None, (Action.OPERATE, None))
_verb("make schema group", "POST", "/v1/schemagroups", {}, (Action.OPERATE, None))
_verb("drop schema group", "DELETE", "/v1/schemagroups/none", None, (Action.OPERATE, None))
_ALERTS = (Action.READ, "grid.alerts")
_NOTES = (Action.SEND, "grid.alert-notes")
_verb("alerts", "GET", "/v1/alerts", None, _ALERTS)
_verb("alert", "GET", "/v1/alerts/none", None, _ALERTS)
_verb("acknowledge", "POST", "/v1/alerts/none/ack", {}, _ALERTS, _NOTES)
_verb("silences", "GET", "/v1/silences", None, _ALERTS)
_verb("silence", "POST", "/v1/silences", {"why": ""}, _NOTES)
_verb("unsilence", "DELETE", "/v1/silences/none", None, _NOTES)
_ROUTES = (Action.ALTER_HUB, "grid.alerts")
_verb("alert routes", "GET", "/v1/alert-routes", None, _ROUTES)
_verb("add alert route", "POST", "/v1/alert-routes", {"name": "x"}, _ROUTES)
_verb("show alert route", "GET", "/v1/alert-routes/none", None, _ROUTES)
_verb("drop alert route", "DELETE", "/v1/alert-routes/none", None, _ROUTES)
_verb("test alert route", "POST", "/v1/alert-routes/none/test", {}, _ROUTES)
_verb("resume alert route", "POST", "/v1/alert-routes/none/resume", {}, _ROUTES)
_MANAGES = (Action.ALTER_HUB, "grid.alerts")
_RULE = {"type": "threshold", "name": "Bad", "hub": HUB, "field": "a", "op": ">", "value": 1}
_QUESTION = {"type": "sql", "name": "Bad", "query": "select 1"}
_verb("alert rules", "GET", "/v1/alert-rules", None, _ALERTS)
_verb("alert rule", "GET", "/v1/alert-rules/none", None, _ALERTS)
_verb("make alert rule", "POST", "/v1/alert-rules", _RULE, _MANAGES, (Action.READ, HUB))
_verb("make question", "POST", "/v1/alert-rules", _QUESTION, _MANAGES, (Action.OBSERVE, None))
_verb("change alert rule", "PUT", "/v1/alert-rules/Bad", _RULE, _MANAGES, (Action.READ, HUB))
_verb("change question", "PUT", "/v1/alert-rules/Bad", _QUESTION, _MANAGES, (Action.OBSERVE, None))
_verb("try alert rule", "POST", "/v1/alert-rules/try", {"rule": _RULE}, _MANAGES, (Action.READ, HUB))
_verb("try question", "POST", "/v1/alert-rules/try", {"rule": _QUESTION}, _MANAGES, (Action.OBSERVE, None))
_verb("remove alert rule", "DELETE", "/v1/alert-rules/none", None, _MANAGES)
_LOADS = ((Action.READ, "grid.transformers"), (Action.READ, "grid.feeders"))
_verb("network", "GET", "/v1/grid/network", None, (Action.READ, "grid.network"))
_verb("networks", "GET", "/v1/grid/networks", None, (Action.READ, "grid.network"))
_verb("usage points", "GET", "/v1/grid/usage-points?feeder=F", None, (Action.READ, "grid.network"))
_verb("point's readings", "GET", "/v1/grid/usage-points/U/readings", None, (Action.READ, "readings"))
_verb("loads", "GET", "/v1/grid/loads?feeder=F", None, *_LOADS)
_verb("grid times", "GET", "/v1/grid/times", None, (Action.READ, "grid.transformers"))
_verb("grid at", "GET", "/v1/grid/at?time=2026-01-01T00:00:00Z", None, *_LOADS, (Action.READ, "grid.health"), _ALERTS)
_verb("metrics", "GET", "/metrics", None, (Action.OBSERVE, None))
_verb("sql", "POST", "/v1/sql", {"query": "select 1"}, (Action.OBSERVE, None))
_verb("sql-tables", "GET", "/v1/sql/tables", None, (Action.OBSERVE, None))
_verb("status", "GET", "/v1/status", None, (Action.LIST, None))
_verb("page", "GET", "/", None, (Action.LIST, None))
_verb("policies", "GET", "/v1/policies", None, (Action.OPERATE, None))
_verb("make policy", "POST", "/v1/policies", {"name": "send", "rights": ["Send"]}, (Action.OPERATE, None))
_verb("rotate", "POST", "/v1/policies/none/rotate", {}, (Action.OPERATE, None))
_verb("drop policy", "DELETE", "/v1/policies/none", None, (Action.OPERATE, None))
_verb("user", "POST", "/v1/users", {}, (Action.OPERATE, None))
_verb("certificate", "POST", "/v1/certificates", {}, (Action.OPERATE, None))


def _credentials(hub: Hub, holder: str, way: str) -> dict[str, str]:
    if holder == "nobody":
        return {}
    name = "everything" if holder in STRANGERS else holder
    key = "wrong" if holder == "wrong-key" else hub.keys[name]
    if way == "basic" and holder != "expired":
        return {"authorization": "Basic " + base64.b64encode(f"{name}:{key}".encode()).decode()}
    ends_s = int(time.time()) + (-10 if holder == "expired" else 600)
    return {"authorization": sas.sign(hub.http + "/", name, key, ends_s)}


@pytest.mark.parametrize("way", ["basic", "sas"])
@pytest.mark.parametrize("holder", [*HOLDERS, *STRANGERS])
def test_http(hub: Hub, holder: str, way: str) -> None:
    with httpx.Client(base_url=hub.http, headers=_credentials(hub, holder, way), trust_env=False) as client:
        for verb, (method, path, body, may) in HTTP.items():
            answer = client.request(method, path, json=body)
            if holder in STRANGERS:
                assert answer.status_code == 401, verb
                assert "SharedAccessSignature" in answer.headers["www-authenticate"]
            elif verb == "send to none":
                assert answer.status_code == 403, verb
            else:
                assert (answer.status_code != 403) == may(holder), (verb, answer.text)
                assert answer.status_code < 500
        for path in ("/healthz", "/readyz", "/v1/openapi.json", "/v1/asyncapi.json"):
            assert client.get(path, headers={"authorization": ""}).status_code == 200


def test_answers_about_identities_are_what_the_document_says(hub: Hub) -> None:
    with httpx.Client(base_url=hub.http, headers=_credentials(hub, "everything", "basic"), trust_env=False) as client:
        known = by_name(client.get("/v1/openapi.json").json())

        def ask(name: str, path: str, body: Any = None) -> Any:
            answer = client.request(known[name].method, path, json=body)
            assert answer.is_success, (name, answer.text)
            known[name].check(answer)
            return answer.json() if answer.content else None

        ask("createPolicy", "/v1/policies", {"name": "documented", "rights": ["Send"]})
        ask("rotateKey", "/v1/policies/documented/rotate", {"key": "primary"})
        ask("setUser", "/v1/users", {"name": "mia", "password": "secret-secret", "policies": ["documented"]})
        ask("setCertificate", "/v1/certificates", {"subject": "CN=mia", "policies": ["documented"]})
        ask("listPolicies", "/v1/policies")
        sealed = ask("exportIdentities", "/v1/identities/export", ask("showRecipient", "/v1/identities/recipient"))
        ask("importIdentities", "/v1/identities/import", sealed)
        ask("showRights", f"/v1/rights?hub={HUB}")
        ask("deleteUser", "/v1/users/mia")
        ask("setCertificate", "/v1/certificates", {"subject": "CN=mia", "policies": []})
        ask("deletePolicy", "/v1/policies/documented")
        known["listPolicies"].check(client.get("/v1/policies", headers={"authorization": ""}))


def test_the_document_says_what_each_verb_takes(hub: Hub) -> None:
    document = httpx.get(f"{hub.http}/v1/openapi.json").json()
    told: dict[str, set[str]] = {}
    verbs: dict[str, list[str]] = {}
    for verb, (method, path, _, _) in HTTP.items():
        if verb == "page":
            continue
        shape = path.partition("?")[0].replace("$schemaGroups", "$schemagroups").split("/")
        operation = next(
            methods[method.lower()]
            for known, methods in document["paths"].items()
            if method.lower() in methods and _is_of(known.split("/"), shape)
        )
        name = operation["operationId"]
        told[name] = {each["action"] for each in operation["x-gridwire-rights"]}
        verbs.setdefault(name, []).append(verb)
        assert told[name] >= {action.value for action, _ in NEEDS[verb]}, verb
    only_conditional = {"hub.create", "hub.grow", "namespace.list"}
    for name, of_name in verbs.items():
        needed = {action.value for verb in of_name for action, _ in NEEDS[verb]}
        assert told[name] - needed <= only_conditional, name


def _is_of(known: list[str], shape: list[str]) -> bool:
    return len(known) == len(shape) and all(
        segment.startswith("{") or segment == given for segment, given in zip(known, shape, strict=True)
    )


@pytest.mark.parametrize("holder", HOLDERS)
def test_rights_are_told_as_they_are(hub: Hub, holder: str) -> None:
    query = {"hub": HUB, "group": GROUP}
    answer = httpx.get(f"{hub.http}/v1/rights", params=query, headers=_credentials(hub, holder, "basic"))
    named = {Over.HUB: HUB, Over.GROUP: GROUP}
    may = [action.value for action in Action if expected(holder, action, named.get(TABLE[action].over))]
    assert answer.json() == {"name": holder, "sign_in": True, "may": sorted(may)}


def test_http_token_for_one_hub(hub: Hub) -> None:
    token = sas.sign(f"{hub.http}/v1/hubs/{OTHER}", "everything", hub.keys["everything"], int(time.time()) + 600)
    with httpx.Client(base_url=hub.http, headers={"authorization": token}, trust_env=False) as client:
        assert client.get(f"/v1/hubs/{OTHER}/events").status_code == 200
        assert client.get(f"/v1/hubs/{HUB}/events").status_code == 403
        assert client.get("/v1/policies").status_code == 403
        assert [each["name"] for each in client.get("/v1/hubs").json()["hubs"]] == [OTHER]


# -- ways in that clients seldom take, and limits


async def _raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: bytes) -> bytes:
    writer.write(struct.pack(">i", len(token)) + token)
    return await reader.readexactly(struct.unpack(">i", await reader.readexactly(4))[0])


@pytest.mark.parametrize("good", [True, False])
def test_raw_tokens_after_the_first_handshake_version(hub: Hub, good: bool) -> None:
    async def ask() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", hub.kafka)
        await call(reader, writer, 17, 0, {"Mechanism": "PLAIN"})
        token = f"\0send\0{hub.keys['send'] if good else 'wrong'}".encode()
        if good:
            assert await _raw(reader, writer, token) == b""
            assert (await call(reader, writer, 3, 9, {"Topics": [{"Name": HUB}]}))["Topics"][0]["ErrorCode"] == 0
        else:
            with pytest.raises(asyncio.IncompleteReadError):
                await _raw(reader, writer, token)
        writer.close()

    asyncio.run(ask())


def test_a_connection_cannot_change_hands(hub: Hub) -> None:
    async def ask() -> list[int]:
        reader, writer = await asyncio.open_connection("127.0.0.1", hub.kafka)
        found = []
        for name in ("send", "send", "manage"):
            await call(reader, writer, 17, 1, {"Mechanism": "PLAIN"})
            token = f"\0{name}\0{hub.keys[name]}".encode()
            found.append((await call(reader, writer, 36, 2, {"AuthBytes": token}))["ErrorCode"])
        assert await reader.read(1) == b""
        writer.close()
        return found

    assert asyncio.run(ask()) == [0, 0, 58]


def test_strangers_cannot_send_much(hub: Hub) -> None:
    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", hub.kafka)
        writer.write(struct.pack(">ihhi", 1_000_000, 36, 1, 1))
        found = await reader.read(1)
        writer.close()
        return found

    assert asyncio.run(ask()) == b""


def test_quotas_of_connections_and_http(hub: Hub) -> None:
    everything = {
        "authorization": sas.sign(hub.http + "/", "everything", hub.keys["everything"], int(time.time()) + 600)
    }
    limits = {"rights": ["Send"], "connections": 1, "bytes_in_s": 1000}
    with httpx.Client(base_url=hub.http, trust_env=False) as client:
        made = client.post("/v1/policies", json={"name": "limited", **limits}, headers=everything)
        key = made.json()["primary_key"]
        mine = {"authorization": sas.sign(hub.http + "/", "limited", key, int(time.time()) + 600)}
        assert client.post(_HUB_PATH + "/events", content=b"x" * 5000, headers=mine).status_code == 200
        refused = client.post(_HUB_PATH + "/events", content=b"x", headers=mine)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 3

    async def sign_in() -> tuple[asyncio.StreamWriter, bool]:
        reader, writer = await asyncio.open_connection("127.0.0.1", hub.kafka)
        await call(reader, writer, 17, 1, {"Mechanism": "PLAIN"})
        await call(reader, writer, 36, 2, {"AuthBytes": f"\0limited\0{key}".encode()})
        try:
            await call(reader, writer, 60, 1, {"IncludeClusterAuthorizedOperations": False})
        except (asyncio.IncompleteReadError, ConnectionError):
            return writer, False
        return writer, True

    async def ask() -> list[bool]:
        first, one = await sign_in()
        second, two = await sign_in()
        for writer in (first, second):
            writer.close()
        return [one, two]

    assert asyncio.run(ask()) == [True, False]
