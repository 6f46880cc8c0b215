//! The settings of a target that speaks PostgreSQL.
//!
//! Owns their names and defaults. Touches its arguments only. Invariant: a setting that is not known is
//! refused, never passed over.

use serde_json::{Map, Value};

use crate::sql::NameSettings;

/// Schemas of a search path at most.
const MOST_SCHEMAS: usize = 64;

/// Reads a target's `settings`: how its sessions resolve names.
///
/// # Errors
/// When one is unknown or cannot be meant.
pub(crate) fn read(settings: &Map<String, Value>) -> Result<NameSettings, String> {
    if let Some(unknown) = settings.keys().find(|name| *name != "searchPath") {
        return Err(format!("settings.{unknown} is not known to this proxy: there is searchPath"));
    }
    let Some(listed) = settings.get("searchPath") else { return Ok(NameSettings::default()) };
    let schemas = listed.as_array().filter(|schemas| schemas.len() <= MOST_SCHEMAS);
    let names = schemas.and_then(|schemas| schemas.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
    let names = names.ok_or_else(|| format!("settings.searchPath must list at most {MOST_SCHEMAS} schema names"))?;
    NameSettings::new(names).map_err(|error| format!("settings.searchPath: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn path(value: &Value) -> Result<String, String> {
        read(value.as_object().unwrap()).map(|names| names.search_path())
    }

    #[test]
    fn system_objects_come_first_and_temporary_ones_last() {
        assert_eq!(path(&json!({})).unwrap(), r#""public", "pg_temp""#);
        let listed = json!({"searchPath": ["pg_catalog", "app", "we\"ird", "pg_temp"]});
        assert_eq!(path(&listed).unwrap(), r#""app", "we""ird", "pg_temp""#);
    }

    #[test]
    fn what_could_shadow_and_what_is_unknown_is_refused() {
        for wrong in [
            json!({"searchPath": ["public", "pg_catalog"]}),
            json!({"searchPath": ["pg_temp", "public"]}),
            json!({"searchPath": ["$user"]}),
            json!({"searchPath": [""]}),
            json!({"searchPath": [1]}),
            json!({"searchPath": "public"}),
            json!({"searchpath": ["public"]}),
            json!({"allowCleartext": true}),
        ] {
            assert!(path(&wrong).is_err(), "{wrong}");
        }
    }
}
