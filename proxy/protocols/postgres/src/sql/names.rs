//! Names as a statement writes them, turned into every object they could mean.
//!
//! Owns the search path of the upstream session. Touches the lists of [`super::catalog`]. Invariant: the candidates
//! of a name contain the object that the server resolves it to, or there are none, which stands for any object at
//! all; provided that the session runs with
//! [`NameSettings::search_path`] and that nobody can create functions in its schemas whom the administrator does not
//! trust (`REVOKE CREATE ON SCHEMA public FROM PUBLIC`): PostgreSQL prefers a function of any schema in the path
//! whose argument types fit better, so `lower(x)` is the harmless one only as long as nobody adds another `lower`.

use sallyport_policy::QualifiedName;

use super::catalog::{self, FunctionClass, Release};

const CATALOG: &str = "pg_catalog";
const TEMPORARY: &str = "pg_temp";

/// How the upstream session resolves names that have no schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameSettings {
    /// Without `pg_catalog` and `pg_temp`, which are always first and last.
    schemas: Vec<String>,
    /// What names without a schema do not tell any more.
    lost: Option<Loss>,
    /// The server that resolves them.
    pub(super) release: Release,
}

/// What is not known of names without a schema once a session has set a search path of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// Which relation one means: the path is empty, temporary relations come first, functions are `pg_catalog`'s.
    Relations,
    /// What any of them means.
    All,
}

/// Why a search path was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameSettingsError {
    /// It would mean another schema for every role.
    #[error("search_path: \"$user\" depends on the role: name the schema")]
    User,
    /// Unqualified names would find something else before the built-in ones.
    #[error("search_path: pg_catalog must come first or be left out")]
    CatalogNotFirst,
    /// Temporary objects would shadow permanent ones.
    #[error("search_path: pg_temp must come last or be left out")]
    TemporaryNotLast,
    /// An empty name, or one that the server would cut.
    #[error("search_path: {0:?} must have 1 to 63 bytes and no NUL")]
    Name(String),
}

/// What calling a function by some name can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Callee {
    /// Nothing that policy would want to judge.
    Harmless,
    /// It runs one of these.
    Runs(Vec<QualifiedName>),
}

impl NameSettings {
    /// A search path as the target sets it.
    ///
    /// # Errors
    /// When names would not mean what policy takes them for.
    pub fn new<S: Into<String>>(search_path: impl IntoIterator<Item = S>) -> Result<Self, NameSettingsError> {
        let mut schemas: Vec<String> = search_path.into_iter().map(Into::into).collect();
        if schemas.first().is_some_and(|first| first == CATALOG) {
            schemas.remove(0);
        }
        if schemas.last().is_some_and(|last| last == TEMPORARY) {
            schemas.pop();
        }
        for schema in &schemas {
            match schema.as_str() {
                "$user" => return Err(NameSettingsError::User),
                CATALOG => return Err(NameSettingsError::CatalogNotFirst),
                TEMPORARY => return Err(NameSettingsError::TemporaryNotLast),
                name if name.is_empty() || name.len() > 63 || name.contains('\0') => {
                    return Err(NameSettingsError::Name(name.chars().take(80).collect()));
                }
                _ => {}
            }
        }
        Ok(Self { schemas, lost: None, release: Release::Any })
    }

    /// What holds once a session has set a search path of its own.
    pub(super) const fn lost(loss: Loss, release: Release) -> Self {
        Self { schemas: Vec::new(), lost: Some(loss), release }
    }

    /// The same for sessions on such a server.
    #[must_use]
    pub fn on(self, release: Release) -> Self {
        Self { release, ..self }
    }

    /// Whether built-in things are found first by a name with that schema, or with none where it is empty.
    pub(super) const fn finds(&self, schema: &str) -> bool {
        !matches!(self.lost, Some(Loss::All)) || !schema.is_empty()
    }

    /// Whether a session may set its path to these schemas and names still mean one of their candidates: what is left
    /// out is not found any more. Without `pg_temp` at the end temporary objects would come first.
    pub(crate) fn holds(&self, path: &[&str]) -> bool {
        let own = |schema: &&str| self.schemas.iter().any(|own| own == schema);
        path.split_last().is_some_and(|(last, schemas)| *last == TEMPORARY && schemas.iter().all(own))
    }

    /// The same of a path as it is written in the setting.
    pub(crate) fn holds_path(&self, path: &str) -> bool {
        let Some(schemas) = schemas_of(path) else { return false };
        self.holds(&schemas.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The value that `search_path` must have upstream. `pg_catalog` is searched first without being named;
    /// naming it would make the server create new objects there, which it refuses.
    #[must_use]
    pub fn search_path(&self) -> String {
        let quoted = self.schemas.iter().map(String::as_str).chain([TEMPORARY]);
        quoted.map(|schema| format!("\"{}\"", schema.replace('"', "\"\""))).collect::<Vec<_>>().join(", ")
    }

    /// What an existing relation's name could mean. An empty `schema` is none.
    pub(super) fn relation(&self, schema: &str, name: &str) -> Vec<QualifiedName> {
        if !schema.is_empty() {
            return vec![qualified(schema, name)];
        }
        if self.lost == Some(Loss::All) {
            return Vec::new();
        }
        // With an empty path a temporary relation could stand before it: the session's own, and of a built-in's name.
        if catalog::is_relation(name) {
            return vec![qualified(CATALOG, name)];
        }
        if self.lost.is_some() {
            return Vec::new();
        }
        let mut candidates = self.created(name);
        // A server that is newer than the list may have it.
        if name.starts_with("pg_") {
            candidates.insert(0, qualified(CATALOG, name));
        }
        candidates
    }

    /// Where a new object of that name could go: the first schema of the path that exists.
    pub(super) fn created(&self, name: &str) -> Vec<QualifiedName> {
        if self.lost.is_some() {
            return Vec::new();
        }
        let schemas = self.schemas.iter();
        let mut candidates: Vec<_> = schemas.map(|schema| qualified(schema, name)).collect();
        if candidates.is_empty() {
            candidates.push(qualified(TEMPORARY, name));
        }
        candidates
    }

    /// What a call by that name can do. An empty `schema` is none.
    pub(super) fn function(&self, schema: &str, name: &str) -> Callee {
        match (schema, catalog::function(name, self.release)) {
            ("", _) if !self.finds("") => Callee::Runs(Vec::new()),
            ("" | CATALOG, Some(FunctionClass::Harmless)) => Callee::Harmless,
            ("information_schema", _) if catalog::is_harmless_of_information_schema(name) => Callee::Harmless,
            ("", Some(_)) => Callee::Runs(vec![qualified(CATALOG, name)]),
            ("", None) => {
                let mut candidates = self.created(name);
                if catalog::may_be_function(name) {
                    candidates.insert(0, qualified(CATALOG, name));
                }
                Callee::Runs(candidates)
            }
            (schema, _) => Callee::Runs(vec![qualified(schema, name)]),
        }
    }
}

impl Default for NameSettings {
    fn default() -> Self {
        Self { schemas: vec!["public".to_owned()], lost: None, release: Release::Any }
    }
}

/// The schemas of a path, where each is a quoted name or one that means the same unquoted. None of anything else: the server's own
/// reading has more to it (case, white space of other kinds), and none of that is wanted.
fn schemas_of(path: &str) -> Option<Vec<String>> {
    let mut schemas = Vec::new();
    let mut rest = path.trim_matches(' ');
    loop {
        let mut schema = String::new();
        if let Some(mut quoted) = rest.strip_prefix('"') {
            loop {
                let (before, after) = quoted.split_once('"')?;
                schema.push_str(before);
                let Some(more) = after.strip_prefix('"') else {
                    rest = after;
                    break;
                };
                schema.push('"');
                quoted = more;
            }
        } else {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            let end = rest.find(|c| !plain(c)).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            if name.starts_with(|c: char| c.is_ascii_digit()) {
                return None;
            }
            schema.push_str(name);
            rest = after;
        }
        if schema.is_empty() {
            return None;
        }
        schemas.push(schema);
        rest = rest.trim_start_matches(' ');
        if rest.is_empty() {
            return Some(schemas);
        }
        rest = rest.strip_prefix(',')?.trim_start_matches(' ');
    }
}

pub(super) fn qualified(schema: &str, name: &str) -> QualifiedName {
    QualifiedName::new(schema.to_owned(), name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_would_change_what_names_mean_is_refused() {
        assert_eq!(NameSettings::new(["$user", "public"]), Err(NameSettingsError::User));
        assert_eq!(NameSettings::new(["public", "pg_catalog"]), Err(NameSettingsError::CatalogNotFirst));
        assert_eq!(NameSettings::new(["pg_temp", "public"]), Err(NameSettingsError::TemporaryNotLast));
        assert!(matches!(NameSettings::new([""]), Err(NameSettingsError::Name(_))));
    }

    #[test]
    fn the_upstream_path_quotes_every_schema_and_ends_with_temporary_objects() {
        let settings = NameSettings::new(["pg_catalog", "app", "we\"ird", "pg_temp"]).unwrap();
        assert_eq!(settings.search_path(), "\"app\", \"we\"\"ird\", \"pg_temp\"");
        assert_eq!(NameSettings::default().search_path(), "\"public\", \"pg_temp\"");
    }

    #[test]
    fn a_path_as_it_is_written_holds_only_where_it_is_plainly_of_the_targets_schemas_with_temporary_objects_last() {
        let settings = NameSettings::new(["app", "public", "we\"ird"]).unwrap();
        for path in [
            "\"public\",\"public\", \"pg_temp\"",
            "app, public, pg_temp",
            " public ,pg_temp ",
            "\"we\"\"ird\",pg_temp",
            "pg_temp",
        ] {
            assert!(settings.holds_path(path), "{path}");
        }
        for path in [
            "",
            "public",
            "pg_temp, public",
            "public, pg_temp, public",
            "public, evil, pg_temp",
            "public, pg_catalog, pg_temp",
            "\"$user\", public, pg_temp",
            "public; pg_temp",
            "public, pg_temp,",
            ", pg_temp",
            "public pg_temp",
            "\"public, pg_temp",
            "\"\", pg_temp",
            "PUBLIC, pg_temp",
            "public,\tpg_temp",
            "\"public\"\"\", pg_temp",
            "public, \"pg_temp\"\"\"",
            "1a, pg_temp",
        ] {
            assert!(!settings.holds_path(path), "{path}");
        }
    }

    #[test]
    fn a_name_without_schema_means_every_schema_of_the_path() {
        let settings = NameSettings::new(["app", "public"]).unwrap();
        assert_eq!(settings.relation("", "t"), [qualified("app", "t"), qualified("public", "t")]);
        assert_eq!(settings.relation("", "pg_class"), [qualified("pg_catalog", "pg_class")]);
        assert_eq!(settings.relation("", "pg_x").len(), 3);
        assert_eq!(settings.relation("pg_temp_3", "t"), [qualified("pg_temp_3", "t")]);
        let runs = |name| settings.function("", name);
        let both = |name| Callee::Runs(["app", "public"].map(|schema| qualified(schema, name)).to_vec());
        assert_eq!(runs("refund"), both("refund"));
        // Built in from version 16 or 18 on, and anybody's before that.
        for name in ["uuidv7", "random_normal", "pg_x", "lo_x"] {
            let Callee::Runs(candidates) = runs(name) else { panic!("{name} is not known to be harmless") };
            assert_eq!(candidates[0], qualified("pg_catalog", name));
            assert_eq!(Callee::Runs(candidates[1..].to_vec()), both(name));
        }
    }
}
