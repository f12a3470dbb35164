"""Whether the Terraform module and the templates deploy the same.

Terraform checks the format of the module, validates it and tests it with a mocked provider, which also gives plans. These
are compared with the templates under the same parameters: resources with their properties, policies, alarms, settings.
Variables and outputs are compared with parameters and outputs.
"""

import ipaddress
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

sys.dont_write_bytecode = True

from deployment import Deployment
from templates import ROOT, STACKS

MODULE = ROOT / "infra/aws/terraform"
PLANS = "tests/plans.tftest.hcl"
INSTALL = "https://developer.hashicorp.com/terraform/install"

# What the run `every_option` of the module's tests sets, with the names of the templates.
EVERY_OPTION = {
    "PermissionsBoundary": "arn:aws:iam::111122223333:policy/boundary",
    "RolePath": "/team/",
    "ZoneNames": "us-east-1b,us-east-1c",
    "FlowLogs": "true",
    "BrokerVersion": "4.2",
    "ConsoleCidr": "10.9.0.0/24",
    "ConsoleGroupId": "sg-22222222",
    "FunctionsCallOut": "true",
    "TraceCollectorPort": "4318",
    "JwtKeySecretArn": "arn:aws:secretsmanager:us-east-1:111122223333:secret:mine",
    "JwtKeyKind": "jwks-url",
    "JwtJwksUrl": "https://issuer.example/keys",
    "JwtAlgorithm": "ES256",
    "AccessLogs": "true",
    "AccountLogging": "true",
    "DomainName": "chat.example.com",
    "CertificateArn": "arn:aws:acm:us-east-1:111122223333:certificate/a",
    "HostedZoneId": "Z1",
    "AlarmTopicArn": "arn:aws:sns:us-east-1:111122223333:mine",
}

# The runs that are compared: profile and parameters.
RUNS = {"dev": ("dev", {}), "prod": ("prod", {}), "every_option": ("dev", EVERY_OPTION)}

# What the templates have and the module has not, with the reason.
SHIFTING = "Terraform moves the alias at once: it can't start a deployment of CodeDeploy"
EXISTING = "the module always creates the broker and the cache"
LEFT_OUT = {
    "AWS::CodeDeploy::Application": SHIFTING,
    "AWS::CodeDeploy::DeploymentGroup": SHIFTING,
    "ShiftRole": SHIFTING,
    "ConnectErrors": SHIFTING,
    "DisconnectErrors": SHIFTING,
    "SendErrors": SHIFTING,
    "Shift": SHIFTING,
    "Revision": "code, settings and the versions of secrets decide whether there is a new version",
    "ExistingBrokerName": EXISTING,
    "ExistingBrokerFunctionsUrlSecretArn": EXISTING,
    "ExistingBrokerConsumerUrlSecretArn": EXISTING,
    "ExistingCacheId": EXISTING,
    "ExistingCacheUrlSecretArn": EXISTING,
    "AWS::EC2::VPCGatewayAttachment": "a property of aws_internet_gateway",
    "AWS::Lambda::Version": "a property of aws_lambda_function",
}
SHIFTED_ALARMS = {"ConnectErrors", "DisconnectErrors", "SendErrors"}

# Parameters that are called otherwise: the module uploads zips, the command uploads them for the templates.
RENAMED = {"connect_key": "connect_zip", "disconnect_key": "disconnect_zip", "send_key": "send_zip"}
ADDED = {"data": {"broker_users_zip"}}

# What the mocked provider says is in every secret.
MOCKED = {"username": "user", "password": "passwordpassword", "token": "tokentokentokentoken"}

# What the module has beside the resources that are compared, with the reason.
PARTS = {
    "aws_ecr_lifecycle_policy": "a property of AWS::ECR::Repository",
    "aws_iam_role_policy": "a property of AWS::IAM::Role, compared below",
    "aws_iam_role_policy_attachment": "a property of AWS::IAM::Role",
    "aws_lambda_invocation": "kschat-aws makes the broker's users",
    "aws_s3_bucket_ownership_controls": "a property of AWS::S3::Bucket",
    "aws_s3_bucket_public_access_block": "a property of AWS::S3::Bucket",
    "aws_s3_bucket_server_side_encryption_configuration": "a property of AWS::S3::Bucket",
    "aws_s3_bucket_versioning": "a property of AWS::S3::Bucket",
    "aws_s3_object": "kschat-aws uploads the zips",
    "aws_secretsmanager_secret_version": "a property of AWS::SecretsManager::Secret",
}

ARN = "arn:aws:{}:us-east-1:111122223333:{}"
SECRET, GROUP = ARN.format("secretsmanager", "secret:a"), "sg-11111111"

CIDR = "10.20.0.0/16"
SUBNETS = [str(subnet) for subnet in ipaddress.ip_network(CIDR).subnets(new_prefix=22)]

# What a reference in the templates is in the plans: the answers in tests/mocks, and names.
ANSWERS = [
    (r"<\w*Log(s|Group)\.Arn>", ARN.format("logs", "log-group:a") + ":*"),
    (r"<Key(\.Arn|Arn)?>", ARN.format("kms", "key/a")),
    # SAM adds the revision to a function's description.
    (r" 0{64}$", ""),
    (r"<RepositoryArn>", ARN.format("ecr", "repository/a")),
    (r"<Artifacts\.Arn>", "arn:aws:s3:::artifacts"),
    (r"<Artifacts>", "artifacts"),
    (r"<Alarms>", ARN.format("sns", "a")),
    (r"<Api(Id)?>", "api1"),
    (r"\{\{resolve:secretsmanager:<\w+SecretArn>:SecretString\}\}", "<secret>"),
    (r"\{\{resolve:secretsmanager:<\w+>:SecretString:(\w+)\}\}", r"<\1>"),
    (r"<\w+SecretArn>", SECRET),
    (r"<(Functions|Consumer|BrokerUsers)Group>", GROUP),
    (r"<Cluster(Name)?>", "{name}"),
    (r"<(ServiceName|ConsumerService\.Name)>", "{name}-consumer"),
    (r"<BrokerName>", "{name}-broker"),
    (r"<CacheId>", "{name}"),
    (r"<StageName>", "{stage}"),
    (r"<(\w+)FunctionAliaslive>", lambda found: "{name}-" + found[1].lower()),
    (r"<Fn::GetAZs-(\d)>", lambda found: "us-east-1" + "abc"[int(found[1])]),
    (r"<Fn::Cidr-(\d)>", lambda found: SUBNETS[int(found[1])]),
]


def snake(name):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


# -- Values


def answered(node, run):
    """A node of a resolved template as the mocked provider would give it."""
    if isinstance(node, dict):
        return {key: answered(value, run) for key, value in node.items()}
    if isinstance(node, list):
        return [answered(value, run) for value in node]
    if not isinstance(node, str):
        return node
    for pattern, answer in ANSWERS:
        node = re.sub(pattern, answer, node)
    return node.replace("{name}", run.name).replace("{stage}", run.stage)


def plain(value):
    """One form of what both sides write differently: numbers and switches as text, and nothing for what is empty."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return str(int(value) if value == int(value) else value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if item not in (None, [], {}, "")}
    return "" if value is None else value


def document(policy):
    """A policy with lists where one text is allowed, in one order."""
    policy = json.loads(policy) if isinstance(policy, str) else policy
    for statement in policy["Statement"]:
        for key in ("Action", "Resource"):
            if key in statement:
                value = statement[key]
                statement[key] = sorted(value if isinstance(value, list) else [value])
    return policy


def at(node, path):
    """The value at a path such as `logs.0.general`; nothing where there is none."""
    for key in path.split("."):
        if isinstance(node, list):
            node = node[int(key)] if int(key) < len(node) else None
        else:
            node = (node or {}).get(key)
    return node


# -- Resources: for each type of the templates that of the module, and pairs of properties with the same value.


def pairs(text):
    """`CfnPath tf_path` a line; a single name is the same on both sides but for its case."""
    lines = (line.split() for line in text.split("\n") if line.strip())
    return [(line[0], line[1] if len(line) > 1 else snake(line[0])) for line in lines]


def rules(group):
    """Who may call whom, by a security group of either side; a rule that reaches nobody is none."""
    found = []
    for way, tf_way in (("SecurityGroupIngress", "ingress"), ("SecurityGroupEgress", "egress")):
        for rule in group.get(way, []):
            peer = rule.get("CidrIp") or rule["SourceSecurityGroupId"]
            if peer != "127.0.0.1/32":
                found.append((tf_way, str(rule["FromPort"]), str(rule["ToPort"]), peer, rule["Description"]))
        for rule in group.get(tf_way) or []:
            for peer in (rule["cidr_blocks"] or []) + (rule["security_groups"] or []):
                found.append((tf_way, str(rule["from_port"]), str(rule["to_port"]), peer, rule["description"]))
    return sorted(found)


def alarm_metrics(alarm):
    """What an alarm looks at, whether it calculates or not, by either side."""
    queries = []
    for query in alarm.get("Metrics", []):
        stat = query.get("MetricStat", {})
        metric = stat.get("Metric", {})
        dimensions = {d["Name"]: d["Value"] for d in metric.get("Dimensions", [])}
        queries.append(
            [query["Id"], query.get("Expression"), query.get("Label"), query["ReturnData"], stat.get("Stat")]
        )
        queries[-1] += [stat.get("Period"), metric.get("Namespace"), metric.get("MetricName"), dimensions]
    for query in alarm.get("metric_query") or []:
        metric = (query["metric"] or [{}])[0]
        queries.append([query["id"], query["expression"], query["label"], query["return_data"], metric.get("stat")])
        names = ("period", "namespace", "metric_name", "dimensions")
        queries[-1] += [metric.get(name) for name in names[:3]] + [metric.get("dimensions") or {}]
    dimensions = {d["Name"]: d["Value"] for d in alarm.get("Dimensions", [])} or alarm.get("dimensions") or {}
    return sorted((plain(query) for query in queries), key=str), dimensions


def scaling(policy):
    """What a scaling policy keeps at which value, by either side."""
    how = policy.get("TargetTrackingScalingPolicyConfiguration")
    if how:
        steady = [how["TargetValue"], how["ScaleOutCooldown"], how["ScaleInCooldown"]]
        predefined = at(how, "PredefinedMetricSpecification.PredefinedMetricType")
        looked_at = [
            [m["Id"], m.get("Expression"), at(m, "MetricStat.Stat"), at(m, "MetricStat.Metric.MetricName")]
            + [d["Value"] for d in at(m, "MetricStat.Metric.Dimensions") or []]
            for m in at(how, "CustomizedMetricSpecification.Metrics") or []
        ]
    else:
        (how,) = policy["target_tracking_scaling_policy_configuration"]
        steady = [how["target_value"], how["scale_out_cooldown"], how["scale_in_cooldown"]]
        predefined = at(how, "predefined_metric_specification.0.predefined_metric_type")
        looked_at = [
            [m["id"], m["expression"], at(m, "metric_stat.0.stat"), at(m, "metric_stat.0.metric.0.metric_name")]
            + [d["value"] for d in at(m, "metric_stat.0.metric.0.dimensions") or []]
            for m in at(how, "customized_metric_specification.0.metrics") or []
        ]
    return plain([*steady, predefined]), sorted(plain(looked_at))


def containers(task):
    """Containers in the form of the ECS API, by either side; the revision has another origin."""

    def camel(node):
        if isinstance(node, list):
            return [camel(item) for item in node]
        if isinstance(node, dict):
            return {key[0].lower() + key[1:]: camel(value) for key, value in node.items()}
        return node

    given = task.get("ContainerDefinitions") or json.loads(task["container_definitions"])
    given = plain(camel(given))
    for container in given:
        container["dockerLabels"] = sorted(container["dockerLabels"])
        for key in ("environment", "secrets"):
            container[key] = sorted(container[key], key=str)
    return given


def environment(function):
    """Settings of a function, by either side. The values of secrets are the mocked ones."""
    given = at(function, "Environment.Variables") or at(function, "environment.0.variables") or {}
    mocked = json.dumps(MOCKED, separators=(",", ":"))
    return {name: "<secret>" if value == mocked else plain(value) for name, value in given.items() if value is not None}


def nodes(cache):
    return cache.get("num_cache_clusters") or int(cache["ReplicasPerNodeGroup"]) + 1


def reserved(function):
    return function.get("ReservedConcurrentExecutions") or function.get("reserved_concurrent_executions")


def request(integration):
    return json.loads(
        at(integration, "RequestTemplates.$default") or at(integration, "request_templates.$default") or "{}"
    )


def access_log(stage):
    return json.loads(at(stage, "AccessLogSettings.Format") or at(stage, "access_log_settings.0.format") or "{}")


def widgets(dashboard):
    return json.loads(dashboard.get("DashboardBody") or dashboard["dashboard_body"])


KINDS = {
    "AWS::EC2::VPC": ("aws_vpc", pairs("CidrBlock\nEnableDnsHostnames\nEnableDnsSupport"), []),
    "AWS::EC2::InternetGateway": ("aws_internet_gateway", [], []),
    "AWS::EC2::Subnet": ("aws_subnet", pairs("CidrBlock\nAvailabilityZone\nTags.0.Value tags.Name"), []),
    "AWS::EC2::RouteTable": ("aws_route_table", pairs("Tags.0.Value tags.Name"), []),
    "AWS::EC2::Route": ("aws_route", pairs("DestinationCidrBlock"), []),
    "AWS::EC2::SubnetRouteTableAssociation": ("aws_route_table_association", [], []),
    "AWS::EC2::EIP": ("aws_eip", pairs("Domain\nTags.0.Value tags.Name"), []),
    "AWS::EC2::NatGateway": ("aws_nat_gateway", pairs("Tags.0.Value tags.Name"), []),
    "AWS::EC2::VPCEndpoint": ("aws_vpc_endpoint", pairs("ServiceName\nVpcEndpointType"), []),
    "AWS::EC2::FlowLog": ("aws_flow_log", pairs("TrafficType\nLogDestinationType"), []),
    "AWS::EC2::SecurityGroup": (
        "aws_security_group",
        pairs("GroupDescription description\nTags.0.Value tags.Name"),
        [rules],
    ),
    "AWS::Logs::LogGroup": ("aws_cloudwatch_log_group", pairs("LogGroupName name\nRetentionInDays\nKmsKeyId"), []),
    "AWS::KMS::Key": (
        "aws_kms_key",
        pairs("""
            Description
            EnableKeyRotation
            PendingWindowInDays deletion_window_in_days
            KeyPolicy policy
        """),
        [],
    ),
    "AWS::KMS::Alias": ("aws_kms_alias", pairs("AliasName name"), []),
    "AWS::IAM::Role": (
        "aws_iam_role",
        pairs("AssumeRolePolicyDocument assume_role_policy\nPath\nPermissionsBoundary"),
        [],
    ),
    "AWS::IAM::ManagedPolicy": ("aws_iam_policy", pairs("Description\nPolicyDocument policy\nPath"), []),
    "AWS::SecretsManager::Secret": ("aws_secretsmanager_secret", pairs("Name\nDescription\nKmsKeyId"), []),
    "AWS::AmazonMQ::Configuration": ("aws_mq_configuration", pairs("Name\nDescription\nEngineVersion\nData"), []),
    "AWS::AmazonMQ::Broker": (
        "aws_mq_broker",
        pairs("""
            BrokerName
            EngineVersion
            HostInstanceType
            DeploymentMode
            PubliclyAccessible
            AutoMinorVersionUpgrade
            MaintenanceWindowStartTime.DayOfWeek maintenance_window_start_time.0.day_of_week
            MaintenanceWindowStartTime.TimeOfDay maintenance_window_start_time.0.time_of_day
            MaintenanceWindowStartTime.TimeZone maintenance_window_start_time.0.time_zone
            Logs.General logs.0.general
        """),
        [],
    ),
    "AWS::ElastiCache::SubnetGroup": (
        "aws_elasticache_subnet_group",
        pairs("CacheSubnetGroupName name\nDescription"),
        [],
    ),
    "AWS::ElastiCache::ParameterGroup": (
        "aws_elasticache_parameter_group",
        pairs("CacheParameterGroupFamily family\nDescription\nProperties.maxmemory-policy parameter.0.value"),
        [],
    ),
    "AWS::ElastiCache::ReplicationGroup": (
        "aws_elasticache_replication_group",
        pairs("""
            ReplicationGroupId
            ReplicationGroupDescription description
            Engine
            EngineVersion
            CacheNodeType node_type
            AutomaticFailoverEnabled
            MultiAZEnabled multi_az_enabled
            Port
            TransitEncryptionEnabled
            TransitEncryptionMode
            AtRestEncryptionEnabled
            KmsKeyId
            AutoMinorVersionUpgrade
            PreferredMaintenanceWindow maintenance_window
            SnapshotRetentionLimit
        """),
        [nodes],
    ),
    "AWS::ECR::Repository": (
        "aws_ecr_repository",
        pairs("""
            RepositoryName name
            ImageTagMutability
            ImageScanningConfiguration.ScanOnPush image_scanning_configuration.0.scan_on_push
            EncryptionConfiguration.KmsKey encryption_configuration.0.kms_key
        """),
        [],
    ),
    "AWS::S3::Bucket": ("aws_s3_bucket", pairs("BucketName bucket"), []),
    "AWS::S3::BucketPolicy": ("aws_s3_bucket_policy", pairs("PolicyDocument policy"), []),
    "AWS::Lambda::Function": (
        "aws_lambda_function",
        pairs("""
            FunctionName
            Description
            Runtime
            Handler
            Architectures
            MemorySize
            Timeout
            KmsKeyArn
        """),
        [environment, reserved],
    ),
    "AWS::Lambda::Alias": ("aws_lambda_alias", pairs("Name"), []),
    "AWS::Lambda::Permission": ("aws_lambda_permission", pairs("Action\nFunctionName\nPrincipal\nSourceArn"), []),
    "AWS::ApiGatewayV2::Api": (
        "aws_apigatewayv2_api",
        pairs("Name\nDescription\nProtocolType\nRouteSelectionExpression\nIpAddressType"),
        [],
    ),
    "AWS::ApiGatewayV2::Integration": (
        "aws_apigatewayv2_integration",
        pairs("IntegrationType\nTemplateSelectionExpression"),
        [request],
    ),
    "AWS::ApiGatewayV2::IntegrationResponse": (
        "aws_apigatewayv2_integration_response",
        pairs("IntegrationResponseKey\nTemplateSelectionExpression\nResponseTemplates"),
        [],
    ),
    "AWS::ApiGatewayV2::Route": (
        "aws_apigatewayv2_route",
        pairs("RouteKey\nAuthorizationType\nRouteResponseSelectionExpression"),
        [],
    ),
    "AWS::ApiGatewayV2::RouteResponse": ("aws_apigatewayv2_route_response", pairs("RouteResponseKey"), []),
    "AWS::ApiGatewayV2::Stage": (
        "aws_apigatewayv2_stage",
        pairs("""
            StageName name
            AutoDeploy
            DefaultRouteSettings.ThrottlingRateLimit default_route_settings.0.throttling_rate_limit
            DefaultRouteSettings.ThrottlingBurstLimit default_route_settings.0.throttling_burst_limit
        """),
        [access_log],
    ),
    "AWS::ApiGatewayV2::DomainName": (
        "aws_apigatewayv2_domain_name",
        pairs("""
            DomainName
            DomainNameConfigurations.0.CertificateArn domain_name_configuration.0.certificate_arn
            DomainNameConfigurations.0.EndpointType domain_name_configuration.0.endpoint_type
            DomainNameConfigurations.0.SecurityPolicy domain_name_configuration.0.security_policy
        """),
        [],
    ),
    "AWS::ApiGatewayV2::ApiMapping": ("aws_apigatewayv2_api_mapping", [], []),
    "AWS::ApiGateway::Account": ("aws_api_gateway_account", [], []),
    "AWS::Route53::RecordSet": ("aws_route53_record", pairs("HostedZoneId zone_id\nName\nType"), []),
    "AWS::ECS::Cluster": (
        "aws_ecs_cluster",
        pairs("ClusterName name\nClusterSettings.0.Name setting.0.name\nClusterSettings.0.Value setting.0.value"),
        [],
    ),
    "AWS::ECS::TaskDefinition": (
        "aws_ecs_task_definition",
        pairs("""
            Family
            Cpu
            Memory
            NetworkMode
            RequiresCompatibilities
            RuntimePlatform.CpuArchitecture runtime_platform.0.cpu_architecture
        """),
        [containers],
    ),
    "AWS::ECS::Service": (
        "aws_ecs_service",
        pairs("""
            ServiceName name
            LaunchType
            PlatformVersion
            DeploymentConfiguration.MinimumHealthyPercent deployment_minimum_healthy_percent
            DeploymentConfiguration.MaximumPercent deployment_maximum_percent
            DeploymentConfiguration.DeploymentCircuitBreaker.Enable deployment_circuit_breaker.0.enable
            DeploymentConfiguration.DeploymentCircuitBreaker.Rollback deployment_circuit_breaker.0.rollback
            PropagateTags
        """),
        [],
    ),
    "AWS::ApplicationAutoScaling::ScalableTarget": (
        "aws_appautoscaling_target",
        pairs("ServiceNamespace\nScalableDimension\nResourceId\nMinCapacity\nMaxCapacity"),
        [],
    ),
    "AWS::ApplicationAutoScaling::ScalingPolicy": (
        "aws_appautoscaling_policy",
        pairs("PolicyName name\nPolicyType"),
        [scaling],
    ),
    "AWS::CloudWatch::Alarm": (
        "aws_cloudwatch_metric_alarm",
        pairs("""
            AlarmName
            AlarmDescription
            AlarmActions
            OKActions ok_actions
            Namespace
            MetricName
            Statistic
            ExtendedStatistic
            Period
            Threshold
            ComparisonOperator
            EvaluationPeriods
            DatapointsToAlarm
            TreatMissingData
        """),
        [alarm_metrics],
    ),
    "AWS::CloudWatch::Dashboard": (
        "aws_cloudwatch_dashboard",
        pairs("DashboardName"),
        [widgets],
    ),
    "AWS::SNS::Topic": ("aws_sns_topic", pairs("TopicName name\nKmsMasterKeyId"), []),
    "AWS::SNS::Subscription": ("aws_sns_topic_subscription", pairs("Protocol\nEndpoint"), []),
}

DOCUMENTS = {"KeyPolicy", "AssumeRolePolicyDocument", "PolicyDocument"}
# Where the provider writes a default that the templates leave out.
DEFAULTS = {"Path": "/"}


def described(resource, kind, side):
    """The compared properties of a resource of either side, as text."""
    _, properties, functions = KINDS[kind]
    found = {}
    for pair in properties:
        value = at(resource, pair[side])
        value = DEFAULTS.get(pair[0]) if value is None else value
        found[pair[0]] = document(value) if pair[0] in DOCUMENTS else plain(value)
    found |= {function.__name__: function(resource) for function in functions}
    return json.dumps(found, sort_keys=True)


def inline_policies(stack):
    for role in stack.of_type("AWS::IAM::Role").values():
        for policy in role.get("Policies", []):
            yield policy["PolicyName"], policy["PolicyDocument"]


class Run:
    """One run of the module's tests and the templates under the same parameters."""

    def __init__(self, name, plan, deployment):
        profile, given = RUNS[name]
        self.label, self.name = name, "kschat-prod" if name == "prod" else "kschat-dev"
        image = f"111122223333.dkr.ecr.us-east-1.amazonaws.com/a@sha256:{'0' * 64}"
        given = given | {"Name": self.name, "VpcCidr": CIDR, "ImageUri": image}
        given |= {"CacheReplicas": deployment.profiles[profile]["data"]["CacheReplicas"]}
        self.stage = deployment.profiles[profile]["app"]["Stage"]
        self.stacks = {stack: deployment.resolved(profile, stack, **given) for stack in STACKS}
        self.planned = {stack: [] for stack in STACKS}
        for change in plan["resource_changes"]:
            if change["mode"] == "managed":
                stack = re.match(r"module\.(\w+)", change["address"])[1]
                self.planned[stack].append((change["type"], change["change"]["after"]))

    def problems(self):
        for stack in STACKS:
            for kind, differs in self.differences(stack):
                yield f"{self.label}: {stack}: {kind}: {differs}"

    def differences(self, stack):
        resolved, planned = self.stacks[stack], self.planned[stack]
        templates = {kind for kind in (r["Type"] for r in resolved.resources.values()) if kind not in LEFT_OUT}
        yield from ((kind, "no resource of the module is known for it") for kind in templates - KINDS.keys())
        known = {tf for tf, _, _ in KINDS.values()} | PARTS.keys()
        yield from ((kind, "no resource of the templates is known for it") for kind in {k for k, _ in planned} - known)
        for kind, (tf_kind, _, _) in KINDS.items():
            left_out = set(LEFT_OUT) - (SHIFTED_ALARMS if stack == "observability" else set())
            wanted = [answered(p, self) for id, p in resolved.of_type(kind).items() if id not in left_out]
            wanted = [self.named(p, stack) for p in wanted]
            yield from compared(
                kind,
                [described(properties, kind, 0) for properties in wanted],
                [described(after, kind, 1) for found, after in planned if found == tf_kind],
            )
        wanted = [
            (name, document(answered(policy, self))) for name, policy in inline_policies(resolved) if name != "shift"
        ]
        planned = [(p["name"], document(p["policy"])) for kind, p in planned if kind == "aws_iam_role_policy"]
        yield from compared(
            "inline policy", *([json.dumps(p, sort_keys=True) for p in side] for side in (wanted, planned))
        )

    def named(self, properties, stack):
        """References to a log group are its name."""
        groups = self.stacks[stack].of_type("AWS::Logs::LogGroup")
        text = json.dumps(properties)
        for id, group in groups.items():
            text = text.replace(f"<{id}>", group["LogGroupName"])
        return json.loads(text)


def compared(kind, wanted, planned):
    """What only one side has. A resource that both have and that differs is told by its properties that do."""
    wanted, planned = Counter(wanted), Counter(planned)
    missing, added = sorted((wanted - planned).elements()), sorted((planned - wanted).elements())
    if len(missing) != len(added):
        yield from ((kind, f"only the template has {text}") for text in missing)
        yield from ((kind, f"only the module has {text}") for text in added)
        return
    for ours, theirs in zip(map(json.loads, missing), map(json.loads, added), strict=True):
        for key in ours if isinstance(ours, dict) else range(len(ours)):
            if ours[key] != theirs[key]:
                yield kind, f"{key} is {ours[key]} in the template and {theirs[key]} in the module"


# -- Variables, outputs, and what is kept


def blocks(folder, kind):
    """The blocks of a kind in the files of a module, by their last label."""
    text = "\n".join(path.read_text() for path in sorted(folder.glob("*.tf")))
    return {
        (labels.split('"')[-2], labels): body
        for labels, body in re.findall(rf'^{kind} ((?:"\w+" )+)\{{\n(.*?)^\}}', text, re.S | re.M)
    }


def quoted(text):
    return json.dumps(text, ensure_ascii=False)


def conditions(name, spec):
    """What the validation of a variable has to say for that of a parameter."""
    if allowed := [str(value) for value in spec.get("AllowedValues", [])]:
        if allowed != ["true", "false"]:
            values = allowed if spec["Type"] == "Number" else map(quoted, allowed)
            yield f"contains([{', '.join(values)}], var.{name})"
    if "AllowedPattern" in spec:
        pattern = spec["AllowedPattern"]
        pattern = pattern if pattern.startswith("^") else f"^({pattern})$"
        yield f"can(regex({quoted(pattern)}, var.{name}))"
    if "MinValue" in spec:
        yield f"var.{name} >= {spec['MinValue']} && var.{name} <= {spec['MaxValue']}"
    if "MaxLength" in spec:
        yield f"length(var.{name}) <= {spec['MaxLength']}"


def default(spec):
    if "Default" not in spec:
        return None
    value = str(spec["Default"])
    if "List" in spec["Type"]:
        return "[]"
    is_bare = spec["Type"] == "Number" or [str(v) for v in spec.get("AllowedValues", [])] == ["true", "false"]
    return value if is_bare else quoted(value)


def interfaces(deployment):
    """Variables and outputs that differ from parameters and outputs."""
    for stack in STACKS:
        template, folder = deployment.sources[stack], MODULE / "modules" / stack
        variables = {name: body for (name, _), body in blocks(folder, "variable").items()}
        outputs = {name for name, _ in blocks(folder, "output")}
        if outputs != set(map(snake, template["Outputs"])):
            yield f"{stack}: outputs differ: {sorted(outputs ^ set(map(snake, template['Outputs'])))}"
        parameters = {snake(name): spec for name, spec in template["Parameters"].items() if name not in LEFT_OUT}
        wanted = {RENAMED.get(name, name) for name in parameters} | ADDED.get(stack, set())
        if variables.keys() != wanted:
            yield f"{stack}: variables differ: {sorted(variables.keys() ^ wanted)}"
        for name, spec in parameters.items():
            name = RENAMED.get(name, name)
            body = variables.get(name, "")
            got = re.search(r"^  default += (.*)$", body, re.M)
            if (got and got[1]) != default(spec):
                yield f"{stack}: {name} has the default {got and got[1]}, not {default(spec)}"
            yield from (f"{stack}: {name} is not checked by {c}" for c in conditions(name, spec) if c not in body)


def broker_users(deployment, applied):
    """Another function for the broker's users than the template's, other calls than the command's, and other URLs."""
    from deploy import broker_users, build

    data = deployment.by_profile["dev"]["data"]
    (function,) = data.of_type("AWS::Lambda::Function").values()
    with zipfile.ZipFile(build.broker_users()) as archive:
        if archive.read("index.py").decode() != function["Code"]["ZipFile"]:
            yield "data: the zip has another function than the template"
    (sent,) = (json.loads(after["input"]) for kind, after in applied if kind == "aws_lambda_invocation")
    permissions = json.loads(broker_users.PERMISSIONS.read_text())
    wanted = {
        "url": "https://b-1.mq.us-east-1.amazonaws.com",
        "admin": MOCKED,
        "calls": list(broker_users.calls(permissions, dict.fromkeys(broker_users.SECRETS, MOCKED))),
    }
    if sent != wanted:
        yield f"data: the broker's users are made by {sent}, not {wanted}"
    secrets = (secret.get("SecretString") for secret in data.of_type("AWS::SecretsManager::Secret").values())
    urls = {url(secret) for secret in secrets if secret}
    got = {after["secret_string"] for kind, after in applied if kind == "aws_secretsmanager_secret_version"}
    yield from (f"data: no secret is {url}" for url in urls - got)


def url(secret):
    """A URL of the templates with the mocked values."""
    for pattern, answer in (
        (r"\{\{resolve:secretsmanager:<\w+>:SecretString:(\w+)\}\}", lambda found: MOCKED[found[1]]),
        (r"<split <Broker.AmqpEndpoints>\[0\]>\[1\]", "b-1.mq.us-east-1.amazonaws.com:5671"),
        (r"<Cache.PrimaryEndPoint.Address>", "cache"),
        (r"<Cache.PrimaryEndPoint.Port>", "6379"),
    ):
        secret = re.sub(pattern, answer, secret)
    return secret


def kept(deployment):
    """Data that the templates keep and the module would delete, or the other way round."""
    for stack in STACKS:
        resources = deployment.sources[stack]["Resources"].values()
        wanted = {KINDS[r["Type"]][0] for r in resources if r.get("DeletionPolicy", "").startswith("Retain")}
        found = blocks(MODULE / "modules" / stack, "resource")
        got = {labels.split('"')[1] for (_, labels), body in found.items() if "prevent_destroy = true" in body}
        if wanted != got:
            yield f"{stack}: kept are {sorted(got)}, not {sorted(wanted)}"


def unlabelled(plan):
    """Generated secrets whose first version AWS may delete after two later ones; Terraform would create another value."""
    for change in plan["resource_changes"]:
        address = change["address"]
        if "aws_secretsmanager_secret_version.generated[" in address:
            if "terraform" not in (change["change"]["after"].get("version_stages") or []):
                yield f"{address}: the first version loses its last label"


# -- Terraform


def terraform(*arguments, folder=MODULE, data=ROOT / "target/terraform"):
    # Its files of work, the provider among them, belong to no module.
    variables = os.environ | {"TF_DATA_DIR": str(data), "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}
    command = ["terraform", f"-chdir={folder}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=variables)


def test(*options, folder=MODULE):
    """What tests of the module say: problems, and the plan or the state of each run."""
    problems, answers = [], {}
    for line in terraform("test", "-json", *options, folder=folder).stdout.splitlines():
        said = json.loads(line)
        if said["type"] in ("test_plan", "test_state"):
            answers[said["@testrun"]] = said[said["type"]]
        if said["type"] == "diagnostic" and said["diagnostic"]["severity"] == "error":
            problems.append(f"terraform test: {said['diagnostic']['summary']} {said['diagnostic'].get('detail', '')}")
    return problems, answers


def tested():
    """Runs all tests of the module."""
    problems, plans = test("-verbose", f"-filter={PLANS}")
    files = (f"tests/{path.name}" for path in (MODULE / "tests").glob("*.tftest.hcl"))
    more, _ = test(*(f"-filter={file}" for file in files if file != PLANS))
    return problems + more, plans


@contextmanager
def unprotected():
    """A copy of the module that keeps nothing, so that it can be destroyed."""
    with tempfile.TemporaryDirectory(prefix="kschat-terraform-") as copy:
        shutil.copytree(ROOT / "infra", Path(copy) / "infra", ignore=shutil.ignore_patterns("local", ".terraform*"))
        folder = Path(copy) / "infra/aws/terraform"
        for path in folder.glob("modules/*/*.tf"):
            path.write_text(path.read_text().replace("prevent_destroy = true", "prevent_destroy = false"))
        yield folder


def applied():
    """The resources of the run `dev`, applied with the mocked provider."""
    with unprotected() as folder:
        # A value that is mocked in a plan, and not given in tests/mocks, is another one when it is applied.
        mocks = folder / "tests/mocks/aws.tfmock.hcl"
        mocks.write_text(mocks.read_text().replace("override_during = plan", ""))
        path = folder / PLANS
        dev = path.read_text().split('run "prod"')[0]
        path.write_text(dev.replace("command = plan", "command = apply"))
        terraform("init", folder=folder)
        problems, states = test("-verbose", f"-filter={PLANS}", folder=folder)
    modules = states["dev"]["root_module"]["child_modules"] if "dev" in states else []
    return problems, [
        (r["type"], r["values"]) for module in modules for r in module["resources"] if r["mode"] == "managed"
    ]


def everything():
    for command in (["fmt", "-check", "-recursive"], ["validate", "-no-color"]):
        done = terraform(*command)
        if done.returncode != 0:
            yield f"terraform {command[0]}: {done.stdout}{done.stderr}"
    problems, plans = tested()
    yield from problems
    problems, resources = applied()
    yield from problems
    deployment = Deployment(ROOT / "infra/aws")
    yield from interfaces(deployment)
    yield from kept(deployment)
    yield from broker_users(deployment, resources)
    for name in RUNS:
        if name in plans:
            yield from Run(name, plans[name], deployment).problems()
            yield from unlabelled(plans[name])
        else:
            yield f"{name}: terraform test gave no plan"


def why_not(**where):
    """Why nothing can be tested here; otherwise the folder is ready."""
    if not shutil.which("terraform"):
        return f"Terraform is not installed, so its module was not tested. Get it at {INSTALL}."
    started = terraform("init", "-no-color", **where)
    if started.returncode != 0:
        return f"`terraform init` gets no provider, so the module was not tested:\n{started.stderr}"
    return None


def main():
    if reason := why_not():
        print(reason)
        return 0
    problems = list(everything())
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
