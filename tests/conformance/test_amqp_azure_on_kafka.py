"""The unmodified azure-eventhub SDK against a gateway, see `on_kafka`."""

from typing import Final

from on_kafka import take

LEFT_OUT: Final = {
    "test_nonsense_is_closed_and_hurts_nobody": "no broker takes part",
    "test_a_page_of_another_site_opens_no_websocket": "no broker takes part",
}

take("conformance/test_amqp_azure", LEFT_OUT, globals())
