//! The chat page.
//!
//! The page is made to be rendered by any host application with a few values; here the local stack is that
//! application. It signs tokens for whoever asks, so it does that on loopback only, and only for a browser that
//! asked for loopback by name: a page elsewhere whose name was made to point here gets nothing, nor does whoever comes through
//! a proxy or a tunnel.

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
use tower_http::compression::CompressionLayer;

use crate::loopback::{NotLocal, check_local};

const CLIENT: &str = include_str!("../../../templates/client.html");
const START: &str = include_str!("../../../templates/start.html");
const ICON: &str = include_str!("../../../templates/icon.svg");

const SCRIPT_TYPE: &str = "text/javascript; charset=utf-8";
const STYLE_TYPE: &str = "text/css; charset=utf-8";

/// What the page loads: path, content type, content.
const FILES: [(&str, &str, &str); 11] = [
    ("/kschat.js", SCRIPT_TYPE, include_str!("../../../templates/kschat.js")),
    ("/client.js", SCRIPT_TYPE, include_str!("../../../templates/client.js")),
    ("/composer.js", SCRIPT_TYPE, include_str!("../../../templates/composer.js")),
    ("/history.js", SCRIPT_TYPE, include_str!("../../../templates/history.js")),
    ("/list.js", SCRIPT_TYPE, include_str!("../../../templates/list.js")),
    ("/log.js", SCRIPT_TYPE, include_str!("../../../templates/log.js")),
    ("/notices.js", SCRIPT_TYPE, include_str!("../../../templates/notices.js")),
    ("/state.js", SCRIPT_TYPE, include_str!("../../../templates/state.js")),
    ("/words.js", SCRIPT_TYPE, include_str!("../../../templates/words.js")),
    ("/client.css", STYLE_TYPE, include_str!("../../../templates/client.css")),
    ("/icon.svg", "image/svg+xml", ICON),
];

/// How long a token lasts; the page renews its own in time.
const TOKEN_LIFE: Duration = Duration::from_secs(60 * 60);

/// What the page may do; `connect-src` is added to it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; form-action 'self'; \
                      base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'; connect-src 'self'";

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
        let files = FILES.into_iter().fold(Router::new(), |files, (path, content_type, body)| {
            files.route(path, get(move || async move { with_type(content_type, body) }))
        });
        // The page itself stays as it is: it holds a token beside what a link has said.
        let files = files.layer(CompressionLayer::new());
        Router::new().route("/", get(index)).route("/token", get(token)).with_state(self).merge(files)
    }

    fn sign(&self, uid: &UserId) -> Result<String, String> {
        let now = SystemClock.now();
        sign_seed_token(&self.secret, uid, now, now.plus(TOKEN_LIFE))
    }

    fn render(&self, host: &str, uid: &UserId, rid: Option<&UserId>) -> Result<String, String> {
        let values = [
            ("uid", uid.as_str()),
            ("rid", rid.map_or("", UserId::as_str)),
            ("random", &fastrand::u32(..).to_string()),
            ("tokenId", &self.sign(uid)?),
            ("url", &format!("ws://{host}/{}", self.stage)),
            ("tokenUrl", "/token"),
            ("switchUrl", "/"),
        ];
        Ok(fill(CLIENT, &values))
    }
}

/// A fresh token for whoever asks, as a host application gives one to whom it knows.
async fn token(
    State(page): State<Page>,
    names: Result<Query<Names>, QueryRejection>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    if let Err(why) = check_local(peer, &headers) {
        return refuse(why);
    }
    let Some(Ok(uid)) = names.ok().and_then(|Query(names)| given(names.uid)) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    match page.sign(&uid) {
        Ok(token) => ([(CACHE_CONTROL, "no-store"), (X_CONTENT_TYPE_OPTIONS, "nosniff")], token).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn index(
    State(page): State<Page>,
    names: Result<Query<Names>, QueryRejection>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    if let Err(why) = check_local(peer, &headers) {
        return refuse(why);
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let Ok(Query(names)) = names else {
        return html(StatusCode::BAD_REQUEST, host, start("Each name is given once."));
    };
    match (given(names.uid), given(names.rid).transpose()) {
        (None, Ok(None)) => html(StatusCode::OK, host, start("")),
        (Some(Ok(uid)), Ok(rid)) => match page.render(host, &uid, rid.as_ref()) {
            Ok(text) => html(StatusCode::OK, host, text),
            Err(error) => html(StatusCode::INTERNAL_SERVER_ERROR, host, start(&error)),
        },
        _ => html(StatusCode::BAD_REQUEST, host, start("Say who you are. A name has 1 to 128 bytes.")),
    }
}

fn given(name: Option<String>) -> Option<Result<UserId, kschat_protocol::InvalidId>> {
    // An empty field of the start page is a name that was not given.
    name.filter(|name| !name.is_empty()).map(UserId::try_from)
}

fn start(notice: &str) -> String {
    fill(START, &[("notice", notice)])
}

fn refuse(why: NotLocal) -> Response {
    (StatusCode::FORBIDDEN, format!("This page signs tokens for whoever asks, so it is {why}.\n")).into_response()
}

fn html(status: StatusCode, host: &str, text: String) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        // It holds a token.
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    // Not every browser takes a WebSocket of the same origin for `self`.
    let policy = [(CONTENT_SECURITY_POLICY, format!("{POLICY} ws://{host}"))];
    (status, headers, policy, text).into_response()
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
    fn the_page_has_a_place_for_each_of_its_values() {
        let page = Page { stage: "dev".to_owned(), secret: "s".to_owned() };
        let (uid, rid) = (UserId::try_from("al\"ice").unwrap(), UserId::try_from("bob").unwrap());
        let text = page.render("localhost:3000", &uid, Some(&rid)).unwrap();
        assert!(text.contains(r#"data-uid="al&quot;ice" data-rid="bob""#));
        assert!(text.contains(r#"data-url="ws://localhost:3000/dev""#));
        assert!(text.contains(r#"data-token-url="/token" data-switch-url="/""#));
        assert!(text.contains("data-token-id=\"ey") && !text.contains("{{"));
        assert!(page.render("localhost:3000", &uid, None).unwrap().contains(r#"data-rid="""#));
    }
}
