"""Faults planted into the stacks, one at a time, each with what has to catch it: a test of the tests.

Whatever a linter catches may be left to it; the rest is what our own rules are for.
"""

import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.dont_write_bytecode = True

from templates import ROOT

# The route ack as far as its response.
ACK = "      RouteKey: ack\n      Target: !Sub 'integrations/${ApiAckIntegration}'\n      AuthorizationType: NONE"

# Name, file, what stands there, what is put in its place, and who notices: a rule of rules.py, or a linter's rule.
MUTANTS = [
    # The six that no linter sees.
    (
        "a push permission without its verb",
        "app.yaml",
        "/${Stage}/POST/@connections/*'",
        "/${Stage}/@connections/*'",
        "only_the_connections_of_this_stage_can_be_pushed_to",
    ),
    (
        "two subnets for a single broker",
        "data.yaml",
        "!If [IsCluster, !Ref SubnetIds, [!Select [0, !Ref SubnetIds]]]",
        "!Ref SubnetIds",
        "a_single_broker_has_one_subnet_and_a_cluster_all",
    ),
    (
        "a typo in the key of a secret",
        "data.yaml",
        "${CacheSecret}:SecretString:token}}@",
        "${CacheSecret}:SecretString:tokn}}@",
        "every_reference_to_a_secret_finds_what_it_names",
    ),
    (
        "another port in a security group",
        "data.yaml",
        "          ToPort: 5671\n          SourceSecurityGroupId: !Ref FunctionsGroup",
        "          ToPort: 5672\n          SourceSecurityGroupId: !Ref FunctionsGroup",
        "security_groups_open_the_ports_that_are_used_and_no_other",
    ),
    (
        "a stop that Fargate does not wait for",
        "app.yaml",
        "StopTimeout: 60",
        "StopTimeout: 180",
        "a_task_is_given_the_time_that_the_consumer_takes_to_stop",
    ),
    (
        "a secret that the task may not read",
        "app.yaml",
        "Resource: [!Ref AmqpUrlSecretArn, !Ref RedisUrlSecretArn]",
        "Resource: [!Ref AmqpUrlSecretArn]",
        "secrets_can_be_read_by_whoever_starts_the_task",
    ),
    # A broker or a cache of one's own.
    (
        "a broker beside an existing one",
        "data.yaml",
        "    Type: AWS::AmazonMQ::Broker\n    Condition: MakesBroker\n",
        "    Type: AWS::AmazonMQ::Broker\n",
        "an_existing_broker_or_cache_is_used_and_none_is_made",
    ),
    (
        "alarms for a broker that is not there",
        "data.yaml",
        "Value: !If [MakesBroker, !Sub '${Name}-broker${DataSuffix}', !Ref ExistingBrokerName]",
        "Value: !Sub '${Name}-broker${DataSuffix}'",
        "an_existing_broker_or_cache_is_used_and_none_is_made",
    ),
    (
        "an existing cache with another one's URL",
        "data.yaml",
        "!Ref ExistingCacheUrlSecretArn]",
        "!Ref ExistingBrokerConsumerUrlSecretArn]",
        "an_existing_broker_or_cache_is_used_and_none_is_made",
    ),
    (
        "an existing broker without a URL for the consumer",
        "data.yaml",
        "!Not [!Equals [!Ref ExistingBrokerConsumerUrlSecretArn, '']]",
        "!Not [!Equals [!Ref ExistingBrokerFunctionsUrlSecretArn, '']]",
        "an_existing_broker_or_cache_is_used_and_none_is_made",
    ),
    (
        "functions for a broker whose limits are not known",
        "data.yaml",
        "!Or [!Condition IsCluster, !Not [!Condition MakesBroker]]",
        "!Or [!Condition IsCluster, !Condition IsCluster]",
        "existing_brokers_are_counted_with_the_limits_that_they_surely_have",
    ),
    # The edge.
    (
        "no route response for send",
        "app.yaml",
        "RouteId: !Ref ApiSendRoute, RouteResponseKey",
        "RouteId: !Ref ApiAckRoute, RouteResponseKey",
        "every_route_has_its_function_its_permission_and_its_answer",
    ),
    (
        "an ack that nobody answers",
        "app.yaml",
        f"{ACK}\n      RouteResponseSelectionExpression: $default",
        ACK,
        "every_route_has_its_function_its_permission_and_its_answer",
    ),
    (
        "an edge that calls the newest code, not the alias",
        "app.yaml",
        "{ Alias: !Ref ConnectFunction.Alias }",
        "{ Alias: !GetAtt ConnectFunction.Arn }",
        "every_route_has_its_function_its_permission_and_its_answer",
    ),
    (
        "a route of another name",
        "app.yaml",
        "RouteKey: $disconnect",
        "RouteKey: disconnect",
        "every_route_has_its_function_its_permission_and_its_answer",
    ),
    (
        "a route that is made beside another one",
        "app.yaml",
        "  ApiSendIntegration:\n    Type: AWS::ApiGatewayV2::Integration\n    DependsOn: DefaultResponse\n",
        "  ApiSendIntegration:\n    Type: AWS::ApiGatewayV2::Integration\n",
        "parts_of_the_api_are_made_one_after_the_other",
    ),
    (
        "a stage that deploys route by route",
        "app.yaml",
        "    DependsOn: PingResponse\n",
        "",
        "parts_of_the_api_are_made_one_after_the_other",
    ),
    (
        "a key that the logs of another part of AWS may use",
        "data.yaml",
        "logs.${AWS::Region}.${AWS::URLSuffix}",
        "logs.${AWS::Region}.amazonaws.com",
        "every_part_of_aws_is_called_by_its_own_names",
    ),
    (
        "a policy of another part of AWS",
        "app.yaml",
        "!Sub 'arn:${AWS::Partition}:execute-api:${AWS::Region}:${AWS::AccountId}:${Api}/${Stage}/GET/@connections/*'",
        "!Sub 'arn:aws:execute-api:${AWS::Region}:${AWS::AccountId}:${Api}/${Stage}/GET/@connections/*'",
        "every_part_of_aws_is_called_by_its_own_names",
    ),
    (
        "another pong than the protocol's",
        "app.yaml",
        '{"event":"RESPPONG","RC":1,"ER":0}',
        '{"event":"PONG","RC":1,"ER":0}',
        "the_edge_answers_a_ping_as_the_protocol_says",
    ),
    (
        "pushes to the domain, where there is no stage",
        "app.yaml",
        "{ Name: CALLBACK_URL, Value: !Sub 'https://${Api}.execute-api.${AWS::Region}.${AWS::URLSuffix}/${Stage}' }",
        "{ Name: CALLBACK_URL, Value: !Sub 'https://${DomainName}/${Stage}' }",
        "pushes_go_where_clients_are",
    ),
    # Permissions.
    (
        "a consumer that can't close what it has to",
        "app.yaml",
        "/${Stage}/DELETE/@connections/*'",
        "/${Stage}/GET/@connections/*'",
        "only_the_connections_of_this_stage_can_be_pushed_to",
    ),
    (
        "a role that may push to every API",
        "app.yaml",
        ":${Api}/${Stage}/POST",
        ":*/${Stage}/POST",
        "only_the_connections_of_this_stage_can_be_pushed_to",
    ),
    (
        "a consumer that may call the API, and never does",
        "app.yaml",
        "                Action: execute-api:ManageConnections\n",
        "                Action: [execute-api:ManageConnections, execute-api:Invoke]\n",
        "each_role_holds_exactly_what_its_program_calls",
    ),
    (
        "functions that may read all secrets",
        "app.yaml",
        "Sid: Settings, Effect: Allow, Action: kms:Decrypt, Resource: !Ref KeyArn }",
        "Sid: Settings, Effect: Allow, Action: [kms:Decrypt, secretsmanager:GetSecretValue], Resource: '*' }",
        "each_role_holds_exactly_what_its_program_calls",
    ),
    (
        "functions that may make network interfaces themselves",
        "app.yaml",
        "function:${Name}-*'\n          - { Sid: Settings",
        "function:other-*'\n          - { Sid: Settings",
        "each_role_holds_exactly_what_its_program_calls",
    ),
    (
        "an action that there is not",
        "app.yaml",
        "Action: [logs:CreateLogStream, logs:PutLogEvents], Resource: !GetAtt SendLogs.Arn",
        "Action: [logs:CreateLogStreams, logs:PutLogEvents], Resource: !GetAtt SendLogs.Arn",
        "each_role_holds_exactly_what_its_program_calls",
    ),
    (
        "functions that have the consumer's user of the broker",
        "app.yaml",
        "secretsmanager:${FunctionsAmqpUrlSecretArn}:SecretString",
        "secretsmanager:${AmqpUrlSecretArn}:SecretString",
        "functions_and_consumer_have_users_of_the_broker_of_their_own",
    ),
    (
        "a consumer that is the administrator of the broker",
        "data.yaml",
        "${ConsumerBrokerSecret}:SecretString:username}}:{{resolve:secretsmanager:${ConsumerBrokerSecret}",
        "${BrokerSecret}:SecretString:username}}:{{resolve:secretsmanager:${BrokerSecret}",
        "functions_and_consumer_have_users_of_the_broker_of_their_own",
    ),
    (
        "functions that reach the management of the broker",
        "data.yaml",
        "          ToPort: 443\n          SourceSecurityGroupId: !Ref BrokerUsersGroup",
        "          ToPort: 443\n          SourceSecurityGroupId: !Ref FunctionsGroup",
        "security_groups_open_the_ports_that_are_used_and_no_other",
    ),
    (
        "a console that nobody reaches",
        "data.yaml",
        "ConsoleHasCidr: !Not [!Equals [!Ref ConsoleCidr, '']]",
        "ConsoleHasCidr: !Equals [!Ref ConsoleCidr, '']",
        "security_groups_open_the_ports_that_are_used_and_no_other",
    ),
    (
        "what makes the users of the broker may read secrets",
        "data.yaml",
        "                Action: [logs:CreateLogStream, logs:PutLogEvents]\n                Resource: !GetAtt BrokerUsersLogs.Arn",
        "                Action: [logs:CreateLogStream, logs:PutLogEvents, secretsmanager:GetSecretValue]\n                Resource: !GetAtt BrokerUsersLogs.Arn",
        "what_makes_the_users_of_the_broker_can_do_nothing_else",
    ),
    (
        "a deployer that may not do what is needed",
        "deployer.json",
        '     "ecs:CreateService",\n',
        "",
        "the_deployer_may_do_what_the_stacks_and_the_command_need_and_no_more",
    ),
    (
        "a deployer that may read every secret",
        "deployer.json",
        '"arn:<partition>:secretsmanager:<region>:<account>:secret:<name>*"',
        '"arn:<partition>:secretsmanager:<region>:<account>:secret:*"',
        "the_deployer_may_do_what_the_stacks_and_the_command_need_and_no_more",
    ),
    (
        "a stack with something for which the deployer has no permission",
        "network.yaml",
        "Resources:\n",
        "Resources:\n  Table:\n    Type: AWS::DynamoDB::Table\n    Properties: { KeySchema: [] }\n",
        "the_deployer_may_do_what_the_stacks_and_the_command_need_and_no_more",
    ),
    (
        "a role without a boundary",
        "data.yaml",
        "      PermissionsBoundary: !If [HasBoundary, !Ref PermissionsBoundary, !Ref AWS::NoValue]\n",
        "",
        "roles_are_bounded_and_lie_where_they_are_asked_to",
    ),
    (
        "roles of CI that every repository takes on",
        "ci/role.yaml",
        "token.actions.githubusercontent.com:sub: !Sub 'repo:${Repository}:environment:${Environment}'",
        "token.actions.githubusercontent.com:sub: 'repo:*'",
        "only_the_workflow_of_the_repository_takes_on_the_roles_of_ci",
    ),
    (
        "a check of a pull request that may deploy",
        "ci/role.yaml",
        "                  - lambda:GetAccountSettings\n",
        "                  - lambda:*\n",
        "only_the_workflow_of_the_repository_takes_on_the_roles_of_ci",
    ),
    (
        "a workflow with a key",
        "ci/github.yml",
        "role-to-assume: ${{ vars.AWS_DEPLOY_ROLE }}",
        "aws-access-key-id: ${{ secrets.AWS_KEY }}",
        "the_workflow_keeps_no_key_and_goes_back_when_no_chat_is_served",
    ),
    # Settings.
    (
        "a setting that nobody sets",
        "app.yaml",
        "          RNO_WINDOW: !Ref RnoWindow\n",
        "",
        "the_environment_is_exactly_what_the_programs_read",
    ),
    (
        "a setting that nobody reads",
        "app.yaml",
        "          RNO_WINDOW: !Ref RnoWindow\n",
        "          RNO_WINDOW: !Ref RnoWindow\n          RNO_WINDOWS: !Ref RnoWindow\n",
        "the_environment_is_exactly_what_the_programs_read",
    ),
    (
        "a secret given as a PEM",
        "app.yaml",
        "!Ref JwtJwksUrl, !Ref AWS::NoValue]\n          JWT_SECRET: !If [KeyIsSecret,",
        "!Ref JwtJwksUrl, !Ref AWS::NoValue]\n          JWT_SECRET: !If [KeyIsPem,",
        "the_environment_is_exactly_what_the_programs_read",
    ),
    (
        "an issuer whose keys nobody may fetch",
        "data.yaml",
        "CallsOut: !Equals [!Ref FunctionsCallOut, 'true']",
        "CallsOut: !Equals [!Ref FunctionsCallOut, 'yes']",
        "security_groups_open_the_ports_that_are_used_and_no_other",
    ),
    (
        "a key that is fetched from nowhere",
        "app.yaml",
        "          RNO_WINDOW: !Ref RnoWindow\n          JWT_JWKS_URL: !If [KeyIsJwksUrl,",
        "          RNO_WINDOW: !Ref RnoWindow\n          JWT_JWKS_URL: !If [KeyIsJwks,",
        "the_environment_is_exactly_what_the_programs_read",
    ),
    (
        "a secret in plain text",
        "app.yaml",
        "REDIS_URL: !Sub '{{resolve:secretsmanager:${RedisUrlSecretArn}:SecretString}}'",
        "REDIS_URL: rediss://:hunter2@cache:6379/0",
        "no_secret_stands_in_a_template",
    ),
    (
        "a key for message ids in plain text",
        "app.yaml",
        "MESSAGE_ID_KEY: !Sub '{{resolve:secretsmanager:${MessageIdKeySecretArn}:SecretString}}'",
        "MESSAGE_ID_KEY: a key of at least thirty-two bytes",
        "no_secret_stands_in_a_template",
    ),
    (
        "a send that names messages without a key",
        "app.yaml",
        "          MESSAGE_ID_KEY: !Sub '{{resolve:secretsmanager:${MessageIdKeySecretArn}:SecretString}}'\n",
        "",
        "the_environment_is_exactly_what_the_programs_read",
    ),
    (
        "settings that never go live",
        "app.yaml",
        "      AutoPublishCodeSha256: !Ref Revision\n      CodeUri: { Bucket: !Ref ArtifactBucket, Key: !Ref SendKey }",
        "      AutoPublishAliasAllProperties: true\n      CodeUri: { Bucket: !Ref ArtifactBucket, Key: !Ref SendKey }",
        "a_new_revision_makes_new_versions_and_new_tasks",
    ),
    (
        "a parameter nobody gives",
        "profiles/prod.json",
        '"CacheNodeType": "cache.m7g.large",\n',
        '"CacheNodesType": "cache.m7g.large",\n',
        "profiles_give_what_the_stacks_need_and_nothing_else",
    ),
    (
        "an output of another name",
        "data.yaml",
        "  BrokerSize: { Description",
        "  BrokerType: { Description",
        "profiles_give_what_the_stacks_need_and_nothing_else",
    ),
    # Size and safety.
    (
        "more functions than the broker takes",
        "app.yaml",
        "Connect: 30, Disconnect: 20, Send: 80 }",
        "Connect: 30, Disconnect: 20, Send: 180 }",
        "functions_and_tasks_together_stay_below_the_brokers_connections",
    ),
    (
        "a reservation that the broker's connections do not bear",
        "broker-limits.json",
        '"reserved": { "connect": 180, "disconnect": 90, "send": 450 }',
        '"reserved": { "connect": 200, "disconnect": 100, "send": 500 }',
        "functions_and_tasks_together_stay_below_the_brokers_connections",
    ),
    (
        "a broker of version 4 with ten consumers a channel",
        "data.yaml",
        "SetsLimits: !Not [!Equals [!Ref BrokerVersion, '3.13']]",
        "SetsLimits: !Equals [!Ref BrokerVersion, '3.13']",
        "a_broker_of_version_4_is_given_the_limits_that_it_is_counted_on",
    ),
    (
        "limits that no broker has",
        "data.yaml",
        "{ Id: !Ref BrokerLimits, Revision: !GetAtt BrokerLimits.Revision }",
        "{ Id: !Ref BrokerLimits, Revision: 1 }",
        "a_broker_of_version_4_is_given_the_limits_that_it_is_counted_on",
    ),
    (
        "functions that are counted on limits which a cluster does not have",
        "data.yaml",
        "Value: !If [HasDefaultLimits, default, maximum]",
        "Value: !If [SetsLimits, maximum, maximum]",
        "a_broker_of_version_4_is_given_the_limits_that_it_is_counted_on",
    ),
    (
        "a limit that the table does not know",
        "data.yaml",
        "mq.m7g.large: { Connections: 5000,",
        "mq.m7g.large: { Connections: 50000,",
        "templates_take_the_limits_of_the_broker_from_one_table",
    ),
    (
        "an alarm beyond the limit",
        "observability.yaml",
        "{ Connections: 240, Queues: 2000 }",
        "{ Connections: 400, Queues: 2000 }",
        "templates_take_the_limits_of_the_broker_from_one_table",
    ),
    (
        "a broker that goes with its stack",
        "data.yaml",
        "    Type: AWS::AmazonMQ::Broker\n    Condition: MakesBroker\n    DeletionPolicy: RetainExceptOnCreate",
        "    Type: AWS::AmazonMQ::Broker\n    Condition: MakesBroker\n    DeletionPolicy: Delete",
        "data_outlives_its_stack",
    ),
    (
        "a secret that survives a creation that failed",
        "data.yaml",
        "  CacheSecret:\n    Type: AWS::SecretsManager::Secret\n    Condition: MakesCache\n    DeletionPolicy: RetainExceptOnCreate",
        "  CacheSecret:\n    Type: AWS::SecretsManager::Secret\n    Condition: MakesCache\n    DeletionPolicy: Retain",
        "data_outlives_its_stack",
    ),
    (
        "a secret of the same name as the one left behind",
        "data.yaml",
        "Name: !Sub '${Name}${DataSuffix}/redis-url'",
        "Name: !Sub '${Name}/redis-url'",
        "data_left_behind_can_be_stepped_around_by_name",
    ),
    (
        "a secret that nobody is told to delete",
        "README.md",
        "amqp-url cache redis-url",
        "amqp-url cache",
        "the_manual_lists_all_that_another_suffix_leaves_behind",
    ),
    (
        "one zone's gateway for all in prod",
        "profiles/prod.json",
        '"nat-per-zone"',
        '"nat"',
        "the_profiles_are_what_they_claim_to_be",
    ),
    (
        "a cluster whose queues have no copies",
        "profiles/prod.json",
        '"BrokerVersion": "3.13"',
        '"BrokerVersion": "4.2"',
        "the_profiles_are_what_they_claim_to_be",
    ),
    (
        "a task that Fargate does not have",
        "profiles/dev.json",
        '"ConsumerMemory": "512"',
        '"ConsumerMemory": "4096"',
        "the_profiles_are_what_they_claim_to_be",
    ),
    (
        "a private endpoint for execute-api",
        "network.yaml",
        "${AWS::Region}.s3'\n      VpcEndpointType: Gateway",
        "${AWS::Region}.execute-api'\n      VpcEndpointType: Gateway",
        "nothing_takes_the_connections_api_away_from_the_vpc",
    ),
    (
        "a subnet in another zone than the one that was named",
        "network.yaml",
        "AvailabilityZone: !If [NamesZones, !Select [1, !Ref ZoneNames], !Select [1, !GetAZs '']]\n"
        "      CidrBlock: !Select [4,",
        "AvailabilityZone: !Select [1, !GetAZs '']\n      CidrBlock: !Select [4,",
        "subnets_are_in_the_zones_that_are_named",
    ),
    (
        "a third zone without a way out",
        "network.yaml",
        "    Condition: HasNatAndThird\n",
        "    Condition: NatInThird\n",
        "the_consumer_can_call_out_and_nobody_can_call_in",
    ),
    (
        "a cache that takes plain text",
        "data.yaml",
        "TransitEncryptionMode: required",
        "TransitEncryptionMode: preferred",
        "nothing_is_reached_without_tls",
    ),
    (
        "a broker in the open",
        "data.yaml",
        "PubliclyAccessible: false",
        "PubliclyAccessible: true",
        "nothing_is_reached_without_tls",
    ),
    (
        "a consumer without a circuit breaker",
        "app.yaml",
        "DeploymentCircuitBreaker: { Enable: true, Rollback: true }",
        "DeploymentCircuitBreaker: { Enable: true, Rollback: false }",
        "a_bad_release_goes_back_by_itself",
    ),
    (
        "a shift that looks at another function's alarm",
        "app.yaml",
        "Alarms: [!Ref SendErrors]",
        "Alarms: [!Ref ConnectErrors]",
        "a_bad_release_goes_back_by_itself",
    ),
    ("a task as root", "app.yaml", "User: '65532:65532'", "User: '0:0'", "a_task_is_as_locked_up_as_its_image_allows"),
    (
        "a probe of another port",
        "app.yaml",
        "[CMD, /probe, '127.0.0.1:8080'",
        "[CMD, /probe, '127.0.0.1:8081'",
        "a_task_is_as_locked_up_as_its_image_allows",
    ),
    (
        "an update that takes tasks away",
        "app.yaml",
        "      TaskDefinition: !Ref ConsumerTask\n",
        "      TaskDefinition: !Ref ConsumerTask\n      DesiredCount: !Ref ConsumerMinTasks\n",
        "an_update_leaves_the_number_of_tasks_to_scaling",
    ),
    (
        "tasks started for people who are away",
        "app.yaml",
        "MetricName: MessageUnacknowledgedCount",
        "MetricName: MessageCount",
        "tasks_are_started_by_work_and_not_by_what_waits_for_people",
    ),
    (
        "an alarm of the cache on a dimension that nobody publishes",
        "observability.yaml",
        "        - Id: node1\n          ReturnData: false\n          MetricStat:\n            Stat: Maximum\n            Period: 300\n"
        "            Metric:\n              Namespace: AWS/ElastiCache\n              MetricName: EngineCPUUtilization\n"
        "              Dimensions: [{ Name: CacheClusterId, Value: !Sub '${CacheId}-001' }]",
        "        - Id: node1\n          ReturnData: false\n          MetricStat:\n            Stat: Maximum\n            Period: 300\n"
        "            Metric:\n              Namespace: AWS/ElastiCache\n              MetricName: EngineCPUUtilization\n"
        "              Dimensions: [{ Name: ReplicationGroupId, Value: !Ref CacheId }]",
        "alarms_of_the_cache_look_at_every_node",
    ),
    (
        "an alarm of the cache that forgets a node",
        "observability.yaml",
        "CacheHas5: !And [!Condition CacheHas4, !Not [!Equals [!Ref CacheReplicas, '3']]]",
        "CacheHas5: !And [!Condition CacheHas4, !Not [!Equals [!Ref CacheReplicas, '4']]]",
        "alarms_of_the_cache_look_at_every_node",
    ),
    (
        "a widget of the cache that stays empty",
        "observability.yaml",
        "SEARCH('{AWS/ElastiCache,CacheClusterId}",
        "SEARCH('{AWS/ElastiCache,ReplicationGroupId}",
        "alarms_of_the_cache_look_at_every_node",
    ),
    (
        "an alarm that tells another topic than the one that was given",
        "observability.yaml",
        "      AlarmName: !Sub '${Name}-users-stuck'\n      AlarmDescription: Users can't be served and rest; the broker, the cache"
        " or the edge fails for them.\n      AlarmActions: [!If [MakesTopic, !Ref Alarms, !Ref AlarmTopicArn]]",
        "      AlarmName: !Sub '${Name}-users-stuck'\n      AlarmDescription: Users can't be served and rest; the broker, the cache"
        " or the edge fails for them.\n      AlarmActions: [!Ref Alarms]",
        "alarms_go_to_the_topic_that_is_given",
    ),
    (
        "an alarm that nobody explains",
        "observability.yaml",
        "AlarmName: !Sub '${Name}-broker-disk'",
        "AlarmName: !Sub '${Name}-broker-space'",
        "every_alarm_has_its_line_in_the_runbook",
    ),
    (
        "a parameter without bounds",
        "app.yaml",
        "    Default: 64\n    MinValue: 1\n    MaxValue: 65535",
        "    Default: 64",
        "every_parameter_is_described_and_bounded",
    ),
    (
        "access logs before the account has its role",
        "app.yaml",
        "Value: !If [OwnsAccountLogging, !Ref Account, other]",
        "Value: other",
        "access_logs_have_the_role_of_the_account_before_and_leave_it_behind",
    ),
    (
        "an account that points at a role which is gone",
        "app.yaml",
        "    DeletionPolicy: RetainExceptOnCreate\n    UpdateReplacePolicy: Retain\n",
        "",
        "access_logs_have_the_role_of_the_account_before_and_leave_it_behind",
    ),
    # Left to the linters.
    (
        "an attribute that there is not",
        "app.yaml",
        "ExecutionRoleArn: !GetAtt ConsumerStartRole.Arn",
        "ExecutionRoleArn: !GetAtt ConsumerStartRole.Arm",
        "cfn-lint",
    ),
    ("a runtime that there is not", "app.yaml", "Runtime: provided.al2023", "Runtime: provided.al2032", "cfn-lint"),
    (
        "a property that there is not",
        "data.yaml",
        "AtRestEncryptionEnabled: true",
        "AtRestEncryption: true",
        "cfn-lint",
    ),
    (
        "a reference to nothing",
        "network.yaml",
        "InternetGatewayId: !Ref InternetGateway }",
        "InternetGatewayId: !Ref Gateway }",
        "cfn-lint",
    ),
    ("a bucket that anybody may open", "data.yaml", "BlockPublicPolicy: true", "BlockPublicPolicy: false", "checkov"),
]

FEWEST = 25


def plant(mutant, into):
    """A copy of the stacks with one fault."""
    _, file, old, new, _ = mutant
    folder = into / "aws"
    shutil.copytree(ROOT / "infra/aws", folder, ignore=shutil.ignore_patterns("__pycache__"))
    text = (folder / file).read_text()
    if text.count(old) != 1:
        raise ValueError(f"{file} has `{old[:60]}` {text.count(old)} times, so nothing can be planted there")
    (folder / file).write_text(text.replace(old, new))
    return folder


def catch(mutant):
    """Who has noticed the fault."""
    name, file, *_, expected = mutant
    with tempfile.TemporaryDirectory() as into:
        folder = plant(mutant, Path(into))
        if expected == "checkov":
            from lint import checkov

            return {tool for tool, *_ in checkov(folder)}
        if expected == "cfn-lint":
            from lint import cfn_lint, translated

            found = cfn_lint(folder / file)
            # Some faults show only in what SAM makes of a template.
            for path in translated(folder, Path(into)) if not found else ():
                found += cfn_lint(path)
            return {tool for tool, rule, _ in found if rule != "W2001"}
        from rules import broken

        return {rule for rule, _ in broken(folder)}


def main():
    from rules import broken

    # A rule that is broken anyway would catch everything.
    if problems := broken(ROOT / "infra/aws"):
        print(f"the stacks are not in order as they are: {problems[0]}")
        return 1
    survivors = 0
    with ProcessPoolExecutor(max_workers=2) as workers:
        for mutant, caught in zip(MUTANTS, workers.map(catch, MUTANTS), strict=True):
            name, *_, expected = mutant
            is_caught = expected in caught
            survivors += not is_caught
            others = "" if is_caught else f", only {sorted(caught)}"
            print(f"{'caught  ' if is_caught else 'SURVIVED'} {name}: {expected}{others}", flush=True)
    print(f"{len(MUTANTS)} planted, {survivors} survived")
    return 1 if survivors or len(MUTANTS) < FEWEST else 0


if __name__ == "__main__":
    sys.exit(main())
