//! The templates: what linters say, what our own rules say, and whether these would say it.

use std::path::PathBuf;

use kschat_tests::{
    eventually,
    rabbitmq::RabbitMq,
    stack::{SECRET, embedded},
};

use crate::tools::{python, root};

#[tokio::test(flavor = "multi_thread")]
async fn no_linter_finds_anything_in_the_stacks_or_in_what_sam_makes_of_them() {
    let said = python("tests/infrastructure/lint.py", &[], &[]).await;
    assert!(said.ends_with("0 problems\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stacks_keep_every_rule_that_no_linter_knows() {
    let said = python("tests/infrastructure/rules.py", &[], &[]).await;
    assert!(said.ends_with("rules, 0 problems\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_planted_fault_is_caught_by_what_should_catch_it() {
    let said = python("tests/infrastructure/mutants.py", &[], &[]).await;
    assert!(said.ends_with("planted, 0 survived\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_or_could_not_be_asked_is_told_before_anything_is_changed() {
    python("tests/infrastructure/preflight.py", &[], &[]).await;
}

#[test]
fn the_local_edge_reads_its_routes_from_the_deployed_template_as_it_is() {
    let path: PathBuf = root().join("infra/aws/app.yaml");
    let read = kschat::edge::template::read(&path.display().to_string()).expect("the template is understood");
    assert!(read.warnings.is_empty(), "{:?}", read.warnings);
    let ours = kschat::edge::routes::Routes::kschat();
    assert_eq!(read.routes.selection, ours.selection);
    for (key, route) in &ours.table {
        assert_eq!(read.routes.table.get(key), Some(route), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_smoke_test_passes_on_a_stack_that_works_and_fails_on_one_that_does_not() {
    let stack = embedded().await;
    let url = stack.websocket_url();
    let secret = [("JWT_SECRET", SECRET.to_owned())];
    let said = python("infra/aws/kschat-aws", &["smoke", "--url", &url], &secret).await;
    assert!(said.contains("ok it arrives") && said.contains("ok nobody speaks for another"), "{said}");
    let forged = [("JWT_SECRET", "another".to_owned())];
    let failed = tokio::spawn(async move { python("infra/aws/kschat-aws", &["smoke", "--url", &url], &forged).await });
    let panic = failed.await.expect_err("it should have failed").into_panic();
    let text = panic.downcast_ref::<String>().expect("a text");
    assert!(text.contains("not so: two clients connect"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn broker_users_of_a_deployment_are_made_on_a_real_broker() {
    let (_rabbitmq, management) = RabbitMq::start_with_management().await;
    eventually("the management answers", async || reqwest::get(&management).await.is_ok()).await;
    let said = python("tests/infrastructure/broker_users.py", &[&management], &[]).await;
    assert!(said.ends_with("made\n"), "{said}");
}
