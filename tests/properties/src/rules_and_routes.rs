//! Any fault rule, route file or template is parsed or rejected, and a parsed one is usable.

use kschat_edge::{
    Rule,
    routes::{CONNECT, DISCONNECT, Routes, Selection},
    template,
};

/// Separates a file from the frame that is routed.
const END: &str = "\n...\n";

/// Checks one input; panics if it violates a property.
pub fn check(text: &str) {
    if let Ok(rule) = text.parse::<Rule>() {
        assert_eq!(rule.to_string().parse().as_ref(), Ok(&rule), "a rule differs from its printed form");
    }
    let (file, frame) = text.split_once(END).unwrap_or((text, text));
    for api in [None, Some("Room")] {
        if let Ok(read) = template::parse(file, api) {
            check_routes(&read.routes, frame);
        }
    }
    if let Ok(selection) = Selection::parse(file) {
        check_routes(&Routes { selection, ..Routes::kschat() }, frame);
    }
}

/// Frames can't select the edge's own routes.
fn check_routes(routes: &Routes, frame: &str) {
    for key in routes.table.keys() {
        assert!(!key.is_empty());
        let named = format!(r#"{{"action":"{key}"}}"#);
        for frame in [frame, &named] {
            let selected = routes.select(frame).map(|(key, _)| key);
            assert!(selected.is_none_or(|key| ![CONNECT, DISCONNECT].contains(&key)), "{frame} calls {selected:?}");
            assert!(selected.is_none_or(|key| routes.table.contains_key(key)));
        }
    }
}
