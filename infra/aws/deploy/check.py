"""Looks before anything is changed: tools, credentials, quotas, and what would be unsafe."""

import json
import re
import shutil
import subprocess
import urllib.request
from urllib.parse import urlsplit

from deploy.build import FUNCTIONS, TARGETS
from deploy.cli import GREEN, PLAIN, RED, Failed, say, step
from deploy.limits import kind, reserved

# An account keeps as many executions for functions without a reservation. Source: AWS Lambda quotas.
UNRESERVED = 100

class Findings:
    """What is missing or unsafe, with the cure."""

    def __init__(self):
        self.problems = []

    def ok(self, text):
        say(f"{GREEN}ok{PLAIN} {text}")

    def problem(self, text, cure):
        self.problems.append(text)
        say(f"{RED}!!{PLAIN} {text}")
        say(f"   {cure}")

    def expect(self, is_so, text, problem, cure):
        self.ok(text) if is_so else self.problem(problem, cure)


def tools(found, architecture, builds):
    found.expect(shutil.which("aws"), "aws", "the AWS command line is missing", "https://aws.amazon.com/cli/")
    if not builds:
        return
    found.expect(shutil.which("cargo"), "cargo", "Rust is missing", "https://rustup.rs")
    found.expect(
        shutil.which("cargo-lambda"),
        "cargo-lambda",
        "cargo-lambda is missing",
        "pip install cargo-lambda, which brings zig",
    )
    if shutil.which("rustup"):
        listed = subprocess.run(
            ["rustup", "target", "list", "--installed"], capture_output=True, text=True, check=False
        )
        missing = [target for target in TARGETS[architecture] if target not in listed.stdout.split()]
        found.expect(
            not missing,
            f"Rust for {architecture}",
            f"Rust lacks {', '.join(missing)}",
            f"rustup target add {' '.join(missing)}",
        )


def parameters(found, templates, given):
    """Holds what is given against what the templates allow."""
    for stack, values in given.items():
        declared = templates.get(stack)
        if declared is None:
            found.problem(f"there is no stack {stack}", f"one of {', '.join(templates)}")
            continue
        for name, value in values.items():
            problem = wrong(declared.get(name), str(value))
            if problem:
                found.problem(
                    f"{stack}.{name}: `{value}` {problem}",
                    f"infra/aws/{stack}.yaml says what each parameter is for and may be",
                )


def wrong(spec, value):
    """What is wrong with a value, if anything is."""
    if spec is None:
        return "is no parameter of that stack"
    allowed = [str(one) for one in spec.get("AllowedValues", [])]
    if allowed and value not in allowed:
        return f"is not one of {', '.join(allowed)}"
    if "AllowedPattern" in spec and not re.fullmatch(spec["AllowedPattern"], value):
        return f"is not {spec.get('ConstraintDescription', spec['AllowedPattern'])}"
    if spec["Type"] == "Number":
        low, high = float(spec.get("MinValue", "-inf")), float(spec.get("MaxValue", "inf"))
        if not re.fullmatch(r"-?\d+(\.\d+)?", value) or not low <= float(value) <= high:
            return f"is not a number from {spec.get('MinValue')} to {spec.get('MaxValue')}"
    return None


def account(found, aws, given, name, subnets, had, declared):
    """Asks the account; stops at missing credentials, as nothing else can be asked then."""
    identity = aws.try_("sts", "get-caller-identity")
    if identity is None:
        found.problem("no credentials", "aws configure, aws sso login, or AWS_PROFILE")
        return
    found.ok(f"account {identity['Account']}, region {aws.region}")
    concurrency(found, aws, given, name)
    zones(found, aws, given)
    if given["data"].get("ExistingBrokerName"):
        existing_broker(found, aws, given["data"], declared)
    else:
        broker(found, aws, given, subnets, had)
    if given["data"].get("ExistingCacheId"):
        existing_cache(found, aws, given["data"])
    secrets(found, aws, given["data"])
    access_logs(found, aws, given)


def access_logs(found, aws, given):
    """API Gateway takes a stage with a log only from an account that has a role for it."""
    if given["app"].get("AccessLogs") != "true" or given["app"].get("AccountLogging") == "true":
        return
    role = (aws.try_("apigateway", "get-account") or {}).get("cloudwatchRoleArn")
    found.expect(
        role and exists(aws, role),
        "role for access logs",
        "the account has no role for access logs" + (f": {role} is gone" if role else ""),
        "set app.AccountLogging=true in one deployment of this account and region",
    )


def exists(aws, role):
    """Whether the account's role is still there, as far as anybody may ask."""
    try:
        aws("iam", "get-role", "--role-name", role.rsplit("/", 1)[1])
    except Failed as failed:
        return "NoSuchEntity" not in str(failed)
    return True


def concurrency(found, aws, given, name):
    if given["app"].get("ReserveConcurrency", "true") != "true":
        return
    limits = (aws.try_("lambda", "get-account-settings") or {}).get("AccountLimit", {})
    free = limits.get("UnreservedConcurrentExecutions", 0) + reserved_already(aws, name)
    data = given["data"]
    wanted = reserved(data.get("BrokerInstanceType", "mq.m7g.medium"), kind(data))
    found.expect(
        free - wanted >= UNRESERVED,
        f"{wanted} concurrent executions can be reserved",
        f"{wanted} concurrent executions are to be reserved, and of {free} that are free {UNRESERVED} must stay so",
        "ask for more in Service Quotas (Lambda, concurrent executions), or set app.ReserveConcurrency=false: then the "
        "account's limit alone protects the broker",
    )


def reserved_already(aws, name):
    """What the functions of this deployment hold, which an update takes from no one else.

    `UnreservedConcurrentExecutions` is what is left after it. Source:
    https://docs.aws.amazon.com/lambda/latest/api/API_AccountLimit.html
    """
    answers = (
        aws.try_("lambda", "get-function-concurrency", "--function-name", f"{name}-{function}") for function in FUNCTIONS
    )
    return sum((answer or {}).get("ReservedConcurrentExecutions", 0) for answer in answers)


def region_zones(aws):
    """The names of the region's zones, in the order in which CloudFormation counts them."""
    asked = ["--filters", "Name=zone-type,Values=availability-zone"]
    answer = aws.try_("ec2", "describe-availability-zones", *asked) or {}
    return sorted(zone.get("ZoneName", "") for zone in answer.get("AvailabilityZones", []))


def zones(found, aws, given):
    if "network" not in given:
        return
    have, want = len(region_zones(aws)), int(given["network"].get("Zones", 2))
    found.expect(have >= want, f"{want} zones", f"the region has {have} zones, not {want}", "set network.Zones=2")


# What decides whether AWS has such a broker to offer.
KIND_OF_BROKER = ("BrokerInstanceType", "BrokerVersion", "BrokerDeployment")


def broker(found, aws, given, subnets, had):
    """Whether a broker of this size, version and mode can be made in the zones that it is to be in.

    Source: https://docs.aws.amazon.com/amazon-mq/latest/api-reference/broker-instance-options.html
    """
    size, version, mode = (given["data"].get(name) for name in KIND_OF_BROKER)
    if all(had.get(name) == given["data"].get(name) for name in KIND_OF_BROKER):
        found.ok("the broker stays as it is")
        return
    asked = ["--engine-type", "RABBITMQ", "--host-instance-type", size]
    options = (aws.try_("mq", "describe-broker-instance-options", *asked) or {}).get("BrokerInstanceOptions", [])
    versions = {v for option in options for v in option.get("SupportedEngineVersions", [])}
    found.expect(
        version in versions,
        f"{size} with RabbitMQ {version}",
        f"here is no {size} with RabbitMQ {version}",
        f"versions: {', '.join(sorted(versions)) or 'none'}",
    )
    options = [option for option in options if version in option.get("SupportedEngineVersions", [])]
    modes = {m for option in options for m in option.get("SupportedDeploymentModes", [])}
    if modes and mode:
        found.expect(
            mode in modes,
            f"{size} as {mode}",
            f"{size} is not to be had as {mode}",
            f"set data.BrokerDeployment to one of {', '.join(sorted(modes))}, or another data.BrokerInstanceType",
        )
    offering = sorted({zone["Name"] for option in options for zone in option.get("AvailabilityZones", [])})
    if offering:
        broker_zones(found, aws, given, subnets, offering)


def broker_zones(found, aws, given, subnets, offering):
    """Whether each zone that the broker is to be in has its size: a cluster is in all, a single one in the first."""
    used = zones_of(aws, subnets) if subnets else zones_of_new_network(aws, given)
    if given["data"].get("BrokerDeployment") != "CLUSTER_MULTI_AZ":
        used = used[:1]
    lacking = sorted(set(used) - set(offering))
    size = given["data"].get("BrokerInstanceType")
    here = ",".join(offering[: int(given.get("network", {}).get("Zones", 2))])
    found.expect(
        not lacking,
        f"{size} in {', '.join(used)}",
        f"{', '.join(lacking)} has no {size}",
        f"give subnets in {', '.join(offering)}" if subnets else f"set network.ZoneNames={here}",
    )


def zones_of(aws, subnets):
    """The zones of subnets, in their order."""
    answer = aws.try_("ec2", "describe-subnets", "--subnet-ids", *subnets) or {}
    zones = {subnet["SubnetId"]: subnet["AvailabilityZone"] for subnet in answer.get("Subnets", [])}
    return [zones[subnet] for subnet in subnets if subnet in zones]


def zones_of_new_network(aws, given):
    network = given.get("network", {})
    named = [zone for zone in network.get("ZoneNames", "").split(",") if zone]
    return (named or region_zones(aws))[: int(network.get("Zones", 2))]


def copies(found, given):
    data, kind = given["data"], given["app"].get("QueueType", "classic")
    is_cluster = data.get("BrokerDeployment") == "CLUSTER_MULTI_AZ"
    if is_cluster and not data.get("BrokerVersion", "3.13").startswith("3."):
        found.expect(
            kind == "quorum",
            "queues have copies",
            "from RabbitMQ 4 on classic queues have no copies in a cluster",
            "set app.QueueType=quorum before anybody connects",
        )


def issuer(found, given):
    """Functions fetch an issuer's keys themselves, and a security group or a missing route drops that in silence."""
    app, data, network = given["app"], given["data"], given.get("network")
    if app.get("JwtKeyKind") != "jwks-url":
        return
    found.expect(
        data.get("FunctionsCallOut") == "true",
        "functions may call the issuer",
        "functions may not call the issuer",
        "set data.FunctionsCallOut=true",
    )
    if network is not None:
        found.expect(
            network.get("Egress", "nat") != "public-ip",
            "functions have a way out",
            "with network.Egress=public-ip only the consumer has a way out, and functions are to fetch keys",
            "set network.Egress=nat",
        )
    keys, why = published_keys(app.get("JwtJwksUrl", ""))
    found.expect(
        keys,
        f"{keys} keys at {app.get('JwtJwksUrl')}",
        f"no keys at `{app.get('JwtJwksUrl', '')}`: {why}",
        "set app.JwtJwksUrl to the jwks_uri of the issuer's /.well-known/openid-configuration",
    )


def published_keys(url):
    """How many keys an issuer publishes, and else why none."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return len(json.load(answer)["keys"]), "the set is empty"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return 0, str(error) or type(error).__name__


def collector(found, given):
    """The port of the collector is opened by another stack than the one that calls it."""
    url = urlsplit(given["app"].get("TraceCollector", ""))
    if not url.hostname:
        return
    port = str(url.port or {"http": 80, "https": 443}[url.scheme])
    found.expect(
        str(given["data"].get("TraceCollectorPort", 0)) == port,
        f"port {port} is open for traces",
        f"nobody may call the collector on port {port}",
        f"set data.TraceCollectorPort={port}",
    )


# Parameters that name a secret of one's own, with the parameter that makes them necessary.
OWN_SECRETS = {
    "JwtKeySecretArn": None,
    "ExistingBrokerFunctionsUrlSecretArn": "ExistingBrokerName",
    "ExistingBrokerConsumerUrlSecretArn": "ExistingBrokerName",
    "ExistingCacheUrlSecretArn": "ExistingCacheId",
}


def secrets(found, aws, data):
    """Whether the secrets exist that are given, and those are given that are necessary."""
    for parameter, needed_by in OWN_SECRETS.items():
        arn = data.get(parameter)
        if arn:
            exists = aws.try_("secretsmanager", "describe-secret", "--secret-id", arn)
            cure = f"create it, or give another data.{parameter}"
            found.expect(exists, f"the secret of data.{parameter}", f"there is no secret {arn}", cure)
        elif data.get(needed_by):
            found.problem(f"data.{needed_by} needs data.{parameter}", "give the ARN of a secret that contains the URL")


def existing_broker(found, aws, data, declared):
    """Whether a broker of one's own is there and is what the parameters say: sizes and alarms depend on that. `declared` are
    the parameters of the data stack, as its template has them."""
    name = data["ExistingBrokerName"]
    brokers = (aws.try_("mq", "list-brokers") or {}).get("BrokerSummaries", [])
    broker = next((one for one in brokers if one["BrokerName"] == name), None)
    if broker is None or broker["EngineType"].upper() != "RABBITMQ":
        found.problem(f"there is no broker {name} for RabbitMQ here", "aws mq list-brokers shows those there are")
        return
    for parameter, key in (("BrokerInstanceType", "HostInstanceType"), ("BrokerDeployment", "DeploymentMode")):
        expect_broker(found, data, declared, parameter, broker[key])
    described = aws.try_("mq", "describe-broker", "--broker-id", broker["BrokerId"])
    if described is None:
        found.problem(f"{name} can't be described", "allow mq:DescribeBroker to whoever deploys")
        return
    # Patches are Amazon MQ's. Source: Amazon MQ Developer Guide, "Managing Amazon MQ for RabbitMQ engine versions".
    expect_broker(found, data, declared, "BrokerVersion", ".".join(described["EngineVersion"].split(".")[:2]))


def expect_broker(found, data, declared, parameter, actual):
    """Whether a parameter says what the broker is. Not every broker can be used."""
    name, allowed = data["ExistingBrokerName"], declared[parameter]["AllowedValues"]
    usable = "mq.m7g sizes" if parameter == "BrokerInstanceType" else ", ".join(allowed)
    cure = f"set data.{parameter}={actual}" if actual in allowed else f"only {usable} can be used: give another broker"
    said = data.get(parameter)
    found.expect(said == actual, f"{name}: {actual}", f"{name} is {actual}, not {said}", cure)


def existing_cache(found, aws, data):
    """The same for a cache of one's own. The programs need TLS, and refuse a cache in cluster mode."""
    name = data["ExistingCacheId"]
    answer = aws.try_("elasticache", "describe-replication-groups", "--replication-group-id", name)
    if answer is None:
        found.problem(f"there is no replication group {name} here, or it may not be described", "give another one")
        return
    (group,) = answer["ReplicationGroups"]
    replicas = str(len(group["MemberClusters"]) - 1)
    is_right = group.get("TransitEncryptionEnabled") and not group.get("ClusterEnabled")
    cure = "use a group with TLS and with cluster mode disabled"
    found.expect(is_right, f"{name}: TLS, no cluster mode", f"{name} has no TLS, or is in cluster mode", cure)
    found.expect(
        str(data.get("CacheReplicas")) == replicas,
        f"{name}: {replicas} replicas",
        f"{name} has {replicas} replicas, not {data.get('CacheReplicas')}",
        f"set data.CacheReplicas={replicas}",
    )
    watched = [f"{name}-{number:03}" for number in range(1, len(group["MemberClusters"]) + 1)]
    found.expect(
        sorted(group["MemberClusters"]) == watched,
        f"{name}: alarms watch its nodes",
        f"the nodes of {name} are {', '.join(sorted(group['MemberClusters']))}, and alarms watch {', '.join(watched)}",
        "use a group whose nodes have these names, as those of a new group do",
    )


def vpc(found, aws, vpc_id):
    """A private endpoint for execute-api takes every public API away from its VPC, the connections API as well."""
    service = f"com.amazonaws.{aws.region}.execute-api"
    filters = [f"Name=vpc-id,Values={vpc_id}", f"Name=service-name,Values={service},cn.{service}"]
    answer = aws.try_("ec2", "describe-vpc-endpoints", "--filters", *filters)
    if answer is None:
        found.problem(f"the endpoints of {vpc_id} can't be listed", "allow ec2:DescribeVpcEndpoints to whoever deploys")
        return
    private = [e["VpcEndpointId"] for e in answer.get("VpcEndpoints", []) if e.get("PrivateDnsEnabled")]
    found.expect(
        not private,
        "no private endpoint for execute-api",
        f"{vpc_id} has {', '.join(private)} for execute-api with private DNS",
        "every push would fail: switch its private DNS off, or use another VPC",
    )


def everything(aws, templates, given, name, architecture, builds, vpc_id=None, subnets=(), had=None):
    """All of it; returns what is wrong.

    `subnets` are those that the broker goes into, where there are any yet, and `had` are the parameters of the data stack.
    """
    step("looking before anything is changed")
    found = Findings()
    tools(found, architecture, builds)
    parameters(found, templates, {stack: values for stack, values in given.items() if stack != "vpc"})
    copies(found, given)
    issuer(found, given)
    collector(found, given)
    if shutil.which("aws") and aws.region:
        account(found, aws, given, name, subnets, had or {}, templates["data"])
        if vpc_id:
            vpc(found, aws, vpc_id)
    found.expect(aws.region, "region", "no region", "--region, or AWS_REGION")
    return found.problems
