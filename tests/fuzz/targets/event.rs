//! A function answers any event; nobody connects without a token, or sends as another user.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| kschat_properties::event::check(text));
