"""Writes the policies of whoever deploys, for one deployment in one account: what `deployer.json` says, with names put in."""

import json
from pathlib import Path

from deploy.cli import Failed, say, step

FILE = Path(__file__).resolve().parents[1] / "deployer.json"

# The statement that says which roles may be made and changed.
BOUNDED = "BoundedRoles"


def partition(region):
    """Which part of AWS a region belongs to. Source: https://docs.aws.amazon.com/whitepapers/latest/aws-fault-isolation-boundaries/partitions.html"""
    return "aws-cn" if region.startswith("cn-") else "aws-us-gov" if region.startswith("us-gov-") else "aws"


def documents(name, account, region, suffix, path="/", boundary=None):
    """The policies. With a boundary, no role without it can be made or changed."""
    values = {
        "<name>": name,
        "<account>": account,
        "<region>": region,
        "<suffix>": suffix,
        "<partition>": partition(region),
        "<path>": path.lstrip("/"),
    }
    text = FILE.read_text()
    for place, value in values.items():
        text = text.replace(place, value)
    policies = json.loads(text)["policies"]
    for statement in (statement for policy in policies for statement in policy["Statement"]):
        if boundary and statement["Sid"] == BOUNDED:
            statement["Condition"] = {"StringEquals": {"iam:PermissionsBoundary": boundary}}
        if boundary and "iam:DeleteRolePermissionsBoundary" in statement["Action"]:
            statement["Action"].remove("iam:DeleteRolePermissionsBoundary")
    return policies


def write(folder, policies, name):
    """Writes a file for each and says how to make them."""
    step(f"policies of whoever deploys {name}")
    folder.mkdir(parents=True, exist_ok=True)
    for number, policy in enumerate(policies, 1):
        path = folder / f"{name}-deployer-{number}.json"
        path.write_text(json.dumps(policy, indent=1) + "\n")
        say(f"aws iam create-policy --policy-name {path.stem} --policy-document file://{path}")


def account_of(aws, given):
    """The account, as it was said or as the credentials know it."""
    if given:
        return given
    identity = aws.try_("sts", "get-caller-identity")
    if identity is None:
        raise Failed("no credentials tell the account: say --account")
    return identity["Account"]
