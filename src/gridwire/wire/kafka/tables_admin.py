"""Message tables of administration.

Notation: `gridwire.wire.kafka.schema`. Source: Apache Kafka protocol guide. Only the versions we serve are described.
"""

from typing import Final

TABLES: Final = """
19 CreateTopics 2-7 flexible 5
>
Topics []
  Name string
  NumPartitions int32
  ReplicationFactor int16
  Assignments []
    PartitionIndex int32
    BrokerIds []int32
  Configs []
    Name string
    Value string null
TimeoutMs int32 = 60000
ValidateOnly bool 1+
<
ThrottleTimeMs int32 2+
Topics []
  Name string
  TopicId uuid 7+
  ErrorCode int16
  ErrorMessage string 1+ null = null
  TopicConfigErrorCode int16 5+ tag 0
  NumPartitions int32 5+ = -1
  ReplicationFactor int16 5+ = -1
  Configs [] 5+ null
    Name string 5+
    Value string 5+ null
    ReadOnly bool 5+
    ConfigSource int8 5+ = -1
    IsSensitive bool 5+

20 DeleteTopics 1-6 flexible 4
>
Topics [] 6+
  Name string 6+ null = null
  TopicId uuid 6+
TopicNames []string 0-5
TimeoutMs int32
<
ThrottleTimeMs int32 1+
Responses []
  Name string null 6+
  TopicId uuid 6+
  ErrorCode int16
  ErrorMessage string 5+ null = null

37 CreatePartitions 0-3 flexible 2
>
Topics []
  Name string
  Count int32
  Assignments [] null = null
    BrokerIds []int32
TimeoutMs int32
ValidateOnly bool
<
ThrottleTimeMs int32
Results []
  Name string
  ErrorCode int16
  ErrorMessage string null = null

32 DescribeConfigs 1-4 flexible 4
>
Resources []
  ResourceType int8
  ResourceName string
  ConfigurationKeys []string null = null
IncludeSynonyms bool 1+
IncludeDocumentation bool 3+
<
ThrottleTimeMs int32
Results []
  ErrorCode int16
  ErrorMessage string null = null
  ResourceType int8
  ResourceName string
  Configs []
    Name string
    Value string null
    ReadOnly bool
    ConfigSource int8 1+ = -1
    IsSensitive bool
    Synonyms [] 1+
      Name string 1+
      Value string 1+ null
      Source int8 1+
    ConfigType int8 3+
    Documentation string 3+ null = null

44 IncrementalAlterConfigs 0-1 flexible 1
>
Resources []
  ResourceType int8
  ResourceName string
  Configs []
    Name string
    ConfigOperation int8
    Value string null = null
ValidateOnly bool
<
ThrottleTimeMs int32
Responses []
  ErrorCode int16
  ErrorMessage string null = null
  ResourceType int8
  ResourceName string

60 DescribeCluster 0-2 flexible 0
>
IncludeClusterAuthorizedOperations bool
EndpointType int8 1+ = 1
IncludeFencedBrokers bool 2+
<
ThrottleTimeMs int32
ErrorCode int16
ErrorMessage string null = null
EndpointType int8 1+ = 1
ClusterId string
ControllerId int32 = -1
Brokers []
  BrokerId int32
  Host string
  Port int32
  Rack string null = null
  IsFenced bool 2+
ClusterAuthorizedOperations int32 = -2147483648
"""
