"""The HTTP head's tests of admin over a Kafka cluster, see `on_kafka`."""

from typing import Final

from on_kafka import take

LEFT_OUT: Final = {
    "test_group_members": "needs the hub's own groups: test_groups_of_kafka_clients_are_shown_and_protected",
}

take("unit/test_http_admin", LEFT_OUT, globals())
