"""Who may call whom: permissions, ports, ways in and out."""

import itertools
import json
import re

import deployer
from deployment import PROGRAMS, as_list, container, rule, statements

from samtranslator.yaml_helper import yaml_parse

from templates import Resolved


@rule
def only_the_connections_of_this_stage_can_be_pushed_to(d):
    prefix = "arn:aws:execute-api:us-east-1:111122223333:<Api>/dev/"
    calls = {
        "Request::post(": "POST",
        ".delete_connection()": "DELETE",
        ".get_connection()": "GET",
    }
    files = [d.text(f"shared/adapters/src/api_gateway/{name}.rs") for name in ("mod", "post")]
    adapter = "".join(file.split("#[cfg(test)]")[0] for file in files)
    wanted = {f"{prefix}{verb}/@connections/*" for call, verb in calls.items() if call in adapter}
    role = d.app().of_type("AWS::IAM::Role")["ConsumerRole"]
    found = [s for s in statements(role)]
    if [as_list(s["Action"]) for s in found] != [["execute-api:ManageConnections"]]:
        yield f"the consumer's role holds {found}"
    got = set(itertools.chain.from_iterable(as_list(s["Resource"]) for s in found))
    if got != wanted:
        yield f"the consumer may reach {sorted(got)}, and its code needs {sorted(wanted)}"


ANYBODY = (443, 443, "0.0.0.0/0")


def let_out(groups, functions, consumer):
    for group, wanted in (("FunctionsGroup", functions), ("ConsumerGroup", consumer)):
        got = {(r["FromPort"], r["ToPort"], r["CidrIp"]) for r in groups[group]["SecurityGroupEgress"]}
        if got != wanted:
            yield f"{group} lets out {sorted(map(str, got))}, and not {sorted(map(str, wanted))}"


# What a person gives to reach the console of the broker, and where it then stands in a rule.
CONSOLE = {
    "ConsoleGroupId": ("sg-0123456789abcdef0", "SourceSecurityGroupId"),
    "ConsoleCidr": ("10.9.0.0/24", "CidrIp"),
}


def people_reach_the_console_if_asked_for(d, usual):
    # Source: https://docs.aws.amazon.com/amazon-mq/latest/developer-guide/rabbitmq-basic-elements-broker.html
    console = 443
    for parameter, (source, key) in CONSOLE.items():
        asked = d.resolved("prod", "data", **{parameter: source}).of_type("AWS::EC2::SecurityGroup")["BrokerGroup"]
        more = [r for r in asked["SecurityGroupIngress"] if r not in usual["SecurityGroupIngress"]]
        if [(r["FromPort"], r["ToPort"], r.get(key)) for r in more] != [(console, console, source)]:
            yield f"with {parameter} {more} may call the console"
        if f"data.{parameter}=" not in (d.folder / "README.md").read_text():
            yield f"nobody is told of {parameter}"


@rule
def security_groups_open_the_ports_that_are_used_and_no_other(d):
    data = d.by_profile["prod"]["data"]
    groups = data.of_type("AWS::EC2::SecurityGroup")
    (cache,) = data.of_type("AWS::ElastiCache::ReplicationGroup").values()
    # Source: Amazon MQ, listener ports of RabbitMQ: AMQP over TLS only.
    ports = {"BrokerGroup": 5671, "CacheGroup": cache["Port"]}
    for group, port in ports.items():
        got = {
            (r["FromPort"], r["ToPort"], r.get("SourceSecurityGroupId"))
            for r in groups[group].get("SecurityGroupIngress", [])
        }
        wanted = {(port, port, "<FunctionsGroup>"), (port, port, "<ConsumerGroup>")}
        if group == "BrokerGroup":
            # Source: Amazon MQ, listener ports of RabbitMQ: the management.
            wanted.add((443, 443, "<BrokerUsersGroup>"))
        if got != wanted:
            yield f"{group} lets in {sorted(map(str, got))}"
        if any(rule["CidrIp"] != "127.0.0.1/32" for rule in groups[group]["SecurityGroupEgress"]):
            yield f"{group} lets out"
    management = {(r["FromPort"], r["ToPort"], r["CidrIp"]) for r in groups["BrokerUsersGroup"]["SecurityGroupEgress"]}
    if management != {(443, 443, "<VpcCidr>")}:
        yield f"what makes the users of the broker is let out to {sorted(map(str, management))}"
    inside = {(port, port, "<VpcCidr>") for port in ports.values()}
    yield from let_out(groups, inside, inside | {ANYBODY})
    asked = d.resolved("prod", "data", FunctionsCallOut="true", TraceCollectorPort="4318")
    inside |= {("4318", "4318", "<VpcCidr>")}
    yield from let_out(asked.of_type("AWS::EC2::SecurityGroup"), inside | {ANYBODY}, inside | {ANYBODY})
    for group in ("FunctionsGroup", "ConsumerGroup", "BrokerUsersGroup"):
        if groups[group].get("SecurityGroupIngress"):
            yield f"{group} lets somebody in"
    yield from people_reach_the_console_if_asked_for(d, groups["BrokerGroup"])
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
        f"{name.capitalize()}Role": {
            ("logs:CreateLogStream", f"<{name.capitalize()}Logs.Arn>"),
            ("logs:PutLogEvents", f"<{name.capitalize()}Logs.Arn>"),
        }
        for name in PROGRAMS
    },
    # CodeDeploy moves aliases and looks at alarms.
    "ShiftRole": {
        *(
            (a, "arn:aws:lambda:us-east-1:111122223333:function:kschat-prod-*")
            for a in ("lambda:GetAlias", "lambda:UpdateAlias", "lambda:GetProvisionedConcurrencyConfig")
        ),
        ("cloudwatch:DescribeAlarms", "*"),
    },
    # ECS pulls the image, reads the secrets and writes the log.
    "ConsumerStartRole": {
        ("ecr:GetAuthorizationToken", "*"),
        *(
            (a, "<RepositoryArn>")
            for a in ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
        ),
        ("secretsmanager:GetSecretValue", "<AmqpUrlSecretArn>"),
        ("secretsmanager:GetSecretValue", "<RedisUrlSecretArn>"),
        ("kms:Decrypt", "<KeyArn>"),
        ("logs:CreateLogStream", "<ConsumerLogs.Arn>"),
        ("logs:PutLogEvents", "<ConsumerLogs.Arn>"),
    },
    # The consumer pushes, closes what nobody may use any more, and asks what is open.
    "ConsumerRole": {
        (
            "execute-api:ManageConnections",
            f"arn:aws:execute-api:us-east-1:111122223333:<Api>/prod/{verb}/@connections/*",
        )
        for verb in ("POST", "DELETE", "GET")
    },
}


# The Lambda service puts a function into a VPC, and decrypts its settings.
# Source: AWS Lambda, "Execution role permissions" of functions in a VPC.
PLATFORM = {
    *(
        (a, "*")
        for a in (
            "ec2:CreateNetworkInterface",
            "ec2:DescribeNetworkInterfaces",
            "ec2:DescribeSubnets",
            "ec2:DeleteNetworkInterface",
            "ec2:AssignPrivateIpAddresses",
            "ec2:UnassignPrivateIpAddresses",
        )
    ),
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
def functions_and_consumer_have_users_of_the_broker_of_their_own(d):
    for profile, app in d.each("app"):
        data = d.by_profile[profile]["data"]
        secrets = data.of_type("AWS::SecretsManager::Secret")
        outputs = {parameter: data.outputs[output] for parameter, (_, output) in d.wiring["app"].items() if _ == "data"}

        def users(secret, secrets=secrets):
            """The secrets of users that stand in the URL of a secret."""
            return set(re.findall(r"secretsmanager:<([A-Za-z]+)>:", secrets[secret.strip("<>")]["SecretString"]))

        given = {
            parameter
            for function in app.of_type("AWS::Lambda::Function").values()
            for parameter in re.findall(r"<([A-Za-z]+)>", function["Environment"]["Variables"]["AMQP_URL"])
        }
        if {user for parameter in given for user in users(outputs[parameter])} != {"FunctionsBrokerSecret"}:
            yield f"{profile}: functions have the user of {sorted(given)}"
        (parameter,) = (secret["ValueFrom"] for secret in container(d, profile)["Secrets"] if secret["Name"] == "AMQP_URL")
        if users(outputs[parameter.strip("<>")]) != {"ConsumerBrokerSecret"}:
            yield f"{profile}: the consumer has the user of {parameter}"
        names = {
            json.loads(secrets[secret]["GenerateSecretString"]["SecretStringTemplate"])["username"]
            for secret in ("FunctionsBrokerSecret", "ConsumerBrokerSecret")
        }
        permissions = json.loads(d.text("infra/rabbitmq.json"))["permissions"]
        if names != {given["user"] for given in permissions}:
            yield f"{profile}: {sorted(names)} are not whom infra/rabbitmq.json is about"


# Names of whatever there is at the broker.
AT_THE_BROKER = {
    "queues": ("kschat.user.alice", "kschat.user.", "kschat.control.0", "kschat.members", "kschat.dead", "other"),
    "exchanges": ("amq.default", "amq.topic", "kschat.direct", "kschat.rooms", "kschat.broadcast", "kschat.control"),
}


@rule
def functions_can_neither_read_nor_make_a_queue(d):
    (functions,) = (
        given for given in json.loads(d.text("infra/rabbitmq.json"))["permissions"] if given["user"] == "kschat-functions"
    )

    def may(what, name):
        return re.search(functions[what], name) is not None

    for queue in AT_THE_BROKER["queues"]:
        yield from (f"functions may {what} {queue}" for what in ("read", "configure") if may(what, queue))
    for exchange in AT_THE_BROKER["exchanges"]:
        if may("configure", exchange):
            yield f"functions may configure {exchange}"
        if may("write", exchange) != (exchange in ("kschat.direct", "kschat.rooms", "kschat.control")):
            yield f"functions may write to {exchange}, or may not"
        if may("read", exchange) != (exchange == "kschat.rooms"):
            yield f"functions may bind to {exchange}, or may not"


@rule
def what_makes_the_users_of_the_broker_can_do_nothing_else(d):
    data = d.by_profile["prod"]["data"]
    (function,) = data.of_type("AWS::Lambda::Function").values()
    if "Environment" in function:
        yield "it holds settings, in which secrets could be read"
    (role,) = data.of_type("AWS::IAM::Role").values()
    allowed = granted(statements(role))
    wanted = {(action, "<BrokerUsersLogs.Arn>") for action in ("logs:CreateLogStream", "logs:PutLogEvents")}
    wanted |= {pair for pair in PLATFORM if pair[0].startswith("ec2:")}
    if allowed != wanted:
        yield f"its role differs by {sorted(allowed ^ wanted)}"
    if not any(s["Effect"] == "Deny" and s["Action"] == "ec2:*" for s in statements(role)):
        yield "it is not denied the platform's calls itself"
    if function["VpcConfig"]["SecurityGroupIds"] != ["<BrokerUsersGroup>"]:
        yield "it is in another group"


@rule
def no_program_calls_an_aws_api_that_its_role_lacks(d):
    manifests = {name: d.text(f"{name}/Cargo.toml") for name in ("functions", "consumer", "shared/adapters")}
    sdks = {crate for text in manifests.values() for crate in re.findall(r"^(aws-sdk-[a-z0-9-]+)", text, re.M)}
    if sdks != {"aws-sdk-apigatewaymanagement"}:
        yield f"the programs are built with {sorted(sdks)}: give their roles what that calls, and this rule its name"
    feature = re.search(r"kschat-adapters = \{[^}]*features = \[([^\]]*)\]", manifests["consumer"])
    if not feature or '"api-gateway"' not in feature.group(1):
        yield "the consumer is built without the connections API, and has a permission for it"
    if re.search(r'kschat-adapters = \{[^}]*"api-gateway"', manifests["functions"]):
        yield "the functions are built with the connections API, and have no permission for it"


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
            tables = {
                a["SubnetId"]: a["RouteTableId"]
                for a in network.of_type("AWS::EC2::SubnetRouteTableAssociation").values()
            }
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
def the_deployer_may_do_what_the_stacks_and_the_command_need_and_no_more(d):
    # `python tests/infrastructure/deployer.py` writes it anew.
    written = json.loads((d.folder / "deployer.json").read_text())["policies"]
    wanted = deployer.policies(d.folder)
    given, needed = (granted(s for policy in every for s in policy["Statement"]) for every in (written, wanted))
    for action, resource in sorted(given - needed):
        yield f"{action} on {resource} is allowed, and nothing needs it"
    for action, resource in sorted(needed - given):
        yield f"{action} on {resource} is needed, and not allowed"
    if not (given ^ needed) and written != wanted:
        yield "deployer.json differs in its conditions: write it anew"
    principals = {
        service
        for stack in d.translated.values()
        for r in stack["Resources"].values()
        if r["Type"] == "AWS::IAM::Role"
        for s in r["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        for service in as_list(s["Principal"]["Service"])
        if isinstance(service, str)
    }
    if lacking := principals - set(deployer.PASSED_TO):
        yield f"roles can't be passed to {sorted(lacking)}"


@rule
def roles_are_bounded_and_lie_where_they_are_asked_to(d):
    boundary = "arn:aws:iam::111122223333:policy/boundary"
    roles = 0
    for stack in d.sources:
        asked = {"PermissionsBoundary": boundary, "RolePath": "/team/", "FlowLogs": "true", "AccountLogging": "true"}
        plain = {"FlowLogs": "true", "AccountLogging": "true"}
        for given, wanted in ((asked, (boundary, "/team/")), (plain, (None, None))):
            for name, role in d.resolved("prod", stack, **given).of_type("AWS::IAM::Role").items():
                roles += 1
                if (role.get("PermissionsBoundary"), role.get("Path")) != wanted:
                    yield f"{stack}.{name} has {role.get('PermissionsBoundary')} and lies at {role.get('Path')}"
        policies = d.resolved("prod", stack, **asked).of_type("AWS::IAM::ManagedPolicy")
        yield from (f"{stack}.{name} lies elsewhere" for name, p in policies.items() if p.get("Path") != "/team/")
    if roles < 16:
        yield f"only {roles} roles were looked at"


@rule
def only_the_workflow_of_the_repository_takes_on_the_roles_of_ci(d):
    roles = Resolved(yaml_parse((d.folder / "ci/role.yaml").read_text()), {"Repository": "you/chat", "PolicyArns": "a,b"})
    subjects = {"CheckRole": "repo:you/chat:pull_request", "DeployRole": "repo:you/chat:environment:production"}
    issuer = "token.actions.githubusercontent.com"
    if roles.of_type("AWS::IAM::Role").keys() != subjects.keys():
        yield f"roles are {sorted(roles.of_type('AWS::IAM::Role'))}"
    for name, subject in subjects.items():
        (trust,) = roles.of_type("AWS::IAM::Role")[name]["AssumeRolePolicyDocument"]["Statement"]
        # Source: https://docs.github.com/en/actions/reference/security/oidc
        wanted = {"StringEquals": {f"{issuer}:aud": "sts.amazonaws.com", f"{issuer}:sub": subject}}
        if trust["Condition"] != wanted or trust["Principal"] != {"Federated": "<Provider>"}:
            yield f"{name} is taken on by {trust['Principal']} with {trust['Condition']}"
    check = roles.of_type("AWS::IAM::Role")["CheckRole"]
    asked = deployer.called_by((d.folder / "deploy/check.py").read_text()) | {"cloudformation:DescribeStacks"}
    if (given := {action for action, _ in granted(statements(check))}) != asked:
        yield f"a check differs by {sorted(given ^ asked)} from what it asks for"
    if check.get("ManagedPolicyArns"):
        yield "a check of a pull request may change something"


@rule
def the_workflow_keeps_no_key_and_goes_back_when_no_chat_is_served(d):
    text = (d.folder / "ci/github.yml").read_text()
    workflow = yaml_parse(text)
    if re.search(r"secrets\.|aws-access-key-id", text) or workflow["permissions"]:
        yield "it has a key, or more permissions than a job needs"
    commands = {}
    for name, job in workflow["jobs"].items():
        if job["permissions"] != {"contents": "read", "id-token": "write"}:
            yield f"{name} has {job['permissions']}"
        if (job.get("environment") == "production") != (name != "check"):
            yield f"{name} runs in {job.get('environment')}"
        commands[name] = [
            (re.search(r"kschat-aws (\w+)", step["run"]).group(1), step.get("if"))
            for step in job["steps"]
            if "kschat-aws" in step.get("run", "")
        ]
    back = ("rollback", "failure() && steps.deploy.outcome == 'success'")
    wanted = {"check": [("check", None)], "deploy": [("deploy", None), ("smoke", None), back], "rollback": [("rollback", None)]}
    if commands != wanted:
        yield f"it runs {commands}"
