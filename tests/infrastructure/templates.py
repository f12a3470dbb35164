"""Reads the stacks of infra/aws, translates what is SAM, and works out what a set of parameters makes of them."""

import copy
import json
import os
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STACKS = ("network", "data", "app", "observability")
PSEUDO = {
    "AWS::Region": "us-east-1",
    "AWS::AccountId": "111122223333",
    "AWS::Partition": "aws",
    "AWS::URLSuffix": "amazonaws.com",
    "AWS::StackName": "stack",
    "AWS::StackId": "arn:aws:cloudformation:us-east-1:111122223333:stack/stack/1",
}
NO_VALUE = object()


def source(folder, stack):
    """A template as it is written, with the long forms of CloudFormation's functions."""
    from samtranslator.yaml_helper import yaml_parse

    return yaml_parse((Path(folder) / f"{stack}.yaml").read_text())


def translate(template, parameters=None):
    """What the SAM transform makes of a template; one without a transform stays as it is."""
    if "Transform" not in template:
        return template
    os.environ.setdefault("AWS_DEFAULT_REGION", PSEUDO["AWS::Region"])
    translator, parser = _translator()
    # SAM itself wants to know this one.
    given = {"Revision": "0" * 64} | dict(parameters or {})
    return translator.translate(copy.deepcopy(template), given)


@cache
def _translator():
    import logging

    import boto3
    from samtranslator.parser.parser import Parser
    from samtranslator.translator.translator import Translator

    logging.getLogger("samtranslator").setLevel(logging.ERROR)
    logging.getLogger("samtranslator.feature_toggle.feature_toggle").setLevel(logging.CRITICAL)
    session = boto3.Session(region_name=PSEUDO["AWS::Region"])
    return Translator({}, Parser(), boto_session=session), Parser()


def profile(folder, name):
    """The parameters of a profile, by stack."""
    return json.loads((Path(folder) / "profiles" / f"{name}.json").read_text())


class Resolved:
    """A translated template under given parameters: conditions decided, mappings looked up, texts put together.

    What only AWS can know stays as `<LogicalId>` or `<LogicalId.Attribute>`.
    """

    def __init__(self, template, parameters, pseudo=None):
        self.template = template
        declared = template.get("Parameters", {})
        self.values = {name: spec["Default"] for name, spec in declared.items() if "Default" in spec}
        self.values |= {name: value for name, value in parameters.items() if name in declared}
        self.values |= PSEUDO | (pseudo or {})
        for name, spec in declared.items():
            value = self.values.get(name, f"<{name}>")
            is_list = spec["Type"].startswith("List<") or spec["Type"] == "CommaDelimitedList"
            self.values[name] = value.split(",") if is_list and isinstance(value, str) else value
        self.resources = {
            name: self.resolve(resource)
            for name, resource in template["Resources"].items()
            if "Condition" not in resource or self.condition(resource["Condition"])
        }
        self.outputs = {
            name: self.resolve(output["Value"])
            for name, output in template.get("Outputs", {}).items()
            if "Condition" not in output or self.condition(output["Condition"])
        }

    def of_type(self, kind):
        """The properties of all resources of a type, by logical id."""
        return {name: r.get("Properties", {}) for name, r in self.resources.items() if r["Type"] == kind}

    def condition(self, name):
        return self._decide(self.template["Conditions"][name])

    def _decide(self, node):
        ((function, argument),) = node.items()
        if function == "Condition":
            return self.condition(argument)
        if function == "Fn::Equals":
            left, right = (str(self.resolve(side)) for side in argument)
            return left == right
        if function == "Fn::Not":
            return not self._decide(argument[0])
        if function == "Fn::And":
            return all(self._decide(part) for part in argument)
        if function == "Fn::Or":
            return any(self._decide(part) for part in argument)
        raise ValueError(f"unknown condition {function}")

    def resolve(self, node):
        if isinstance(node, list):
            return [item for item in map(self.resolve, node) if item is not NO_VALUE]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            ((function, argument),) = node.items()
            if function == "Ref" or function.startswith("Fn::"):
                return self._call(function, argument)
        resolved = {key: self.resolve(value) for key, value in node.items()}
        return {key: value for key, value in resolved.items() if value is not NO_VALUE}

    def _call(self, function, argument):
        if function == "Ref":
            if argument == "AWS::NoValue":
                return NO_VALUE
            return self.values.get(argument, f"<{argument}>")
        if function == "Fn::GetAtt":
            return f"<{argument if isinstance(argument, str) else '.'.join(argument)}>"
        if function == "Fn::If":
            name, yes, no = argument
            return self.resolve(yes if self.condition(name) else no)
        if function == "Fn::Sub":
            return self._sub(argument)
        if function == "Fn::Join":
            separator, items = argument
            return separator.join(str(item) for item in self.resolve(items))
        if function == "Fn::FindInMap":
            top, first, second = self.resolve(argument)
            return self.template["Mappings"][top][first][second]
        if function == "Fn::Select":
            index, items = self.resolve(argument)
            return items[int(index)] if isinstance(items, list) else f"{items}[{index}]"
        if function == "Fn::Split":
            separator, text = self.resolve(argument)
            return text.split(separator) if separator in str(text) else f"<split {text}>"
        if function == "Fn::Base64":
            # Whoever reads it here wants the text.
            return self.resolve(argument)
        if function in ("Fn::GetAZs", "Fn::Cidr"):
            return [f"<{function}-{index}>" for index in range(8)]
        raise ValueError(f"unknown function {function}")

    def _sub(self, argument):
        text, given = (argument, {}) if isinstance(argument, str) else argument
        given = {name: self.resolve(value) for name, value in given.items()}

        def value(match):
            name = match.group(1)
            return str(given[name] if name in given else self.values.get(name, f"<{name}>"))

        return re.sub(r"\$\{([^!}][^}]*)\}", value, text)


def program(folder):
    """The program that deploys, as a module."""
    import importlib.machinery
    import importlib.util

    loader = importlib.machinery.SourceFileLoader("kschat_aws", str(Path(folder) / "kschat-aws"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("kschat_aws", loader))
    loader.exec_module(module)
    return module


def wiring(folder):
    """What that program takes from one stack's outputs for another one's parameters, and what it gives itself."""
    module = program(folder)
    return module.WIRING, module.RELEASE
