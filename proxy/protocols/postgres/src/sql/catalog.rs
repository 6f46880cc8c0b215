//! What is known beforehand of the schema `pg_catalog`: its relations, and which of its functions are harmless.
//!
//! Owns the lists in `catalog/`; `functions.sql` there made the list of functions from `pg_proc` of a server of version 15
//! and says which classes of functions it leaves out; `eighteen.txt` is what it says otherwise of one of version 18. Touches nothing. Invariant: a name that is not listed is
//! never taken for harmless.

use std::sync::LazyLock;

/// How far a function of `pg_catalog` can be trusted. Every overload of a name shares the name's class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FunctionClass {
    /// Computes from its arguments, the clock and the catalogs; changes nothing and reads no table or file.
    Harmless,
    /// Does more than that, and can be called with values that a statement can write.
    Effect,
    /// Takes or returns what no statement can write down (`internal`, `cstring`, a trigger): support code.
    Internal,
}

/// Which servers a text may be for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Release {
    /// Of any version: a function that only newer ones have may be anybody's.
    #[default]
    Any,
    /// Of version 18 or newer.
    Eighteen,
}

/// A name, and its class where there is such a function.
type Listed = (&'static str, Option<FunctionClass>);

static FUNCTIONS: LazyLock<Vec<Listed>> = LazyLock::new(|| listed(include_str!("catalog/functions.txt")));

/// Where version 18 differs: functions that 16 to 18 brought, and that went.
static EIGHTEEN: LazyLock<Vec<Listed>> = LazyLock::new(|| listed(include_str!("catalog/eighteen.txt")));

fn listed(text: &'static str) -> Vec<Listed> {
    let class = |class| match class {
        "harmless" => Some(FunctionClass::Harmless),
        "internal" => Some(FunctionClass::Internal),
        "gone" => None,
        _ => Some(FunctionClass::Effect),
    };
    let mut functions: Vec<_> =
        text.lines().filter_map(|line| line.split_once(' ')).map(|(name, word)| (name, class(word))).collect();
    functions.sort_unstable_by_key(|(name, _)| *name);
    functions
}

fn find(list: &[Listed], name: &str) -> Option<Option<FunctionClass>> {
    let at = list.binary_search_by_key(&name, |(name, _)| *name).ok()?;
    list.get(at).map(|(_, class)| *class)
}

impl Release {
    /// Of a server that reports this as its `server_version`.
    pub(crate) fn told(version: &[u8]) -> Self {
        let digits: String =
            version.iter().take(4).take_while(|byte| byte.is_ascii_digit()).map(|byte| char::from(*byte)).collect();
        match digits.parse::<u16>() {
            Ok(18..) => Self::Eighteen,
            _ => Self::Any,
        }
    }
}

static RELATIONS: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let mut relations: Vec<_> = include_str!("catalog/relations.txt").lines().collect();
    relations.sort_unstable();
    relations
});

/// Operators. What stands behind each computes from its arguments.
static OPERATORS: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let mut operators: Vec<_> = include_str!("catalog/operators.txt").lines().collect();
    operators.sort_unstable();
    operators
});

/// Functions of `information_schema` that drivers call to describe a table; each computes from its arguments.
const INFORMATION_SCHEMA: [&str; 11] = [
    "_pg_char_max_length",
    "_pg_char_octet_length",
    "_pg_datetime_precision",
    "_pg_expandarray",
    "_pg_index_position",
    "_pg_interval_type",
    "_pg_numeric_precision",
    "_pg_numeric_precision_radix",
    "_pg_numeric_scale",
    "_pg_truetypid",
    "_pg_truetypmod",
];

/// Columns of the composite values that harmless functions return: what drivers write as `(f(x)).n` or `e.key`.
const FIELDS: [&str; 20] = [
    "alias",
    "description",
    "dictionaries",
    "dictionary",
    "grantee",
    "grantor",
    "is_grantable",
    "key",
    "lexeme",
    "lexemes",
    "n",
    "option_name",
    "option_value",
    "ordinality",
    "positions",
    "privilege_type",
    "token",
    "value",
    "word",
    "x",
];

/// The class of a function of `pg_catalog` on such a server, absent where there is none of that name.
pub(super) fn function(name: &str, release: Release) -> Option<FunctionClass> {
    let newer = (release == Release::Eighteen).then(|| find(&EIGHTEEN, name)).flatten();
    newer.or_else(|| find(&FUNCTIONS, name)).flatten()
}

/// Whether `pg_catalog` may have a function of that name on a server that is newer than is known.
pub(super) fn may_be_function(name: &str) -> bool {
    name.starts_with("pg_") || name.starts_with("lo_") || find(&EIGHTEEN, name).flatten().is_some()
}

/// Whether `information_schema` has a harmless function of that name.
pub(super) fn is_harmless_of_information_schema(name: &str) -> bool {
    INFORMATION_SCHEMA.binary_search(&name).is_ok()
}

/// Whether `pg_catalog` has a table or view of that name.
pub(super) fn is_relation(name: &str) -> bool {
    RELATIONS.binary_search(&name).is_ok()
}

/// Whether `pg_catalog` has an operator of that name.
pub(super) fn is_operator(name: &str) -> bool {
    OPERATORS.binary_search(&name).is_ok()
}

/// Whether that is a column of what some harmless function returns.
pub(super) fn is_field(name: &str) -> bool {
    FIELDS.binary_search(&name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dangerous_functions_are_never_harmless() {
        for name in [
            "pg_read_file",
            "pg_read_binary_file",
            "pg_ls_dir",
            "pg_stat_file",
            "lo_import",
            "lo_export",
            "lo_get",
            "lo_put",
            "loread",
            "lowrite",
            "query_to_xml",
            "table_to_xml",
            "cursor_to_xml",
            "database_to_xml",
            "schema_to_xml",
            "set_config",
            "pg_terminate_backend",
            "pg_cancel_backend",
            "pg_sleep",
            "pg_sleep_for",
            "pg_advisory_lock",
            "pg_try_advisory_lock",
            "nextval",
            "setval",
            "currval",
            "pg_notify",
            "pg_reload_conf",
            "pg_rotate_logfile",
            "pg_switch_wal",
            "pg_create_restore_point",
            "pg_drop_replication_slot",
            "pg_export_snapshot",
            "ts_stat",
            "ts_rewrite",
            "currtid2",
            "pg_stat_get_activity",
            "pg_stat_reset",
            "pg_show_all_file_settings",
            "pg_hba_file_rules",
            "binary_upgrade_set_record_init_privs",
            "dblink",
            "pg_promote",
            "pg_logical_emit_message",
            "pg_replication_origin_create",
            "textin",
            "system",
        ] {
            for release in [Release::Any, Release::Eighteen] {
                assert_ne!(function(name, release), Some(FunctionClass::Harmless), "{name}");
            }
        }
    }

    #[test]
    fn what_clients_need_is_harmless() {
        for name in [
            "lower",
            "count",
            "sum",
            "now",
            "format_type",
            "pg_get_expr",
            "pg_table_is_visible",
            "obj_description",
            "current_setting",
            "version",
            // The rows of pg_settings: what pgAdmin asks first.
            "pg_show_all_settings",
            "pg_backend_pid",
            "generate_series",
            "json_agg",
            "has_table_privilege",
            "pg_get_viewdef",
            "pg_relation_size",
            "pg_get_userbyid",
            "array_to_string",
            "quote_ident",
            "timezone",
            "row_number",
            "percentile_cont",
            "date_trunc",
            "xpath",
            "regexp_replace",
            "unnest",
            "random",
        ] {
            assert_eq!(function(name, Release::Any), Some(FunctionClass::Harmless), "{name}");
        }
    }

    #[test]
    fn the_lists_in_code_are_sorted() {
        assert!(INFORMATION_SCHEMA.is_sorted() && FIELDS.is_sorted());
    }
}
