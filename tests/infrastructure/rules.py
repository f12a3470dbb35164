"""What must be true of the deployment and no linter knows. Each rule is a function that yields what is wrong."""

import itertools
import json
import re
import sys
from pathlib import Path

sys.dont_write_bytecode = True

from templates import ROOT, STACKS, Resolved, profile, source, translate, wiring

PROFILES = ("dev", "prod")
ROUTES = {
    "$connect": "ConnectFunction",
    "$disconnect": "DisconnectFunction",
    "$default": "SendFunction",
    "send": "SendFunction",
    "ack": "SendFunction",
}
ANSWERED = ("$default", "send", "ack", "ping")
PROGRAMS = ("connect", "disconnect", "send")

# What the programs find in their environment although no template sets it.
SET_BY_PLATFORM = {"AWS_LAMBDA_INITIALIZATION_TYPE"}

# What a template sets although none of our programs reads it: the AWS SDK does.
READ_BY_SDK = {"consumer": {"AWS_REGION"}}


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

    def resolved(self, profile_name, stack, **parameters):
        """A stack of a profile, with some parameters changed."""
        given = self.profiles[profile_name]
        common = {"Name": f"kschat-{profile_name}", "BrokerSize": given["data"]["BrokerInstanceType"]}
        return Resolved(self.translated[stack], common | given.get(stack, {}) | parameters)

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


@rule
def only_the_connections_of_this_stage_can_be_pushed_to(d):
    prefix = "arn:aws:execute-api:us-east-1:111122223333:<Api>/dev/"
    calls = {
        "post_to_connection": "POST",
        "delete_connection": "DELETE",
        "get_connection": "GET",
    }
    adapter = d.text("shared/adapters/src/api_gateway.rs").split("#[cfg(test)]")[0]
    wanted = {f"{prefix}{verb}/@connections/*" for call, verb in calls.items() if f".{call}()" in adapter}
    role = d.app().of_type("AWS::IAM::Role")["ConsumerRole"]
    found = [s for s in statements(role)]
    if [as_list(s["Action"]) for s in found] != [["execute-api:ManageConnections"]]:
        yield f"the consumer's role holds {found}"
    got = set(itertools.chain.from_iterable(as_list(s["Resource"]) for s in found))
    if got != wanted:
        yield f"the consumer may reach {sorted(got)}, and its code needs {sorted(wanted)}"


@rule
def a_single_broker_has_one_subnet_and_a_cluster_all(d):
    for mode, count in (("SINGLE_INSTANCE", 1), ("CLUSTER_MULTI_AZ", 3)):
        given = {"Name": "kschat-x", "SubnetIds": "subnet-a,subnet-b,subnet-c", "BrokerDeployment": mode}
        (broker,) = Resolved(d.translated["data"], given).of_type("AWS::AmazonMQ::Broker").values()
        if len(broker["SubnetIds"]) != count:
            yield f"{mode} gets {broker['SubnetIds']}"


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
    outputs = {f"<{parameter}>": data.outputs[output] for parameter, (stack, output) in d.wiring["app"].items() if stack == "data"}
    for stack in STACKS:
        for profile_name, resolved in d.each(stack):
            for text in texts(resolved.resources):
                for reference in re.findall(r"\{\{resolve:[^}]*\}\}?", text):
                    match = re.fullmatch(r"\{\{resolve:secretsmanager:(<[^>]+>):SecretString(?::([a-z]+))?\}\}", reference)
                    if not match:
                        yield f"{stack}: {reference} is not understood"
                        continue
                    secret, key = match.groups()
                    secret = outputs.get(secret, secret)
                    if secret not in keys:
                        yield f"{stack}: {reference} names no secret of the data stack"
                    elif key is None and secret not in whole or key is not None and key not in keys[secret]:
                        yield f"{stack}: {reference} names no key of {sorted(keys[secret])}"


def texts(node):
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        yield from itertools.chain.from_iterable(map(texts, node.values()))
    elif isinstance(node, list):
        yield from itertools.chain.from_iterable(map(texts, node))


@rule
def security_groups_open_the_ports_that_are_used_and_no_other(d):
    data = d.by_profile["prod"]["data"]
    groups = data.of_type("AWS::EC2::SecurityGroup")
    (cache,) = data.of_type("AWS::ElastiCache::ReplicationGroup").values()
    # Source: Amazon MQ, listener ports of RabbitMQ: AMQP over TLS only.
    ports = {"BrokerGroup": 5671, "CacheGroup": cache["Port"]}
    for group, port in ports.items():
        got = {(r["FromPort"], r["ToPort"], r.get("SourceSecurityGroupId")) for r in groups[group].get("SecurityGroupIngress", [])}
        wanted = {(port, port, "<FunctionsGroup>"), (port, port, "<ConsumerGroup>")}
        if got != wanted:
            yield f"{group} lets in {sorted(map(str, got))}"
        if any(rule["CidrIp"] != "127.0.0.1/32" for rule in groups[group]["SecurityGroupEgress"]):
            yield f"{group} lets out"
    inside = {(port, port, "<VpcCidr>") for port in ports.values()}
    for group, wanted in (("FunctionsGroup", inside), ("ConsumerGroup", inside | {(443, 443, "0.0.0.0/0")})):
        got = {(r["FromPort"], r["ToPort"], r["CidrIp"]) for r in groups[group]["SecurityGroupEgress"]}
        if got != wanted:
            yield f"{group} lets out {sorted(got)}, and not {sorted(wanted)}"
        if groups[group].get("SecurityGroupIngress"):
            yield f"{group} lets somebody in"
    broker = d.only("data", "AWS::AmazonMQ::Broker")
    if broker["SecurityGroups"] != ["<BrokerGroup>"] or cache["SecurityGroupIds"] != ["<CacheGroup>"]:
        yield "the broker or the cache is in another group"
    for _, app in d.each("app"):
        for name, function in app.of_type("AWS::Lambda::Function").items():
            if function["VpcConfig"]["SecurityGroupIds"] != ["<FunctionsGroupId>"]:
                yield f"{name} is in another group"
        (service,) = app.of_type("AWS::ECS::Service").values()
        if service["NetworkConfiguration"]["AwsvpcConfiguration"]["SecurityGroups"] != ["<ConsumerGroupId>"]:
            yield "the consumer is in another group"


@rule
def a_task_is_given_the_time_that_the_consumer_takes_to_stop(d):
    code = d.text("consumer/src/lib.rs")
    drain = int(re.search(r"const DRAIN: Duration = Duration::from_secs\((\d+)\);", code).group(1))
    stop = container(d)["StopTimeout"]
    # Source: ECS task definition parameters, StopTimeout: at most 120 seconds on Fargate.
    if not drain + 10 <= stop <= 120:
        yield f"StopTimeout is {stop}: posts may take {drain} s, handing over some more, and Fargate knows at most 120"


def container(d, profile="prod"):
    (only,) = d.only("app", "AWS::ECS::TaskDefinition", profile)["ContainerDefinitions"]
    return only


@rule
def secrets_can_be_read_by_whoever_starts_the_task(d):
    roles = d.by_profile["prod"]["app"].of_type("AWS::IAM::Role")
    allowed = {
        action: set(as_list(s["Resource"]))
        for s in statements(roles["ConsumerStartRole"])
        for action in as_list(s["Action"])
    }
    wanted = {secret["ValueFrom"] for secret in container(d)["Secrets"]}
    if allowed.get("secretsmanager:GetSecretValue") != wanted:
        yield f"the task needs {sorted(wanted)} and may read {allowed.get('secretsmanager:GetSecretValue')}"
    if allowed.get("kms:Decrypt") != {"<KeyArn>"}:
        yield "the secrets can't be decrypted"
    if d.only("app", "AWS::ECS::TaskDefinition")["ExecutionRoleArn"] != "<ConsumerStartRole.Arn>":
        yield "the task is started by another role"


# Each role with all that it may do, and why. Whatever the code calls is read from the code.
ROLES = {
    # The Lambda service writes the log.
    **{
        f"{name.capitalize()}Role": {("logs:CreateLogStream", f"<{name.capitalize()}Logs.Arn>"), ("logs:PutLogEvents", f"<{name.capitalize()}Logs.Arn>")}
        for name in PROGRAMS
    },
    # CodeDeploy moves aliases and looks at alarms.
    "ShiftRole": {
        *((a, "arn:aws:lambda:us-east-1:111122223333:function:kschat-prod-*") for a in ("lambda:GetAlias", "lambda:UpdateAlias", "lambda:GetProvisionedConcurrencyConfig")),
        ("cloudwatch:DescribeAlarms", "*"),
    },
    # ECS pulls the image, reads the secrets and writes the log.
    "ConsumerStartRole": {
        ("ecr:GetAuthorizationToken", "*"),
        *((a, "<RepositoryArn>") for a in ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")),
        ("secretsmanager:GetSecretValue", "<AmqpUrlSecretArn>"),
        ("secretsmanager:GetSecretValue", "<RedisUrlSecretArn>"),
        ("kms:Decrypt", "<KeyArn>"),
        ("logs:CreateLogStream", "<ConsumerLogs.Arn>"),
        ("logs:PutLogEvents", "<ConsumerLogs.Arn>"),
    },
    "ConsumerRole": {("execute-api:ManageConnections", "arn:aws:execute-api:us-east-1:111122223333:<Api>/prod/POST/@connections/*")},
}

# The Lambda service puts a function into a VPC, and decrypts its settings.
# Source: AWS Lambda, "Execution role permissions" of functions in a VPC.
PLATFORM = {
    *((a, "*") for a in (
        "ec2:CreateNetworkInterface", "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets",
        "ec2:DeleteNetworkInterface", "ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses",
    )),
    ("kms:Decrypt", "<KeyArn>"),
}


def granted(found):
    return {
        (action, resource)
        for s in found
        if s["Effect"] == "Allow"
        for action in as_list(s["Action"])
        for resource in as_list(s["Resource"])
    }


@rule
def each_role_holds_exactly_what_its_program_calls(d):
    app = d.by_profile["prod"]["app"]
    roles = app.of_type("AWS::IAM::Role")
    if roles.keys() != ROLES.keys():
        yield f"roles are {sorted(roles)}"
    for name, wanted in ROLES.items():
        got = granted(statements(roles.get(name, {})))
        if got != wanted:
            yield f"{name} differs by {sorted(got ^ wanted)}"
        managed = roles.get(name, {}).get("ManagedPolicyArns", [])
        is_function = name.removesuffix("Role").lower() in PROGRAMS
        if managed != (["<FunctionPlatform>"] if is_function else []):
            yield f"{name} has {managed}"
    (policy,) = app.of_type("AWS::IAM::ManagedPolicy").values()
    found = policy["PolicyDocument"]["Statement"]
    if granted(found) != PLATFORM:
        yield f"FunctionPlatform differs by {sorted(granted(found) ^ PLATFORM)}"
    denied = [s for s in found if s["Effect"] == "Deny"]
    own = "arn:aws:lambda:us-east-1:111122223333:function:kschat-prod-*"
    if [(s["Action"], s["Condition"]) for s in denied] != [("ec2:*", {"ArnLike": {"lambda:SourceFunctionArn": own}})]:
        yield "the functions themselves are not denied the platform's calls"


@rule
def no_program_calls_an_aws_api_that_its_role_lacks(d):
    manifests = {name: d.text(f"{name}/Cargo.toml") for name in ("functions", "consumer", "shared/adapters")}
    sdks = {crate for text in manifests.values() for crate in re.findall(r"^(aws-sdk-[a-z0-9-]+)", text, re.M)}
    if sdks != {"aws-sdk-apigatewaymanagement"}:
        yield f"the programs are built with {sorted(sdks)}: give their roles what that calls, and this rule its name"
    feature = re.search(r'kschat-adapters = \{[^}]*features = \[([^\]]*)\]', manifests["consumer"])
    if not feature or '"api-gateway"' not in feature.group(1):
        yield "the consumer is built without the connections API, and has a permission for it"
    if re.search(r'kschat-adapters = \{[^}]*"api-gateway"', manifests["functions"]):
        yield "the functions are built with the connections API, and have no permission for it"


@rule
def every_route_has_its_function_its_permission_and_its_answer(d):
    app = d.by_profile["dev"]["app"]
    routes = {r["RouteKey"]: (name, r) for name, r in app.of_type("AWS::ApiGatewayV2::Route").items()}
    if routes.keys() != {*ROUTES, "ping"}:
        yield f"routes are {sorted(routes)}"
    integrations = app.of_type("AWS::ApiGatewayV2::Integration")
    permissions = [(p["FunctionName"], p["SourceArn"]) for p in app.of_type("AWS::Lambda::Permission").values()]
    for key, function in ROUTES.items():
        if key not in routes:
            continue
        integration = integrations[routes[key][1]["Target"].removeprefix("integrations/").strip("<>")]
        alias = f"<{function}Aliaslive>"
        if f"functions/{alias}/invocations" not in integration["IntegrationUri"]:
            yield f"{key} calls {integration['IntegrationUri']}, not the alias of {function}"
        source_arn = f"arn:aws:execute-api:us-east-1:111122223333:<Api.ApiId>/dev/{key}"
        if (alias, source_arn) not in permissions:
            yield f"the edge may not call {function} for {key}"
    responses = {r["RouteId"] for r in app.of_type("AWS::ApiGatewayV2::RouteResponse").values() if r["RouteResponseKey"] == "$default"}
    for key, (name, route) in routes.items():
        selects, responds = bool(route.get("RouteResponseSelectionExpression")), f"<{name}>" in responses
        if (selects, responds) != (key in ANSWERED,) * 2:
            yield f"{key}: selects a response: {selects}, has one: {responds}"
    (api,) = app.of_type("AWS::ApiGatewayV2::Api").values()
    if api["RouteSelectionExpression"] != "$request.body.action":
        yield "frames name their route elsewhere"
    for name, properties in app.of_type("AWS::Lambda::Alias").items():
        if properties["Name"] != "live":
            yield f"{name} is called {properties['Name']}"


@rule
def the_edge_answers_a_ping_as_the_protocol_says(d):
    pong = re.search(r'pub const PONG: &str = r#"(.*)"#;', d.text("shared/protocol/src/server.rs")).group(1)
    app = d.by_profile["dev"]["app"]
    responses = app.of_type("AWS::ApiGatewayV2::IntegrationResponse").values()
    if [r["ResponseTemplates"] for r in responses] != [{"$default": pong}]:
        yield f"the templates are {[r['ResponseTemplates'] for r in responses]}"
    mocks = [i for i in app.of_type("AWS::ApiGatewayV2::Integration").values() if i["IntegrationType"] == "MOCK"]
    if [json.loads(m["RequestTemplates"]["$default"]) for m in mocks] != [{"statusCode": 200}]:
        yield "a mock needs a status"


def settings_that_programs_read(d):
    """The settings by program, from the table and from the code of the module that reads them."""
    text = d.text("shared/adapters/src/config.rs")
    code = "\n".join(line for line in text.split("#[cfg(all(test")[0].splitlines() if not line.strip().startswith("//"))
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
    if told != read:
        problems.append(f"the table of settings and the code differ by {sorted(told ^ read)}")
    return by_program, problems


@rule
def the_environment_is_exactly_what_the_programs_read(d):
    by_program, problems = settings_that_programs_read(d)
    yield from problems
    kinds = [{"JwtKeyKind": kind, "JwtAlgorithm": "HS256" if kind == "secret" else "RS256"} for kind in ("secret", "pem", "jwks")]
    set_for = {name: set() for name in by_program}
    for given in kinds:
        app = d.app(**given)
        for name, function in app.of_type("AWS::Lambda::Function").items():
            variables = function["Environment"]["Variables"]
            set_for[name.removesuffix("Function").lower()].update(variables)
            keys = {"JWT_SECRET", "JWT_PUBLIC_KEY", "JWT_JWKS"} & variables.keys()
            if len(keys) != (name == "ConnectFunction"):
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


SECRET = {"AMQP_URL", "REDIS_URL", "JWT_SECRET", "JWT_PUBLIC_KEY", "JWT_JWKS"}


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


# Source: Amazon MQ for RabbitMQ, quotas by instance type.
LIMITS = {
    "mq.m7g.medium": (300, 2_500),
    "mq.m7g.large": (5_000, 20_000),
    "mq.m7g.xlarge": (10_000, 30_000),
    "mq.m7g.4xlarge": (40_000, 60_000),
    "mq.m7g.8xlarge": (80_000, 80_000),
}
OPERATORS = 10
# An account has 1,000 concurrent executions and must leave 100 of them unreserved. Source: AWS Lambda quotas.
RESERVABLE = 900


@rule
def functions_and_tasks_together_stay_below_the_brokers_connections(d):
    sizes = d.sources["app"]["Mappings"]["Broker"]
    tasks = int(d.sources["app"]["Parameters"]["ConsumerMaxTasks"]["MaxValue"])
    if sizes.keys() != LIMITS.keys():
        yield f"the sizes are {sorted(sizes)}"
    for size, row in sizes.items():
        if (row["Connections"], row["Queues"]) != LIMITS.get(size):
            yield f"{size}: limits are {row}"
        functions = row["Connect"] + row["Disconnect"] + row["Send"]
        if 2 * functions + 2 * tasks + OPERATORS > row["Connections"]:
            yield f"{size}: 2 × {functions} functions, 2 × {tasks} tasks and {OPERATORS} people exceed {row['Connections']}"
        if functions > RESERVABLE:
            yield f"{size}: {functions} can't be reserved in an account that has 1,000"
        for name in PROGRAMS:
            app = d.app(BrokerSize=size)
            reserved = app.of_type("AWS::Lambda::Function")[f"{name.capitalize()}Function"].get("ReservedConcurrentExecutions")
            if reserved != row[name.capitalize()]:
                yield f"{size}: {name} reserves {reserved}"
        watched = d.sources["observability"]["Mappings"]["Broker"].get(size, {})
        if watched != {"Connections": row["Connections"] * 4 // 5, "Queues": row["Queues"] * 4 // 5}:
            yield f"{size}: alarms are at {watched}, which is not four fifths"
    checked = re.search(r"^RESERVED = (\{.*\})$", (d.folder / "deploy/check.py").read_text(), re.M).group(1)
    if json.loads(checked) != {size: row["Connect"] + row["Disconnect"] + row["Send"] for size, row in sizes.items()}:
        yield "deploy/check.py asks for another concurrency than the templates reserve"


STATEFUL = {
    "AWS::AmazonMQ::Broker", "AWS::ElastiCache::ReplicationGroup", "AWS::SecretsManager::Secret", "AWS::KMS::Key",
    "AWS::ECR::Repository", "AWS::S3::Bucket",
}


@rule
def data_outlives_its_stack(d):
    for stack, template in d.sources.items():
        for name, resource in template["Resources"].items():
            if resource["Type"] not in STATEFUL:
                continue
            if stack != "data":
                yield f"{name} holds data and belongs to the stack {stack}"
            if (resource.get("DeletionPolicy"), resource.get("UpdateReplacePolicy")) != ("Retain", "Retain"):
                yield f"{name} would go with its stack"


@rule
def every_parameter_is_described_and_bounded(d):
    for stack, template in d.sources.items():
        grouped = {p for g in template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"] for p in g["Parameters"]}
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


# Source: Fargate, task size: memory in MB by CPU units.
TASK_SIZES = {256: (512, 2048), 512: (1024, 4096), 1024: (2048, 8192), 2048: (4096, 16384), 4096: (8192, 30720)}


@rule
def the_profiles_are_what_they_claim_to_be(d):
    for name, app in d.each("app"):
        (task,) = app.of_type("AWS::ECS::TaskDefinition").values()
        low, high = TASK_SIZES[int(task["Cpu"])]
        if not low <= int(task["Memory"]) <= high:
            yield f"{name}: Fargate has no task of {task['Cpu']} units with {task['Memory']} MB"
    stacks = d.by_profile["prod"]
    broker = d.only("data", "AWS::AmazonMQ::Broker")
    cache = d.only("data", "AWS::ElastiCache::ReplicationGroup")
    target = d.only("app", "AWS::ApplicationAutoScaling::ScalableTarget")
    for is_so, text in (
        (broker["DeploymentMode"] == "CLUSTER_MULTI_AZ", "the broker is a cluster"),
        (cache["AutomaticFailoverEnabled"] and cache["MultiAZEnabled"], "the cache fails over"),
        (int(cache["ReplicasPerNodeGroup"]) >= 1, "the cache has a replica"),
        (int(target["MinCapacity"]) >= 2, "two tasks run always"),
        (int(target["MaxCapacity"]) > int(target["MinCapacity"]), "more can be started"),
        (len(stacks["network"].of_type("AWS::EC2::NatGateway")) == 3, "each zone has its own way out"),
        (stacks["app"].values["Shift"] != "AllAtOnce", "new functions take over step by step"),
        (stacks["app"].values["ReserveConcurrency"] == "true", "the broker is protected"),
        (stacks["network"].of_type("AWS::EC2::FlowLog"), "connections are logged"),
    ):
        if not is_so:
            yield f"prod: not so: {text}"


@rule
def nothing_takes_the_connections_api_away_from_the_vpc(d):
    for name, network in d.each("network"):
        for endpoint, properties in network.of_type("AWS::EC2::VPCEndpoint").items():
            if "execute-api" in properties["ServiceName"] or properties["VpcEndpointType"] != "Gateway":
                yield f"{name}: {endpoint} is {properties['ServiceName']}"


@rule
def the_consumer_can_call_out_and_nobody_can_call_in(d):
    for egress, wanted in (("public-ip", "ENABLED"), ("nat", "DISABLED"), ("nat-per-zone", "DISABLED")):
        for zones in ("2", "3"):
            network = Resolved(d.translated["network"], {"Name": "kschat-x", "Egress": egress, "Zones": zones})
            subnets = network.outputs["ConsumerSubnetIds"].split(",")
            tables = {a["SubnetId"]: a["RouteTableId"] for a in network.of_type("AWS::EC2::SubnetRouteTableAssociation").values()}
            out = {r["RouteTableId"]: r for r in network.of_type("AWS::EC2::Route").values()}
            if len(subnets) != int(zones) or network.outputs["ConsumerPublicIp"] != wanted:
                yield f"{egress}: {subnets}, {network.outputs['ConsumerPublicIp']}"
            for subnet in subnets:
                way = out.get(tables[subnet], {})
                if ("GatewayId" in way) != (egress == "public-ip") or not way:
                    yield f"{egress}, {zones} zones: {subnet} goes out by {way}"
                if "NatGatewayId" in way and way["NatGatewayId"].strip("<>") not in network.resources:
                    yield f"{egress}, {zones} zones: {subnet} goes out by {way['NatGatewayId']}, which there is not"
            for name, subnet in network.of_type("AWS::EC2::Subnet").items():
                if subnet.get("MapPublicIpOnLaunch"):
                    yield f"{name} gives everything a public address"


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
def a_new_revision_makes_new_versions_and_new_tasks(d):
    def versions(revision):
        template = translate(d.sources["app"], {"Name": "kschat-dev", "Stage": "dev", "Revision": revision * 64})
        found = {name for name, r in template["Resources"].items() if r["Type"] == "AWS::Lambda::Version"}
        told = {r["Properties"]["Description"] for r in template["Resources"].values() if r["Type"] == "AWS::Lambda::Function"}
        return found, told

    (before, told_before), (after, told_after) = versions("a"), versions("b")
    if len(before) != 3 or before & after:
        yield f"{sorted(before & after)} stay, so that the alias keeps old settings"
    # Lambda refuses a version of a function in which nothing has changed.
    if told_before & told_after:
        yield f"{sorted(told_before & told_after)} do not change, so that Lambda publishes no version"
    if container(d).get("DockerLabels") != {"kschat.revision": "<Revision>"}:
        yield "tasks do not change, so that they keep old secrets"


@rule
def a_bad_release_goes_back_by_itself(d):
    service = d.only("app", "AWS::ECS::Service")["DeploymentConfiguration"]
    if service.get("DeploymentCircuitBreaker") != {"Enable": True, "Rollback": True}:
        yield "the consumer has no circuit breaker"
    if (service.get("MinimumHealthyPercent"), service.get("MaximumPercent")) != (100, 200):
        yield "tasks are stopped before others have started"
    app = d.by_profile["prod"]["app"]
    alarms = app.of_type("AWS::CloudWatch::Alarm")
    for name, group in app.of_type("AWS::CodeDeploy::DeploymentGroup").items():
        names = [alarm["Name"].strip("<>") for alarm in group["AlarmConfiguration"]["Alarms"]]
        function = name.removesuffix("FunctionDeploymentGroup").lower()
        wanted = {f"kschat-prod-{function}", f"kschat-prod-{function}:live"}
        if [{x["Value"] for x in alarms[one]["Dimensions"]} for one in names] != [wanted]:
            yield f"{name} looks at {names}"
        if "DEPLOYMENT_STOP_ON_ALARM" not in group["AutoRollbackConfiguration"]["Events"]:
            yield f"{name} does not go back"


@rule
def a_task_is_as_locked_up_as_its_image_allows(d):
    only = container(d)
    dockerfile = d.text("consumer/Dockerfile")
    user = re.search(r"^USER (\S+)$", dockerfile, re.M).group(1)
    image = (d.folder / "deploy/image.py").read_text()
    if not only["User"] == user == re.search(r'^USER = "(.*)"$', image, re.M).group(1) == "65532:65532":
        yield f"users are {only['User']} and {user}"
    if not only["ReadonlyRootFilesystem"] or only.get("Privileged") or only["LinuxParameters"]["Capabilities"] != {"Drop": ["ALL"]}:
        yield "the container may do more than it needs"
    command, *rest = only["HealthCheck"]["Command"][1:]
    address = {v["Name"]: v["Value"] for v in only["Environment"]}["HEALTH_ADDR"]
    if not re.search(r"^COPY consumer probe /$", dockerfile, re.M) or command != "/probe" or rest[0] != address:
        yield f"the probe asks {rest[0]}, and the consumer answers at {address}"
    if f'"{rest[1]}"' not in d.text("consumer/src/health.rs"):
        yield f"the consumer knows no {rest[1]}"
    for name, path in re.findall(r'^    "([\w.]+)": \("([^"]+)", 0o\d+\),$', image, re.M):
        line = re.search(rf"^COPY (?:\S+ )*{re.escape(name)} (?:\S+ )*(/\S*)$", dockerfile, re.M)
        if not line or (line.group(1) if line.group(1) != "/" else f"/{name}") != f"/{path}":
            yield f"the Dockerfile does not put {name} to /{path}"
    for architecture, cpu in (("arm64", "ARM64"), ("x86_64", "X86_64")):
        app = d.app(Architecture=architecture)
        (task,) = app.of_type("AWS::ECS::TaskDefinition").values()
        kinds = {tuple(f["Architectures"]) for f in app.of_type("AWS::Lambda::Function").values()}
        if task["RuntimePlatform"]["CpuArchitecture"] != cpu or kinds != {(architecture,)}:
            yield f"{architecture}: the task is {task['RuntimePlatform']}, the functions are {kinds}"


@rule
def pushes_go_where_clients_are(d):
    for given in ({}, {"DomainName": "chat.example.com", "CertificateArn": "arn:aws:acm:us-east-1:1:certificate/1"}):
        app = d.app(**given)
        (task,) = app.of_type("AWS::ECS::TaskDefinition").values()
        callback = {v["Name"]: v["Value"] for v in task["ContainerDefinitions"][0]["Environment"]}["CALLBACK_URL"]
        # Behind a domain of one's own there is no stage in the path; the API's own name always has one.
        if callback != "https://<Api>.execute-api.us-east-1.amazonaws.com/dev" or callback != app.outputs["CallbackUrl"]:
            yield f"{callback} and {app.outputs['CallbackUrl']}"
        wanted = "wss://chat.example.com" if given else "wss://<Api>.execute-api.us-east-1.amazonaws.com/dev"
        if app.outputs["WebSocketUrl"] != wanted:
            yield f"clients are told {app.outputs['WebSocketUrl']}"


@rule
def tasks_are_started_by_work_and_not_by_what_waits_for_people(d):
    app = d.by_profile["prod"]["app"]
    policies = app.of_type("AWS::ApplicationAutoScaling::ScalingPolicy")
    custom = [p["TargetTrackingScalingPolicyConfiguration"].get("CustomizedMetricSpecification") for p in policies.values()]
    (metrics,) = [m["Metrics"] for m in custom if m]
    used = {m["Id"]: m["MetricStat"]["Metric"]["MetricName"] for m in metrics if "MetricStat" in m}
    if used != {"lent": "MessageUnacknowledgedCount", "tasks": "RunningTaskCount"}:
        yield f"the backlog is {used}"
    if [m["Expression"] for m in metrics if m.get("ReturnData")] != ["lent / tasks"]:
        yield "the backlog is not that of one task"
    target = app.of_type("AWS::ApplicationAutoScaling::ScalableTarget")["ConsumerScaling"]
    if target["ResourceId"] != "service/<Cluster>/<ConsumerService.Name>":
        yield f"{target['ResourceId']} is scaled"


@rule
def every_alarm_has_its_line_in_the_runbook(d):
    runbook = (d.folder / "README.md").read_text()
    names = {
        alarm["AlarmName"].removeprefix("kschat-prod-")
        for stack in ("app", "observability")
        for alarm in d.by_profile["prod"][stack].of_type("AWS::CloudWatch::Alarm").values()
    }
    rows = set(re.findall(r"`([a-z-]+)`", "\n".join(re.findall(r"^\| (`[^|]*) \|", runbook.partition("## Runbook")[2], re.M))))
    if names != rows:
        yield f"alarms and runbook differ by {sorted(names ^ rows)}"
    topic = d.by_profile["prod"]["observability"].of_type("AWS::CloudWatch::Alarm")
    for name, alarm in topic.items():
        if alarm.get("AlarmActions") != ["<Alarms>"] or alarm.get("OKActions") != ["<Alarms>"]:
            yield f"{name} tells nobody"


@rule
def metrics_of_our_own_are_those_that_the_programs_write(d):
    path = d.root / "shared/docs/METRICS.md"
    told = path.read_text() if path.is_file() else ""
    for _, stack in d.each("observability"):
        for text in texts(stack.resources):
            for namespace, metric in re.findall(r'\["(kschat[^"]*)", "([^"]+)"', text):
                if f"`{metric}`" not in told:
                    yield f"the dashboard shows {namespace} {metric}, which METRICS.md does not know"
        for name, alarm in stack.of_type("AWS::CloudWatch::Alarm").items():
            if str(alarm.get("Namespace", "")).lower().startswith("kschat") and f"`{alarm['MetricName']}`" not in told:
                yield f"{name} watches {alarm['MetricName']}, which METRICS.md does not know"


@rule
def every_suppression_has_a_reason(d):
    for stack, template in d.sources.items():
        for name, resource in template["Resources"].items():
            for skip in resource.get("Metadata", {}).get("checkov", {}).get("skip", []):
                if len(skip.get("comment", "")) < 20:
                    yield f"{stack}.{name}: {skip.get('id')} is suppressed without a reason"
        text = (d.folder / f"{stack}.yaml").read_text()
        for ignored in re.finditer(r"ignore_checks", text):
            line = text[: ignored.start()].splitlines()[-2].strip()
            if not line.startswith("#"):
                yield f"{stack}: cfn-lint is told to look away without a reason: {line}"


def broken(folder, root=ROOT):
    """What is wrong, as (rule, problem). A rule that trips over what it reads says so, too."""
    found = []
    try:
        deployment = Deployment(folder, root)
    except Exception as error:  # noqa: BLE001
        return [("the_templates_can_be_read", f"{type(error).__name__}: {error}")]
    for check in RULES:
        try:
            found += [(check.__name__, problem) for problem in check(deployment)]
        except Exception as error:  # noqa: BLE001
            found.append((check.__name__, f"{type(error).__name__}: {error}"))
    return found


if __name__ == "__main__":
    problems = broken(sys.argv[1] if len(sys.argv) > 1 else ROOT / "infra/aws")
    for name, problem in problems:
        print(f"{name}: {problem}")
    print(f"{len(RULES)} rules, {len(problems)} problems")
    sys.exit(1 if problems else 0)
