"""Runs `kschat-aws check`, `deploy`, `update`, `rollback` and `destroy` against an emulator of AWS.

    emulate.py deploy FOLDER               checks, then deploys the functions of FOLDER; prints what `app` tells, as JSON
    emulate.py update FOLDER NAME=VALUE…   the same program once more, with other parameters of `app`
    emulate.py rollback FOLDER             goes back to the release before
    emulate.py task                        prints the environment of the consumer's task, secrets included, as JSON
    emulate.py destroy FOLDER              takes everything down, data as well; fails if anything is left

The program is the one that deploys to AWS, and so are the templates, but for what the emulator has no idea of.
AWS_ENDPOINT_URL says where it is; AMQP_URL, REDIS_URL, JWT_SECRET and MESSAGE_ID_KEY what is behind it.
"""

import json
import os
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

sys.dont_write_bytecode = True

import boto3

from templates import ROOT, program, source, translate

REGION, NAME = "us-east-1", "kschat-test"

# What the emulator has no idea of, each with what that leaves unproved.
STRIPPED = {
    "network": {
        "AWS::EC2::EIP": "Of the profile `dev` there is none.",
        "AWS::EC2::NatGateway": "The same.",
        "AWS::EC2::FlowLog": "The same.",
    },
    "data": {
        "AWS::AmazonMQ::Broker": "The broker is a process here.",
        "AWS::AmazonMQ::Configuration": "The same; and of the profile `dev` there is none.",
    },
    "app": {
        "AWS::ApiGatewayV2::RouteResponse": "It answers every route whether or not there is one: rules look at them.",
        "AWS::ApiGatewayV2::IntegrationResponse": "It knows no templates, so nobody answers a ping here.",
        "AWS::ApplicationAutoScaling::ScalableTarget": "Nothing is scaled here.",
        "AWS::ApplicationAutoScaling::ScalingPolicy": "Nothing is scaled here.",
        "AWS::CodeDeploy::Application": "Aliases move at once here.",
        "AWS::CodeDeploy::DeploymentGroup": "Aliases move at once here.",
        "AWS::ECS::Service": "Without Docker it runs no task: the consumer is a process.",
    },
    "observability": {},
}

# What it is given as it stands. A type that is in neither list fails the test: somebody has to look first.
KEPT = {
    "AWS::ApiGateway::Account",
    "AWS::ApiGatewayV2::Api",
    "AWS::ApiGatewayV2::ApiMapping",
    "AWS::ApiGatewayV2::DomainName",
    "AWS::ApiGatewayV2::Integration",
    "AWS::ApiGatewayV2::Route",
    "AWS::ApiGatewayV2::Stage",
    "AWS::CloudWatch::Alarm",
    "AWS::CloudWatch::Dashboard",
    "AWS::EC2::InternetGateway",
    "AWS::EC2::Route",
    "AWS::EC2::RouteTable",
    "AWS::EC2::SecurityGroup",
    "AWS::EC2::Subnet",
    "AWS::EC2::SubnetRouteTableAssociation",
    "AWS::EC2::VPC",
    "AWS::EC2::VPCEndpoint",
    "AWS::EC2::VPCGatewayAttachment",
    "AWS::ECR::Repository",
    "AWS::ECS::Cluster",
    "AWS::ECS::TaskDefinition",
    "AWS::ElastiCache::ParameterGroup",
    "AWS::ElastiCache::ReplicationGroup",
    "AWS::ElastiCache::SubnetGroup",
    "AWS::IAM::ManagedPolicy",
    "AWS::IAM::Role",
    "AWS::KMS::Alias",
    "AWS::KMS::Key",
    "AWS::Lambda::Alias",
    "AWS::Lambda::Function",
    "AWS::Lambda::Permission",
    "AWS::Lambda::Version",
    "AWS::Logs::LogGroup",
    "AWS::Route53::RecordSet",
    "AWS::S3::Bucket",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::Subscription",
    "AWS::SNS::Topic",
    "AWS::SNS::TopicPolicy",
    "AWS::SecretsManager::Secret",
}

# Secrets that name the services behind the emulator instead of those that it would have.
SERVICES = {
    "FunctionsAmqpUrlSecret": "AMQP_URL",
    "AmqpUrlSecret": "AMQP_URL",
    "RedisUrlSecret": "REDIS_URL",
    "JwtKeySecret": "JWT_SECRET",
    "MessageIdKeySecret": "MESSAGE_ID_KEY",
}

# Alarms that calculate: the emulator can't.
CALCULATE = {"BrokerMemory", "BrokerDisk", "CacheMemory", "CacheBusy"}


def understood(part, template, parameters):
    """A stack as the emulator understands it."""
    template = translate(template, parameters)
    types = {resource["Type"] for resource in template["Resources"].values()}
    if unknown := types - KEPT - STRIPPED[part].keys():
        raise SystemExit(f"{sorted(unknown)}: can the emulator do that? Enter it into KEPT or STRIPPED.")
    if stale := STRIPPED[part].keys() - types:
        raise SystemExit(f"{sorted(stale)} need not be stripped from {part} any more")
    resources = {name: r for name, r in template["Resources"].items() if r["Type"] not in STRIPPED[part]}
    template["Resources"] = resources
    # Checked by rules of our own under each profile; the emulator does not know them.
    template.pop("Rules", None)
    # What nobody reads here, so that the template can be sent as it is: AWS fetches a larger one from the bucket.
    for described in (template, *resources.values(), *template["Parameters"].values()):
        described.pop("Metadata", None)
        described.pop("Description", None)
    STAND_INS.get(part, lambda template: None)(template)
    return template


def data(template):
    """Without a broker: whoever asks for it gets a name, and the URLs are those of the services behind."""
    for name, variable in SERVICES.items():
        properties = template["Resources"][name]["Properties"]
        properties.pop("GenerateSecretString", None)
        properties["SecretString"] = os.environ[variable]
    for name, output in template["Outputs"].items():
        text = json.dumps(output["Value"])
        if '"Broker"' in text or '"Broker.' in text or "${Broker" in text:
            output["Value"] = f"{NAME}-broker"
        # On AWS the reference would do; the emulator takes it for the name.
        if name.endswith("SecretArn"):
            output["Value"] = {"Fn::GetAtt": [f"{name.removesuffix('Arn')}", "Id"]}


def app(template):
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Lambda::Alias":
            # It names CodeDeploy's group.
            del resource["UpdatePolicy"]
    # Who watches the service need not know that there is none.
    template["Outputs"]["ServiceName"]["Value"] = f"{NAME}-consumer"


def observability(template):
    calculate = {name for name, r in template["Resources"].items() if "Metrics" in r.get("Properties", {})}
    if calculate != CALCULATE:
        raise SystemExit(f"{sorted(calculate ^ CALCULATE)}: enter it into CALCULATE, or take it out")
    template["Resources"] = {name: r for name, r in template["Resources"].items() if name not in calculate}


STAND_INS = {"data": data, "app": app, "observability": observability}


def kschat_aws():
    """The program, which gives each stack to the emulator as that understands it."""
    module = program(ROOT / "infra/aws")
    deploy = module.Stacks.deploy

    def emulated(stacks, part, parameters, template=None, bucket=None):
        folder = Path(template).parent if template else stacks.templates
        stack = understood(part, source(folder, part), parameters)
        with tempfile.TemporaryDirectory() as into:
            path = Path(into) / f"{part}.yaml"
            # JSON is YAML, too.
            path.write_text(json.dumps(stack, separators=(",", ":")))
            return deploy(stacks, part, parameters, path, bucket)

    module.Stacks.deploy = emulated
    # The broker is a process here, and its users are its own: broker_users.py makes those of a deployment in a test of its own.
    module.Deployment.make_broker_users = lambda deployment: None
    return module


def client(service):
    return boto3.client(service, region_name=REGION)


def options(folder, changes=()):
    """What a person would say on the command line."""
    return Namespace(
        name=NAME,
        profile=None,
        change=[],
        region=REGION,
        params=[],
        set=[f"app.{change}" for change in changes],
        tag=["team=chat"],
        yes=True,
        allow_replacement=False,
        architecture="x86_64",
        zips=folder,
        image=f"{NAME}@sha256:{'0' * 64}",
        to=None,
        with_data=True,
        confirm=NAME,
    )


def told():
    (stack,) = client("cloudformation").describe_stacks(StackName=f"{NAME}-app")["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


def task():
    """What ECS would put into the environment of the consumer."""
    family = f"{NAME}-consumer"
    (only,) = client("ecs").describe_task_definition(taskDefinition=family)["taskDefinition"]["containerDefinitions"]
    variables = {entry["name"]: entry["value"] for entry in only["environment"]}
    # The emulator forgets what a task's secrets are called, so these are read from the template.
    definition = translate(source(ROOT / "infra/aws", "app"))["Resources"]["ConsumerTask"]["Properties"]
    (stack,) = client("cloudformation").describe_stacks(StackName=f"{NAME}-app")["Stacks"]
    parameters = {given["ParameterKey"]: given["ParameterValue"] for given in stack["Parameters"]}
    secrets = client("secretsmanager")
    for entry in definition["ContainerDefinitions"][0]["Secrets"]:
        arn = parameters[entry["ValueFrom"]["Ref"]]
        variables[entry["Name"]] = secrets.get_secret_value(SecretId=arn)["SecretString"]
    return variables


def left_behind():
    """Whatever has our name, or is of a kind of which there was none before."""
    stacks = client("cloudformation").describe_stacks()["Stacks"]
    yield from (stack["StackName"] for stack in stacks if stack["StackStatus"] != "DELETE_COMPLETE")
    yield from (function["FunctionName"] for function in client("lambda").list_functions()["Functions"])
    yield from (api["Name"] for api in client("apigatewayv2").get_apis()["Items"])
    yield from (role["RoleName"] for role in client("iam").list_roles()["Roles"] if NAME in role["RoleName"])
    yield from (bucket["Name"] for bucket in client("s3").list_buckets()["Buckets"])
    yield from (repository["repositoryName"] for repository in client("ecr").describe_repositories()["repositories"])
    yield from (secret["Name"] for secret in client("secretsmanager").list_secrets()["SecretList"])
    groups = client("elasticache").describe_replication_groups()["ReplicationGroups"]
    yield from (group["ReplicationGroupId"] for group in groups)
    vpcs = client("ec2").describe_vpcs(Filters=[{"Name": "tag:kschat", "Values": [NAME]}])["Vpcs"]
    yield from (vpc["VpcId"] for vpc in vpcs)


def run(verb, folder, *changes):
    given, module = options(folder, changes), kschat_aws()
    if verb == "deploy":
        module.run_check(given)
    getattr(module, f"run_{verb}")(given)
    if verb != "destroy":
        return told()
    if left := list(left_behind()):
        raise SystemExit(f"left behind: {left}")
    return None


def main():
    verb, *rest = sys.argv[1:]
    # Progress goes to the other stream: the caller reads one line of JSON.
    answer_to, sys.stdout = sys.stdout, sys.stderr
    answer = task() if verb == "task" else run(verb, *rest)
    print(json.dumps(answer), file=answer_to)


if __name__ == "__main__":
    main()
