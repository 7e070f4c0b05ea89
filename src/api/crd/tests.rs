use std::{env, fs, path::Path};

use super::*;

/// Where the generated definition is kept; each is what one way of installing reads.
const FILES: [&str; 3] = [
    "crds/headgate.dev_eventsources.yaml",
    "config/crd/headgate.dev_eventsources.yaml",
    "charts/headgate/crd-manifests/headgate.dev_eventsources.yaml",
];

#[test]
fn the_committed_definition_is_the_one_the_types_say() {
    for file in FILES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        if env::var_os("UPDATE_CRDS").is_some() {
            fs::write(&path, crd_yaml()).expect("the file can be written");
        }
        assert!(
            fs::read_to_string(&path).is_ok_and(|committed| committed == crd_yaml()),
            "{file} has drifted from src/api; run `headgate crd > {file}`, or `UPDATE_CRDS=1 cargo test --lib api::crd`",
        );
    }
}

#[test]
fn the_file_reads_back_as_the_definition() {
    let read: CustomResourceDefinition = serde_saphyr::from_str(&crd_yaml()).expect("a definition");
    assert_eq!(read, crd());
}

/// Every schema of the definition with its path, parents first.
fn schemas() -> Vec<(String, Value)> {
    fn walk(path: &str, schema: &Value, found: &mut Vec<(String, Value)>) {
        found.push((path.to_owned(), schema.clone()));
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            walk(&format!("{path}.{name}"), property, found);
        }
        if schema["items"].is_object() {
            walk(&format!("{path}[]"), &schema["items"], found);
        }
    }
    let document = document();
    let mut found = Vec::new();
    walk("", &document["spec"]["versions"][0]["schema"]["openAPIV3Schema"], &mut found);
    // Kubernetes describes and bounds `metadata` itself.
    found.retain(|(path, _)| !path.starts_with(".metadata"));
    assert!(found.len() > 60, "the walk sees the whole schema");
    found
}

#[test]
fn every_field_is_described_and_names_its_default() {
    for (path, schema) in schemas() {
        let description = schema["description"].as_str().unwrap_or_default();
        assert!(description.ends_with('.') || path.ends_with("[]"), "{path} has no description: {description:?}");
        assert!(!description.contains('\n'), "{path} has a line break in its description");
        if path.starts_with(".spec.") && !schema["default"].is_null() {
            let (_, default) = description.split_once("Default: ").unwrap_or_else(|| panic!("{path} names no default"));
            if let Some(text) = schema["default"].as_str() {
                assert!(default.starts_with(text), "{path} says {default:?}, but {text:?} holds");
            } else if schema["type"] != "object" {
                assert!(default.starts_with(&schema["default"].to_string()), "{path} says {default:?}");
            }
        }
    }
}

#[test]
fn every_number_string_and_list_is_bounded() {
    for (path, schema) in schemas() {
        let bounded = match schema["type"].as_str() {
            Some("string") => {
                schema["maxLength"].is_number() || schema["enum"].is_array() || schema["format"] == "date-time"
            }
            Some("integer") => {
                schema["minimum"].is_number() && (schema["maximum"].is_number() || path.starts_with(".status"))
            }
            Some("array") => schema["maxItems"].is_number() && schema["x-kubernetes-list-type"].is_string(),
            Some("object") => schema["properties"].is_object(),
            Some("boolean") => true,
            other => panic!("{path} has the type {other:?}"),
        };
        assert!(bounded, "{path} is not bounded: {schema}");
    }
}

#[test]
fn no_word_stands_in_the_schema_that_kubernetes_does_not_know() {
    for (path, schema) in schemas() {
        assert!(schema["nullable"].is_null(), "{path} is nullable");
        assert!(schema["anyOf"].is_null() && schema["oneOf"].is_null(), "{path} is not structural");
        if let Some(format) = schema["format"].as_str() {
            assert!(["int32", "int64", "date-time"].contains(&format), "{path} has the format {format}");
        }
        for bound in ["minimum", "maximum"] {
            assert!(schema[bound].is_null() || schema[bound].is_i64(), "{path} has the bound {}", schema[bound]);
        }
        for value in schema["enum"].as_array().into_iter().flatten() {
            let value = value.as_str().expect("a text");
            assert!(value.starts_with(|c: char| c.is_ascii_uppercase()), "{path} has the value {value}");
        }
    }
}

#[test]
fn every_default_is_complete() {
    for (path, schema) in schemas() {
        let Some(default) = schema["default"].as_object() else { continue };
        for (name, property) in schema["properties"].as_object().expect("an object has properties") {
            if !property["default"].is_null() {
                assert_eq!(default.get(name), Some(&property["default"]), "the default of {path} lacks {name}");
            }
        }
    }
}

#[test]
fn every_rule_has_a_message_in_the_style_of_the_api() {
    let rules: Vec<Value> = schemas()
        .iter()
        .filter_map(|(_, schema)| schema["x-kubernetes-validations"].as_array().cloned())
        .flatten()
        .collect();
    assert!(rules.len() > 20, "the walk sees the rules");
    for rule in rules {
        let message = rule["message"].as_str().unwrap_or_default();
        assert!(message.contains("must"), "{rule}");
        assert!(!message.contains('\n') && !message.contains("  "), "{rule}");
    }
}
