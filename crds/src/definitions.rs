//! The `CustomResourceDefinition`s as they are applied.
//!
//! Owns the last step from derived schema to what the API server is given. Touches nothing. Invariant:
//! a null is never kept, so that a rule's `has(...)` and the code's `Option` mean the same.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

/// The kinds, in the order people meet them.
#[must_use]
pub fn definitions() -> Vec<CustomResourceDefinition> {
    [
        crate::AgentIdentity::crd(),
        crate::ProtectedTarget::crd(),
        crate::AccessPolicy::crd(),
        crate::AccessRequest::crd(),
        crate::TrustDomain::crd(),
    ]
    .into_iter()
    .map(finished)
    .collect()
}

fn finished(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for column in definition.spec.versions.iter_mut().flat_map(|v| v.additional_printer_columns.iter_mut().flatten()) {
        column.name = column.name.to_uppercase();
    }
    let schemas = definition.spec.versions.iter_mut().filter_map(|version| version.schema.as_mut());
    for root in schemas.filter_map(|validation| validation.open_api_v3_schema.as_mut()) {
        finish(root);
        always_has_a_status(root);
    }
    definition
}

/// `Option` derives as `nullable: true`, which would keep an explicit null; without it the server takes the default or
/// refuses.
/// Rust's widths (`uint16`) are not formats that the server knows: the range says the same.
fn finish(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.title = None;
    if schema.format.as_deref().is_some_and(|format| format.starts_with("uint")) {
        schema.format = None;
    }
    schema.properties.iter_mut().flatten().for_each(|(_, property)| finish(property));
    match schema.items.as_mut() {
        Some(JSONSchemaPropsOrArray::Schema(items)) => finish(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(finish),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = schema.additional_properties.as_mut() {
        finish(values);
    }
}

/// A status whose rules speak of what was before must be there from the beginning, and cannot be taken away.
fn always_has_a_status(root: &mut JSONSchemaProps) {
    let status = root.properties.as_mut().and_then(|properties| properties.get_mut("status"));
    if let Some(status) = status.filter(|status| speaks_of_before(status)) {
        let defaults = status.properties.iter().flatten();
        let defaults = defaults.filter_map(|(name, property)| Some((name.clone(), property.default.clone()?.0)));
        status.default = Some(JSON(serde_json::Value::Object(defaults.collect())));
    }
}

fn speaks_of_before(schema: &JSONSchemaProps) -> bool {
    schema.x_kubernetes_validations.iter().flatten().any(|rule| rule.rule.contains("oldSelf"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every string, list and map below `spec` has a bound.
    fn unbounded(path: &str, schema: &JSONSchemaProps, found: &mut Vec<String>) {
        let string = schema.type_.as_deref() == Some("string");
        let closed = schema.enum_.is_some() || schema.format.as_deref() == Some("date-time");
        if string && !closed && schema.max_length.is_none() {
            found.push(path.to_owned());
        }
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
            if schema.max_items.is_none() {
                found.push(format!("{path}[]"));
            }
            unbounded(&format!("{path}[*]"), items, found);
        }
        if schema.additional_properties.is_some() && schema.max_properties.is_none() {
            found.push(format!("{path}{{}}"));
        }
        for (name, property) in schema.properties.iter().flatten() {
            unbounded(&format!("{path}.{name}"), property, found);
        }
    }

    fn parts(definition: &CustomResourceDefinition) -> Vec<(String, JSONSchemaProps)> {
        let root = definition.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap();
        let kind = &definition.spec.names.kind;
        root.properties.unwrap().into_iter().map(|(name, schema)| (format!("{kind}.{name}"), schema)).collect()
    }

    #[test]
    fn every_list_and_string_is_bounded() {
        let mut found = Vec::new();
        for (path, schema) in definitions().iter().flat_map(parts) {
            unbounded(&path, &schema, &mut found);
        }
        assert!(found.is_empty(), "{found:#?}");
    }

    #[test]
    fn every_field_has_a_description() {
        fn silent(path: &str, schema: &JSONSchemaProps, found: &mut Vec<String>) {
            for (name, property) in schema.properties.iter().flatten() {
                let here = format!("{path}.{name}");
                // Conditions are the API machinery's own.
                if property.description.is_none() && !path.contains("conditions") {
                    found.push(here.clone());
                }
                silent(&here, property, found);
            }
            if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
                silent(path, items, found);
            }
        }
        let mut found = Vec::new();
        for (path, schema) in definitions().iter().flat_map(parts) {
            silent(&path, &schema, &mut found);
        }
        assert!(found.is_empty(), "{found:#?}");
    }

    #[test]
    fn nothing_is_nullable() {
        let all = serde_json::to_string(&definitions()).unwrap();
        assert!(!all.contains("\"nullable\""));
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "this test is about files")]
    fn the_committed_definitions_are_the_generated_ones() {
        for definition in definitions() {
            let name = format!("{}.yaml", definition.spec.names.plural);
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/crd/").to_owned() + &name;
            let committed: CustomResourceDefinition =
                serde_saphyr::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            assert_eq!(committed, definition, "run `cargo run -p sallyport-crds --bin crdgen -- config/crd`");
        }
    }
}
