//! Names that SQL itself gives and uses: PREPARE and EXECUTE, DECLARE and FETCH.
//!
//! Owns how these meet the names of the extended protocol, with which the server keeps them in one place.
//! Touches nothing. Invariant: as for all names, whatever the server could run is among what is judged.

use std::sync::Arc;

use sallyport_policy::{Action, Fact, Fields, Operation};

use super::client::Own;
use super::names::{LONGEST_NAME, Meaning, NO_SEGMENT, Portal, Statement};
use super::types::Types;
use super::{Conversation, Effect};
use crate::codec::frontend::Space;
use crate::sql::{Described, Loss, StatementKind};

/// What a statement does to a name.
enum Naming<'a> {
    Gives(Space, &'a str),
    Takes(Space, &'a str),
}

impl Conversation {
    /// The action of a text in which statements run what names stand for; `None` where the action that the
    /// text has by itself says all there is to say.
    pub(super) fn refined(&self, statements: &[Arc<Statement>]) -> Option<Action> {
        if !statements.iter().any(|statement| statement.described.kinds.iter().any(runs_a_name)) {
            return None;
        }
        let refined = statements.iter().map(|statement| self.refined_text(&statement.described));
        let (operations, fields): (Vec<_>, Vec<_>) = refined.map(|action| (action.operations, action.fields)).unzip();
        Some(Action { operations: operations.concat(), fields: Fields::of_all(&fields) })
    }

    /// The same for one text.
    pub(super) fn refined_query(&self, described: &Described) -> Option<Action> {
        described.kinds.iter().any(runs_a_name).then(|| self.refined_text(described))
    }

    fn refined_text(&self, described: &Described) -> Action {
        let mut operations: Vec<Operation> = Vec::new();
        let mut fields = Vec::new();
        for (kind, action) in described.kinds.iter().zip(&described.actions) {
            let meant = match kind {
                StatementKind::Fetch(name) => {
                    self.portals.meaning(name.as_bytes(), self.segment).map(|portal| portal.meaning)
                }
                StatementKind::Execute(name) => self.statements.meaning(name.as_bytes(), self.segment),
                _ => None,
            };
            fields.push(action.fields.clone());
            let meant_action = meant.as_ref().map(Meaning::action);
            fields.extend(meant_action.map(|action| action.fields.clone()));
            for operation in &action.operations {
                match &meant {
                    Some(meaning) if operation.verb == "Execute" && operation.object == Fact::Unknown => {
                        operations.extend(meaning.action().operations.iter().cloned());
                    }
                    _ => operations.push(operation.clone()),
                }
            }
        }
        Action { operations, fields: Fields::of_all(&fields) }
    }

    /// Whether the names that a text gives are such that they can be followed.
    pub(super) fn names_fit(&self, text: &str, described: &Described) -> Result<(), Own> {
        for kind in &described.kinds {
            if let Some(Naming::Gives(space, name)) = naming(kind) {
                let full = match space {
                    Space::Statement => self.statements.is_full(name.as_bytes(), text.len()),
                    Space::Portal => self.portals.is_full(name.as_bytes(), text.len()),
                };
                if full || name.len() > LONGEST_NAME {
                    return Err(Own::new(
                        "54000",
                        "this session has too many prepared statements or cursors: close some",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Refuses EXECUTE of what itself gives, takes or runs a name: a Parse may hold a DECLARE, which SQL could then run
    /// without anybody here seeing that the cursor's name stands for something else from there on. A SET of
    /// `search_path` behind an EXECUTE is as hidden.
    pub(super) fn nothing_is_named_behind(&self, described: &Described) -> Result<(), Own> {
        for kind in &described.kinds {
            let StatementKind::Execute(name) = kind else { continue };
            let meaning = self.statements.meaning(name.as_bytes(), self.segment);
            let loses = |described: &Described| described.loses.is_some_and(|loss| self.front.lost(loss).is_some());
            let hides = |described: &Described| speaks_of_names(described) || loses(described);
            if meaning.iter().flat_map(Meaning::statements).any(|statement| hides(&statement.described)) {
                return Err(Own::new(
                    "0A000",
                    "EXECUTE of what sets search_path, declares, closes, prepares or executes is refused: send it itself",
                ));
            }
        }
        Ok(())
    }

    /// Notes the names that a text, which goes upstream, gives and takes away. Gives the effect that hangs on
    /// the text's own success, where it is a single statement.
    pub(super) fn note_names(&mut self, text: &str, described: &Described, segment: u64) -> Option<Effect> {
        let single = described.kinds.len() == 1;
        let mut effect = None;
        for (kind, action) in described.kinds.iter().zip(&described.actions) {
            let (space, name, given) = match naming(kind) {
                Some(Naming::Gives(space, name)) => (space, name, true),
                // Of several statements it is not known which succeeded: a name too many does no harm.
                Some(Naming::Takes(space, name)) if single => (space, name, false),
                _ => continue,
            };
            let noted = self.effect(space, name.as_bytes());
            let segment = if single { segment } else { NO_SEGMENT };
            let meaning = given.then(|| {
                let described = Described {
                    action: action.clone(),
                    statements: 1,
                    kinds: vec![StatementKind::Other],
                    actions: vec![action.clone()],
                    loses: described.loses,
                    path: None,
                };
                Meaning::One(Arc::new(Statement {
                    text: text.into(),
                    described: Arc::new(described),
                    types: Types::default(),
                }))
            });
            match space {
                Space::Statement => self.statements.sent(name.as_bytes(), noted.serial, segment, meaning),
                Space::Portal => {
                    let portal = meaning.map(|meaning| Portal {
                        meaning,
                        values: bytes::Bytes::new(),
                        sure: true,
                        spent: Arc::default(),
                    });
                    self.portals.sent(name.as_bytes(), noted.serial, segment, portal);
                }
            }
            if single {
                effect = Some(noted);
            }
        }
        effect
    }

    /// What was sent last may change what names mean: so do the statements that are prepared, for the server reads them
    /// anew under another search path. Portals and cursors go on with what they were opened for.
    pub(super) fn lose_names(&mut self, loss: Loss) {
        let Some(lost) = self.front.lost(loss).map(Arc::clone) else { return };
        self.statements.reread(|meaning| meaning.reread(&lost));
        self.front = lost;
    }

    /// The head of the queue, of this tag, forgot every prepared statement. Nothing is concluded where
    /// something else in flight gives a name a meaning.
    pub(super) fn all_may_be_forgotten(&mut self, tag: &[u8]) {
        let all = tag == b"DEALLOCATE ALL\0" || tag == b"DISCARD ALL\0";
        if all
            && self.queue.front().is_some_and(|head| !head.names)
            && self.queue.iter().skip(1).all(|entry| entry.awaits == super::Awaits::Sync)
        {
            self.statements.keep(|_| false);
        }
    }

    /// With the transaction its portals are gone, but for cursors WITH HOLD.
    pub(super) fn transaction_ended(&mut self) {
        if !self.portals.is_empty() {
            self.portals.keep(|portal| {
                portal.meaning.statements().iter().any(|statement| {
                    // Some word that only looks like it keeps a name too many, which does no harm.
                    statement.text.as_bytes().windows(4).any(|word| word.eq_ignore_ascii_case(b"hold"))
                })
            });
        }
    }
}

/// Whether a text gives names a meaning.
pub(super) fn gives_names(described: &Described) -> bool {
    described.kinds.iter().any(|kind| matches!(naming(kind), Some(Naming::Gives(..))))
}

/// Whether names given by SQL have anything to do with a text.
pub(super) fn speaks_of_names(described: &Described) -> bool {
    described.kinds.iter().any(|kind| runs_a_name(kind) || naming(kind).is_some())
}

/// Whether a text runs what names stand for.
pub(super) fn runs_names(described: &Described) -> bool {
    described.kinds.iter().any(runs_a_name)
}

const fn runs_a_name(kind: &StatementKind) -> bool {
    matches!(kind, StatementKind::Execute(_) | StatementKind::Fetch(_))
}

fn naming(kind: &StatementKind) -> Option<Naming<'_>> {
    match kind {
        StatementKind::Prepare(name) => Some(Naming::Gives(Space::Statement, name)),
        StatementKind::Declare(name) => Some(Naming::Gives(Space::Portal, name)),
        StatementKind::Deallocate(Some(name)) => Some(Naming::Takes(Space::Statement, name)),
        StatementKind::CloseCursor(Some(name)) => Some(Naming::Takes(Space::Portal, name)),
        _ => None,
    }
}
