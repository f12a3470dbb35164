//! Architecture rules: which crate may depend on which, read from cargo's resolution.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use kschat_core::metrics::{self, Metric};
use serde_json::Value;

/// Each crate with our crates that it may depend on. There are no cycles.
const ALLOWED_DEPENDENCIES: [(&str, &[&str]); 9] = [
    ("kschat-protocol", &[]),
    ("kschat-client", &["kschat-protocol"]),
    ("kschat-core", &["kschat-protocol"]),
    ("kschat-adapters", &["kschat-protocol", "kschat-core"]),
    ("kschat-functions", &["kschat-protocol", "kschat-core", "kschat-adapters"]),
    ("kschat-consumer", &["kschat-protocol", "kschat-core", "kschat-adapters"]),
    ("kschat-edge", &["kschat-protocol", "kschat-core", "kschat-adapters"]),
    ("kschat-load", &["kschat-protocol", "kschat-client", "kschat-core", "kschat-adapters"]),
    (
        "kschat",
        &[
            "kschat-protocol",
            "kschat-core",
            "kschat-adapters",
            "kschat-functions",
            "kschat-consumer",
            "kschat-edge",
            "kschat-load",
        ],
    ),
];

/// Names of crates of vendors, runtimes and the network.
const VENDOR_CRATES: [&str; 9] =
    ["tokio", "lapin", "redis", "aws-", "hyper", "axum", "jsonwebtoken", "rustls", "lambda_runtime"];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO")).args(["metadata", "--format-version=1", "--no-deps"]).output();
    serde_json::from_slice(&output.expect("cargo can be started").stdout).expect("metadata is JSON")
}

/// Dependencies of each of our crates, except those of tests.
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
    for (name, may_know) in ALLOWED_DEPENDENCIES {
        for known in dependencies[name].iter().filter(|known| known.starts_with("kschat")) {
            assert!(may_know.contains(&known.as_str()), "{name} must not know {known}");
        }
    }
}

#[test]
fn no_use_case_knows_a_vendor() {
    let dependencies = dependencies();
    let vendors =
        |name: &str| VENDOR_CRATES.iter().any(|outside| name.starts_with(outside) && !name.starts_with("tokio"));
    for known in &dependencies["kschat-core"] {
        assert!(!vendors(known), "kschat-core must not know {known}");
    }
}

#[test]
fn protocol_crate_has_no_io_dependency() {
    let arguments = ["tree", "-p", "kschat-protocol", "-e", "normal", "--prefix", "none", "--format", "{lib}"];
    let output = Command::new(env!("CARGO")).args(arguments).output().expect("cargo can be started");
    let tree = String::from_utf8(output.stdout).expect("text");
    let crates: BTreeSet<&str> = tree.lines().filter(|line| !line.is_empty()).collect();
    assert!(crates.contains("kschat_protocol") && crates.contains("serde_json"), "{crates:?}");
    for known in crates {
        assert!(
            !VENDOR_CRATES.iter().any(|outside| known.starts_with(outside)),
            "kschat-protocol must not know {known}"
        );
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

/// Texts between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The rows of every table of a document: each as its columns.
fn rows(document: &str) -> Vec<Vec<String>> {
    let lines = document.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    lines.map(|line| line.split(" | ").map(str::to_owned).collect()).collect()
}

#[test]
fn invariants_name_existing_tests() {
    let document = fs::read_to_string(root().join("shared/docs/INVARIANTS.md")).expect("a readable file");
    let invariants: Vec<Vec<String>> = rows(&document).into_iter().filter(|row| row[0] != "invariant").collect();
    assert!(invariants.len() > 60, "{} invariants", invariants.len());
    let functions = functions();
    for row in invariants {
        let [invariant, tests] = row.as_slice() else { panic!("not two columns: {row:?}") };
        let names: Vec<&str> = quoted(tests).collect();
        assert!(!names.is_empty(), "no test holds: {invariant}");
        for name in names {
            let exists = if name.contains('/') { root().join(name).exists() } else { functions.contains(name) };
            assert!(exists, "there is no test {name}");
        }
    }
}

#[test]
fn architecture_names_existing_files() {
    let document = fs::read_to_string(root().join("shared/docs/ARCHITECTURE.md")).expect("a readable file");
    let folders = ["shared/", "functions/", "consumer/", "infra/", "templates/", "tests/"];
    let is_path = |text: &&str| folders.iter().any(|folder| text.starts_with(folder));
    let paths: BTreeSet<&str> = quoted(&document).filter(is_path).collect();
    assert!(paths.len() > 30, "{paths:?}");
    for path in paths {
        assert!(root().join(path).exists(), "there is no {path}");
    }
}

/// The environment variables of a table, by its first column.
fn variables(table: &[Vec<String>]) -> BTreeSet<&str> {
    let is_variable = |name: &&str| name.len() > 3 && name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    table.iter().flat_map(|row| quoted(&row[0])).filter(is_variable).collect()
}

#[test]
fn every_setting_is_documented() {
    let code = fs::read_to_string(root().join("shared/adapters/src/config/mod.rs")).expect("a readable file");
    let code: Vec<&str> = code.lines().filter_map(|line| line.strip_prefix("//! ")).collect();
    let (read, document) = (rows(&code.join("\n")), fs::read_to_string(root().join("shared/docs/SETTINGS.md")));
    let documented = rows(&document.expect("a readable file"));
    let (read, mut documented) = (variables(&read), variables(&documented));
    assert!(read.len() > 30, "{read:?}");
    // A library reads these.
    assert!(documented.remove("SSL_CERT_FILE") && documented.remove("SSL_CERT_DIR"));
    let differences: Vec<_> = documented.symmetric_difference(&read).collect();
    assert!(differences.is_empty(), "in the code or in the table, not in both: {differences:?}");
}

#[test]
fn every_edge_fact_names_existing_test() {
    let document = fs::read_to_string(root().join("infra/local/README.md")).expect("a readable file");
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

/// Constants that are limits, with their files.
fn limit_constants() -> BTreeSet<(String, String)> {
    let kinds = r"const [A-Z_]+: (Duration|\(Duration, Duration\)|Backoff|usize|u16|u32|NonZero<u16>) =";
    let rooms = ["shared/*/src/*.rs", "consumer/src/*.rs", "functions/src/*.rs", ":!shared/core/src/contract"];
    let listed = Command::new("git").args(["grep", "-oE", kinds, "--"]).args(rooms).current_dir(root()).output();
    let listed = String::from_utf8(listed.expect("git can be started").stdout).expect("text");
    let read = |line: &str| {
        let (file, rest) = line.split_once(":const ").expect("a file and a constant");
        (rest.split(':').next().expect("a name").to_owned(), file.to_owned())
    };
    // A broker's reply code is not a limit.
    let is_bound = |(name, _): &(String, String)| {
        !["ACCESS_REFUSED", "NOT_ALLOWED", "NOT_FOUND", "PRECONDITION_FAILED"].contains(&name.as_str())
    };
    listed.lines().map(read).filter(is_bound).collect()
}

#[test]
fn every_bound_is_documented() {
    let limits = fs::read_to_string(root().join("shared/docs/BOUNDS.md")).expect("a readable file");
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split('`');
        let (name, file) = (cells.next()?, cells.nth(1)?);
        Some((name.to_owned(), file.to_owned()))
    };
    let documented: BTreeSet<(String, String)> = limits.lines().filter_map(row).collect();
    let differences: Vec<_> = documented.symmetric_difference(&limit_constants()).cloned().collect();
    assert!(differences.is_empty(), "in the code or in the table, not in both: {differences:?}");
}

/// The document of metrics: one row per metric, as columns.
fn documented_metrics() -> Vec<Vec<String>> {
    let document = fs::read_to_string(root().join("shared/docs/METRICS.md")).expect("a readable file");
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

/// The constant of a metric: `SENDS` of `kschat_sends_total`.
fn constant_of(name: &str) -> String {
    let bare = name.strip_prefix("kschat_").expect("our prefix");
    bare.trim_end_matches("_total").trim_end_matches("_seconds").to_uppercase()
}

#[test]
fn every_metric_is_recorded_where_it_says() {
    let declared = fs::read_to_string(root().join("shared/core/src/metrics.rs")).expect("a readable file");
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

/// Crates whose modules form no circle.
const LAYERED_CRATES: [&str; 9] = [
    "shared/core",
    "shared/protocol",
    "shared/adapters",
    "shared/client",
    "functions",
    "consumer",
    "infra/local/edge",
    "infra/local/load",
    "infra/local/cli",
];

/// A module whose private children extend its type: they count as one.
const ONE_MODULE: [&str; 1] = ["delivery::user_delivery"];

/// The paths that a tree of imports names, such as `a::b` and `a::c` of `a::{b, c}`.
fn expand(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap_or_default().trim().to_owned()];
    };
    let inner = rest.trim_end().strip_suffix('}').expect("a closed group");
    let mut depth = 0;
    let split = inner.split(move |letter| {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        letter == ',' && depth == 0
    });
    let parts = split.filter(|part| !part.trim().is_empty());
    parts.flat_map(expand).map(|part| format!("{head}{part}")).collect()
}

/// The modules of a crate, as `a::b`, with their sources up to their tests.
fn modules(folder: &str) -> BTreeMap<String, String> {
    let sources = root().join(folder).join("src");
    let listed = Command::new("git").args(["ls-files", "*.rs"]).current_dir(&sources).output();
    let listed = String::from_utf8(listed.expect("git can be started").stdout).expect("text");
    let is_code = |file: &&str| !file.starts_with("bin/") && !file.starts_with("contract/") && *file != "main.rs";
    let name_of = |file: &str| {
        let name = file.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
        if name == "lib" { String::new() } else { name }
    };
    let code_of = |file: &str| {
        let source = fs::read_to_string(sources.join(file)).expect("a readable file");
        source.split("#[cfg(test)]\nmod").next().unwrap_or_default().to_owned()
    };
    let test_only = |file: &&str| !file.ends_with("/races.rs");
    listed.lines().filter(is_code).filter(test_only).map(|file| (name_of(file), code_of(file))).collect()
}

/// Which of these modules a path leads to: the longest of its beginnings that is one.
fn module_of(path: &str, modules: &BTreeMap<String, String>) -> Option<String> {
    let parts: Vec<&str> = path.split("::").collect();
    let beginnings = (1..=parts.len()).rev().map(|count| parts[..count].join("::"));
    let found = beginnings.into_iter().find(|beginning| modules.contains_key(beginning))?;
    let whole = ONE_MODULE.iter().find(|whole| found.starts_with(**whole));
    Some(whole.map_or(found, |whole| (*whole).to_owned()))
}

/// What a module imports from its crate, as absolute paths.
fn imports(name: &str, source: &str) -> Vec<String> {
    let uses = ["\nuse ", "\npub use ", "\npub(crate) use "].into_iter().flat_map(|start| source.split(start).skip(1));
    let trees = uses.filter_map(|rest| rest.split(';').next());
    let paths = trees.flat_map(|tree| expand(&tree.replace('\n', " ")));
    let parent = name.rsplit_once("::").map_or("", |(parent, _)| parent).to_owned();
    let absolute = move |path: String| {
        let path = path.replace(' ', "");
        let (head, rest) = path.split_once("::")?;
        match head {
            "crate" => Some(rest.to_owned()),
            "super" => Some(format!("{parent}::{rest}").trim_start_matches(':').to_owned()),
            _ => None,
        }
    };
    paths.filter_map(absolute).collect()
}

#[test]
fn modules_of_a_crate_form_no_circle() {
    for folder in LAYERED_CRATES {
        let modules = modules(folder);
        assert!(modules.len() > 1, "{folder}");
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (name, source) in &modules {
            let from = module_of(name, &modules).unwrap_or_default();
            let known = imports(name, source).into_iter().filter_map(|path| module_of(&path, &modules));
            edges.entry(from.clone()).or_default().extend(known.filter(|known| *known != from));
        }
        // Whatever knows nobody that is left can't be part of a circle.
        loop {
            let left: BTreeSet<String> = edges.keys().cloned().collect();
            let free: Vec<String> =
                edges.iter().filter(|(_, known)| known.is_disjoint(&left)).map(|(name, _)| name.clone()).collect();
            if free.is_empty() {
                break;
            }
            edges.retain(|name, _| !free.contains(name));
        }
        assert!(edges.is_empty(), "{folder}: a circle among, or above, {edges:#?}");
    }
}
