//! The templates: linters, our own rules, and planted faults that these must find.

use std::path::PathBuf;

use kschat_tests::{
    eventually,
    rabbitmq::RabbitMq,
    stack::{SECRET, embedded},
};

use crate::tools::{python, root};

#[tokio::test(flavor = "multi_thread")]
async fn stacks_pass_all_linters() {
    let said = python("tests/infrastructure/lint.py", &[], &[]).await;
    assert!(said.ends_with("0 problems\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stacks_pass_project_rules() {
    let said = python("tests/infrastructure/rules.py", &[], &[]).await;
    assert!(said.ends_with("rules, 0 problems\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_template_mutant_is_caught() {
    let said = python("tests/infrastructure/mutants.py", &[], &[]).await;
    assert!(said.ends_with("planted, 0 survived\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn preflight_reports_problems_before_changes() {
    python("tests/infrastructure/preflight.py", &[], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn command_in_existing_account_keeps_what_is_deployed() {
    python("tests/infrastructure/second_day.py", &[], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cost_estimate_counts_what_is_deployed() {
    python("tests/infrastructure/costs.py", &[], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn terraform_module_agrees_with_templates() {
    python("tests/infrastructure/terraform.py", &[], &[]).await;
}

#[test]
fn local_edge_reads_deployed_template() {
    let path: PathBuf = root().join("infra/aws/app.yaml");
    let read = kschat_edge::template::read(&path.display().to_string()).expect("the template is understood");
    assert!(read.warnings.is_empty(), "{:?}", read.warnings);
    let ours = kschat_edge::routes::Routes::kschat();
    assert_eq!(read.routes.selection, ours.selection);
    for (key, route) in &ours.table {
        assert_eq!(read.routes.table.get(key), Some(route), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn smoke_test_detects_broken_stack() {
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
async fn deployment_creates_broker_users() {
    let (_rabbitmq, management) = RabbitMq::start_with_management().await;
    eventually("the management answers", async || reqwest::get(&management).await.is_ok()).await;
    let said = python("tests/infrastructure/broker_users.py", &[&management], &[]).await;
    assert!(said.ends_with("made\n"), "{said}");
}
