"""Sizes, limits, data, tasks, alarms."""

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
def a_task_is_given_the_time_that_the_consumer_takes_to_stop(d):
    code = d.text("consumer/src/lib.rs")
    drain = int(re.search(r"const DRAIN: Duration = Duration::from_secs\((\d+)\);", code).group(1))
    stop = container(d)["StopTimeout"]
    # Source: ECS task definition parameters, StopTimeout: at most 120 seconds on Fargate.
    if not drain + 10 <= stop <= 120:
        yield f"StopTimeout is {stop}: posts may take {drain} s, handing over some more, and Fargate knows at most 120"


# Source: Amazon MQ for RabbitMQ, quotas by instance type.
LIMITS = {
    "mq.m7g.medium": (300, 2_500),
    "mq.m7g.large": (5_000, 20_000),
    "mq.m7g.xlarge": (10_000, 30_000),
    "mq.m7g.4xlarge": (40_000, 60_000),
    "mq.m7g.8xlarge": (80_000, 80_000),
}


OPERATORS = 10


# An account has 1,000 concurrent executions and must leave 100 of them unreserved. Source: AWS Lambda quotas.
RESERVABLE = 900


@rule
def functions_and_tasks_together_stay_below_the_brokers_connections(d):
    sizes = d.sources["app"]["Mappings"]["Broker"]
    tasks = int(d.sources["app"]["Parameters"]["ConsumerMaxTasks"]["MaxValue"])
    if sizes.keys() != LIMITS.keys():
        yield f"the sizes are {sorted(sizes)}"
    for size, row in sizes.items():
        if (row["Connections"], row["Queues"]) != LIMITS.get(size):
            yield f"{size}: limits are {row}"
        functions = row["Connect"] + row["Disconnect"] + row["Send"]
        if 2 * functions + 2 * tasks + OPERATORS > row["Connections"]:
            yield f"{size}: 2 × ({functions} functions + {tasks} tasks) + {OPERATORS} people > {row['Connections']}"
        if functions > RESERVABLE:
            yield f"{size}: {functions} can't be reserved in an account that has 1,000"
        for name in PROGRAMS:
            app = d.app(BrokerSize=size)
            reserved = app.of_type("AWS::Lambda::Function")[f"{name.capitalize()}Function"].get(
                "ReservedConcurrentExecutions"
            )
            if reserved != row[name.capitalize()]:
                yield f"{size}: {name} reserves {reserved}"
        watched = d.sources["observability"]["Mappings"]["Broker"].get(size, {})
        if watched != {"Connections": row["Connections"] * 4 // 5, "Queues": row["Queues"] * 4 // 5}:
            yield f"{size}: alarms are at {watched}, which is not four fifths"
    from deploy.check import RESERVED

    if {size: row["Connect"] + row["Disconnect"] + row["Send"] for size, row in sizes.items()} != RESERVED:
        yield "deploy/check.py asks for another concurrency than the templates reserve"


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
            if (resource.get("DeletionPolicy"), resource.get("UpdateReplacePolicy")) != ("Retain", "Retain"):
                yield f"{name} would go with its stack"


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
