"""Message tables of groups and positions.

Notation: `gridwire.wire.kafka.schema`. Source: Apache Kafka protocol guide. Only the versions we serve are described.
"""

from typing import Final

TABLES: Final = """
10 FindCoordinator 0-6 flexible 3
>
Key string 0-3
KeyType int8 1+
CoordinatorKeys []string 4+
<
ThrottleTimeMs int32 1+
ErrorCode int16 0-3
ErrorMessage string 1-3 null = null
NodeId int32 0-3
Host string 0-3
Port int32 0-3
Coordinators [] 4+
  Key string 4+
  NodeId int32 4+
  Host string 4+
  Port int32 4+
  ErrorCode int16 4+
  ErrorMessage string 4+ null = null

11 JoinGroup 0-9 flexible 6
>
GroupId string
SessionTimeoutMs int32
RebalanceTimeoutMs int32 1+ = -1
MemberId string
GroupInstanceId string 5+ null = null
ProtocolType string
Protocols []
  Name string
  Metadata bytes
Reason string 8+ null = null
<
ThrottleTimeMs int32 2+
ErrorCode int16
GenerationId int32 = -1
ProtocolType string 7+ null = null
ProtocolName string null 7+
Leader string
SkipAssignment bool 9+
MemberId string
Members []
  MemberId string
  GroupInstanceId string 5+ null = null
  Metadata bytes

14 SyncGroup 0-5 flexible 4
>
GroupId string
GenerationId int32
MemberId string
GroupInstanceId string 3+ null = null
ProtocolType string 5+ null = null
ProtocolName string 5+ null = null
Assignments []
  MemberId string
  Assignment bytes
<
ThrottleTimeMs int32 1+
ErrorCode int16
ProtocolType string 5+ null = null
ProtocolName string 5+ null = null
Assignment bytes

12 Heartbeat 0-4 flexible 4
>
GroupId string
GenerationId int32
MemberId string
GroupInstanceId string 3+ null = null
<
ThrottleTimeMs int32 1+
ErrorCode int16

13 LeaveGroup 0-5 flexible 4
>
GroupId string
MemberId string 0-2
Members [] 3+
  MemberId string 3+
  GroupInstanceId string 3+ null = null
  Reason string 5+ null = null
<
ThrottleTimeMs int32 1+
ErrorCode int16
Members [] 3+
  MemberId string 3+
  GroupInstanceId string 3+ null = null
  ErrorCode int16 3+

8 OffsetCommit 2-10 flexible 8
>
GroupId string
GenerationIdOrMemberEpoch int32 1+ = -1
MemberId string 1+
GroupInstanceId string 7+ null = null
RetentionTimeMs int64 2-4 = -1
Topics []
  Name string 0-9
  TopicId uuid 10+
  Partitions []
    PartitionIndex int32
    CommittedOffset int64
    CommittedLeaderEpoch int32 6+ = -1
    CommittedMetadata string null
<
ThrottleTimeMs int32 3+
Topics []
  Name string 0-9
  TopicId uuid 10+
  Partitions []
    PartitionIndex int32
    ErrorCode int16

9 OffsetFetch 1-10 flexible 6
>
GroupId string 0-7
Topics [] 0-7 null 2-7
  Name string 0-7
  PartitionIndexes []int32 0-7
Groups [] 8+
  GroupId string 8+
  MemberId string 9+ null = null
  MemberEpoch int32 9+ = -1
  Topics [] 8+ null
    Name string 8-9
    TopicId uuid 10+
    PartitionIndexes []int32 8+
RequireStable bool 7+
<
ThrottleTimeMs int32 3+
Topics [] 0-7
  Name string 0-7
  Partitions [] 0-7
    PartitionIndex int32 0-7
    CommittedOffset int64 0-7
    CommittedLeaderEpoch int32 5-7 = -1
    Metadata string 0-7 null
    ErrorCode int16 0-7
ErrorCode int16 2-7
Groups [] 8+
  GroupId string 8+
  Topics [] 8+
    Name string 8-9
    TopicId uuid 10+
    Partitions [] 8+
      PartitionIndex int32 8+
      CommittedOffset int64 8+
      CommittedLeaderEpoch int32 8+ = -1
      Metadata string 8+ null
      ErrorCode int16 8+
  ErrorCode int16 8+

15 DescribeGroups 0-6 flexible 5
>
Groups []string
IncludeAuthorizedOperations bool 3+
<
ThrottleTimeMs int32 1+
Groups []
  ErrorCode int16
  ErrorMessage string 6+ null = null
  GroupId string
  GroupState string
  ProtocolType string
  ProtocolData string
  Members []
    MemberId string
    GroupInstanceId string 4+ null = null
    ClientId string
    ClientHost string
    MemberMetadata bytes
    MemberAssignment bytes
  AuthorizedOperations int32 3+ = -2147483648

68 ConsumerGroupHeartbeat 0-1 flexible 0
>
GroupId string
MemberId string
MemberEpoch int32
InstanceId string null = null
RackId string null = null
RebalanceTimeoutMs int32 = -1
SubscribedTopicNames []string null = null
SubscribedTopicRegex string 1+ null = null
ServerAssignor string null = null
TopicPartitions [] null = null
  TopicId uuid
  Partitions []int32
<
ThrottleTimeMs int32
ErrorCode int16
ErrorMessage string null = null
MemberId string null = null
MemberEpoch int32
HeartbeatIntervalMs int32
Assignment {} null = null
  TopicPartitions []
    TopicId uuid
    Partitions []int32

69 ConsumerGroupDescribe 0-1 flexible 0
>
GroupIds []string
IncludeAuthorizedOperations bool
<
ThrottleTimeMs int32
Groups []
  ErrorCode int16
  ErrorMessage string null = null
  GroupId string
  GroupState string
  GroupEpoch int32
  AssignmentEpoch int32
  AssignorName string
  Members []
    MemberId string
    InstanceId string null = null
    RackId string null = null
    MemberEpoch int32
    ClientId string
    ClientHost string
    SubscribedTopicNames []string
    SubscribedTopicRegex string null = null
    Assignment {}
      TopicPartitions []
        TopicId uuid
        TopicName string
        Partitions []int32
    TargetAssignment {}
      TopicPartitions []
        TopicId uuid
        TopicName string
        Partitions []int32
    MemberType int8 1+ = -1
  AuthorizedOperations int32 = -2147483648

16 ListGroups 0-5 flexible 3
>
StatesFilter []string 4+
TypesFilter []string 5+
<
ThrottleTimeMs int32 1+
ErrorCode int16
Groups []
  GroupId string
  ProtocolType string
  GroupState string 4+
  GroupType string 5+

42 DeleteGroups 0-2 flexible 2
>
GroupsNames []string
<
ThrottleTimeMs int32
Results []
  GroupId string
  ErrorCode int16
"""
