"""What `kschat-aws cost` estimates, against what the stacks deploy."""

import re
import sys
import unittest
from collections import Counter

sys.dont_write_bytecode = True

from templates import ROOT, STACKS, Resolved, source, translate, wiring

FOLDER = ROOT / "infra/aws"
wiring(FOLDER)

from deploy import cli, cost

SIZES = {
    "dev": cost.sized("dev"),
    "prod": cost.sized("prod"),
    "prod, one gateway, two zones": cost.sized("prod", settings=["network.Egress=nat", "network.Zones=2"]),
    "dev, own key": cost.sized("dev", settings=["data.JwtKeySecretArn=arn:aws:secretsmanager:us-east-1:1:secret:x"]),
    "dev, existing broker": cost.sized("dev", settings=["data.ExistingBrokerName=ours"]),
    "prod, existing cache": cost.sized("prod", settings=["data.ExistingCacheId=ours"]),
    "dev, few metrics": cost.sized("dev", settings=["app.ContainerInsights=disabled", "app.Metrics=false"]),
}


def deployed(given):
    """The resources of all stacks, by type."""
    data = given["data"]
    wired = {"CacheReplicas": data["CacheReplicas"], "BrokerSize": data["BrokerInstanceType"], "BrokerLimits": "maximum"}
    found = {}
    for stack in STACKS:
        resolved = Resolved(translate(source(FOLDER, stack)), given[stack] | wired)
        for resource in resolved.resources.values():
            found.setdefault(resource["Type"], []).append(resource.get("Properties", {}))
    return found


def metrics(entries):
    return sum("MetricStat" in entry for entry in entries)


def alarm_metrics(found):
    alarms = sum(metrics(alarm["Metrics"]) if "Metrics" in alarm else 1 for alarm in found["AWS::CloudWatch::Alarm"])
    for policy in found["AWS::ApplicationAutoScaling::ScalingPolicy"]:
        tracked = policy["TargetTrackingScalingPolicyConfiguration"].get("CustomizedMetricSpecification")
        alarms += 2 * (metrics(tracked["Metrics"]) if tracked else 1)
    return alarms


class Counts(unittest.TestCase):
    def test_estimate_counts_what_templates_deploy(self):
        for name, given in SIZES.items():
            with self.subTest(name):
                found = deployed(given)
                number = Counter({kind: len(each) for kind, each in found.items()})
                counted = {line.part: line.count for line in cost.fixed(given)}
                self.assertEqual(counted["secrets"], number["AWS::SecretsManager::Secret"])
                self.assertEqual(counted["key"], number["AWS::KMS::Key"])
                self.assertEqual(counted["dashboard"], number["AWS::CloudWatch::Dashboard"])
                self.assertEqual(counted["alarms"], alarm_metrics(found))
                self.assertEqual(counted["NAT gateways"], number["AWS::EC2::NatGateway"] * cost.HOURS)
                addresses = number["AWS::EC2::EIP"] or int(given["app"]["ConsumerMinTasks"])
                self.assertEqual(counted["public addresses"], addresses * cost.HOURS)
                modes = [one["DeploymentMode"] for one in found.get("AWS::AmazonMQ::Broker", [])]
                nodes = sum(3 if mode == "CLUSTER_MULTI_AZ" else 1 for mode in modes)
                self.assertEqual(counted.get("broker", 0), nodes * cost.HOURS)
                groups = found.get("AWS::ElastiCache::ReplicationGroup", [])
                nodes = sum(1 + int(group["ReplicasPerNodeGroup"]) for group in groups)
                self.assertEqual(counted.get("cache", 0), nodes * cost.HOURS)
                interface = [e for e in found["AWS::EC2::VPCEndpoint"] if e["VpcEndpointType"] != "Gateway"]
                self.assertEqual(interface, [])

    def test_vpc_of_ones_own_has_no_gateways(self):
        given = {name: value for name, value in SIZES["prod"].items() if name != "network"}
        self.assertNotIn("NAT gateways", [line.part for line in cost.fixed(given)])
        self.assertNotIn("NAT data", [line.part for line in cost.traffic(given, cost.Load())])

    def test_every_size_of_broker_has_a_disk(self):
        sizes = source(FOLDER, "data")["Parameters"]["BrokerInstanceType"]["AllowedValues"]
        self.assertEqual(list(cost.CLUSTER_DISK), sizes)


class Traffic(unittest.TestCase):
    LOAD = cost.Load(users=100, messages=10, hours=3, devices=2, size=40 * 1024, pings=6)

    def counts(self, given):
        return {line.part: line.count for line in cost.traffic(given, self.LOAD)}

    def test_messages_are_counted_in_units_with_replies_acks_and_pings(self):
        counted = self.counts(SIZES["dev"])
        sent, delivered, pings = 30_000, 60_000, 100 * 2 * 3 * 6 * 30
        self.assertEqual(counted["WebSocket messages"], 2 * sent + sent + 2 * delivered + delivered + 2 * pings)
        self.assertEqual(counted["connection minutes"], 100 * 2 * 3 * 60 * 30)
        connections = 100 * 2 * 2 * 30
        self.assertEqual(counted["function calls"], 2 * connections + sent + delivered)

    def test_memory_of_functions_changes_their_time_only(self):
        small, large = (self.counts(cost.sized("dev", settings=[f"app.FunctionMemory={mb}"])) for mb in (256, 512))
        self.assertEqual({part for part in small if small[part] != large[part]}, {"function time"})
        self.assertEqual(large["function time"], 2 * small["function time"])

    def test_alternatives_are_counted_in_units_of_five_kilobytes(self):
        appsync, iot = ({line.part: line.count for line in lines(self.LOAD)} for lines in (cost.appsync, cost.iot))
        self.assertEqual(appsync["operations"], 2 * 12_000 + 30_000 * (8 + 1) + 60_000 * 8)
        self.assertEqual(iot["messages"], 2 * 12_000 + 30_000 * 8 + 60_000 * (8 + 1))


class Prices(unittest.TestCase):
    def test_every_price_has_a_source_and_a_date(self):
        for region, prices in cost.TABLE.items():
            for name, price in prices.items():
                with self.subTest(f"{region} {name}"):
                    self.assertGreater(price["usd"], 0)
                    self.assertRegex(price["source"], r"^https://aws\.amazon\.com/")
                    self.assertRegex(price["date"], r"^20\d\d-\d\d$")
                    self.assertIsInstance(price["verified"], bool)

    def test_unverified_prices_are_marked_and_named(self):
        text = cost.report(SIZES["dev"], cost.Load(), "us-east-1")
        self.assertRegex(text, r"(?m)^broker +730\.00 .*\*$")
        self.assertRegex(text, r"(?m)^secrets +9\.00 +3\.60$")
        self.assertRegex(text, r"unverified price.*mq\.m7g\.medium")
        self.assertNotIn("secret,", text)

    def test_region_without_prices_names_those_that_have(self):
        with self.assertRaisesRegex(cli.Failed, "eu-west-9, only for us-east-1"):
            cost.report(SIZES["dev"], cost.Load(), "eu-west-9")

    def test_size_without_price_is_named(self):
        with self.assertRaisesRegex(cli.Failed, "no price for cache.r7g.large in us-east-1"):
            cost.report(cost.sized("dev", settings=["data.CacheNodeType=cache.r7g.large"]), cost.Load(), "us-east-1")

    def test_more_users_than_the_broker_has_queues_for_are_told(self):
        self.assertNotIn("at most", cost.report(SIZES["dev"], cost.Load(users=2000), "us-east-1"))
        self.assertIn("2,000 users at most", cost.report(SIZES["dev"], cost.Load(users=2001), "us-east-1"))


class Readme(unittest.TestCase):
    def test_table_is_what_the_command_prints(self):
        text = (FOLDER / "README.md").read_text()
        shown = re.search(r"<!-- kschat-aws cost --table --region us-east-1 -->\n(.*?)\n<!-- end -->", text, re.S).group(1)
        self.assertEqual(shown, cost.table("us-east-1"))


if __name__ == "__main__":
    unittest.main()
