//! Any request to the local edge gets a response of its kind, and a foreign page gets nothing.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kschat_properties::edge::check(data));
