//! Who is let in: claims about certificates, with real rustls on both sides.
//!
//! Owns nothing else. Touches memory only. Invariant of every refusal here: the target was never dialled.

use rustls::version::{TLS12, TLS13};
use sallyport_policy::{Member, Roster};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::support::certificates::{Authority, Leaf, host};
use crate::support::stage::{Agent, BOT, Stage, member, quiet, roster};

/// Comes with that certificate, reads the one line it is told, and checks that the target saw nothing.
async fn told(stage: &Stage, leaf: &Leaf) -> String {
    let mut agent = stage.arrive(leaf).await;
    let told = agent.last_line().await;
    agent.ended().await;
    assert_eq!(stage.journal.dials(), 0);
    told
}

/// The alert that a handshake ends with. In TLS 1.3 a client learns of it only when it reads.
async fn alert(arrived: std::io::Result<Agent>, stage: &Stage) -> String {
    let error = match arrived {
        Ok(mut agent) => agent.tls.read_u8().await.expect_err("it was let in"),
        Err(error) => error,
    };
    quiet().await;
    assert_eq!(stage.journal.dials(), 0);
    error.to_string()
}

#[tokio::test(start_paused = true)]
async fn a_good_certificate_opens_a_session_in_its_name() {
    let mut stage = Stage::new();
    let (agent, _target) = stage.open().await;
    assert_eq!(agent.session, format!("{:032x}", 1));
    assert_eq!(stage.journal.events("open")[0]["verdict"], "allow");
}

#[tokio::test(start_paused = true)]
async fn without_a_certificate_nobody_comes_in() {
    let stage = Stage::new();
    let arrived = stage.arrive_with(stage.authority.client(None, &[&TLS13])).await;
    assert!(alert(arrived, &stage).await.contains("CertificateRequired"));
}

#[tokio::test(start_paused = true)]
async fn an_expired_certificate_is_refused() {
    let stage = Stage::new();
    let leaf = stage.authority.expired(BOT);
    let arrived = stage.arrive_with(stage.authority.client(Some(&leaf), &[&TLS13])).await;
    assert!(alert(arrived, &stage).await.contains("CertificateExpired"));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_of_another_authority_is_refused() {
    let stage = Stage::new();
    let leaf = Authority::new().agent(&[BOT]);
    let arrived = stage.arrive_with(stage.authority.client(Some(&leaf), &[&TLS13])).await;
    let alert = alert(arrived, &stage).await;
    assert!(alert.contains("UnknownCA") || alert.contains("DecryptError"), "{alert}");
}

#[tokio::test(start_paused = true)]
async fn an_alert_reaches_a_client_that_has_sent_more_already() {
    let stage = Stage::new();
    let mut served = stage.connect();
    served.io.write_all(b"tls\n").await.unwrap();
    served.io.read_exact(&mut [0; 3]).await.unwrap();
    let connector = TlsConnector::from(stage.authority.client(None, &[&TLS13]));
    let mut tls = connector.connect(host(), served.io).await.unwrap();
    quiet().await;
    // The server has refused by now. Were it gone, these bytes would meet a closed socket, whose reset
    // takes the alert with it.
    tls.write_all(b"user bot\n").await.expect("the server reads on");
    let error = tls.read_u8().await.expect_err("it was let in");
    assert!(error.to_string().contains("CertificateRequired"));
    drop(tls);
    served.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn two_uri_names_are_one_too_many() {
    let stage = Stage::new();
    let leaf = stage.authority.agent(&[BOT, "spiffe://cluster.local/ns/ci/agent/other"]);
    assert_eq!(told(&stage, &leaf).await, "no the certificate has 2 URI names, it must have exactly one");
}

#[tokio::test(start_paused = true)]
async fn no_uri_name_names_nobody() {
    let stage = Stage::new();
    let leaf = stage.authority.agent(&[]);
    assert_eq!(told(&stage, &leaf).await, "no the certificate has 0 URI names, it must have exactly one");
}

#[tokio::test(start_paused = true)]
async fn another_trust_domain_is_refused() {
    let stage = Stage::new();
    let leaf = stage.authority.agent(&["spiffe://cluster.evil/ns/ci/agent/bot"]);
    assert_eq!(told(&stage, &leaf).await, "no the certificate's URI name is of another trust domain");
}

#[tokio::test(start_paused = true)]
async fn an_identity_that_the_roster_does_not_have_is_refused_and_that_is_recorded() {
    let stage = Stage::new();
    let leaf = stage.authority.agent(&["spiffe://cluster.local/ns/ci/agent/stranger"]);
    assert_eq!(told(&stage, &leaf).await, "no this identity is not known here");
    let open = &stage.journal.events("open")[0];
    assert_eq!(
        (open["verdict"].as_str(), open["reason"].as_str()),
        (Some("deny"), Some("this identity is not known here"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_suspended_identity_is_refused() {
    let stage = Stage::new();
    stage.suspend();
    let leaf = stage.authority.agent(&[BOT]);
    assert_eq!(told(&stage, &leaf).await, "no this identity is suspended");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_from_before_the_revocation_is_refused() {
    let stage = Stage::new();
    stage.service.feed.publish_roster(roster(Member { min_not_before: 4_000_000_000, ..member() }));
    let leaf = stage.authority.agent(&[BOT]);
    assert_eq!(told(&stage, &leaf).await, "no this certificate was revoked: use a newer one");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_of_an_identity_that_was_made_again_is_refused() {
    let mut stage = Stage::new();
    stage.service.feed.publish_roster(roster(Member { uid: Some("two".into()), ..member() }));
    for leaf in [stage.authority.agent_of(BOT, "one"), stage.authority.agent(&[BOT])] {
        assert_eq!(told(&stage, &leaf).await, "no this certificate was revoked: use a newer one");
    }
    let leaf = stage.authority.agent_of(BOT, "two");
    let mut agent = stage.arrive(&leaf).await;
    let mut target = stage.target().await;
    target.let_in("key").await;
    agent.greeted().await;
    // Made again while the session is open, in the very same second: nothing but the UID differs.
    stage.service.feed.publish_roster(roster(Member { uid: Some("three".into()), ..member() }));
    assert_eq!(agent.last_line().await, "bye this certificate was revoked: use a newer one");
}

#[tokio::test(start_paused = true)]
async fn an_emptied_roster_lets_nobody_in() {
    let stage = Stage::new();
    stage.service.feed.publish_roster(Roster::default());
    let leaf = stage.authority.agent(&[BOT]);
    assert_eq!(told(&stage, &leaf).await, "no this identity is not known here");
}

#[tokio::test(start_paused = true)]
async fn tls_1_2_is_refused_by_a_server_set_up_as_it_should_be() {
    let stage = Stage::new();
    let leaf = stage.authority.agent(&[BOT]);
    let arrived = stage.arrive_with(stage.authority.client(Some(&leaf), &[&TLS12])).await;
    assert!(alert(arrived, &stage).await.contains("ProtocolVersion"));
}

#[tokio::test(start_paused = true)]
async fn tls_1_2_is_refused_even_where_the_server_was_set_up_to_take_it() {
    let mut stage = Stage::new();
    stage.tls = stage.authority.server(&[&TLS12, &TLS13]);
    let leaf = stage.authority.agent(&[BOT]);
    let mut agent = stage.arrive_with(stage.authority.client(Some(&leaf), &[&TLS12])).await.unwrap();
    assert_eq!(agent.last_line().await, "no TLS 1.3 is required");
    agent.ended().await;
    assert_eq!(stage.journal.dials(), 0);
}
