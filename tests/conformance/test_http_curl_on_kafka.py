"""curl against a gateway, see `on_kafka`."""

from typing import Final

from on_kafka import take

LEFT_OUT: Final[dict[str, str]] = {}

take("conformance/test_http_curl", LEFT_OUT, globals())
