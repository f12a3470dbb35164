//! What the `kschat` command says to a person who got something wrong.

#![expect(clippy::expect_used, reason = "what is not as expected fails the test")]

use std::process::Command;

use kschat_tests::process::binary;

/// Runs it with those arguments and variables; returns its exit code and what it wrote.
fn kschat(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(binary("kschat"));
    command.env_clear().args(arguments).envs(variables.iter().copied());
    let output = command.output().expect("it can be started");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("text"))
}

#[test]
fn every_wrong_setting_is_told_at_once_and_no_password() {
    let arguments = ["--amqp-url", "http://me:hunter2@x", "--partitions", "0", "--functions", "http://me:hunter2@x"];
    let (code, text) = kschat(&arguments, &[("REDIS_URL", "rediss//:hunter2@x")]);
    assert_eq!(code, Some(64), "{text}");
    for part in ["AMQP_URL: must be", "REDIS_URL: must be", "PARTITIONS: must be", "--functions: must be"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn beyond_loopback_a_secret_of_ones_own_is_needed() {
    for secret in ["", " ", "short"] {
        let (code, text) = kschat(&["--listen", "0.0.0.0:0", "--jwt-secret", secret], &[("JWT_SECRET", secret)]);
        assert_eq!(code, Some(64), "{text}");
        assert!(text.contains("JWT_SECRET: 0.0.0.0:0 is not loopback"), "{text}");
    }
}

#[test]
fn a_part_elsewhere_needs_a_broker_in_between() {
    let (code, text) = kschat(&["--no-consumer"], &[]);
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("give --amqp-url and --redis-url"), "{text}");
    let (code, text) = kschat(&["--functions", "http://127.0.0.1:9000"], &[("AMQP_URL", "")]);
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("--functions: messages leave"), "{text}");
    let (_, text) = kschat(&[], &[("AMQP_URL", "amqp://127.0.0.1:1")]);
    assert!(text.contains("REDIS_URL: is not set"), "{text}");
}

#[test]
fn a_service_that_is_not_there_is_named() {
    let (code, text) =
        kschat(&["--amqp-url", "amqp://me:hunter2@127.0.0.1:1", "--redis-url", "redis://127.0.0.1:1"], &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("RabbitMQ at amqp://***@127.0.0.1:1 (AMQP_URL) does not answer"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn a_token_is_printed_and_an_empty_secret_is_none() {
    let (code, built_in) = kschat(&["token", "alice"], &[("JWT_SECRET", "")]);
    assert_eq!(code, Some(0), "{built_in}");
    assert!(built_in.starts_with("ey") && built_in.trim().split('.').count() == 3, "{built_in}");
    for (arguments, hint) in
        [(["token", "alice", "--ttl", "banana"], "30s"), (["token", "alice", "--ttl", "0s"], "30s")]
    {
        let (code, text) = kschat(&arguments, &[]);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(hint), "{text}");
    }
    let (code, text) = kschat(&["--listen", "localhost:3000"], &[]);
    assert!(code == Some(2) && text.contains("such as 127.0.0.1:3000"), "{text}");
}
