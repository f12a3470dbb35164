"""The policy of whoever deploys: worked out from the types of resources in the templates and from what kschat-aws calls.

    deployer.py          writes infra/aws/deployer.json anew

What CloudFormation calls for a type stands in the type's own schema, which AWS publishes and cfn-lint brings along. Which
actions can be limited to a resource stands in AWS's Service Authorization Reference, in the form that cfn-lint has.
Sources: https://docs.aws.amazon.com/cloudformation-cli/latest/userguide/resource-type-schema.html,
https://docs.aws.amazon.com/service-authorization/latest/reference/reference.html
"""

import json
import re
import sys
from functools import cache
from pathlib import Path

sys.dont_write_bytecode = True

from templates import ROOT, STACKS, source, translate

# Characters of a managed policy, spaces not counted. Source:
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
LARGEST_POLICY = 6144

# What schemas list for properties that the stacks do not have, or that is no action at all, each with its reason.
NEEDLESS = {
    r"(firehose|vpc-lattice|vpce|elasticfilesystem|ram|autoscaling|s3express|s3tables|s3files):.*": "services that are not used",
    r"s3:REST\..*|s3:getObject|apigateway:(Tag|Untag)Resource": "no actions",
    r"iam:(Attach|Detach)(User|Group)Policy": "policies are attached to roles only",
    r"iam:(Create|Delete|Add|Remove)(User|InstanceProfile|.*InstanceProfile)": "there are none",
    r"ecs:PutAccountSetting.*|ecs:PutClusterCapacityProviders": "settings of the whole account, and providers of one's own",
    r"secretsmanager:(ReplicateSecretToRegions|RemoveRegionsFromReplication)": "secrets stay in their region",
    r"mq:(CreateReplicaBroker|Promote)": "there is no replica in another region",
    r"ec2:(Attach|Detach|Describe)VpnGateway.*|ec2:AcceptAddressTransfer|ec2:.*PrivateNatGatewayAddress": "there are none",
    r"ec2:.*EncryptionControls?": "the network has none",
    r"lambda:(Put|Delete)(FunctionCodeSigning|Provisioned|FunctionRecursion|FunctionScaling|RuntimeManagement).*": "not set",
    r"lambda:(GetLayerVersion|PassCapacityProvider|AssociateRuntimeAlias)": "functions have neither",
    r"logs:.*(DataProtectionPolicy|IndexPolic|BearerToken|ResourcePolic).*": "groups have none",
    r"logs:.*LogDelivery|logs:ListLogDeliveries|logs:PutLogGroupDeletionProtection": "not set",
    r"codedeploy:RegisterOnPremisesInstance": "functions are deployed, no machines",
    r"application-autoscaling:.*ScheduledActions?": "nothing is scaled by the clock",
    r"route53:(ListHostedZones|AssociateVPCWithHostedZone)": "the zone is given, and public",
}

# What may be put on a bucket: what the template sets.
S3_SETS = "BucketPolicy|BucketVersioning|EncryptionConfiguration|BucketPublicAccessBlock|BucketOwnershipControls|BucketTagging|Object"

# Resources by service, as names of the deployment allow them to be limited. What is not here can't be: ids of networks and
# of APIs are given by AWS.
SCOPES = {
    "cloudformation": [
        "arn:<partition>:cloudformation:<region>:<account>:stack/<name>-*/*",
        "arn:<partition>:cloudformation:<region>:aws:transform/Serverless-2016-10-31",
    ],
    "iam": [
        "arn:<partition>:iam::<account>:role/<path><name>-*",
        "arn:<partition>:iam::<account>:policy/<path><name>-*",
    ],
    "lambda": ["arn:<partition>:lambda:<region>:<account>:function:<name>-*"],
    "logs": [
        "arn:<partition>:logs:<region>:<account>:log-group:/aws/lambda/<name>-*",
        "arn:<partition>:logs:<region>:<account>:log-group:/<name>/*",
    ],
    "s3": ["arn:<partition>:s3:::<name>-artifacts*"],
    "secretsmanager": ["arn:<partition>:secretsmanager:<region>:<account>:secret:<name>*"],
    "sns": ["arn:<partition>:sns:<region>:<account>:<name>-alarms*"],
    "cloudwatch": [
        "arn:<partition>:cloudwatch:<region>:<account>:alarm:<name>-*",
        "arn:<partition>:cloudwatch:<region>:<account>:alarm:TargetTracking-service/<name>/*",
        "arn:<partition>:cloudwatch::<account>:dashboard/<name>",
    ],
    "ecr": ["arn:<partition>:ecr:<region>:<account>:repository/<name>*"],
    "ecs": [
        "arn:<partition>:ecs:<region>:<account>:cluster/<name>",
        "arn:<partition>:ecs:<region>:<account>:service/<name>/*",
        "arn:<partition>:ecs:<region>:<account>:task-definition/<name>-consumer:*",
    ],
    "elasticache": [
        "arn:<partition>:elasticache:<region>:<account>:replicationgroup:<name>*",
        "arn:<partition>:elasticache:<region>:<account>:cluster:<name>*",
        "arn:<partition>:elasticache:<region>:<account>:subnetgroup:<name>*",
        # CloudFormation names these after the stack.
        "arn:<partition>:elasticache:<region>:<account>:parametergroup:*",
    ],
    "mq": [
        "arn:<partition>:mq:<region>:<account>:broker:<name>-broker*:*",
        # Ids are given by AWS.
        "arn:<partition>:mq:<region>:<account>:configuration:*",
    ],
    "apigateway": [
        "arn:<partition>:apigateway:<region>::/apis*",
        "arn:<partition>:apigateway:<region>::/domainnames*",
        "arn:<partition>:apigateway:<region>::/account",
        "arn:<partition>:apigateway:<region>::/tags*",
    ],
    "codedeploy": [
        "arn:<partition>:codedeploy:<region>:<account>:application:<name>-*",
        "arn:<partition>:codedeploy:<region>:<account>:deploymentgroup:<name>-*",
        "arn:<partition>:codedeploy:<region>:<account>:deploymentconfig:*",
    ],
}

# What also looks at a broker and a cache that were there before, whose names are not those of the deployment.
LOOKS = {"elasticache:DescribeReplicationGroups", "mq:DescribeBroker"}

# What decides what a role may do: kschat-aws limits these to roles with a boundary, where there is one.
BOUNDED = {
    f"iam:{name}"
    for name in (
        "CreateRole",
        "PutRolePolicy",
        "AttachRolePolicy",
        "DeleteRolePolicy",
        "DetachRolePolicy",
        "PutRolePermissionsBoundary",
    )
}

# Actions that are limited in another way than their service's others.
LINKED_ROLES = ["arn:<partition>:iam::<account>:role/aws-service-role/*"]

# Whom a role may be passed to. In the order of the templates: functions, tasks, shifts, the edge, logs of the network.
PASSED_TO = [
    "lambda.amazonaws.com",
    "ecs-tasks.amazonaws.com",
    "codedeploy.amazonaws.com",
    "codedeploy.<region>.<suffix>",
    "apigateway.amazonaws.com",
    "vpc-flow-logs.amazonaws.com",
]

# What a command of the AWS command line needs beside or instead of the action of its name.
COMMANDS = {
    ("s3", "cp"): ["s3:GetObject", "s3:PutObject", "s3:ListBucket"],
    ("s3api", "list-objects-v2"): ["s3:ListBucket"],
    ("s3api", "list-object-versions"): ["s3:ListBucketVersions"],
    ("s3api", "delete-object"): ["s3:DeleteObject", "s3:DeleteObjectVersion"],
    ("lambda", "invoke"): ["lambda:InvokeFunction"],
    ("apigateway", "get-account"): ["apigateway:GET"],
    # Source: AWS CloudFormation User Guide, "Detect drift on an entire CloudFormation stack". The resources are read with the
    # permissions that deploying them takes.
    ("cloudformation", "detect-stack-drift"): ["cloudformation:DetectStackDrift", "cloudformation:DetectStackResourceDrift"],
    ("sts", "get-caller-identity"): [],
    # The image is pushed by HTTP, with the token.
    ("ecr", "get-authorization-token"): [
        "ecr:GetAuthorizationToken",
        "ecr:BatchCheckLayerAvailability",
        "ecr:BatchGetImage",
        "ecr:CompleteLayerUpload",
        "ecr:InitiateLayerUpload",
        "ecr:PutImage",
        "ecr:UploadLayerPart",
    ],
}

# What objects in the bucket, secrets and settings are encrypted with, and what a log group asks for of whom makes it.
KEY = {"kms:Decrypt", "kms:GenerateDataKey", "kms:Encrypt", "kms:DescribeKey", "kms:CreateGrant"}


def of_stacks(folder):
    """What CloudFormation calls, in the name of whoever deploys, for all types that there are."""
    from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

    types = set()
    for stack in STACKS:
        types |= {resource["Type"] for resource in translate(source(folder, stack))["Resources"].values()}
    found = set()
    for kind in types:
        handlers = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema.get("handlers")
        if not handlers:
            raise ValueError(f"nobody tells what {kind} needs")
        found |= {action for handler in handlers.values() for action in handler.get("permissions", [])}
    return {action for action in found if not is_needless(action)}


def is_needless(action):
    if re.fullmatch(r"s3:(Put|Delete|Replicate)\w+", action):
        return not re.fullmatch(f"s3:Put({S3_SETS})|s3:Delete(Bucket|BucketPolicy|Object|ObjectVersion)", action)
    return any(re.fullmatch(pattern, action) for pattern in NEEDLESS)


def called_by(text):
    """The actions behind the commands of the AWS command line that a program has in it."""
    services = "apigateway|cloudformation|ec2|ecr|elasticache|iam|kms|lambda|mq|s3|s3api|secretsmanager|sts"
    found = set()
    for service, command in re.findall(rf'(?<!"cargo", )"({services})",\s*"([a-z0-9-]+)"', text):
        action = f"{service.removesuffix('api')}:{''.join(word.capitalize() for word in command.split('-'))}"
        found.update(COMMANDS.get((service, command), [action]))
    return found


def of_command(folder):
    """What kschat-aws calls itself."""
    programs = [Path(folder) / "kschat-aws", *sorted((Path(folder) / "deploy").glob("*.py"))]
    # A stack that the SAM transform changes is summed up first.
    return called_by("\n".join(path.read_text() for path in programs)) | {"cloudformation:GetTemplateSummary"}


@cache
def known_actions():
    import cfnlint.data.AdditionalSpecs as specs
    from cfnlint.helpers import load_resource

    return load_resource(specs, "Policies.json")


def can_be_limited(action):
    service, name = action.split(":")
    known = known_actions()[service]["Actions"]
    if name.lower() not in known:
        raise ValueError(f"there is no action {action}")
    return bool(known[name.lower()].get("Resources"))


# What is limited by the deployment's tag, as its ids are given by AWS: changing and deleting parts of the network, but for those
# that the broker makes for itself, and all that is done with the key.
TAGGED = (
    r"ec2:(Delete|Modify|Detach|Disassociate|Release|Revoke|ReplaceRoute|UpdateSecurityGroup)"
    r"(?!Tags|.*(NetworkInterface|VpcEndpoint))\w*|kms:(?!CreateKey|TagResource|List|\w+Alias)\w+"
)
TAG = {"StringEquals": {"aws:ResourceTag/kschat": "<name>"}}


def scoped(actions):
    """The statements: those on anything, those on what has the deployment's tag or name, those with another condition."""
    anything, tagged, by_service = set(), set(), {}
    for action in actions - BOUNDED - {"iam:PassRole", "iam:CreateServiceLinkedRole"}:
        service, is_limited = action.split(":")[0], can_be_limited(action)
        if service in SCOPES and is_limited and action not in LOOKS:
            by_service.setdefault(service, set()).add(action)
        elif is_limited and re.fullmatch(TAGGED, action):
            tagged.add(action)
        else:
            anything.add(action)
    yield {"Sid": "Unlimited", "Action": sorted(anything), "Resource": "*"}
    yield {"Sid": "Tagged", "Action": sorted(tagged), "Resource": "*", "Condition": TAG}
    for service in sorted(by_service):
        name = "".join(word.capitalize() for word in service.split("-"))
        yield {"Sid": name, "Action": sorted(by_service[service]), "Resource": SCOPES[service]}
    yield {"Sid": "BoundedRoles", "Action": sorted(BOUNDED & actions), "Resource": [SCOPES["iam"][0]]}
    yield {"Sid": "LinkedRoles", "Action": ["iam:CreateServiceLinkedRole"], "Resource": LINKED_ROLES}
    yield {
        "Sid": "PassRoles",
        "Action": ["iam:PassRole"],
        "Resource": [SCOPES["iam"][0]],
        "Condition": {"StringEquals": {"iam:PassedToService": PASSED_TO}},
    }


def size(statements):
    return len(re.sub(r"\s", "", json.dumps(statements)))


def policies(folder):
    """As many policies as it takes, since one may not be longer."""
    # Names are put in later, which may be longer than their places; half of the length leaves enough.
    room, documents = LARGEST_POLICY * 2 // 3, [[]]
    for statement in scoped(of_stacks(folder) | of_command(folder) | KEY):
        left = list(statement["Action"])
        while left:
            part = statement | {"Effect": "Allow", "Action": []}
            while left and size([*documents[-1], part | {"Action": [*part["Action"], left[0]]}]) < room:
                part["Action"].append(left.pop(0))
            if part["Action"]:
                documents[-1].append(part)
            if left:
                documents.append([])
    return [{"Version": "2012-10-17", "Statement": numbered(statements)} for statements in documents if statements]


def numbered(statements):
    order = ("Sid", "Effect", "Action", "Resource", "Condition")
    return [{key: statement[key] for key in order if key in statement} for statement in statements]


def text(folder):
    return json.dumps({"policies": policies(folder)}, indent=1) + "\n"


if __name__ == "__main__":
    (ROOT / "infra/aws/deployer.json").write_text(text(ROOT / "infra/aws"))
