"""The AMQP 1.0 head: Azure Event Hubs' SDKs and any AMQP client, over the same log as every other protocol."""

from gridwire.heads.amqp.server import AmqpHead

__all__ = ["AmqpHead"]
