"""Deletes what the data stack keeps when it is deleted."""

import time

from deploy.cli import say, step

# Physical ids of these outlive their stack, and then cost, and stand in the way of a new deployment of that name.
KEPT = {
    "AWS::AmazonMQ::Broker": lambda id: ["mq", "delete-broker", "--broker-id", id],
    "AWS::ElastiCache::ReplicationGroup": lambda id: [
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

POLL = 15


def data(aws, stacks):
    """Empties and deletes what is kept, the parts that hold network interfaces first, then the stack."""
    step("deleting data")
    kept = [(kind, id) for kind in KEPT for id in stacks.resources("data", kind)]
    buckets = stacks.resources("data", "AWS::S3::Bucket")
    if not kept and not buckets:
        say("there is none")
        return
    stacks.protect("data", is_on=False)
    for kind, id in kept:
        say(f"{kind} {id}")
        aws(*KEPT[kind](id), parse=False)
    for bucket in buckets:
        empty(aws, bucket)
        aws("s3api", "delete-bucket", "--bucket", bucket, parse=False)
    broker = [id for kind, id in kept if kind == "AWS::AmazonMQ::Broker"]
    cache = [id for kind, id in kept if kind == "AWS::ElastiCache::ReplicationGroup"]
    say("waiting for the broker and the cache to be gone: their addresses are in the subnets")
    while any(aws.find("mq", "describe-broker", "--broker-id", id) for id in broker) or any(
        aws.find("elasticache", "describe-replication-groups", "--replication-group-id", id) for id in cache
    ):
        time.sleep(POLL)
    stacks.delete("data")


def empty(aws, bucket):
    """Removes every version, as a bucket with any can't be deleted."""
    say(f"AWS::S3::Bucket {bucket}")
    while True:
        listed = aws("s3api", "list-object-versions", "--bucket", bucket, "--max-items", "500")
        entries = listed.get("Versions", []) + listed.get("DeleteMarkers", [])
        if not entries:
            return
        for entry in entries:
            named = ["--bucket", bucket, "--key", entry["Key"], "--version-id", entry["VersionId"]]
            aws("s3api", "delete-object", *named, parse=False)
