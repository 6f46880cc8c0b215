//! Results that are recorded, against transcripts of a server: what is kept is what the client is sent, and nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sallyport_core::shown::LONGEST_VALUE;
use sallyport_policy::{Bound, Detector, MaskMethod, MaskPlan};
use serde_json::{Value, json};

use super::*;

const CARD: &[u8] = b"4111111111111111";

fn rig() -> Rig {
    let mut rig = Rig::new();
    assert!(rig.session.show(true));
    rig
}

/// Name, type and format of each column.
fn head(columns: &[(&str, u32, u16)]) -> Vec<u8> {
    let mut body = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
    for (name, kind, format) in columns {
        body.extend_from_slice(format!("{name}\0").as_bytes());
        body.extend_from_slice(&[0; 6]);
        body.extend_from_slice(&kind.to_be_bytes());
        body.extend_from_slice(&[0; 6]);
        body.extend_from_slice(&format.to_be_bytes());
    }
    one(b'T', &body)
}

fn row(values: &[Option<&[u8]>]) -> Vec<u8> {
    let mut body = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
    for value in values {
        let length = value.map_or(-1, |value| i32::try_from(value.len()).unwrap());
        body.extend_from_slice(&length.to_be_bytes());
        body.extend_from_slice(value.unwrap_or_default());
    }
    one(b'D', &body)
}

fn kept(rig: &mut Rig) -> Vec<Value> {
    rig.session.shown().iter().map(|part| serde_json::to_value(part.event()).unwrap()).collect()
}

/// The bytes of a value as it is recorded.
fn content(value: &Value) -> Vec<u8> {
    let decoded = || STANDARD.decode(value["base64"].as_str().unwrap()).unwrap();
    value.as_str().map_or_else(decoded, |text| text.as_bytes().to_vec())
}

fn columns(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"name": name, "type": 25})).collect()
}

#[test]
fn rows_of_a_query_are_kept_with_their_columns_where_a_result_begins() {
    let mut rig = rig();
    rig.send(&[query("select a, b from t; select c from t")]);
    let (a, b) = (row(&[Some(b"1"), None]), row(&[Some(b"2"), Some(b"x")]));
    let first = [head(&[("a", 25, 0), ("b", 25, 0)]), a, b, done("SELECT 2")];
    assert_eq!(rig.serve(&first), "T D D C");
    let result = |part, columns, shown| json!({"event": "result", "command": 1, "part": part, "columns": columns, "shown": shown});
    assert_eq!(kept(&mut rig), [result(1, columns(&["a", "b"]), json!([["1", null], ["2", "x"]]))]);
    let second = [head(&[("c", 25, 0)]), row(&[Some(b"3")])];
    rig.serve(&second);
    assert_eq!(kept(&mut rig), [result(2, columns(&["c"]), json!([["3"]]))]);
    rig.serve(&[row(&[Some(b"4")]), done("SELECT 2"), ready(b'I')]);
    let rest = json!({"event": "result", "command": 1, "part": 3, "shown": [["4"]]});
    assert_eq!(kept(&mut rig), [rest]);
    assert!(rig.session.idle());
}

#[test]
fn a_portal_is_described_by_us_for_its_format_and_the_client_hears_nothing_of_it() {
    let mut rig = rig();
    let sent = rig.send(&[parse("s", "select a from t"), bind("p", "s", &[], 0), execute("p"), sync()]);
    let ours = one(b'D', b"Pp\0");
    assert!(sent.windows(ours.len()).any(|part| part == ours), "{sent:?}");
    let answer = [bare("12"), head(&[("a", 23, 1)]), row(&[Some(&[0, 0, 0, 7])]), done("SELECT 1"), ready(b'I')];
    assert_eq!(rig.serve(&answer), "1 2 D C ZI");
    let [result] = &kept(&mut rig)[..] else { panic!("one part") };
    assert_eq!(result["columns"], json!([{"name": "a", "type": 23, "binary": true}]));
    assert_eq!(result["shown"], json!([[{"base64": "AAAABw=="}]]));
    // What shows no rows is described as that.
    rig.send(&[parse("s2", "delete from t"), bind("q", "s2", &[], 0), execute("q"), sync()]);
    assert_eq!(rig.serve(&[bare("12"), bare("n"), done("DELETE 1"), ready(b'I')]), "1 2 C ZI");
    assert!(kept(&mut rig).is_empty());
}

#[test]
fn lines_of_a_copy_are_kept_and_binary_ones_told_apart() {
    let mut rig = rig();
    rig.send(&[query("copy t to stdout")]);
    let line = |line: &[u8]| one(b'd', line);
    rig.serve(&[one(b'H', &[0, 0, 0]), line(b"1\tx\n"), line(b"2\t\\N\n"), bare("c"), done("COPY 2"), ready(b'I')]);
    let lines = json!({"event": "result", "command": 1, "part": 1, "lines": ["1\tx\n", "2\t\\N\n"]});
    assert_eq!(kept(&mut rig), [lines]);
    rig.send(&[query("copy t to stdout (format binary)")]);
    rig.serve(&[one(b'H', &[1, 0, 0]), line(b"abc"), bare("c"), done("COPY 1"), ready(b'I')]);
    assert_eq!(kept(&mut rig)[0]["lines"], json!([{"base64": "YWJj"}]));
}

#[test]
fn what_the_client_sends_for_a_copy_is_kept_in_whatever_pieces_it_comes() {
    let data = ["1\tä\n".repeat(9), "2\t€\n".into(), "x".repeat(3 * LONGEST_VALUE)];
    let messages: Vec<u8> = data.iter().flat_map(|data| one(b'd', data.as_bytes())).collect();
    for size in [1, 2, 7, 4096, messages.len()] {
        let mut rig = rig();
        rig.send(&[query("copy t from stdin")]);
        assert_eq!(rig.serve(&[one(b'G', &[0, 0, 0])]), "G");
        let mut parts = Vec::new();
        for piece in messages.chunks(size) {
            assert_eq!(rig.send(&[]), b"");
            rig.send(&[piece.to_vec()]);
            parts.append(&mut kept(&mut rig));
        }
        rig.send(&[bare("c")]);
        assert_eq!(rig.serve(&[done("COPY 3"), ready(b'I')]), "C ZI");
        assert!(parts.iter().all(|part| part["event"] == "data" && part["command"] == 1), "{parts:?}");
        let sent = parts.iter().flat_map(|part| part["sent"].as_array().unwrap());
        let sent: Vec<u8> = sent.flat_map(content).collect();
        assert_eq!(String::from_utf8(sent).unwrap(), data.concat(), "in pieces of {size}");
    }
}

#[test]
fn data_of_a_copy_that_was_not_kept_or_has_failed_is_not_taken_for_anothers() {
    let message = one(b'd', &[b'x'; 100]);
    // Demanded in the middle of it.
    let mut rig = Rig::new();
    rig.send(&[query("copy t from stdin")]);
    rig.serve(&[one(b'G', &[0, 0, 0])]);
    rig.send(&[message[..50].to_vec()]);
    rig.session.show(true);
    rig.send(&[message[50..].to_vec(), message.clone()]);
    assert!(kept(&mut rig).is_empty());
    // Failed in the middle of it, with another behind.
    let mut rig = super::shown::rig();
    rig.send(&[query("copy t from stdin"), query("select a from t")]);
    rig.serve(&[one(b'G', &[0, 0, 0])]);
    rig.send(&[message[..50].to_vec()]);
    assert_eq!(kept(&mut rig)[0]["sent"], json!(["x".repeat(45)]));
    rig.serve(&[error("08P01"), ready(b'I')]);
    rig.send(&[message[50..].to_vec()]);
    assert!(kept(&mut rig).is_empty());
}

#[test]
fn what_masks_put_in_a_values_place_is_kept_and_the_value_is_not() {
    let plan = MaskPlan { columns: Vec::new(), detect: vec![(Detector::CreditCard, MaskMethod::Redact)] };
    let masking = Arc::new(Masking { plan, key: None });
    let mut rig = rig();
    rig.session.mask(Some(&masking));
    rig.send(&[query("select a from t")]);
    rig.serve(&[head(&[("a", 25, 0)]), row(&[Some(CARD)]), done("SELECT 1"), ready(b'I')]);
    rig.send(&[query("copy t to stdout")]);
    rig.serve(&[one(b'H', &[0, 0, 0]), one(b'd', CARD), bare("c"), done("COPY 1"), ready(b'I')]);
    let parts = rig.session.shown();
    assert_eq!(parts.len(), 2);
    for part in parts {
        let kept = String::from_utf8_lossy(part.kept());
        assert!(kept.starts_with("****") && !kept.contains("4111"), "{kept}");
    }
}

#[test]
fn rows_beyond_a_limit_are_not_shown_and_not_kept() {
    let rows = Some(Bound { most: 1, policy: "p".into() });
    let mut rig = Rig { allowance: Some(Arc::new(Allowance { rows, bytes: None })), ..rig() };
    rig.send(&[query("select a from t")]);
    rig.serve(&[head(&[("a", 25, 0)]), row(&[Some(b"in")]), row(&[Some(b"out")])]);
    rig.serve(&[error("57014"), ready(b'I')]);
    assert_eq!(kept(&mut rig)[0]["shown"], json!([["in"]]));
}

#[test]
fn a_row_that_nobody_described_ends_the_session_unseen() {
    for before in [vec![], head(&[("a", 25, 0), ("b", 25, 0)])] {
        let mut rig = rig();
        rig.send(&[query("select a from t")]);
        let mut input = BytesMut::from(&*[before.clone(), row(&[Some(b"seen")])].concat());
        rig.session.answer(&mut input, &mut rig.client, &mut rig.outcomes).unwrap_err();
        assert_eq!(rig.client.to_vec(), before);
        assert!(kept(&mut rig).is_empty());
    }
}

#[test]
fn a_row_is_held_until_it_is_whole_and_only_where_it_is_kept() {
    let long = vec![b'x'; 3 * LONGEST_VALUE];
    let answer = [head(&[("a", 25, 0)]), row(&[Some(&long)])].concat();
    for wanted in [true, false] {
        let mut rig = Rig::new();
        rig.session.show(wanted);
        rig.send(&[query("select a from t")]);
        let mut input = BytesMut::from(&answer[..answer.len() - 1]);
        rig.session.answer(&mut input, &mut rig.client, &mut rig.outcomes).unwrap();
        assert_eq!(rig.client.len() > LONGEST_VALUE, !wanted, "{}", rig.client.len());
        assert!(rig.session.shown().is_empty());
        input.extend_from_slice(&answer[answer.len() - 1..]);
        rig.session.answer(&mut input, &mut rig.client, &mut rig.outcomes).unwrap();
        assert_eq!(rig.client.to_vec(), answer);
        let parts = kept(&mut rig);
        assert_eq!(parts.len(), usize::from(wanted));
        assert!(!wanted || parts[0]["shown"][0][0]["bytes"] == long.len(), "{parts:?}");
    }
    let mut rig = rig();
    rig.send(&[query("select a from t")]);
    let mut huge = head(&[("a", 25, 0)]);
    huge.extend_from_slice(&[b'D', 4, 0, 0, 1]);
    rig.session.answer(&mut BytesMut::from(&*huge), &mut rig.client, &mut rig.outcomes).unwrap_err();
}

#[test]
fn a_command_is_kept_as_it_was_wanted_when_it_was_let_through() {
    let mut rig = rig();
    rig.send(&[query("select a from t")]);
    rig.session.show(false);
    rig.send(&[query("select b from t")]);
    let answer = |value: &[u8]| [head(&[("a", 25, 0)]), row(&[Some(value)]), done("SELECT 1"), ready(b'I')].concat();
    rig.serve(&[answer(b"first"), answer(b"second")]);
    let parts = kept(&mut rig);
    assert!(parts.len() == 1 && parts[0]["shown"] == json!([["first"]]), "{parts:?}");
}

#[test]
fn of_a_message_that_is_under_way_nothing_else_is_said_when_the_rest_is_not() {
    let denied = || Ending::Denied(Denial::not_understood("no room"));
    let notice = one(b'N', &[b'M'; 4000]);
    for under_way in [0, 100] {
        let mut rig = rig();
        rig.send(&[query("select a from t")]);
        let mut input = BytesMut::from(&notice[..under_way]);
        rig.session.answer(&mut input, &mut rig.client, &mut rig.outcomes).unwrap();
        let seen = rig.client.len();
        input.extend_from_slice(&[&notice[under_way..], &head(&[("a", 25, 0)]), &row(&[Some(b"1")])].concat());
        rig.session.answer(&mut input, &mut rig.client, &mut rig.outcomes).unwrap();
        // As the core does where that cannot be recorded.
        rig.client.truncate(seen);
        rig.session.unsaid();
        rig.session.farewell(&denied(), &mut rig.client);
        assert_eq!(rig.client.len() > seen, under_way == 0);
    }
}
