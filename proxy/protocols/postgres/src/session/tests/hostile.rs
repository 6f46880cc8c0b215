//! Servers that say what no server says: found by the fuzz targets, told here as what they are.

use sallyport_policy::{ColumnPattern, MaskMethod, MaskPlan};

use super::*;

/// A session in which every column of `public.people` is masked, with a catalog that did not answer.
fn masked() -> Rig {
    let column = (ColumnPattern::parse("public.people.*").unwrap(), MaskMethod::Redact);
    let plan = MaskPlan { columns: vec![column], detect: Vec::new() };
    let mut rig = Rig::new();
    assert!(rig.session.mask(Some(&Arc::new(Masking { plan, key: None }))));
    rig
}

/// The answer to our question, which is asked ahead of the first command.
fn no_catalog() -> Vec<u8> {
    [error("57014"), ready(b'I')].concat()
}

/// What the server says, in these pieces; and what the client has seen when the session has ended over it.
fn ended(rig: &mut Rig, pieces: &[&[u8]]) -> Vec<u8> {
    let mut input = BytesMut::new();
    for (at, piece) in pieces.iter().enumerate() {
        input.extend_from_slice(piece);
        let answered = rig.session.answer(&mut input, &mut rig.client, &mut rig.outcomes);
        assert_eq!(answered.is_err(), at + 1 == pieces.len(), "piece {at}: {answered:?}");
    }
    rig.session.farewell(&Ending::Upstream("the target broke the protocol".into()), &mut rig.client);
    std::mem::take(&mut rig.client).to_vec()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

/// An error as of a constraint that is checked late.
fn violated() -> Vec<u8> {
    let mut out = BytesMut::new();
    let fields = [
        (b'S', "ERROR"),
        (b'V', "ERROR"),
        (b'C', "23503"),
        (b'M', "it violates \"seen\""),
        (b'D', "Key (email)=(hidden) is still referenced"),
        (b'R', "ri_ReportViolation"),
    ];
    error_response(&mut out, &fields);
    out.to_vec()
}

#[test]
fn of_a_message_that_has_begun_to_pass_the_rest_passes_before_last_words() {
    let mut rig = Rig::new();
    rig.send(&[query("select 1")]);
    let notice = one(b'N', &[b'x'; 50]);
    let (head, tail) = notice.split_at(20);
    let seen = ended(&mut rig, &[head, &[tail, b"?"].concat()]);
    assert_eq!(summary(&seen), "N E08006");
    assert!(seen.starts_with(&notice));
}

#[test]
fn nothing_but_an_error_answers_the_constant_in_a_refused_commands_place() {
    for answer in [rows(), one(b'D', &[0, 0]), done("SELECT 1"), [one(b'H', &[0, 0, 0]), one(b'd', b"x")].concat()] {
        let mut rig = Rig::new();
        rig.send(&[query("begin")]);
        rig.serve(&[done("BEGIN"), ready(b'T')]);
        assert_eq!(rig.send(&[query("select secret")]), refuse::QUERY_THAT_FAILS);
        assert_eq!(summary(&ended(&mut rig, &[&answer])), "E08006");
    }
}

#[test]
fn a_query_that_has_failed_has_no_more_rows() {
    let mut rig = Rig::new();
    rig.send(&[query("select 1")]);
    assert_eq!(rig.serve(&[rows(), error("22012")]), "T D E22012");
    assert_eq!(summary(&ended(&mut rig, &[&one(b'D', &[0, 0])])), "E08006");
}

#[test]
fn lines_of_a_copy_come_only_where_it_was_seen_that_they_may() {
    for lines in [one(b'd', b"hidden\n"), bare("c")] {
        let mut rig = masked();
        rig.send(&[query("select x from people")]);
        rig.serve(&[no_catalog()]);
        assert_eq!(summary(&ended(&mut rig, &[&lines])), "E08006");
    }
    let mut rig = Rig::new();
    rig.send(&[query("copy t to stdout")]);
    let copy = [one(b'H', &[0, 0, 0]), one(b'd', b"x\n"), bare("c"), done("COPY 1"), ready(b'I')];
    assert_eq!(rig.serve(&copy), "H d c C ZI");
}

#[test]
fn a_row_of_other_columns_than_were_described_does_not_pass() {
    let mut rig = masked();
    rig.send(&[query("delete from people returning x")]);
    rig.serve(&[no_catalog(), one(b'T', &[0, 0])]);
    let row = one(b'D', &[&[0, 1, 0, 0, 0, 6][..], b"hidden"].concat());
    assert_eq!(summary(&ended(&mut rig, &[&row])), "E08006");
}

#[test]
fn what_a_cursor_shows_that_nobody_has_seen_is_masked_even_where_no_table_is_told() {
    let mut rig = masked();
    rig.send(&[query("fetch c")]);
    let column = [&[0, 1][..], b"upper\0", &[0, 0, 0, 0, 0, 0, 0, 0, 0, 25, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
    rig.serve(&[no_catalog(), one(b'T', &column)]);
    let mut input = BytesMut::from(&*one(b'D', &[&[0, 1, 0, 0, 0, 6][..], b"hidden"].concat()));
    rig.session.answer(&mut input, &mut rig.client, &mut rig.outcomes).unwrap();
    assert!(!holds(&rig.client, "hidden") && holds(&rig.client, "****"));
}

#[test]
fn what_is_checked_late_tells_no_value_of_a_masked_column() {
    // At the end of a transaction, by whatever ends it.
    for text in ["commit", "select 1; end", "set constraints all immediate"] {
        for asked in [true, false] {
            let mut rig = masked();
            if !asked {
                rig.send(&[query("select 1")]);
                rig.serve(&[no_catalog(), done("SELECT 1"), ready(b'I')]);
            }
            rig.send(&[query(text)]);
            if asked {
                rig.serve(&[no_catalog()]);
            }
            let mut input = BytesMut::from(&*violated());
            rig.session.answer(&mut input, &mut rig.client, &mut rig.outcomes).unwrap();
            assert!(!holds(&rig.client, "hidden") && holds(&rig.client, "seen"), "{text}");
        }
    }
    // At a Sync, and at a Query that comes in its place.
    for last in [sync(), query("select 1")] {
        let mut rig = masked();
        rig.send(&[parse("", "delete from people"), bind("", "", &[], 0)]);
        rig.serve(&[no_catalog()]);
        rig.send(&[execute(""), last]);
        rig.serve(&[bare("1"), bare("2"), bare("n"), done("DELETE 1")]);
        let mut input = BytesMut::from(&*violated());
        rig.session.answer(&mut input, &mut rig.client, &mut rig.outcomes).unwrap();
        assert!(!holds(&rig.client, "hidden") && holds(&rig.client, "seen"));
    }
    // While a Bind is planned.
    let mut rig = masked();
    rig.send(&[parse("", "select x from people"), bind("", "", &[], 0)]);
    rig.serve(&[no_catalog()]);
    rig.send(&[bind("", "", &[], 0)]);
    rig.serve(&[bare("1")]);
    let mut input = BytesMut::from(&*violated());
    rig.session.answer(&mut input, &mut rig.client, &mut rig.outcomes).unwrap();
    assert!(!holds(&rig.client, "hidden") && holds(&rig.client, "seen"));
    // What has nothing to do with it is told as ever.
    let mut rig = masked();
    rig.send(&[query("select 1/0")]);
    rig.serve(&[no_catalog()]);
    let mut input = BytesMut::from(&*violated());
    rig.session.answer(&mut input, &mut rig.client, &mut rig.outcomes).unwrap();
    assert!(holds(&rig.client, "hidden"));
}
