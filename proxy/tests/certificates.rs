//! Certificates as nobody issues them, and handshakes as nobody begins them, against the running proxy.
//!
//! Owns the proof that one door lets in one certificate: signed below the root for a client, with one name of the form
//! and the object it was issued for. Touches loopback. Invariant under test: a refused one costs only itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod stage;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sallyport_harness::{Leaf, LeafOptions};
use sallyport_proxy::{Running, start};
use stage::{LONG, Stage, bundle, metric_becomes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const BOT: &str = "spiffe://cluster.local/ns/ci/agent/bot";
const MINUTE: Duration = Duration::from_secs(60);
/// The roster: issued for this object, and nothing from before ten minutes ago.
const UID: &str = "0b6f6cf4-91a5-4e35-8ba9-0d2bd2b6d1d7";

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// A client that shows this chain, whatever it is worth.
fn client(
    stage: &Stage,
    chain: Vec<CertificateDer<'static>>,
    key: &str,
    of: &'static SupportedProtocolVersion,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(der(&stage.pki.ca_pem())).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let shown = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let versions = ClientConfig::builder_with_protocol_versions(&[of]);
    let mut config = versions.with_root_certificates(roots).with_client_cert_resolver(Arc::new(shown));
    config.enable_early_data = true;
    config
}

async fn connect(running: &Running, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let mut tcp = TcpStream::connect(running.listen).await?;
    tcp.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await?;
    assert_eq!(tcp.read_u8().await?, b'S');
    TlsConnector::from(config).connect(ServerName::try_from("localhost").unwrap(), tcp).await
}

/// What the client is told: who is let in meets a credential that is not there.
async fn words(connected: std::io::Result<TlsStream<TcpStream>>) -> String {
    let stream = match connected {
        Ok(stream) => stream,
        Err(error) => return format!("TLS: {error}"),
    };
    let mut config = tokio_postgres::Config::new();
    config.user("bot").dbname("postgres").ssl_mode(tokio_postgres::config::SslMode::Disable);
    let asked = tokio::time::timeout(LONG, config.connect_raw(stream, tokio_postgres::NoTls)).await.expect("it hangs");
    let error = asked.err().expect("there is no target");
    match error.as_db_error() {
        Some(error) => format!("{} {}", error.code().code(), error.message()),
        None => format!("TLS: {error:?}"),
    }
}

struct Door {
    stage: Stage,
    running: Running,
}

impl Door {
    async fn told(&self, chain: &[&str], key: &str) -> String {
        let chain = chain.iter().map(|pem| der(pem)).collect();
        words(connect(&self.running, Arc::new(client(&self.stage, chain, key, &rustls::version::TLS13))).await).await
    }

    fn leaf(&self, change: impl FnOnce(&mut LeafOptions)) -> Leaf {
        let (uris, uid) = (vec![BOT.to_owned()], Some(UID.to_owned()));
        let mut options = LeafOptions { uris, uid, not_before: SystemTime::now(), ..LeafOptions::default() };
        change(&mut options);
        self.stage.pki.leaf(&options).unwrap()
    }

    async fn told_of(&self, leaf: &Leaf) -> String {
        self.told(&[&leaf.cert_pem], &leaf.key_pem).await
    }
}

/// A certificate that names the agent, or an authority below, signed by whoever has that key.
fn signed(by: &str, key: &str, authority: bool, until: Duration) -> Leaf {
    let issuer = Issuer::from_ca_cert_pem(by, KeyPair::from_pem(key).unwrap()).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, if authority { "below" } else { "bot" });
    params
        .distinguished_name
        .push(rcgen::DnType::CustomDnType(vec![2, 5, 4, 5]), rcgen::DnValue::PrintableString(UID.try_into().unwrap()));
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let now = Duration::from_secs(now.as_secs());
    (params.not_before, params.not_after) = (epoch + now - MINUTE, epoch + now - MINUTE + until);
    if authority {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    } else {
        params.subject_alt_names = vec![rcgen::SanType::URI(BOT.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    }
    let own = KeyPair::generate().unwrap();
    Leaf { cert_pem: params.signed_by(&own, &issuer).unwrap().pem(), key_pem: own.serialize_pem() }
}

async fn door() -> Door {
    let stage = Stage::new();
    fs::write(stage.path("bundle.json"), bundle("shop", "orders-db", &["ci"], "p").to_json()).unwrap();
    let least = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() - 10 * MINUTE;
    let roster = format!(
        "members:\n- {{namespace: ci, name: bot, groups: [bots], uid: {UID}, minNotBefore: {}}}\n",
        least.as_secs()
    );
    fs::write(stage.path("roster.yaml"), roster).unwrap();
    let running = start(stage.in_files()).await.unwrap();
    Door { stage, running }
}

const LET_IN: &str = "credential";
const TLS: &str = "TLS: ";

#[tokio::test(flavor = "multi_thread")]
async fn one_certificate_is_let_in_and_none_that_is_nearly_it() {
    let door = door().await;
    let good = door.leaf(|_| {});
    let first = door.told_of(&good).await;
    assert!(first.contains(LET_IN), "{first}");

    // Names.
    let other = "spiffe://cluster.local/ns/ci/agent/other";
    let names: &[(&[&str], &str)] = &[
        (&[BOT, other], "has 2 URI names"),
        (&[BOT, BOT], "has 2 URI names"),
        (&[], "has 0 URI names"),
        (&["spiffe://cluster.evil/ns/ci/agent/bot"], "of another trust domain"),
        (&["spiffe://cluster.local.evil/ns/ci/agent/bot"], "of another trust domain"),
        (&["SPIFFE://cluster.local/ns/ci/agent/bot"], "not of the form"),
        (&["spiffe://CLUSTER.LOCAL/ns/ci/agent/bot"], "not of the form"),
        (&["spiffe://cluster.local/ns/ci/agent/Bot"], "not of the form"),
        (&["spiffe://cluster.local/ns/ci/agent/bot/"], "not of the form"),
        (&["spiffe://cluster.local//ns/ci/agent/bot"], "not of the form"),
        (&["spiffe://cluster.local/ns/ci/agent/b%6ft"], "not of the form"),
        (&["spiffe://cluster.local/ns/x/../ci/agent/bot"], "not of the form"),
        (&["spiffe://cluster.local/ns/ci/agent/bot#x"], "not of the form"),
        (&["spiffe://bot@cluster.local/ns/ci/agent/bot"], "not of the form"),
        (&[other], "this identity is not known here"),
    ];
    for (uris, why) in names {
        let leaf = door.leaf(|leaf| leaf.uris = uris.iter().map(|&uri| uri.to_owned()).collect());
        let told = door.told_of(&leaf).await;
        assert!(told.contains(why) && !told.contains(LET_IN), "{uris:?}: {told}");
    }
    let common = door.leaf(|leaf| (leaf.uris, leaf.common_name) = (vec![], Some(BOT.to_owned())));
    let told = door.told_of(&common).await;
    assert!(told.contains("has 0 URI names"), "{told}");

    // The object and the time it was issued for.
    for uid in
        [None, Some(""), Some("0b6f6cf4-91a5-4e35-8ba9-0d2bd2b6d1d8"), Some("0B6F6CF4-91A5-4E35-8BA9-0D2BD2B6D1D7")]
    {
        let told = door.told_of(&door.leaf(|leaf| leaf.uid = uid.map(str::to_owned))).await;
        assert!(told.contains("revoked"), "{uid:?}: {told}");
    }
    let told = door.told_of(&door.leaf(|leaf| leaf.not_before = SystemTime::now() - 11 * MINUTE)).await;
    assert!(told.contains("revoked"), "{told}");

    // Usage, age, chain: TLS has the word.
    let fleets = door.leaf(|leaf| (leaf.client_auth, leaf.server_auth) = (false, true));
    let ended = door.leaf(|leaf| {
        (leaf.not_before, leaf.not_after) = (SystemTime::now() - 5 * MINUTE, SystemTime::now() - MINUTE);
    });
    for leaf in [&fleets, &ended] {
        let told = door.told_of(leaf).await;
        assert!(told.starts_with(TLS), "{told}");
    }
    let (root, root_key) = (door.stage.pki.ca_pem(), door.stage.pki.ca_key_pem());
    let below = signed(&root, &root_key, true, 10 * MINUTE);
    let of_below = signed(&below.cert_pem, &below.key_pem, false, 5 * MINUTE);
    let told = door.told(&[&of_below.cert_pem, &below.cert_pem], &of_below.key_pem).await;
    assert!(told.contains(LET_IN), "an intermediate: {told}");
    let over = signed(&root, &root_key, true, MINUTE / 2);
    let of_over = signed(&over.cert_pem, &over.key_pem, false, 5 * MINUTE);
    let deeper = signed(&below.cert_pem, &below.key_pem, true, 5 * MINUTE);
    let of_deeper = signed(&deeper.cert_pem, &deeper.key_pem, false, 5 * MINUTE);
    let of_leaf = signed(&good.cert_pem, &good.key_pem, false, 5 * MINUTE);
    let elsewhere = sallyport_harness::Pki::new("cluster.local").unwrap();
    let of_elsewhere = signed(&elsewhere.ca_pem(), &elsewhere.ca_key_pem(), false, 5 * MINUTE);
    let chains: &[(&str, &[&str], &str)] = &[
        ("an authority that has ended", &[&of_over.cert_pem, &over.cert_pem], &of_over.key_pem),
        ("its authority left out", &[&of_below.cert_pem], &of_below.key_pem),
        ("beyond the path length", &[&of_deeper.cert_pem, &deeper.cert_pem, &below.cert_pem], &of_deeper.key_pem),
        ("signed by a leaf", &[&of_leaf.cert_pem, &good.cert_pem], &of_leaf.key_pem),
        ("another root of the same name", &[&of_elsewhere.cert_pem, &elsewhere.ca_pem()], &of_elsewhere.key_pem),
        ("the wrong way round", &[&below.cert_pem, &of_below.cert_pem], &of_below.key_pem),
        ("somebody else's key", &[&good.cert_pem], &of_leaf.key_pem),
        ("the authority itself", &[&root], &root_key),
        ("no certificate", &[], &good.key_pem),
    ];
    for (what, chain, key) in chains {
        let told = door.told(chain, key).await;
        assert!(told.starts_with(TLS), "{what}: {told}");
    }
    // Five megabytes of authorities.
    let huge: Vec<_> = std::iter::once(good.cert_pem.as_str()).chain(vec![root.as_str(); 10_000]).collect();
    let told = door.told(&huge, &good.key_pem).await;
    assert!(told.starts_with(TLS), "{told}");

    assert_eq!(door.told_of(&good).await, first, "none of them is remembered");
    metric_becomes(&door.running, "sallyport_proxy_sessions_open 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_resumed_renegotiated_or_early() {
    let door = door().await;
    let good = door.leaf(|_| {});
    let chain = vec![der(&good.cert_pem)];
    let config = Arc::new(client(&door.stage, chain.clone(), &good.key_pem, &rustls::version::TLS13));
    for _ in 0..2 {
        let mut stream = connect(&door.running, Arc::clone(&config)).await.unwrap();
        // Whatever a server says after the handshake, a ticket would come before it.
        stream.write_all(&[0, 0, 0, 9, 0, 9, 0, 0, 0]).await.unwrap();
        let _answer = tokio::time::timeout(LONG, stream.read(&mut [0; 64])).await.unwrap();
        let tls = stream.get_ref().1;
        assert_eq!((tls.handshake_kind(), tls.tls13_tickets_received()), (Some(HandshakeKind::Full), 0));
        assert!(!tls.is_early_data_accepted());
    }
    // The protocol that has renegotiation, and tickets of the session before.
    let older = Arc::new(client(&door.stage, chain, &good.key_pem, &rustls::version::TLS12));
    let told = words(connect(&door.running, older).await).await;
    assert!(told.starts_with(TLS) && told.contains("ProtocolVersion"), "{told}");
}
