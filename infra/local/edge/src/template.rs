//! Reads routes from a plain list, or from the API's SAM or CloudFormation template.

use std::{collections::BTreeMap, fs, path::Path};

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Value, json};

use super::routes::{Authorizer, CONNECT, Route, Routes, Selection, Target, valid_key};

/// Routes, with warnings for the reader.
#[derive(Debug)]
pub struct LoadedRoutes {
    /// The routes.
    pub routes: Routes,
    /// What will not work on AWS as written, or is ignored here.
    pub warnings: Vec<String>,
}

/// Reads routes from a YAML or JSON file. `#NAME` selects an API of a template with several.
///
/// # Errors
/// A description of the error and of the valid form.
pub fn read(path: &str) -> Result<LoadedRoutes, String> {
    let is_file = Path::new(path).is_file();
    let named = path.rsplit_once('#').filter(|_| !is_file);
    let (path, api) = named.map_or((path, None), |(path, api)| (path, Some(api)));
    let text = fs::read_to_string(Path::new(path)).map_err(|error| format!("can't read {path}: {error}"))?;
    parse(&text, api).map_err(|problem| format!("{path}: {problem}"))
}

/// Reads routes from the text of such a file, for the API of that name.
///
/// # Errors
/// A description of the error and of the valid form.
pub fn parse(text: &str, api: Option<&str>) -> Result<LoadedRoutes, String> {
    let documents = Yaml::load_from_str(text).map_err(|error| error.to_string())?;
    let document = documents.first().ok_or("the file is empty")?;
    let document = to_json(document)?;
    match document.get("Resources") {
        Some(Value::Object(resources)) => Template { resources }.read(api),
        _ => Ok(LoadedRoutes { routes: Routes::from_value(document)?, warnings: Vec::new() }),
    }
}

/// Converts YAML to JSON, and expands the short forms of CloudFormation's functions.
///
/// Source: AWS CloudFormation user guide, "Intrinsic function reference".
fn to_json(node: &Yaml<'_>) -> Result<Value, String> {
    Ok(match node {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(yes)) => (*yes).into(),
        Yaml::Value(Scalar::Integer(number)) => (*number).into(),
        Yaml::Value(Scalar::FloatingPoint(number)) => number.into_inner().into(),
        Yaml::Value(Scalar::String(text)) => text.as_ref().into(),
        Yaml::Sequence(items) => items.iter().map(to_json).collect::<Result<Vec<_>, _>>()?.into(),
        Yaml::Mapping(entries) => {
            let entries = entries.iter().map(|(key, value)| Ok((key_text(key)?, to_json(value)?)));
            merged(entries.collect::<Result<_, String>>()?)?.into()
        }
        Yaml::Tagged(tag, node) => match (tag.suffix.as_str(), to_json(node)?) {
            ("Ref", value) => json!({ "Ref": value }),
            ("GetAtt", Value::String(path)) => {
                let (name, attribute) = path.split_once('.').unwrap_or((&path, ""));
                json!({ "Fn::GetAtt": [name, attribute] })
            }
            (function, value) => json!({ format!("Fn::{function}"): value }),
        },
        Yaml::Representation(..) | Yaml::Alias(_) | Yaml::BadValue => {
            return Err("it contains an unsupported kind of YAML node".to_owned());
        }
    })
}

/// Resolves a merge key, as the packaging commands of AWS do before they upload a template: entries of the mapping win
/// over merged ones, earlier mappings of a list over later ones.
///
/// Source: "Merge Key Language-Independent Type for YAML Version 1.1".
fn merged(mut entries: Map<String, Value>) -> Result<Map<String, Value>, String> {
    let sources = match entries.remove("<<") {
        None => return Ok(entries),
        Some(Value::Array(sources)) => sources,
        Some(source) => vec![source],
    };
    for source in sources {
        let Value::Object(source) = source else {
            return Err(format!("`<<` merges a mapping or a list of mappings, not {source}"));
        };
        for (key, value) in source {
            entries.entry(key).or_insert(value);
        }
    }
    Ok(entries)
}

fn key_text(key: &Yaml<'_>) -> Result<String, String> {
    match to_json(key)? {
        Value::String(text) => Ok(text),
        scalar @ (Value::Number(_) | Value::Bool(_)) => Ok(scalar.to_string()),
        other => Err(format!("{other} is not a mapping key")),
    }
}

const SAM_API: &str = "AWS::Serverless::WebSocketApi";
const PLAIN_API: &str = "AWS::ApiGatewayV2::Api";
const FUNCTIONS: [&str; 2] = ["AWS::Serverless::Function", "AWS::Lambda::Function"];

/// The resources of a template by their logical ids.
struct Template<'a> {
    resources: &'a Map<String, Value>,
}

/// A route with its logical id, which its route response references.
struct FoundRoute {
    id: String,
    key: String,
    target: Target,
    /// Whether the route has a response selection expression.
    selects_response: bool,
}

impl Template<'_> {
    fn read(&self, wanted: Option<&str>) -> Result<LoadedRoutes, String> {
        let (api, resource) = self.api(wanted)?;
        let properties = &resource["Properties"];
        let selection = properties["RouteSelectionExpression"].as_str();
        let selection =
            selection.ok_or_else(|| format!("{api} needs a RouteSelectionExpression that is plain text"))?;
        let selection = Selection::parse(selection)?;
        let mut warnings = Vec::new();
        let mut table = BTreeMap::new();
        let found = self.sam_routes(api, properties)?.into_iter().chain(self.plain_routes(api, &mut warnings)?);
        for found in found {
            let response = self.has_response(&found.id);
            warnings.extend(response_warning(&found, response));
            let response = response && found.selects_response;
            table.insert(valid_key(found.key)?, Route { target: found.target, response });
        }
        let authorizer = self.authorizer(api, properties, &mut warnings)?;
        Ok(LoadedRoutes { routes: Routes { selection, table, authorizer }, warnings })
    }

    fn of_type<'s>(&'s self, wanted: &'s str) -> impl Iterator<Item = (&'s str, &'s Value)> {
        let all = self.resources.iter().filter(move |(_, resource)| resource["Type"] == wanted);
        all.map(|(id, resource)| (id.as_str(), resource))
    }

    /// The only WebSocket API, or the one of that name.
    fn api(&self, wanted: Option<&str>) -> Result<(&str, &Value), String> {
        let plain = self.of_type(PLAIN_API).filter(|(_, api)| api["Properties"]["ProtocolType"] == "WEBSOCKET");
        let all: Vec<_> = self.of_type(SAM_API).chain(plain).collect();
        let names = all.iter().map(|(id, _)| *id).collect::<Vec<_>>().join(", ");
        match (wanted, all.as_slice()) {
            (_, []) => Err(format!("it defines neither `routes` nor a WebSocket API ({SAM_API} or {PLAIN_API})")),
            (None, [one]) => Ok(*one),
            (None, _) => Err(format!("it defines several WebSocket APIs: append one of # {names} to the file name")),
            (Some(wanted), all) => {
                let found = all.iter().find(|(id, _)| *id == wanted).copied();
                found.ok_or_else(|| format!("it defines no WebSocket API {wanted}, only {names}"))
            }
        }
    }

    /// The routes of a SAM API.
    fn sam_routes(&self, api: &str, properties: &Value) -> Result<Vec<FoundRoute>, String> {
        let routes = properties["Routes"].as_object().into_iter().flatten();
        routes
            .map(|(key, route)| {
                let function = self.function(&route["FunctionArn"]);
                let function = function.ok_or_else(|| {
                    format!("route {key} of {api}: FunctionArn does not reference a function of this template")
                })?;
                Ok(FoundRoute {
                    id: format!("{api}{}Route", sam_name(key)),
                    key: key.clone(),
                    target: Target::Function(function),
                    selects_response: !route["RouteResponseSelectionExpression"].is_null(),
                })
            })
            .collect()
    }

    /// The routes that are separate resources.
    fn plain_routes(&self, api: &str, warnings: &mut Vec<String>) -> Result<Vec<FoundRoute>, String> {
        let mut all = Vec::new();
        for (id, resource) in self.of_type("AWS::ApiGatewayV2::Route") {
            let route = &resource["Properties"];
            if !refers_to(&route["ApiId"], api) {
                continue;
            }
            let key = route["RouteKey"].as_str().ok_or_else(|| format!("{id} has no RouteKey"))?.to_owned();
            match self.integration(&route["Target"]) {
                Some(target) => {
                    let selects_response = !route["RouteResponseSelectionExpression"].is_null();
                    all.push(FoundRoute { id: id.to_owned(), key, target, selects_response });
                }
                None => warnings.push(format!(
                    "route {key} is skipped: it has neither a MOCK integration nor a function of this template"
                )),
            }
        }
        Ok(all)
    }

    fn integration(&self, target: &Value) -> Option<Target> {
        let (id, integration) = self.of_type("AWS::ApiGatewayV2::Integration").find(|(id, _)| refers_to(target, id))?;
        let properties = &integration["Properties"];
        match properties["IntegrationType"].as_str()? {
            "AWS_PROXY" | "AWS" => Some(Target::Function(self.function(&properties["IntegrationUri"])?)),
            "MOCK" => Some(Target::Mock(self.mock_text(id))),
            _ => None,
        }
    }

    /// The response of a MOCK integration.
    fn mock_text(&self, integration: &str) -> String {
        let mut responses = self.of_type("AWS::ApiGatewayV2::IntegrationResponse");
        let response = responses.find(|(_, response)| refers_to(&response["Properties"]["IntegrationId"], integration));
        let templates = response.map(|(_, response)| &response["Properties"]["ResponseTemplates"]);
        let texts = templates.and_then(Value::as_object).into_iter().flatten();
        texts.filter_map(|(_, text)| text.as_str()).next().unwrap_or_default().to_owned()
    }

    fn has_response(&self, route: &str) -> bool {
        let mut responses = self.of_type("AWS::ApiGatewayV2::RouteResponse");
        responses.any(|(_, response)| refers_to(&response["Properties"]["RouteId"], route))
    }

    fn authorizer(
        &self,
        api: &str,
        properties: &Value,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Authorizer>, String> {
        let auth = &properties["Auth"];
        let mut routes = self.of_type("AWS::ApiGatewayV2::Route").map(|(_, route)| &route["Properties"]);
        let connect = routes.find(|route| route["RouteKey"] == CONNECT && refers_to(&route["ApiId"], api));
        let of_route = connect.map_or(&Value::Null, |route| &route["AuthorizerId"]);
        let plain = self.of_type("AWS::ApiGatewayV2::Authorizer").find(|(id, _)| refers_to(of_route, id));
        let iam = [&auth["AuthType"], connect.map_or(&Value::Null, |route| &route["AuthorizationType"])];
        if iam.iter().any(|kind| **kind == "AWS_IAM") {
            warnings.push("AWS_IAM: the local edge does not check signatures".to_owned());
        }
        let (uri, sources) = match plain {
            Some((_, plain)) => (&plain["Properties"]["AuthorizerUri"], &plain["Properties"]["IdentitySource"]),
            None if auth["AuthType"] == "CUSTOM" => (&auth["AuthArn"], &auth["IdentitySource"]),
            None => return Ok(None),
        };
        let function = self.function(uri).ok_or("the authorizer does not reference a function of this template")?;
        let identity = sources.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        Ok(Some(Authorizer { function, identity: identity.collect() }))
    }

    /// The local name of the function that a value references, possibly through an alias.
    fn function(&self, value: &Value) -> Option<String> {
        references(value).into_iter().find_map(|id| {
            let alias = self.resources.get(&id).filter(|resource| resource["Type"] == "AWS::Lambda::Alias");
            let aliased = alias.map(|alias| references(&alias["Properties"]["FunctionName"]));
            let id = aliased.and_then(|all| all.into_iter().next()).unwrap_or(id);
            // SAM names its own aliases after their functions; they are not in the template.
            let is_named =
                |known: &str| known == id || id.strip_prefix(known).is_some_and(|rest| rest.starts_with("Alias"));
            let mut functions = FUNCTIONS.iter().flat_map(|kind| self.of_type(kind));
            functions.find(|(known, _)| is_named(known)).map(|(id, resource)| local_name(id, resource))
        })
    }
}

/// Under `cargo lambda watch` a function is named after its binary.
fn local_name(id: &str, resource: &Value) -> String {
    let binary = resource["Metadata"]["BuildProperties"]["Binary"].as_str();
    binary.or_else(|| resource["Properties"]["FunctionName"].as_str()).unwrap_or(id).to_owned()
}

/// A route key as SAM writes it in logical ids.
///
/// Source: aws-sam-translator 1.115, run on templates.
fn sam_name(key: &str) -> String {
    let key = key.trim_start_matches('$').to_ascii_lowercase();
    let mut letters = key.chars();
    letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
}

fn response_warning(found: &FoundRoute, has_response: bool) -> Option<String> {
    let key = &found.key;
    match (found.selects_response, has_response) {
        (true, false) => Some(format!(
            "route {key} has a RouteResponseSelectionExpression, but no AWS::ApiGatewayV2::RouteResponse refers to \
             {}: its answers reach nobody",
            found.id
        )),
        (false, true) => Some(format!(
            "route {key} has a RouteResponse but no RouteResponseSelectionExpression: its responses are dropped"
        )),
        _ => None,
    }
}

fn refers_to(value: &Value, id: &str) -> bool {
    references(value).iter().any(|known| known == id)
}

/// Every logical id that a value references, in order.
fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(entries) => entries
            .iter()
            .flat_map(|(key, value)| match (key.as_str(), value) {
                ("Ref", Value::String(id)) => vec![before_dot(id)],
                ("Fn::GetAtt", Value::Array(path)) => {
                    path.first().and_then(Value::as_str).map(before_dot).into_iter().collect()
                }
                ("Fn::Sub", Value::String(text)) => in_text(text),
                ("Fn::Sub", Value::Array(parts)) => {
                    let text = parts.first().and_then(Value::as_str).map(in_text).unwrap_or_default();
                    let given = parts.get(1).and_then(Value::as_object);
                    let given = given.into_iter().flatten().flat_map(|(_, value)| references(value));
                    given.chain(text).collect()
                }
                (_, other) => references(other),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

fn before_dot(id: &str) -> String {
    id.split('.').next().unwrap_or_default().to_owned()
}

/// The names in `${…}` of a text.
fn in_text(text: &str) -> Vec<String> {
    text.split("${").skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| before_dot(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAM: &str = r"
Transform: AWS::Serverless-2016-10-31
Resources:
  RoomFunction:
    Type: AWS::Serverless::Function
    Metadata: { BuildMethod: rust-cargolambda, BuildProperties: { Binary: room } }
  Guard: { Type: AWS::Serverless::Function, Properties: { FunctionName: guard } }
  Chat:
    Type: AWS::Serverless::WebSocketApi
    Properties:
      RouteSelectionExpression: $request.body.type
      Auth: { AuthType: CUSTOM, AuthArn: !GetAtt Guard.Arn, IdentitySource: [route.request.querystring.key] }
      Routes:
        $connect: { FunctionArn: !GetAtt RoomFunction.Arn }
        $default: { FunctionArn: !Sub '${RoomFunction.Arn}', RouteResponseSelectionExpression: $default }
        sayHello: { FunctionArn: !Ref RoomFunctionAliaslive, RouteResponseSelectionExpression: $default }
  HelloResponse:
    Type: AWS::ApiGatewayV2::RouteResponse
    Properties: { ApiId: !Ref Chat, RouteId: !Ref ChatSayhelloRoute, RouteResponseKey: $default }
  PingIntegration:
    Type: AWS::ApiGatewayV2::Integration
    Properties: { ApiId: !Ref Chat, IntegrationType: MOCK, RequestTemplates: { '200': '{}' } }
  PingAnswer:
    Type: AWS::ApiGatewayV2::IntegrationResponse
    Properties: { ApiId: !Ref Chat, IntegrationId: !Ref PingIntegration, ResponseTemplates: { '200': pong } }
  Ping:
    Type: AWS::ApiGatewayV2::Route
    Properties:
      ApiId: !Ref Chat
      RouteKey: ping
      RouteResponseSelectionExpression: $default
      Target: !Join [/, [integrations, !Ref PingIntegration]]
  PingResponse:
    Type: AWS::ApiGatewayV2::RouteResponse
    Properties: { ApiId: !Ref Chat, RouteId: !Ref Ping, RouteResponseKey: $default }
";

    #[test]
    fn a_sam_template_is_read() {
        let LoadedRoutes { routes, warnings } = parse(SAM, None).unwrap();
        assert_eq!(routes.selection, Selection::parse("$request.body.type").unwrap());
        assert_eq!(routes.table["$connect"], Route::to("room"));
        assert_eq!(routes.table["sayHello"], Route::answered_by("room"));
        assert_eq!(routes.table["ping"], Route::mock("pong"));
        let guard =
            Authorizer { function: "guard".to_owned(), identity: vec!["route.request.querystring.key".to_owned()] };
        assert_eq!(routes.authorizer, Some(guard));
        // A frequent mistake: the expression without a route response sends nothing.
        assert_eq!(routes.table["$default"], Route::to("room"));
        assert!(
            warnings.len() == 1 && warnings[0].contains("route $default") && warnings[0].contains("ChatDefaultRoute")
        );
    }

    #[test]
    fn a_plain_template_is_read() {
        let text = r#"{ "Resources": {
            "Api": { "Type": "AWS::ApiGatewayV2::Api",
                     "Properties": { "ProtocolType": "WEBSOCKET", "RouteSelectionExpression": "$request.body.action" } },
            "Http": { "Type": "AWS::ApiGatewayV2::Api", "Properties": { "ProtocolType": "HTTP" } },
            "F": { "Type": "AWS::Lambda::Function", "Properties": {} },
            "I": { "Type": "AWS::ApiGatewayV2::Integration", "Properties": { "IntegrationType": "AWS_PROXY",
                   "IntegrationUri": { "Fn::Sub": ["arn:${AWS::Region}:x/${A}/invocations", { "A": { "Fn::GetAtt": ["F", "Arn"] } }] } } },
            "R": { "Type": "AWS::ApiGatewayV2::Route", "Properties": { "ApiId": { "Ref": "Api" }, "RouteKey": "$default",
                   "Target": { "Fn::Join": ["/", ["integrations", { "Ref": "I" }]] } } },
            "Other": { "Type": "AWS::ApiGatewayV2::Route", "Properties": { "ApiId": { "Ref": "Http" }, "RouteKey": "GET /" } }
        } }"#;
        let LoadedRoutes { routes, warnings } = parse(text, None).unwrap();
        assert_eq!(routes.table, BTreeMap::from([("$default".to_owned(), Route::to("F"))]));
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn unreadable_template_is_reported() {
        let two = SAM.replace("  Guard:", "  Second: { Type: AWS::Serverless::WebSocketApi }\n  Guard:");
        for (text, api, problem) in [
            ("", None, "empty"),
            ("Resources: {}", None, "neither `routes` nor a WebSocket API"),
            (two.as_str(), None, "put one of # Second, Chat"),
            (SAM, Some("Chatt"), "no WebSocket API Chatt, only Chat"),
            ("routes: [", None, "line 2"),
            ("routes: 7", None, "invalid type"),
            (&SAM.replace("!Sub '${RoomFunction.Arn}'", "arn:aws:lambda:x"), None, "does not reference a function"),
        ] {
            let error = parse(text, api).unwrap_err();
            assert!(error.contains(problem) || error.contains("Chat, Second"), "{error}");
        }
    }

    #[test]
    fn circular_alias_resolves_to_no_function() {
        let text = SAM
            .replace("  Guard:", "  Al: { Type: AWS::Lambda::Alias, Properties: { FunctionName: !Ref Al } }\n  Guard:");
        let text = text.replace("!Sub '${RoomFunction.Arn}'", "!Ref Al");
        assert!(parse(&text, None).unwrap_err().contains("does not reference a function"));
    }

    #[test]
    fn a_routes_file_may_be_yaml() {
        let text = "routes:\n  $default: { function: f }\n  ping: { mock: '{\"pong\":1}' }\n";
        let routes = parse(text, None).unwrap().routes;
        assert_eq!(routes.table["ping"], Route::mock("{\"pong\":1}"));
    }

    #[test]
    fn merge_keys_are_resolved() {
        let file = "routes:\n  $default: &base { function: f, response: true }\n  say: { <<: *base, function: g }\n";
        assert_eq!(parse(file, None).unwrap().routes.table["say"], Route::answered_by("g"));
        let template = SAM.replace(
            "        $connect: { FunctionArn: !GetAtt RoomFunction.Arn }",
            "        $connect: &room { FunctionArn: !GetAtt RoomFunction.Arn }\n        \
             leave: { <<: *room, RouteResponseSelectionExpression: $default }",
        );
        let routes = parse(&template, None).unwrap().routes;
        assert_eq!(routes.table["leave"].target, Target::Function("room".to_owned()));
    }

    #[test]
    fn merge_follows_the_precedence_of_yaml() {
        let read = |text: &str| to_json(&Yaml::load_from_str(text).unwrap()[0]);
        let base = "{ base: &base { a: 1, b: 1 }, other: &other { a: 2, c: 2 }, ";
        for (text, expected) in [
            ("it: { <<: *base, a: 3 } }", json!({ "a": 3, "b": 1 })),
            ("it: { a: 3, <<: [ *other, *base ] } }", json!({ "a": 3, "b": 1, "c": 2 })),
            ("it: { <<: [ *base, *other ] } }", json!({ "a": 1, "b": 1, "c": 2 })),
        ] {
            assert_eq!(read(&format!("{base}{text}")).unwrap()["it"], expected, "{text}");
        }
        assert!(read("{ <<: 7 }").unwrap_err().contains("not 7"));
    }
}
