//! Any fault rule, route file or template is parsed or rejected, and a parsed one is usable.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| kschat_properties::rules_and_routes::check(text));
