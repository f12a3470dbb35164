//! Which frame goes to which function.

use std::collections::BTreeMap;

use kschat_protocol::PONG;
use serde::Deserialize;
use serde_json::Value;

/// The route that a connecting client takes.
pub const CONNECT: &str = "$connect";
/// The route of a connection that has ended.
pub const DISCONNECT: &str = "$disconnect";
/// The route of every frame that has no other.
pub const DEFAULT: &str = "$default";

/// What is behind a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The function of that name.
    Function(String),
    /// No function: the client gets this text.
    Mock(String),
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What answers.
    pub target: Target,
    /// Whether the answer's body goes to the client: on AWS, whether there is a route response.
    pub response: bool,
}

/// A function that decides who may connect.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authorizer {
    /// Its name.
    pub function: String,
    /// What a request must have for the function to be asked at all, such as
    /// `route.request.querystring.token`.
    #[serde(default)]
    pub identity: Vec<String>,
}

/// Where in a frame the name of its route is: `$request.body.action`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection(Vec<String>);

/// All routes of an API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    /// Where a frame names its route.
    pub selection: Selection,
    /// The routes by their keys.
    pub table: BTreeMap<String, Route>,
    /// Who is asked before `$connect`.
    pub authorizer: Option<Authorizer>,
}

/// The routes as a person writes them down.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoutesFile {
    selection: Option<String>,
    routes: BTreeMap<String, RouteEntry>,
    authorizer: Option<Authorizer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteEntry {
    function: Option<String>,
    mock: Option<String>,
    #[serde(default)]
    response: bool,
}

impl Route {
    /// A route to a function that the client hears nothing of.
    #[must_use]
    pub fn to(function: &str) -> Self {
        Self { target: Target::Function(function.to_owned()), response: false }
    }

    /// The same with a route response.
    #[must_use]
    pub fn answered_by(function: &str) -> Self {
        Self { response: true, ..Self::to(function) }
    }

    /// A route that always answers this text.
    #[must_use]
    pub fn mock(text: &str) -> Self {
        Self { target: Target::Mock(text.to_owned()), response: true }
    }
}

impl Selection {
    /// Reads an expression of the form `$request.body.name`, where the name may be a path.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(expression: &str) -> Result<Self, String> {
        let inner = expression.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        let inner = inner.or_else(|| expression.strip_prefix('$')).and_then(|rest| rest.strip_prefix("request.body."));
        let is_name =
            |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        match inner {
            Some(path) if path.split('.').all(is_name) => Ok(Self(path.split('.').map(str::to_owned).collect())),
            _ => Err(format!("`{expression}` is not understood: use $request.body.NAME, such as $request.body.action")),
        }
    }

    /// What a frame has at that place, if it is a scalar.
    fn find(&self, frame: &str) -> Option<String> {
        let body: Value = serde_json::from_str(frame).ok()?;
        match self.0.iter().try_fold(&body, |value, name| value.as_object()?.get(name))? {
            Value::String(text) => Some(text.clone()),
            scalar @ (Value::Number(_) | Value::Bool(_)) => Some(scalar.to_string()),
            _ => None,
        }
    }
}

impl Default for Selection {
    fn default() -> Self {
        Self(vec!["action".to_owned()])
    }
}

impl Routes {
    /// kschat's own.
    #[must_use]
    pub fn kschat() -> Self {
        let table = [
            (CONNECT, Route::to("connect")),
            (DISCONNECT, Route::to("disconnect")),
            ("send", Route::answered_by("send")),
            (DEFAULT, Route::answered_by("send")),
            ("ping", Route::mock(PONG)),
        ];
        let table = table.map(|(key, route)| (key.to_owned(), route)).into();
        Self { selection: Selection::default(), table, authorizer: None }
    }

    /// Reads a routes file that is already parsed.
    ///
    /// # Errors
    /// What would be right.
    pub fn from_value(value: Value) -> Result<Self, String> {
        let file: RoutesFile = serde_json::from_value(value).map_err(|error| error.to_string())?;
        let selection = file.selection.as_deref().map_or_else(|| Ok(Selection::default()), Selection::parse)?;
        let table = file.routes.into_iter().map(|(key, entry)| Ok((valid_key(key)?, entry.read()?)));
        let table: BTreeMap<String, Route> = table.collect::<Result<_, String>>()?;
        Ok(Self { selection, table, authorizer: file.authorizer })
    }

    /// The route of a frame and its key. Nobody gets to `$connect` or `$disconnect` by naming them.
    #[must_use]
    pub fn select(&self, frame: &str) -> Option<(&str, &Route)> {
        let named = self.selection.find(frame).filter(|key| !key.starts_with('$'));
        let named = named.and_then(|key| self.table.get_key_value(&key));
        named.or_else(|| self.table.get_key_value(DEFAULT)).map(|(key, route)| (key.as_str(), route))
    }
}

impl RouteEntry {
    fn read(self) -> Result<Route, String> {
        match (self.function, self.mock) {
            (Some(function), None) => Ok(Route { target: Target::Function(function), response: self.response }),
            (None, Some(text)) => Ok(Route::mock(&text)),
            _ => Err("each route needs either `function` or `mock`".to_owned()),
        }
    }
}

/// Refuses keys that no API could have.
pub(super) fn valid_key(key: String) -> Result<String, String> {
    let is_own = key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./ ".contains(&b)) && !key.is_empty();
    if is_own || [CONNECT, DISCONNECT, DEFAULT].contains(&key.as_str()) {
        Ok(key)
    } else {
        Err(format!("`{key}` is no route key: use letters and digits, or $connect, $disconnect, $default"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn routes(selection: &str) -> Routes {
        Routes { selection: Selection::parse(selection).unwrap(), ..Routes::kschat() }
    }

    fn key<'a>(routes: &'a Routes, frame: &str) -> &'a str {
        routes.select(frame).unwrap().0
    }

    #[test]
    fn the_route_is_what_the_selection_expression_finds() {
        assert_eq!(key(&routes("$request.body.action"), r#"{"action":"send"}"#), "send");
        assert_eq!(key(&routes("${request.body.action}"), r#"{"action":"send"}"#), "send");
        assert_eq!(key(&routes("$request.body.a.b"), r#"{"a":{"b":"send"}}"#), "send");
    }

    #[test]
    fn what_names_no_route_goes_to_default() {
        let routes = routes("$request.body.action");
        for frame in ["", "7", "\"send\"", "[]", "{}", "null", r#"{"action":7}"#, r#"{"action":"fly"}"#, "{"] {
            assert_eq!(key(&routes, frame), DEFAULT, "{frame}");
        }
    }

    #[test]
    fn a_client_can_not_call_the_routes_of_the_edge() {
        let routes = routes("$request.body.action");
        for key in [CONNECT, DISCONNECT] {
            assert_eq!(routes.select(&json!({ "action": key }).to_string()).unwrap().0, DEFAULT);
        }
    }

    #[test]
    fn a_number_can_name_a_route() {
        let mut routes = routes("$request.body.action");
        routes.table.insert("7".to_owned(), Route::to("seven"));
        assert_eq!(key(&routes, r#"{"action":7}"#), "7");
    }

    #[test]
    fn an_expression_that_is_not_understood_is_refused() {
        for expression in
            ["", "$request.body", "$request.body.", "request.body.a", "$request.header.a", "${a", "$request.body.a..b"]
        {
            assert!(Selection::parse(expression).unwrap_err().contains("such as $request.body.action"), "{expression}");
        }
    }

    #[test]
    fn a_routes_file_is_read_and_its_mistakes_are_told() {
        let file = json!({
            "selection": "$request.body.type",
            "routes": { "$default": { "function": "f" }, "say": { "function": "f", "response": true },
                        "ping": { "mock": "pong" } },
            "authorizer": { "function": "a", "identity": ["route.request.querystring.token"] },
        });
        let read = Routes::from_value(file).unwrap();
        assert_eq!(read.table["say"], Route::answered_by("f"));
        assert_eq!((&read.table["ping"], read.authorizer.unwrap().function.as_str()), (&Route::mock("pong"), "a"));
        for (file, problem) in [
            (json!({ "routes": { "say": {} } }), "either `function` or `mock`"),
            (json!({ "routes": { "$conect": { "function": "f" } } }), "is no route key"),
            (json!({ "routes": { "say": { "fuction": "f" } } }), "unknown field `fuction`"),
            (json!({}), "missing field `routes`"),
        ] {
            assert!(Routes::from_value(file).unwrap_err().contains(problem), "{problem}");
        }
    }
}
