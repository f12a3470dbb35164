"""The broker's users of functions and consumer, with the permissions that each needs and no more.

CloudFormation makes one user of a broker for RabbitMQ, its administrator. The others are made by the broker's management
API, which is reached from inside the VPC only: so a function there carries the calls out. It holds no secret; what it needs
comes with the call.
"""

import json
import tempfile
from pathlib import Path

from deploy.cli import Failed, say, step

# The same file that makes them on a developer's machine.
PERMISSIONS = Path(__file__).resolve().parents[2] / "rabbitmq.json"

# Which secret of the data stack holds the user that the file has under that name.
SECRETS = {"kschat-functions": "FunctionsBrokerSecretArn", "kschat-consumer": "ConsumerBrokerSecretArn"}


def calls(permissions, users):
    """What to ask the management API for: method, path and body."""
    from urllib.parse import quote

    for user in users.values():
        body = {"password": user["password"], "tags": ""}
        yield ["PUT", f"/api/users/{quote(user['username'], safe='')}", body]
    for kind in ("permissions", "topic_permissions"):
        for given in permissions[kind]:
            user = quote(users[given["user"]]["username"], safe="")
            vhost = quote(given["vhost"], safe="")
            body = {key: value for key, value in given.items() if key not in ("user", "vhost")}
            yield ["PUT", f"/api/{kind.replace('_', '-')}/{vhost}/{user}", body]


def make(aws, data):
    """Makes them as their secrets say, or brings them to that."""
    step("users of the broker")

    def secret(output):
        return json.loads(aws("secretsmanager", "get-secret-value", "--secret-id", data[output])["SecretString"])

    users = {name: secret(output) for name, output in SECRETS.items()}
    payload = {
        "url": data["BrokerConsole"],
        "admin": secret("BrokerSecretArn"),
        "calls": list(calls(json.loads(PERMISSIONS.read_text()), users)),
    }
    # Nobody else can read it, and it goes at the end.
    with tempfile.NamedTemporaryFile("w", suffix=".json") as sent, tempfile.NamedTemporaryFile("r") as answer:
        json.dump(payload, sent)
        sent.flush()
        named = ["--function-name", data["BrokerUsersFunction"], "--payload", f"fileb://{sent.name}"]
        done = aws("lambda", "invoke", *named, answer.name)
        said = answer.read()
    if done.get("FunctionError"):
        raise Failed(f"the users of the broker could not be made: {said}")
    for user in users.values():
        say(user["username"])
