"""Makes the users of a real broker as a deployment does, and prints what the broker then says of them.

    broker_users.py URL      the management API, whose administrator is guest

`aws` is a stand-in that has the secrets and runs the function of the data stack as it is written there.
"""

import json
import sys
import urllib.request
from base64 import b64encode
from pathlib import Path

sys.dont_write_bytecode = True

from templates import ROOT, source, wiring

wiring(ROOT / "infra/aws")

from deploy import broker_users, cli

# What the outputs of the data stack would be.
DATA = {name: name for name in ("BrokerSecretArn", "FunctionsBrokerSecretArn", "ConsumerBrokerSecretArn")}
SECRETS = {
    "BrokerSecretArn": {"username": "guest", "password": "guest"},
    "FunctionsBrokerSecretArn": {"username": "kschat-functions", "password": "f" * 40},
    "ConsumerBrokerSecretArn": {"username": "kschat-consumer", "password": "c" * 40},
}


def function():
    """The function's code, which stands in the template."""
    code = source(ROOT / "infra/aws", "data")["Resources"]["BrokerUsers"]["Properties"]["Code"]["ZipFile"]
    module = {}
    exec(compile(code, "index.py", "exec"), module)
    return module["handler"]


def aws(*arguments, **_):
    if arguments[:2] == ("secretsmanager", "get-secret-value"):
        return {"SecretString": json.dumps(SECRETS[arguments[-1]])}
    given, answer = arguments[arguments.index("--payload") + 1], arguments[-1]
    try:
        done = function()(json.loads(Path(given.removeprefix("fileb://")).read_text()), None)
    except Exception as error:
        Path(answer).write_text(json.dumps({"errorMessage": str(error)}))
        return {"FunctionError": "Unhandled"}
    Path(answer).write_text(json.dumps(done))
    return {"StatusCode": 200}


def asked(url, path):
    known = b64encode(b"guest:guest").decode()
    with urllib.request.urlopen(urllib.request.Request(url + path, headers={"authorization": f"Basic {known}"})) as answer:
        return json.load(answer)


def as_text(entries):
    return {json.dumps(one, sort_keys=True) for one in entries}


def main():
    url = sys.argv[1]
    # Twice, as each deployment does it.
    for _ in range(2):
        broker_users.make(aws, DATA | {"BrokerConsole": url, "BrokerUsersFunction": "function"})
    wanted = json.loads((ROOT / "infra/rabbitmq.json").read_text())
    for kind in ("permissions", "topic_permissions"):
        got = [one for one in asked(url, f"/api/{kind.replace('_', '-')}") if one["user"] != "guest"]
        if as_text(got) != as_text(wanted[kind]):
            raise SystemExit(f"{kind}: {got}")
    # Somebody who is no administrator is told so, and no password is.
    SECRETS["BrokerSecretArn"] = SECRETS["FunctionsBrokerSecretArn"]
    try:
        broker_users.make(aws, DATA | {"BrokerConsole": url, "BrokerUsersFunction": "function"})
    except cli.Failed as failed:
        if "f" * 40 in str(failed) or "40" not in str(failed):
            raise SystemExit(f"it says {failed}") from None
    else:
        raise SystemExit("it succeeds for anybody")
    print("made")


if __name__ == "__main__":
    main()
