//! Routing of frames to functions.

use std::{collections::BTreeMap, fmt};

use kschat_protocol::PONG;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

/// The route of a connecting client.
pub const CONNECT: &str = "$connect";
/// The route of a closed connection.
pub const DISCONNECT: &str = "$disconnect";
/// The route of every frame without another route.
pub const DEFAULT: &str = "$default";

/// Target of a route.
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
    /// The target.
    pub target: Target,
    /// Whether the response body goes to the client: on AWS, whether there is a route response.
    pub response: bool,
}

/// A Lambda authorizer, which decides who may connect.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authorizer {
    /// Name of the function.
    pub function: String,
    /// Identity source: what a request must have for the function to be invoked, such as
    /// `route.request.querystring.token`.
    #[serde(default)]
    pub identity: Vec<String>,
}

/// Route selection expression: `$request.body.action`.
///
/// ```
/// use kschat_edge::routes::{Routes, Selection};
///
/// let routes = Routes { selection: Selection::parse("$request.body.meta.type")?, ..Routes::kschat() };
/// assert_eq!(routes.select(r#"{"meta":{"type":"send"}}"#).map(|(key, _)| key), Some("send"));
/// assert!(Selection::parse("$request.header.action").is_err());
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection(Vec<String>);

/// All routes of an API.
///
/// ```
/// use kschat_edge::routes::{DEFAULT, Route, Routes};
///
/// let mut routes = Routes::kschat();
/// routes.table.insert("vote".to_owned(), Route::answered_by("poll"));
/// let key = |frame: &str| routes.select(frame).map(|(key, _)| key.to_owned());
/// assert_eq!(key(r#"{"action":"vote"}"#).as_deref(), Some("vote"));
/// assert_eq!(key(r#"{"action":"$connect"}"#).as_deref(), Some(DEFAULT), "no frame selects the edge's own routes");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    /// The route selection expression.
    pub selection: Selection,
    /// Routes by key.
    pub table: BTreeMap<String, Route>,
    /// Invoked before `$connect`.
    pub authorizer: Option<Authorizer>,
}

/// The format of a routes file.
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
    /// A route to a function without a route response.
    #[must_use]
    pub fn to(function: &str) -> Self {
        Self { target: Target::Function(function.to_owned()), response: false }
    }

    /// The same with a route response.
    #[must_use]
    pub fn answered_by(function: &str) -> Self {
        Self { response: true, ..Self::to(function) }
    }

    /// A route with a fixed response.
    #[must_use]
    pub fn mock(text: &str) -> Self {
        Self { target: Target::Mock(text.to_owned()), response: true }
    }
}

impl Selection {
    /// Parses an expression of the form `$request.body.name`, where the name may be a path.
    ///
    /// # Errors
    /// A description of the valid form.
    pub fn parse(expression: &str) -> Result<Self, String> {
        let inner = expression.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        let inner = inner.or_else(|| expression.strip_prefix('$')).and_then(|rest| rest.strip_prefix("request.body."));
        let is_name =
            |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        match inner {
            Some(path) if path.split('.').all(is_name) => Ok(Self(path.split('.').map(str::to_owned).collect())),
            _ => Err(format!("cannot parse `{expression}`: use $request.body.NAME, such as $request.body.action")),
        }
    }

    /// The scalar value at that path in a frame, if any.
    fn find(&self, frame: &str) -> Option<String> {
        let json = self.0.iter().try_fold(frame, |json, name| member(json, name))?;
        match serde_json::from_str(json).ok()? {
            Value::String(text) => Some(text),
            scalar @ (Value::Number(_) | Value::Bool(_)) => Some(scalar.to_string()),
            _ => None,
        }
    }
}

/// The JSON of an object's member; of several with that name, the last.
///
/// What is beside it is skipped, not converted: it may be valid JSON that no `Value` can hold, such as a number beyond
/// `f64`, half of a surrogate pair, or hundreds of levels.
fn member<'a>(json: &'a str, name: &str) -> Option<&'a str> {
    let mut object = serde_json::Deserializer::from_str(json);
    let value = object.deserialize_map(Member(name)).ok()?;
    object.end().ok()?;
    value
}

struct Member<'n>(&'n str);

impl<'de> Visitor<'de> for Member<'_> {
    type Value = Option<&'de str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is_wanted) = members.next_key_seed(IsName(self.0))? {
            let value: &RawValue = members.next_value()?;
            if is_wanted {
                found = Some(value.get());
            }
        }
        Ok(found)
    }
}

/// Whether a key is that name. Keys are read as bytes, as half of a surrogate pair is no text.
struct IsName<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for IsName<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<bool, D::Error> {
        key.deserialize_bytes(self)
    }
}

impl Visitor<'_> for IsName<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_bytes<E>(self, key: &[u8]) -> Result<bool, E> {
        Ok(key == self.0.as_bytes())
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

impl Default for Selection {
    fn default() -> Self {
        Self(vec!["action".to_owned()])
    }
}

impl Routes {
    /// kschat's own routes. The route `ack` of a deployment is left out, as it does the same as `$default`.
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

    /// Reads a deserialized routes file.
    ///
    /// # Errors
    /// A description of the valid form.
    pub fn from_value(value: Value) -> Result<Self, String> {
        let file: RoutesFile = serde_json::from_value(value).map_err(|error| error.to_string())?;
        let selection = file.selection.as_deref().map_or_else(|| Ok(Selection::default()), Selection::parse)?;
        let table = file.routes.into_iter().map(|(key, entry)| Ok((valid_key(key)?, entry.read()?)));
        let table: BTreeMap<String, Route> = table.collect::<Result<_, String>>()?;
        Ok(Self { selection, table, authorizer: file.authorizer })
    }

    /// The route of a frame and its key. Frames can't select `$connect` or `$disconnect`.
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

/// Rejects keys that no API can have.
pub(super) fn valid_key(key: String) -> Result<String, String> {
    let is_own = key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./ ".contains(&b)) && !key.is_empty();
    if is_own || [CONNECT, DISCONNECT, DEFAULT].contains(&key.as_str()) {
        Ok(key)
    } else {
        Err(format!("`{key}` is not a route key: use letters and digits, or $connect, $disconnect, $default"))
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
    fn selection_expression_picks_route() {
        assert_eq!(key(&routes("$request.body.action"), r#"{"action":"send"}"#), "send");
        assert_eq!(key(&routes("${request.body.action}"), r#"{"action":"send"}"#), "send");
        assert_eq!(key(&routes("$request.body.a.b"), r#"{"a":{"b":"send"}}"#), "send");
    }

    #[test]
    fn unmatched_frame_goes_to_default_route() {
        let routes = routes("$request.body.action");
        for frame in ["", "7", "\"send\"", "[]", "{}", "null", r#"{"action":7}"#, r#"{"action":"fly"}"#, "{"] {
            assert_eq!(key(&routes, frame), DEFAULT, "{frame}");
        }
    }

    /// The managed edge reads no more of a frame than its route selection expression names.
    #[test]
    fn frame_that_no_value_can_hold_is_routed_by_its_key() {
        let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
        for value in [r#""cut \ud83d""#, "1e400", "-1e400", &deep, "123456789012345678901234567890"] {
            for frame in [
                format!(r#"{{"action":"send","msg":{value}}}"#),
                format!(r#"{{"msg":{value},"action":"send"}}"#),
                format!(r#"{{"action":{value},"action":"send"}}"#),
                format!(r#"{{"\ud83d":{value},"\u0061ction":"send"}}"#),
            ] {
                assert_eq!(key(&routes("$request.body.action"), &frame), "send", "{frame:.60}");
            }
            let nested = format!(r#"{{"a":{{"x":{value},"b":"send"}}}}"#);
            assert_eq!(key(&routes("$request.body.a.b"), &nested), "send", "{nested:.60}");
            let key_itself = format!(r#"{{"action":{value}}}"#);
            assert_eq!(key(&routes("$request.body.action"), &key_itself), DEFAULT, "{key_itself:.60}");
        }
        for invalid in [r#"{"action":"send","msg":1e}"#, r#"{"action":"send"} x"#, r#"{"action":"send","a":"\x"}"#] {
            assert_eq!(key(&routes("$request.body.action"), invalid), DEFAULT, "{invalid}");
        }
    }

    #[test]
    fn client_frame_cannot_select_reserved_routes() {
        let routes = routes("$request.body.action");
        for key in [CONNECT, DISCONNECT] {
            assert_eq!(routes.select(&json!({ "action": key }).to_string()).unwrap().0, DEFAULT);
        }
    }

    #[test]
    fn numeric_action_selects_route() {
        let mut routes = routes("$request.body.action");
        routes.table.insert("7".to_owned(), Route::to("seven"));
        assert_eq!(key(&routes, r#"{"action":7}"#), "7");
    }

    #[test]
    fn invalid_selection_expression_is_refused() {
        for expression in
            ["", "$request.body", "$request.body.", "request.body.a", "$request.header.a", "${a", "$request.body.a..b"]
        {
            assert!(Selection::parse(expression).unwrap_err().contains("such as $request.body.action"), "{expression}");
        }
    }

    #[test]
    fn routes_file_errors_are_reported() {
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
            (json!({ "routes": { "$conect": { "function": "f" } } }), "is not a route key"),
            (json!({ "routes": { "say": { "fuction": "f" } } }), "unknown field `fuction`"),
            (json!({}), "missing field `routes`"),
        ] {
            assert!(Routes::from_value(file).unwrap_err().contains(problem), "{problem}");
        }
    }
}
