//! The chat page.
//!
//! Any host application can render the page with a few values; here the local stack does. It signs tokens without
//! authentication, so only on loopback, and only for a browser that requested loopback by name. That excludes DNS
//! rebinding by remote pages, and requests through a proxy or tunnel.

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
use kschat_adapters::jwt::sign_v1_token;
use kschat_core::{Clock, SystemClock};
use kschat_edge::loopback::{NotLocal, check_local};
use kschat_protocol::UserId;
use serde::Deserialize;
use tower_http::compression::CompressionLayer;

const CLIENT: &str = include_str!("../../../../templates/client.html");
const START: &str = include_str!("../../../../templates/start.html");
const ICON: &str = include_str!("../../../../templates/icon.svg");

const SCRIPT_TYPE: &str = "text/javascript; charset=utf-8";
const STYLE_TYPE: &str = "text/css; charset=utf-8";

/// A script, under the path by which other scripts import it.
macro_rules! script {
    ($path:literal) => {
        (concat!("/", $path), SCRIPT_TYPE, include_str!(concat!("../../../../templates/", $path)))
    };
}

/// Files of the page: path, content type, content.
const FILES: [(&str, &str, &str); 26] = [
    script!("kschat.js"),
    script!("kschat/common.js"),
    script!("kschat/connection.js"),
    script!("kschat/inbox.js"),
    script!("kschat/outbox.js"),
    script!("kschat/requests.js"),
    script!("kschat/rooms.js"),
    script!("kschat/storage.js"),
    script!("kschat/refusal.js"),
    script!("client.js"),
    script!("composer.js"),
    script!("dialog.js"),
    script!("find.js"),
    script!("history.js"),
    script!("list.js"),
    script!("log.js"),
    script!("memory.js"),
    script!("notify.js"),
    script!("status.js"),
    script!("texts.js"),
    script!("texts.de.js"),
    script!("words.js"),
    ("/client.css", STYLE_TYPE, include_str!("../../../../templates/client.css")),
    ("/dialog.css", STYLE_TYPE, include_str!("../../../../templates/dialog.css")),
    ("/start.css", STYLE_TYPE, include_str!("../../../../templates/start.css")),
    ("/icon.svg", "image/svg+xml", ICON),
];

/// Lifetime of a token; the page renews its own in time.
const PAGE_TOKEN_TTL: Duration = Duration::from_secs(60 * 60);

/// Content security policy of the page; `connect-src` is appended.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; form-action 'self'; \
                      base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'; connect-src 'self'";

/// Values with which the page is rendered.
#[derive(Clone)]
pub struct Page {
    /// The stage that it connects to.
    pub stage: String,
    /// Secret that signs its tokens.
    pub secret: String,
}

#[derive(Deserialize)]
struct PageQuery {
    uid: Option<String>,
    rid: Option<String>,
}

impl Page {
    /// Serves the page at `/`, and its files.
    pub fn routes(self) -> Router {
        let files = FILES.into_iter().fold(Router::new(), |files, (path, content_type, body)| {
            files.route(path, get(move || async move { with_type(content_type, body) }))
        });
        // The page itself is not compressed: it holds a token beside text from the URL.
        let files = files.layer(CompressionLayer::new());
        Router::new().route("/", get(index)).route("/token", get(token)).with_state(self).merge(files)
    }

    fn sign(&self, uid: &UserId) -> Result<String, String> {
        let now = SystemClock.now();
        sign_v1_token(&self.secret, uid, now, now.plus(PAGE_TOKEN_TTL))
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

/// Issues a fresh token without authentication; a real host application would authenticate the user.
async fn token(
    State(page): State<Page>,
    names: Result<Query<PageQuery>, QueryRejection>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    if let Err(why) = check_local(peer, &headers) {
        return refuse(why);
    }
    let Some(Ok(uid)) = names.ok().and_then(|Query(names)| parse_user_id(names.uid)) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    match page.sign(&uid) {
        Ok(token) => ([(CACHE_CONTROL, "no-store"), (X_CONTENT_TYPE_OPTIONS, "nosniff")], token).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn index(
    State(page): State<Page>,
    names: Result<Query<PageQuery>, QueryRejection>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    if let Err(why) = check_local(peer, &headers) {
        return refuse(why);
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let Ok(Query(names)) = names else {
        return html(StatusCode::BAD_REQUEST, host, start("Pass each name only once."));
    };
    match (parse_user_id(names.uid), parse_user_id(names.rid).transpose()) {
        (None, Ok(None)) => html(StatusCode::OK, host, start("")),
        (Some(Ok(uid)), Ok(rid)) => match page.render(host, &uid, rid.as_ref()) {
            Ok(text) => html(StatusCode::OK, host, text),
            Err(error) => html(StatusCode::INTERNAL_SERVER_ERROR, host, start(&error)),
        },
        _ => html(StatusCode::BAD_REQUEST, host, start("Enter your name (1 to 128 bytes).")),
    }
}

fn parse_user_id(name: Option<String>) -> Option<Result<UserId, kschat_protocol::InvalidId>> {
    // An empty field of the start page counts as missing.
    name.filter(|name| !name.is_empty()).map(UserId::try_from)
}

fn start(notice: &str) -> String {
    fill(START, &[("notice", notice)])
}

fn refuse(why: NotLocal) -> Response {
    (StatusCode::FORBIDDEN, format!("This page signs tokens without authentication, so it is {why}.\n")).into_response()
}

fn html(status: StatusCode, host: &str, text: String) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        // It contains a token.
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    // Not every browser lets `self` include a WebSocket of the same origin.
    let policy = [(CONTENT_SECURITY_POLICY, format!("{POLICY} ws://{host}"))];
    (status, headers, policy, text).into_response()
}

fn with_type(content_type: &'static str, body: &'static str) -> Response {
    let headers = [(CONTENT_TYPE, content_type), (CACHE_CONTROL, "no-cache"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (headers, body).into_response()
}

/// Replaces `{{name}}` by HTML-escaped values. Values are not expanded again.
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
    for character in value.chars() {
        match character {
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
    use std::collections::BTreeSet;

    use super::*;

    /// The paths that a script imports, as a browser resolves them.
    fn imports(path: &str, script: &str) -> Vec<String> {
        let (folder, _) = path.rsplit_once('/').unwrap();
        let quoted = script.split(" from \"./").skip(1).filter_map(|rest| rest.split('"').next());
        quoted.map(|name| format!("{folder}/{name}")).collect()
    }

    #[test]
    fn every_script_that_another_one_imports_is_served() {
        let served: BTreeSet<String> = FILES.iter().map(|(path, ..)| (*path).to_owned()).collect();
        let imported: BTreeSet<String> = FILES.iter().flat_map(|(path, _, script)| imports(path, script)).collect();
        assert!(imported.len() > 12 && imported.is_subset(&served), "{imported:?}");
    }

    #[test]
    fn every_script_is_named_by_the_page_or_by_one_that_the_page_names() {
        let script = |path: &str| FILES.iter().find(|(served, ..)| *served == path).map_or("", |(.., script)| script);
        let named = ["/client.js", "/kschat.js"];
        assert!(named.iter().all(|path| CLIENT.contains(&path[1..])));
        let known: BTreeSet<String> = named.iter().flat_map(|path| imports(path, script(path))).collect();
        // A browser loads imports level by level.
        let later = known.iter().flat_map(|path| imports(path, script(path))).filter(|path| !known.contains(path));
        assert_eq!(later.filter(|path| !named.contains(&path.as_str())).collect::<Vec<_>>(), Vec::<String>::new());
    }

    #[test]
    fn template_values_are_escaped() {
        let filled = fill(r#"<b a="{{x}}" c="{{y}}">{{z}}"#, &[("x", r#""><script>{{y}}&'"#), ("y", "Y")]);
        assert_eq!(filled, r#"<b a="&quot;&gt;&lt;script&gt;{{y}}&amp;&#39;" c="Y">"#);
    }

    #[test]
    fn page_template_has_every_placeholder() {
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
