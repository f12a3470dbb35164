"""What a deployment was given before. Its stacks hold it, as parameters and tags, so nobody has to say it again."""

from deploy.cli import Failed
from deploy.parameters import STACKS
from deploy.stacks import NEVER_MADE

PROFILE_TAG = "kschat:profile"

# Parameters that are another stack's now: where a deployment from before has them, and where they are looked for today.
MOVED = {("observability", "AccountLogging"): ("app", "AccountLogging")}

# Parameters of a VPC of one's own, by the stack and the parameter that hold them.
VPC = {
    "VpcId": ("data", "VpcId"),
    "VpcCidr": ("data", "VpcCidr"),
    "PrivateSubnetIds": ("data", "SubnetIds"),
    "ConsumerSubnetIds": ("app", "ConsumerSubnetIds"),
    "ConsumerPublicIp": ("app", "ConsumerPublicIp"),
}


class Memory:
    """The stacks of a deployment as they are; none before its first deployment, and none that could not be made."""

    def __init__(self, stacks):
        described = {part: stacks.describe(part) for part in STACKS}
        self.stacks = {part: s for part, s in described.items() if s and s["StackStatus"] not in NEVER_MADE}

    @classmethod
    def none(cls):
        """That of a deployment which nobody could be asked about."""
        memory = cls.__new__(cls)
        memory.stacks = {}
        return memory

    def parameters(self, part):
        given = self.stacks.get(part, {}).get("Parameters", [])
        return {one["ParameterKey"]: one["ParameterValue"] for one in given}

    def outputs(self, part):
        outputs = self.stacks.get(part, {}).get("Outputs", [])
        return {one["OutputKey"]: one["OutputValue"] for one in outputs}

    def tags(self):
        """Those of all stacks, without AWS's own."""
        tags = (tag for stack in self.stacks.values() for tag in stack.get("Tags", []))
        return {tag["Key"]: tag["Value"] for tag in tags if not tag["Key"].startswith("aws:")}

    @property
    def profile(self):
        return self.tags().get(PROFILE_TAG)

    @property
    def architecture(self):
        return self.parameters("app").get("Architecture")

    def own_parameters(self, declared, supplied):
        """What a person or a profile gave to each stack: all that is declared today and that the program does not supply
        itself."""
        given = {}
        for part in STACKS:
            for name, value in self.parameters(part).items():
                part_now, name_now = MOVED.get((part, name), (part, name))
                if name_now in declared[part_now] and name_now not in supplied[part_now]:
                    given.setdefault(part_now, {})[name_now] = value
        return given

    def vpc(self):
        """The VPC that the deployment was given, if it has none of its own."""
        if "data" not in self.stacks or "network" in self.stacks:
            return None
        vpc = {name: self.parameters(part).get(parameter) for name, (part, parameter) in VPC.items()}
        return {name: value for name, value in vpc.items() if value is not None}


def chosen_profile(asked, memory, changes):
    """The profile of a command: the deployment's, unless another one is asked for and that this changes is said as well."""
    if not memory.stacks:
        return asked or "dev"
    had = memory.profile
    if had is None and asked is None:
        raise Failed(f"no stack of this deployment has the tag {PROFILE_TAG}: say --profile once")
    if asked and had and asked != had and "profile" not in changes:
        raise Failed(
            f"this deployment has the profile {had}, not {asked}. Leave --profile out to keep it; to change it with all its "
            "sizes, say --change profile"
        )
    return asked or had


def check_stage(stage, memory, changes):
    """A new stage is a new URL for all clients."""
    had = memory.parameters("app").get("Stage")
    if had and stage != had and "stage" not in changes:
        raise Failed(
            f"the stage of this deployment is {had}, not {stage}, and with it the URL of clients would change. If that is what "
            "you want, say --change stage"
        )
