"""Looks before anything is changed: tools, credentials, quotas, and what would be unsafe."""

import json
import re
import shutil
import subprocess
import urllib.request
from urllib.parse import urlsplit

from deploy.build import TARGETS
from deploy.cli import GREEN, PLAIN, RED, say, step

# An account keeps as many executions for functions without a reservation. Source: AWS Lambda quotas.
UNRESERVED = 100

# Concurrency that the functions of a broker's size reserve together: the mapping of app.yaml, checked by a test.
RESERVED = {
    "mq.m7g.medium": 130,
    "mq.m7g.large": 800,
    "mq.m7g.xlarge": 800,
    "mq.m7g.4xlarge": 800,
    "mq.m7g.8xlarge": 800,
}


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


def account(found, aws, given):
    """Asks the account; stops at missing credentials, as nothing else can be asked then."""
    identity = aws.try_("sts", "get-caller-identity")
    if identity is None:
        found.problem("no credentials", "aws configure, aws sso login, or AWS_PROFILE")
        return
    found.ok(f"account {identity['Account']}, region {aws.region}")
    concurrency(found, aws, given)
    zones(found, aws, given)
    broker(found, aws, given)
    secret(found, aws, given["data"].get("JwtKeySecretArn"))
    if given["app"].get("AccessLogs") == "true" and given["observability"].get("AccountLogging") != "true":
        role = (aws.try_("apigateway", "get-account") or {}).get("cloudwatchRoleArn")
        found.expect(
            role,
            "role for access logs",
            "the account has no role for access logs",
            "set observability.AccountLogging=true in one deployment, and app.AccessLogs=true afterwards",
        )


def concurrency(found, aws, given):
    if given["app"].get("ReserveConcurrency", "true") != "true":
        return
    limits = (aws.try_("lambda", "get-account-settings") or {}).get("AccountLimit", {})
    free = limits.get("UnreservedConcurrentExecutions", 0)
    wanted = RESERVED[given["data"].get("BrokerInstanceType", "mq.m7g.medium")]
    found.expect(
        free - wanted >= UNRESERVED,
        f"{wanted} concurrent executions can be reserved",
        f"{wanted} concurrent executions are to be reserved, and of {free} that are free {UNRESERVED} must stay so",
        "ask for more in Service Quotas (Lambda, concurrent executions), or set app.ReserveConcurrency=false: then the "
        "account's limit alone protects the broker",
    )


def zones(found, aws, given):
    if "network" not in given:
        return
    answer = (
        aws.try_("ec2", "describe-availability-zones", "--filters", "Name=zone-type,Values=availability-zone") or {}
    )
    have, want = len(answer.get("AvailabilityZones", [])), int(given["network"].get("Zones", 2))
    found.expect(have >= want, f"{want} zones", f"the region has {have} zones, not {want}", "set network.Zones=2")


def broker(found, aws, given):
    size, version = given["data"].get("BrokerInstanceType"), given["data"].get("BrokerVersion")
    asked = ["--engine-type", "RABBITMQ", "--host-instance-type", size]
    options = (aws.try_("mq", "describe-broker-instance-options", *asked) or {}).get("BrokerInstanceOptions", [])
    versions = {v for option in options for v in option.get("SupportedEngineVersions", [])}
    found.expect(
        version in versions,
        f"{size} with RabbitMQ {version}",
        f"here is no {size} with RabbitMQ {version}",
        f"versions: {', '.join(sorted(versions)) or 'none'}",
    )


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


def secret(found, aws, arn):
    if arn:
        found.expect(
            aws.try_("secretsmanager", "describe-secret", "--secret-id", arn),
            "the key for tokens",
            f"there is no secret {arn}",
            "create it, or leave data.JwtKeySecretArn out to have one made",
        )


def vpc(found, aws, vpc_id):
    """A private endpoint for execute-api takes every public API away from its VPC, the connections API as well."""
    filters = [f"Name=vpc-id,Values={vpc_id}", f"Name=service-name,Values=com.amazonaws.{aws.region}.execute-api"]
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


def everything(aws, templates, given, architecture, builds, vpc_id=None):
    """All of it; returns what is wrong."""
    step("looking before anything is changed")
    found = Findings()
    tools(found, architecture, builds)
    parameters(found, templates, {stack: values for stack, values in given.items() if stack != "vpc"})
    copies(found, given)
    issuer(found, given)
    collector(found, given)
    if shutil.which("aws") and aws.region:
        account(found, aws, given)
        if vpc_id:
            vpc(found, aws, vpc_id)
    found.expect(aws.region, "region", "no region", "--region, or AWS_REGION")
    return found.problems
