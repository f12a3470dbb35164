//! Events for functions, in exactly the managed edge's format.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use axum::http::{HeaderMap, header::USER_AGENT};
use base64::{Engine, engine::general_purpose::URL_SAFE};
use serde_json::{Map, Value, json};
use time::{OffsetDateTime, UtcDateTime, format_description::StaticFormatDescription, macros::format_description};

const REQUEST_TIME: StaticFormatDescription =
    format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");

/// The edge's id of the API; local callers never use it.
pub(super) const API_ID: &str = "local";

/// Bytes of an id: in text 15 characters and a `=`.
const ID_BYTES: usize = 11;

/// Bytes of an id that distinguish connections; a message id shares the rest with its connection.
const ID_UNIQUE_BYTES: usize = 8;

/// Infix that the ids of connections and of requests share in captured events of one API.
const CONNECTION_ID_INFIX: [u8; 3] = [0x20, 0x03, 0x02];
const REQUEST_ID_INFIX: [u8; 3] = [0x20, 0x03, 0x05];

/// A client, as its handshake describes it.
pub(super) struct Client {
    pub(super) id: String,
    pub(super) connected: OffsetDateTime,
    pub(super) identity: Value,
    stage: String,
    domain: String,
    headers: BTreeMap<String, Vec<String>>,
    query: BTreeMap<String, Vec<String>>,
    /// The authorizer's context for the client.
    pub(super) authorizer: Option<Value>,
    /// The authorizer's latency, in milliseconds: only in the `$connect` event.
    pub(super) authorizer_latency: u64,
}

fn new_id(middle: [u8; 3]) -> String {
    let mut bytes: [u8; ID_BYTES] = std::array::from_fn(|_| fastrand::u8(..));
    bytes[6..9].copy_from_slice(&middle);
    URL_SAFE.encode(bytes)
}

/// The id of a request.
pub(super) fn new_request_id() -> String {
    new_id(REQUEST_ID_INFIX)
}

/// Whether the text has the format of the edge's ids.
pub(super) fn is_id(text: &str) -> bool {
    URL_SAFE.decode(text).is_ok_and(|bytes| bytes.len() == ID_BYTES)
}

impl Client {
    pub(super) fn new(stage: &str, peer: SocketAddr, headers: &HeaderMap, query: Option<&str>) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let mut identity = json!({ "sourceIp": peer.ip().to_string() });
        if headers.contains_key(USER_AGENT) {
            identity["userAgent"] = text("user-agent").into();
        }
        Self {
            id: new_id(CONNECTION_ID_INFIX),
            connected: OffsetDateTime::now_utc(),
            identity,
            stage: stage.to_owned(),
            domain: text("host"),
            headers: edge_headers(headers, peer),
            query: query_values(query),
            authorizer: None,
            authorizer_latency: 0,
        }
    }

    /// The first value of a header, whose name is case-insensitive.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.and_then(|(_, values)| values.first()).map(String::as_str)
    }

    /// The first value of a query parameter.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name).and_then(|values| values.first()).map(String::as_str)
    }

    /// The ARN that an authorizer's policy allows or denies.
    pub(super) fn method_arn(&self) -> String {
        format!("arn:aws:execute-api:us-east-1:000000000000:{API_ID}/{}/$connect", self.stage)
    }

    /// The event for an authorizer of type REQUEST.
    ///
    /// Source: Amazon API Gateway developer guide, "Lambda REQUEST authorizers for WebSocket APIs".
    pub(super) fn authorize_event(&self) -> Value {
        let mut event = self.connect_event();
        for (name, value) in [("Connection", "upgrade"), ("Upgrade", "websocket"), ("content-length", "0")] {
            event["headers"][name] = value.into();
            event["multiValueHeaders"][name] = json!([value]);
        }
        event["type"] = "REQUEST".into();
        event["methodArn"] = self.method_arn().into();
        event["stageVariables"] = json!({});
        for name in ["queryStringParameters", "multiValueQueryStringParameters"] {
            if event.get(name).is_none() {
                event[name] = json!({});
            }
        }
        if let Some(event) = event.as_object_mut() {
            event.remove("isBase64Encoded");
        }
        event
    }

    pub(super) fn connect_event(&self) -> Value {
        let mut event = json!({
            "headers": last_values(&self.headers),
            "multiValueHeaders": self.headers,
            "requestContext": self.context("$connect", "CONNECT"),
            "isBase64Encoded": false,
        });
        if self.authorizer.is_some() {
            event["requestContext"]["authorizer"]["integrationLatency"] = self.authorizer_latency.into();
        }
        if !self.query.is_empty() {
            event["queryStringParameters"] = last_values(&self.query).into();
            event["multiValueQueryStringParameters"] = json!(self.query);
        }
        event
    }

    pub(super) fn disconnect_event(&self, code: u16, reason: &str) -> Value {
        let mut context = self.context("$disconnect", "DISCONNECT");
        context["disconnectStatusCode"] = code.into();
        context["disconnectReason"] = reason.into();
        // The edge sends exactly these four headers.
        let headers = BTreeMap::from([
            ("Host".to_owned(), vec![self.domain.clone()]),
            ("x-api-key".to_owned(), vec![String::new()]),
            ("X-Forwarded-For".to_owned(), vec![String::new()]),
            ("x-restapi".to_owned(), vec![String::new()]),
        ]);
        json!({
            "headers": last_values(&headers),
            "multiValueHeaders": headers,
            "requestContext": context,
            "isBase64Encoded": false,
        })
    }

    fn message_id(&self) -> String {
        let (own, shared) = (new_id(CONNECTION_ID_INFIX), self.id.get(ID_UNIQUE_BYTES..).unwrap_or_default());
        format!("{}{shared}", own.get(..ID_UNIQUE_BYTES).unwrap_or_default())
    }

    fn context(&self, route: &str, event: &str) -> Value {
        self.context_of(route, event, OffsetDateTime::now_utc(), &new_request_id())
    }

    fn context_of(&self, route: &str, event: &str, now: OffsetDateTime, request: &str) -> Value {
        let mut context = json!({
            "routeKey": route,
            "eventType": event,
            "extendedRequestId": request,
            "requestTime": request_time(now),
            "messageDirection": "IN",
            "stage": self.stage,
            "connectedAt": millis(self.connected),
            "requestTimeEpoch": millis(now),
            "identity": self.identity,
            "requestId": request,
            "domainName": self.domain,
            "connectionId": self.id,
            "apiId": API_ID,
        });
        if let Some(authorizer) = &self.authorizer {
            context["authorizer"] = authorizer.clone();
        }
        context
    }
}

/// A client's frame, as an event for a function.
pub struct MessageEvent {
    client: Arc<Client>,
    route: String,
    body: String,
    request_id: String,
    message_id: String,
    received: OffsetDateTime,
}

impl MessageEvent {
    pub(super) fn new(client: &Arc<Client>, route: &str, body: String) -> Self {
        Self {
            client: Arc::clone(client),
            route: route.to_owned(),
            body,
            request_id: new_request_id(),
            message_id: client.message_id(),
            received: OffsetDateTime::now_utc(),
        }
    }

    /// The id of the connection that the frame came from.
    #[must_use]
    pub fn connection_id(&self) -> &str {
        &self.client.id
    }

    /// The frame's text.
    #[must_use]
    pub fn body(&self) -> &str {
        &self.body
    }

    pub(super) fn request_id(&self) -> &str {
        &self.request_id
    }

    /// The event in exactly the managed edge's format.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut context = self.client.context_of(&self.route, "MESSAGE", self.received, &self.request_id);
        context["messageId"] = self.message_id.as_str().into();
        json!({ "requestContext": context, "body": self.body, "isBase64Encoded": false })
    }
}

pub(super) fn millis(moment: OffsetDateTime) -> i64 {
    i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).unwrap_or_default()
}

fn request_time(moment: OffsetDateTime) -> String {
    UtcDateTime::from(moment).format(&REQUEST_TIME).unwrap_or_default()
}

/// The single-value map, which holds the last of repeated values.
fn last_values(values: &BTreeMap<String, Vec<String>>) -> Map<String, Value> {
    let last = |values: &Vec<String>| values.last().cloned().unwrap_or_default().into();
    values.iter().map(|(name, values)| (name.clone(), last(values))).collect()
}

/// The client's headers as the edge forwards them: in canonical case, without hop-by-hop headers, and with those that
/// the edge adds.
fn edge_headers(headers: &HeaderMap, peer: SocketAddr) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if !matches!(name.as_str(), "connection" | "upgrade") {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            all.entry(canonical_header_name(name.as_str())).or_default().push(value);
        }
    }
    let trace = format!("Root=1-{:08x}-{:024x}", OffsetDateTime::now_utc().unix_timestamp(), fastrand::u128(..) >> 32);
    for (name, value) in [
        ("X-Amzn-Trace-Id", trace),
        ("X-Forwarded-For", peer.ip().to_string()),
        ("X-Forwarded-Port", "443".to_owned()),
        ("X-Forwarded-Proto", "https".to_owned()),
    ] {
        all.insert(name.to_owned(), vec![value]);
    }
    all
}

fn canonical_header_name(name: &str) -> String {
    if let Some(rest) = name.strip_prefix("sec-websocket-") {
        return format!("Sec-WebSocket-{}", canonical_header_name(rest));
    }
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
    };
    name.split('-').map(capital).collect::<Vec<_>>().join("-")
}

fn query_values(query: Option<&str>) -> BTreeMap<String, Vec<String>> {
    let pairs: Vec<(String, String)> =
        query.and_then(|query| serde_urlencoded::from_str(query).ok()).unwrap_or_default();
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in pairs {
        values.entry(name).or_default().push(value);
    }
    values
}

#[cfg(test)]
mod tests {
    use aws_lambda_events::apigw::ApiGatewayWebsocketProxyRequest;

    use super::*;

    fn client(query: Option<&str>) -> Client {
        let headers = [
            ("host", "abc.example"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "k"),
            ("user-agent", "test"),
            ("x-twice", "one"),
            ("x-twice", "two"),
        ];
        let parse = |(name, value): (&str, &str)| (name.parse().unwrap(), value.parse().unwrap());
        let mut map = HeaderMap::new();
        for (name, value) in headers.map(parse) {
            map.append::<axum::http::HeaderName>(name, value);
        }
        Client::new("dev", "10.0.0.1:5000".parse().unwrap(), &map, query)
    }

    fn message_event(client: Client, route: &str, body: &str) -> Value {
        MessageEvent::new(&Arc::new(client), route, body.to_owned()).to_json()
    }

    fn keys(value: &Value) -> Vec<&str> {
        let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        keys
    }

    const CONTEXT: [&str; 13] = [
        "apiId",
        "connectedAt",
        "connectionId",
        "domainName",
        "eventType",
        "extendedRequestId",
        "identity",
        "messageDirection",
        "requestContext",
        "requestId",
        "requestTime",
        "requestTimeEpoch",
        "routeKey",
    ];

    fn context_keys<'a>(more: &[&'a str]) -> Vec<&'a str> {
        let mut keys: Vec<&str> = CONTEXT.into_iter().filter(|key| *key != "requestContext").collect();
        keys.push("stage");
        keys.extend(more);
        keys.sort_unstable();
        keys
    }

    #[test]
    fn connect_event_fields_match_captured_event() {
        let event = client(Some("token=a%2Bb&ksId=7&ksId=8")).connect_event();
        assert_eq!(
            keys(&event),
            [
                "headers",
                "isBase64Encoded",
                "multiValueHeaders",
                "multiValueQueryStringParameters",
                "queryStringParameters",
                "requestContext"
            ]
        );
        assert_eq!(keys(&event["requestContext"]), context_keys(&[]));
        assert_eq!(event["queryStringParameters"], json!({ "token": "a+b", "ksId": "8" }));
        assert_eq!(event["multiValueQueryStringParameters"]["ksId"], json!(["7", "8"]));
        assert_eq!(event["headers"]["Sec-WebSocket-Key"], "k");
        assert_eq!(event["headers"]["X-Twice"], "two");
        assert_eq!(event["headers"].get("Upgrade"), None);
        assert_eq!(event["requestContext"]["identity"], json!({ "sourceIp": "10.0.0.1", "userAgent": "test" }));
        let bare = client(None).connect_event();
        assert_eq!(keys(&bare), ["headers", "isBase64Encoded", "multiValueHeaders", "requestContext"]);
    }

    #[test]
    fn message_event_omits_headers_and_query() {
        let event = message_event(client(Some("token=T")), "send", "{}");
        assert_eq!(keys(&event), ["body", "isBase64Encoded", "requestContext"]);
        assert_eq!(keys(&event["requestContext"]), context_keys(&["messageId"]));
    }

    #[test]
    fn disconnect_event_has_four_synthetic_headers() {
        let event = client(None).disconnect_event(1005, "Client-side close frame status not set");
        assert_eq!(keys(&event), ["headers", "isBase64Encoded", "multiValueHeaders", "requestContext"]);
        assert_eq!(keys(&event["headers"]), ["Host", "X-Forwarded-For", "x-api-key", "x-restapi"]);
        assert_eq!(keys(&event["requestContext"]), context_keys(&["disconnectReason", "disconnectStatusCode"]));
    }

    #[test]
    fn event_ids_have_sixteen_characters() {
        let client = Arc::new(client(None));
        let event = || MessageEvent::new(&client, "send", String::new()).to_json();
        let (one, two) = (event(), event());
        assert_eq!(client.id.len(), 16);
        assert!(client.id.ends_with('=') && is_id(&client.id) && !is_id("abc"));
        assert_eq!(one["requestContext"]["connectedAt"], two["requestContext"]["connectedAt"]);
        assert_ne!(one["requestContext"]["requestId"], two["requestContext"]["requestId"]);
        assert_eq!(one["requestContext"]["requestId"], one["requestContext"]["extendedRequestId"]);
    }

    #[test]
    fn request_time_uses_access_log_format() {
        let moment = OffsetDateTime::from_unix_timestamp(1_731_324_924).unwrap();
        assert_eq!(request_time(moment), "11/Nov/2024:11:35:24 +0000");
    }

    #[test]
    fn lambda_events_crate_parses_every_event() {
        let client = Arc::new(client(Some("token=T")));
        let message = MessageEvent::new(&client, "$default", "x".to_owned());
        for event in [client.connect_event(), message.to_json(), client.disconnect_event(1000, "bye")] {
            let read: ApiGatewayWebsocketProxyRequest = serde_json::from_value(event).unwrap();
            assert_eq!(read.request_context.connection_id, Some(client.id.clone()));
        }
    }
}
