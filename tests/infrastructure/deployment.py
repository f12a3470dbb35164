"""Everything that the rules look at, read once, and how a rule is told."""

import itertools
from pathlib import Path

from templates import ROOT, STACKS, Resolved, profile, source, translate, wiring

PROFILES = ("dev", "prod")


PROGRAMS = ("connect", "disconnect", "send")


RULES = []


def rule(function):
    RULES.append(function)
    return function


class Deployment:
    """Everything that the rules look at, read once."""

    def __init__(self, folder, root=ROOT):
        self.folder, self.root = Path(folder), Path(root)
        self.sources = {stack: source(folder, stack) for stack in STACKS}
        self.translated = {stack: translate(template) for stack, template in self.sources.items()}
        self.profiles = {name: profile(folder, name) for name in PROFILES}
        self.wiring, self.release = wiring(folder)
        self.by_profile = {name: {stack: self.resolved(name, stack) for stack in STACKS} for name in PROFILES}

    def resolved(self, profile_name, stack, pseudo=None, **parameters):
        """A stack of a profile, with some parameters changed, perhaps in another part of AWS."""
        given = self.profiles[profile_name]
        common = {"Name": f"kschat-{profile_name}", "BrokerSize": given["data"]["BrokerInstanceType"]}
        return Resolved(self.translated[stack], common | given.get(stack, {}) | parameters, pseudo)

    def text(self, path):
        return (self.root / path).read_text()

    def each(self, stack):
        """The stack as each profile makes it."""
        return ((name, stacks[stack]) for name, stacks in self.by_profile.items())

    def only(self, stack, kind, profile="prod"):
        ((_, properties),) = self.by_profile[profile][stack].of_type(kind).items()
        return properties

    def app(self, **parameters):
        """The app of the dev profile with some parameters changed."""
        return self.resolved("dev", "app", **parameters)


def statements(role):
    for policy in role.get("Policies", []):
        yield from policy["PolicyDocument"]["Statement"]


def as_list(value):
    return value if isinstance(value, list) else [value]


def texts(node):
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        yield from itertools.chain.from_iterable(map(texts, node.values()))
    elif isinstance(node, list):
        yield from itertools.chain.from_iterable(map(texts, node))


def container(d, profile="prod"):
    (only,) = d.only("app", "AWS::ECS::TaskDefinition", profile)["ContainerDefinitions"]
    return only
