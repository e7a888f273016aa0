"""Message tables of what is done to logs: deleting, describing.

Notation: `gridwire.wire.kafka.schema`. Source: Apache Kafka protocol guide. Only the versions we serve are described.
"""

from typing import Final

TABLES: Final = """
21 DeleteRecords 0-2 flexible 2
>
Topics []
  Name string
  Partitions []
    PartitionIndex int32
    Offset int64
TimeoutMs int32
<
ThrottleTimeMs int32
Topics []
  Name string
  Partitions []
    PartitionIndex int32
    LowWatermark int64 = -1
    ErrorCode int16

33 AlterConfigs 0-2 flexible 2
>
Resources []
  ResourceType int8
  ResourceName string
  Configs []
    Name string
    Value string null
ValidateOnly bool
<
ThrottleTimeMs int32
Responses []
  ErrorCode int16
  ErrorMessage string null = null
  ResourceType int8
  ResourceName string

35 DescribeLogDirs 1-4 flexible 2
>
Topics [] null
  Topic string
  Partitions []int32
<
ThrottleTimeMs int32
ErrorCode int16 3+
Results []
  ErrorCode int16
  LogDir string
  Topics []
    Name string
    Partitions []
      PartitionIndex int32
      PartitionSize int64
      OffsetLag int64
      IsFutureKey bool
  TotalBytes int64 4+ = -1
  UsableBytes int64 4+ = -1

47 OffsetDelete 0-0 flexible 99
>
GroupId string
Topics []
  Name string
  Partitions []
    PartitionIndex int32
<
ErrorCode int16
ThrottleTimeMs int32
Topics []
  Name string
  Partitions []
    PartitionIndex int32
    ErrorCode int16

75 DescribeTopicPartitions 0-0 flexible 0
>
Topics []
  Name string
ResponsePartitionLimit int32 = 2000
Cursor {} null = null
  TopicName string
  PartitionIndex int32
<
ThrottleTimeMs int32
Topics []
  ErrorCode int16
  Name string null
  TopicId uuid
  IsInternal bool
  Partitions []
    ErrorCode int16
    PartitionIndex int32
    LeaderId int32
    LeaderEpoch int32 = -1
    ReplicaNodes []int32
    IsrNodes []int32
    EligibleLeaderReplicas []int32 null
    LastKnownElr []int32 null
    OfflineReplicas []int32
  TopicAuthorizedOperations int32 = -2147483648
NextCursor {} null = null
  TopicName string
  PartitionIndex int32
"""
