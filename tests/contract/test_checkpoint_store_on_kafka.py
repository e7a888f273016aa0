"""The checkpoint store of a gateway, see `on_kafka`."""

from typing import Final

from on_kafka import take

LEFT_OUT: Final[dict[str, str]] = {}

take("contract/test_checkpoint_store", LEFT_OUT, globals())
