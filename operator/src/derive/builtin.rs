//! The rules that every compiled policy begins with: what any PostgreSQL client needs to work at all.
//!
//! Owns that list. Touches nothing. Invariant: it reveals structure, never data, statistics of data or secrets.

use sallyport_policy::{Effect, Matcher, NamePattern, ObjectKind, ObjectMatcher, Rule};

/// Relations of `pg_catalog` that describe the database. Not among them, on purpose: `pg_authid`, `pg_shadow`
/// and `pg_user_mapping(s)` (secrets), `pg_statistic`, `pg_statistic_ext_data` and `pg_stats*` (samples of data;
/// `pg_statistic_ext` only defines statistics, and psql's `\d` reads it), `pg_largeobject*` (data),
/// `pg_stat_activity` (other people's statements; the counters of tables and indexes show numbers alone), `pg_hba_file_rules`, `pg_file_settings`, `pg_subscription` (connection strings).
const CATALOG: &[&str] = &[
    "pg_aggregate",
    "pg_am",
    "pg_amop",
    "pg_amproc",
    "pg_attrdef",
    "pg_attribute",
    "pg_auth_members",
    "pg_available_extensions",
    "pg_available_extension_versions",
    "pg_cast",
    "pg_class",
    "pg_collation",
    "pg_constraint",
    "pg_conversion",
    "pg_database",
    "pg_default_acl",
    "pg_depend",
    "pg_description",
    "pg_enum",
    "pg_event_trigger",
    "pg_extension",
    "pg_group",
    "pg_index",
    "pg_indexes",
    "pg_inherits",
    "pg_init_privs",
    "pg_language",
    "pg_matviews",
    "pg_namespace",
    "pg_opclass",
    "pg_operator",
    "pg_opfamily",
    "pg_partitioned_table",
    "pg_policies",
    "pg_policy",
    "pg_proc",
    "pg_publication",
    "pg_publication_namespace",
    "pg_publication_rel",
    "pg_publication_tables",
    "pg_range",
    "pg_rewrite",
    "pg_roles",
    "pg_rules",
    "pg_seclabel",
    "pg_seclabels",
    "pg_sequence",
    "pg_sequences",
    "pg_settings",
    "pg_shdepend",
    "pg_shdescription",
    "pg_shseclabel",
    "pg_stat_all_indexes",
    "pg_stat_all_tables",
    "pg_stat_user_indexes",
    "pg_stat_user_tables",
    "pg_statio_all_indexes",
    "pg_statio_all_tables",
    "pg_statio_user_indexes",
    "pg_statio_user_tables",
    "pg_statistic_ext",
    "pg_tables",
    "pg_tablespace",
    "pg_timezone_abbrevs",
    "pg_timezone_names",
    "pg_transform",
    "pg_trigger",
    "pg_ts_config",
    "pg_ts_config_map",
    "pg_ts_dict",
    "pg_ts_parser",
    "pg_ts_template",
    "pg_type",
    "pg_user",
    "pg_views",
];

/// Views of `information_schema`. Not among them: `user_mapping_options`, `foreign_server_options` and the
/// underscored views below them, which show the passwords of foreign servers.
const INFORMATION: &[&str] = &[
    "administrable_role_authorizations",
    "applicable_roles",
    "attributes",
    "character_sets",
    "check_constraint_routine_usage",
    "check_constraints",
    "collation_character_set_applicability",
    "collations",
    "column_column_usage",
    "column_domain_usage",
    "column_privileges",
    "column_udt_usage",
    "columns",
    "constraint_column_usage",
    "constraint_table_usage",
    "data_type_privileges",
    "domain_constraints",
    "domain_udt_usage",
    "domains",
    "element_types",
    "enabled_roles",
    "information_schema_catalog_name",
    "key_column_usage",
    "parameters",
    "referential_constraints",
    "role_column_grants",
    "role_routine_grants",
    "role_table_grants",
    "role_udt_grants",
    "role_usage_grants",
    "routine_column_usage",
    "routine_privileges",
    "routine_routine_usage",
    "routine_sequence_usage",
    "routine_table_usage",
    "routines",
    "schemata",
    "sequences",
    "sql_features",
    "sql_implementation_info",
    "sql_parts",
    "sql_sizing",
    "table_constraints",
    "table_privileges",
    "tables",
    "transforms",
    "triggered_update_columns",
    "triggers",
    "udt_privileges",
    "usage_privileges",
    "user_defined_types",
    "view_column_usage",
    "view_routine_usage",
    "view_table_usage",
    "views",
];

/// The built-in rules, in order.
#[must_use]
pub fn rules() -> Vec<Rule> {
    vec![session(), catalog()]
}

/// Transactions, and statements that touch nothing but the session itself.
fn session() -> Rule {
    allow("builtin:session", Matcher { verbs: verbs(&["Transaction", "Session"]), ..Matcher::default() })
}

/// Reading the catalog.
fn catalog() -> Rule {
    let names = CATALOG.iter().map(|relation| format!("pg_catalog.{relation}"));
    let names = names.chain(INFORMATION.iter().map(|view| format!("information_schema.{view}")));
    // Every entry is a literal of the right form (a test holds them to it).
    let names = names.filter_map(|name| NamePattern::parse(&name).ok()).collect();
    let objects = Some(vec![ObjectMatcher { kind: ObjectKind::Table, names }]);
    allow("builtin:catalog", Matcher { verbs: verbs(&["Select"]), objects, ..Matcher::default() })
}

fn allow(name: &str, matcher: Matcher) -> Rule {
    Rule { name: name.to_owned(), effect: Effect::Allow, message: None, matcher, when: None }
}

fn verbs(verbs: &[&str]) -> Option<Vec<String>> {
    Some(verbs.iter().map(|verb| (*verb).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sallyport_policy::QualifiedName;

    fn readable_in(space: &'static str, name: &'static str) -> bool {
        let patterns = catalog().matcher.objects.unwrap().remove(0).names;
        patterns.iter().any(|pattern| pattern.matches(&QualifiedName::new(space, name)))
    }

    fn readable(name: &'static str) -> bool {
        readable_in("pg_catalog", name)
    }

    #[test]
    fn every_entry_is_a_pattern() {
        assert_eq!(catalog().matcher.objects.unwrap()[0].names.len(), CATALOG.len() + INFORMATION.len());
    }

    #[test]
    fn nothing_that_holds_data_or_secrets_is_readable() {
        for secret in [
            "pg_authid",
            "pg_shadow",
            "pg_user_mapping",
            "pg_user_mappings",
            "pg_statistic",
            "pg_statistic_ext_data",
            "pg_stats",
            "pg_stats_ext",
            "pg_stats_ext_exprs",
            "pg_largeobject",
            "pg_largeobject_metadata",
            "pg_stat_activity",
            "pg_hba_file_rules",
            "pg_file_settings",
            "pg_subscription",
            "pg_foreign_server",
            "pg_db_role_setting",
            "pg_prepared_statements",
            "pg_cursors",
            "pg_stat_statements",
        ] {
            assert!(!readable(secret), "{secret}");
        }
        for secret in [
            "user_mapping_options",
            "_pg_user_mappings",
            "foreign_server_options",
            "_pg_foreign_servers",
            "user_mappings",
        ] {
            assert!(!readable_in("information_schema", secret), "{secret}");
        }
        assert!(readable("pg_class") && readable("pg_settings") && readable_in("information_schema", "columns"));
    }
}
