//! The house stays in order: which crate may know which, read from what cargo resolves.

#![expect(clippy::expect_used, reason = "what is not as expected fails the test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use kschat_core::metrics::{self, Metric};
use serde_json::Value;

/// Each crate with the crates of ours that it may know. Nothing points back.
const MAY_KNOW: [(&str, &[&str]); 6] = [
    ("kschat-protocol", &[]),
    ("kschat-core", &["kschat-protocol"]),
    ("kschat-adapters", &["kschat-protocol", "kschat-core"]),
    ("kschat-functions", &["kschat-protocol", "kschat-core", "kschat-adapters"]),
    ("kschat-consumer", &["kschat-protocol", "kschat-core", "kschat-adapters"]),
    ("kschat", &["kschat-protocol", "kschat-core", "kschat-adapters", "kschat-functions", "kschat-consumer"]),
];

/// Names under which vendors, runtimes and the network come in.
const OUTSIDE: [&str; 9] =
    ["tokio", "lapin", "redis", "aws-", "hyper", "axum", "jsonwebtoken", "rustls", "lambda_runtime"];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO")).args(["metadata", "--format-version=1", "--no-deps"]).output();
    serde_json::from_slice(&output.expect("cargo can be started").stdout).expect("metadata is JSON")
}

/// What each crate of ours is built from, tests apart.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    let names = |package: &Value| {
        let all = package["dependencies"].as_array().expect("dependencies").iter();
        let normal = all.filter(|dependency| dependency["kind"].is_null());
        normal.map(|dependency| dependency["name"].as_str().expect("a name").to_owned()).collect()
    };
    packages.iter().map(|package| (package["name"].as_str().expect("a name").to_owned(), names(package))).collect()
}

#[test]
fn dependencies_point_one_way() {
    let dependencies = dependencies();
    for (name, may_know) in MAY_KNOW {
        for known in dependencies[name].iter().filter(|known| known.starts_with("kschat")) {
            assert!(may_know.contains(&known.as_str()), "{name} must not know {known}");
        }
    }
}

#[test]
fn no_use_case_knows_a_vendor() {
    let dependencies = dependencies();
    let vendors = |name: &str| OUTSIDE.iter().any(|outside| name.starts_with(outside) && !name.starts_with("tokio"));
    for known in &dependencies["kschat-core"] {
        assert!(!vendors(known), "kschat-core must not know {known}");
    }
}

#[test]
fn the_protocol_is_built_from_nothing_that_does_io() {
    let arguments = ["tree", "-p", "kschat-protocol", "-e", "normal", "--prefix", "none", "--format", "{lib}"];
    let output = Command::new(env!("CARGO")).args(arguments).output().expect("cargo can be started");
    let tree = String::from_utf8(output.stdout).expect("text");
    let crates: BTreeSet<&str> = tree.lines().filter(|line| !line.is_empty()).collect();
    assert!(crates.contains("kschat_protocol") && crates.contains("serde_json"), "{crates:?}");
    for known in crates {
        assert!(!OUTSIDE.iter().any(|outside| known.starts_with(outside)), "kschat-protocol must not know {known}");
    }
}

#[test]
fn one_crypto_provider_is_linked() {
    let output = Command::new(env!("CARGO")).args(["tree", "--workspace", "-e", "normal", "--prefix", "none"]).output();
    let tree = String::from_utf8(output.expect("cargo can be started").stdout).expect("text");
    assert!(tree.contains("aws-lc-rs v"));
    for other in ["ring v", "openssl v", "native-tls v"] {
        assert!(!tree.lines().any(|line| line.starts_with(other)), "{other} is linked, too");
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The names of all functions in the project.
fn functions() -> BTreeSet<String> {
    let listed = Command::new("git").args(["grep", "-hoE", "fn [a-z0-9_]+"]).current_dir(root()).output();
    let listed = String::from_utf8(listed.expect("git can be started").stdout).expect("text");
    listed.lines().filter_map(|line| line.strip_prefix("fn ")).map(str::to_owned).collect()
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_test_that_the_architecture_names_exists() {
    let document = fs::read_to_string(root().join("shared/docs/ARCHITECTURE.md")).expect("it can be read");
    let functions = functions();
    let quotes: String = document.lines().filter(|line| line.starts_with('>')).collect();
    let names: Vec<&str> = quoted(&quotes).filter(|name| !name.contains('/')).collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        assert!(functions.contains(name), "there is no test {name}");
    }
}

#[test]
fn every_fact_about_the_edge_has_its_test() {
    let document = fs::read_to_string(root().join("infra/local/README.md")).expect("it can be read");
    let (_, table) = document.split_once("| fact |").expect("a table of facts");
    let rows: Vec<&str> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 40, "{} facts", rows.len());
    let functions = functions();
    for row in rows {
        let tests: Vec<&str> = quoted(row.split('|').nth(3).expect("a column of tests")).collect();
        assert!(!tests.is_empty(), "{row}");
        for test in tests {
            assert!(functions.contains(test), "there is no test {test}");
        }
    }
}

/// The names of constants that bound something, with their files.
fn bounds() -> BTreeSet<(String, String)> {
    let kinds = r"const [A-Z_]+: (Duration|\(Duration, Duration\)|Backoff|usize|u16|u32|NonZero<u16>) =";
    let rooms = ["shared/*/src/*.rs", "consumer/src/*.rs", "functions/src/*.rs", ":!shared/core/src/contract"];
    let listed = Command::new("git").args(["grep", "-oE", kinds, "--"]).args(rooms).current_dir(root()).output();
    let listed = String::from_utf8(listed.expect("git can be started").stdout).expect("text");
    let read = |line: &str| {
        let (file, rest) = line.split_once(":const ").expect("a file and a constant");
        (rest.split(':').next().expect("a name").to_owned(), file.to_owned())
    };
    // A broker's reply code bounds nothing.
    let is_bound =
        |(name, _): &(String, String)| !["ACCESS_REFUSED", "NOT_FOUND", "PRECONDITION_FAILED"].contains(&name.as_str());
    listed.lines().map(read).filter(is_bound).collect()
}

#[test]
fn every_bound_is_documented() {
    let limits = fs::read_to_string(root().join("shared/docs/LIMITS.md")).expect("it can be read");
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split('`');
        let (name, file) = (cells.next()?, cells.nth(1)?);
        Some((name.to_owned(), file.to_owned()))
    };
    let documented: BTreeSet<(String, String)> = limits.lines().filter_map(row).collect();
    let differences: Vec<_> = documented.symmetric_difference(&bounds()).cloned().collect();
    assert!(differences.is_empty(), "in the code or in the table, not in both: {differences:?}");
}

/// The document that explains the metrics, a row a metric, each as its columns.
fn documented_metrics() -> Vec<Vec<String>> {
    let document = fs::read_to_string(root().join("shared/docs/METRICS.md")).expect("it can be read");
    let (_, table) = document.split_once("| name |").expect("a table of metrics");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(|text| text.trim().to_owned()).collect()).collect()
}

#[test]
fn every_metric_is_explained_and_nothing_else() {
    let in_code = |metric: &Metric| {
        let kind = format!("{:?}", metric.kind).to_lowercase();
        let label = metric.label.map_or("–".to_owned(), |label| format!("`{label}`"));
        vec![format!("`{}`", metric.name), kind, metric.unit.name().to_owned(), label]
    };
    let in_code: BTreeSet<Vec<String>> = metrics::ALL.iter().map(in_code).collect();
    let documented: BTreeSet<Vec<String>> = documented_metrics().into_iter().map(|row| row[..4].to_vec()).collect();
    assert_eq!(in_code.len(), metrics::ALL.len(), "two metrics have one name");
    assert_eq!(documented, in_code);
}

/// The constant behind a metric's name: `SENDS` behind `kschat_sends_total`.
fn constant_of(name: &str) -> String {
    let bare = name.strip_prefix("kschat_").expect("our prefix");
    bare.trim_end_matches("_total").trim_end_matches("_seconds").to_uppercase()
}

#[test]
fn every_metric_is_recorded_where_it_says() {
    let declared = fs::read_to_string(root().join("shared/core/src/metrics.rs")).expect("it can be read");
    let count = declared.matches("\npub const ").count() - declared.matches("\npub const ALL").count();
    assert_eq!(count, metrics::ALL.len(), "a metric is missing in `ALL`");
    for row in documented_metrics() {
        let name = constant_of(row[0].trim_matches('`'));
        for place in quoted(&row[5]) {
            let source = fs::read_to_string(root().join(place)).expect("the file is there");
            assert!(source.contains(&format!("metrics::{name}.")), "{place} does not record metrics::{name}");
        }
    }
}
