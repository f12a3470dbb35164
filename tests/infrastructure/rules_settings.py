"""Settings, secrets and parameters: what is given, and what is read."""

import json
import re

from deployment import PROGRAMS, container, rule, texts

from templates import STACKS

# What the programs find in their environment although no template sets it.
SET_BY_PLATFORM = {"AWS_LAMBDA_INITIALIZATION_TYPE"}


# The modules that read settings. The first one has the table.
CONFIG_MODULES = ("mod", "limits", "telemetry")


# What a template sets although none of our programs reads it: the AWS SDK does.
READ_BY_SDK = {"consumer": {"AWS_REGION"}}


@rule
def every_reference_to_a_secret_finds_what_it_names(d):
    data = d.by_profile["prod"]["data"]
    keys = {}
    for name, secret in data.of_type("AWS::SecretsManager::Secret").items():
        generated = secret.get("GenerateSecretString", {})
        named = {*json.loads(generated.get("SecretStringTemplate", "{}")), generated.get("GenerateStringKey")} - {None}
        keys[f"<{name}>"] = named
    whole = {name for name, named in keys.items() if not named}
    # The app knows the secrets of data by its outputs; a key for tokens of one's own is a whole text, too.
    outputs = {
        f"<{parameter}>": data.outputs[output]
        for parameter, (stack, output) in d.wiring["app"].items()
        if stack == "data"
    }
    for stack in STACKS:
        for _, resolved in d.each(stack):
            for text in texts(resolved.resources):
                for reference in re.findall(r"\{\{resolve:[^}]*\}\}?", text):
                    match = re.fullmatch(
                        r"\{\{resolve:secretsmanager:(<[^>]+>):SecretString(?::([a-z]+))?\}\}", reference
                    )
                    if not match:
                        yield f"{stack}: {reference} is not understood"
                        continue
                    secret, key = match.groups()
                    secret = outputs.get(secret, secret)
                    if secret not in keys:
                        yield f"{stack}: {reference} names no secret of the data stack"
                    elif key is None and secret not in whole or key is not None and key not in keys[secret]:
                        yield f"{stack}: {reference} names no key of {sorted(keys[secret])}"


def settings_that_programs_read(d):
    """The settings by program, from the table and from the code of the module that reads them."""
    folder = "shared/adapters/src/config"
    text, *parts = (d.text(f"{folder}/{name}.rs").split("#[cfg(all(test")[0] for name in CONFIG_MODULES)
    lines = "\n".join([text, *parts]).splitlines()
    code = "\n".join(line for line in lines if not line.strip().startswith("//"))
    read = set(re.findall(r'"([A-Z][A-Z0-9_]{3,})"', code)) - SET_BY_PLATFORM
    by_program = {name: set() for name in (*PROGRAMS, "consumer")}
    problems, told = [], set()
    for row in re.findall(r"^//! \| (`.*) \|$", text, re.M):
        columns = [column.strip() for column in row.split(" | ")]
        names = re.findall(r"`([A-Z][A-Z0-9_]+)`", columns[0])
        told.update(names)
        readers = re.split(r"[,;:] ?", columns[1])
        words = {word for reader in readers for word in reader.split(" and ")}
        programs = {
            program
            for program in by_program
            if words & {"all", program, "functions" if program in PROGRAMS else program}
        }
        if not programs:
            problems.append(f"the table of settings does not say which program reads {', '.join(names)}: {columns[1]}")
        for program in programs:
            by_program[program].update(names)
    # What the text beside the table names is read by a library, which has its own idea of what is usual.
    beside = {
        name for line in re.findall(r"^//! [^|\n]*$", text, re.M) for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", line)
    }
    if told != read - (beside - told):
        problems.append(f"the table of settings and the code differ by {sorted(told ^ (read - (beside - told)))}")
    return by_program, problems


@rule
def the_environment_is_exactly_what_the_programs_read(d):
    by_program, problems = settings_that_programs_read(d)
    yield from problems
    kinds = [
        {"JwtKeyKind": kind, "JwtAlgorithm": "HS256" if kind == "secret" else "RS256"}
        for kind in ("secret", "pem", "jwks", "jwks-url")
    ]
    set_for = {name: set() for name in by_program}
    for given in kinds:
        app = d.app(**given)
        for name, function in app.of_type("AWS::Lambda::Function").items():
            variables = function["Environment"]["Variables"]
            set_for[name.removesuffix("Function").lower()].update(variables)
            keys = {"JWT_SECRET", "JWT_PUBLIC_KEY", "JWT_JWKS", "JWT_JWKS_URL"} & variables.keys()
            if len(keys) != (name in ("ConnectFunction", "SendFunction")):
                yield f"{name} has {sorted(keys)} with JwtKeyKind {given['JwtKeyKind']}"
        (task,) = app.of_type("AWS::ECS::TaskDefinition").values()
        (only,) = task["ContainerDefinitions"]
        set_for["consumer"].update(v["Name"] for v in only["Environment"] + only["Secrets"])
    for program, read in by_program.items():
        extra = set_for[program] - read - READ_BY_SDK.get(program, set())
        if extra:
            yield f"{program} is given {sorted(extra)}, and nothing reads it"
        if read - set_for[program]:
            yield f"{program} reads {sorted(read - set_for[program])}, and no template sets it"


SECRET = {"AMQP_URL", "REDIS_URL", "MESSAGE_ID_KEY", "JWT_SECRET", "JWT_PUBLIC_KEY", "JWT_JWKS"}


@rule
def no_secret_stands_in_a_template(d):
    for _, app in d.each("app"):
        for name, function in app.of_type("AWS::Lambda::Function").items():
            for variable, value in function["Environment"]["Variables"].items():
                if variable in SECRET and not str(value).startswith("{{resolve:secretsmanager:"):
                    yield f"{name} has {variable} in plain text"
    if SECRET & {v["Name"] for v in container(d)["Environment"]}:
        yield "the task has a secret among its plain settings"
    for stack in STACKS:
        for name, value in d.by_profile["prod"][stack].outputs.items():
            if "{{resolve" in str(value):
                yield f"{stack} tells a secret: {name}"


@rule
def nothing_is_reached_without_tls(d):
    for _, data in d.each("data"):
        (broker,) = data.of_type("AWS::AmazonMQ::Broker").values()
        (cache,) = data.of_type("AWS::ElastiCache::ReplicationGroup").values()
        secrets = data.of_type("AWS::SecretsManager::Secret")
        if broker["PubliclyAccessible"]:
            yield "the broker is public"
        if cache.get("TransitEncryptionMode") != "required" or not cache.get("AuthToken"):
            yield "the cache takes strangers, or plain text"
        if not secrets["AmqpUrlSecret"]["SecretString"].startswith("amqps://"):
            yield "the broker is called in plain text"
        if not secrets["RedisUrlSecret"]["SecretString"].startswith("rediss://"):
            yield "the cache is called in plain text"
        for name, secret in secrets.items():
            generated = secret.get("GenerateSecretString")
            if generated and (not generated.get("ExcludePunctuation") or int(generated["PasswordLength"]) < 32):
                yield f"{name} does not fit into a URL, or is short"
            if secret.get("KmsKeyId") != "<Key>":
                yield f"{name} is encrypted with another key"


@rule
def every_parameter_is_described_and_bounded(d):
    for stack, template in d.sources.items():
        grouped = {
            p
            for g in template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
            for p in g["Parameters"]
        }
        if grouped != template["Parameters"].keys():
            yield f"{stack}: groups and parameters differ by {sorted(grouped ^ template['Parameters'].keys())}"
        for name, spec in template["Parameters"].items():
            if len(spec.get("Description", "")) < 8:
                yield f"{stack}.{name} is not described"
            if spec["Type"] == "Number" and not ("AllowedValues" in spec or {"MinValue", "MaxValue"} <= spec.keys()):
                yield f"{stack}.{name} has no bounds"
            if spec["Type"] == "String" and not spec.keys() & {"AllowedValues", "AllowedPattern", "MaxLength"}:
                yield f"{stack}.{name} may be anything"
            if "AllowedPattern" in spec and "ConstraintDescription" not in spec:
                yield f"{stack}.{name} does not say what its pattern means"


@rule
def profiles_give_what_the_stacks_need_and_nothing_else(d):
    from deploy.check import wrong

    for profile_name, given in d.profiles.items():
        for stack, template in d.sources.items():
            parameters = template["Parameters"]
            for name, value in given.get(stack, {}).items():
                problem = wrong({k: v for k, v in parameters[name].items()} if name in parameters else None, str(value))
                if problem:
                    yield f"{profile_name}: {stack}.{name}: `{value}` {problem}"
            supplied = {"Name", *given.get(stack, {}), *d.wiring[stack]} | (set(d.release) if stack == "app" else set())
            missing = {name for name, spec in parameters.items() if "Default" not in spec} - supplied
            if missing:
                yield f"{profile_name}: nobody gives {stack} {sorted(missing)}"
            if not set(d.wiring[stack]) <= parameters.keys():
                yield f"{stack} has no {sorted(set(d.wiring[stack]) - parameters.keys())}"
    for stack, wired in d.wiring.items():
        for name, (other, output) in wired.items():
            if output not in d.sources[other]["Outputs"]:
                yield f"{stack}.{name} is to be {other}.{output}, which there is not"


# What is one's own, what the stack then makes no more, and what it tells instead.
EXISTING = (
    (
        {
            "ExistingBrokerName": "ours",
            "ExistingBrokerFunctionsUrlSecretArn": "url of functions",
            "ExistingBrokerConsumerUrlSecretArn": "url of the consumer",
        },
        ("AWS::AmazonMQ::Broker", "AWS::AmazonMQ::Configuration", "AWS::Lambda::Function", "AWS::IAM::Role"),
        {
            "BrokerName": "ours",
            "FunctionsAmqpUrlSecretArn": "url of functions",
            "AmqpUrlSecretArn": "url of the consumer",
        },
    ),
    (
        {"ExistingCacheId": "ours", "ExistingCacheUrlSecretArn": "url"},
        ("AWS::ElastiCache::ReplicationGroup", "AWS::ElastiCache::SubnetGroup", "AWS::ElastiCache::ParameterGroup"),
        {"CacheId": "ours", "RedisUrlSecretArn": "url"},
    ),
)


@rule
def an_existing_broker_or_cache_is_used_and_none_is_made(d):
    for given, kinds, told in EXISTING:
        for version in ("3.13", "4.2"):
            data = d.resolved("prod", "data", BrokerVersion=version, **given)
            made = [kind for kind in kinds if data.of_type(kind)]
            if made:
                yield f"with {sorted(given)} {made} are made"
            for output, wanted in told.items():
                if data.outputs.get(output) != wanted:
                    yield f"with {sorted(given)} {output} is {data.outputs.get(output)}"
            yield from dangling(data)
            for stack, wired in d.wiring.items():
                lost = {output for other, output in wired.values() if other == "data"} - data.outputs.keys()
                if lost:
                    yield f"with {sorted(given)} nobody tells {stack} {sorted(lost)}"
        (name, *secrets), asserted = given, list(texts(d.sources["data"]["Rules"]))
        for parameter in secrets:
            if parameter not in asserted:
                yield f"{name} can be given without {parameter}"


def dangling(stack):
    """What refers to a resource that is not made."""
    absent = stack.template["Resources"].keys() - stack.resources.keys()
    for text in texts([stack.resources, stack.outputs]):
        for name in re.findall(r"[<{:]([A-Za-z0-9]+)[.>:}]", text):
            if name in absent:
                yield f"`{text}` refers to {name}, which is not made"


@rule
def existing_brokers_are_counted_with_the_limits_that_they_surely_have(d):
    from deploy.limits import kind

    for version in ("3.13", "4.2"):
        for mode in ("SINGLE_INSTANCE", "CLUSTER_MULTI_AZ"):
            given = {"BrokerVersion": version, "BrokerDeployment": mode, "ExistingBrokerName": "ours"}
            wanted = "maximum" if version == "3.13" else "default"
            told = d.resolved("prod", "data", **given).outputs["BrokerLimits"]
            if (told, kind(given)) != (wanted, wanted):
                yield f"an existing broker {version}, {mode}: {told} in the template, {kind(given)} in kschat-aws"


@rule
def the_program_reads_parameters_as_yaml_does(d):
    from deploy.parameters import declared

    for stack, template in d.sources.items():

        def plain(value):
            return [str(one) for one in value] if isinstance(value, list) else str(value)

        # Where a text is folded does not matter.
        whole = {name: {k: plain(v) for k, v in spec.items()} for name, spec in template["Parameters"].items()}
        got = declared(d.folder / f"{stack}.yaml")
        if got.keys() != whole.keys():
            yield f"{stack}: {sorted(got.keys() ^ whole.keys())}"
        for name in got.keys() & whole.keys():
            if got[name] != whole[name]:
                yield f"{stack}.{name} is read as {got[name]}"
