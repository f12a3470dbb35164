//! Checks the JSON Schemas and the AsyncAPI document of the wire protocol against the code.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

use std::{collections::BTreeSet, fs, path::PathBuf};

use jsonschema::Validator;
use kschat_protocol::{ClientFrame, ErrorCode};
use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Value, json};

fn read(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn schemas() -> Value {
    serde_json::from_str(&read("shared/docs/protocol.schema.json")).expect("valid JSON")
}

/// The schema of that name, with all that it references.
fn validator(schemas: &Value, name: &str) -> Validator {
    let mut schema = schemas.clone();
    let root = schema.as_object_mut().expect("an object");
    root.remove("oneOf");
    root.insert("$ref".to_owned(), json!(format!("#/definitions/{name}")));
    jsonschema::validator_for(&schema).expect("a valid schema")
}

/// The golden frames, which protocol tests compare byte by byte.
fn golden_frames() -> Vec<Value> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/protocol/tests/golden");
    let files = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("a file").path());
    files.map(|path| serde_json::from_str(&fs::read_to_string(path).expect("a text")).expect("a frame")).collect()
}

/// The name of a frame in the documents.
fn kind(frame: &Value) -> &str {
    frame["event"].as_str().or(frame["action"].as_str()).expect("an event or an action")
}

/// The schema definitions that are frames.
fn frames_of(schemas: &Value) -> BTreeSet<String> {
    let definitions = schemas["definitions"].as_object().expect("definitions").iter();
    let frames = definitions.filter(|(_, schema)| {
        let properties = &schema["properties"];
        properties["action"].is_object() || properties["event"].is_object()
    });
    frames.map(|(name, _)| name.clone()).collect()
}

fn resolved<'a>(schemas: &'a Value, schema: &'a Value) -> &'a Value {
    let reference = schema["$ref"].as_str().or(schema["allOf"][0]["$ref"].as_str());
    reference.map_or(schema, |path| &schemas["definitions"][path.trim_start_matches("#/definitions/")])
}

/// Every field of a schema, as `frame.field` or `frame.field.field`.
fn declared(schemas: &Value, name: &str, schema: &Value, into: &mut BTreeSet<String>) {
    let schema = resolved(schemas, schema);
    for (field, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{name}.{field}");
        declared(schemas, &path, inner, into);
        declared(schemas, &path, &inner["items"], into);
        into.insert(path);
    }
}

/// Every field of a value.
fn used(name: &str, value: &Value, into: &mut BTreeSet<String>) {
    for (field, inner) in value.as_object().into_iter().flatten() {
        let path = format!("{name}.{field}");
        used(&path, inner, into);
        inner.as_array().into_iter().flatten().for_each(|item| used(&path, item, into));
        into.insert(path);
    }
}

#[test]
fn schemas_match_golden_frame_fields() {
    let schemas = schemas();
    let (mut in_schemas, mut in_frames) = (BTreeSet::new(), BTreeSet::new());
    for name in frames_of(&schemas) {
        declared(&schemas, &name, &schemas["definitions"][&name], &mut in_schemas);
    }
    for frame in golden_frames() {
        let name = kind(&frame);
        let problem = validator(&schemas, name).validate(&frame).err().map(|error| error.to_string());
        assert_eq!(problem, None, "{frame}");
        used(name, &frame, &mut in_frames);
    }
    assert_eq!(in_schemas, in_frames);
}

/// Valid and invalid values of a field.
fn values() -> Vec<Value> {
    let text = |length| json!("x".repeat(length));
    vec![
        json!(true),
        json!(0),
        json!(-7),
        json!(1.5),
        text(0),
        text(1),
        text(64),
        text(65),
        text(128),
        text(129),
        json!("0a1b2c3d.7"),
        json!("0A1B2C3D.7"),
        json!("0a1b2c3d.07"),
        json!([]),
        json!({}),
    ]
}

/// Variants of a valid frame that change or remove one field.
fn variations(frame: &Map<String, Value>) -> Vec<Value> {
    let mut varied = Vec::new();
    for field in frame.keys().filter(|field| *field != "action") {
        let mut without = frame.clone();
        without.remove(field);
        varied.push(Value::Object(without));
        for value in values() {
            let mut other = frame.clone();
            other.insert(field.clone(), value);
            varied.push(Value::Object(other));
        }
    }
    varied
}

#[test]
fn schema_validity_matches_parser() {
    let schemas = schemas();
    let mut compared = 0;
    // The edge answers a ping, and no code of ours parses it.
    for frame in golden_frames().into_iter().filter(|frame| frame["action"].is_string() && kind(frame) != "ping") {
        let schema = validator(&schemas, kind(&frame));
        for varied in variations(frame.as_object().expect("an object")) {
            let understood = ClientFrame::parse(&varied.to_string());
            assert_eq!(schema.is_valid(&varied), understood.is_ok(), "{varied}: {:?}", understood.err());
            compared += 1;
        }
    }
    assert!(compared > 100, "{compared}");
}

#[test]
fn schemas_list_every_error_code() {
    let codes: Vec<u16> = ErrorCode::ALL.iter().map(|code| code.number()).collect();
    let names: Vec<String> = ErrorCode::ALL.iter().map(|code| format!("{code:?}")).collect();
    let schemas = schemas();
    let listed = &schemas["definitions"]["ErrorCode"];
    assert_eq!(listed["enum"], json!(codes));
    assert_eq!(listed["x-enum-varnames"], json!(names));
}

#[test]
fn root_schema_accepts_every_golden_frame() {
    let schema = jsonschema::validator_for(&schemas()).expect("a valid schema");
    for frame in golden_frames() {
        assert!(schema.is_valid(&frame), "{frame}");
    }
    assert!(!schema.is_valid(&json!({ "event": "RESPSEND" })), "the schema accepts anything");
}

fn json_of(yaml: &Yaml<'_>) -> Value {
    match yaml {
        Yaml::Value(Scalar::String(text)) => json!(text),
        Yaml::Value(Scalar::Boolean(value)) => json!(value),
        Yaml::Value(Scalar::Integer(value)) => json!(value),
        Yaml::Sequence(items) => items.iter().map(json_of).collect(),
        Yaml::Mapping(fields) => {
            let name = |key: &Yaml<'_>| key.as_str().expect("a name").to_owned();
            Value::Object(fields.iter().map(|(key, value)| (name(key), json_of(value))).collect())
        }
        other => panic!("the document needs no {other:?}"),
    }
}

fn asyncapi() -> Value {
    let documents = Yaml::load_from_str(&read("shared/docs/asyncapi.yaml")).expect("valid YAML");
    json_of(documents.first().expect("a document"))
}

#[test]
fn asyncapi_document_is_valid() {
    // The official schema.
    let specification = read("tests/clients/node_modules/@asyncapi/specs/schemas/3.0.0.json");
    let specification: Value = serde_json::from_str(&specification).expect("valid JSON");
    let specification = jsonschema::validator_for(&specification).expect("a valid schema");
    let document = asyncapi();
    let problems: Vec<String> = specification.iter_errors(&document).map(|error| error.to_string()).collect();
    assert_eq!(problems, Vec::<String>::new());
    assert!(!specification.is_valid(&json!({ "asyncapi": "3.0.0" })), "the specification accepts anything");
}

#[test]
fn asyncapi_document_lists_every_frame() {
    let (document, frames) = (asyncapi(), frames_of(&schemas()));
    let names = |value: &Value| -> BTreeSet<String> { value.as_object().expect("names").keys().cloned().collect() };
    assert_eq!(names(&document["channels"]["connection"]["messages"]), frames);
    let messages = &document["components"]["messages"];
    assert_eq!(names(messages), frames);
    for name in &frames {
        let reference = format!("protocol.schema.json#/definitions/{name}");
        assert_eq!(messages[name]["payload"]["$ref"], json!(reference));
    }
    let mut spoken = BTreeSet::new();
    for (name, operation) in document["operations"].as_object().expect("operations") {
        let of = |value: &Value| -> Vec<String> {
            let references = value.as_array().into_iter().flatten().map(|reference| &reference["$ref"]);
            let last = |path: &Value| path.as_str().and_then(|path| path.rsplit('/').next()).map(str::to_owned);
            references.map(|path| last(path).expect("a reference")).collect()
        };
        let (first, answers) = (of(&operation["messages"]), of(&operation["reply"]["messages"]));
        let is_clients = operation["action"] == "receive";
        assert!(first.iter().all(|frame| (frame == &frame.to_lowercase()) == is_clients), "{name}");
        assert!(answers.iter().all(|frame| frame.starts_with("RESP")), "{name}");
        spoken.extend(first);
        spoken.extend(answers);
    }
    assert_eq!(spoken, frames, "each has a sender");
}
