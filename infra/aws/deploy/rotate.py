"""Replaces the secrets that a deployment has generated, and deploys its present release again with the new ones.

Each step can be repeated: after an interruption, run the same rotation again.
"""

import json
import re
import secrets
import tempfile
import time
from urllib.parse import quote, urlsplit, urlunsplit

from deploy import broker_users, management
from deploy.cli import Failed, say, step

POLL = 15

CURRENT, PENDING = "AWSCURRENT", "AWSPENDING"

# URL of the broker, by the secret of the user in it.
URLS = {"FunctionsBrokerSecretArn": "FunctionsAmqpUrlSecretArn", "ConsumerBrokerSecretArn": "AmqpUrlSecretArn"}


class Rotation:
    """What a rotation needs: outputs and parameters of the data stack, and `redeploy`, which creates the broker's users and
    deploys the present release again."""

    def __init__(self, aws, data, parameters, redeploy):
        self.aws, self.data, self.parameters, self.redeploy = aws, data, parameters, redeploy

    def arn(self, output):
        if output not in self.data:
            raise Failed(f"the data stack has no {output}: it is not ours to rotate, or run `kschat-aws deploy` first")
        return self.data[output]


def message_id_key(rotation):
    put(rotation.aws, rotation.arn("MessageIdKeySecretArn"), token())
    rotation.redeploy()


def jwt_key(rotation):
    if rotation.parameters.get("JwtKeySecretArn"):
        raise Failed("the key for tokens is yours: put a new value into its secret, then `kschat-aws update`")
    put(rotation.aws, rotation.arn("JwtKeySecretArn"), token())
    rotation.redeploy()


def users_of_broker(rotation):
    """Gives functions and consumer new users, and removes their former ones once nothing uses them."""
    arns = {user: (rotation.arn(secret), rotation.arn(URLS[secret])) for user, secret in broker_users.SECRETS.items()}
    new = {user: {"username": f"{user}-{int(time.time())}", "password": token()} for user in arns}
    for user, (secret_arn, _) in arns.items():
        put(rotation.aws, secret_arn, json.dumps(new[user]))
    # First: another deployment may read the URLs at any time.
    broker_users.make(rotation.aws, rotation.data)
    for user, (_, url_arn) in arns.items():
        put(rotation.aws, url_arn, with_user(text(rotation.aws, url_arn), new[user]))
    rotation.redeploy()
    step("removing former users of the broker")
    (listed,) = ask(rotation, ["GET", "/api/users", None])
    ours = re.compile(rf"({'|'.join(map(re.escape, arns))})(-\d+)?")
    kept = {one["username"] for one in new.values()}
    former = [one["name"] for one in json.loads(listed) if ours.fullmatch(one["name"]) and one["name"] not in kept]
    ask(rotation, *(["DELETE", f"/api/users/{quote(name, safe='')}", None] for name in former))
    say(", ".join(former) or "there are none")


def administrator_of_broker(rotation):
    arn = rotation.arn("BrokerSecretArn")
    admin = json.loads(text(rotation.aws, arn))
    path = f"/api/users/{quote(admin['username'], safe='')}"
    new = json.loads(pending(rotation.aws, arn, json.dumps(admin | {"password": token()})))
    try:
        (had,) = ask(rotation, ["GET", path, None])
    except Failed as failed:
        if not is_unauthorized(failed):
            raise
        # An earlier attempt was interrupted after it had changed the password, or somebody else has changed it.
        expect_password(rotation, arn, path, new)
    else:
        ask(rotation, ["PUT", path, {"password": new["password"], "tags": json.loads(had)["tags"]}])
    promote(rotation.aws, arn)


def expect_password(rotation, arn, path, admin):
    """Fails unless the broker has this password."""
    try:
        ask(rotation, ["GET", path, None], admin=admin)
    except Failed as failed:
        if not is_unauthorized(failed):
            raise
        raise Failed(
            f"the broker refuses the password in {arn}, and the one that is to replace it: put the password that the "
            "administrator has into that secret, then run this again"
        ) from failed


def is_unauthorized(failed):
    return ": 401" in str(failed)


def token_of_cache(rotation):
    """The cache accepts both tokens until nothing uses the former one.

    Source: https://docs.aws.amazon.com/AmazonElastiCache/latest/dg/auth.html#auth-modifyng-token
    """
    arn, url_arn = rotation.arn("CacheSecretArn"), rotation.arn("RedisUrlSecretArn")
    new = json.loads(pending(rotation.aws, arn, json.dumps({"token": token()})))["token"]
    set_token(rotation, new, "ROTATE")
    put(rotation.aws, url_arn, with_user(text(rotation.aws, url_arn), {"username": "", "password": new}))
    rotation.redeploy()
    set_token(rotation, new, "SET")
    # Last: with a third token the cache would forget the one that is in use.
    promote(rotation.aws, arn)


def set_token(rotation, new, strategy):
    step(f"token of the cache: {strategy}")
    asked = {
        "ReplicationGroupId": rotation.data["CacheId"],
        "AuthToken": new,
        "AuthTokenUpdateStrategy": strategy,
        "ApplyImmediately": True,
    }
    call(rotation.aws, ("elasticache", "modify-replication-group"), asked)
    named = ["--replication-group-id", rotation.data["CacheId"]]
    while not is_settled(rotation.aws("elasticache", "describe-replication-groups", *named)["ReplicationGroups"][0]):
        time.sleep(POLL)


def is_settled(group):
    return group["Status"] == "available" and not group.get("PendingModifiedValues", {}).get("AuthTokenStatus")


ROTATIONS = {
    "message-id-key": message_id_key,
    "jwt-key": jwt_key,
    "broker-users": users_of_broker,
    "broker-admin": administrator_of_broker,
    "cache": token_of_cache,
}

# What a person has to know first.
WARNINGS = {
    "jwt-key": "Tokens that were signed with the present key are refused afterwards, and your service needs the new key.",
}


def token():
    """64 characters that a URL, a broker and a cache accept."""
    return secrets.token_hex(32)


def with_user(url, user):
    """A URL with another user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user['username']}:{user['password']}@{parts.netloc.rpartition('@')[2]}"))


def ask(rotation, *calls, admin=None):
    """Calls the management API of the broker, as the administrator in its secret or as another one."""
    rotation.arn("BrokerUsersFunction")
    answers = management.call(rotation.aws, rotation.data, list(calls), admin)
    if len(answers) != len(calls):
        function = rotation.data["BrokerUsersFunction"]
        raise Failed(f"the function {function} is of an earlier release: run `kschat-aws deploy` first")
    return answers


def text(aws, arn):
    return aws("secretsmanager", "get-secret-value", "--secret-id", arn)["SecretString"]


def put(aws, arn, value, stage=CURRENT):
    call(aws, ("secretsmanager", "put-secret-value"), {"SecretId": arn, "SecretString": value, "VersionStages": [stage]})


def pending(aws, arn, value):
    """Stores a value beside the current one and returns it; returns that of an earlier attempt if there is one."""
    stages = ["--secret-id", arn, "--version-stage", PENDING]
    if had := aws.find("secretsmanager", "get-secret-value", *stages):
        return had["SecretString"]
    put(aws, arn, value, PENDING)
    return value


def promote(aws, arn):
    """Makes the stored value the current one."""
    stage = ("secretsmanager", "update-secret-version-stage", "--secret-id", arn, "--version-stage")
    new, old = (
        aws("secretsmanager", "get-secret-value", "--secret-id", arn, "--version-stage", one)["VersionId"]
        for one in (PENDING, CURRENT)
    )
    aws(*stage, CURRENT, "--move-to-version-id", new, "--remove-from-version-id", old)
    aws(*stage, PENDING, "--remove-from-version-id", new)


def call(aws, command, given):
    """Calls AWS with options that other users of this machine must not see in the list of processes."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(given, file)
        file.flush()
        return aws(*command, "--cli-input-json", f"file://{file.name}")
