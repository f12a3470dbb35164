"""An account of AWS as far as `kschat-aws` asks for one: stacks with parameters, tags and resources, and answers that a
test gives. What a test leaves open is refused, as it is to somebody who lacks a permission."""

import json
from functools import cache
from pathlib import Path

from templates import ROOT, Resolved, source, wiring

wiring(ROOT / "infra/aws")

from deploy import cli

REFUSED = "An error occurred (AccessDenied)"


class Account(cli.Aws):
    """Takes the place of the AWS command line. `answers` maps a service and a command to what it answers: a value, an
    exception, or a function of the options."""

    def __init__(self, region="eu-west-1", **answers):
        super().__init__(region)
        self.stacks, self.calls, self.fails, self.objects = {}, [], {}, {}
        self.answers = {
            ("sts", "get-caller-identity"): {"Account": "111122223333"},
            ("s3api", "list-objects-v2"): lambda options: {
                "Contents": [{"Key": key} for key in self.objects if key.startswith(options["--prefix"])]
            },
            ("s3", "cp"): self._copy,
        }
        self.answers |= {tuple(name.split(".")): answer for name, answer in answers.items()}

    def __call__(self, *arguments, data=None, parse=True):
        service, command, *rest = arguments
        options = parsed(rest)
        self.calls.append((service, command, options))
        own = getattr(self, "_" + command.replace("-", "_"), None) if service == "cloudformation" else None
        answer = self.answers.get((service, command), own)
        if answer is None:
            raise cli.Failed(f"aws {service} {command}: {REFUSED}")
        answer = answer(options) if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    def find(self, *arguments):
        """Without waiting: what is refused here stays so."""
        try:
            return self(*arguments)
        except cli.Failed as failed:
            if any(said in str(failed) for said in cli.MISSING):
                return None
            raise

    def asked(self, service, command):
        return [options for given, name, options in self.calls if (given, name) == (service, command)]

    def has(self, name, parameters=None, tags=None, status="CREATE_COMPLETE", outputs=None, resources=()):
        """Puts a stack there. Resources are (type, id, status)."""
        self.stacks[name] = {
            "StackName": name,
            "StackStatus": status,
            "Parameters": parameters or {},
            "Tags": tags or {},
            "Outputs": outputs or {},
            "Resources": list(resources),
        }

    def parameters(self, name):
        return self.stacks[name]["Parameters"]

    def _copy(self, options):
        old, new = options[""][:2]
        if new.startswith("s3://"):
            self.objects[new.split("/", 3)[3]] = Path(old).read_text() if new.endswith(".json") else ""
        else:
            Path(new).write_text(self.objects[old.split("/", 3)[3]])
        return ""

    def _stack(self, options):
        name = options["--stack-name"]
        if name not in self.stacks:
            raise cli.Failed(f"An error occurred (ValidationError): Stack with id {name} does not exist")
        return self.stacks[name]

    def _describe_stacks(self, options):
        stack = self._stack(options)
        told = {
            "Parameters": [{"ParameterKey": k, "ParameterValue": v} for k, v in stack["Parameters"].items()],
            "Tags": [{"Key": k, "Value": v} for k, v in stack["Tags"].items()],
            "Outputs": [{"OutputKey": k, "OutputValue": v} for k, v in stack["Outputs"].items()],
        }
        return {"Stacks": [stack | told]}

    def _describe_stack_events(self, options):
        self._stack(options)
        return {"StackEvents": []}

    def _describe_stack_resources(self, options):
        rows = self._stack(options)["Resources"]
        return {
            "StackResources": [
                {"ResourceType": kind, "PhysicalResourceId": id, "ResourceStatus": status} for kind, id, status in rows
            ]
        }

    def _create_change_set(self, options):
        self.change_set = options
        return {"Id": "change-set"}

    def _describe_change_set(self, options):
        return {"ChangeSetId": "change-set", "Status": "CREATE_COMPLETE", "Changes": []}

    def _execute_change_set(self, options):
        name = options["--stack-name"]
        part = name.rsplit("-", 1)[1]
        kind = self.change_set["--change-set-type"]
        parameters = {p["ParameterKey"]: p["ParameterValue"] for p in json.loads(self.change_set["--parameters"])}
        tags = {tag["Key"]: tag["Value"] for tag in json.loads(self.change_set["--tags"])}
        resolved = Resolved(template(part), parameters)
        outputs = {output: f"{part}-{output}".lower() for output in resolved.outputs}
        status = self.fails.pop(part, f"{kind}_COMPLETE")
        self.has(name, parameters, tags, status, outputs)
        return {}

    def _delete_stack(self, options):
        del self.stacks[options["--stack-name"]]
        return {}

    def _update_termination_protection(self, options):
        self._stack(options)
        return {}


@cache
def template(part):
    """A template without its resources, which nobody asks for here."""
    return source(ROOT / "infra/aws", part) | {"Resources": {}}


def parsed(rest):
    """Options by name; what has none stands under the empty one."""
    options, name = {"": []}, None
    for one in rest:
        if one.startswith("--"):
            name = one
            options[name] = ""
        elif name is None:
            options[""].append(one)
        else:
            options[name] = f"{options[name]} {one}".strip()
    return options
