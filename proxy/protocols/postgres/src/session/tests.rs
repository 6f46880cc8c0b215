//! The session against transcripts of a server, one message at a time.

use sallyport_core::protocol::Conversation as _;
use sallyport_core::sessions::SessionId;
use sallyport_policy::{Allowance, Denial};

use super::*;
use crate::cancel::Registry;
use crate::codec::backend::{self, error_field, error_response, failure};
use crate::codec::frontend::build::*;
use crate::codec::{self};

mod curb;
mod hostile;
mod model;
mod shown;
mod values;
mod waiting;

/// A session, its three buffers, and what is refused: every text that contains `secret`.
struct Rig {
    session: Conversation,
    input: BytesMut,
    client: BytesMut,
    upstream: BytesMut,
    outcomes: Vec<Outcome>,
    commands: u64,
    /// What of the server's bytes was not taken yet.
    held: BytesMut,
    /// Texts of what ran, in the order in which it was judged.
    ran: Vec<String>,
    /// How much each command may answer.
    allowance: Option<Arc<Allowance>>,
}

impl Rig {
    fn new() -> Self {
        let registered = Arc::new(Registry::default()).register(SessionId::from_random(1), 0);
        let front = Arc::new(sql::Front::new(sql::NameSettings::default()));
        let key = Some(CancelKey { pid: 7, secret: vec![1, 2, 3, 4] });
        let pinned = vec![(Bytes::from("client_encoding"), Bytes::from("UTF8"))];
        Self {
            session: Conversation::new(Beginning { front, key, registered, pinned, masks: None }),
            input: BytesMut::new(),
            client: BytesMut::new(),
            upstream: BytesMut::new(),
            outcomes: Vec::new(),
            commands: 0,
            held: BytesMut::new(),
            ran: Vec::new(),
            allowance: None,
        }
    }

    /// The client sends; gives what went upstream.
    fn send(&mut self, messages: &[Vec<u8>]) -> Vec<u8> {
        self.try_send(messages).unwrap()
    }

    fn try_send(&mut self, messages: &[Vec<u8>]) -> Result<Vec<u8>, Fault> {
        for message in messages {
            self.input.extend_from_slice(message);
        }
        self.pump()?;
        Ok(std::mem::take(&mut self.upstream).to_vec())
    }

    fn pump(&mut self) -> Result<(), Fault> {
        loop {
            match self.session.next(&mut self.input, &mut self.client)? {
                Next::Handled => {}
                Next::Command(command) => self.judge(&command)?,
                Next::Incomplete | Next::Full | Next::Goodbye => return Ok(()),
            }
        }
    }

    fn judge(&mut self, command: &Command) -> Result<(), Fault> {
        let described = self.session.describe(command);
        let entry = described.entry.as_ref().map(|entry| (entry.text.to_string(), entry.runs));
        let denial = match described.action {
            Err(denial) => Some(denial),
            Ok(_) => entry
                .as_ref()
                .filter(|(text, _)| text.contains("secret"))
                .map(|_| Denial::not_understood("secret things are refused")),
        };
        match denial {
            Some(denial) => {
                let error = refuse::command_refused(&denial, command.own_refusal());
                if let Some(constant) = self.session.refuse_at(command.place(), error, &mut self.client) {
                    self.upstream.extend_from_slice(constant);
                }
                Ok(())
            }
            None => {
                let number = entry.filter(|(_, runs)| *runs).map(|(text, _)| {
                    self.ran.push(text);
                    self.commands += 1;
                    self.commands
                });
                self.session.forward_command(command, number, &mut self.upstream)?;
                if let (Some(allowance), Some(spent)) = (&self.allowance, command.spent()) {
                    self.session.allow(Arc::clone(allowance), spent);
                }
                Ok(())
            }
        }
    }

    /// The server sends; gives what the client sees, as the types of its messages, errors with their code.
    fn serve(&mut self, messages: &[Vec<u8>]) -> String {
        self.try_serve(&messages.concat()).unwrap()
    }

    fn try_serve(&mut self, bytes: &[u8]) -> Result<String, Fault> {
        let mut input = BytesMut::from(bytes);
        self.session.answer(&mut input, &mut self.client, &mut self.outcomes)?;
        assert!(input.is_empty(), "held back: {input:?}");
        Ok(self.seen())
    }

    /// What the client has been sent since the last look.
    fn seen(&mut self) -> String {
        let sent = std::mem::take(&mut self.client);
        summary(&sent)
    }

    fn outcomes(&mut self) -> Vec<(u64, Option<String>, Option<u64>)> {
        self.outcomes.drain(..).map(|outcome| (outcome.command, outcome.failed, outcome.rows)).collect()
    }
}

fn summary(mut bytes: &[u8]) -> String {
    let mut words = Vec::new();
    while let Some(frame) = backend::frame(bytes).unwrap() {
        let (message, rest) = bytes.split_at(frame.total);
        let kind = char::from(message[0]);
        words.push(match kind {
            'E' => format!("E{}", String::from_utf8_lossy(&failure(&message[5..]).code)),
            'Z' => format!("Z{}", char::from(message[5])),
            other => other.to_string(),
        });
        bytes = rest;
    }
    assert!(bytes.is_empty());
    words.join(" ")
}

fn one(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    codec::message(&mut out, kind, &[body]);
    out.to_vec()
}
fn done(tag: &str) -> Vec<u8> {
    one(b'C', format!("{tag}\0").as_bytes())
}
fn ready(status: u8) -> Vec<u8> {
    one(b'Z', &[status])
}
fn error(code: &str) -> Vec<u8> {
    let mut out = BytesMut::new();
    error_response(&mut out, &[(b'S', "ERROR"), (b'V', "ERROR"), (b'C', code), (b'M', "of the server")]);
    out.to_vec()
}
fn bare(kinds: &str) -> Vec<u8> {
    kinds.bytes().flat_map(|kind| one(kind, b"")).collect()
}
fn rows() -> Vec<u8> {
    [one(b'T', &[0, 0]), one(b'D', &[0, 0])].concat()
}

#[test]
fn a_query_passes_and_its_outcome_is_told() {
    let mut rig = Rig::new();
    assert_eq!(rig.send(&[query("select 1")]), query("select 1"));
    assert!(!rig.session.idle());
    assert!(rig.session.interruption().is_some());
    assert_eq!(rig.serve(&[rows(), done("SELECT 1"), ready(b'I')]), "T D C ZI");
    assert_eq!(rig.outcomes(), [(1, None, Some(1))]);
    assert!(rig.session.idle() && rig.session.interruption().is_none());
    rig.send(&[query("selec 1; select 2")]);
    assert_eq!(rig.seen(), "E42601 ZI", "what cannot be parsed is refused as that");
    rig.send(&[query("select 1/0")]);
    assert_eq!(rig.serve(&[error("22012"), ready(b'I')]), "E22012 ZI");
    assert_eq!(rig.outcomes(), [(2, Some("22012".into()), None)]);
}

#[test]
fn a_query_refused_at_rest_is_answered_here_and_sends_nothing() {
    let mut rig = Rig::new();
    assert!(rig.send(&[query("select secret")]).is_empty());
    assert_eq!(rig.seen(), "E42501 ZI");
    rig.send(&[query("begin; select 1/0")]);
    rig.serve(&[done("BEGIN"), error("22012"), ready(b'E')]);
    assert!(rig.send(&[query("select secret")]).is_empty());
    assert_eq!(rig.seen(), "E42501 ZE", "a failed transaction stays failed");
}

#[test]
fn a_query_refused_in_a_transaction_makes_the_server_abort_it() {
    let mut rig = Rig::new();
    rig.send(&[query("begin")]);
    assert_eq!(rig.serve(&[done("BEGIN"), ready(b'T')]), "C ZT");
    assert_eq!(rig.send(&[query("select secret")]), refuse::QUERY_THAT_FAILS);
    assert_eq!(rig.seen(), "");
    assert_eq!(rig.serve(&[error("42601"), ready(b'E')]), "E42501 ZE", "our error in place of the server's");
    assert!(rig.session.idle());
}

#[test]
fn a_refusal_behind_commands_in_flight_waits_its_turn() {
    let mut rig = Rig::new();
    let sent = rig.send(&[query("select 1"), query("select secret"), query("select 2")]);
    assert_eq!(sent, [query("select 1"), refuse::QUERY_THAT_FAILS.to_vec(), query("select 2")].concat());
    assert_eq!(rig.serve(&[rows(), done("SELECT 1"), ready(b'I')]), "T D C ZI");
    let rest = [error("42601"), ready(b'I'), rows(), done("SELECT 1"), ready(b'I')];
    assert_eq!(rig.serve(&rest), "E42501 ZI T D C ZI");
    assert_eq!(rig.outcomes().len(), 2);
}

#[test]
fn the_replaced_error_is_dropped_whole_in_whatever_pieces_it_comes() {
    let mut rig = Rig::new();
    rig.send(&[query("select 1"), query("select secret")]);
    let mut long = BytesMut::new();
    let text = "x".repeat(5000);
    error_response(&mut long, &[(b'S', "ERROR"), (b'V', "ERROR"), (b'C', "42601"), (b'M', &text)]);
    let stream = [rows(), done("SELECT 1"), ready(b'I'), long.to_vec(), ready(b'I')].concat();
    let (mut input, mut client) = (BytesMut::new(), BytesMut::new());
    for byte in stream {
        input.extend_from_slice(&[byte]);
        rig.session.answer(&mut input, &mut client, &mut rig.outcomes).unwrap();
    }
    assert_eq!(summary(&client), "T D C ZI E42501 ZI");
    let told = client.windows(25).any(|window| window == b"secret things are refused");
    assert!(told && !client.windows(3).any(|window| window == b"xxx"));
}

#[test]
fn a_parse_refused_at_rest_is_skipped_to_its_sync_without_the_server() {
    let mut rig = Rig::new();
    let sent = rig.send(&[
        parse("", "select secret"),
        bind("", "", &[], 0),
        describe(b'P', ""),
        execute(""),
        query("select 1"),
        flush(),
        sync(),
    ]);
    assert!(sent.is_empty());
    assert_eq!(rig.seen(), "E42501 ZI");
    assert_eq!(rig.send(&[query("select 1")]), query("select 1"), "the session goes on");
}

#[test]
fn a_parse_refused_in_a_pipeline_fails_in_its_place_and_only_its_sync_follows() {
    let mut rig = Rig::new();
    let before = [parse("", "insert into t values (1)"), bind("", "", &[], 0), execute("")];
    let sent = rig.send(&[before.concat(), parse("", "select secret"), bind("", "", &[], 0), execute(""), sync()]);
    assert_eq!(sent, [before.concat(), refuse::PARSE_THAT_FAILS.to_vec(), sync()].concat());
    assert_eq!(rig.serve(&[bare("12"), done("INSERT 0 1"), error("42601")]), "1 2 C E42501");
    assert_eq!(rig.serve(&[ready(b'I')]), "ZI");
    assert_eq!(rig.outcomes(), [(1, None, Some(1))]);
    // The statement before is what the unnamed one still is.
    rig.send(&[bind("", "", &[], 0), execute(""), sync()]);
    assert_eq!(rig.ran.last().unwrap(), "insert into t values (1)");
}

#[test]
fn after_a_flush_without_a_sync_a_refusal_must_reach_the_server() {
    let mut rig = Rig::new();
    rig.send(&[parse("", "insert into t values (1)"), bind("", "", &[], 0), execute(""), flush()]);
    rig.serve(&[bare("12"), done("INSERT 0 1")]);
    assert!(rig.session.idle());
    // Answering here would leave the insert to be committed by the Sync.
    assert_eq!(rig.send(&[parse("", "select secret"), sync()]), [refuse::PARSE_THAT_FAILS.to_vec(), sync()].concat());
    assert_eq!(rig.serve(&[error("42601"), ready(b'I')]), "E42501 ZI");
}

#[test]
fn a_refusal_that_the_server_skips_over_leaves_only_the_error_before_it() {
    let mut rig = Rig::new();
    let sent = rig.send(&[parse("", "select 1/0"), bind("", "", &[], 0), execute(""), parse("", "select secret")]);
    assert!(sent.ends_with(refuse::PARSE_THAT_FAILS));
    assert_eq!(rig.serve(&[bare("12"), error("22012")]), "1 2 E22012");
    assert_eq!(rig.send(&[execute(""), sync()]), sync());
    assert_eq!(rig.serve(&[ready(b'I')]), "ZI");
    assert_eq!(rig.outcomes(), [(1, Some("22012".into()), None)]);
}

#[test]
fn commands_behind_an_error_are_told_as_skipped_queries_included() {
    let mut rig = Rig::new();
    rig.send(&[
        parse("", "select nope"),
        bind("", "", &[], 0),
        execute(""),
        query("select 1"),
        sync(),
        query("select 2"),
    ]);
    assert_eq!(rig.serve(&[error("42703"), ready(b'I')]), "E42703 ZI");
    assert_eq!(rig.outcomes(), [(1, Some("skipped".into()), None), (2, Some("skipped".into()), None)]);
    assert_eq!(rig.serve(&[rows(), done("SELECT 1"), ready(b'I')]), "T D C ZI");
    assert_eq!(rig.outcomes(), [(3, None, Some(1))]);
}

#[test]
fn after_an_error_messages_up_to_the_sync_are_not_sent_nor_recorded() {
    let mut rig = Rig::new();
    rig.send(&[parse("", "select nope"), flush()]);
    assert_eq!(rig.serve(&[error("42703")]), "E42703");
    assert_eq!(rig.send(&[bind("", "", &[], 0), execute(""), query("select 1"), copy_data(b"x"), sync()]), sync());
    assert!(rig.ran.is_empty());
    assert_eq!(rig.serve(&[ready(b'I')]), "ZI");
}

#[test]
fn a_statement_is_judged_at_every_bind_and_execute_by_what_its_name_means_then() {
    let mut rig = Rig::new();
    rig.send(&[parse("s", "select 1"), sync()]);
    rig.serve(&[bare("1"), ready(b'I')]);
    rig.send(&[bind("p", "s", &[Some(b"5")], 0), execute("p"), sync()]);
    assert_eq!(rig.ran, ["select 1"]);
    rig.serve(&[bare("2"), rows()[7..].to_vec(), done("SELECT 1"), ready(b'I')]);
    // Closed and prepared anew, all in flight: before the answers both are possible.
    rig.send(&[close(b'S', "s"), parse("s", "select 2"), sync(), bind("", "s", &[], 0), execute(""), sync()]);
    let text = rig.ran.last().unwrap();
    assert!(text.contains("select 1") && text.contains("select 2"), "{text}");
    rig.serve(&[bare("31"), ready(b'I'), bare("2"), done("SELECT 0"), ready(b'I')]);
    rig.send(&[bind("", "s", &[], 0), execute(""), sync()]);
    assert_eq!(rig.ran.last().unwrap(), "select 2");
}

#[test]
fn a_parse_that_failed_leaves_the_old_meaning() {
    let mut rig = Rig::new();
    rig.send(&[parse("s", "select 1"), sync()]);
    rig.serve(&[bare("1"), ready(b'I')]);
    rig.send(&[parse("s", "select 2"), sync()]);
    rig.serve(&[error("42P05"), ready(b'I')]);
    rig.send(&[bind("", "s", &[], 0), execute(""), sync()]);
    assert_eq!(rig.ran, ["select 1"]);
}

#[test]
fn unknown_names_are_refused_with_the_servers_own_codes() {
    let mut rig = Rig::new();
    rig.send(&[bind("", "nope", &[], 0), sync()]);
    assert_eq!(rig.seen(), "E26000 ZI");
    rig.send(&[execute("nope"), sync()]);
    assert_eq!(rig.seen(), "E34000 ZI");
    let long = "n".repeat(64);
    rig.send(&[parse(&long, "select 1"), sync()]);
    assert_eq!(rig.seen(), "E42622 ZI", "the server would cut it");
}

#[test]
fn a_row_limit_and_its_resume_are_two_commands() {
    let mut rig = Rig::new();
    rig.send(&[parse("", "select 1"), bind("", "", &[], 0), execute(""), execute(""), sync()]);
    let row = one(b'D', &[0, 0]);
    assert_eq!(rig.serve(&[bare("12"), row.clone(), bare("s"), row, done("SELECT 1"), ready(b'I')]), "1 2 D s D C ZI");
    assert_eq!(rig.outcomes(), [(1, None, Some(1)), (2, None, Some(1))]);
}

#[test]
fn a_function_call_is_refused() {
    let mut rig = Rig::new();
    assert!(rig.send(&[function_call()]).is_empty());
    assert_eq!(rig.seen(), "E42501 ZI");
}

#[test]
fn copy_data_goes_upstream_only_while_the_server_takes_it() {
    let mut rig = Rig::new();
    assert!(rig.send(&[copy_data(b"1\n"), copy_done(), copy_fail("x")]).is_empty(), "no COPY: dropped");
    assert_eq!(rig.send(&[query("copy t from stdin"), copy_data(b"1\n")]), query("copy t from stdin"));
    assert_eq!(rig.serve(&[one(b'G', &[0, 0, 0])]), "G");
    assert_eq!(rig.send(&[]), copy_data(b"1\n"), "what came early follows the server's word");
    assert_eq!(rig.send(&[flush(), sync()]), b"", "ignored in a COPY, as by the server");
    // A message in pieces goes on in pieces.
    let message = copy_data(&[b'x'; 100]);
    let (head, tail) = message.split_at(50);
    assert_eq!(rig.send(&[head.to_vec()]), head);
    assert_eq!(
        rig.send(&[tail.to_vec(), copy_data(b"2\n"), copy_done()]),
        [tail, &copy_data(b"2\n"), &copy_done()].concat()
    );
    assert_eq!(rig.serve(&[done("COPY 3"), ready(b'I')]), "C ZI");
    assert_eq!(rig.outcomes(), [(1, None, Some(3))]);
}

#[test]
fn a_command_inside_a_copy_ends_the_session() {
    let mut rig = Rig::new();
    rig.send(&[query("copy t from stdin")]);
    rig.serve(&[one(b'G', &[0, 0, 0])]);
    assert!(matches!(rig.try_send(&[query("select 1")]), Err(Fault::Client(_))));
}

#[test]
fn the_rest_of_a_data_message_follows_even_when_the_copy_has_failed() {
    let mut rig = Rig::new();
    rig.send(&[query("copy t from stdin")]);
    rig.serve(&[one(b'G', &[0, 0, 0])]);
    let message = copy_data(&[b'x'; 100]);
    rig.send(&[message[..50].to_vec()]);
    rig.serve(&[error("22P02"), ready(b'I')]);
    assert_eq!(
        rig.send(&[message[50..].to_vec(), copy_data(b"y"), copy_done(), query("select 1")]),
        [message[50..].to_vec(), query("select 1")].concat()
    );
}

#[test]
fn a_copy_by_the_extended_protocol_swallows_the_syncs_sent_with_it() {
    let mut rig = Rig::new();
    rig.send(&[parse("", "copy t from stdin"), bind("", "", &[], 0), execute(""), sync()]);
    rig.serve(&[bare("12"), one(b'G', &[0, 0, 0])]);
    rig.send(&[copy_data(b"1\n"), copy_done(), sync()]);
    assert_eq!(rig.serve(&[done("COPY 1"), ready(b'I')]), "C ZI");
    assert!(rig.session.idle());
    assert_eq!(rig.outcomes(), [(1, None, Some(1))]);
}

#[test]
fn a_copy_that_fails_in_the_extended_protocol_drops_its_data_up_to_the_sync() {
    let mut rig = Rig::new();
    rig.send(&[parse("", "copy t from stdin"), bind("", "", &[], 0), execute(""), flush()]);
    rig.serve(&[bare("12"), one(b'G', &[0, 0, 0])]);
    rig.send(&[copy_data(b"x\n")]);
    assert_eq!(rig.serve(&[error("22P02")]), "E22P02");
    assert_eq!(rig.send(&[copy_data(b"y\n"), copy_done(), sync()]), sync());
    assert_eq!(rig.serve(&[ready(b'I')]), "ZI");
}

#[test]
fn what_the_server_may_not_say_ends_the_session() {
    for wrong in [
        one(b'R', &[0, 0, 0, 0]),
        one(b'W', &[0, 0, 0]),
        one(b'K', &[0; 8]),
        ready(b'I'),
        bare("1"),
        done("SELECT 1"),
        error("XX000"),
        one(b'V', &[0, 0, 0, 0]),
        one(b'S', b"client_encoding\0LATIN1\0"),
    ] {
        assert!(Rig::new().try_serve(&wrong).is_err(), "{wrong:?}");
    }
    let mut rig = Rig::new();
    let told = rig.serve(&[one(b'S', b"TimeZone\0UTC\0"), one(b'N', b"\0"), one(b'A', b"\0\0\0\0c\0\0")]);
    assert_eq!(told, "S N A");
    // A constant that does not fail is a server that does something else than it was told.
    rig.send(&[query("begin")]);
    rig.serve(&[done("BEGIN"), ready(b'T')]);
    rig.send(&[query("select secret")]);
    assert!(rig.try_serve(&[done("SELECT 1"), ready(b'T')].concat()).is_err());
}

#[test]
fn a_fatal_error_passes_and_what_was_in_flight_stays_unknown() {
    let mut rig = Rig::new();
    rig.send(&[query("select 1")]);
    let mut fatal = BytesMut::new();
    error_response(&mut fatal, &[(b'S', "FATAL"), (b'V', "FATAL"), (b'C', "57P01"), (b'M', "bye")]);
    assert_eq!(rig.serve(&[fatal.to_vec()]), "E57P01");
    assert!(rig.outcomes().is_empty());
}

#[test]
fn last_words_are_said_between_messages_only() {
    let mut rig = Rig::new();
    rig.send(&[query("select 1")]);
    let row = one(b'D', &[0; 100]);
    let mut input = BytesMut::from(&row[..50]);
    rig.session.answer(&mut input, &mut rig.client, &mut rig.outcomes).unwrap();
    assert_eq!(rig.client.len(), 50, "large messages pass in pieces");
    rig.session.farewell(&Ending::Draining, &mut rig.client);
    assert_eq!(rig.client.len(), 50);
    assert_eq!(rig.serve(&[row[50..].to_vec()]), "D");
    rig.session.farewell(&Ending::Draining, &mut rig.client);
    assert_eq!(error_field(&rig.client[5..], b'C').unwrap(), "57P01");
}

#[test]
fn a_refusal_never_falls_into_a_notice_that_is_on_its_way() {
    let mut rig = Rig::new();
    let notice = one(b'N', &[b'x'; 100]);
    let mut input = BytesMut::from(&notice[..50]);
    rig.session.answer(&mut input, &mut rig.client, &mut rig.outcomes).unwrap();
    assert_eq!(rig.send(&[query("select secret")]), refuse::QUERY_THAT_FAILS);
    assert_eq!(rig.serve(&[notice[50..].to_vec(), error("42601"), ready(b'I')]), "N E42501 ZI");
}

#[test]
fn no_more_than_a_bound_is_in_flight_and_the_server_is_asked_to_flush() {
    let mut rig = Rig::new();
    let many: Vec<Vec<u8>> = (0..MOST_IN_FLIGHT + 1).map(|_| describe(b'S', "")).collect();
    let sent = rig.send(&many);
    assert!(sent.ends_with(FLUSH));
    assert_eq!(rig.session.queue.len(), MOST_IN_FLIGHT);
    rig.serve(&[bare("n")]);
    assert_eq!(rig.send(&[]), [describe(b'S', ""), FLUSH.to_vec()].concat());
}

#[test]
fn unchanged_results_change_hands_without_being_copied() {
    let mut rig = Rig::new();
    rig.send(&[query("select 1")]);
    let mut input = BytesMut::from(rows().repeat(1000).as_slice());
    let before = input.as_ptr();
    rig.session.answer(&mut input, &mut rig.client, &mut rig.outcomes).unwrap();
    assert_eq!(rig.client.as_ptr(), before);
}

#[test]
fn a_cursor_is_judged_by_what_it_was_declared_for() {
    let mut rig = Rig::new();
    let objects = |rig: &mut Rig, text: &str| {
        let mut input = BytesMut::from(query(text).as_slice());
        let Next::Command(command) = rig.session.next(&mut input, &mut rig.client).unwrap() else { panic!() };
        format!("{:?}", rig.session.describe(&command).action.unwrap())
    };
    assert!(objects(&mut rig, "fetch 5 from c").contains("Unknown"));
    rig.send(&[query("begin"), query("declare c cursor for select * from orders")]);
    let both = [done("BEGIN"), ready(b'T'), done("DECLARE CURSOR"), ready(b'T')];
    rig.serve(&both);
    let known = objects(&mut rig, "fetch 5 from c");
    assert!(known.contains("orders") && !known.contains("Unknown"), "{known}");
    rig.send(&[query("close c"), query("declare c cursor for select * from customers")]);
    let open = objects(&mut rig, "fetch 5 from c");
    assert!(open.contains("orders") && open.contains("customers"), "{open}");
    rig.serve(&[done("CLOSE CURSOR"), ready(b'T'), done("DECLARE CURSOR"), ready(b'T')]);
    let known = objects(&mut rig, "fetch 5 from c");
    assert!(known.contains("customers") && !known.contains("orders"), "{known}");
    rig.send(&[query("commit")]);
    rig.serve(&[done("COMMIT"), ready(b'I')]);
    assert!(objects(&mut rig, "fetch 5 from c").contains("Unknown"), "it ended with its transaction");
}

#[test]
fn what_sql_prepared_is_what_a_bind_of_that_name_runs() {
    let mut rig = Rig::new();
    rig.send(&[parse("s", "select 1"), sync()]);
    rig.serve(&[bare("1"), ready(b'I')]);
    rig.send(&[query("deallocate s"), query("prepare s as select 2")]);
    rig.serve(&[done("DEALLOCATE"), ready(b'I'), done("PREPARE"), ready(b'I')]);
    rig.send(&[bind("", "s", &[], 0), execute(""), sync()]);
    assert_eq!(rig.ran.last().unwrap(), "prepare s as select 2");
    // Several statements at once: it is not known how far they came.
    let mut rig = Rig::new();
    rig.send(&[parse("s", "select 1"), sync()]);
    rig.serve(&[bare("1"), ready(b'I')]);
    rig.send(&[query("deallocate s; prepare s as select 2")]);
    rig.serve(&[done("DEALLOCATE"), done("PREPARE"), ready(b'I')]);
    rig.send(&[bind("", "s", &[], 0), execute(""), sync()]);
    let text = rig.ran.last().unwrap();
    assert!(text.contains("select 1") && text.contains("select 2"), "{text}");
}

#[test]
fn an_execute_by_name_is_judged_by_the_statement_of_that_name() {
    let mut rig = Rig::new();
    rig.send(&[parse("s", "select * from orders"), sync()]);
    rig.serve(&[bare("1"), ready(b'I')]);
    for (text, known) in [("execute s", true), ("execute t", false), ("execute s(f())", false)] {
        let mut input = BytesMut::from(query(text).as_slice());
        let Next::Command(command) = rig.session.next(&mut input, &mut rig.client).unwrap() else { panic!() };
        let action = format!("{:?}", rig.session.describe(&command).action.unwrap());
        assert_eq!(!action.contains("object: Unknown"), known, "{text}: {action}");
    }
}

#[test]
fn names_are_forgotten_with_all_of_them_unless_a_new_one_is_on_its_way() {
    let mut rig = Rig::new();
    let prepare = |rig: &mut Rig| {
        rig.send(&[parse("s", "select 1"), sync()]);
        rig.serve(&[bare("1"), ready(b'I')]);
    };
    prepare(&mut rig);
    rig.send(&[query("discard all")]);
    rig.serve(&[done("DISCARD ALL"), ready(b'I')]);
    rig.send(&[bind("", "s", &[], 0), sync()]);
    assert_eq!(rig.seen(), "E26000 ZI");
    prepare(&mut rig);
    rig.send(&[query("deallocate all; prepare t as select 2")]);
    rig.serve(&[done("DEALLOCATE ALL"), done("PREPARE"), ready(b'I')]);
    rig.send(&[bind("", "t", &[], 0), execute(""), sync()]);
    assert!(rig.ran.last().unwrap().contains("prepare t"));
}

#[test]
fn a_session_that_must_end_asks_for_what_is_held_back_and_gives_up_its_copy() {
    let mut rig = Rig::new();
    rig.send(&[parse("", "select 1"), bind("", "", &[], 0), execute("")]);
    assert_eq!(rig.session.hasten(), FLUSH);
    assert!(rig.session.hasten().is_empty(), "once is enough");
    let mut rig = Rig::new();
    rig.send(&[query("copy t from stdin")]);
    rig.serve(&[one(b'G', &[0, 0, 0])]);
    let message = copy_data(b"12345");
    rig.send(&[message[..7].to_vec()]);
    assert!(rig.session.hasten().is_empty(), "never into a message");
    rig.send(&[message[7..].to_vec()]);
    assert_eq!(rig.session.hasten(), COPY_FAIL);
    assert_eq!(crate::codec::frontend::frame(COPY_FAIL).unwrap().unwrap().total, COPY_FAIL.len());
    rig.serve(&[error("57014"), ready(b'I')]);
    assert!(rig.session.idle());
    assert_eq!(rig.outcomes(), [(1, Some("57014".into()), None)]);
}
