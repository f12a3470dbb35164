"""boto3 as a backend uses it: pushes to a connection, looks at it and deletes it.

Usage: with_boto3.py WS_URL CALLBACK_URL
"""

import faulthandler
import json
import sys
import time
from datetime import datetime, timedelta, timezone

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

WS_URL, CALLBACK_URL = sys.argv[1:]
WRONG_STAGE_URL = CALLBACK_URL.rsplit("/", 1)[0] + "/nowhere"
UNKNOWN_ID = "L0SM9cOFvHcCIhw="
LIMIT = 128 * 1024

faulthandler.dump_traceback_later(600, exit=True)


def check(what, expected, got):
    if got != expected:
        sys.exit(f"FAILED {what}\nexpected: {expected!r:.500}\ngot:      {got!r:.500}")
    print(f"ok {what}", flush=True)


def check_refused(what, expected, call, **arguments):
    try:
        got, response = call(**arguments), None
    except ClientError as error:
        got, response = type(error), error.response
    check(what, expected, got)
    return response


def heard(ws):
    try:
        return ws.recv(timeout=60)
    except TimeoutError:
        return "nothing within 60 s"
    except ConnectionClosed as closed:
        return f"closed with {closed.rcvd.code}" if closed.rcvd else str(closed)


def management_api(url):
    return boto3.client(
        "apigatewaymanagementapi",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="anybody",
        aws_secret_access_key="anything",
        config=Config(retries={"total_max_attempts": 1}),
    )


def check_pushes(ws, api, id):
    for what, data in {
        "post_to_connection delivers text": "hello",
        "post_to_connection delivers text beyond ASCII": "Grüße, 世界 👋\n\u2028\0",
        "post_to_connection delivers bytes": "Grüße as UTF-8".encode(),
        "post_to_connection delivers 100 KB as one message": "x€👋" * (100 * 1024 // 8),
        "post_to_connection delivers 128 KB": b"x" * LIMIT,
    }.items():
        api.post_to_connection(ConnectionId=id, Data=data)
        text = data if isinstance(data, str) else data.decode()
        check(what, text, heard(ws))


def check_description(ws, api, id):
    before = api.get_connection(ConnectionId=id)
    age = datetime.now(timezone.utc) - before["ConnectedAt"]
    check("get_connection says since when", True, timedelta(0) <= age < timedelta(minutes=10))
    check("get_connection says when it was last active", True, before["LastActiveAt"] >= before["ConnectedAt"])
    check("get_connection says the client's address", ws.local_address[0], before["Identity"]["SourceIp"])
    check("get_connection says the user agent", ws.request.headers["User-Agent"], before["Identity"]["UserAgent"])

    time.sleep(1.1)
    ws.send("still here")
    check("a message is echoed", "still here", heard(ws))
    after = api.get_connection(ConnectionId=id)
    check("lastActiveAt moves with a message", True, after["LastActiveAt"] > before["LastActiveAt"])
    check("connectedAt stays", before["ConnectedAt"], after["ConnectedAt"])


def check_refusals(api, id):
    errors, post = api.exceptions, api.post_to_connection
    too_large = b"x" * (LIMIT + 1)
    check_refused("128 KB and a byte are too large", errors.PayloadTooLargeException, post, ConnectionId=id, Data=too_large)
    check_refused("an unknown id is gone", errors.GoneException, post, ConnectionId=UNKNOWN_ID, Data="x")

    response = check_refused("an ill-formed id is refused", ClientError, post, ConnectionId="nonsense", Data="x")
    check("… as a BadRequestException", "BadRequestException", response["Error"]["Code"])
    check("… with status 400", 400, response["ResponseMetadata"]["HTTPStatusCode"])
    check("… which names the id", "Invalid connectionId: nonsense", response["Error"]["Message"])

    elsewhere = management_api(WRONG_STAGE_URL)
    forbidden = elsewhere.exceptions.ForbiddenException
    check_refused("a wrong stage is forbidden", forbidden, elsewhere.post_to_connection, ConnectionId=id, Data="x")


def check_delete(ws, api, id):
    api.delete_connection(ConnectionId=id)
    check("delete_connection closes with 1000", "closed with 1000", heard(ws))

    gone = api.exceptions.GoneException
    check_refused("… after which a post finds it gone", gone, api.post_to_connection, ConnectionId=id, Data="x")
    check_refused("… and so does a get", gone, api.get_connection, ConnectionId=id)
    check_refused("… and so does a delete", gone, api.delete_connection, ConnectionId=id)


def main():
    api = management_api(CALLBACK_URL)
    with connect(WS_URL, open_timeout=120) as ws:
        ws.send(json.dumps({"action": "whoami"}))
        id = json.loads(heard(ws))["connectionId"]
        check_pushes(ws, api, id)
        check_description(ws, api, id)
        check_refusals(api, id)
        check_delete(ws, api, id)


main()
