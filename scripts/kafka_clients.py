"""The ledger of Kafka clients: what is tested, and what fails, most harmful first. Source of a reference page."""

from __future__ import annotations

from typing import Final

import fetch_kafka
from client_ledger import Client, Gap, npm_version, python_version

from gridwire.wire.kafka.ledger import NOT_SERVED

CLIENTS: Final = (
    Client(
        "confluent-kafka (librdkafka)", python_version("confluent-kafka"),
        "acks, every codec, idempotence, start by offset and time, groups with rebalance (eager, cooperative, static), "
        "commits, administration", "test_kafka_clients.py", ("test_confluent_",),
    ),
    Client(
        "confluent-kafka, `group.protocol=consumer`", python_version("confluent-kafka"),
        "members come and go with both assignors, describing and listing, the hub killed under a group, change of "
        "protocol while empty, server-side regular expressions", "test_kafka_consumer_protocol.py",
        ("test_three_members", "test_the_group_is_there", "test_an_empty_group", "test_a_group_with", "test_a_pattern"),
    ),
    Client(
        "Java client", fetch_kafka.VERSION,
        "every codec, offsets by time, groups with rebalance, static members and commits (both protocols), server-side "
        "regular expressions, administration, topics by id", "test_kafka_java.py",
        ("test_every_codec", "test_group_rebalances", "test_static_member", "test_pattern", "test_administration"),
    ),
    Client(
        "Kafka's own tools", fetch_kafka.VERSION,
        "console producer and consumer, topics, configs, consumer groups (describe, reset, delete), groups, "
        "get-offsets, producer and consumer performance, broker API versions, ACLs, SCRAM users and their quotas",
        "test_kafka_java.py",
        ("test_console", "test_topics_and_configs", "test_groups", "test_performance_tools", "test_api_versions",
         "test_a_user_made_and_granted"),
    ),
    Client(
        "confluent-kafka, kafka-python: who may do what", python_version("confluent-kafka"),
        "ACLs (literal, prefixed, allow, deny) and SCRAM users: made, shown, deleted, and in force on open connections",
        "test_acl_clients.py", ("test_a_user_signs_in", "test_describe_shows", "test_scram_users", "test_kafka_python"),
    ),
    Client(
        "aiokafka", python_version("aiokafka"),
        "every codec, idempotence, groups, commits, offsets by time, administration",
        "test_kafka_clients.py", ("test_aiokafka",),
    ),
    Client(
        "kafka-python", python_version("kafka-python"), "every codec, groups, commits, offsets by time, administration",
        "test_kafka_clients.py", ("test_kafka_python",),
    ),
    Client(
        "kafkajs", npm_version("js", "kafkajs"),
        "none, gzip and snappy, idempotence, groups with rebalance, commits, offsets by time, administration",
        "test_kafka_js.py", ("test_codecs", "test_group_rebalances", "test_administration"),
    ),
    Client(
        "@platformatic/kafka", npm_version("js", "@platformatic/kafka"),
        "none, gzip, snappy, lz4 (zstd where Node has it), idempotence, groups of both protocols, commits, offsets by "
        "time, administration", "test_kafka_js.py",
        ("test_codecs", "test_group_rebalances", "test_group_of_the_new_protocol", "test_administration"),
    ),
    Client(
        "kcat", "of the system", "list, produce with every codec, consume, offsets, balanced consumer",
        "test_kafka_clients.py", ("test_kcat",),
    ),
)  # fmt: skip

_TRANSACTIONS: Final = Gap("Transactions are refused at once", "all", "idempotent producers")

GAPS: Final = (
    *([_TRANSACTIONS] if 26 in NOT_SERVED else []),
    Gap(
        "After all brokers were away at once, as when the hub restarts, `send_offsets_to_transaction` may wait for "
        "ever (librdkafka issue 5511: it waits for a broker it has forgotten)",
        "librdkafka 2.10 and later, transactions with positions, any server", "`metadata.recovery.strategy=none`",
    ),
    Gap(
        "A group with members does not change between the classic and the consumer protocol while it runs",
        "all that speak both", "stop its members, then start them with the other; positions stay",
    ),
    Gap(
        "Membership is not kept over a restart of the hub: members join again, and a batch may be read twice",
        "all", "commit often, or make effects idempotent",
    ),
    Gap("Share groups (KIP-932) and Streams groups (KIP-1071) are not offered", "Java", "consumer groups"),
    Gap(
        "Server-side regular expressions know the common part of RE2: no named or Unicode classes, no flags, no `\\b`",
        "Java `SubscriptionPattern`, librdkafka `^...`", "list the topics, or subscribe with a pattern of the client",
    ),
    Gap("Regular expressions of groups take in no hub whose name begins with `__`", "all", "name it"),
    Gap("lz4 and zstd need packages with native code, which the tests do not build", "kafkajs", "gzip or snappy"),
)  # fmt: skip
"""Most harmful first. What of each API is missing is in the protocol page."""
