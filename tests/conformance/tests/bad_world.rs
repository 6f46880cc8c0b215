//! A bad world around the proxy: targets, credentials, bundles and disks that are not as they should be.
//! Each is told to that client in words that give nothing of the target's away, and to the log by its cause.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod wire;

use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use sallyport_conformance::{Guarded, policy};
use sallyport_harness::{Postgres, PostgresOptions, free_port};
use sallyport_policy::Bundle;
use wire::{Wire, log_all, logged, logged_once, logged_since, serves, startup, state};

/// Puts a bundle in force that differs from the fixture's own.
async fn with_bundle(guarded: &Guarded, change: impl FnOnce(&mut Bundle)) {
    let mut bundle = policy::bundle(guarded.server.host(), guarded.server.port(), policy::readme());
    change(&mut bundle);
    let bundle = bundle.sealed();
    guarded.set_raw_bundle(&bundle.to_json()).unwrap();
    guarded.await_revision(&bundle).await.unwrap();
}

/// What a client is told that tries to open a session now: one error, and nothing of the target's in it.
async fn refused(guarded: &Guarded) -> String {
    let (_, said) = Wire::try_open(guarded, &startup(&[("user", "default"), ("database", "postgres")])).await;
    assert_eq!((said.kinds().as_str(), said.closed), ("E", true), "{:?}", said.errors());
    let told = said.everything();
    let user = guarded.server.superuser();
    for secret in
        [guarded.server.superuser_password(), "127.0.0.1", "localhost", "\"postgres\"", &format!("user {user}")]
    {
        assert!(!told.contains(secret), "{secret:?} in {told:?}");
    }
    said.errors().remove(0)
}

#[tokio::test]
async fn a_target_that_is_down_is_told_and_logged_and_comes_back() {
    let mut guarded = Guarded::start(policy::readme()).await.unwrap();
    let mut open = Wire::open(&guarded).await;
    guarded.server.kill().await.unwrap();
    let said = open.until_closed().await;
    // What the server says itself, where it says something, and nothing beside it.
    assert!(said.closed && said.errors().len() == 1, "{:?}", said.errors());
    assert!(["57P01", "57P02", "08006"].contains(&&said.errors()[0][..5]), "{:?}", said.errors());
    logged(&guarded, "session closed").await;
    let since = guarded.log().len();
    let told = refused(&guarded).await;
    assert!(told.starts_with("08001") || told.starts_with("08006"), "{told}");
    let line = logged_once(&guarded, since, "cannot be reached").await;
    assert!(line.contains(&guarded.server.port().to_string()), "the log names the address: {line}");
    guarded.server.resume().await.unwrap();
    serves(&guarded).await;
}

#[tokio::test]
async fn targets_that_never_answer_meet_a_deadline() {
    let guarded = Guarded::start(policy::readme()).await.unwrap();
    // One takes the connection and says nothing; one agrees to TLS and says nothing more.
    let (silent, half) = (free_port().unwrap(), free_port().unwrap());
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", silent.number())).await.unwrap();
    let agreeing = tokio::net::TcpListener::bind(("127.0.0.1", half.number())).await.unwrap();
    let agree = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        let (mut stream, _) = agreeing.accept().await.unwrap();
        stream.write_all(b"S").await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
    });
    let started = Instant::now();
    let hello = startup(&[("user", "default"), ("database", "postgres")]);
    let mut waiting = Vec::new();
    for port in [silent.number(), half.number()] {
        with_bundle(&guarded, |bundle| bundle.upstream.port = port).await;
        let mut wire = Wire::secured(&guarded).await;
        wire.send(&hello).await;
        // The bundle in force when it begins is the one it dials by.
        tokio::time::sleep(Duration::from_millis(300)).await;
        waiting.push(wire);
    }
    for mut wire in waiting {
        let said = wire.until_closed().await;
        assert!(said.errors()[0].contains("did not answer in time"), "{:?}", said.errors());
    }
    assert!((14..19).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    logged(&guarded, "login timed out").await;
    agree.abort();
    drop(listener);
}

#[tokio::test]
async fn a_target_that_proves_to_be_another_one_gets_no_password() {
    let guarded = Guarded::start(policy::readme()).await.unwrap();
    // Another authority's certificate, and the right one's for another name.
    let other = Postgres::start(PostgresOptions::default()).await.unwrap();
    let seen = other.log().len();
    with_bundle(&guarded, |bundle| bundle.upstream.port = other.port()).await;
    let since = guarded.log().len();
    let told = refused(&guarded).await;
    assert!(told.contains("certificate could not be verified"), "{told}");
    let line = logged_once(&guarded, since, "connection failed").await;
    assert!(line.contains("invalid peer certificate"), "{line}");
    assert!(!other.log()[seen..].contains("authenticat"), "{}", other.log());

    with_bundle(&guarded, |bundle| bundle.upstream.server_name = Some("other.example".into())).await;
    let since = guarded.log().len();
    let told = refused(&guarded).await;
    assert!(told.contains("certificate could not be verified"), "{told}");
    let line = logged_once(&guarded, since, "connection failed").await;
    assert!(line.contains("not valid for name"), "{line}");

    with_bundle(&guarded, |_| {}).await;
    serves(&guarded).await;
}

#[tokio::test]
async fn credentials_that_are_wrong_missing_or_half_written_are_told_and_logged_by_file() {
    let guarded = Guarded::start(policy::readme()).await.unwrap();
    let file = |name: &str| guarded.dir().join("credentials/default").join(name);
    let password = guarded.server.superuser_password().to_owned();
    let user = guarded.server.superuser();

    std::fs::write(file("password"), "wrong").unwrap();
    let since = guarded.log().len();
    let told = refused(&guarded).await;
    assert!(!told.contains(user), "{told}");
    let line = logged_once(&guarded, since, "connection failed").await;
    assert!(line.contains("28P01") || line.contains("password"), "{line}");

    type Break = fn(&std::path::Path, &std::path::Path);
    let breaks: [(&str, Break); 5] = [
        ("is missing", |_, password| std::fs::remove_file(password).unwrap()),
        ("is empty", |_, password| std::fs::write(password, "").unwrap()),
        ("is missing", |user, _| std::fs::remove_file(user).unwrap()),
        ("is empty", |user, _| std::fs::write(user, "\n").unwrap()),
        ("is not text", |_, password| std::fs::write(password, [0xff, 0xfe]).unwrap()),
    ];
    for (cause, spoil) in breaks {
        std::fs::write(file("username"), user).unwrap();
        std::fs::write(file("password"), &password).unwrap();
        spoil(&file("username"), &file("password"));
        let since = guarded.log().len();
        let told = refused(&guarded).await;
        assert!(told.contains("credential is not available"), "{told}");
        assert!(!told.contains("/credentials/"), "{told}");
        let line = logged_once(&guarded, since, cause).await;
        assert!(line.contains("credentials/default/"), "the log names the file: {line}");
    }
    std::fs::write(file("username"), user).unwrap();
    std::fs::write(file("password"), &password).unwrap();
    serves(&guarded).await;
    assert!(!guarded.log().contains(&password));
}

#[tokio::test]
async fn a_bundle_that_cannot_be_used_changes_nothing_and_is_told_and_counted() {
    let guarded = Guarded::start(policy::readme()).await.unwrap();
    let mut open = Wire::open(&guarded).await;
    let good = policy::bundle(guarded.server.host(), guarded.server.port(), policy::allow_all());
    let newer = good.to_json().replacen(&format!("\"version\": {}", good.version), "\"version\": 99", 1);
    assert_ne!(newer, good.to_json());
    let meddled = good.to_json().replace("everything", "meddled with");
    let bad = [
        ("newer", newer),
        ("cut", good.to_json()[..200].to_owned()),
        ("empty", String::new()),
        ("no JSON", "policies: []".to_owned()),
        ("meddled with", meddled),
    ];
    for (n, (what, text)) in bad.into_iter().enumerate() {
        let since = guarded.log().len();
        guarded.set_raw_bundle(&text).unwrap();
        let wanted = format!("inputs_refused_total{{input=\"bundle\"}} {}", n + 1);
        let until = Instant::now() + wire::PATIENCE;
        while !guarded.admin("/metrics").await.unwrap().contains(&wanted) {
            assert!(Instant::now() < until, "{what}: {}", guarded.admin("/metrics").await.unwrap());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        logged_since(&guarded, since, "ERROR").await;
        // The old one is in force: for the open session and for new ones.
        assert!(open.query("select * from secrets").await.errors()[0].starts_with("42501"), "{what}");
        assert_eq!(open.query("select count(*) from orders").await.rows(), ["100"], "{what}");
        serves(&guarded).await;
    }
    guarded.set_raw_bundle(&good.to_json()).unwrap();
    guarded.await_revision(&good).await.unwrap();
    assert_eq!(open.query("select value from secrets").await.rows(), ["do not show"]);
}

#[tokio::test]
async fn a_full_disk_under_the_records_stops_commands_and_nothing_else() {
    let mut guarded = Guarded::start(policy::readme()).await.unwrap();
    log_all(&guarded).await;
    guarded.kill_proxy().unwrap();
    // A disk of its own, in a mount namespace of this thread and the proxy it starts: it ends with them.
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).expect("this test mounts a file system: run it as root");
    let records = guarded.dir().join("records");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    mount(Some("none"), &records, Some("tmpfs"), MsFlags::empty(), Some("size=256k")).unwrap();
    guarded.start_proxy().await.unwrap();
    let before = state(&guarded).await;
    let mut session = Wire::open(&guarded).await;
    assert_eq!(session.query("select count(*) from orders").await.rows(), ["100"]);

    let ballast = records.join("ballast");
    let fill = || {
        use std::io::Write as _;
        let mut file = std::fs::File::create(&ballast).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
    };
    fill();
    // What is left of the last page may take a few records more.
    let mut said = session.query("insert into orders (id, note) values (6000, 'unrecorded')").await;
    let mut allowed = 0;
    while said.errors().is_empty() {
        allowed += 1;
        assert!(allowed < 100, "the disk is not full");
        said = session.query("select 'until it is full' from orders limit 1").await;
    }
    let recorded = session.query("delete from orders where id = 6000").await;
    for said in [said, recorded] {
        assert!(said.errors()[0].starts_with("53100"), "{:?}", said.errors());
        assert!(said.errors()[0].contains("no room to record"), "{:?}", said.errors());
    }
    let since = guarded.server.log().len();
    for sql in
        ["update orders set note = 'x' where id = 1", "insert into orders (note) values ('x')", "select 1", "begin"]
    {
        assert!(session.query(sql).await.errors()[0].starts_with("53100"), "{sql}");
    }
    assert!(!guarded.server.log()[since..].contains("statement:"), "{}", &guarded.server.log()[since..]);
    let (_, said) = Wire::try_open(&guarded, &startup(&[("user", "default"), ("database", "postgres")])).await;
    assert!(said.errors()[0].starts_with("53100"), "no new session either: {:?}", said.errors());
    assert!(guarded.admin("/readyz").await.unwrap().starts_with("HTTP/1.1 503"), "and it says it is not ready");
    logged(&guarded, "record lost").await;

    std::fs::remove_file(&ballast).unwrap();
    assert_eq!(session.query("select count(*) from orders where id <= 100").await.rows(), ["100"]);
    serves(&guarded).await;
    assert!(guarded.admin("/readyz").await.unwrap().starts_with("HTTP/1.1 200"));
    session.query("delete from orders where id = 6000").await;
    let same = |text: &str| text.split("Some").take(4).collect::<String>();
    assert_eq!(same(&state(&guarded).await), same(&before));
    // Whatever was torn, every record that counts can be read, and each of a command that ran is there.
    let whole = std::process::Command::new(sallyport_conformance::proxy_binary().unwrap())
        .args(["records", "--json", "--records-dir"])
        .arg(&records)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&whole.stdout).into_owned();
    assert!(whole.status.success() && text.contains("id <= 100"), "{text}{}", String::from_utf8_lossy(&whole.stderr));
}
