"""Makes the users of a real broker as a deployment does, and saves and restores its queues.

    broker_users.py URL      the management API, whose administrator is guest

`aws` is a stand-in that has the secrets and runs the function of the data stack as it is written there.
"""

import json
import sys
import tempfile
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path

sys.dont_write_bytecode = True

from account import parsed
from templates import ROOT, source, wiring
from vault import Vault

wiring(ROOT / "infra/aws")

from deploy import broker_backup, broker_users, cli, rotate

# What the outputs of the data stack would be.
OUTPUTS = (
    "BrokerName",
    "BrokerUsersFunction",
    "BrokerSecretArn",
    "FunctionsBrokerSecretArn",
    "ConsumerBrokerSecretArn",
    "FunctionsAmqpUrlSecretArn",
    "AmqpUrlSecretArn",
)
DATA = {name: name for name in OUTPUTS}
SECRETS = {
    "BrokerSecretArn": {"username": "guest", "password": "guest"},
    "FunctionsBrokerSecretArn": {"username": "kschat-functions", "password": "f" * 40},
    "ConsumerBrokerSecretArn": {"username": "kschat-consumer", "password": "c" * 40},
}
URLS = {
    "FunctionsAmqpUrlSecretArn": "amqps://kschat-functions:f@b:5671/%2f",
    "AmqpUrlSecretArn": "amqps://kschat-consumer:c@b:5671/%2f",
}
VAULT = Vault({arn: json.dumps(user) for arn, user in SECRETS.items()} | URLS)


def function():
    """The function's code, which stands in the template."""
    code = source(ROOT / "infra/aws", "data")["Resources"]["BrokerUsers"]["Properties"]["Code"]["ZipFile"]
    module = {}
    exec(compile(code, "index.py", "exec"), module)
    return module["handler"]


def aws(*arguments, **_):
    if arguments[0] == "secretsmanager":
        return VAULT.answers()[arguments[:2]](parsed(arguments[2:]))
    given, answer = arguments[arguments.index("--payload") + 1], arguments[-1]
    try:
        done = function()(json.loads(Path(given.removeprefix("fileb://")).read_text()), None)
    except Exception as error:
        Path(answer).write_text(json.dumps({"errorMessage": str(error)}))
        return {"FunctionError": "Unhandled"}
    Path(answer).write_text(json.dumps(done))
    return {"StatusCode": 200}


def find(*arguments):
    try:
        return aws(*arguments)
    except cli.Failed as failed:
        if any(said in str(failed) for said in cli.MISSING):
            return None
        raise


aws.find = find


def asked(url, path, method="GET", body=None):
    known = b64encode(b"guest:guest").decode()
    headers = {"authorization": f"Basic {known}", "content-type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url + path, data, headers, method=method)) as answer:
        text = answer.read()
        return json.loads(text) if text else None


def as_text(entries):
    return {json.dumps(one, sort_keys=True) for one in entries}


def expect(is_so, text):
    if not is_so:
        raise SystemExit(text)


USER = {"x-queue-type": "classic", "x-expires": 2_419_200_000, "x-message-ttl": 1_209_600_000}


def make_queues(url, users):
    """What the consumer creates for users, one of them in a room, and a queue of its own."""
    for name, kind in (("direct", "direct"), ("broadcast", "fanout"), ("rooms", "topic"), ("control", "direct")):
        asked(url, f"/api/exchanges/%2F/kschat.{name}", "PUT", {"type": kind, "durable": True})
    for user in users:
        queue = f"kschat.user.{user}"
        asked(url, f"/api/queues/%2F/{queue}", "PUT", {"durable": True, "arguments": USER})
        asked(url, f"/api/bindings/%2F/e/kschat.direct/q/{queue}", "POST", {"routing_key": f"ks_{user}"})
        asked(url, f"/api/bindings/%2F/e/kschat.broadcast/q/{queue}", "POST", {"routing_key": ""})
        asked(url, f"/api/bindings/%2F/e/kschat.rooms/q/{queue}", "POST", {"routing_key": "room.team"})
    asked(url, "/api/queues/%2F/kschat.control.0", "PUT", {"durable": True})


def queues(url):
    return {one["name"]: one["arguments"] for one in asked(url, "/api/definitions/%2F")["queues"]}


def bound(url, queue):
    """Sources and keys of a queue's bindings, without that of the default exchange."""
    return {(one["source"], one["routing_key"]) for one in asked(url, f"/api/queues/%2F/{queue}/bindings") if one["source"]}


def lose_queues(url):
    for queue in queues(url):
        asked(url, f"/api/queues/%2F/{queue}", "DELETE")
    for name in ("direct", "broadcast", "rooms"):
        asked(url, f"/api/exchanges/%2F/kschat.{name}", "DELETE")


def save_and_restore(url, folder):
    data, file = DATA | {"BrokerConsole": url}, folder / "broker.json"
    users = [f"user-{number}" for number in range(7)]
    make_queues(url, users)
    had, direct = queues(url), bound(url, "kschat.user.user-3")
    broker_backup.save(aws, data, file)
    expect(file.stat().st_mode & 0o777 == 0o600, "others can read the backup")
    expect("kschat.control" not in file.read_text(), "the backup holds more than users' queues")
    expect("password" not in file.read_text(), "the backup holds passwords")
    try:
        broker_backup.save(aws, data, file)
    except cli.Failed:
        pass
    else:
        raise SystemExit("a backup is overwritten")
    lose_queues(url)
    # The consumer has been there before, and a setting has changed since.
    asked(url, "/api/queues/%2F/kschat.user.user-0", "PUT", {"durable": True, "arguments": {"x-expires": 1_000_000}})
    had["kschat.user.user-0"] = {"x-expires": 1_000_000}
    del had["kschat.control.0"]
    broker_backup.restore(aws, data, file, with_rooms=False, assume_yes=True)
    expect(queues(url) == had, f"restored: {queues(url)}")
    expect(bound(url, "kschat.user.user-3") == direct - {("kschat.rooms", "room.team")}, "a room is restored unasked")
    broker_backup.restore(aws, data, file, with_rooms=True, assume_yes=True)
    expect(bound(url, "kschat.user.user-3") == direct, "bindings are not restored")
    # What a person downloads is restored like a backup.
    (folder / "downloaded.json").write_text(json.dumps(asked(url, "/api/definitions/%2F")))
    del had["kschat.user.user-0"]
    lose_queues(url)
    broker_backup.restore(aws, data, folder / "downloaded.json", with_rooms=True, assume_yes=True)
    expect(had.items() < queues(url).items(), f"restored from a download: {queues(url)}")
    expect(bound(url, "kschat.user.user-3") == direct, "bindings are not restored from a download")
    (folder / "other.json").write_text("{}")
    try:
        broker_backup.restore(aws, data, folder / "other.json", with_rooms=False, assume_yes=True)
    except cli.Failed as failed:
        expect("is not a backup" in str(failed), str(failed))
    else:
        raise SystemExit("any file is restored")


def refuses(url, user):
    """Whether the broker refuses a user with this password."""
    known = b64encode(f"{user['username']}:{user['password']}".encode()).decode()
    try:
        urllib.request.urlopen(urllib.request.Request(f"{url}/api/whoami", headers={"authorization": f"Basic {known}"})).close()
    except urllib.error.HTTPError as error:
        return error.code == 401
    return False


def rotate_users(url):
    """While functions and consumer change to their new users, the former ones are still there."""
    data = DATA | {"BrokerConsole": url}
    names = []

    def redeploy():
        broker_users.make(aws, data)
        names.append({one["name"] for one in asked(url, "/api/users")})

    for _ in range(2):
        rotate.users_of_broker(rotate.Rotation(aws, data, {}, redeploy))
    users = {arn: json.loads(VAULT.current(arn)) for arn in ("FunctionsBrokerSecretArn", "ConsumerBrokerSecretArn")}
    for arn, user in users.items():
        host = f"amqps://{user['username']}:{user['password']}@b:5671/%2f"
        expect(VAULT.current(rotate.URLS[arn]) == host, "the URL has another user")
    expect({"kschat-functions", "kschat-consumer"} < names[0], f"users are removed too early: {names[0]}")
    left = {one["name"] for one in asked(url, "/api/users")} - {"guest"}
    expect(left == {one["username"] for one in users.values()}, f"users of the broker: {left}")
    given = {one["user"] for one in asked(url, "/api/permissions")} - {"guest"}
    expect(given == left, f"permissions for {given}")


def rotate_administrator(url):
    """Also when an earlier attempt was interrupted after the broker had the new password."""
    data, old = DATA | {"BrokerConsole": url}, {"username": "kschat", "password": "old"}
    asked(url, "/api/users/kschat", "PUT", {"password": "old", "tags": "administrator"})
    VAULT.versions["BrokerSecretArn"]["0"] = json.dumps(old)
    rotation = rotate.Rotation(aws, data, {}, None)
    rotate.administrator_of_broker(rotation)
    new = json.loads(VAULT.current("BrokerSecretArn"))
    expect(refuses(url, old) and not refuses(url, new), "the administrator's password is the old one")
    expect(asked(url, "/api/users/kschat")["tags"] == ["administrator"], "the administrator is none any more")
    asked(url, "/api/users/kschat", "PUT", {"password": "changed", "tags": "administrator"})
    rotate.pending(aws, "BrokerSecretArn", json.dumps(old | {"password": "changed"}))
    rotate.administrator_of_broker(rotation)
    expect(json.loads(VAULT.current("BrokerSecretArn"))["password"] == "changed", "the interrupted rotation was not completed")
    asked(url, "/api/users/kschat", "PUT", {"password": "by somebody else", "tags": "administrator"})
    try:
        rotate.administrator_of_broker(rotation)
    except cli.Failed as failed:
        expect("BrokerSecretArn" in str(failed), str(failed))
    else:
        raise SystemExit("a password is stored that the broker does not have")
    expect(json.loads(VAULT.current("BrokerSecretArn"))["password"] == "changed", "the secret has another password")
    asked(url, "/api/users/kschat", "DELETE")
    VAULT.versions["BrokerSecretArn"] = {"0": json.dumps(SECRETS["BrokerSecretArn"])}
    VAULT.stages["BrokerSecretArn"] = {"AWSCURRENT": "0"}


def main():
    url = sys.argv[1]
    # Several calls for each kind.
    broker_backup.BATCH = 3
    with tempfile.TemporaryDirectory() as folder:
        save_and_restore(url, Path(folder))
    # Twice, as each deployment does it.
    for _ in range(2):
        broker_users.make(aws, DATA | {"BrokerConsole": url})
    wanted = json.loads((ROOT / "infra/rabbitmq.json").read_text())
    for kind in ("permissions", "topic_permissions"):
        got = [one for one in asked(url, f"/api/{kind.replace('_', '-')}") if one["user"] != "guest"]
        if as_text(got) != as_text(wanted[kind]):
            raise SystemExit(f"{kind}: {got}")
    rotate_administrator(url)
    rotate_users(url)
    # Somebody who is no administrator is told so, and no password is.
    nobody = json.loads(VAULT.current("FunctionsBrokerSecretArn"))
    VAULT.versions["BrokerSecretArn"]["0"] = json.dumps(nobody)
    try:
        broker_users.make(aws, DATA | {"BrokerConsole": url})
    except cli.Failed as failed:
        if nobody["password"] in str(failed) or "40" not in str(failed):
            raise SystemExit(f"it says {failed}") from None
    else:
        raise SystemExit("it succeeds for anybody")
    print("made")


if __name__ == "__main__":
    main()
