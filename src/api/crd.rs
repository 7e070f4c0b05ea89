//! The CustomResourceDefinition as it is installed: what kube derives from the types, put into the shape that
//! Kubernetes' API conventions ask for.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::EventSource;

/// The first lines of the generated file.
const HEADER: &str = "# Generated from src/api by `headgate crd`. Do not edit.\n";

/// The definition of `eventsources.headgate.dev`.
#[must_use]
pub fn crd() -> CustomResourceDefinition {
    serde_json::from_value(document()).expect("the derived definition with fewer members is still a definition")
}

/// The definition as the file that `headgate crd` prints and crds/ holds.
#[must_use]
pub fn crd_yaml() -> String {
    let yaml = serde_saphyr::to_string(&document()).expect("plain JSON values can be written as YAML");
    format!("{HEADER}{yaml}")
}

fn document() -> Value {
    let mut crd = EventSource::crd();
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            conventional(schema);
            default_status(schema);
            name_in_schema(schema);
        }
    }
    let mut document = serde_json::to_value(crd).expect("a definition is plain data");
    whole_numbers(&mut document);
    document
}

/// Drops what the derivation adds and the API conventions do without: `nullable` (an optional field is absent, not null),
/// titles, the null among an enum's values, and the line breaks of doc comments.
fn conventional(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.title = None;
    if let Some(values) = &mut schema.enum_ {
        values.retain(|value| !value.0.is_null());
    }
    if let Some(description) = &mut schema.description {
        *description = description.split("\n\n").map(|text| text.replace('\n', " ")).collect::<Vec<_>>().join("\n\n");
    }
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        conventional(property);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => conventional(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(conventional),
        None => {}
    }
}

/// A fresh object says at once that nothing was observed of it, so that kstatus and `kubectl wait` do not take silence for
/// readiness.
fn default_status(root: &mut JSONSchemaProps) {
    if let Some(status) = root.properties.as_mut().and_then(|properties| properties.get_mut("status")) {
        status.default = Some(JSON(json!({ "observedGeneration": -1 })));
    }
}

/// Lets the rule on the name say which field it is about; a rule may only point at fields of the schema.
fn name_in_schema(root: &mut JSONSchemaProps) {
    let text = JSONSchemaProps { type_: Some("string".to_owned()), ..JSONSchemaProps::default() };
    let metadata = JSONSchemaProps {
        type_: Some("object".to_owned()),
        properties: Some([("name".to_owned(), text)].into()),
        ..JSONSchemaProps::default()
    };
    root.properties.get_or_insert_default().insert("metadata".to_owned(), metadata);
}

/// Bounds are doubles in the Kubernetes types; `1000` should not be written as `1000.0`.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(float) = number.as_f64().filter(|_| number.is_f64()) {
                #[expect(clippy::cast_possible_truncation, reason = "only whole numbers within i32 are replaced")]
                if float.fract() == 0.0 && float.abs() <= f64::from(i32::MAX) {
                    *value = Value::from(float as i64);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(whole_numbers),
        Value::Object(members) => members.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
