//! The chat page.
//!
//! The page is made to be rendered by any host application with five values; here the local stack is that
//! application. It signs tokens for whoever asks, so it does that on loopback only, and only for a browser that
//! asked for loopback by name: a page elsewhere whose name was made to point here gets nothing.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::{ConnectInfo, Query, State, rejection::QueryRejection},
    http::{
        HeaderMap, StatusCode,
        header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use kschat_adapters::jwt::sign_seed_token;
use kschat_core::{Clock, SystemClock};
use kschat_protocol::UserId;
use serde::Deserialize;

use crate::loopback::is_local;

const CLIENT: &str = include_str!("../../../templates/client.html");
const START: &str = include_str!("../../../templates/start.html");
const SCRIPT: &str = include_str!("../../../templates/client.js");
const STYLE: &str = include_str!("../../../templates/client.css");
const ICON: &str = include_str!("../../../templates/icon.svg");

/// How long a page can be open before it must be loaded again.
const TOKEN_LIFE: Duration = Duration::from_secs(12 * 60 * 60);

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws: wss:; \
                      img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What the page is rendered with.
#[derive(Clone)]
pub struct Page {
    /// The stage that it connects to.
    pub stage: String,
    /// Signs its tokens.
    pub secret: String,
}

#[derive(Deserialize)]
struct Names {
    uid: Option<String>,
    rid: Option<String>,
}

impl Page {
    /// The page at `/`, and what it loads.
    pub fn routes(self) -> Router {
        let file = |content_type, body| get(move || async move { with_type(content_type, body) });
        Router::new()
            .route("/", get(index))
            .route("/client.js", file("text/javascript; charset=utf-8", SCRIPT))
            .route("/client.css", file("text/css; charset=utf-8", STYLE))
            .route("/icon.svg", file("image/svg+xml", ICON))
            .with_state(self)
    }

    fn render(&self, host: &str, uid: &UserId, rid: &UserId) -> Result<String, String> {
        let now = SystemClock.now();
        let token = sign_seed_token(&self.secret, uid, now, now.plus(TOKEN_LIFE))?;
        let url = format!("ws://{host}/{}", self.stage);
        let random = fastrand::u32(..).to_string();
        let values =
            [("uid", uid.as_str()), ("rid", rid.as_str()), ("random", &random), ("tokenId", &token), ("url", &url)];
        Ok(fill(CLIENT, &values))
    }
}

async fn index(
    State(page): State<Page>,
    names: Result<Query<Names>, QueryRejection>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    if !is_local(peer, &headers) {
        return refuse();
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let Ok(Query(names)) = names else {
        return html(StatusCode::BAD_REQUEST, start("Each name is needed once."));
    };
    match (given(names.uid), given(names.rid)) {
        (None, None) => html(StatusCode::OK, start("")),
        (Some(Ok(uid)), Some(Ok(rid))) => match page.render(host, &uid, &rid) {
            Ok(text) => html(StatusCode::OK, text),
            Err(error) => html(StatusCode::INTERNAL_SERVER_ERROR, start(&error)),
        },
        _ => html(StatusCode::BAD_REQUEST, start("Both names are needed, each of 1 to 128 bytes.")),
    }
}

fn given(name: Option<String>) -> Option<Result<UserId, kschat_protocol::InvalidId>> {
    name.map(UserId::try_from)
}

fn start(notice: &str) -> String {
    fill(START, &[("notice", notice)])
}

fn refuse() -> Response {
    let why = "This page signs tokens, so the local stack shows it on this machine only: open it by localhost or 127.0.0.1.\n";
    (StatusCode::FORBIDDEN, why).into_response()
}

fn html(status: StatusCode, text: String) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        // It holds a token.
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, text).into_response()
}

fn with_type(content_type: &'static str, body: &'static str) -> Response {
    let headers = [(CONTENT_TYPE, content_type), (CACHE_CONTROL, "no-cache"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (headers, body).into_response()
}

/// Puts values, made safe for HTML, in the place of `{{name}}`. No value is looked at for names again.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut parts = template.split("{{");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("}}").unwrap_or((part, ""));
        let value = values.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value);
        escape(value, &mut text);
        text.push_str(rest);
    }
    text
}

fn escape(value: &str, text: &mut String) {
    for letter in value.chars() {
        match letter {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&quot;"),
            '\'' => text.push_str("&#39;"),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_can_neither_leave_its_attribute_nor_name_another_value() {
        let filled = fill(r#"<b a="{{x}}" c="{{y}}">{{z}}"#, &[("x", r#""><script>{{y}}&'"#), ("y", "Y")]);
        assert_eq!(filled, r#"<b a="&quot;&gt;&lt;script&gt;{{y}}&amp;&#39;" c="Y">"#);
    }

    #[test]
    fn the_page_has_a_place_for_each_of_its_five_values() {
        let page = Page { stage: "dev".to_owned(), secret: "s".to_owned() };
        let (uid, rid) = (UserId::try_from("al\"ice").unwrap(), UserId::try_from("bob").unwrap());
        let text = page.render("localhost:3000", &uid, &rid).unwrap();
        assert!(text.contains(r#"data-uid="al&quot;ice" data-rid="bob""#));
        assert!(text.contains(r#"data-url="ws://localhost:3000/dev""#));
        assert!(text.contains("data-token-id=\"ey") && !text.contains("{{"));
    }
}
