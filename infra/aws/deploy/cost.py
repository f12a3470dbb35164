"""Estimates the monthly cost of a deployment: what it costs without traffic, and what its traffic adds.

All prices are in prices.json. Nothing is subtracted for AWS's free tiers, and nothing is added for taxes and support.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

from deploy import limits, parameters
from deploy.cli import Failed

FOLDER = Path(__file__).resolve().parents[1]
TABLE = json.loads((FOLDER / "prices.json").read_text())["regions"]

HOURS, DAYS = 730, 30
GB = 1e9

# GB of a broker's disk, per node. Source: Amazon MQ, "Amazon MQ for RabbitMQ broker instance types".
SINGLE_DISK = 200
CLUSTER_DISK = {"mq.m7g.medium": 5, "mq.m7g.large": 15, "mq.m7g.xlarge": 25, "mq.m7g.4xlarge": 90, "mq.m7g.8xlarge": 175}

# What the templates contain; a test counts it. Secrets: three users of the broker and two URLs, token and URL of the cache.
SECRETS_OF_BROKER, SECRETS_OF_CACHE = 5, 2
ALARM_METRICS, ALARM_METRICS_PER_CACHE_NODE = 27, 2
# Each target tracking policy keeps two alarms. The policy by backlog looks at two metrics.
SCALING_ALARM_METRICS, SCALING_ALARM_METRICS_BY_BACKLOG = 2, 4

# Assumptions. The number of series is from METRICS.md; the rest was not measured in an account.
OWN_METRICS = 70
CONTAINER_INSIGHTS_METRICS = 30
IMAGES_GB = 0.5
FLOW_LOGS_GB = 1
CALL_SECONDS = 0.010
LOG_BYTES_PER_CALL = 1_000
REPLY_BYTES = 200
PUSH_OVERHEAD_BYTES = 1_000
ZONE_BYTES_PER_MESSAGE = 1_500

# Bytes that are metered as one message. Sources: the pricing pages of API Gateway, AppSync and IoT Core.
WEBSOCKET_UNIT, APPSYNC_UNIT, IOT_UNIT = 32 * 1024, 5 * 1024, 5 * 1024

# An edge connection ends after two hours. Source: Amazon API Gateway quotas.
CONNECTION_HOURS = 2


class Load(NamedTuple):
    """Traffic: each of `users` is online for `hours` a day with `devices` connections, and sends `messages` of `size` bytes
    a day to one recipient each. Each connection pings `pings` times an hour."""

    users: int = 1000
    messages: int = 50
    hours: float = 8
    devices: int = 1
    size: int = 1024
    pings: float = 0

    @property
    def sent(self):
        return self.users * self.messages * DAYS

    @property
    def delivered(self):
        return self.sent * self.devices

    @property
    def minutes(self):
        return self.users * self.devices * self.hours * 60 * DAYS

    @property
    def connections(self):
        return self.users * self.devices * DAYS * max(1, math.ceil(self.hours / CONNECTION_HOURS))

    @property
    def pinged(self):
        return self.users * self.devices * self.pings * self.hours * DAYS


PROFILES = ("dev", "prod")
LEVELS = (Load(100, 50), Load(1000, 50), Load(10_000, 100))


class Line(NamedTuple):
    """A part of the bill: how much of what is priced under `price`."""

    part: str
    count: float
    price: str


def fixed(given):
    """The parts that cost the same without traffic, for the parameters of all stacks."""
    data, app = given["data"], given["app"]
    caches, tasks, processor = 1 + int(data["CacheReplicas"]), int(app["ConsumerMinTasks"]), app["Architecture"]
    if not data["ExistingBrokerName"]:
        yield from broker(data)
    if not data["ExistingCacheId"]:
        yield Line("cache", caches * HOURS, data["CacheNodeType"])
    yield Line("consumer, vCPU", tasks * int(app["ConsumerCpu"]) / 1024 * HOURS, f"fargate-vcpu-{processor}")
    yield Line("consumer, memory", tasks * int(app["ConsumerMemory"]) / 1024 * HOURS, f"fargate-memory-{processor}")
    yield from outbound(given.get("network"), tasks)
    yield Line("secrets", secrets(data), "secret")
    yield Line("key", 1, "key")
    yield from monitoring(app, caches)
    yield Line("images and artifacts", IMAGES_GB, "image-storage")


def broker(data):
    size, is_cluster = data["BrokerInstanceType"], data["BrokerDeployment"] == "CLUSTER_MULTI_AZ"
    nodes = 3 if is_cluster else 1
    yield Line("broker", nodes * HOURS, size)
    yield Line("broker storage", nodes * (CLUSTER_DISK[size] if is_cluster else SINGLE_DISK), "broker-storage")


def secrets(data):
    """How many are made: the key for message ids, and what is not one's own."""
    made = {"JwtKeySecretArn": 1, "ExistingBrokerName": SECRETS_OF_BROKER, "ExistingCacheId": SECRETS_OF_CACHE}
    return 1 + sum(count for parameter, count in made.items() if not data[parameter])


def sized(profile, files=(), settings=()):
    """The parameters that decide about costs: of the templates, a profile, files and settings, later ones first."""
    declared = {stack: parameters.declared(FOLDER / f"{stack}.yaml") for stack in parameters.STACKS}
    defaults = {
        stack: {name: spec["Default"] for name, spec in specs.items() if "Default" in spec}
        for stack, specs in declared.items()
    }
    given = parameters.merged((defaults, parameters.profile(profile)), files, settings)
    if "vpc" in given:
        del given["network"]
    return parameters.shared(given, declared)


def outbound(network, tasks):
    """Outbound access and flow logs; those of a VPC of one's own are not counted."""
    if network is None:
        return
    gateways = {"public-ip": 0, "nat": 1, "nat-per-zone": int(network["Zones"])}[network["Egress"]]
    yield Line("NAT gateways", gateways * HOURS, "nat-gateway")
    yield Line("public addresses", (gateways or tasks) * HOURS, "public-address")
    yield Line("flow logs", FLOW_LOGS_GB if network["FlowLogs"] == "true" else 0, "log-data")


def monitoring(app, caches):
    alarms = ALARM_METRICS + ALARM_METRICS_PER_CACHE_NODE * caches + SCALING_ALARM_METRICS
    by_insights = app["ContainerInsights"] == "enabled"
    yield Line("alarms", alarms + (SCALING_ALARM_METRICS_BY_BACKLOG if by_insights else 0), "alarm-metric")
    yield Line("dashboard", 1, "dashboard")
    own = OWN_METRICS if app["Metrics"] == "true" else 0
    yield Line("metrics", own + (CONTAINER_INSIGHTS_METRICS if by_insights else 0), "custom-metric")


def traffic(given, load):
    """The parts that depend on traffic."""
    app, units = given["app"], math.ceil(load.size / WEBSOCKET_UNIT)
    calls = 2 * load.connections + load.sent + load.delivered
    logged = calls * LOG_BYTES_PER_CALL / GB
    pushed = load.delivered * (load.size + PUSH_OVERHEAD_BYTES) / GB
    frames = (load.sent + load.delivered) * units + load.sent + load.delivered + 2 * load.pinged
    yield Line("WebSocket messages", frames, "websocket-message")
    yield Line("connection minutes", load.minutes, "websocket-minute")
    yield Line("function calls", calls, "function-request")
    yield Line("function time", calls * CALL_SECONDS * int(app["FunctionMemory"]) / 1024, f"function-{app['Architecture']}")
    yield Line("logs", logged, "log-data")
    yield Line("log storage", logged * int(app["LogDays"]) / DAYS, "log-storage")
    yield Line("data to clients", (load.delivered * load.size + load.sent * REPLY_BYTES) / GB, "internet-transfer")
    if given.get("network", {}).get("Egress", "public-ip") != "public-ip":
        yield Line("NAT data", pushed, "nat-data")
    yield Line("data between zones", zone_data(given, load), "zone-transfer")


def zone_data(given, load):
    """GB that functions, consumer, broker and cache exchange across zones. Each is billed on both sides."""
    zones = int(given.get("network", {}).get("Zones", 2))
    return 2 * load.sent * (2 * load.size + ZONE_BYTES_PER_MESSAGE) * (zones - 1) / zones / GB


def appsync(load):
    """The same traffic on AppSync Events: connects and subscriptions, and for each message its publication, a handler that
    checks its sender, and its deliveries. Messages for users who are offline are lost."""
    units = math.ceil(load.size / APPSYNC_UNIT)
    operations = 2 * load.connections + load.sent * (units + 1) + load.delivered * units
    return [Line("operations", operations, "appsync-operation"), Line("connection minutes", load.minutes, "appsync-minute")]


def iot(load):
    """The same traffic on IoT Core: connects and subscriptions, and for each message its publication, its deliveries and
    their acknowledgements (QoS 1)."""
    units = math.ceil(load.size / IOT_UNIT)
    messages = 2 * load.connections + load.sent * units + load.delivered * (units + 1)
    return [Line("messages", messages, "iot-message"), Line("connection minutes", load.minutes, "iot-minute")]


class Prices:
    """The prices of one region."""

    def __init__(self, region):
        if region not in TABLE:
            raise Failed(f"prices.json has no prices for {region}, only for {', '.join(TABLE)}: say --region")
        self.region, self.prices = region, TABLE[region]

    def __getitem__(self, name):
        if name not in self.prices:
            raise Failed(f"prices.json has no price for {name} in {self.region}: add it with its source")
        return self.prices[name]

    def usd(self, lines):
        return sum(line.count * self[line.price]["usd"] for line in lines)

    def unverified(self, lines):
        """The names of the unverified prices in these lines."""
        return sorted({line.price for line in lines if line.count and not self[line.price]["verified"]})


def most_users(data):
    """How many users the broker has queues for, at 80 %."""
    return limits.TABLE[limits.kind(data)][data["BrokerInstanceType"]]["queues"] * 4 // 5


def report(given, load, region):
    """The estimate as text."""
    prices, text = Prices(region), [f"USD a month in {region}"]
    sections = (("fixed", list(fixed(given))), ("traffic", list(traffic(given, load))))
    for name, lines in sections:
        text += ["", f"{name:24}{'count':>18}{'USD':>12}"]
        text += [row(line, prices) for line in lines if line.count]
        text.append(f"{'sum':24}{'':>18}{prices.usd(lines):>12,.2f}")
    everything = [line for _, lines in sections for line in lines]
    text += ["", f"{'fixed and traffic':24}{'':>18}{prices.usd(everything):>12,.2f}"]
    if unverified := prices.unverified(everything):
        text += ["", f"* unverified price, from texts of third parties: {', '.join(unverified)}"]
    if load.users > most_users(given["data"]):
        text += ["", f"{given['data']['BrokerInstanceType']} has queues for {most_users(given['data']):,} users at most."]
    return "\n".join(text)


def row(line, prices):
    price = prices[line.price]
    mark = "" if price["verified"] else " *"
    return f"{line.part:24}{line.count:>18,.2f}{line.count * price['usd']:>12,.2f}{mark}"


def table(region):
    """The estimates for all profiles and levels of traffic, in Markdown."""
    prices, used = Prices(region), []

    def usd(lines):
        lines = list(lines)
        used.extend(lines)
        return prices.usd(lines)

    heads = [f"{load.users:,} users, {load.users * load.messages:,} messages a day" for load in LEVELS]
    rows = [["", *heads], ["---"] * (len(LEVELS) + 1)]
    for name in PROFILES:
        rows.append([f"`{name}`", *(cell(sized(name), load, usd) for load in LEVELS)])
    for name, lines in (("AppSync Events", appsync), ("IoT Core", iot)):
        rows.append([name, *(f"{usd(lines(load)):,.0f}" for load in LEVELS)])
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{text}\n\nUnverified prices: {', '.join(f'`{name}`' for name in prices.unverified(used))}."


def cell(given, load, usd):
    if load.users > most_users(given["data"]):
        return f"at most {most_users(given['data']):,} users"
    parts = usd(fixed(given)), usd(traffic(given, load))
    return f"{parts[0]:,.0f} + {parts[1]:,.0f} = **{sum(parts):,.0f}**"
