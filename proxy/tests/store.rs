//! Recordings on their way to an S3-compatible store that verifies signatures, behind TLS.
//!
//! Owns the proof that what is there is what was recorded. Touches temporary directories and loopback. The store is
//! somebody else's server (s3s), which answers a wrong signature as Amazon's does. Invariant under test: nothing is
//! removed here that is not there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod stage;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sallyport_core::ports::RecordSink as _;
use sallyport_core::record::{Event, Record};
use sallyport_harness::S3;
use sallyport_policy::{Bundle, Recording, RecordingLevel, Span, Store};
use sallyport_proxy::{Arguments, Config, Recordings, Running, VerifyArguments, start, verify};
use stage::{LONG, Stage, bundle, metric_becomes};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// A store behind TLS.
struct Shop {
    store: S3,
    port: u16,
}

impl Shop {
    async fn open(stage: &Stage) -> Self {
        let store = S3::start(KEY, SECRET, "records").unwrap();
        let leaf = stage.pki.server(&["localhost"]).unwrap();
        let chain = CertificateDer::pem_slice_iter(leaf.cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        let tls = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, behind) = (listener.local_addr().unwrap().port(), store.port());
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let tls = tls.clone();
                tokio::spawn(async move {
                    let mut stream = tls.accept(socket).await.unwrap();
                    let mut plain = TcpStream::connect(("127.0.0.1", behind)).await.unwrap();
                    let _hung_up = tokio::io::copy_bidirectional(&mut stream, &mut plain).await;
                });
            }
        });
        Self { store, port }
    }

    /// Where the target's recordings arrive.
    fn shelf(&self) -> PathBuf {
        self.store.directory().join("records/fleet/shop/orders-db")
    }

    fn described(&self) -> Store {
        Store {
            endpoint: format!("https://localhost:{}", self.port),
            region: "eu-central-1".to_owned(),
            bucket: "records".to_owned(),
            prefix: "fleet/shop/orders-db/".to_owned(),
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.ends_with(".zst"));
    names.sort();
    names
}

/// What a run before this one left: several files.
fn leave_recordings(directory: &Path) {
    let recordings = Recordings::within(directory, "orders-db-0", UNIX_EPOCH, (700, u64::MAX));
    for sequence in 0..6 {
        let event = Event::Close { reason: "the client left" };
        let (session, agent, serial, target) = ("0001", "spiffe://t/a", "01", "shop/orders-db");
        recordings.append(&Record { time: UNIX_EPOCH, session, sequence, agent, serial, target, event }).unwrap();
    }
}

/// A proxy that keeps nothing it need not keep, with that secret for the store.
async fn proxy(stage: &Stage, store: Store, secret: &str) -> Running {
    let retention = Span { bytes: Some(0), seconds: None };
    let recording = Recording { retention, store: Some(store), ..Recording::at(RecordingLevel::Commands) };
    let bundle = Bundle { recording, ..bundle("shop", "orders-db", &["ci"], "p") }.sealed();
    fs::write(stage.path("bundle.json"), bundle.to_json()).unwrap();
    fs::write(stage.path("roster.yaml"), "members:\n- {namespace: ci, name: bot, groups: [bots]}\n").unwrap();
    fs::create_dir_all(stage.path("store/credential")).unwrap();
    fs::write(stage.path("store/credential/username"), KEY).unwrap();
    fs::write(stage.path("store/credential/password"), secret).unwrap();
    let text = |name: &str| Some(stage.path(name).to_str().unwrap().to_owned());
    let arguments = Arguments {
        bundle: text("bundle.json"),
        roster: text("roster.yaml"),
        store_dir: text("store"),
        store_ca: text("tls/ca.crt"),
        ..stage.arguments()
    };
    start(Config::resolve(arguments).unwrap()).await.unwrap()
}

async fn becomes(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_is_closed_is_copied_and_only_then_removed() {
    let stage = Stage::new();
    let shop = Shop::open(&stage).await;
    leave_recordings(&stage.path("records"));
    let closed = fs::read_dir(stage.path("records")).unwrap().count();
    let running = proxy(&stage, shop.described(), "not the secret").await;
    metric_becomes(&running, &format!("sallyport_proxy_recordings_waiting {closed}")).await;
    assert_eq!(names(&shop.shelf()), Vec::<String>::new(), "a wrong signature is refused by the store");
    assert_eq!(names(&stage.path("records")).len(), closed, "what the store does not have stays");

    // A secret that is rotated counts at once; the store is tried again after a pause.
    fs::write(stage.path("store/credential/password"), SECRET).unwrap();
    becomes("nothing arrives", || names(&shop.shelf()).len() >= closed).await;
    metric_becomes(&running, "sallyport_proxy_recordings_waiting 0").await;
    // It is the whole of them, and a proof by itself.
    let arguments = VerifyArguments { records_dir: shop.shelf(), anchor: None };
    assert!(verify(&arguments).unwrap());
    becomes("nothing is removed", || names(&stage.path("records")).is_empty()).await;

    // What this run has recorded (that it removes files) comes as well when it ends.
    let before = names(&shop.shelf()).len();
    running.until(async {}).await.unwrap();
    assert_eq!(names(&shop.shelf()).len(), before + 1, "the last file was closed and copied");
    assert!(verify(&VerifyArguments { records_dir: shop.shelf(), anchor: None }).unwrap());
    // And what is left here says why it begins where it does.
    assert!(verify(&VerifyArguments { records_dir: stage.path("records"), anchor: None }).unwrap());
}

#[tokio::test]
async fn what_is_in_the_store_is_never_overwritten() {
    let stage = Stage::new();
    let shop = Shop::open(&stage).await;
    leave_recordings(&stage.path("records"));
    fs::create_dir_all(shop.shelf()).unwrap();
    let first = shop.shelf().join("orders-db-0-19700101T000000Z-0.jsonl.zst");
    fs::write(&first, "another history").unwrap();
    let running = proxy(&stage, shop.described(), SECRET).await;
    becomes("it is never compressed", || !names(&stage.path("records")).is_empty()).await;
    running.until(async {}).await.unwrap();
    assert_eq!(fs::read_to_string(&first).unwrap(), "another history");
    assert!(stage.path("records/orders-db-0-19700101T000000Z-0.jsonl.zst").exists(), "and ours is not removed");
}
