//! Answers beyond their limit, against transcripts of a server that is cancelled in time, and of one that is not.

use sallyport_core::protocol::{Reached, Remedy};
use sallyport_policy::Bound;

use super::*;

fn bound(most: u64) -> Option<Bound> {
    Some(Bound { most, policy: "p".into() })
}

fn rig(rows: Option<u64>, bytes: Option<u64>) -> Rig {
    let allowance = Allowance { rows: rows.and_then(bound), bytes: bytes.and_then(bound) };
    Rig { allowance: Some(Arc::new(allowance)), ..Rig::new() }
}

fn head() -> Vec<u8> {
    one(b'T', &[0, 0])
}

fn some(rows: usize) -> Vec<u8> {
    one(b'D', &[0, 0]).repeat(rows)
}

/// All that is wanted at the server, and the interrupts are under way from then on.
fn wanted(rig: &mut Rig) -> Vec<Remedy> {
    let mut all = Vec::new();
    loop {
        match rig.session.remedy() {
            Remedy::None => return all,
            remedy => all.push(remedy),
        }
    }
}

fn limit(rig: &mut Rig) -> Vec<(Option<String>, Option<&'static str>)> {
    rig.outcomes.drain(..).map(|outcome| (outcome.failed, outcome.limit.map(|Reached { limit, .. }| limit))).collect()
}

fn message_of(rig: &mut Rig, messages: &[Vec<u8>]) -> String {
    let mut input = BytesMut::from(&*messages.concat());
    rig.session.answer(&mut input, &mut rig.client, &mut rig.outcomes).unwrap();
    let sent = std::mem::take(&mut rig.client);
    let at = sent.iter().position(|byte| *byte == b'E').unwrap();
    error_field(&sent[at + 5..], b'M').unwrap()
}

#[test]
fn as_many_rows_as_allowed_pass_and_nothing_is_asked_for() {
    let mut rig = rig(Some(3), Some(1000));
    rig.send(&[query("select 1")]);
    assert_eq!(rig.serve(&[head(), some(3), done("SELECT 3"), ready(b'I')]), "T D D D C ZI");
    assert_eq!(wanted(&mut rig), []);
    assert_eq!(limit(&mut rig), [(None, None)]);
}

#[test]
fn beyond_the_limit_nothing_passes_and_the_servers_error_is_replaced() {
    for (rows, bytes, named) in [(Some(2), None, "rowsPerCommand"), (None, Some(14), "bytesPerCommand")] {
        let mut rig = rig(rows, bytes);
        rig.send(&[query("select 1")]);
        assert_eq!(rig.serve(&[head(), some(5)]), "T D D");
        assert_eq!(wanted(&mut rig), [Remedy::Interrupt]);
        assert!(rig.send(&[query("select 2")]).is_empty(), "the next waits");
        assert_eq!(rig.serve(&[some(7), one(b'N', b"\0"), error("57014"), ready(b'I')]), "N E54000 ZI");
        assert!(rig.send(&[]).is_empty(), "the cancel may be under way still");
        rig.session.interrupted();
        assert_eq!(rig.send(&[]), query("select 2"));
        assert_eq!(rig.serve(&[rows_of(1), done("SELECT 1"), ready(b'I')]), "T D C ZI");
        assert_eq!(limit(&mut rig), [(Some("57014".into()), Some(named)), (None, None)]);
    }
}

fn rows_of(count: usize) -> Vec<u8> {
    [head(), some(count)].concat()
}

#[test]
fn a_row_that_is_longer_than_the_limit_is_dropped_in_whatever_pieces_it_comes() {
    let mut rig = rig(None, Some(100));
    rig.send(&[query("select 1")]);
    let answer = [head(), one(b'D', &[7; 300]), error("57014"), ready(b'I')].concat();
    let mut seen = BytesMut::new();
    for byte in answer {
        rig.held.extend_from_slice(&[byte]);
        let mut held = std::mem::take(&mut rig.held);
        rig.session.answer(&mut held, &mut rig.client, &mut rig.outcomes).unwrap();
        rig.held = held;
        seen.extend_from_slice(&std::mem::take(&mut rig.client));
    }
    assert_eq!(summary(&seen), "T E54000 ZI");
    assert!(!seen.contains(&7));
}

#[test]
fn a_command_that_ended_before_it_could_be_stopped_is_told_as_that() {
    let mut rig = rig(Some(1), None);
    rig.send(&[query("insert into t select 1 returning a")]);
    let told = message_of(&mut rig, &[head(), some(3), done("INSERT 0 3"), ready(b'I')]);
    assert!(told.ends_with("it changed stands"), "{told}");
    assert_eq!(wanted(&mut rig), [], "there is nothing to cancel any more");
    assert_eq!(limit(&mut rig), [(None, Some("rowsPerCommand"))]);
    assert_eq!(rig.send(&[query("select 1")]), query("select 1"));
}

#[test]
fn in_a_transaction_block_it_is_made_to_fail_and_the_status_is_true() {
    let mut rig = rig(Some(1), None);
    rig.send(&[query("begin")]);
    rig.serve(&[done("BEGIN"), ready(b'T')]);
    rig.send(&[query("insert into t select 1 returning a")]);
    assert_eq!(rig.serve(&[head(), some(3), done("INSERT 0 3"), ready(b'T')]), "T D");
    assert_eq!(wanted(&mut rig), [Remedy::Send(refuse::QUERY_THAT_FAILS)]);
    let told = message_of(&mut rig, &[error("42601"), ready(b'E')]);
    assert!(told.ends_with("was stopped and has failed"), "{told}");
    assert_eq!(rig.send(&[query("rollback")]), query("rollback"));
    assert_eq!(rig.serve(&[done("ROLLBACK"), ready(b'I')]), "C ZI");
}

#[test]
fn what_was_sent_behind_it_in_the_block_has_run_and_the_status_says_so() {
    let mut rig = rig(Some(1), None);
    rig.send(&[query("begin")]);
    rig.serve(&[done("BEGIN"), ready(b'T')]);
    rig.send(&[query("select 1"), query("insert into t values (1)")]);
    assert_eq!(rig.serve(&[head(), some(3), done("SELECT 3"), ready(b'T')]), "T D E54000 ZT");
    assert_eq!(rig.serve(&[done("INSERT 0 1"), ready(b'T')]), "C ZT");
    assert_eq!(wanted(&mut rig), []);
}

#[test]
fn an_execute_that_is_stopped_skips_to_its_sync_as_any_error_does() {
    let mut rig = rig(Some(1), None);
    rig.send(&[parse("", "select 1"), bind("", "", &[], 0), execute(""), sync()]);
    assert_eq!(rig.serve(&[bare("12"), some(4)]), "1 2 D");
    assert_eq!(wanted(&mut rig), [Remedy::Send(FLUSH), Remedy::Interrupt]);
    assert_eq!(rig.serve(&[error("57014"), ready(b'I')]), "E54000 ZI");
    rig.session.interrupted();
    assert_eq!(rig.send(&[query("select 1")]), query("select 1"));
}

#[test]
fn an_execute_that_ended_in_time_is_told_with_its_sync_and_what_ran_behind_it_is_not_seen() {
    let mut rig = rig(Some(1), None);
    let second = [bind("", "", &[], 0), execute("")];
    rig.send(&[parse("", "select 1"), bind("", "", &[], 0), execute("")]);
    rig.send(&second);
    rig.send(&[sync()]);
    assert_eq!(rig.serve(&[bare("12"), some(4), done("SELECT 4")]), "1 2 D");
    assert_eq!(rig.serve(&[bare("2"), some(1), done("SELECT 1"), ready(b'I')]), "E54000 ZI");
    assert_eq!(limit(&mut rig), [(None, Some("rowsPerCommand")), (None, None)], "the records know what ran");
}

#[test]
fn before_its_sync_was_sent_the_servers_segment_is_made_to_fail() {
    let mut rig = rig(Some(1), None);
    rig.send(&[parse("", "select 1"), bind("", "", &[], 0), execute(""), flush()]);
    assert_eq!(rig.serve(&[bare("12"), some(4), done("SELECT 4")]), "1 2 D");
    assert_eq!(wanted(&mut rig), [Remedy::Send(refuse::PARSE_THAT_FAILS), Remedy::Interrupt]);
    let told = message_of(&mut rig, &[error("42601")]);
    assert!(told.ends_with("was stopped and has failed"), "{told}");
    rig.session.interrupted();
    assert_eq!(rig.send(&[bind("", "", &[], 0), execute(""), sync()]), sync(), "up to the Sync all is skipped");
    assert_eq!(rig.serve(&[ready(b'I')]), "ZI");
}

#[test]
fn a_portal_that_is_read_in_pieces_is_one_answer() {
    let mut rig = rig(Some(3), None);
    rig.send(&[parse("", "select 1"), bind("p", "", &[], 0), execute("p"), sync()]);
    assert_eq!(rig.serve(&[bare("12"), some(2), bare("s"), ready(b'T')]), "1 2 D D s ZT");
    rig.send(&[execute("p"), sync()]);
    assert_eq!(rig.serve(&[some(2), bare("s"), ready(b'T')]), "D");
    assert_eq!(wanted(&mut rig), [Remedy::Send(refuse::QUERY_THAT_FAILS)]);
    assert_eq!(rig.serve(&[error("42601"), ready(b'E')]), "E54000 ZE");
    // The same statement anew is another answer.
    rig.send(&[query("rollback")]);
    rig.serve(&[done("ROLLBACK"), ready(b'I')]);
    rig.send(&[parse("", "select 1"), bind("p", "", &[], 0), execute("p"), sync()]);
    assert_eq!(rig.serve(&[bare("12"), some(3), done("SELECT 3"), ready(b'I')]), "1 2 D D D C ZI");
}

#[test]
fn the_lines_of_a_copy_are_its_rows_and_the_end_of_a_binary_one_is_none() {
    let mut rig = rig(Some(2), None);
    rig.send(&[query("copy t to stdout")]);
    let lines = |count| one(b'd', b"1\n").repeat(count);
    assert_eq!(rig.serve(&[one(b'H', &[0, 0, 0]), lines(2), bare("c"), done("COPY 2"), ready(b'I')]), "H d d c C ZI");
    rig.send(&[query("copy t to stdout")]);
    assert_eq!(rig.serve(&[one(b'H', &[0, 0, 0]), lines(3)]), "H d d");
    assert_eq!(wanted(&mut rig), [Remedy::Interrupt]);
    assert_eq!(rig.serve(&[error("57014"), ready(b'I')]), "E54000 ZI");
    rig.session.interrupted();
    let binary = [one(b'H', &[1, 0, 0]), one(b'd', b"header and row"), one(b'd', b"row"), one(b'd', &[255, 255])];
    rig.send(&[query("copy t to stdout")]);
    assert_eq!(rig.serve(&[binary.concat(), bare("c"), done("COPY 2"), ready(b'I')]), "H d d d c C ZI");
}

#[test]
fn a_copy_behind_it_in_the_same_text_gets_no_data_and_fails() {
    let mut rig = rig(Some(1), None);
    rig.send(&[query("select 1; copy t from stdin")]);
    assert_eq!(rig.serve(&[head(), some(2), done("SELECT 2"), one(b'G', &[0, 0, 0])]), "T D");
    assert_eq!(wanted(&mut rig)[0], Remedy::Send(COPY_FAIL));
    assert_eq!(rig.serve(&[error("57014"), ready(b'I')]), "E54000 ZI");
}
