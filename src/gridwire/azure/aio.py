"""The checkpoint store and the credential of `gridwire.azure` for asyncio."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httpx
from azure.eventhub.aio import CheckpointStore

from gridwire.address import HubAddress, reachable
from gridwire.azure import protocol
from gridwire.azure.credential import AsyncKeyCredential as KeyCredential
from gridwire.azure.protocol import Request

__all__ = ["HubCheckpointStore", "KeyCredential"]


class HubCheckpointStore(CheckpointStore):
    """Checkpoints and ownership in the hub itself, for asyncio; see `gridwire.azure.HubCheckpointStore`."""

    def __init__(
        self, url: str | None = None, *, connection_string: str | None = None, ca_file: str | None = None
    ) -> None:
        self._address = HubAddress.found(url, connection_string, ca_file)
        self._http = httpx.AsyncClient(**self._address.options())

    async def list_ownership(
        self, fully_qualified_namespace: str, eventhub_name: str, consumer_group: str, **kwargs: Any
    ) -> Iterable[dict[str, Any]]:
        """Who owns which partition, people who let go included."""
        answer = await self._call(protocol.claims_request(eventhub_name, consumer_group))
        return protocol.owned(fully_qualified_namespace, eventhub_name, consumer_group, answer)

    async def claim_ownership(
        self, ownership_list: Iterable[dict[str, Any]], **kwargs: Any
    ) -> Iterable[dict[str, Any]]:
        """Claim partitions; returns what was granted, with new etags."""
        wanted = list(ownership_list)
        found: list[dict[str, Any]] = []
        for request in protocol.claim_requests(wanted):
            found += protocol.granted(wanted, request, await self._call(request))
        return found

    async def update_checkpoint(self, checkpoint: dict[str, Any], **kwargs: Any) -> None:
        """Commit the position behind an event; durable when it returns."""
        await self._call(protocol.commit_request(checkpoint))

    async def list_checkpoints(
        self, fully_qualified_namespace: str, eventhub_name: str, consumer_group: str, **kwargs: Any
    ) -> Iterable[dict[str, Any]]:
        """The last events that were dealt with, one a partition."""
        answer = await self._call(protocol.positions_request(eventhub_name, consumer_group))
        return protocol.checkpointed(fully_qualified_namespace, eventhub_name, consumer_group, answer)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _call(self, request: Request) -> Any:
        with reachable(self._address.url):
            answer = await self._http.request(request.method, request.path, params=request.query, json=request.body)
        return protocol.result(answer)
