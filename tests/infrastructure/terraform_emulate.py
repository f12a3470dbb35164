"""Applies the Terraform module to an emulator of AWS, looks at what is there, and destroys it until nothing is left.

The emulator closes a connection without an answer now and then. The provider then repeats the request, and fails if the
first one has created something. Run this again in that case.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from contextlib import contextmanager

sys.dont_write_bytecode = True

from emulate import NAME, client, left_behind
from templates import ROOT
from terraform import terraform, unprotected, why_not

# What the emulator has no idea of, each with what that leaves unproved.
GAPS = {
    "aws_mq_broker": "There is no broker: its URLs name one that does not exist.",
    "aws_lambda_invocation": "Without a broker nobody can make its users.",
    "aws_appautoscaling_target": "Nothing is scaled here.",
    "aws_appautoscaling_policy": "Nothing is scaled here.",
}
BROKER = """
locals {
  broker = { id = "b-1", broker_name = "broker", instances = [{ endpoints = ["amqps://b-1:5671"] }] }
}
"""

DEPLOYMENT = """
provider "aws" {
  s3_use_path_style           = true
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  default_tags { tags = { kschat = "%(name)s" } }
}

module "kschat" {
  source    = "./infra/aws/terraform"
  name      = "%(name)s"
  zips      = "./infra/aws/terraform/tests/zips"
  image_uri = "consumer@sha256:%(digest)s"
}

output "web_socket_url" { value = module.kschat.web_socket_url }
"""

ROUTES = {"$connect", "$disconnect", "$default", "send", "ack", "ping"}


@contextmanager
def emulator():
    """An emulator on a free port, for whatever asks AWS."""
    with tempfile.TemporaryDirectory(prefix="kschat-emulator-") as home, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        url = f"http://127.0.0.1:{port}"
        settings = {
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "PERSIST_STATE": "0",
            "HOME": home,
            "TMPDIR": home,
        }
        program = ROOT / "target/tools/ministack/bin/ministack"
        with open(f"{home}/log", "w") as log:
            process = subprocess.Popen([program], env=os.environ | settings, stdout=log, stderr=log)
        os.environ |= {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        os.environ |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_REGION": "us-east-1"}
        try:
            wait_for(f"{url}/_ministack/health")
            yield
        finally:
            process.terminate()
            process.wait()


def wait_for(url):
    for _ in range(120):
        try:
            return urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.5)
    raise SystemExit("the emulator does not answer")


def understood(folder):
    """The module as the emulator understands it."""
    cut = dict.fromkeys(GAPS, 0)
    for path in folder.glob("modules/*/*.tf"):
        text = path.read_text()
        for kind in GAPS:
            text, count = re.subn(rf'^resource "{kind}" "\w+" \{{\n.*?^\}}\n', "", text, flags=re.S | re.M)
            cut[kind] += count
        text = text.replace("aws_mq_broker.broker", "local.broker")
        path.write_text(re.sub(r"  depends_on +=.*aws_lambda_invocation.*\n", "", text))
    if stale := [kind for kind, count in cut.items() if count == 0]:
        raise SystemExit(f"{stale}: the module has none any more")
    (folder / "modules/data/emulated.tf").write_text(BROKER)
    with zipfile.ZipFile(folder / "tests/zips/none.zip", "w") as archive:
        archive.writestr("bootstrap", "")
    deployment = folder.parents[2]
    (deployment / "main.tf").write_text(DEPLOYMENT % {"name": NAME, "digest": "0" * 64})
    return deployment


def carried_out(deployment, *command):
    done = terraform(*command, "-no-color", folder=deployment, data=".terraform")
    if done.returncode != 0:
        raise SystemExit(f"terraform {command[0]}:\n{done.stdout[-3000:]}\n{done.stderr}")
    return done.stdout


def look(outputs):
    """What a client, a function and the consumer need is there."""
    (api,) = client("apigatewayv2").get_apis()["Items"]
    assert outputs["web_socket_url"]["value"] == f"wss://{api['ApiId']}.execute-api.us-east-1.amazonaws.com/dev", (
        outputs
    )
    routes = client("apigatewayv2").get_routes(ApiId=api["ApiId"])["Items"]
    assert {route["RouteKey"] for route in routes} == ROUTES, routes
    secrets = client("secretsmanager")
    for name in ("connect", "disconnect", "send"):
        live = client("lambda").get_alias(FunctionName=f"{NAME}-{name}", Name="live")
        assert live["FunctionVersion"] != "$LATEST", live
        settings = client("lambda").get_function_configuration(FunctionName=f"{NAME}-{name}")["Environment"][
            "Variables"
        ]
        for variable, secret in (("AMQP_URL", "amqp-url-functions"), ("REDIS_URL", "redis-url")):
            assert settings[variable] == secrets.get_secret_value(SecretId=f"{NAME}/{secret}")["SecretString"], variable
    user = json.loads(secrets.get_secret_value(SecretId=f"{NAME}/broker-consumer")["SecretString"])
    url = secrets.get_secret_value(SecretId=f"{NAME}/amqp-url")["SecretString"]
    assert url == f"amqps://{user['username']}:{user['password']}@b-1:5671/%2f" and len(user["password"]) == 40, url


def main():
    with unprotected() as folder:
        deployment = understood(folder)
        if reason := why_not(folder=deployment, data=".terraform"):
            print(reason)
            return
        with emulator():
            carried_out(deployment, "apply", "-auto-approve")
            look(json.loads(carried_out(deployment, "output", "-json")))
            carried_out(deployment, "destroy", "-auto-approve")
            if left := list(left_behind()):
                raise SystemExit(f"left behind: {left}")
    print("applied and destroyed")


if __name__ == "__main__":
    main()
