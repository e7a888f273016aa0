"""The ledger of AMQP clients: what is tested, and what is not there, most harmful first. Source of a reference page."""

from __future__ import annotations

from typing import Final

import fetch_azure
import fetch_qpid
from client_ledger import Client, Gap, npm_version, python_version

_EVENT_HUBS: Final = python_version("azure-eventhub")

CLIENTS: Final = (
    Client(
        "azure-eventhub (Python)", _EVENT_HUBS,
        "batches, single events, partition id and key, every starting position, `@latest`, properties of hub and "
        "partition, owner level, keys right and wrong, events from and to Kafka, a kill of the hub; TLS and WebSocket",
        "test_amqp_azure.py",
        ("test_send_receive", "test_every_position", "test_latest", "test_a_higher_owner", "test_keys_and_rights",
         "test_an_event_is_the_same_in_kafka", "test_what_is_acknowledged", "test_over_tls"),
        "overlooks credit, so what holds it back is the socket and the acceptance; after a rejection it does not try "
        "again",
    ),
    Client(
        "azure-eventhub.aio (Python)", _EVENT_HUBS, "sending and receiving; over TLS and over WebSocket",
        "test_amqp_azure.py", ("test_asyncio", "test_over_tls"),
        "waits about 0.1 s after each round of credit: `prefetch` decides how fast it reads",
    ),
    Client(
        "azure-eventhub, both, with `HubCheckpointStore`", _EVENT_HUBS,
        "two processors share a hub, one is killed, the other takes over, nothing is lost",
        "test_amqp_processors.py", ("test_a_killed_processor",),
        "takes over after `partition_ownership_expiration_interval`; events after the last checkpoint come again",
    ),
    Client(
        "@azure/event-hubs (JavaScript)", npm_version("js_azure", "@azure/event-hubs"),
        "batches, partition id and key, buffered producer, properties of events, hub and partition, every starting "
        "position, latest with its metric, owner level, load-balanced consumers that take over from each other; over "
        "TLS and WebSocket; a wrong key",
        "test_amqp_azure_js.py", ("test_on_loopback", "test_with_keys"),
        "its idempotent producer is served as an ordinary one",
    ),
    Client(
        "azure-messaging-eventhubs (Java)", fetch_azure.VERSION, "the same",
        "test_amqp_azure_java.py", ("test_on_loopback", "test_with_keys"),
    ),
    Client(
        "Apache Qpid Proton (Python)", python_version("python-qpid-proton-wheel"),
        "every body and field back, settled and unsettled, outcomes, 900 KB in frames of 512 bytes, credit, drain, "
        "positions, dynamic and unknown nodes, reconnecting, sharing a hub, every way to sign in",
        "test_amqp_proton.py",
        ("test_a_value_body", "test_every_field", "test_settled", "test_outcomes", "test_a_message_of_900",
         "test_no_more_than_credit", "test_drain", "test_positions", "test_unknown_nodes", "test_dynamic_nodes",
         "test_resume", "test_two_receivers", "test_plain", "test_external"),
        "tested on Linux with Python 3.11, for which it has a wheel",
    ),
    Client(
        "rhea (JavaScript)", npm_version("rhea", "rhea"),
        "values of every type, settling, credit, large messages, nodes, reconnecting, every way to sign in; over TLS",
        "test_amqp_rhea.py", ("test_case", "test_plain_over_tls", "test_a_certificate", "test_a_wrong_key"),
    ),
    Client(
        "Apache Qpid JMS (Java)", fetch_qpid.VERSION,
        "every kind of message with its headers and properties, acknowledging and recovering, large and many messages, "
        "draining, browsing, failover, signing in; what is refused",
        "test_amqp_jms.py", ("test_case",),
        "transacted sessions, durable subscriptions and message selectors are refused",
    ),
)  # fmt: skip

GAPS: Final = (
    Gap("The SDK for .NET has not been run against it", "Azure.Messaging.EventHubs", "Kafka clients, until it has"),
    Gap("Links are not resumed: nothing is kept of a link when its connection goes", "all",
        "clients send again what was not accepted; a group goes on where it committed"),
    Gap("Idempotent producers and transactions over AMQP are not served", "all", "Kafka's"),
    Gap("A dynamic node serves as an address for replies only", "all", "name the hub"),
    Gap("`ttl` is kept with the event and not acted upon", "all", "retention of the hub"),
    Gap("`first-acquirer` and `delivery-count` of a sender are not kept: they belong to one delivery", "all", "-"),
)  # fmt: skip
"""Most harmful first."""
