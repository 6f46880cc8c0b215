//! The kinds of SQL statement that a rule can speak of.
//!
//! Owns their spelling, which is also the verb that the PostgreSQL front describes a command with.
//! Touches nothing. Invariant: the list here and the verbs of the front are the same words.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! statements {
    ($($name:ident),+ $(,)?) => {
        /// A kind of SQL statement.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        pub enum Statement { $(#[allow(missing_docs, reason = "the name is the SQL statement")] $name,)+ }

        impl Statement {
            /// Every kind, in the order of the schema.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The verb that the PostgreSQL front uses for it.
            #[must_use]
            pub const fn verb(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }
        }
    };
}

statements! {
    Select, Insert, Update, Delete, Merge, Truncate, CopyTo, CopyFrom, Lock, Call, Do, Execute, Listen, Notify,
    CreateTable, CreateTableAs, CreateIndex, CreateView, CreateMaterializedView, CreateSchema, CreateSequence,
    CreateType, CreateFunction, CreateTrigger, CreateExtension, CreateRole, CreateDatabase, AlterTable, AlterRole,
    AlterSystem, AlterOther, CreateOther, Drop, Rename, Comment, Grant, Revoke, Vacuum, Analyze, Reindex, Cluster,
    RefreshMaterializedView, SetParameter, SetRole, Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_is_the_word_the_user_writes() {
        for statement in Statement::ALL {
            assert_eq!(serde_json::to_value(statement).unwrap(), statement.verb());
        }
    }
}
