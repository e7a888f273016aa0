"""Unmodified clients write access control lists and SCRAM users, and both do exactly what they say."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, admin
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)

from gridwire.auth.plain import parse_connection_string

ROOT = "RootManageSharedAccessKey"
PASSWORD = "a word nobody guesses"
ALLOW, DENY = AclPermissionType.ALLOW, AclPermissionType.DENY
LITERAL, PREFIXED = ResourcePatternType.LITERAL, ResourcePatternType.PREFIXED
MECHANISMS = {"SCRAM-SHA-256": ScramMechanism.SCRAM_SHA_256, "SCRAM-SHA-512": ScramMechanism.SCRAM_SHA_512}
DEADLINE_S = 60
TOPICS = ("meters.north", "meters.south", "other")


class Signed:
    """A hub with sign-in and its administrator."""

    def __init__(self, hub: Any) -> None:
        self.hub = hub
        self.root = parse_connection_string((hub.data / "root.connection-string").read_text().strip())
        self.admin = AdminClient(self.config(ROOT, "PLAIN", self.root.key))
        made = self.admin.create_topics([admin.NewTopic(name, 1, 1) for name in TOPICS])
        for future in made.values():
            future.result(30)

    def config(self, name: str, mechanism: str = "SCRAM-SHA-256", password: str = PASSWORD) -> dict[str, Any]:
        return {
            "bootstrap.servers": self.hub.kafka, "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": mechanism,
            "sasl.username": name, "sasl.password": password, "log_level": 0,
        }  # fmt: skip

    def user(self, name: str, *mechanisms: str, password: str = PASSWORD) -> None:
        """Make or change a user."""
        changes = [
            UserScramCredentialUpsertion(name, ScramCredentialInfo(MECHANISMS[each], 4096), password.encode())
            for each in mechanisms or MECHANISMS
        ]
        self.admin.alter_user_scram_credentials(changes)[name].result(30)

    def grant(self, *bindings: AclBinding) -> None:
        for future in self.admin.create_acls(list(bindings)).values():
            future.result(30)

    def revoke(self, *filters: AclBindingFilter) -> int:
        return sum(len(future.result(30)) for future in self.admin.delete_acls(list(filters)).values())


def binding(
    name: str, who: str, operation: AclOperation, permission: AclPermissionType = ALLOW,
    pattern: ResourcePatternType = LITERAL, kind: ResourceType = ResourceType.TOPIC,
) -> AclBinding:  # fmt: skip
    return AclBinding(kind, name, pattern, f"User:{who}", "*", operation, permission)


def everything_about(who: str) -> AclBindingFilter:
    return AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, f"User:{who}", None, AclOperation.ANY, AclPermissionType.ANY
    )


@pytest.fixture(scope="module")
def signed(hub_process: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signed]:
    hub = hub_process(tmp_path_factory.mktemp("signed") / "data", "--auth", "--no-workers")
    try:
        yield Signed(hub)
    finally:
        assert hub.stop() == 0


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, what
    return found


def send(producer: Producer, topic: str, value: bytes = b"x") -> str:
    """Send one event; empty when it arrived, else why not."""
    outcome: list[str] = []
    try:
        producer.produce(topic, value, on_delivery=lambda error, _: outcome.append(error.str() if error else ""))
    except KafkaException as error:  # what it was told of the topic a moment ago
        producer.poll(0.1)
        return str(error)
    until(lambda: (producer.poll(0.1) and outcome) or outcome, "the event's fate")
    return outcome[0]


def test_a_user_signs_in_and_may_do_what_the_list_says(signed: Signed) -> None:
    signed.user("ann")
    for mechanism in MECHANISMS:
        client = AdminClient(signed.config("ann", mechanism))
        with pytest.raises(KafkaException, match="uthoriz"):
            client.create_topics([admin.NewTopic("x", 1, 1)])["x"].result(30)
    producer = Producer(signed.config("ann"))
    assert "uthoriz" in send(producer, "meters.north")
    signed.grant(
        binding("meters.", "ann", AclOperation.WRITE, pattern=PREFIXED),
        binding("meters.south", "ann", AclOperation.WRITE, DENY),
    )
    until(lambda: send(producer, "meters.north") == "", "the grant")
    assert "uthoriz" in send(producer, "meters.south")  # a refusal beats the grant
    assert "uthoriz" in send(producer, "other")
    assert signed.revoke(AclBindingFilter(
        ResourceType.TOPIC, "meters.south", LITERAL, None, None, AclOperation.ANY, DENY)) == 1  # fmt: skip
    until(lambda: send(producer, "meters.south") == "", "the grant without the refusal")
    assert signed.revoke(everything_about("ann")) == 1
    assert "uthoriz" in send(producer, "meters.north")  # on the connection it had
    listed = AdminClient(signed.config("ann")).list_topics(timeout=30)
    assert not listed.topics


def test_describe_shows_what_create_stored(signed: Signed) -> None:
    wanted = {
        binding("meters.", "bob", AclOperation.READ, pattern=PREFIXED),
        binding("readers", "bob", AclOperation.READ, kind=ResourceType.GROUP),
        binding("tx", "bob", AclOperation.WRITE, pattern=PREFIXED, kind=ResourceType.TRANSACTIONAL_ID),
        binding("kafka-cluster", "bob", AclOperation.DESCRIBE, kind=ResourceType.BROKER),
        AclBinding(ResourceType.TOPIC, "*", LITERAL, "User:bob", "10.0.0.1", AclOperation.ALL, DENY),
    }
    signed.grant(*wanted)
    signed.grant(*wanted)  # again changes nothing
    assert set(signed.admin.describe_acls(everything_about("bob")).result(30)) == wanted
    matching = AclBindingFilter(
        ResourceType.TOPIC, "meters.north", ResourcePatternType.MATCH, "User:bob", None, AclOperation.ANY,
        AclPermissionType.ANY,
    )  # fmt: skip
    assert {each.name for each in signed.admin.describe_acls(matching).result(30)} == {"meters.", "*"}
    with pytest.raises(KafkaException, match="cannot be done"):
        signed.grant(binding("readers", "bob", AclOperation.WRITE, kind=ResourceType.GROUP))
    with pytest.raises(KafkaException, match="User:NAME"):
        signed.grant(AclBinding(ResourceType.TOPIC, "a", LITERAL, "Group:bob", "*", AclOperation.READ, ALLOW))
    assert signed.revoke(everything_about("bob")) == len(wanted)


def test_a_reader_loses_his_right_while_he_reads(signed: Signed) -> None:
    signed.user("rita", "SCRAM-SHA-512")
    topic = "meters.north"
    signed.grant(
        binding(topic, "rita", AclOperation.READ),
        binding("rita", "rita", AclOperation.READ, pattern=PREFIXED, kind=ResourceType.GROUP),
    )
    root = Producer(signed.config(ROOT, "PLAIN", signed.root.key))
    assert send(root, topic) == ""
    consumer = Consumer({
        **signed.config("rita", "SCRAM-SHA-512"), "group.id": "rita-1", "auto.offset.reset": "earliest",
    })  # fmt: skip
    consumer.subscribe([topic])
    event = until(lambda: consumer.poll(0.2), "an event")
    assert event.error() is None
    consumer.commit(event, asynchronous=False)
    assert signed.revoke(AclBindingFilter(
        ResourceType.TOPIC, topic, LITERAL, "User:rita", None, AclOperation.READ, ALLOW)) == 1  # fmt: skip
    assert send(root, topic, b"secret") == ""

    def refused() -> bool:
        event = consumer.poll(0.2)
        if event is None or event.error() is None:
            assert event is None or event.value() != b"secret", "an event that may not be read"
            return False
        return "uthoriz" in event.error().str()

    until(refused, "the refusal")
    consumer.close()
    other = Consumer({**signed.config("rita", "SCRAM-SHA-512"), "group.id": "strangers"})
    other.subscribe([topic])
    until(lambda: (event := other.poll(0.2)) is not None and event.error() is not None, "the group's refusal")
    other.close()


def test_scram_users_are_shown_changed_and_forgotten(signed: Signed) -> None:
    signed.user("sam")
    with pytest.raises(KafkaException):
        signed.admin.describe_user_scram_credentials(["nobody"])["nobody"].result(30)
    shown = signed.admin.describe_user_scram_credentials(["sam"])["sam"].result(30)
    assert {(each.mechanism, each.iterations) for each in shown.scram_credential_infos} == {
        (each, 4096) for each in MECHANISMS.values()
    }
    signed.user("sam", "SCRAM-SHA-256", password="another password")
    signs_in(signed, "sam", "SCRAM-SHA-256", "another password")
    is_refused(signed, "sam", "SCRAM-SHA-256", PASSWORD)
    signs_in(signed, "sam", "SCRAM-SHA-512", PASSWORD)
    for mechanism in MECHANISMS.values():
        change = UserScramCredentialDeletion("sam", mechanism)
        signed.admin.alter_user_scram_credentials([change])["sam"].result(30)
    is_refused(signed, "sam", "SCRAM-SHA-512", PASSWORD)
    assert "sam" not in signed.admin.describe_user_scram_credentials().result(30)
    with pytest.raises(KafkaException, match="is a policy"):
        signed.user(ROOT)


def signs_in(signed: Signed, name: str, mechanism: str, password: str) -> None:
    assert AdminClient(signed.config(name, mechanism, password)).list_topics(timeout=30).brokers


def is_refused(signed: Signed, name: str, mechanism: str, password: str) -> None:
    reasons: list[str] = []
    config = {**signed.config(name, mechanism, password), "error_cb": lambda error: reasons.append(error.str())}
    client = AdminClient(config)
    until(lambda: client.poll(0.1) is not None and any("uthentication" in each for each in reasons), "the refusal")


def test_a_policy_holder_is_bound_by_lists_over_http_too(signed: Signed) -> None:
    root = httpx.Client(base_url=signed.hub.http, auth=(ROOT, signed.root.key), trust_env=False)
    made = root.post("/v1/policies", json={"name": "north", "rights": ["Send"], "hub": "meters.north"}).json()
    with httpx.Client(base_url=signed.hub.http, auth=("north", made["primary_key"]), trust_env=False) as client:

        def sent(topic: str) -> int:
            return client.post(f"/v1/hubs/{topic}/events", json={"a": 1}).status_code

        assert (sent("meters.north"), sent("other")) == (200, 403)
        signed.grant(binding("oth", "north", AclOperation.WRITE, pattern=PREFIXED),
                     binding("meters.north", "north", AclOperation.WRITE, DENY))  # fmt: skip
        assert (sent("meters.north"), sent("other")) == (403, 200)
        assert [each["name"] for each in client.get("/v1/hubs").json()["hubs"]] == ["meters.north", "other"]
        assert client.get("/v1/hubs/other/events").status_code == 403
        assert signed.revoke(everything_about("north")) == 2
        assert (sent("meters.north"), sent("other")) == (200, 403)
    told = root.get("/v1/hubs/__audit/events?limit=1000").json()["events"]
    seen = {(each["value"]["who"], each["value"]["action"], each["value"]["what"]) for each in told}
    assert (ROOT, "acl.create", "User:north") in seen
    assert (ROOT, "acl.delete", "User:north") in seen
    root.close()


def test_a_tail_ends_when_its_right_does(signed: Signed) -> None:
    root = httpx.Client(base_url=signed.hub.http, auth=(ROOT, signed.root.key), trust_env=False)
    made = root.post("/v1/policies", json={"name": "tail", "rights": ["Listen"], "hub": "other"}).json()
    client = httpx.Client(base_url=signed.hub.http, auth=("tail", made["primary_key"]), trust_env=False, timeout=60)
    with client.stream("GET", "/v1/hubs/other/tail") as stream:
        lines = stream.iter_lines()
        assert any(line.startswith("id:") for line in lines)
        signed.grant(binding("other", "tail", AclOperation.READ, DENY))
        root.post("/v1/hubs/other/events", json={"secret": 1})
        rest = "\n".join(lines)
    assert "event: error" in rest
    assert "secret" not in rest
    client.close()
    root.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kafka_python(signed: Signed) -> None:
    from kafka import KafkaAdminClient, KafkaProducer
    from kafka.admin import (
        ACL,
        ACLFilter,
        ACLOperation,
        ACLPermissionType,
        ACLResourcePatternType,
        ResourcePattern,
        ResourcePatternFilter,
        UserScramCredentialUpsertion,
    )
    from kafka.admin import ResourceType as Kind
    from kafka.errors import TopicAuthorizationFailedError

    root = {"sasl_mechanism": "PLAIN", "sasl_plain_username": ROOT, "sasl_plain_password": signed.root.key}
    mine = {"sasl_mechanism": "SCRAM-SHA-256", "sasl_plain_username": "kim", "sasl_plain_password": PASSWORD}
    where = {"bootstrap_servers": signed.hub.kafka, "security_protocol": "SASL_PLAINTEXT"}
    client = KafkaAdminClient(**where, **root)
    client.alter_user_scram_credentials([UserScramCredentialUpsertion("kim", "SCRAM-SHA-256", PASSWORD)])
    assert "kim" in json.dumps(client.describe_user_scram_credentials(["kim"]), default=str)
    pattern = ResourcePattern(Kind.TOPIC, "meters.", ACLResourcePatternType.PREFIXED)
    acl = ACL("User:kim", "*", ACLOperation.WRITE, ACLPermissionType.ALLOW, pattern)
    assert client.create_acls([acl])["succeeded"] == [acl]
    mine_only = ACLFilter(
        "User:kim", None, ACLOperation.ANY, ACLPermissionType.ANY,
        ResourcePatternFilter(Kind.ANY, None, ACLResourcePatternType.ANY),
    )  # fmt: skip
    assert client.describe_acls(mine_only)[0] == [acl]
    producer = KafkaProducer(**where, **mine)
    assert producer.send("meters.south", b"x").get(30).offset >= 0
    with pytest.raises(TopicAuthorizationFailedError):
        producer.send("other", b"x").get(30)
    assert client.delete_acls([mine_only])[0][1] == [acl]
    with pytest.raises(TopicAuthorizationFailedError):
        producer.send("meters.south", b"x").get(30)
    producer.close()
    client.close()
