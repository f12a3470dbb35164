"""What `kschat-aws` makes of answers that are bad news, or none."""

import contextlib
import io
import json
import os
import sys
import tempfile
import threading
import unittest
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

sys.dont_write_bytecode = True

from templates import ROOT, wiring

wiring(ROOT / "infra/aws")

from deploy import check, cli


class Commands(unittest.TestCase):
    """`aws` is a script here that says what a test wants, one answer after the other; the last one again and again."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder, path, waits = Path(folder.name), os.environ["PATH"], cli.WAITS
        os.environ["PATH"] = f"{folder.name}:{path}"
        self.addCleanup(os.environ.__setitem__, "PATH", path)
        cli.WAITS = (0,) * len(waits)
        self.addCleanup(setattr, cli, "WAITS", waits)

    def says(self, *answers):
        lines = ["#!/bin/sh", 'n=$(cat "$0.n" 2>/dev/null || echo 0); echo $((n + 1)) > "$0.n"']
        for number, (code, text) in enumerate(answers):
            is_last = number == len(answers) - 1
            test = f"[ $n -ge {number} ]" if is_last else f"[ $n -eq {number} ]"
            lines.append(f"if {test}; then echo '{text}' >&{2 if code else 1}; exit {code}; fi")
        program = self.folder / "aws"
        program.write_text("\n".join(lines) + "\n")
        program.chmod(0o755)
        (self.folder / "aws.n").unlink(missing_ok=True)

    def asked(self):
        return int((self.folder / "aws.n").read_text())

    def test_a_stack_that_is_gone_is_told_from_one_that_could_not_be_asked_for(self):
        aws = cli.Aws("eu-west-1")
        gone = "An error occurred (ValidationError): Stack with id kschat-dev-app does not exist"
        busy = "An error occurred (Throttling): Rate exceeded"
        self.says((255, gone))
        self.assertIsNone(aws.find("cloudformation", "describe-stacks"))
        self.says((255, busy), (255, busy), (0, '{"Stacks": []}'))
        self.assertEqual(aws.find("cloudformation", "describe-stacks"), {"Stacks": []})
        self.assertEqual(self.asked(), 3)
        self.says((255, busy))
        with self.assertRaisesRegex(cli.Failed, "Rate exceeded"):
            aws.find("cloudformation", "describe-stacks")

    def test_a_question_that_may_not_be_asked_is_no_good_answer(self):
        self.says((255, "An error occurred (UnauthorizedOperation)"))
        self.assertIn("can't be listed", self.told(lambda found: check.vpc(found, cli.Aws("eu-west-1"), "vpc-1")))
        self.says((0, '{"VpcEndpoints": [{"VpcEndpointId": "vpce-1", "PrivateDnsEnabled": true}]}'))
        self.assertIn("vpce-1", self.told(lambda found: check.vpc(found, cli.Aws("eu-west-1"), "vpc-1")))
        self.says((0, '{"VpcEndpoints": []}'))
        self.assertEqual(self.told(lambda found: check.vpc(found, cli.Aws("eu-west-1"), "vpc-1")), "")

    def told(self, look):
        found = check.Findings()
        with contextlib.redirect_stdout(io.StringIO()):
            look(found)
        return "; ".join(found.problems)


class Issuer(unittest.TestCase):
    """Keys that are to be fetched by functions."""

    def told(self, app=(), data=(), network=()):
        given = {
            "app": {"JwtKeyKind": "jwks-url"} | dict(app),
            "data": {"FunctionsCallOut": "true"} | dict(data),
            "network": {"Egress": "nat"} | dict(network),
        }
        found = check.Findings()
        with contextlib.redirect_stdout(io.StringIO()):
            check.issuer(found, given)
            check.collector(found, given)
        return found.problems

    def published(self, body):
        class Answers(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Answers)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return {"JwtJwksUrl": f"http://127.0.0.1:{server.server_port}/keys"}

    def test_keys_that_can_be_fetched_are_in_order(self):
        keys = self.published(json.dumps({"keys": [{"kty": "OKP"}]}))
        self.assertEqual(self.told(keys), [])
        self.assertEqual(len(self.told(keys, {"FunctionsCallOut": "false"}, {"Egress": "public-ip"})), 2)

    def test_a_url_without_keys_is_told(self):
        for body in ("<html>", "{}", '{"keys": []}', "[]"):
            (problem,) = self.told(self.published(body))
            self.assertIn("no keys at", problem)
        (problem,) = self.told({"JwtJwksUrl": "http://127.0.0.1:1/"})
        self.assertIn("no keys at", problem)

    def test_the_port_of_a_collector_is_opened_or_told(self):
        keys = self.published(json.dumps({"keys": [{"kty": "OKP"}]}))
        collects = keys | {"TraceCollector": "http://10.0.0.9:4318"}
        self.assertEqual(self.told(collects), ["nobody may call the collector on port 4318"])
        self.assertEqual(self.told(collects, {"TraceCollectorPort": "4318"}), [])


if __name__ == "__main__":
    unittest.main()
