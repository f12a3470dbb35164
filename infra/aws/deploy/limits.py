"""What the broker allows, and how many functions are reserved so that they fit into it."""

import json
from pathlib import Path

from deploy.cli import RED, PLAIN, say

TABLE = json.loads((Path(__file__).resolve().parents[1] / "broker-limits.json").read_text())


def kind(data):
    """Which limits a broker with these parameters has: the template decides the same."""
    takes_none_from_us = data.get("BrokerDeployment") == "CLUSTER_MULTI_AZ" or data.get("ExistingBrokerName")
    return "default" if takes_none_from_us and not data.get("BrokerVersion", "3.13").startswith("3.") else "maximum"


def reserved(size, kind="maximum"):
    """The concurrency that the functions reserve together."""
    return sum(TABLE[kind][size]["reserved"].values())


def tell_pending(aws, broker):
    """Says when limits wait for a restart of the broker: those of a broker that was there before do.

    Source: https://docs.aws.amazon.com/amazon-mq/latest/developer-guide/configure-resource-limits.html
    """
    answer = (aws.try_("mq", "describe-broker", "--broker-id", broker) if broker else None) or {}
    if answer.get("Configurations", {}).get("Pending"):
        say(f"{RED}!!{PLAIN} the broker gets its limits at its next restart, in its maintenance window or by")
        say(f"   aws mq reboot-broker --broker-id {broker}")
