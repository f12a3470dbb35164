//! Any queued body is parsed or rejected, and frames hold messages in order, within the limit.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kschat_properties::receiver_frame::check(data));
