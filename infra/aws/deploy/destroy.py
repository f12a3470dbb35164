"""Deletes what the data stack keeps when it is deleted. It may be interrupted anywhere, and goes on where it was."""

import time

from deploy.cli import MISSING, Failed, say, step

BROKER, CACHE, BUCKET = "AWS::AmazonMQ::Broker", "AWS::ElastiCache::ReplicationGroup", "AWS::S3::Bucket"

# Physical ids of these outlive their stack, and then cost, and stand in the way of a new deployment of that name.
KEPT = {
    BROKER: lambda id: ["mq", "delete-broker", "--broker-id", id],
    CACHE: lambda id: [
        "elasticache",
        "delete-replication-group",
        "--replication-group-id",
        id,
        "--no-retain-primary-cluster",
    ],
    "AWS::ECR::Repository": lambda id: ["ecr", "delete-repository", "--repository-name", id, "--force"],
    "AWS::SecretsManager::Secret": lambda id: [
        "secretsmanager",
        "delete-secret",
        "--secret-id",
        id,
        # One that waits to be deleted would keep its name, and so keep a new deployment of this one from being made.
        "--force-delete-without-recovery",
    ],
    "AWS::KMS::Key": lambda id: ["kms", "schedule-key-deletion", "--key-id", id, "--pending-window-in-days", "30"],
}

# Who goes on being there for a while after it was deleted: how to ask for its state, and the state of one that goes.
# Sources: https://docs.aws.amazon.com/amazon-mq/latest/api-reference/brokers-broker-id.html,
# https://docs.aws.amazon.com/AmazonElastiCache/latest/APIReference/API_ReplicationGroup.html,
# https://docs.aws.amazon.com/kms/latest/developerguide/key-state.html
GOING = {
    BROKER: (
        lambda id: ["mq", "describe-broker", "--broker-id", id],
        lambda answer: answer["BrokerState"] == "DELETION_IN_PROGRESS",
    ),
    CACHE: (
        lambda id: ["elasticache", "describe-replication-groups", "--replication-group-id", id],
        lambda answer: answer["ReplicationGroups"][0]["Status"] == "deleting",
    ),
    "AWS::KMS::Key": (
        lambda id: ["kms", "describe-key", "--key-id", id],
        lambda answer: answer["KeyMetadata"]["KeyState"] == "PendingDeletion",
    ),
}

POLL = 15


def data(aws, stacks):
    """Empties and deletes what is kept, the parts that hold network interfaces first, then the stack."""
    step("deleting data")
    stack = stacks.describe("data")
    if stack is None:
        say("there is none")
        return
    if stack["StackStatus"] != "DELETE_IN_PROGRESS":
        stacks.protect("data", is_on=False)
        remove(aws, kept_of(stacks))
    stacks.delete("data")


def kept_of(stacks):
    """What there is of the data stack that its deletion would keep: kind and id, in the order to remove it in."""
    return [(kind, id) for kind in (*KEPT, BUCKET) for id in stacks.resources("data", kind)]


def remove(aws, kept):
    """Deletes all of it, and waits for what takes its time."""
    for kind, id in kept:
        say(f"{kind} {id}")
        if kind == BUCKET:
            empty_and_delete(aws, id)
        else:
            delete(aws, kind, id)
    say("waiting for the broker and the cache to be gone: their addresses are in the subnets")
    while any(is_there(aws, kind, id) for kind, id in kept if kind in (BROKER, CACHE)):
        time.sleep(POLL)


def delete(aws, kind, id):
    """Deletes one, and is content with one that is gone or about to go, as after an interruption."""
    try:
        aws(*KEPT[kind](id), parse=False)
    except Failed as failed:
        if not is_missing(failed) and not is_going(aws, kind, id):
            raise


def is_missing(failed):
    return any(said in str(failed) for said in MISSING)


def is_going(aws, kind, id):
    if kind not in GOING:
        return False
    ask, is_so = GOING[kind]
    answer = aws.find(*ask(id))
    return answer is None or is_so(answer)


def is_there(aws, kind, id):
    ask, _ = GOING[kind]
    return aws.find(*ask(id)) is not None


def empty_and_delete(aws, bucket):
    """Removes every version first, as a bucket with any can't be deleted."""
    while listed := aws.find("s3api", "list-object-versions", "--bucket", bucket, "--max-items", "500"):
        entries = listed.get("Versions", []) + listed.get("DeleteMarkers", [])
        if not entries:
            break
        for entry in entries:
            named = ["--bucket", bucket, "--key", entry["Key"], "--version-id", entry["VersionId"]]
            aws("s3api", "delete-object", *named, parse=False)
    try:
        aws("s3api", "delete-bucket", "--bucket", bucket, parse=False)
    except Failed as failed:
        if not is_missing(failed):
            raise
