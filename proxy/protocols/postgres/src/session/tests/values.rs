//! What values are shown as, whatever a client says of them: by the type that the server reads them by, or as bytes.

use sallyport_core::record::Parameter;

use super::*;

/// A ParameterDescription, with the NoData behind it.
fn described(types: &[u32]) -> Vec<u8> {
    let mut body = u16::try_from(types.len()).unwrap().to_be_bytes().to_vec();
    body.extend(types.iter().flat_map(|of| of.to_be_bytes()));
    let mut out = BytesMut::new();
    codec::message(&mut out, b't', &[&body]);
    codec::message(&mut out, b'n', &[]);
    out.to_vec()
}

const FORTY_TWO: &[u8] = &[0, 0, 0, 42];
const AS_BYTES: &str = r"\x0000002a (binary, of a type that is not known here)";

impl Rig {
    /// What is shown of the values of the next message, an Execute that was not judged yet, and whether people may be asked.
    fn shown(&mut self, execute: &[u8]) -> (Vec<String>, Option<&'static str>) {
        self.input.extend_from_slice(execute);
        let Next::Command(command) = self.session.next(&mut self.input, &mut self.client).unwrap() else { panic!() };
        let entry = self.session.describe(&command).entry.unwrap();
        let literal = |parameter: Parameter| match parameter {
            Parameter::Binary(binary) => binary.literal.unwrap(),
            Parameter::Typed { literal } => literal,
            other => format!("{other:?}"),
        };
        let hides = self.session.hides(&command);
        let shown = entry.parameters.into_iter().map(literal).collect();
        self.judge(&command).unwrap();
        (shown, hides)
    }

    fn shows(&mut self, portal: &str) -> Vec<String> {
        let (shown, hides) = self.shown(&execute(portal));
        assert_eq!(hides, None);
        shown
    }
}

#[test]
fn the_type_that_a_parse_gives_is_the_one_that_is_shown() {
    let mut rig = Rig::new();
    rig.send(&[parse_of("a", "select $1", &[23]), bind("", "a", &[Some(FORTY_TWO)], 1)]);
    assert_eq!(rig.shows(""), ["'42'::int4"]);
    rig.send(&[parse_of("b", "select $1", &[26]), bind("", "b", &[Some(FORTY_TWO)], 1)]);
    assert_eq!(rig.shows(""), ["'42'::oid"]);
    // The server infers these, and has not said what.
    for open in [0, 705] {
        rig.send(&[parse_of("", "select $1", &[open]), bind("", "", &[Some(FORTY_TWO)], 1)]);
        assert_eq!(rig.shows(""), [AS_BYTES]);
    }
}

#[test]
fn a_text_that_is_to_be_read_as_another_type_is_not_shown_like_a_text() {
    let mut rig = Rig::new();
    // The server reads `x` of it, three days or three seconds.
    let shown = [
        (18, "'3''x' (type 18)"),
        (23, "'3''x'::int4"),
        (1182, "'3''x'::date[]"),
        (25, "Text(\"3'x\")"),
        (0, "Text(\"3'x\")"),
    ];
    for (of, shown) in shown {
        rig.send(&[parse_of("", "select $1", &[of]), bind("", "", &[Some(b"3'x")], 0)]);
        assert_eq!(rig.shows(""), [shown]);
    }
}

#[test]
fn what_the_server_describes_is_shown_of_the_statement_that_it_described() {
    let mut rig = Rig::new();
    rig.send(&[parse("a", "select $1"), describe(b'S', "a"), sync()]);
    assert_eq!(rig.serve(&[bare("1"), described(&[23]), ready(b'I')]), "1 t n ZI");
    rig.send(&[bind("", "a", &[Some(FORTY_TWO)], 1)]);
    assert_eq!(rig.shows(""), ["'42'::int4"]);
    rig.send(&[sync()]);
    rig.serve(&[bare("2"), done("SELECT 1"), ready(b'I')]);

    // The same name, another statement: what was said of the first says nothing of it.
    rig.send(&[close(b'S', "a"), parse("a", "select $1 || ''"), bind("", "a", &[Some(FORTY_TWO)], 1)]);
    assert_eq!(rig.shows(""), [AS_BYTES]);
    rig.send(&[sync()]);
    rig.serve(&[bare("3"), bare("1"), bare("2"), done("SELECT 1"), ready(b'I')]);
    // In whatever pieces it comes.
    rig.send(&[describe(b'S', "a"), sync()]);
    let bytes = [described(&[25]), ready(b'I')].concat();
    let mut held = BytesMut::new();
    for byte in bytes {
        held.extend_from_slice(&[byte]);
        rig.session.answer(&mut held, &mut rig.client, &mut rig.outcomes).unwrap();
    }
    assert_eq!(rig.seen(), "t n ZI");
    rig.send(&[bind("", "a", &[Some(b"*")], 1)]);
    assert_eq!(rig.shows(""), ["'*'::text"]);
}

#[test]
fn a_description_that_comes_late_is_of_what_was_described_and_not_of_what_bears_its_name_by_then() {
    let mut rig = Rig::new();
    rig.send(&[parse("a", "select $1::int4"), sync()]);
    rig.serve(&[bare("1"), ready(b'I')]);
    // Described, closed and prepared anew in one go; the answers come afterwards.
    rig.send(&[describe(b'S', "a"), close(b'S', "a"), parse("a", "select $1::oid"), sync()]);
    rig.serve(&[described(&[23]), bare("3"), bare("1"), ready(b'I')]);
    rig.send(&[bind("", "a", &[Some(FORTY_TWO)], 1)]);
    assert_eq!(rig.shows(""), [AS_BYTES]);
}

#[test]
fn of_a_name_that_may_stand_for_two_statements_nothing_is_learned() {
    let mut rig = Rig::new();
    rig.send(&[parse("a", "select $1::int4"), sync()]);
    rig.serve(&[bare("1"), ready(b'I')]);
    // It is not known whether the second segment fails before its Close.
    rig.send(&[parse("x", "select fails"), close(b'S', "a"), parse_of("a", "select $1::oid", &[26]), sync()]);
    rig.send(&[describe(b'S', "a"), bind("p", "a", &[Some(FORTY_TWO)], 1)]);
    let (shown, hides) = rig.shown(&execute("p"));
    assert_eq!(shown, [AS_BYTES]);
    assert!(hides.is_some(), "people would not see which statement runs");
    rig.send(&[sync()]);
    // It did: what is described is the first one.
    rig.serve(&[error("42P01"), ready(b'I'), described(&[23]), bare("2"), done("SELECT 1"), ready(b'I')]);
    rig.send(&[close(b'S', "a"), parse("a", "select $1::oid"), bind("", "a", &[Some(FORTY_TWO)], 1)]);
    assert_eq!(rig.shows(""), [AS_BYTES]);
}

#[test]
fn nobody_is_asked_about_values_that_may_be_those_of_another_bind() {
    let mut rig = Rig::new();
    rig.send(&[query("begin"), parse_of("a", "select $1", &[23]), bind("p", "a", &[Some(FORTY_TWO)], 1), sync()]);
    rig.send(&[query("savepoint s")]);
    // Fails: then the portal with the first value is still there once the transaction is gone back in.
    rig.send(&[parse("x", "select fails"), close(b'P', "p"), bind("p", "a", &[Some(&[0, 0, 0, 1])], 1), sync()]);
    rig.send(&[query("rollback to s")]);
    let (_, hides) = rig.shown(&execute("p"));
    assert!(hides.unwrap().contains("may still stand for what was bound before"));
    rig.send(&[sync()]);
    rig.serve(&[done("BEGIN"), ready(b'T'), bare("1"), bare("2"), ready(b'T')]);
    rig.serve(&[done("SAVEPOINT"), ready(b'T'), error("42P01"), ready(b'E')]);
    rig.serve(&[done("ROLLBACK"), ready(b'T'), done("SELECT 1"), ready(b'T')]);
    // With all answers there, it is the first again, for certain.
    assert_eq!(rig.shows("p"), ["'42'::int4"]);
}

#[test]
fn under_another_search_path_a_statement_keeps_the_types_of_its_parameters() {
    let mut rig = Rig::new();
    rig.send(&[parse("a", "select $1"), sync()]);
    rig.serve(&[bare("1"), ready(b'I')]);
    rig.send(&[describe(b'S', "a"), sync(), query("set search_path = other")]);
    rig.serve(&[described(&[23]), ready(b'I'), done("SET"), ready(b'I')]);
    rig.send(&[bind("", "a", &[Some(FORTY_TWO)], 1)]);
    assert_eq!(rig.shows(""), ["'42'::int4"]);
}

/// Sets a search path by a parameter, and tells what a name without a schema then means.
fn means_behind(parse: Vec<u8>, values: &[Option<&[u8]>], format: u16) -> String {
    let mut rig = Rig::new();
    rig.send(&[parse, bind("", "s", values, format), execute(""), sync()]);
    rig.serve(&[bare("1"), bare("2"), done("SELECT 1"), ready(b'I')]);
    rig.input.extend_from_slice(&query("select * from a"));
    let Next::Command(command) = rig.session.next(&mut rig.input, &mut rig.client).unwrap() else { panic!() };
    command.action().unwrap().operations[0].to_string()
}

#[test]
fn a_search_path_that_comes_as_a_parameter_is_followed_where_it_holds_what_the_session_began_with() {
    const SET: &str = "select set_config('search_path', $1, false)";
    const KEPT: &str = "Select on public.a";
    let own: &[Option<&[u8]>] = &[Some(b"\"public\",\"public\", \"pg_temp\"")];
    for types in [&[][..], &[0], &[25], &[1043]] {
        assert_eq!(means_behind(parse_of("s", SET, types), own, 0), KEPT);
    }
    let lost = |parse: Vec<u8>, values: &[Option<&[u8]>], format: u16| {
        let meant = means_behind(parse, values, format);
        assert_eq!(meant, "Select of something that cannot be derived", "{values:?}");
    };
    // Other paths; none; in a form that is not text; of a type that would cut it.
    for path in [&b"public"[..], b"evil, pg_temp", b"pg_temp, public", b"\"$user\", pg_temp", b""] {
        lost(parse("s", SET), &[Some(path)], 0);
    }
    lost(parse("s", SET), &[None], 0);
    lost(parse("s", SET), own, 1);
    lost(parse_of("s", SET, &[19]), own, 0);
    // What the parameter is read as is not certain, or it is not all that is set.
    for text in [
        "select $1::name, set_config('search_path', $1, false)",
        "select set_config('search_path', $1 || '', false)",
        "select set_config('search_path', $1::name, false)",
        "select set_config('search_path', $1, false), set_config('search_path', 'evil', false)",
        "select set_config('search_path', $1, false), set_config('search_path', $2, false)",
    ] {
        lost(parse("s", text), &[own[0], Some(b"evil")], 0);
    }
    lost(parse_of("s", "prepare p as select set_config('search_path', $1, false)", &[25]), own, 0);
    // Written down, it is followed as SET is.
    assert_eq!(means_behind(parse("s", "select set_config('search_path', 'public, pg_temp', false)"), &[], 0), KEPT);
}
