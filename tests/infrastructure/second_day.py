"""What `kschat-aws` does from the second day on: in an account in which it has been before."""

import base64
import contextlib
import gzip
import io
import itertools
import json
import re
import sys
import tempfile
import threading
import unittest
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from unittest import mock
from urllib.parse import unquote, urlsplit

sys.dont_write_bytecode = True

from account import Account
from templates import ROOT, program, wiring
from vault import Vault

wiring(ROOT / "infra/aws")

from deploy import check, cli, destroy, drift, image, policy, rotate, stacks


def problems(look):
    """What a check finds."""
    found = check.Findings()
    with contextlib.redirect_stdout(io.StringIO()):
        look(found)
    return found.problems


class Concurrency(unittest.TestCase):
    """What is reserved already is no longer among what is unreserved."""

    GIVEN = {"app": {}, "data": {"BrokerInstanceType": "mq.m7g.large"}}
    RESERVED = {"chat-connect": 200, "chat-disconnect": 100, "chat-send": 500}

    def told(self, total, unreserved, reserved):
        def concurrency(options):
            name = options["--function-name"]
            if name not in reserved:
                return cli.Failed(f"An error occurred (ResourceNotFoundException): Function not found: {name}")
            return {"ReservedConcurrentExecutions": reserved[name]} if reserved[name] else {}

        limits = {"ConcurrentExecutions": total, "UnreservedConcurrentExecutions": unreserved}
        account = Account(
            **{"lambda.get-account-settings": {"AccountLimit": limits}, "lambda.get-function-concurrency": concurrency}
        )
        return problems(lambda found: check.concurrency(found, account, self.GIVEN, "chat"))

    def test_concurrency_of_second_deploy_counts_own_reservation_as_free(self):
        self.assertEqual(self.told(1000, 200, self.RESERVED), [])

    def test_concurrency_of_larger_broker_counts_only_what_is_reserved(self):
        self.assertEqual(self.told(1000, 870, {"chat-connect": 30, "chat-disconnect": 20, "chat-send": 80}), [])
        self.assertEqual(len(self.told(1000, 700, {"chat-connect": 30, "chat-disconnect": 20, "chat-send": 80})), 1)

    def test_concurrency_of_others_is_not_counted_as_free(self):
        self.assertEqual(len(self.told(1000, 200, {})), 1)
        self.assertEqual(len(self.told(1000, 200, {"chat-connect": 0, "chat-disconnect": 0, "chat-send": 0})), 1)


class FailedCreation(unittest.TestCase):
    """A data stack that could not be made, and the next try."""

    KEPT = [
        ("AWS::SecretsManager::Secret", "secret", "DELETE_SKIPPED"),
        ("AWS::AmazonMQ::Broker", "b-1", "DELETE_FAILED"),
        ("AWS::EC2::SecurityGroup", "sg-1", "DELETE_COMPLETE"),
        ("AWS::S3::Bucket", "bucket", "DELETE_SKIPPED"),
        ("AWS::KMS::Key", "key", "DELETE_COMPLETE"),
        ("AWS::AmazonMQ::Broker", "", "CREATE_FAILED"),
    ]

    def deployed(self, status):
        gone = cli.Failed("An error occurred (NotFoundException): Can't find requested broker")
        account = Account(
            **{
                "mq.delete-broker": {},
                "mq.describe-broker": gone,
                "secretsmanager.delete-secret": {},
                "s3api.list-object-versions": {},
                "s3api.delete-bucket": {},
            }
        )
        account.has("chat-data", status=status, resources=self.KEPT)
        with contextlib.redirect_stdout(io.StringIO()):
            stacks.Stacks(account, "chat", {}, assume_yes=True).deploy("data", {"Name": "chat"})
        return account

    def test_deploy_after_failed_creation_removes_what_was_kept(self):
        for status in ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "REVIEW_IN_PROGRESS"):
            account = self.deployed(status)
            self.assertEqual(account.stacks["chat-data"]["StackStatus"], "CREATE_COMPLETE", status)
            self.assertEqual(account.asked("secretsmanager", "delete-secret")[0]["--secret-id"], "secret", status)
            self.assertEqual([o["--broker-id"] for o in account.asked("mq", "delete-broker")], ["b-1"], status)
            self.assertEqual(len(account.asked("s3api", "delete-bucket")), 1, status)
            self.assertEqual(account.asked("kms", "schedule-key-deletion"), [], status)

    def test_deploy_after_failed_update_touches_no_data(self):
        account = self.deployed("UPDATE_ROLLBACK_COMPLETE")
        self.assertEqual(account.asked("mq", "delete-broker"), [])
        self.assertEqual(account.asked("cloudformation", "delete-stack"), [])

    def test_deploy_after_failed_deletion_touches_no_data(self):
        with self.assertRaisesRegex(cli.Failed, "destroy"):
            self.deployed("DELETE_FAILED")


class Deletable(Account):
    """Its session expires after some calls. Nothing can be deleted twice, and some things go on being there for a while."""

    THINGS = {
        "AWS::AmazonMQ::Broker": "b-1",
        "AWS::ElastiCache::ReplicationGroup": "cache",
        "AWS::ECR::Repository": "repository",
        "AWS::SecretsManager::Secret": "secret",
        "AWS::KMS::Key": "key",
        "AWS::S3::Bucket": "bucket",
    }

    def __init__(self, calls_left):
        super().__init__()
        self.calls_left, self.left, self.looks = calls_left, set(self.THINGS.values()), {}
        self.answers |= {
            ("mq", "delete-broker"): lambda o: self.begin("b-1"),
            ("mq", "describe-broker"): lambda o: self.look("b-1", {"BrokerState": "DELETION_IN_PROGRESS"}),
            ("elasticache", "delete-replication-group"): lambda o: self.begin("cache"),
            ("elasticache", "describe-replication-groups"): lambda o: self.look(
                "cache", {"ReplicationGroups": [{"Status": "deleting"}]}
            ),
            ("ecr", "delete-repository"): lambda o: self.end("repository"),
            ("secretsmanager", "delete-secret"): lambda o: self.end("secret"),
            ("kms", "schedule-key-deletion"): lambda o: self.begin("key"),
            ("kms", "describe-key"): {"KeyMetadata": {"KeyState": "PendingDeletion"}},
            ("s3api", "list-object-versions"): lambda o: {} if "bucket" in self.left else self.missing(),
            ("s3api", "delete-bucket"): lambda o: self.end("bucket"),
        }
        self.has("chat-data", resources=[(kind, id, "CREATE_COMPLETE") for kind, id in self.THINGS.items()])

    def __call__(self, *arguments, **options):
        if self.calls_left == 0:
            raise cli.Failed("An error occurred (ExpiredToken)")
        self.calls_left -= 1
        return super().__call__(*arguments, **options)

    def missing(self):
        return cli.Failed("An error occurred (ResourceNotFoundException)")

    def begin(self, id):
        if id not in self.left:
            return self.missing()
        if id in self.looks:
            return cli.Failed("An error occurred (InvalidStateException): it is being deleted")
        self.looks[id] = 0
        return {}

    def look(self, id, answer):
        """Says twice that it is going; then it is gone."""
        self.looks[id] += 1
        if self.looks[id] > 2:
            self.left.discard(id)
        return answer if id in self.left else self.missing()

    def end(self, id):
        if id not in self.left:
            return self.missing()
        self.left.remove(id)
        return {}


class Interrupted(unittest.TestCase):
    def setUp(self):
        self.addCleanup(setattr, destroy, "POLL", destroy.POLL)
        destroy.POLL = 0

    def destroyed(self, account):
        with contextlib.redirect_stdout(io.StringIO()):
            destroy.data(account, stacks.Stacks(account, "chat", {}, assume_yes=True))

    def test_destroy_goes_on_wherever_its_session_expired(self):
        for calls in range(1, 26):
            account = Deletable(calls)
            with contextlib.suppress(cli.Failed):
                self.destroyed(account)
            account.calls_left = 1000
            self.destroyed(account)
            self.assertEqual((account.left, account.stacks), ({"key"}, {}), f"after {calls} calls")

    def test_destroy_of_what_can_not_be_deleted_fails(self):
        account = Deletable(1000)
        account.answers["ecr", "delete-repository"] = cli.Failed("An error occurred (AccessDenied)")
        with self.assertRaisesRegex(cli.Failed, "AccessDenied"):
            self.destroyed(account)
        self.assertIn("chat-data", account.stacks)


class Command(unittest.TestCase):
    """The whole program in an account that answers."""

    def setUp(self):
        self.program = program(ROOT / "infra/aws")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        for name in ("connect", "disconnect", "send"):
            (Path(folder.name) / name).mkdir()
            (Path(folder.name) / name / "bootstrap").write_text(name)
        self.clock = itertools.count(1_700_000_000)
        self.built = ["--zips", folder.name, "--image", f"chat@sha256:{'0' * 64}", "--yes", "--region", "eu-west-1"]
        zones = [f"eu-west-1{letter}" for letter in "abc"]
        option = {
            "AvailabilityZones": [{"Name": zone} for zone in zones],
            "SupportedDeploymentModes": ["SINGLE_INSTANCE", "CLUSTER_MULTI_AZ"],
            "SupportedEngineVersions": ["3.13", "4.2"],
        }
        limits = {"ConcurrentExecutions": 2000, "UnreservedConcurrentExecutions": 2000}
        self.account = Account(
            **{
                "ec2.describe-availability-zones": {"AvailabilityZones": [{"ZoneName": zone} for zone in zones]},
                "mq.describe-broker-instance-options": {"BrokerInstanceOptions": [option]},
                "lambda.get-account-settings": {"AccountLimit": limits},
                "ec2.describe-vpc-endpoints": {"VpcEndpoints": []},
            }
        )
        self.program.Aws = lambda region: self.account
        self.program.Deployment.make_broker_users = lambda deployment: None

    def says(self, *arguments):
        """Runs the command, and returns whether it succeeded and what it said."""
        said = io.StringIO()
        tools = mock.patch("shutil.which", lambda name: f"/usr/bin/{name}" if name == "aws" else None)
        argv = mock.patch.object(sys, "argv", ["kschat-aws", *arguments, "--name", "chat", *self.built])
        clock = mock.patch("time.time", lambda: next(self.clock))
        with tools, argv, clock, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = self.program.main()
        return code == 0, said.getvalue()

    def succeeds(self, *arguments):
        is_so, said = self.says(*arguments)
        self.assertTrue(is_so, said)
        return said

    def fails(self, *arguments):
        is_so, said = self.says(*arguments)
        self.assertFalse(is_so, said)
        return said

    def given(self):
        """The parameters of all stacks, but for those that change with each release."""
        own = {"Revision", "ConnectKey", "DisconnectKey", "SendKey", "ImageUri"}
        return {
            name: ({k: v for k, v in stack["Parameters"].items() if k not in own}, stack["Tags"])
            for name, stack in self.account.stacks.items()
        }


class Memory(Command):
    def test_deploy_without_profile_keeps_that_of_deployment(self):
        self.succeeds("deploy", "--profile", "prod", "--set", "app.RateLimit=777", "--tag", "team=chat")
        before = self.given()
        self.assertEqual(before["chat-app"][0]["RateLimit"], "777")
        for verb in ("deploy", "update", "rollback"):
            self.succeeds(verb)
            self.assertEqual(self.given(), before, verb)

    def test_deploy_of_another_profile_is_refused_unless_asked_for_by_name(self):
        self.succeeds("deploy", "--profile", "prod", "--set", "app.RateLimit=777")
        for verb in ("deploy", "update"):
            self.assertIn("--change profile", self.fails(verb, "--profile", "dev"))
        self.assertIn("--change stage", self.fails("deploy", "--profile", "dev", "--change", "profile"))
        self.succeeds("deploy", "--profile", "dev", "--change", "profile", "--change", "stage")
        app, tags = self.given()["chat-app"]
        self.assertEqual((app["Stage"], app["RateLimit"], tags["kschat:profile"]), ("dev", "200", "dev"))

    def test_deploy_of_another_stage_is_refused_unless_asked_for_by_name(self):
        self.succeeds("deploy", "--set", "app.Stage=blue")
        self.assertIn("--change stage", self.fails("deploy", "--set", "app.Stage=green"))
        self.succeeds("deploy", "--set", "app.Stage=blue")
        self.succeeds("deploy", "--set", "app.Stage=green", "--change", "stage")
        self.succeeds("update")
        self.assertEqual(self.given()["chat-app"][0]["Stage"], "green")

    def test_rollback_to_another_stage_is_refused_unless_asked_for_by_name(self):
        self.succeeds("deploy", "--set", "app.Stage=blue")
        self.succeeds("deploy", "--set", "app.Stage=green", "--change", "stage")
        self.assertIn("--change stage", self.fails("rollback"))
        self.succeeds("rollback", "--change", "stage")
        self.assertEqual(self.given()["chat-app"][0]["Stage"], "blue")

    def test_deploy_without_parameters_keeps_vpc_of_ones_own(self):
        vpc = {
            "VpcId": "vpc-1",
            "VpcCidr": "10.0.0.0/16",
            "PrivateSubnetIds": "subnet-1,subnet-2",
            "ConsumerSubnetIds": "subnet-3,subnet-4",
            "ConsumerPublicIp": "DISABLED",
        }
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({"vpc": vpc}, file)
            file.flush()
            self.succeeds("deploy", "--params", file.name)
        before = self.given()
        self.assertNotIn("chat-network", before)
        for verb in ("deploy", "update"):
            self.succeeds(verb)
            self.assertEqual(self.given(), before, verb)

    def test_update_where_deployment_can_not_be_read_changes_nothing(self):
        self.succeeds("deploy", "--profile", "prod")
        before = self.given()
        self.account.answers["cloudformation", "describe-stacks"] = cli.Failed("An error occurred (Throttling)")
        self.assertIn("Throttling", self.fails("update"))
        del self.account.answers["cloudformation", "describe-stacks"]
        self.assertEqual(self.given(), before)

    def test_check_without_credentials_says_so(self):
        self.account.answers["sts", "get-caller-identity"] = cli.Failed("An error occurred (ExpiredToken)")
        self.assertIn("no credentials", self.fails("check"))

    def test_deployment_from_before_keeps_account_role_for_access_logs(self):
        self.succeeds("deploy")
        self.account.parameters("chat-observability")["AccountLogging"] = "true"
        self.succeeds("deploy", "--set", "app.AccessLogs=true")
        self.assertEqual(self.given()["chat-app"][0]["AccountLogging"], "true")

    def test_check_of_access_logs_asks_for_role_of_account(self):
        self.account.answers["apigateway", "get-account"] = {}
        self.assertIn("no role for access logs", self.fails("check", "--set", "app.AccessLogs=true"))
        self.succeeds("check", "--set", "app.AccessLogs=true", "--set", "app.AccountLogging=true")
        self.account.answers["apigateway", "get-account"] = {"cloudwatchRoleArn": "arn:aws:iam::111122223333:role/logs"}
        self.account.answers["iam", "get-role"] = cli.Failed("An error occurred (NoSuchEntity): The role can not be found")
        self.assertIn("role for access logs", self.fails("check", "--set", "app.AccessLogs=true"))
        self.account.answers["iam", "get-role"] = {"Role": {}}
        self.succeeds("check", "--set", "app.AccessLogs=true")

    def test_deploy_keeps_architecture_of_deployment(self):
        self.succeeds("deploy", "--architecture", "x86_64")
        self.succeeds("update")
        self.assertEqual(self.given()["chat-app"][0]["Architecture"], "x86_64")


class LinkedRole(Command):
    """ECS works under a role that a new account does not have yet."""

    def test_deploy_in_new_account_makes_role_of_ecs_before_cluster(self):
        self.account.answers["iam", "get-role"] = cli.Failed("An error occurred (NoSuchEntity)")
        self.account.answers["iam", "create-service-linked-role"] = {}
        self.succeeds("deploy")
        order = [(service, command) for service, command, _ in self.account.calls]
        made = order.index(("iam", "create-service-linked-role"))
        self.assertLess(made, order.index(("cloudformation", "create-change-set")))
        (asked,) = self.account.asked("iam", "create-service-linked-role")
        self.assertEqual(asked["--aws-service-name"], "ecs.amazonaws.com")

    def test_deploy_in_used_account_makes_no_role(self):
        self.account.answers["iam", "get-role"] = {"Role": {}}
        self.succeeds("deploy")
        self.assertEqual(self.account.asked("iam", "create-service-linked-role"), [])

    def test_deploy_without_permission_to_make_role_goes_on(self):
        self.assertIn("AWSServiceRoleForECS", self.succeeds("deploy"))

    def test_deploy_beside_another_one_takes_role_that_is_there_by_now(self):
        self.account.answers["iam", "get-role"] = cli.Failed("An error occurred (NoSuchEntity)")
        taken = "An error occurred (InvalidInput): Service role name AWSServiceRoleForECS has been taken in this account"
        self.account.answers["iam", "create-service-linked-role"] = cli.Failed(taken)
        self.assertNotIn("could not", self.succeeds("deploy"))


class Broker(Command):
    """Not every zone has every size of broker, nor every size every deployment mode."""

    def offers(self, zones="abc", modes=("SINGLE_INSTANCE", "CLUSTER_MULTI_AZ")):
        option = {
            "AvailabilityZones": [{"Name": f"eu-west-1{zone}"} for zone in zones],
            "SupportedDeploymentModes": list(modes),
            "SupportedEngineVersions": ["3.13"],
        }
        self.account.answers["mq", "describe-broker-instance-options"] = {"BrokerInstanceOptions": [option]}

    def test_check_of_zone_without_size_of_broker_names_others(self):
        self.offers("bc")
        said = self.fails("check")
        self.assertIn("eu-west-1a", said)
        self.assertIn("network.ZoneNames=eu-west-1b,eu-west-1c", said)
        self.succeeds("check", "--set", "network.ZoneNames=eu-west-1b,eu-west-1c")
        self.assertIn("eu-west-1a", self.fails("check", "--set", "network.ZoneNames=eu-west-1c,eu-west-1a", "--profile", "prod"))

    def test_check_of_single_broker_needs_size_in_first_zone_only(self):
        self.offers("ac")
        self.succeeds("check")
        self.assertIn("eu-west-1b", self.fails("check", "--profile", "prod"))

    def test_check_of_mode_that_size_lacks_is_told(self):
        self.offers(modes=["SINGLE_INSTANCE"])
        self.succeeds("check")
        self.assertIn("CLUSTER_MULTI_AZ", self.fails("check", "--profile", "prod"))

    def test_check_of_vpc_of_ones_own_looks_at_its_subnets(self):
        self.offers("a")
        vpc = {
            "VpcId": "vpc-1",
            "VpcCidr": "10.0.0.0/16",
            "PrivateSubnetIds": "subnet-1,subnet-2",
            "ConsumerSubnetIds": "subnet-3",
            "ConsumerPublicIp": "DISABLED",
        }
        zone = {"subnet-1": "eu-west-1b", "subnet-2": "eu-west-1a"}
        self.account.answers["ec2", "describe-subnets"] = lambda options: {
            "Subnets": [
                {"SubnetId": id, "AvailabilityZone": zone[id]} for id in sorted(options["--subnet-ids"].split(), reverse=True)
            ]
        }
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({"vpc": vpc}, file)
            file.flush()
            self.assertIn("eu-west-1b", self.fails("check", "--params", file.name))
            zone["subnet-1"] = "eu-west-1a"
            self.succeeds("check", "--params", file.name)

    def test_check_of_deployment_looks_at_zones_it_has(self):
        self.succeeds("deploy", "--profile", "prod")
        self.account.stacks["chat-network"]["Outputs"]["PrivateSubnetIds"] = "subnet-b,subnet-c,subnet-d"
        self.account.answers["ec2", "describe-subnets"] = {
            "Subnets": [{"SubnetId": f"subnet-{zone}", "AvailabilityZone": f"eu-west-1{zone}"} for zone in "bcd"]
        }
        larger = ["check", "--set", "data.BrokerInstanceType=mq.m7g.xlarge"]
        self.offers("bcd")
        self.succeeds(*larger)
        self.offers("abc")
        self.assertIn("eu-west-1d", self.fails(*larger))

    def test_check_of_broker_that_is_there_asks_for_no_offer(self):
        self.succeeds("deploy")
        self.account.answers["mq", "describe-broker-instance-options"] = {"BrokerInstanceOptions": []}
        self.succeeds("check")
        self.assertIn("no mq.m7g.large", self.fails("check", "--set", "data.BrokerInstanceType=mq.m7g.large"))


class Drift(Command):
    """A setting of a function was changed by hand, and the topic of the alarms was deleted."""

    SETTING = {
        "LogicalResourceId": "SendFunction",
        "PhysicalResourceId": "chat-send",
        "ResourceType": "AWS::Lambda::Function",
        "StackResourceDriftStatus": "MODIFIED",
        "PropertyDifferences": [
            {
                "PropertyPath": "/Environment/Variables/AMQP_URL",
                "DifferenceType": "NOT_EQUAL",
                "ExpectedValue": "amqps://a:password@b",
                "ActualValue": "amqps://a:other@b",
            }
        ],
    }
    TOPIC = {
        "LogicalResourceId": "Alarms",
        "PhysicalResourceId": "chat-alarms",
        "ResourceType": "AWS::SNS::Topic",
        "StackResourceDriftStatus": "DELETED",
    }
    SAME = {
        "LogicalResourceId": "Vpc",
        "PhysicalResourceId": "vpc-1",
        "ResourceType": "AWS::EC2::VPC",
        "StackResourceDriftStatus": "IN_SYNC",
    }

    def setUp(self):
        super().setUp()
        self.addCleanup(setattr, drift, "POLL", drift.POLL)
        drift.POLL = 0
        self.succeeds("deploy")
        self.pages, self.looks, self.ends = {"chat-app": [[self.SAME]]}, 0, {}
        self.account.answers |= {
            ("cloudformation", "detect-stack-drift"): lambda o: {"StackDriftDetectionId": o["--stack-name"]},
            ("cloudformation", "describe-stack-drift-detection-status"): self.status,
            ("cloudformation", "describe-stack-resource-drifts"): self.results,
        }

    def status(self, options):
        """Two looks at each find it under way."""
        self.looks += 1
        end = self.ends.get(options["--stack-drift-detection-id"], {"DetectionStatus": "DETECTION_COMPLETE"})
        return end if self.looks % 3 == 0 else {"DetectionStatus": "DETECTION_IN_PROGRESS"}

    def results(self, options):
        pages, page = self.pages.get(options["--stack-name"], [[]]), int(options.get("--next-token", 0))
        more = {"NextToken": str(page + 1)} if page + 1 < len(pages) else {}
        return {"StackResourceDrifts": pages[page]} | more

    def code(self):
        said = io.StringIO()
        argv = mock.patch.object(sys, "argv", ["kschat-aws", "drift", "--name", "chat", "--region", "eu-west-1"])
        with argv, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = self.program.main()
        return code, said.getvalue()

    def test_drift_of_unchanged_deployment_succeeds(self):
        code, said = self.code()
        self.assertEqual((code, self.looks), (0, 12), said)
        self.assertIn("Nothing differs", said)
        checked = [options["--stack-name"] for options in self.account.asked("cloudformation", "detect-stack-drift")]
        self.assertEqual(checked, ["chat-network", "chat-data", "chat-app", "chat-observability"])

    def test_drift_is_shown_with_its_properties_and_without_values(self):
        self.pages = {"chat-app": [[self.SAME], [self.SETTING]], "chat-observability": [[self.TOPIC]]}
        code, said = self.code()
        self.assertEqual(code, 3, said)
        self.assertRegex(said, r"MODIFIED +AWS::Lambda::Function SendFunction \(chat-send\)")
        self.assertRegex(said, r"NOT_EQUAL +/Environment/Variables/AMQP_URL")
        self.assertRegex(said, r"DELETED +AWS::SNS::Topic Alarms")
        self.assertIn("2 resource(s) differ", said)
        self.assertNotIn("password", said)

    def test_drift_that_can_not_be_detected_fails(self):
        self.ends["chat-data"] = {"DetectionStatus": "DETECTION_FAILED", "DetectionStatusReason": "AccessDenied"}
        code, said = self.code()
        self.assertEqual(code, 1, said)
        self.assertIn("AccessDenied", said)

    def test_drift_of_resource_that_can_not_be_read_fails(self):
        unknown = self.SAME | {"StackResourceDriftStatus": "UNKNOWN", "DriftStatusReason": "it could not be read"}
        self.pages["chat-network"] = [[unknown]]
        code, said = self.code()
        self.assertEqual(code, 1, said)
        self.assertIn("it could not be read", said)

    def test_drift_of_no_deployment_fails(self):
        self.account.stacks.clear()
        code, said = self.code()
        self.assertEqual(code, 1)
        self.assertIn("not deployed", said)


class Existing(Command):
    """A broker and a cache that were there before."""

    ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:chat-"
    BROKER = (
        "data.ExistingBrokerName=ours",
        f"data.ExistingBrokerFunctionsUrlSecretArn={ARN}functions",
        f"data.ExistingBrokerConsumerUrlSecretArn={ARN}consumer",
    )
    CACHE = ("data.ExistingCacheId=ours", f"data.ExistingCacheUrlSecretArn={ARN}cache")

    def setUp(self):
        super().setUp()
        self.broker = {
            "BrokerName": "ours",
            "BrokerId": "b-ours",
            "EngineType": "RabbitMQ",
            "HostInstanceType": "mq.m7g.medium",
            "DeploymentMode": "SINGLE_INSTANCE",
        }
        self.version = "3.13.7"
        self.cache = {"MemberClusters": ["ours-001"], "TransitEncryptionEnabled": True, "ClusterEnabled": False}
        self.account.answers |= {
            ("mq", "list-brokers"): {"BrokerSummaries": [self.broker]},
            ("mq", "describe-broker"): lambda options: {"EngineVersion": self.version},
            ("mq", "describe-broker-instance-options"): {"BrokerInstanceOptions": []},
            ("elasticache", "describe-replication-groups"): {"ReplicationGroups": [self.cache]},
            ("secretsmanager", "describe-secret"): {"ARN": self.ARN},
        }
        # The real one.
        self.program.Deployment.make_broker_users = program(ROOT / "infra/aws").Deployment.make_broker_users

    def with_(self, *settings):
        return [argument for setting in settings for argument in ("--set", setting)]

    def test_deploy_uses_existing_broker_and_cache_and_remembers_them(self):
        self.succeeds("deploy", *self.with_(*self.BROKER, *self.CACHE))
        for verb in ("deploy", "update", "rollback"):
            self.succeeds(verb)
        data = self.account.parameters("chat-data")
        self.assertEqual((data["ExistingBrokerName"], data["ExistingCacheId"]), ("ours", "ours"))
        self.assertEqual(self.account.asked("lambda", "invoke"), [])
        self.assertIn("its own management", self.fails("backup-broker", "/nowhere"))

    def test_check_of_existing_broker_names_what_differs(self):
        self.succeeds("check", *self.with_(*self.BROKER))
        self.broker["DeploymentMode"] = "CLUSTER_MULTI_AZ"
        self.assertIn("set data.BrokerDeployment=CLUSTER_MULTI_AZ", self.fails("check", *self.with_(*self.BROKER)))
        self.broker["EngineType"] = "ActiveMQ"
        self.assertIn("no broker ours", self.fails("check", *self.with_(*self.BROKER)))

    def test_check_of_existing_broker_of_another_size_asks_for_another_broker(self):
        self.broker["HostInstanceType"] = "mq.m5.large"
        said = self.fails("check", *self.with_(*self.BROKER))
        self.assertIn("only mq.m7g sizes can be used", said)
        self.assertNotIn("set data.BrokerInstanceType", said)

    def test_check_of_existing_broker_compares_its_version(self):
        self.version = "4.2"
        self.assertIn("set data.BrokerVersion=4.2", self.fails("check", *self.with_(*self.BROKER)))
        self.succeeds("check", *self.with_(*self.BROKER, "data.BrokerVersion=4.2"))
        self.version = "3.12.13"
        self.assertIn("only 3.13, 4.2, 4.3 can be used", self.fails("check", *self.with_(*self.BROKER)))

    def test_check_of_existing_broker_that_may_not_be_described_fails(self):
        self.account.answers["mq", "describe-broker"] = cli.Failed("An error occurred (ForbiddenException)")
        self.assertIn("mq:DescribeBroker", self.fails("check", *self.with_(*self.BROKER)))

    def test_check_of_existing_cache_needs_nodes_that_alarms_watch(self):
        self.cache["MemberClusters"] = ["ours-003", "ours-001"]
        settings = self.with_(*self.BROKER, *self.CACHE, "data.CacheReplicas=1")
        self.assertIn("ours-001, ours-002", self.fails("check", *settings))
        self.cache["MemberClusters"] = ["ours-002", "ours-001"]
        self.succeeds("check", *settings)

    def test_check_of_existing_cache_names_what_differs(self):
        settings = self.with_(*self.BROKER, *self.CACHE)
        self.succeeds("check", *settings)
        self.cache["MemberClusters"] = ["ours-001", "ours-002"]
        self.assertIn("set data.CacheReplicas=1", self.fails("check", *settings))
        self.succeeds("check", *settings, "--set", "data.CacheReplicas=1")
        self.cache["ClusterEnabled"] = True
        self.assertIn("cluster mode", self.fails("check", *settings, "--set", "data.CacheReplicas=1"))

    def test_check_of_existing_broker_needs_its_urls(self):
        self.assertIn("needs data.ExistingBrokerConsumerUrlSecretArn", self.fails("check", *self.with_(*self.BROKER[:2])))
        self.assertIn("needs data.ExistingCacheUrlSecretArn", self.fails("check", *self.with_(*self.BROKER, self.CACHE[0])))
        self.account.answers["secretsmanager", "describe-secret"] = cli.Failed("An error occurred (ResourceNotFound)")
        self.assertIn(f"no secret {self.ARN}functions", self.fails("check", *self.with_(*self.BROKER)))


class Rotate(Command):
    """broker_users.py rotates the users of a real broker."""

    def setUp(self):
        super().setUp()
        self.succeeds("deploy")
        self.vault = Vault(
            {
                "data-messageidkeysecretarn": "old",
                "data-jwtkeysecretarn": "old",
                "data-cachesecretarn": json.dumps({"token": "old"}),
                "data-redisurlsecretarn": "rediss://:old@master.cache:6379/0",
                "data-brokersecretarn": json.dumps({"username": "kschat", "password": "old"}),
                "data-functionsbrokersecretarn": json.dumps({"username": "kschat-functions", "password": "old"}),
                "data-consumerbrokersecretarn": json.dumps({"username": "kschat-consumer", "password": "old"}),
                "data-functionsamqpurlsecretarn": "amqps://kschat-functions:old@b:5671/%2f",
                "data-amqpurlsecretarn": "amqps://kschat-consumer:old@b:5671/%2f",
            }
        )
        self.users = {"kschat": "old", "kschat-functions": "old", "kschat-consumer": "old"}
        self.settling = 0
        self.account.answers |= self.vault.answers() | {
            ("elasticache", "modify-replication-group"): self.modify,
            ("elasticache", "describe-replication-groups"): self.describe,
            ("lambda", "invoke"): self.invoke,
        }
        self.tokens = ["old"]
        self.addCleanup(setattr, rotate, "POLL", rotate.POLL)
        rotate.POLL = 0

    def modify(self, options):
        """A cache that keeps the last two tokens, or one."""
        given = json.loads(Path(options["--cli-input-json"].removeprefix("file://")).read_text())
        self.assertEqual((given["ReplicationGroupId"], given["ApplyImmediately"]), ("data-cacheid", True))
        new = given["AuthToken"]
        kept = [token for token in self.tokens if token != new][-1:] if given["AuthTokenUpdateStrategy"] == "ROTATE" else []
        self.tokens, self.settling = [*kept, new], 2
        return {}

    def describe(self, options):
        self.settling = max(0, self.settling - 1)
        pending = {"PendingModifiedValues": {"AuthTokenStatus": "ROTATING"}} if self.settling else {}
        return {"ReplicationGroups": [{"Status": "available"} | pending]}

    def invoke(self, options):
        """The management API of a broker with these users, as the function of the data stack calls it."""
        sent = json.loads(Path(options["--payload"].removeprefix("fileb://")).read_text())
        answer, answers = Path(options["--cli-read-timeout"].split()[1]), []
        for method, path, body in sent["calls"]:
            if self.users[sent["admin"]["username"]] != sent["admin"]["password"]:
                answer.write_text(json.dumps({"errorMessage": f"{method} {path}: 401"}))
                return {"FunctionError": "Unhandled"}
            name = path.removeprefix("/api/users/")
            if method == "GET":
                told = [{"name": user} for user in self.users] if path == "/api/users" else {"tags": ["administrator"]}
                answers.append(json.dumps(told))
                continue
            if method == "DELETE":
                del self.users[name]
            elif path.startswith("/api/users/"):
                self.users[name] = body["password"]
            answers.append("")
        answer.write_text(json.dumps([base64.b64encode(gzip.compress(text.encode())).decode() for text in answers]))
        return {}

    def administrator(self):
        return json.loads(self.vault.current("data-brokersecretarn"))["password"]

    def answers_of_person(self, answer):
        """Runs without `--yes`, and returns the questions that a person with this answer is asked."""
        self.built = [option for option in self.built if option != "--yes"]
        asked = []
        for patch in (
            mock.patch("sys.stdin", mock.Mock(isatty=lambda: True)),
            mock.patch("builtins.input", lambda question: asked.append(question) or answer),
        ):
            patch.start()
            self.addCleanup(patch.stop)
        return asked

    def releases(self):
        return [stack for stack in self.account.calls if stack[:2] == ("cloudformation", "execute-change-set")]

    def test_message_id_key_is_replaced_and_release_deployed_again(self):
        before, deployed = len(self.releases()), self.account.parameters("chat-app")
        self.succeeds("rotate", "message-id-key")
        self.assertRegex(self.vault.current("data-messageidkeysecretarn"), "^[0-9a-f]{64}$")
        self.assertEqual(len(self.releases()), before + 1)
        again = self.account.parameters("chat-app")
        self.assertNotEqual(again["Revision"], deployed["Revision"])
        self.assertEqual(again | {"Revision": ""}, deployed | {"Revision": ""})

    def test_key_for_tokens_is_replaced_only_if_it_was_generated(self):
        self.succeeds("rotate", "jwt-key")
        self.assertNotEqual(self.vault.current("data-jwtkeysecretarn"), "old")
        self.account.parameters("chat-data")["JwtKeySecretArn"] = "arn"
        self.assertIn("is yours", self.fails("rotate", "jwt-key"))

    def test_token_of_cache_stays_valid_until_nothing_uses_it(self):
        seen = []
        self.account.answers["cloudformation", "execute-change-set"] = lambda o: seen.append(
            (list(self.tokens), self.vault.current("data-redisurlsecretarn"))
        )
        self.succeeds("rotate", "cache")
        (both, url), new = seen[0], json.loads(self.vault.current("data-cachesecretarn"))["token"]
        self.assertEqual((both, url), (["old", new], f"rediss://:{new}@master.cache:6379/0"))
        self.assertEqual(self.tokens, [new])
        self.assertNotIn("AWSPENDING", self.vault.stages["data-cachesecretarn"])

    def test_interrupted_rotation_of_cache_goes_on_with_its_token(self):
        def refuse(options):
            raise cli.Failed("An error occurred (ExpiredToken)")

        self.account.answers["cloudformation", "execute-change-set"] = refuse
        self.fails("rotate", "cache")
        self.assertIn("old", self.tokens)
        begun = self.tokens[-1]
        del self.account.answers["cloudformation", "execute-change-set"]
        self.succeeds("rotate", "cache")
        self.assertEqual(self.tokens, [begun])

    def test_administrator_gets_new_password(self):
        self.succeeds("rotate", "broker-admin")
        self.assertNotEqual(self.administrator(), "old")
        self.assertEqual(self.administrator(), self.users["kschat"])

    def test_administrator_with_unknown_password_keeps_secret(self):
        self.users["kschat"] = "changed in the console"
        self.assertIn("data-brokersecretarn", self.fails("rotate", "broker-admin"))
        self.assertEqual(self.administrator(), "old")

    def test_administrator_of_interrupted_rotation_gets_pending_password(self):
        self.account.answers["secretsmanager", "update-secret-version-stage"] = cli.Failed("An error occurred (ExpiredToken)")
        self.fails("rotate", "broker-admin")
        self.account.answers |= self.vault.answers()
        self.succeeds("rotate", "broker-admin")
        self.assertEqual(self.administrator(), self.users["kschat"])

    def test_pending_value_that_can_not_be_read_is_not_replaced(self):
        for secret, arn in (("broker-admin", "data-brokersecretarn"), ("cache", "data-cachesecretarn")):
            self.vault.versions[arn]["pending"] = json.dumps({"username": "kschat", "password": "p", "token": "p"})
            self.vault.stages[arn]["AWSPENDING"] = "pending"
            throttled = cli.Failed("An error occurred (ThrottlingException)")
            self.account.answers["secretsmanager", "get-secret-value"] = lambda options: (
                throttled if "--version-stage" in options else self.vault.get(options)
            )
            self.assertIn("Throttling", self.fails("rotate", secret))
            self.assertEqual(self.vault.stages[arn]["AWSPENDING"], "pending", secret)

    def test_rotation_asks_once_before_anything_is_changed(self):
        before, versions = len(self.releases()), json.dumps(self.vault.versions)
        asked = self.answers_of_person("n")
        for secret in rotate.ROTATIONS:
            self.assertIn("nothing was changed", self.fails("rotate", secret))
        self.assertEqual(len(asked), len(rotate.ROTATIONS))
        self.assertEqual((json.dumps(self.vault.versions), len(self.releases())), (versions, before))
        asked = self.answers_of_person("y")
        self.succeeds("rotate", "message-id-key")
        self.assertEqual(len(asked), 1)

    def test_rotation_without_a_person_speaks_of_no_change_set(self):
        self.built.remove("--yes")
        with mock.patch("sys.stdin", mock.Mock(isatty=lambda: False)):
            said = self.fails("rotate", "message-id-key")
        self.assertIn("--yes", said)
        self.assertNotIn("change set", said)

    def test_rotation_whose_release_is_not_deployed_says_what_is_done(self):
        self.account.answers["cloudformation", "execute-change-set"] = cli.Failed("An error occurred (ExpiredToken)")
        said = self.fails("rotate", "message-id-key")
        self.assertIn("ExpiredToken", said)
        self.assertIn("the release is not deployed with it: run `kschat-aws rotate message-id-key` again", said)

    def test_new_users_of_broker_exist_before_urls_name_them(self):
        def put(options):
            given = json.loads(Path(options["--cli-input-json"].removeprefix("file://")).read_text())
            if "url" in given["SecretId"]:
                self.assertIn(urlsplit(given["SecretString"]).username, self.users)
            return self.vault.put(options)

        self.account.answers["secretsmanager", "put-secret-value"] = put
        self.succeeds("rotate", "broker-users")
        named = {urlsplit(self.vault.current(f"data-{one}amqpurlsecretarn")).username for one in ("", "functions")}
        self.assertEqual(set(self.users), named | {"kschat"})
        self.assertEqual(len(named - {"kschat-functions", "kschat-consumer"}), 2)

    def test_what_the_stack_has_not_made_is_not_rotated(self):
        self.account.stacks["chat-data"]["Outputs"].pop("CacheSecretArn")
        self.assertIn("not ours", self.fails("rotate", "cache"))
        self.assertEqual(self.tokens, ["old"])


class BrokerBackup(Command):
    """broker_users.py runs the same against a real broker."""

    def setUp(self):
        super().setUp()
        self.succeeds("deploy")
        self.answer = []
        admin = {"SecretString": json.dumps({"username": "kschat", "password": "secret"})}
        self.account.answers |= {
            ("secretsmanager", "get-secret-value"): admin,
            ("lambda", "invoke"): self.invoke,
        }
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = Path(folder.name) / "broker.json"

    def invoke(self, options):
        Path(options["--cli-read-timeout"].split()[1]).write_text(json.dumps(self.answer))
        return {"StatusCode": 200}

    def test_backup_is_written_and_restored(self):
        found = {"exchanges": [], "queues": [{"name": "kschat.user.a"}], "bindings": []}
        self.answer = [base64.b64encode(gzip.compress(json.dumps(found).encode())).decode()]
        self.assertIn("1 queues", self.succeeds("backup-broker", str(self.file)))
        self.assertIn("exists", self.fails("backup-broker", str(self.file)))
        self.assertIn("1 queues", self.succeeds("restore-broker", str(self.file)))
        called = [options["--function-name"] for options in self.account.asked("lambda", "invoke")]
        self.assertEqual(called, ["data-brokerusersfunction"] * 3)

    def test_backup_that_is_too_large_says_so_and_writes_nothing(self):
        # Source: AWS Lambda Developer Guide, "Lambda quotas", and the error of its Invoke API.
        large = {
            "errorType": "Function.ResponseSizeTooLarge",
            "errorMessage": "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
        }

        def refuse(options):
            Path(options["--cli-read-timeout"].split()[1]).write_text(json.dumps(large))
            return {"FunctionError": "Unhandled"}

        self.account.answers["lambda", "invoke"] = refuse
        self.assertIn("25,000 users", self.fails("backup-broker", str(self.file)))
        self.assertFalse(self.file.exists())

    def test_restore_creates_queues_in_small_calls(self):
        queues = [{"name": f"kschat.user.{number}"} for number in range(1200)]
        self.file.write_text(json.dumps({"exchanges": [], "queues": queues, "bindings": []}))
        sizes = []

        def invoke(options):
            sent = json.loads(Path(options["--payload"].removeprefix("fileb://")).read_text())
            sizes.append([len(body["queues"]) for _, _, body in sent["calls"]])
            return self.invoke(options)

        self.account.answers["lambda", "invoke"] = invoke
        self.succeeds("restore-broker", str(self.file))
        self.assertEqual(sizes, [[500], [500], [200]])

    def test_backup_by_function_of_earlier_release_asks_for_deploy(self):
        self.answer = 1
        self.assertIn("kschat-aws deploy", self.fails("backup-broker", str(self.file)))
        self.assertFalse(self.file.exists())

    def test_backup_of_no_deployment_fails(self):
        self.account.stacks.clear()
        self.assertIn("not deployed", self.fails("backup-broker", str(self.file)))


class Partition(unittest.TestCase):
    def test_large_template_is_fetched_from_region_of_its_partition(self):
        for region, suffix in (("eu-west-1", "com"), ("cn-north-1", "com.cn"), ("us-gov-west-1", "com")):
            account = Account(region)
            with mock.patch.object(stacks, "INLINE_LIMIT", 0), contextlib.redirect_stdout(io.StringIO()):
                stacks.Stacks(account, "chat", {}, assume_yes=True).deploy("app", {}, bucket="bucket")
            (asked,) = account.asked("cloudformation", "create-change-set")
            self.assertTrue(asked["--template-url"].startswith(f"https://bucket.s3.{region}.amazonaws.{suffix}/templates/"))


class Limits(Command):
    def test_deploy_tells_of_limits_that_wait_for_restart(self):
        pending = {"Configurations": {"Current": {"Id": "c", "Revision": 1}, "Pending": {"Id": "c", "Revision": 2}}}
        self.account.answers["mq", "describe-broker"] = {}
        self.assertNotIn("reboot-broker", self.succeeds("deploy"))
        self.account.answers["mq", "describe-broker"] = pending
        self.assertIn("aws mq reboot-broker --broker-id data-brokerid", self.succeeds("deploy"))

    def test_check_of_cluster_of_version_4_asks_for_less_concurrency(self):
        limits = {"ConcurrentExecutions": 1000, "UnreservedConcurrentExecutions": 850}
        self.account.answers["lambda", "get-account-settings"] = {"AccountLimit": limits}
        self.assertIn("800 concurrent", self.fails("check", "--profile", "prod"))
        newer = ["--set", "data.BrokerVersion=4.2", "--set", "app.QueueType=quorum"]
        self.assertIn("720 concurrent", self.succeeds("check", "--profile", "prod", *newer))


class Roles(Command):
    BOUNDARY = "arn:aws:iam::111122223333:policy/boundary"

    def test_boundary_for_all_stacks_is_given_to_each_and_remembered(self):
        given = ["--set", f"all.PermissionsBoundary={self.BOUNDARY}", "--set", "all.RolePath=/team/"]
        self.succeeds("deploy", *given)
        self.succeeds("deploy")
        for stack in ("network", "data", "app"):
            parameters = self.account.parameters(f"chat-{stack}")
            self.assertEqual((parameters["PermissionsBoundary"], parameters["RolePath"]), (self.BOUNDARY, "/team/"))
        self.assertIn("all.Nothing", self.fails("deploy", "--set", "all.Nothing=1"))

    def test_policy_allows_to_look_at_existing_broker_and_cache(self):
        found = policy.documents("chat", "1" * 12, "eu-west-1", "amazonaws.com", "/", None)
        statements = [s for document in found for s in document["Statement"]]
        for action in ("elasticache:DescribeReplicationGroups", "mq:ListBrokers", "mq:DescribeBroker"):
            self.assertEqual([s["Resource"] for s in statements if action in s["Action"]], ["*"], action)

    def test_policy_names_what_it_is_for_and_fits(self):
        for region, partition in (("eu-west-1", "aws"), ("cn-north-1", "aws-cn")):
            suffix = Account(region).url_suffix
            found = policy.documents("a" * 20, "1" * 12, region, suffix, "/team/", self.BOUNDARY)
            for document in found:
                text = json.dumps(document)
                self.assertNotIn("<", text)
                self.assertLessEqual(len(text.replace(" ", "")), 6144)
                self.assertEqual(set(re.findall(r"arn:(aws[a-z-]*):", text)) - {"aws"}, {partition} - {"aws"})
            statements = [s for document in found for s in document["Statement"]]
            making = [s for s in statements if "iam:CreateRole" in s["Action"]]
            self.assertEqual([s["Condition"]["StringEquals"] for s in making], [{"iam:PermissionsBoundary": self.BOUNDARY}])
            self.assertEqual(making[0]["Resource"], [f"arn:{partition}:iam::{'1' * 12}:role/team/{'a' * 20}-*"])
            self.assertFalse([s for s in statements if "iam:DeleteRolePermissionsBoundary" in s["Action"]])


class Image(Command):
    def test_image_without_region_is_refused_before_the_build(self):
        self.built = ["--region", "", "--repository", "registry.example/consumer"]
        with mock.patch.object(self.program.build, "consumer") as built:
            self.assertIn("no region", self.fails("image"))
        built.assert_not_called()


class ImmutableRegistry(unittest.TestCase):
    """A registry as ECR is one: it tells of an OCI manifest only who accepts it, and no tag is ever written twice."""

    def setUp(self):
        held = self.held = {}

        class Answers(BaseHTTPRequestHandler):
            def do_HEAD(self):
                kept = held.get(self.path)
                accepts = "/blobs/" in self.path or image.MANIFEST in self.headers.get("Accept", "")
                self.answer(200 if kept is not None and accepts else 404)

            def do_POST(self):
                self.body()
                self.answer(202, Location="/upload")

            def do_PUT(self):
                body, path = self.body(), self.path
                if path.startswith("/upload"):
                    path = "/v2/chat/blobs/" + unquote(path.partition("digest=")[2])
                elif path in held:
                    self.answer(400, b'{"errors": [{"code": "TAG_INVALID", "message": "the tag is immutable"}]}')
                    return
                held[path] = body
                if "/manifests/" in path:
                    held[f"/v2/chat/manifests/{image.digest(body)}"] = body
                self.answer(201)

            def body(self):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))

            def answer(self, code, text=b"", **headers):
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Answers)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.registry = image.Registry(f"http://127.0.0.1:{server.server_port}", "chat")

    def image(self, text):
        with tempfile.TemporaryDirectory() as folder:
            for name in image.FILES:
                (Path(folder) / name).write_text(text)
            return image.Image(Path(folder), "arm64")

    def test_push_of_unchanged_image_is_content_with_what_is_there(self):
        for _ in range(2):
            self.registry.push(self.image("one"), "tag")
        self.assertIn("/v2/chat/manifests/tag", self.held)

    def test_push_of_another_image_under_the_same_tag_fails(self):
        self.registry.push(self.image("one"), "tag")
        with self.assertRaisesRegex(cli.Failed, "tag"):
            self.registry.push(self.image("two"), "tag")


if __name__ == "__main__":
    unittest.main()
