"""For programs that use Azure's SDKs: a checkpoint store in the hub, and a credential made of a policy's key.

    from azure.eventhub import EventHubConsumerClient
    from gridwire.azure import HubCheckpointStore

    client = EventHubConsumerClient.from_connection_string(
        connection_string, "$Default", eventhub_name="readings", checkpoint_store=HubCheckpointStore()
    )

`gridwire.azure.aio` has the same for asyncio. Needs `pip install 'gridwire[azure]'`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httpx
from azure.eventhub import CheckpointStore

from gridwire.address import HubAddress, reachable
from gridwire.azure import protocol
from gridwire.azure.credential import KeyCredential
from gridwire.azure.protocol import Request

__all__ = ["HubCheckpointStore", "KeyCredential"]


class HubCheckpointStore(CheckpointStore):
    """Checkpoints and ownership in the hub itself: no storage account is needed.

    A checkpoint is the committed position of the consumer group: `gridwire group show` and Kafka clients see it, and
    resetting the group moves the processor. Ownership is claimed with etags, so of two processors one loses.

    Args:
        url: the hub's HTTP address; else `GRIDWIRE_URL`, else the default port on this machine.
        connection_string: policy and key to sign in with; else `GRIDWIRE_CONNECTION_STRING`.
        ca_file: authorities (PEM) that vouch for the hub; else `GRIDWIRE_CA_FILE`, else the system's.

    Methods raise GridwireError with the hub's reason, Unavailable when it cannot be reached.
    """

    def __init__(
        self, url: str | None = None, *, connection_string: str | None = None, ca_file: str | None = None
    ) -> None:
        self._address = HubAddress.found(url, connection_string, ca_file)
        self._http = httpx.Client(**self._address.options())

    def list_ownership(
        self, fully_qualified_namespace: str, eventhub_name: str, consumer_group: str, **kwargs: Any
    ) -> Iterable[dict[str, Any]]:
        """Who owns which partition, people who let go included."""
        answer = self._call(protocol.claims_request(eventhub_name, consumer_group))
        return protocol.owned(fully_qualified_namespace, eventhub_name, consumer_group, answer)

    def claim_ownership(self, ownership_list: Iterable[dict[str, Any]], **kwargs: Any) -> Iterable[dict[str, Any]]:
        """Claim partitions; returns what was granted, with new etags."""
        wanted = list(ownership_list)
        found: list[dict[str, Any]] = []
        for request in protocol.claim_requests(wanted):
            found += protocol.granted(wanted, request, self._call(request))
        return found

    def update_checkpoint(self, checkpoint: dict[str, Any], **kwargs: Any) -> None:
        """Commit the position behind an event; durable when it returns."""
        self._call(protocol.commit_request(checkpoint))

    def list_checkpoints(
        self, fully_qualified_namespace: str, eventhub_name: str, consumer_group: str, **kwargs: Any
    ) -> Iterable[dict[str, Any]]:
        """The last events that were dealt with, one a partition."""
        answer = self._call(protocol.positions_request(eventhub_name, consumer_group))
        return protocol.checkpointed(fully_qualified_namespace, eventhub_name, consumer_group, answer)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _call(self, request: Request) -> Any:
        with reachable(self._address.url):
            answer = self._http.request(request.method, request.path, params=request.query, json=request.body)
        return protocol.result(answer)
