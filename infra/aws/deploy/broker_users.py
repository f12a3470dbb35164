"""The broker's users of functions and consumer, with the permissions that each needs and no more.

CloudFormation makes one user of a broker for RabbitMQ, its administrator. The others are made by the broker's management
API.
"""

import json
from pathlib import Path

from deploy import management
from deploy.cli import say, step

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
    users = {name: management.secret(aws, data[output]) for name, output in SECRETS.items()}
    management.call(aws, data, list(calls(json.loads(PERMISSIONS.read_text()), users)))
    for user in users.values():
        say(user["username"])
