//! Whatever is written as a fault rule, a route file or a template is read or refused, and what was read can be used.

#![no_main]

use kschat::edge::{
    Rule,
    routes::{CONNECT, DISCONNECT, Routes, Selection},
    template,
};
use libfuzzer_sys::fuzz_target;

/// Divides a file from the frame that its routes are asked about.
const END: &str = "\n...\n";

fuzz_target!(|text: &str| {
    if let Ok(rule) = text.parse::<Rule>() {
        assert_eq!(rule.to_string().parse().as_ref(), Ok(&rule), "it is not what it says");
    }
    let (file, frame) = text.split_once(END).unwrap_or((text, text));
    for api in [None, Some("Room")] {
        if let Ok(read) = template::parse(file, api) {
            check(&read.routes, frame);
        }
    }
    if let Ok(selection) = Selection::parse(file) {
        check(&Routes { selection, ..Routes::kschat() }, frame);
    }
});

/// Nobody reaches the edge's own routes by naming them.
fn check(routes: &Routes, frame: &str) {
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
