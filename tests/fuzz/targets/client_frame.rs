//! Any client frame is parsed or rejected, and every reply fits into a frame of the edge.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| kschat_properties::client_frame::check(text));
