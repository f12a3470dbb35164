//! Any Socket.IO text is parsed or rejected, and every reply is a packet.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| kschat_properties::packet::check(text));
