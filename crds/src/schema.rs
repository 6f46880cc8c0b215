//! Schema parts that more than one kind uses.
//!
//! Owns the written-out schemas that the derive cannot express (bounded conditions, quantities). Touches
//! nothing. Invariant: every list and string has a bound.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::{Schema, SchemaGenerator, json_schema};

/// RFC 1123 label, as Kubernetes takes for most names.
pub(crate) const DNS_LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// RFC 1123 subdomain.
pub(crate) const DNS_SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A duration as people write it: `1h`, `20m`, `1h30m`.
pub(crate) const DURATION: &str = "^([0-9]{1,6}(h|m|s))+$";
/// A number of bytes from 1 on: `1000`, `64Mi`, `2Gi`.
pub(crate) const BYTES: &str = "^[1-9][0-9]{0,11}(Ki|Mi|Gi)?$";
/// `resource.Quantity`, with the suffixes that make sense for cpu, memory and storage.
pub(crate) const QUANTITY: &str = r"^[0-9]{1,15}(\.[0-9]{1,3})?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$";

/// The key of a label, with or without a prefix.
pub(crate) const LABEL_KEY: &str = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$";
/// The value of a label.
pub(crate) const LABEL_VALUE: &str = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";

/// `metav1.Condition` as Gateway API writes it down: bounded, merged by type.
pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "What is known about this object; each says since when and for which generation of the spec.",
        "type": "array",
        "maxItems": 8,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {"type": "string", "maxLength": 316, "pattern": r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$"},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "reason": {"type": "string", "minLength": 1, "maxLength": 1024, "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
                "message": {"type": "string", "maxLength": 32768},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                "lastTransitionTime": {"type": "string", "format": "date-time"}
            }
        }
    })
}

/// Quantities by resource name, written as numbers or strings as in a Pod.
pub(crate) fn quantities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 8,
        "additionalProperties": {"x-kubernetes-int-or-string": true, "pattern": QUANTITY, "minimum": 0}
    })
}

/// Labels with their values. A schema bounds no keys, so a rule does.
pub(crate) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "Labels with their values.",
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": 63, "pattern": LABEL_VALUE},
        "x-kubernetes-validations": [{
            "rule": format!("self.all(key, size(key) <= 317 && key.matches('{LABEL_KEY}'))"),
            "message": "a key is the name of a label, like app or example.com/app"
        }]
    })
}

/// The conditions of a status, for the code that reads them back.
pub(crate) type Conditions = Vec<Condition>;
