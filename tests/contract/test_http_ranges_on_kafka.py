"""Files and copies of ranges through a gateway, see `on_kafka`."""

from typing import Final

from on_kafka import take

LEFT_OUT: Final = {"test_a_time_that_no_calendar_has_stays_a_number": "Kafka refuses such an event"}

take("unit/test_http_ranges", LEFT_OUT, globals())
