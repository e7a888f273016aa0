"""The unmodified azure-schemaregistry client against a gateway, see `on_kafka`."""

from typing import Final

from on_kafka import take

LEFT_OUT: Final[dict[str, str]] = {}

take("conformance/test_azure_schema_registry", LEFT_OUT, globals())
