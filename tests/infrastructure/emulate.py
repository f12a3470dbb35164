"""Deploys the stack `app` into an emulator of CloudFormation, by the program that deploys it to AWS.

    emulate.py up FOLDER        secrets, zips from FOLDER, the stack; prints what the stack tells, as JSON
    emulate.py update FOLDER NAME=VALUE…   changes parameters
    emulate.py task FOLDER      prints the environment of the consumer's task, secrets included, as JSON
    emulate.py down             deletes the stack; fails if anything of it is left

AWS_ENDPOINT_URL says where the emulator is, AMQP_URL, REDIS_URL and JWT_SECRET what is behind it.
"""

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True

import boto3

from templates import ROOT, source, translate, wiring

REGION, NAME, BUCKET = "us-east-1", "kschat-test", "kschat-test-artifacts"

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
    del template["Outputs"]["ServiceName"]
    # Checked by rules.py under each profile; the emulator does not know them.
    template.pop("Rules")
    return template


def client(service):
    return boto3.client(service, region_name=REGION)


def prepare(zips):
    """What the network and the data stack would have made; returns it as parameters."""
    keys, s3, secrets = client("kms"), client("s3"), client("secretsmanager")
    s3.create_bucket(Bucket=BUCKET)
    given = {}
    for name in ("connect", "disconnect", "send"):
        (path,) = Path(zips).glob(f"{name}-*.zip")
        s3.upload_file(str(path), BUCKET, f"functions/{path.name}")
        given[f"{name.capitalize()}Key"] = f"functions/{path.name}"
    for parameter, variable in (("AmqpUrl", "AMQP_URL"), ("RedisUrl", "REDIS_URL"), ("JwtKey", "JWT_SECRET")):
        made = secrets.create_secret(Name=f"{NAME}/{variable.lower()}", SecretString=os.environ[variable])
        given[f"{parameter}SecretArn"] = made["ARN"]
    return given | {
        "KeyArn": keys.create_key()["KeyMetadata"]["Arn"],
        "FunctionSubnetIds": "subnet-1,subnet-2",
        "ConsumerSubnetIds": "subnet-1,subnet-2",
        "FunctionsGroupId": "sg-1",
        "ConsumerGroupId": "sg-2",
        "BrokerName": f"{NAME}-broker",
        "BrokerSize": "mq.m7g.medium",
        "RepositoryArn": f"arn:aws:ecr:{REGION}:111122223333:repository/{NAME}",
        "ArtifactBucket": BUCKET,
        "ImageUri": f"{NAME}@sha256:{'0' * 64}",
    }


def deploy(parameters):
    """By the very code that deploys to AWS."""
    wiring(ROOT / "infra/aws")
    from deploy.cli import Aws
    from deploy.stacks import Stacks

    values = {"Name": NAME, "Stage": "test", "Architecture": "x86_64"} | parameters
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "app.json"
        path.write_text(json.dumps(stripped(values)))
        stacks = Stacks(Aws(REGION), NAME, {"kschat": NAME}, assume_yes=True)
        return stacks.deploy("app", values, path, BUCKET)


def up(zips):
    parameters = prepare(zips) | {"Revision": "a" * 64}
    Path(zips, "parameters.json").write_text(json.dumps(parameters))
    return deploy(parameters)


def update(zips, changes):
    parameters = json.loads(Path(zips, "parameters.json").read_text())
    return deploy(parameters | {"Revision": "b" * 64} | dict(change.split("=", 1) for change in changes))


def task(zips):
    """What ECS would put into the environment of the consumer."""
    family = f"{NAME}-consumer"
    (only,) = client("ecs").describe_task_definition(taskDefinition=family)["taskDefinition"]["containerDefinitions"]
    variables = {entry["name"]: entry["value"] for entry in only["environment"]}
    # The emulator forgets what a task's secrets are called, so these are read from the template.
    definition = translate(source(ROOT / "infra/aws", "app"))["Resources"]["ConsumerTask"]["Properties"]
    parameters = json.loads(Path(zips, "parameters.json").read_text())
    secrets = client("secretsmanager")
    for entry in definition["ContainerDefinitions"][0]["Secrets"]:
        arn = parameters[entry["ValueFrom"]["Ref"]]
        variables[entry["Name"]] = secrets.get_secret_value(SecretId=arn)["SecretString"]
    return variables


def down():
    from botocore.exceptions import ClientError

    wiring(ROOT / "infra/aws")
    from deploy.cli import Aws
    from deploy.stacks import Stacks

    Stacks(Aws(REGION), NAME, {}, assume_yes=True).delete("app")
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
    verbs = {"up": up, "update": lambda folder, *changes: update(folder, changes), "task": task, "down": down}
    answer = verbs[verb](*rest)
    print(json.dumps(answer), file=answer_to)


if __name__ == "__main__":
    main()
