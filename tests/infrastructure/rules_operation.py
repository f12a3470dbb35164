"""Sizes, limits, data, tasks, alarms."""

import json
import re

from deployment import PROGRAMS, container, rule, texts

from templates import Resolved


@rule
def a_single_broker_has_one_subnet_and_a_cluster_all(d):
    for mode, count in (("SINGLE_INSTANCE", 1), ("CLUSTER_MULTI_AZ", 3)):
        given = {"Name": "kschat-x", "SubnetIds": "subnet-a,subnet-b,subnet-c", "BrokerDeployment": mode}
        (broker,) = Resolved(d.translated["data"], given).of_type("AWS::AmazonMQ::Broker").values()
        if len(broker["SubnetIds"]) != count:
            yield f"{mode} gets {broker['SubnetIds']}"


@rule
def subnets_are_in_the_zones_that_are_named(d):
    for count in (2, 3):
        names = ["zone-q", "zone-r", "zone-s"][:count]
        network = d.resolved("dev", "network", Zones=str(count), ZoneNames=",".join(names))
        subnets = network.of_type("AWS::EC2::Subnet")
        for output in ("PrivateSubnetIds", "ConsumerSubnetIds"):
            got = [subnets[id.strip("<>")]["AvailabilityZone"] for id in network.outputs[output].split(",")]
            if got != names:
                yield f"{output} are in {got}, not {names}"


@rule
def a_task_is_given_the_time_that_the_consumer_takes_to_stop(d):
    code = d.text("consumer/src/supervisor.rs")
    drain = int(re.search(r"const SHUTDOWN_DRAIN_TIMEOUT: Duration = Duration::from_secs\((\d+)\);", code).group(1))
    stop = container(d)["StopTimeout"]
    # Source: ECS task definition parameters, StopTimeout: at most 120 seconds on Fargate.
    if not drain + 10 <= stop <= 120:
        yield f"StopTimeout is {stop}: posts may take {drain} s, handing over some more, and Fargate knows at most 120"


OPERATORS = 10


# An account has 1,000 concurrent executions and must leave 100 of them unreserved. Source: AWS Lambda quotas.
RESERVABLE = 900


# The two columns of limits, and the mapping that has each of them in the templates.
LIMITS = {"maximum": "Broker", "default": "BrokerDefaults"}


def broker_limits(d):
    return json.loads((d.folder / "broker-limits.json").read_text())


def capitalized(row):
    return {name.capitalize(): value for name, value in row.items()}


@rule
def templates_take_the_limits_of_the_broker_from_one_table(d):
    table = broker_limits(d)
    for kind, mapping in LIMITS.items():
        for size, row in table[kind].items():
            limits = {"Connections": row["connections"], "Queues": row["queues"]}
            for stack, wanted in (
                ("app", capitalized(row["reserved"])),
                ("observability", {name: value * 4 // 5 for name, value in limits.items()}),
            ):
                got = d.sources[stack]["Mappings"][mapping].get(size)
                if got != wanted:
                    yield f"{stack}: {mapping} has {got} for {size}, and the table says {wanted}"
    for size, row in table["maximum"].items():
        wanted = {"Connections": row["connections"], "Channels": row["channels"], "Queues": row["queues"]}
        if d.sources["data"]["Mappings"]["Limits"].get(size) != wanted:
            yield f"data: limits of {size} are not {wanted}"
    for stack in ("data", "app", "observability"):
        name = "BrokerInstanceType" if stack == "data" else "BrokerSize"
        if set(d.sources[stack]["Parameters"][name]["AllowedValues"]) != table["maximum"].keys():
            yield f"{stack} knows other sizes than the table"
    from deploy.check import reserved

    for kind in LIMITS:
        for size, row in table[kind].items():
            if reserved(size, kind) != sum(row["reserved"].values()):
                yield f"deploy/check.py asks for {reserved(size, kind)} with {size}"


@rule
def functions_and_tasks_together_stay_below_the_brokers_connections(d):
    tasks = int(d.sources["app"]["Parameters"]["ConsumerMaxTasks"]["MaxValue"])
    for kind in LIMITS:
        for size, row in broker_limits(d)[kind].items():
            functions = sum(row["reserved"].values())
            if 2 * functions + 2 * tasks + OPERATORS > row["connections"]:
                yield f"{size}: 2 × ({functions} functions + {tasks} tasks) + {OPERATORS} people > {row['connections']}"
            if functions > RESERVABLE:
                yield f"{size}: {functions} can't be reserved in an account that has 1,000"
            given = d.app(BrokerSize=size, BrokerLimits=kind).of_type("AWS::Lambda::Function")
            for name in PROGRAMS:
                reserved = given[f"{name.capitalize()}Function"].get("ReservedConcurrentExecutions")
                if reserved != row["reserved"][name]:
                    yield f"{size}, {kind}: {name} reserves {reserved}"


# What each version and mode of a broker allows: 3.x has the largest limits, 4.x starts with the default ones and takes a
# configuration. That of a cluster raises no more than what its own table is known to allow.
# Source: https://docs.aws.amazon.com/amazon-mq/latest/developer-guide/configure-resource-limits.html
KINDS_OF_BROKER = (
    ("3.13", "SINGLE_INSTANCE", "maximum", False),
    ("3.13", "CLUSTER_MULTI_AZ", "maximum", False),
    ("4.2", "SINGLE_INSTANCE", "maximum", True),
    ("4.3", "SINGLE_INSTANCE", "maximum", True),
    ("4.2", "CLUSTER_MULTI_AZ", "default", True),
)

LIMIT_KEYS = {
    "connection_max": "connections",
    "channel_max_per_node": "channels",
    "cluster_queue_limit": "queues",
    "consumer_max_per_channel": "consumers_per_channel",
}


@rule
def a_broker_of_version_4_is_given_the_limits_that_it_is_counted_on(d):
    for version, mode, kind, is_configured in KINDS_OF_BROKER:
        for size, row in broker_limits(d)["maximum"].items():
            given = {"BrokerVersion": version, "BrokerDeployment": mode, "BrokerInstanceType": size}
            data = d.resolved("prod", "data", **given)
            (broker,) = data.of_type("AWS::AmazonMQ::Broker").values()
            configurations = data.of_type("AWS::AmazonMQ::Configuration")
            if bool(configurations) != is_configured or ("Configuration" in broker) != is_configured:
                yield f"{version}, {mode}: configured by {sorted(configurations)}"
            if data.outputs["BrokerLimits"] != kind:
                yield f"{version}, {mode}: limits are told to be {data.outputs['BrokerLimits']}"
            for name, configuration in configurations.items():
                if broker["Configuration"] != {"Id": f"<{name}>", "Revision": f"<{name}.Revision>"}:
                    yield f"the broker has the configuration {broker['Configuration']}"
                if (configuration["EngineType"], configuration["EngineVersion"]) != ("RABBITMQ", version):
                    yield f"{name} is for {configuration['EngineType']} {configuration['EngineVersion']}"
                got = dict(line.split(" = ") for line in configuration["Data"].split("\n") if line)
                wanted = {key: str(row[limit]) for key, limit in LIMIT_KEYS.items()}
                if kind == "default":
                    wanted = {"consumer_max_per_channel": wanted["consumer_max_per_channel"]}
                if got != wanted:
                    yield f"{version}, {mode}, {size}: limits are set to {got}, not {wanted}"
    for stack in ("app", "observability"):
        if d.wiring[stack].get("BrokerLimits") != ("data", "BrokerLimits"):
            yield f"nobody tells {stack} which limits the broker has"


@rule
def readme_tells_the_limits_of_the_broker(d):
    rows = dict(re.findall(r"^\| `(mq\.[^`]+)` \|(.*)\|$", (d.folder / "README.md").read_text(), re.M))
    table = broker_limits(d)
    for size, row in table["maximum"].items():
        least = table["default"][size]
        wanted = [
            *(f"{row[name]:,} / {least[name]:,}" for name in ("connections", "channels", "queues")),
            f"{row['queues'] * 4 // 5:,} / {least['queues'] * 4 // 5:,}",
            " / ".join(", ".join(map(str, one["reserved"].values())) for one in (row, least)),
        ]
        got = [cell.strip() for cell in rows.get(size, "").split("|")]
        if got != wanted:
            yield f"{size} is told as {got}, not {wanted}"


STATEFUL = {
    "AWS::AmazonMQ::Broker",
    "AWS::ElastiCache::ReplicationGroup",
    "AWS::SecretsManager::Secret",
    "AWS::KMS::Key",
    "AWS::ECR::Repository",
    "AWS::S3::Bucket",
}


@rule
def data_outlives_its_stack(d):
    for stack, template in d.sources.items():
        for name, resource in template["Resources"].items():
            if resource["Type"] not in STATEFUL:
                continue
            if stack != "data":
                yield f"{name} holds data and belongs to the stack {stack}"
            # Plain `Retain` would survive the rollback of a failed creation, too, and stand in the way of the next try.
            # Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-attribute-deletionpolicy.html
            kept = (resource.get("DeletionPolicy"), resource.get("UpdateReplacePolicy"))
            if kept != ("RetainExceptOnCreate", "Retain"):
                yield f"{name} would go with its stack, or stay when that could not be made: {kept}"


# What stands in the way of another one of the same name, and the property that names it.
NAMED = {
    "AWS::AmazonMQ::Broker": "BrokerName",
    "AWS::ElastiCache::ReplicationGroup": "ReplicationGroupId",
    "AWS::SecretsManager::Secret": "Name",
    "AWS::ECR::Repository": "RepositoryName",
    "AWS::S3::Bucket": "BucketName",
}


@rule
def data_left_behind_can_be_stepped_around_by_name(d):
    before, after = (d.resolved("prod", "data", DataSuffix=suffix) for suffix in ("", "-b"))
    for kind, named in NAMED.items():
        for name, properties in after.of_type(kind).items():
            if properties[named] == before.of_type(kind)[name][named]:
                yield f"{name} is called {properties[named]} whatever DataSuffix says"
    if after.outputs["BrokerName"] != d.only("data", "AWS::AmazonMQ::Broker")["BrokerName"] + "-b":
        yield f"the broker is told as {after.outputs['BrokerName']}"


@rule
def the_manual_lists_all_that_another_suffix_leaves_behind(d):
    manual = (d.folder / "README.md").read_text().partition('<a name="left-behind">')[2]
    secrets = re.search(r"for secret in ([a-z -]+);", manual)
    listed = secrets.group(1).split() if secrets else []
    for kind, named in NAMED.items():
        for name, properties in d.resolved("prod", "data", Name="kschat-prod").of_type(kind).items():
            given = properties[named]
            if kind == "AWS::SecretsManager::Secret":
                is_listed = given.removeprefix("kschat-prod/") in listed
            else:
                is_listed = given.removesuffix("-111122223333-us-east-1") in manual
            if not is_listed:
                yield f"{name} stays as {given}, and the manual does not say so"


def depends_on(resource):
    given = resource.get("DependsOn", [])
    return given if isinstance(given, list) else [given]


@rule
def access_logs_have_the_role_of_the_account_before_and_leave_it_behind(d):
    app = d.app(AccessLogs="true", AccountLogging="true")
    accounts = {name: r for name, r in app.resources.items() if r["Type"] == "AWS::ApiGateway::Account"}
    logs = [r for r in app.resources.values() if r["Type"] == "AWS::Logs::LogGroup" and "access" in str(r["Properties"])]
    if len(accounts) != 1 or not {f"<{name}>" for name in accounts} <= set(texts(logs[0])):
        yield f"the log of the stage does not wait for the role of the account: {sorted(accounts)}"
    for name, account in accounts.items():
        # In an account that never had an API this comes first. Source:
        # https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-resource-apigateway-account.html
        if "Api" not in depends_on(account):
            yield f"{name} comes before there is an API"
        role = account["Properties"]["CloudWatchRoleArn"].strip("<>").removesuffix(".Arn")
        # The account goes on pointing at the role when the stack is gone.
        if app.resources.get(role, {}).get("DeletionPolicy") != "RetainExceptOnCreate":
            yield f"{role} goes with its stack, and the account points at nothing"
    for stack in ("network", "data", "observability"):
        if any(r["Type"] == "AWS::ApiGateway::Account" for r in d.sources[stack]["Resources"].values()):
            yield f"the role of the account belongs to {stack}, which is not there when the API wants it"


# Source: Fargate, task size: memory in MB by CPU units.
TASK_SIZES = {256: (512, 2048), 512: (1024, 4096), 1024: (2048, 8192), 2048: (4096, 16384), 4096: (8192, 30720)}


@rule
def the_profiles_are_what_they_claim_to_be(d):
    for name, app in d.each("app"):
        (task,) = app.of_type("AWS::ECS::TaskDefinition").values()
        low, high = TASK_SIZES[int(task["Cpu"])]
        if not low <= int(task["Memory"]) <= high:
            yield f"{name}: Fargate has no task of {task['Cpu']} units with {task['Memory']} MB"
    stacks = d.by_profile["prod"]
    broker = d.only("data", "AWS::AmazonMQ::Broker")
    cache = d.only("data", "AWS::ElastiCache::ReplicationGroup")
    target = d.only("app", "AWS::ApplicationAutoScaling::ScalableTarget")
    is_mirrored = broker["EngineVersion"].startswith("3.") or stacks["app"].values["QueueType"] == "quorum"
    for is_so, text in (
        (is_mirrored, "queues have copies"),
        (broker["DeploymentMode"] == "CLUSTER_MULTI_AZ", "the broker is a cluster"),
        (cache["AutomaticFailoverEnabled"] and cache["MultiAZEnabled"], "the cache fails over"),
        (int(cache["ReplicasPerNodeGroup"]) >= 1, "the cache has a replica"),
        (int(target["MinCapacity"]) >= 2, "two tasks run always"),
        (int(target["MaxCapacity"]) > int(target["MinCapacity"]), "more can be started"),
        (len(stacks["network"].of_type("AWS::EC2::NatGateway")) == 3, "each zone has its own way out"),
        (stacks["app"].values["Shift"] != "AllAtOnce", "new functions take over step by step"),
        (stacks["app"].values["ReserveConcurrency"] == "true", "the broker is protected"),
        (stacks["network"].of_type("AWS::EC2::FlowLog"), "connections are logged"),
    ):
        if not is_so:
            yield f"prod: not so: {text}"


@rule
def a_task_is_as_locked_up_as_its_image_allows(d):
    only = container(d)
    dockerfile = d.text("consumer/Dockerfile")
    user = re.search(r"^USER (\S+)$", dockerfile, re.M).group(1)
    image = (d.folder / "deploy/image.py").read_text()
    if not only["User"] == user == re.search(r'^USER = "(.*)"$', image, re.M).group(1) == "65532:65532":
        yield f"users are {only['User']} and {user}"
    if (
        not only["ReadonlyRootFilesystem"]
        or only.get("Privileged")
        or only["LinuxParameters"]["Capabilities"] != {"Drop": ["ALL"]}
    ):
        yield "the container may do more than it needs"
    command, *rest = only["HealthCheck"]["Command"][1:]
    address = {v["Name"]: v["Value"] for v in only["Environment"]}["HEALTH_ADDR"]
    if not re.search(r"^COPY consumer probe /$", dockerfile, re.M) or command != "/probe" or rest[0] != address:
        yield f"the probe asks {rest[0]}, and the consumer answers at {address}"
    if f'"{rest[1]}"' not in d.text("consumer/src/health.rs"):
        yield f"the consumer knows no {rest[1]}"
    for name, path in re.findall(r'^    "([\w.]+)": \("([^"]+)", 0o\d+\),$', image, re.M):
        line = re.search(rf"^COPY (?:\S+ )*{re.escape(name)} (?:\S+ )*(/\S*)$", dockerfile, re.M)
        if not line or (line.group(1) if line.group(1) != "/" else f"/{name}") != f"/{path}":
            yield f"the Dockerfile does not put {name} to /{path}"
    for architecture, cpu in (("arm64", "ARM64"), ("x86_64", "X86_64")):
        app = d.app(Architecture=architecture)
        (task,) = app.of_type("AWS::ECS::TaskDefinition").values()
        kinds = {tuple(f["Architectures"]) for f in app.of_type("AWS::Lambda::Function").values()}
        if task["RuntimePlatform"]["CpuArchitecture"] != cpu or kinds != {(architecture,)}:
            yield f"{architecture}: the task is {task['RuntimePlatform']}, the functions are {kinds}"


@rule
def tasks_are_started_by_work_and_not_by_what_waits_for_people(d):
    app = d.by_profile["prod"]["app"]
    policies = app.of_type("AWS::ApplicationAutoScaling::ScalingPolicy")
    custom = [
        p["TargetTrackingScalingPolicyConfiguration"].get("CustomizedMetricSpecification") for p in policies.values()
    ]
    (metrics,) = [m["Metrics"] for m in custom if m]
    used = {m["Id"]: m["MetricStat"]["Metric"]["MetricName"] for m in metrics if "MetricStat" in m}
    if used != {"lent": "MessageUnacknowledgedCount", "tasks": "RunningTaskCount"}:
        yield f"the backlog is {used}"
    if [m["Expression"] for m in metrics if m.get("ReturnData")] != ["lent / tasks"]:
        yield "the backlog is not that of one task"
    target = app.of_type("AWS::ApplicationAutoScaling::ScalableTarget")["ConsumerScaling"]
    if target["ResourceId"] != "service/<Cluster>/<ConsumerService.Name>":
        yield f"{target['ResourceId']} is scaled"


@rule
def an_update_leaves_the_number_of_tasks_to_scaling(d):
    # With a count each update of the service goes back to it; without, it stays where scaling has put it, and scaling
    # starts the least number at once. Sources:
    # https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-resource-ecs-service.html,
    # https://docs.aws.amazon.com/autoscaling/application/APIReference/API_RegisterScalableTarget.html
    for profile, app in d.each("app"):
        for name, service in app.of_type("AWS::ECS::Service").items():
            if "DesiredCount" in service:
                yield f"{profile}: each update sets {name} to {service['DesiredCount']} tasks"


@rule
def every_alarm_has_its_line_in_the_runbook(d):
    runbook = (d.folder / "README.md").read_text()
    names = {
        alarm["AlarmName"].removeprefix("kschat-prod-")
        for stack in ("app", "observability")
        for alarm in d.by_profile["prod"][stack].of_type("AWS::CloudWatch::Alarm").values()
    }
    rows = set(
        re.findall(r"`([a-z-]+)`", "\n".join(re.findall(r"^\| (`[^|]*) \|", runbook.partition("## Runbook")[2], re.M)))
    )
    if names != rows:
        yield f"alarms and runbook differ by {sorted(names ^ rows)}"
    topic = d.by_profile["prod"]["observability"].of_type("AWS::CloudWatch::Alarm")
    for name, alarm in topic.items():
        if alarm.get("AlarmActions") != ["<Alarms>"] or alarm.get("OKActions") != ["<Alarms>"]:
            yield f"{name} tells nobody"


@rule
def alarms_go_to_the_topic_that_is_given(d):
    own = "arn:aws:sns:us-east-1:111122223333:on-call"
    stack = d.resolved("prod", "observability", AlarmTopicArn=own, AlarmEmail="you@example.com")
    for name, alarm in stack.of_type("AWS::CloudWatch::Alarm").items():
        if (alarm.get("AlarmActions"), alarm.get("OKActions")) != ([own], [own]):
            yield f"{name} tells {alarm.get('AlarmActions')}"
    made = {name for name, r in stack.resources.items() if r["Type"].startswith("AWS::SNS::")}
    if made or stack.outputs["AlarmTopicArn"] != own:
        yield f"{sorted(made)} are made beside it, and {stack.outputs['AlarmTopicArn']} is told"


def cache_nodes(alarm):
    """The nodes that an alarm looks at, and the metrics that it reads of them."""
    stats = [metric["MetricStat"] for metric in alarm["Metrics"] if "MetricStat" in metric]
    return [s["Metric"]["Dimensions"] for s in stats], {s["Metric"]["MetricName"] for s in stats}


@rule
def alarms_of_the_cache_look_at_every_node(d):
    # Nodes publish with CacheClusterId, which is the group's id and a number; nothing is published for the group alone.
    # Sources: https://docs.aws.amazon.com/AmazonElastiCache/latest/dg/CloudWatchMetrics.html,
    # https://docs.aws.amazon.com/AmazonElastiCache/latest/APIReference/API_NodeGroupMember.html
    replicas = d.sources["data"]["Parameters"]["CacheReplicas"]
    for count in range(int(replicas["MinValue"]), int(replicas["MaxValue"]) + 1):
        stack = d.resolved("prod", "observability", CacheId="cache", CacheReplicas=str(count))
        wanted = [[{"Name": "CacheClusterId", "Value": f"cache-00{node}"}] for node in range(1, count + 2)]
        alarms = stack.of_type("AWS::CloudWatch::Alarm")
        for name, metric in (("CacheMemory", "DatabaseMemoryUsagePercentage"), ("CacheBusy", "EngineCPUUtilization")):
            if cache_nodes(alarms[name]) != (wanted, {metric}):
                yield f"with {count} replicas {name} looks at {cache_nodes(alarms[name])}"
            if alarms[name]["TreatMissingData"] != "breaching":
                yield f"{name} stays silent where no node says anything"
    if d.wiring["observability"].get("CacheReplicas") != ("data", "CacheReplicas"):
        yield "nobody tells the alarms how many nodes there are"
    for _, stack in d.each("observability"):
        for text in texts(stack.resources):
            searched = re.findall(r"\{AWS/ElastiCache,(\w+)\}", text)
            if '"widgets"' in text and (searched != ["CacheClusterId"] or "ReplicationGroupId" in text):
                yield f"the dashboard asks for metrics of the cache by {searched}"
            if '"widgets"' in text:
                json.loads(text)


@rule
def metrics_of_our_own_are_those_that_the_programs_write(d):
    path = d.root / "shared/docs/METRICS.md"
    told = path.read_text() if path.is_file() else ""
    for _, stack in d.each("observability"):
        for text in texts(stack.resources):
            for namespace, metric in re.findall(r'\["(kschat[^"]*)", "([^"]+)"', text):
                if f"`{metric}`" not in told:
                    yield f"the dashboard shows {namespace} {metric}, which METRICS.md does not know"
        for name, alarm in stack.of_type("AWS::CloudWatch::Alarm").items():
            if str(alarm.get("Namespace", "")).lower().startswith("kschat") and f"`{alarm['MetricName']}`" not in told:
                yield f"{name} watches {alarm['MetricName']}, which METRICS.md does not know"


@rule
def every_suppression_has_a_reason(d):
    for stack, template in d.sources.items():
        for name, resource in template["Resources"].items():
            for skip in resource.get("Metadata", {}).get("checkov", {}).get("skip", []):
                if len(skip.get("comment", "")) < 20:
                    yield f"{stack}.{name}: {skip.get('id')} is suppressed without a reason"
        text = (d.folder / f"{stack}.yaml").read_text()
        for ignored in re.finditer(r"ignore_checks", text):
            line = text[: ignored.start()].splitlines()[-2].strip()
            if not line.startswith("#"):
                yield f"{stack}: cfn-lint is told to look away without a reason: {line}"
