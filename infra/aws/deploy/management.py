"""Calls the management API of the broker.

It is reachable from inside the VPC only, so a function there makes the calls. The function stores no secret: the password
of the administrator comes with each call.
"""

import base64
import gzip
import json
import tempfile

from deploy.cli import Failed

# Seconds for which the function may run, and some more.
READ_TIMEOUT = "90"


def secret(aws, arn):
    return json.loads(aws("secretsmanager", "get-secret-value", "--secret-id", arn)["SecretString"])


def call(aws, data, calls, admin=None):
    """Makes calls (method, path, body) one after the other, and returns the answers as text, or none if the function is of an
    earlier release. `data` are the outputs of the data stack, `admin` is that of the secret unless it is given."""
    admin = admin or secret(aws, data["BrokerSecretArn"])
    payload = {"url": data["BrokerConsole"], "admin": admin, "calls": calls}
    # Only this user can read the files, and they are deleted at the end.
    with tempfile.NamedTemporaryFile("w", suffix=".json") as sent, tempfile.NamedTemporaryFile("r") as answer:
        json.dump(payload, sent)
        sent.flush()
        named = ["--function-name", data["BrokerUsersFunction"], "--payload", f"fileb://{sent.name}"]
        done = aws("lambda", "invoke", *named, "--cli-read-timeout", READ_TIMEOUT, answer.name)
        said = answer.read()
    if done.get("FunctionError"):
        raise Failed(f"the broker's management API: {said}")
    answers = json.loads(said)
    # The function of an earlier release returns the number of calls.
    return [gzip.decompress(base64.b64decode(one)).decode() for one in answers] if isinstance(answers, list) else []
