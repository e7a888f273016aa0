"""Message tables of who may do what: access control lists, quotas and SCRAM users.

Notation: `gridwire.wire.kafka.schema`. Source: Apache Kafka protocol guide. Only the versions we serve are described.
"""

from typing import Final

TABLES: Final = """
29 DescribeAcls 1-3 flexible 2
>
ResourceTypeFilter int8
ResourceNameFilter string null
PatternTypeFilter int8 = 3
PrincipalFilter string null
HostFilter string null
Operation int8
PermissionType int8
<
ThrottleTimeMs int32
ErrorCode int16
ErrorMessage string null = null
Resources []
  ResourceType int8
  ResourceName string
  PatternType int8 = 3
  Acls []
    Principal string
    Host string
    Operation int8
    PermissionType int8

30 CreateAcls 1-3 flexible 2
>
Creations []
  ResourceType int8
  ResourceName string
  ResourcePatternType int8 = 3
  Principal string
  Host string
  Operation int8
  PermissionType int8
<
ThrottleTimeMs int32
Results []
  ErrorCode int16
  ErrorMessage string null = null

31 DeleteAcls 1-3 flexible 2
>
Filters []
  ResourceTypeFilter int8
  ResourceNameFilter string null
  PatternTypeFilter int8 = 3
  PrincipalFilter string null
  HostFilter string null
  Operation int8
  PermissionType int8
<
ThrottleTimeMs int32
FilterResults []
  ErrorCode int16
  ErrorMessage string null = null
  MatchingAcls []
    ErrorCode int16
    ErrorMessage string null = null
    ResourceType int8
    ResourceName string
    PatternType int8 = 3
    Principal string
    Host string
    Operation int8
    PermissionType int8

48 DescribeClientQuotas 0-1 flexible 1
>
Components []
  EntityType string
  MatchType int8
  Match string null
Strict bool
<
ThrottleTimeMs int32
ErrorCode int16
ErrorMessage string null = null
Entries [] null
  Entity []
    EntityType string
    EntityName string null
  Values []
    Key string
    Value float64

49 AlterClientQuotas 0-1 flexible 1
>
Entries []
  Entity []
    EntityType string
    EntityName string null
  Ops []
    Key string
    Value float64
    Remove bool
ValidateOnly bool
<
ThrottleTimeMs int32
Entries []
  ErrorCode int16
  ErrorMessage string null = null
  Entity []
    EntityType string
    EntityName string null

50 DescribeUserScramCredentials 0-0 flexible 0
>
Users [] null
  Name string
<
ThrottleTimeMs int32
ErrorCode int16
ErrorMessage string null = null
Results []
  User string
  ErrorCode int16
  ErrorMessage string null = null
  CredentialInfos []
    Mechanism int8
    Iterations int32

51 AlterUserScramCredentials 0-0 flexible 0
>
Deletions []
  Name string
  Mechanism int8
Upsertions []
  Name string
  Mechanism int8
  Iterations int32
  Salt bytes
  SaltedPassword bytes
<
ThrottleTimeMs int32
Results []
  User string
  ErrorCode int16
  ErrorMessage string null = null
"""
