"""Stacks: change sets that are reviewed, progress, and ends that say what happened."""

import json
import time
from pathlib import Path

from deploy import destroy
from deploy.cli import GREEN, PLAIN, RED, Failed, confirm, say, step

FOLDER = Path(__file__).resolve().parents[1]

# CloudFormation takes larger templates only from a bucket.
INLINE_LIMIT = 51_200

# How often progress is asked for, in seconds.
POLL = 3

# Of a stack that could not be made. Nothing in it was ever used: updates that fail end as UPDATE_ROLLBACK_….
# Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/view-stack-events.html
NEVER_MADE = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "REVIEW_IN_PROGRESS")

# A replacement of these loses what is in them.
STATEFUL = {
    "AWS::AmazonMQ::Broker",
    "AWS::ElastiCache::ReplicationGroup",
    "AWS::KMS::Key",
    "AWS::ECR::Repository",
    "AWS::S3::Bucket",
    "AWS::SecretsManager::Secret",
    "AWS::EC2::VPC",
    "AWS::EC2::Subnet",
}


class Stacks:
    """The stacks of one deployment."""

    def __init__(self, aws, name, tags, assume_yes, allow_replacement=False):
        self.aws, self.name, self.tags = aws, name, tags
        self.assume_yes, self.allow_replacement = assume_yes, allow_replacement
        self.templates = FOLDER

    def stack(self, part):
        return f"{self.name}-{part}"

    def describe(self, part):
        answer = self.aws.find("cloudformation", "describe-stacks", "--stack-name", self.stack(part))
        return answer["Stacks"][0] if answer else None

    def outputs(self, part):
        """What a stack tells; nothing if there is none."""
        stack = self.describe(part) or {}
        return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}

    def parameters(self, part):
        stack = self.describe(part) or {}
        return {given["ParameterKey"]: given["ParameterValue"] for given in stack.get("Parameters", [])}

    def deploy(self, part, parameters, template=None, bucket=None):
        """Brings a stack to where the template and the parameters say. Returns its outputs."""
        template = Path(template or self.templates / f"{part}.yaml")
        step(f"stack {self.stack(part)}")
        existing = self.describe(part)
        if existing and existing["StackStatus"] in NEVER_MADE:
            self._remove_failed_creation(part)
            existing = None
        if existing and existing["StackStatus"] == "DELETE_FAILED":
            raise Failed(f"{self.stack(part)} was being deleted: let `kschat-aws destroy` finish that first")
        if existing and existing["StackStatus"].endswith("_IN_PROGRESS"):
            raise Failed(f"{self.stack(part)} is {existing['StackStatus']}: wait until that has ended")
        change_set = self._change_set(part, template, parameters, "UPDATE" if existing else "CREATE", bucket)
        if change_set is None:
            say("nothing changes")
            return self.outputs(part)
        self._review(part, change_set)
        seen = self._seen(part)
        named = ["--stack-name", self.stack(part), "--change-set-name", change_set["ChangeSetId"]]
        self.aws("cloudformation", "execute-change-set", *named)
        self._wait(part, seen)
        return self.outputs(part)

    def _remove_failed_creation(self, part):
        """Deletes a stack that could not be made, with what its rollback has kept or could not delete."""
        say("removing what an earlier, failed creation has left")
        kept = destroy.kept_of(self) if part == "data" else []
        if kept:
            for kind, id in kept:
                say(f"{kind} {id}")
            if not confirm("   Delete these? They were made by that creation and never used.", self.assume_yes):
                raise Failed("nothing was changed")
            destroy.remove(self.aws, kept)
        self._delete(part)

    def _change_set(self, part, template, parameters, kind, bucket):
        """Makes one and waits for it; None if it would change nothing."""
        body = ["--template-body", f"file://{template}"]
        if template.stat().st_size > INLINE_LIMIT:
            if bucket is None:
                raise Failed(f"{template.name} is too large to be sent, and there is no bucket yet")
            key = f"templates/{template.stem}-{int(time.time())}.yaml"
            self.aws("s3", "cp", str(template), f"s3://{bucket}/{key}", "--only-show-errors", parse=False)
            body = ["--template-url", f"https://{bucket}.s3.{self.aws.region}.{self.aws.url_suffix}/{key}"]
        given = [{"ParameterKey": name, "ParameterValue": str(value)} for name, value in parameters.items()]
        tags = [{"Key": key, "Value": value} for key, value in self.tags.items()]
        name = f"kschat-{int(time.time())}"
        stack = ["--stack-name", self.stack(part), "--change-set-name", name]
        capabilities = ["--capabilities", "CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]
        values = ["--parameters", json.dumps(given), "--tags", json.dumps(tags)]
        made = self.aws(
            "cloudformation", "create-change-set", *stack, "--change-set-type", kind, *body, *values, *capabilities
        )
        while True:
            found = self.aws("cloudformation", "describe-change-set", "--change-set-name", made["Id"], *stack[:2])
            status, reason = found["Status"], found.get("StatusReason", "")
            if status == "CREATE_COMPLETE":
                return found
            if status == "FAILED":
                self.aws.try_("cloudformation", "delete-change-set", "--change-set-name", made["Id"], *stack[:2])
                if "didn't contain changes" in reason or "No updates" in reason:
                    return None
                raise Failed(f"{self.stack(part)} can't be changed so: {reason}")
            time.sleep(POLL)

    def _review(self, part, change_set):
        """Shows what would change, and asks."""
        lost = []
        for change in change_set.get("Changes", []):
            change = change["ResourceChange"]
            replaced = change.get("Replacement") in ("True", "Conditional") or change["Action"] == "Remove"
            mark = RED if replaced else ""
            note = (
                f" (replacement: {change['Replacement']})"
                if change.get("Replacement") in ("True", "Conditional")
                else ""
            )
            line = f"{change['Action']:8}{change['ResourceType']:44}{change['LogicalResourceId']}{note}"
            say(f"{mark}{line}{PLAIN if mark else ''}")
            if replaced and change["ResourceType"] in STATEFUL:
                lost.append(change["LogicalResourceId"])
        if lost and not self.allow_replacement:
            raise Failed(
                f"{', '.join(lost)} would be replaced, and what is in there left behind. If that is what you want, "
                "say --allow-replacement."
            )
        if not confirm(f"   Carry this out on {self.stack(part)}?", self.assume_yes):
            raise Failed("nothing was changed")

    def _seen(self, part):
        return {event["EventId"] for event in self._events(part)}

    def _events(self, part):
        found = self.aws.try_("cloudformation", "describe-stack-events", "--stack-name", self.stack(part))
        return list(reversed((found or {}).get("StackEvents", [])))

    def _wait(self, part, seen):
        """Tells what happens until it has ended; raises with the reasons if it ended badly."""
        reasons = []
        while True:
            for event in self._events(part):
                if event["EventId"] in seen:
                    continue
                seen.add(event["EventId"])
                status, why = event["ResourceStatus"], event.get("ResourceStatusReason", "")
                if status.endswith("_FAILED"):
                    say(f"{RED}{status:24}{event['LogicalResourceId']}: {why}{PLAIN}")
                    reasons.append(f"{event['LogicalResourceId']}: {why}")
                elif status.endswith("_COMPLETE"):
                    say(f"{status:24}{event['LogicalResourceId']}")
            stack = self.describe(part)
            if stack is None:
                return
            status = stack["StackStatus"]
            if not status.endswith("_IN_PROGRESS"):
                break
            time.sleep(POLL)
        if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            first = reasons[0] if reasons else stack.get("StackStatusReason", "no reason was given")
            raise Failed(f"{self.stack(part)} ended as {status}. The first reason: {first}")
        say(f"{GREEN}{status}{PLAIN}")

    def _delete(self, part):
        self.aws("cloudformation", "delete-stack", "--stack-name", self.stack(part))
        while (stack := self.describe(part)) is not None:
            if stack["StackStatus"] == "DELETE_FAILED":
                raise Failed(f"{self.stack(part)} can't be deleted: {stack.get('StackStatusReason', 'see its events')}")
            if stack["StackStatus"] == "DELETE_COMPLETE":
                return
            time.sleep(POLL)

    def protect(self, part, is_on):
        flag = "--enable-termination-protection" if is_on else "--no-enable-termination-protection"
        self.aws("cloudformation", "update-termination-protection", flag, "--stack-name", self.stack(part))

    def delete(self, part):
        """Deletes a stack if there is one."""
        step(f"deleting stack {self.stack(part)}")
        if self.describe(part) is None:
            say("there is none")
            return
        self._delete(part)
        say("done")

    def resources(self, part, kind):
        """The physical ids of what there is of a kind."""
        found = self.aws.find("cloudformation", "describe-stack-resources", "--stack-name", self.stack(part)) or {}
        return [
            resource["PhysicalResourceId"]
            for resource in found.get("StackResources", [])
            if resource["ResourceType"] == kind
            and resource.get("PhysicalResourceId")
            and resource["ResourceStatus"] != "DELETE_COMPLETE"
        ]
