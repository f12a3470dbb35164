"""Finds what was changed in the resources of a deployment without its stacks.

CloudFormation compares the properties that a template sets. Values are not shown: the settings of a function contain
secrets.
"""

import time

from deploy.cli import GREEN, PLAIN, RED, Failed, say, step
from deploy.parameters import STACKS

POLL = 3

# Results of a resource. Source: AWS CloudFormation API, StackResourceDrift.
DIFFERS = ("MODIFIED", "DELETED")
UNKNOWN = "UNKNOWN"


def find(stacks):
    """Shows what differs in all stacks, and returns how many resources do. Raises [`Failed`] if not all could be checked
    and none differs."""
    there = [part for part in STACKS if stacks.describe(part)]
    if not there:
        raise Failed(f"{stacks.name} is not deployed here")
    # All at once: a detection takes minutes.
    detections = {part: detect(stacks, part) for part in there}
    results = [show(stacks, part, wait(stacks.aws, detection)) for part, detection in detections.items()]
    differing, unchecked = (sum(counts) for counts in zip(*results, strict=True))
    if unchecked and not differing:
        raise Failed(f"{unchecked} thing(s) could not be checked: see above")
    return differing


def detect(stacks, part):
    started = stacks.aws("cloudformation", "detect-stack-drift", "--stack-name", stacks.stack(part))
    return started["StackDriftDetectionId"]


def wait(aws, detection):
    """Waits for the end of a detection, and returns why it failed, if it did."""
    asked = ["--stack-drift-detection-id", detection]
    while True:
        answer = aws("cloudformation", "describe-stack-drift-detection-status", *asked)
        if answer["DetectionStatus"] == "DETECTION_FAILED":
            return answer.get("DetectionStatusReason", "no reason was given")
        if answer["DetectionStatus"] == "DETECTION_COMPLETE":
            return None
        time.sleep(POLL)


def show(stacks, part, failure):
    """Shows the results of one stack; returns how many resources differ, and how much could not be checked."""
    step(f"stack {stacks.stack(part)}")
    results = list(resource_drifts(stacks.aws, stacks.stack(part)))
    differing = [result for result in results if result["StackResourceDriftStatus"] in DIFFERS]
    unknown = [result for result in results if result["StackResourceDriftStatus"] == UNKNOWN]
    for result in differing:
        named = f"{result['ResourceType']} {result['LogicalResourceId']} ({result['PhysicalResourceId']})"
        say(f"{RED}{result['StackResourceDriftStatus']:10}{PLAIN}{named}")
        for difference in result.get("PropertyDifferences", []):
            say(f"{'':10}{difference['DifferenceType']:10}{difference['PropertyPath']}")
    for result in unknown:
        reason = result.get("DriftStatusReason", "no reason was given")
        say(f"{RED}{UNKNOWN:10}{PLAIN}{result['LogicalResourceId']}: {reason}")
    if failure:
        say(f"{RED}!!{PLAIN} the detection failed: {failure}")
    in_sync = sum(result["StackResourceDriftStatus"] == "IN_SYNC" for result in results)
    say(f"{GREEN}ok{PLAIN} {in_sync} resource(s) are as the stack made them")
    return len(differing), len(unknown) + bool(failure)


def resource_drifts(aws, name):
    """The results of all resources that CloudFormation can check. The AWS command line does not page this one."""
    asked, token = ["--stack-name", name, "--max-results", "100"], []
    while True:
        answer = aws("cloudformation", "describe-stack-resource-drifts", *asked, *token)
        yield from answer["StackResourceDrifts"]
        if not answer.get("NextToken"):
            return
        token = ["--next-token", answer["NextToken"]]
