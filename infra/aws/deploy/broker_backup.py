"""Saves the queues of users and their bindings, and creates them on another broker. Messages cannot be saved.

Everything else on a broker is created by `deploy` (its users) and by the consumer (exchanges and its own queues). Online
users get their queues from the consumer. Those of offline users exist on the broker only.
"""

import json
import os
import time
from pathlib import Path

from deploy import management
from deploy.cli import Failed, confirm, say, step

# A virtual host's definitions contain no users and no passwords. Source: RabbitMQ, "Management HTTP API".
DEFINITIONS = "/api/definitions/%2F"

QUEUES, ROOMS = "kschat.user.", "kschat.rooms"
EXCHANGES = ("kschat.direct", "kschat.broadcast", ROOMS)

# Queues or bindings in one call, which the broker has to create within the 60 seconds that the function may run.
BATCH = 500

# How Lambda says that an answer is larger than 6 MB. Source: AWS Lambda quotas.
TOO_LARGE = "payload size exceeded"


def save(aws, data, file):
    """Writes the definitions to a new file that only this user can read."""
    step(f"queues of {data['BrokerName']}")
    try:
        answers = management.call(aws, data, [["GET", DEFINITIONS, None]])
    except Failed as failed:
        if TOO_LARGE not in str(failed):
            raise
        raise Failed(
            "the definitions of more than about 25,000 users do not fit into one answer of the function: download "
            f"{data['BrokerConsole']}{DEFINITIONS} through the access to the broker's console; restore-broker takes that file"
        ) from failed
    if not answers:
        raise Failed(f"the function {data['BrokerUsersFunction']} is of an earlier release: run `kschat-aws deploy` first")
    kept = selected(json.loads(answers[0]), with_rooms=True)
    kept["saved"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    try:
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise Failed(f"{file} exists: give another file") from error
    with os.fdopen(opened, "w") as out:
        json.dump(kept, out, indent=1)
    say(f"{len(kept['queues'])} queues, {len(kept['bindings'])} bindings: {file}")


def restore(aws, data, file, with_rooms, assume_yes):
    """Creates what the file lists and the broker lacks. Whatever exists stays as it is."""
    step(f"queues for {data['BrokerName']}")
    try:
        saved = json.loads(Path(file).read_text())
        kept = selected(saved, with_rooms)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failed(f"{file} is not a backup: {error}") from error
    counts = f"{len(kept['queues'])} queues and {len(kept['bindings'])} bindings"
    if not confirm(f"   Create {counts}, saved {saved.get('saved', 'at an unknown time')}?", assume_yes):
        raise Failed("nothing was changed")
    for batch in batches(kept):
        management.call(aws, data, [["POST", DEFINITIONS, batch]])
        say(", ".join(f"{len(entries)} {kind}" for kind, entries in batch.items()))


def selected(definitions, with_rooms):
    """The queues of users, the exchanges that they are bound to, and the bindings between them."""
    exchanges = [name for name in EXCHANGES if with_rooms or name != ROOMS]
    return {
        "exchanges": [one for one in definitions["exchanges"] if one["name"] in exchanges],
        "queues": [one for one in definitions["queues"] if one["name"].startswith(QUEUES)],
        "bindings": [
            one
            for one in definitions["bindings"]
            if one["source"] in exchanges and one["destination_type"] == "queue" and one["destination"].startswith(QUEUES)
        ],
    }


def batches(kept):
    """The same in calls of limited size. A binding comes after what it binds."""
    for kind in ("exchanges", "queues", "bindings"):
        for start in range(0, len(kept[kind]), BATCH):
            yield {kind: kept[kind][start : start + BATCH]}
