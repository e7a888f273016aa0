"""Message tables of transactions.

Notation: `gridwire.wire.kafka.schema`. Source: Apache Kafka protocol guide. Only the versions we serve are described.
"""

from typing import Final

TABLES: Final = """
24 AddPartitionsToTxn 0-3 flexible 3
>
V3AndBelowTransactionalId string
V3AndBelowProducerId int64
V3AndBelowProducerEpoch int16
V3AndBelowTopics []
  Name string
  Partitions []int32
<
ThrottleTimeMs int32
ResultsByTopicV3AndBelow []
  Name string
  ResultsByPartition []
    PartitionIndex int32
    PartitionErrorCode int16

25 AddOffsetsToTxn 0-4 flexible 3
>
TransactionalId string
ProducerId int64
ProducerEpoch int16
GroupId string
<
ThrottleTimeMs int32
ErrorCode int16

26 EndTxn 0-5 flexible 3
>
TransactionalId string
ProducerId int64
ProducerEpoch int16
Committed bool
<
ThrottleTimeMs int32
ErrorCode int16
ProducerId int64 5+ = -1
ProducerEpoch int16 5+ = -1

28 TxnOffsetCommit 0-5 flexible 3
>
TransactionalId string
GroupId string
ProducerId int64
ProducerEpoch int16
GenerationId int32 3+ = -1
MemberId string 3+
GroupInstanceId string 3+ null = null
Topics []
  Name string
  Partitions []
    PartitionIndex int32
    CommittedOffset int64
    CommittedLeaderEpoch int32 2+ = -1
    CommittedMetadata string null
<
ThrottleTimeMs int32
Topics []
  Name string
  Partitions []
    PartitionIndex int32
    ErrorCode int16
"""
