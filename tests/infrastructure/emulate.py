"""Deploys the stacks `app` and `observability` into an emulator of CloudFormation, by the program that deploys to AWS.

    emulate.py up FOLDER            secrets, functions from FOLDER, the stacks; prints what `app` tells, as JSON
    emulate.py update FOLDER NAME=VALUE…   changes parameters of `app`
    emulate.py rollback FOLDER      goes back to the release before
    emulate.py task                 prints the environment of the consumer's task, secrets included, as JSON
    emulate.py down                 deletes the stacks; fails if anything of them is left

AWS_ENDPOINT_URL says where the emulator is, AMQP_URL, REDIS_URL and JWT_SECRET what is behind it.
"""

import contextlib
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

# What the network would have told.
VPC = {
    "VpcId": "vpc-1",
    "VpcCidr": "10.0.0.0/16",
    "PrivateSubnetIds": "subnet-1,subnet-2",
    "ConsumerSubnetIds": "subnet-1,subnet-2",
    "ConsumerPublicIp": "DISABLED",
}

# What the emulator has no idea of, each with what that leaves unproved.
STRIPPED = {
    "AWS::ApiGatewayV2::RouteResponse": "It answers every route whether or not there is one: rules.py looks at them.",
    "AWS::ApiGatewayV2::IntegrationResponse": "It knows no templates, so nobody answers a ping here.",
    "AWS::ApplicationAutoScaling::ScalableTarget": "Nothing is scaled here.",
    "AWS::ApplicationAutoScaling::ScalingPolicy": "Nothing is scaled here.",
    "AWS::CodeDeploy::Application": "Aliases move at once here.",
    "AWS::CodeDeploy::DeploymentGroup": "Aliases move at once here.",
    "AWS::ECS::Service": "Without Docker it runs no task, and a count in text fails: the consumer is a process.",
}

# What it is given as it stands. A type that is in neither list fails the test: somebody has to look first.
KEPT = {
    "AWS::ApiGatewayV2::Api",
    "AWS::ApiGatewayV2::ApiMapping",
    "AWS::ApiGatewayV2::DomainName",
    "AWS::ApiGatewayV2::Integration",
    "AWS::ApiGatewayV2::Route",
    "AWS::ApiGatewayV2::Stage",
    "AWS::CloudWatch::Alarm",
    "AWS::ECS::Cluster",
    "AWS::ECS::TaskDefinition",
    "AWS::IAM::ManagedPolicy",
    "AWS::IAM::Role",
    "AWS::Lambda::Alias",
    "AWS::Lambda::Function",
    "AWS::Lambda::Permission",
    "AWS::Lambda::Version",
    "AWS::Logs::LogGroup",
    "AWS::Route53::RecordSet",
}


def stripped(parameters):
    """The translated stack without what the emulator does not know."""
    template = translate(source(ROOT / "infra/aws", "app"), parameters)
    types = {resource["Type"] for resource in template["Resources"].values()}
    if unknown := types - KEPT - STRIPPED.keys():
        raise SystemExit(f"{sorted(unknown)}: can the emulator do that? Enter it into KEPT or STRIPPED.")
    if stale := STRIPPED.keys() - types:
        raise SystemExit(f"{sorted(stale)} need not be stripped any more")
    gone = {name for name, r in template["Resources"].items() if r["Type"] in STRIPPED}
    template["Resources"] = {name: r for name, r in template["Resources"].items() if name not in gone}
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Lambda::Alias":
            # It names CodeDeploy's group.
            del resource["UpdatePolicy"]
    # Who watches the service need not know that there is none.
    template["Outputs"]["ServiceName"]["Value"] = f"{NAME}-consumer"
    # Checked by rules.py under each profile; the emulator does not know them.
    template.pop("Rules")
    return template


# Alarms that calculate: the emulator can't.
CALCULATE = {"BrokerMemory", "BrokerDisk"}


def without_arithmetic():
    """The stack of alarms without those that the emulator does not understand."""
    template = source(ROOT / "infra/aws", "observability")
    calculate = {name for name, r in template["Resources"].items() if "Metrics" in r.get("Properties", {})}
    if calculate != CALCULATE:
        raise SystemExit(f"{sorted(calculate ^ CALCULATE)}: enter it into CALCULATE, or take it out")
    template["Resources"] = {name: r for name, r in template["Resources"].items() if name not in calculate}
    return template


def client(service):
    return boto3.client(service, region_name=REGION)


def data_stack():
    """A stack that tells what the real one tells, without a broker and a cache, which the emulator does not have."""
    secrets = {"AmqpUrl": "AMQP_URL", "RedisUrl": "REDIS_URL", "JwtKey": "JWT_SECRET"}
    resources = {
        "Key": {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": {"Version": "2012-10-17", "Statement": []}}},
        "Artifacts": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": f"{NAME}-artifacts"}},
    }
    told = {
        "KeyArn": {"Fn::GetAtt": ["Key", "Arn"]},
        "ArtifactBucket": {"Ref": "Artifacts"},
        "FunctionsGroupId": "sg-1",
        "ConsumerGroupId": "sg-2",
        "BrokerName": f"{NAME}-broker",
        "BrokerSize": "mq.m7g.medium",
        "CacheId": NAME,
        "RepositoryArn": f"arn:aws:ecr:{REGION}:111122223333:repository/{NAME}",
    }
    for name, variable in secrets.items():
        value = {"Name": f"{NAME}/{name}", "SecretString": os.environ[variable]}
        resources[f"{name}Secret"] = {"Type": "AWS::SecretsManager::Secret", "Properties": value}
        # On AWS the reference would do; the emulator takes it for the name.
        told[f"{name}SecretArn"] = {"Fn::GetAtt": [f"{name}Secret", "Id"]}
    return {"Resources": resources, "Outputs": {name: {"Value": value} for name, value in told.items()}}


def options(folder, changes=()):
    """What a person would say on the command line."""
    vpc = Path(folder) / "vpc.json"
    vpc.write_text(json.dumps({"vpc": VPC}))
    return Namespace(
        name=NAME,
        profile="dev",
        region=REGION,
        params=[vpc],
        set=[f"app.{change}" for change in changes],
        tag=[],
        yes=True,
        allow_replacement=False,
        architecture="x86_64",
        zips=folder,
        image=f"{NAME}@sha256:{'0' * 64}",
        to=None,
    )


def roll_out(folder, changes=()):
    """What `kschat-aws update` does, with the template that the emulator understands."""
    module = program(ROOT / "infra/aws")
    deployment = module.Deployment(options(folder, changes))
    released = deployment.release()
    values = deployment.parameters_of("app") | released
    # On AWS SAM sees the revision that CloudFormation is given; here it comes first.
    values["Revision"] = module.revision(values)
    with tempfile.TemporaryDirectory() as into:
        deployment.stacks.templates = Path(into)
        for stack, template in (
            ("app", stripped(values)),
            ("observability", without_arithmetic()),
        ):
            # JSON is YAML, too.
            (Path(into) / f"{stack}.yaml").write_text(json.dumps(template, separators=(",", ":")))
        deployment.roll_out(released)
    return deployment.outputs("app")


def up(folder):
    deployment = program(ROOT / "infra/aws").Deployment(options(folder))
    path = Path(folder) / "data.json"
    path.write_text(json.dumps(data_stack()))
    deployment.stacks.deploy("data", {}, path)
    return roll_out(folder)


def rollback(folder):
    program(ROOT / "infra/aws").run_rollback(options(folder))


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


def down():
    from botocore.exceptions import ClientError

    with tempfile.TemporaryDirectory() as folder:
        stacks = program(ROOT / "infra/aws").Deployment(options(folder)).stacks
    stacks.delete("observability")
    stacks.delete("app")
    left = [f["FunctionName"] for f in client("lambda").list_functions()["Functions"]]
    left += [api["Name"] for api in client("apigatewayv2").get_apis()["Items"]]
    left += [r["RoleName"] for r in client("iam").list_roles()["Roles"] if NAME in r["RoleName"]]
    # One that is gone is not described.
    with contextlib.suppress(ClientError):
        stacks = client("cloudformation").describe_stacks(StackName=f"{NAME}-app")["Stacks"]
        left += [stack["StackName"] for stack in stacks if stack["StackStatus"] != "DELETE_COMPLETE"]
    if left:
        raise SystemExit(f"left behind: {left}")


def main():
    verb, *rest = sys.argv[1:]
    # Progress goes to the other stream: the caller reads one line of JSON.
    answer_to, sys.stdout = sys.stdout, sys.stderr
    verbs = {
        "up": up,
        "update": lambda folder, *changes: roll_out(folder, changes),
        "rollback": rollback,
        "task": task,
        "down": down,
    }
    answer = verbs[verb](*rest)
    print(json.dumps(answer), file=answer_to)


if __name__ == "__main__":
    main()
