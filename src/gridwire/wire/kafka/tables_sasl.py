"""Message tables of signing in.

Notation: `gridwire.wire.kafka.schema`. Source: Apache Kafka protocol guide. Only the versions we serve are described.
"""

from typing import Final

TABLES: Final = """
17 SaslHandshake 0-1 flexible 99
>
Mechanism string
<
ErrorCode int16
Mechanisms []string

36 SaslAuthenticate 0-2 flexible 2
>
AuthBytes bytes
<
ErrorCode int16
ErrorMessage string null = null
AuthBytes bytes
SessionLifetimeMs int64 1+
"""
