//! Anything that reaches an owner is read or rejected, and what is read survives the wire.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| kschat_properties::owner_message::check(text));
