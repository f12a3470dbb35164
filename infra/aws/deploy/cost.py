"""What traffic costs, from prices that were looked up; the rest is named and not guessed."""

import math

# us-east-1, USD. Source: AWS's price list of API Gateway ("WebSocket APIs") and of Lambda, first tiers.
MESSAGE = 1.00e-6  # a frame in, a frame out, or a push, each 32 KB begun
CONNECTION_MINUTE = 0.25e-6
FUNCTION_CALL = 0.30e-6  # a call of some milliseconds at 256 MB

UNIT = 32 * 1024
DAYS = 30


def month(users, hours, messages, size, devices, pings):
    """The lines of a month's bill that follow from traffic.

    users: online on a day, each for `hours`; messages: sent by each a day; size: bytes of a frame; devices: connections
    of a receiver; pings: sent by each client an hour.
    """
    units = math.ceil(size / UNIT)
    sent = users * messages * DAYS
    minutes = users * devices * hours * 60 * DAYS
    connects = users * devices * DAYS * max(1, math.ceil(hours / 2))
    asked = users * devices * pings * hours * DAYS
    return [
        ("messages in", sent * units, sent * units * MESSAGE),
        ("replies (RESPSEND)", sent, sent * MESSAGE),
        ("pushes (RESPRECEIVER), at most", sent * devices * units, sent * devices * units * MESSAGE),
        ("acks, at most one a message", sent * devices, sent * devices * MESSAGE),
        ("pings and their answers", asked * 2, asked * 2 * MESSAGE),
        ("connection minutes", minutes, minutes * CONNECTION_MINUTE),
        (
            "calls of functions",
            2 * connects + sent * (1 + devices),
            (2 * connects + sent * (1 + devices)) * FUNCTION_CALL,
        ),
    ]


NOT_INCLUDED = (
    "Not included, as their prices were not looked up: Amazon MQ, ElastiCache, Fargate, NAT gateways or public\n"
    "addresses, CloudWatch, KMS, Secrets Manager, ECR, S3 and data transfer. They do not depend on traffic but on the\n"
    "sizes in the profile; take them from AWS's calculator and give their sum with --fixed."
)


def report(arguments):
    """The bill as text."""
    rows = month(
        arguments.users, arguments.hours, arguments.messages, arguments.size, arguments.devices, arguments.pings
    )
    lines = [f"{'a month, us-east-1':34}{'count':>16}{'USD':>12}"]
    lines += [f"{name:34}{count:>16,.0f}{price:>12,.2f}" for name, count, price in rows]
    total = sum(price for *_, price in rows) + arguments.fixed
    if arguments.fixed:
        lines.append(f"{'fixed':34}{'':>16}{arguments.fixed:>12,.2f}")
    lines.append(f"{'sum':34}{'':>16}{total:>12,.2f}")
    return "\n".join([*lines, "", NOT_INCLUDED])
