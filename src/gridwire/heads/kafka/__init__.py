"""The Kafka head: unmodified Kafka clients in, broker calls out. One module per family of APIs."""

from gridwire.heads.kafka.server import KafkaHead

__all__ = ["KafkaHead"]
