//! A session one of whose commands waits for people: what can be said to its client, and what becomes of the command.

use sallyport_core::protocol::Notice;

use super::*;

fn notice(rig: &mut Rig) -> bool {
    let notice = Notice { text: "still waiting".into(), hint: Some("kubectl get ask".into()) };
    rig.session.notice(&notice, &mut rig.client)
}

#[test]
fn a_notice_is_a_message_of_its_own_never_inside_another() {
    let mut rig = Rig::new();
    assert!(notice(&mut rig));
    let told = rig.client.to_vec();
    assert_eq!(told[0], b'N');
    assert_eq!(error_field(&told[5..], b'M').unwrap(), "still waiting");
    assert_eq!(error_field(&told[5..], b'H').unwrap(), "kubectl get ask");
    assert_eq!(rig.seen(), "N");
    // The answer to what went before comes in pieces: between them is no place for it.
    rig.send(&[query("select 1")]);
    let row = one(b'D', &[7; 1000]);
    let mut input = BytesMut::from(&[one(b'T', &[0, 0]), row[..500].to_vec()].concat()[..]);
    rig.session.answer(&mut input, &mut rig.client, &mut rig.outcomes).unwrap();
    let before = rig.client.len();
    assert!(!notice(&mut rig));
    assert_eq!(rig.client.len(), before);
    let mut input = BytesMut::from(&row[500..]);
    rig.session.answer(&mut input, &mut rig.client, &mut rig.outcomes).unwrap();
    assert!(notice(&mut rig));
    assert_eq!(rig.seen(), "T D N");
}

#[test]
fn what_runs_another_statement_by_its_name_does_not_show_it() {
    let mut rig = Rig::new();
    let mut hides = |text: &str| {
        rig.input.extend_from_slice(&query(text));
        let Next::Command(command) = rig.session.next(&mut rig.input, &mut rig.client).unwrap() else {
            panic!("{text}")
        };
        rig.session.hides(&command).is_some()
    };
    assert!(hides("execute p"));
    assert!(hides("select 1; fetch all from c"));
    assert!(!hides("prepare p as delete from orders"));
    assert!(!hides("declare c cursor for select 1"));
    assert!(!hides("drop table orders"));
}

#[test]
fn a_command_behind_an_error_is_overtaken_up_to_the_sync() {
    let mut rig = Rig::new();
    rig.send(&[parse("", "select 1/0"), bind("", "", &[], 0)]);
    assert!(!rig.session.overtaken());
    // This is where the client's Execute waits. The server fails, and skips whatever comes before the Sync.
    rig.serve(&[bare("1"), error("22012")]);
    assert!(rig.session.overtaken());
    rig.send(&[sync()]);
    assert!(!rig.session.overtaken());
    assert_eq!(rig.serve(&[ready(b'I')]), "ZI");
    // One that waits behind that Sync is of the next segment: it is not overtaken.
    rig.send(&[parse("", "select 1/0"), sync()]);
    assert_eq!(rig.serve(&[error("22012"), ready(b'I')]), "E22012 ZI");
    assert!(!rig.session.overtaken());
}
