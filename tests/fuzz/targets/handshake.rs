//! A token is read only where a handshake offers one, and is never changed.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| kschat_properties::handshake::check(text));
