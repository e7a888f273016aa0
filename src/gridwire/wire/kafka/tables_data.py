"""Message tables of the data path: versions, metadata, produce, fetch, offsets, producer ids.

Notation: `gridwire.wire.kafka.schema`. Source: Apache Kafka protocol guide. Only the versions we serve are described.
"""

from typing import Final

TABLES: Final = """
18 ApiVersions 0-4 flexible 3
>
ClientSoftwareName string 3+
ClientSoftwareVersion string 3+
<
ErrorCode int16
ApiKeys []
  ApiKey int16
  MinVersion int16
  MaxVersion int16
ThrottleTimeMs int32 1+
SupportedFeatures [] 3+ tag 0
  Name string 3+
  MinVersion int16 3+
  MaxVersion int16 3+
FinalizedFeaturesEpoch int64 3+ tag 1 = -1
FinalizedFeatures [] 3+ tag 2
  Name string 3+
  MaxVersionLevel int16 3+
  MinVersionLevel int16 3+
ZkMigrationReady bool 3+ tag 3

3 Metadata 0-13 flexible 9
>
Topics [] null 1+
  TopicId uuid 10+
  Name string null 10+
AllowAutoTopicCreation bool 4+ = true
IncludeClusterAuthorizedOperations bool 8-10
IncludeTopicAuthorizedOperations bool 8+
<
ThrottleTimeMs int32 3+
Brokers []
  NodeId int32
  Host string
  Port int32
  Rack string 1+ null = null
ClusterId string 2+ null = null
ControllerId int32 1+ = -1
Topics []
  ErrorCode int16
  Name string null 12+
  TopicId uuid 10+
  IsInternal bool 1+
  Partitions []
    ErrorCode int16
    PartitionIndex int32
    LeaderId int32
    LeaderEpoch int32 7+ = -1
    ReplicaNodes []int32
    IsrNodes []int32
    OfflineReplicas []int32 5+
  TopicAuthorizedOperations int32 8+ = -2147483648
ClusterAuthorizedOperations int32 8-10 = -2147483648
ErrorCode int16 13+

0 Produce 0-13 flexible 9
>
TransactionalId string 3+ null = null
Acks int16
TimeoutMs int32
TopicData []
  Name string 0-12
  TopicId uuid 13+
  PartitionData []
    Index int32
    Records records null
<
Responses []
  Name string 0-12
  TopicId uuid 13+
  PartitionResponses []
    Index int32
    ErrorCode int16
    BaseOffset int64
    LogAppendTimeMs int64 2+ = -1
    LogStartOffset int64 5+ = -1
    RecordErrors [] 8+
      BatchIndex int32 8+
      BatchIndexErrorMessage string 8+ null = null
    ErrorMessage string 8+ null = null
    CurrentLeader {} 10+ tag 0
      LeaderId int32 10+ = -1
      LeaderEpoch int32 10+ = -1
ThrottleTimeMs int32 1+
NodeEndpoints [] 10+ tag 0
  NodeId int32 10+
  Host string 10+
  Port int32 10+
  Rack string 10+ null = null

1 Fetch 4-18 flexible 12
>
ClusterId string 12+ null tag 0 = null
ReplicaId int32 0-14 = -1
ReplicaState {} 15+ tag 1
  ReplicaId int32 15+ = -1
  ReplicaEpoch int64 15+ = -1
MaxWaitMs int32
MinBytes int32
MaxBytes int32 3+ = 2147483647
IsolationLevel int8 4+
SessionId int32 7+
SessionEpoch int32 7+ = -1
Topics []
  Topic string 0-12
  TopicId uuid 13+
  Partitions []
    Partition int32
    CurrentLeaderEpoch int32 9+ = -1
    FetchOffset int64
    LastFetchedEpoch int32 12+ = -1
    LogStartOffset int64 5+ = -1
    PartitionMaxBytes int32
    ReplicaDirectoryId uuid 17+ tag 0
    HighWatermark int64 18+ tag 1 = 9223372036854775807
ForgottenTopicsData [] 7+
  Topic string 7-12
  TopicId uuid 13+
  Partitions []int32 7+
RackId string 11+
<
ThrottleTimeMs int32 1+
ErrorCode int16 7+
SessionId int32 7+
Responses []
  Topic string 0-12
  TopicId uuid 13+
  Partitions []
    PartitionIndex int32
    ErrorCode int16
    HighWatermark int64
    LastStableOffset int64 4+ = -1
    LogStartOffset int64 5+ = -1
    DivergingEpoch {} 12+ tag 0
      Epoch int32 12+ = -1
      EndOffset int64 12+ = -1
    CurrentLeader {} 12+ tag 1
      LeaderId int32 12+ = -1
      LeaderEpoch int32 12+ = -1
    SnapshotId {} 12+ tag 2
      EndOffset int64 = -1
      Epoch int32 = -1
    AbortedTransactions [] 4+ null
      ProducerId int64 4+
      FirstOffset int64 4+
    PreferredReadReplica int32 11+ = -1
    Records records null
NodeEndpoints [] 16+ tag 0
  NodeId int32 16+
  Host string 16+
  Port int32 16+
  Rack string 16+ null = null

2 ListOffsets 1-11 flexible 6
>
ReplicaId int32 = -1
IsolationLevel int8 2+
Topics []
  Name string
  Partitions []
    PartitionIndex int32
    CurrentLeaderEpoch int32 4+ = -1
    Timestamp int64
TimeoutMs int32 10+
<
ThrottleTimeMs int32 2+
Topics []
  Name string
  Partitions []
    PartitionIndex int32
    ErrorCode int16
    Timestamp int64 1+ = -1
    Offset int64 1+ = -1
    LeaderEpoch int32 4+ = -1

23 OffsetForLeaderEpoch 2-4 flexible 4
>
ReplicaId int32 3+ = -2
Topics []
  Topic string
  Partitions []
    Partition int32
    CurrentLeaderEpoch int32 2+ = -1
    LeaderEpoch int32
<
ThrottleTimeMs int32 2+
Topics []
  Topic string
  Partitions []
    ErrorCode int16
    Partition int32
    LeaderEpoch int32 1+ = -1
    EndOffset int64 = -1

22 InitProducerId 0-5 flexible 2
>
TransactionalId string null = null
TransactionTimeoutMs int32
ProducerId int64 3+ = -1
ProducerEpoch int16 3+ = -1
<
ThrottleTimeMs int32
ErrorCode int16
ProducerId int64 = -1
ProducerEpoch int16
"""
