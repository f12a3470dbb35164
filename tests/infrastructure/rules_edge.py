"""Routes, answers, and how new functions and tasks take over."""

import itertools
import json
import re

from deployment import as_list, container, rule, texts

from templates import STACKS, translate

ROUTES = {
    "$connect": "ConnectFunction",
    "$disconnect": "DisconnectFunction",
    "$default": "SendFunction",
    "send": "SendFunction",
    "ack": "SendFunction",
}


ANSWERED = ("$default", "send", "ack", "ping")


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
        source_arn = f"arn:aws:execute-api:us-east-1:111122223333:<Api>/dev/{key}"
        if (alias, source_arn) not in permissions:
            yield f"the edge may not call {function} for {key}"
    responses = {
        r["RouteId"]
        for r in app.of_type("AWS::ApiGatewayV2::RouteResponse").values()
        if r["RouteResponseKey"] == "$default"
    }
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


# What changes an API, each a deployment of its own on a stage that deploys by itself.
PARTS_OF_AN_API = {
    f"AWS::ApiGatewayV2::{kind}" for kind in ("Integration", "IntegrationResponse", "Route", "RouteResponse", "Stage")
}


def named_by(node):
    """The logical ids that a resource refers to, or waits for."""
    if isinstance(node, list):
        return set().union(*map(named_by, node))
    if not isinstance(node, dict):
        return set()
    names = set()
    for key, value in node.items():
        if key in ("Ref", "DependsOn"):
            names.update([value] if isinstance(value, str) else value)
        elif key == "Fn::GetAtt":
            names.add(value.split(".")[0] if isinstance(value, str) else value[0])
        elif key == "Fn::Sub":
            names.update(re.findall(r"\$\{(\w+)", value if isinstance(value, str) else value[0]))
            names |= named_by(value)
        else:
            names |= named_by(value)
    return names


@rule
def parts_of_the_api_are_made_one_after_the_other(d):
    # Side by side they fail now and then, as each changes the one API: "concurrent modification".
    # Source: https://github.com/hashicorp/terraform-provider-aws/issues/18018
    resources = d.translated["app"]["Resources"]

    def waits_for(name, seen):
        for other in named_by(resources[name]) & resources.keys() - seen:
            seen.add(other)
            waits_for(other, seen)
        return seen

    parts = {name for name, r in resources.items() if r["Type"] in PARTS_OF_AN_API}
    before = {name: waits_for(name, set()) & parts for name in parts}
    order = sorted(parts, key=lambda name: len(before[name]))
    for first, second in itertools.pairwise(order):
        if first not in before[second]:
            yield f"{second} does not wait for {first}"
    if resources[order[-1]]["Type"] != "AWS::ApiGatewayV2::Stage":
        yield "the stage is there before the routes, and deploys each of them"


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


@rule
def pushes_go_where_clients_are(d):
    for given in ({}, {"DomainName": "chat.example.com", "CertificateArn": "arn:aws:acm:us-east-1:1:certificate/1"}):
        app = d.app(**given)
        (task,) = app.of_type("AWS::ECS::TaskDefinition").values()
        callback = {v["Name"]: v["Value"] for v in task["ContainerDefinitions"][0]["Environment"]}["CALLBACK_URL"]
        # Behind a domain of one's own there is no stage in the path; the API's own name always has one.
        if (
            callback != "https://<Api>.execute-api.us-east-1.amazonaws.com/dev"
            or callback != app.outputs["CallbackUrl"]
        ):
            yield f"{callback} and {app.outputs['CallbackUrl']}"
        wanted = "wss://chat.example.com" if given else "wss://<Api>.execute-api.us-east-1.amazonaws.com/dev"
        if app.outputs["WebSocketUrl"] != wanted:
            yield f"clients are told {app.outputs['WebSocketUrl']}"


@rule
def a_new_revision_makes_new_versions_and_new_tasks(d):
    def versions(revision):
        template = translate(d.sources["app"], {"Name": "kschat-dev", "Stage": "dev", "Revision": revision * 64})
        found = {name for name, r in template["Resources"].items() if r["Type"] == "AWS::Lambda::Version"}
        told = {
            r["Properties"]["Description"]
            for r in template["Resources"].values()
            if r["Type"] == "AWS::Lambda::Function"
        }
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


# Parts of AWS that are apart, each with the domain of its services and that of its console.
# Sources: https://docs.amazonaws.cn/en_us/aws/latest/userguide/endpoints-Beijing.html,
# https://docs.aws.amazon.com/govcloud-us/latest/UserGuide/using-govcloud-arns.html
PARTITIONS = (
    ("aws", "eu-west-1", "amazonaws.com", "console.aws.amazon.com"),
    ("aws-cn", "cn-north-1", "amazonaws.com.cn", "console.amazonaws.cn"),
    ("aws-us-gov", "us-gov-west-1", "amazonaws.com", "console.amazonaws-us-gov.com"),
)

# Services whose principal is that of a region; all others have the same one everywhere.
# Source: https://github.com/aws/aws-cdk, packages/aws-cdk-lib/region-info, default.ts
REGIONAL_PRINCIPALS = ("logs", "codedeploy")


def principals(node):
    """The services that may assume a role, use a key or call a function."""
    if isinstance(node, list):
        for item in node:
            yield from principals(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "Principal":
                yield from [value] if isinstance(value, str) else as_list(value.get("Service", []))
            yield from principals(value)


@rule
def every_part_of_aws_is_called_by_its_own_names(d):
    for partition, region, suffix, console in PARTITIONS:
        pseudo = {"AWS::Partition": partition, "AWS::Region": region, "AWS::URLSuffix": suffix}
        for stack in STACKS:
            resolved = d.resolved("prod", stack, pseudo)
            for text in texts([resolved.resources, resolved.outputs]):
                for arn in re.findall(r"\barn:aws[a-z-]*:", text):
                    if arn != f"arn:{partition}:":
                        yield f"{stack} in {partition}: {text}"
                for host in re.findall(r"(?:https|wss)://([^/]+)", text):
                    if not host.endswith((f".{suffix}", f".{console}")):
                        yield f"{stack} in {partition}: {host}"
            for service in principals(resolved.resources):
                name = service.split(".")[0]
                wanted = f"{name}.{region}.{suffix}" if name in REGIONAL_PRINCIPALS else f"{name}.amazonaws.com"
                if service not in (wanted, "*"):
                    yield f"{stack} in {partition}: {service}, not {wanted}"
