//! A session without a server: what texts would come to, told by the code that judges them in earnest.
//!
//! Owns the pretence of a server that does as it is told. Touches its arguments only. Invariant: what a text does is
//! said by [`Conversation`] itself, from the same message that a client would send; nothing here describes a text.

use std::sync::Arc;

use bytes::BytesMut;
use sallyport_core::Fault;
use sallyport_core::protocol::{Conversation as _, Next};
use sallyport_core::sessions::SessionId;
use sallyport_policy::{Action, Denial, Fields};
use serde_json::{Map, Value};

use super::client::Command;
use super::names::OR;
use super::{Beginning, Conversation};
use crate::cancel::Registry;
use crate::codec::backend::{Status, ready_for_query};
use crate::codec::message;
use crate::settings;
use crate::sql::{Front, StatementKind};

/// A session that nobody serves.
#[derive(Debug)]
pub struct Rehearsal {
    conversation: Conversation,
    status: Status,
}

/// What a text comes to.
#[derive(Debug)]
pub struct Rehearsed {
    /// What it does; or why it is refused whatever the policies say.
    pub action: Result<Action, Denial>,
    /// What each of its statements does, in their order.
    pub statements: Vec<Action>,
    command: Option<Command>,
}

impl Rehearsal {
    /// A session of a target with these settings.
    ///
    /// # Errors
    /// When a setting is unknown or cannot be meant.
    pub fn new(settings: &Map<String, Value>) -> Result<Self, String> {
        Ok(Self::with(Arc::new(Front::new(settings::read(settings)?))))
    }

    /// Another session of the same target, in which nothing has happened.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::with(Arc::clone(&self.conversation.front))
    }

    fn with(front: Arc<Front>) -> Self {
        let registered = Arc::new(Registry::default()).register(SessionId::from_random(0), 0);
        let conversation =
            Conversation::new(Beginning { front, key: None, registered, pinned: Vec::new(), masks: None });
        Self { conversation, status: Status::Idle }
    }

    /// What `text` comes to when it is sent now, as one query. Records of a command whose name could stand for several
    /// texts hold them all: then all of them count, as they did.
    ///
    /// # Errors
    /// When the session would end over it.
    pub fn query(&mut self, text: &str) -> Result<Rehearsed, Fault> {
        let whole = self.one(text)?;
        if whole.action.is_ok() || !text.contains(OR) {
            return Ok(whole);
        }
        let (mut operations, mut fields, mut statements) = (Vec::new(), Vec::new(), Vec::new());
        for part in text.split(OR) {
            let part = self.one(part)?;
            match part.action {
                Ok(action) => {
                    operations.extend(action.operations);
                    fields.push(action.fields);
                }
                Err(_) => return Ok(whole),
            }
            statements.extend(part.statements);
        }
        let action = Action { operations, fields: Fields::of_all(&fields) };
        Ok(Rehearsed { action: Ok(action), statements, command: None })
    }

    /// The text went to the server, and the server did what it says: names that it gives stand for something now.
    ///
    /// # Errors
    /// When the session would end over it.
    pub fn ran(&mut self, rehearsed: Rehearsed) -> Result<(), Fault> {
        let Some(command) = rehearsed.command.filter(|_| rehearsed.action.is_ok()) else { return Ok(()) };
        let (mut upstream, mut client, mut answer) = (BytesMut::new(), BytesMut::new(), BytesMut::new());
        for kind in command.kinds() {
            self.status = match kind {
                StatementKind::Begin
                | StatementKind::Commit { chain: true }
                | StatementKind::Rollback { chain: true } => Status::InTransaction,
                StatementKind::Commit { chain: false } | StatementKind::Rollback { chain: false } => Status::Idle,
                _ => self.status,
            };
            let tag: &[u8] = match kind {
                StatementKind::Deallocate(None) => b"DEALLOCATE ALL\0",
                _ => b"OK\0",
            };
            message(&mut answer, b'C', &[tag]);
        }
        ready_for_query(&mut answer, self.status);
        self.conversation.forward_command(&command, None, &mut upstream)?;
        self.conversation.answer(&mut answer, &mut client, &mut Vec::new())
    }

    fn one(&mut self, text: &str) -> Result<Rehearsed, Fault> {
        let (mut input, mut client) = (BytesMut::new(), BytesMut::new());
        message(&mut input, b'Q', &[text.as_bytes(), b"\0"]);
        match self.conversation.next(&mut input, &mut client)? {
            Next::Command(command) => {
                let action = self.conversation.describe(&command).action.cloned();
                Ok(Rehearsed { action, statements: command.actions().to_vec(), command: Some(command) })
            }
            Next::Incomplete | Next::Handled | Next::Full | Next::Goodbye => {
                Err(Fault::internal("the text cannot be rehearsed", "a query was not taken as a command"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verbs(rehearsed: &Rehearsed) -> Vec<String> {
        let action = rehearsed.action.as_ref().unwrap();
        action.operations.iter().map(ToString::to_string).collect()
    }

    fn session() -> Rehearsal {
        Rehearsal::new(&Map::new()).unwrap()
    }

    #[test]
    fn a_text_is_what_it_is_in_a_session_of_its_own() {
        let rehearsed = session().query("select * from a; delete from b").unwrap();
        assert_eq!(verbs(&rehearsed), ["Select on public.a", "Delete on public.b"]);
        assert_eq!(rehearsed.statements.len(), 2);
        let denied = session().query("selekt 1").unwrap().action.unwrap_err();
        assert!(denied.to_string().contains("cannot be parsed"), "{denied}");
        assert!(session().query("select '\0'").is_err() || session().query("select '\0'").unwrap().action.is_err());
    }

    #[test]
    fn names_that_ran_stand_for_what_they_were_given() {
        let mut session = session();
        let prepare = session.query("prepare p as delete from b").unwrap();
        session.ran(prepare).unwrap();
        assert!(verbs(&session.query("execute p").unwrap())[0].starts_with("Delete on public.b"));
        for text in ["begin", "declare c cursor for select * from a"] {
            let rehearsed = session.query(text).unwrap();
            session.ran(rehearsed).unwrap();
        }
        assert!(verbs(&session.query("fetch c").unwrap())[0].starts_with("Select on public.a"));
        for text in ["commit", "deallocate all"] {
            let rehearsed = session.query(text).unwrap();
            session.ran(rehearsed).unwrap();
        }
        for gone in ["fetch c", "execute p"] {
            assert_eq!(verbs(&session.query(gone).unwrap()), ["Execute of something that cannot be derived"], "{gone}");
        }
    }

    #[test]
    fn a_record_of_several_texts_is_all_of_them() {
        let text = ["select * from a", "delete from b"].join(OR);
        let rehearsed = session().query(&text).unwrap();
        assert_eq!(verbs(&rehearsed).len(), 2);
        let comment = session().query(&format!("select 1{OR}from")).unwrap();
        assert!(comment.action.is_err());
    }
}
