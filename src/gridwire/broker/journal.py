"""What whoever keeps identities needs of the broker beyond the port: keyed entries in the control journal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from gridwire.broker.control import Changes
from gridwire.broker.port import Broker


class Journal(Broker, Protocol):
    """See the module."""

    async def change(self, changes: Changes) -> None:
        """Write keyed changes to the control journal; durable when it returns."""
        ...

    def kept(self, prefix: str) -> Iterable[tuple[str, bytes]]:
        """Journal entries below a prefix."""
        ...
