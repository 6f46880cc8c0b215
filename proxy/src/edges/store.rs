//! An S3-compatible store, to which closed recordings are copied.
//!
//! Owns the two requests that takes. Touches the network, the store's credential and the file that is sent. Invariants:
//! what is in the store is never overwritten; a file counts as kept when the store has said so for exactly its bytes;
//! every request has a deadline; no error names more of the credential than its file.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use sallyport_core::ports::{BoxedIo, Dialer as _, Vault as _};
use sallyport_policy::{Store, TlsMode, Upstream};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::signature::{Signer, encoded, hex};
use super::vault::DirectoryVault;
use crate::upstream::TcpDialer;

mod signature;

/// For a request without a body, and for what one with a body takes beside the bytes.
const ANSWER: Duration = Duration::from_secs(30);
/// A store that takes fewer bytes a second is no store.
const SLOWEST: u64 = 64 * 1024;
/// Bytes of an answer that are read, for its error code.
const TOLD: usize = 16 * 1024;
/// Bytes that are sent at a time.
const PIECE: usize = 64 * 1024;
/// The name under which the credential is mounted.
const CREDENTIAL: &str = "credential";
/// The hash of nothing.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Where a store's credential and trust anchors are.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    /// Holds `credential/username` and `credential/password`: the access key's id and its secret.
    pub(crate) directory: PathBuf,
    /// Trust anchors; by default those of the system.
    pub(crate) ca: Option<PathBuf>,
}

/// A store as a bundle describes it.
pub(crate) struct ObjectStore {
    store: Store,
    to: Upstream,
    dialer: TcpDialer,
    vault: DirectoryVault,
}

/// A file's length and SHA-256.
struct Digested {
    bytes: u64,
    hash: [u8; 32],
}

impl ObjectStore {
    /// The store, or why it cannot be used.
    pub(crate) fn new(store: &Store, access: &Access) -> Result<Self, String> {
        let (tls, rest) = match (store.endpoint.strip_prefix("https://"), store.endpoint.strip_prefix("http://")) {
            (Some(rest), _) => (TlsMode::VerifyFull, rest),
            (None, Some(rest)) => (TlsMode::Disable, rest),
            (None, None) => return Err(format!("the store's endpoint {} is no URL", store.endpoint)),
        };
        let by_default = if tls == TlsMode::Disable { 80 } else { 443 };
        let address: http::uri::Authority = rest
            .trim_end_matches('/')
            .parse()
            .map_err(|_| format!("the store's endpoint {} is no URL", store.endpoint))?;
        let to = Upstream {
            protocol: "s3".to_owned(),
            host: address.host().trim_matches(['[', ']']).to_owned(),
            port: address.port_u16().unwrap_or(by_default),
            tls,
            server_name: None,
            credentials: Vec::new(),
            settings: serde_json::Map::new(),
        };
        let dialer = TcpDialer::new(access.ca.clone())?;
        Ok(Self { store: store.clone(), to, dialer, vault: DirectoryVault::new(&access.directory) })
    }

    /// What it was made from.
    pub(crate) const fn described(&self) -> &Store {
        &self.store
    }

    /// Takes up new trust anchors.
    pub(crate) fn refresh(&self) -> Result<(), String> {
        self.dialer.refresh()
    }

    /// Brings a file into the store under that name, unless it is there.
    pub(crate) async fn keep(&self, file: &Path, name: &str) -> Result<(), String> {
        let path = file.to_owned();
        let digested = tokio::task::spawn_blocking(move || digest(&path)).await.map_err(|error| error.to_string())?;
        let digested = digested.map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
        let told = |cause: String| format!("{}/{}: {name}: {cause}", self.store.endpoint, self.store.bucket);
        let answer = self.ask("HEAD", name, None, ANSWER).await.map_err(told)?;
        match answer.status() {
            StatusCode::OK if has(&answer, &digested) => return Ok(()),
            StatusCode::OK => {
                return Err(told("something else of that name is in the store: it is not touched".into()));
            }
            // Who may write and not list is told "forbidden" of what is not there.
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => {}
            other => return Err(told(format!("asked for, the store answers {other}"))),
        }
        let patience = ANSWER + Duration::from_secs(digested.bytes / SLOWEST);
        let answer = self.ask("PUT", name, Some((file, &digested)), patience).await.map_err(told)?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let words = Limited::new(answer.into_body(), TOLD).collect();
        let words = timeout(ANSWER, words).await.ok().and_then(Result::ok).map(|body| body.to_bytes());
        let code = words.as_deref().and_then(code).unwrap_or_default();
        Err(told(format!("sent, the store answers {status} {code}")))
    }

    async fn ask(
        &self,
        method: &str,
        name: &str,
        send: Option<(&Path, &Digested)>,
        patience: Duration,
    ) -> Result<Response<Incoming>, String> {
        let request = self.request(method, name, send).await?;
        let answered = async {
            let io = self.connected().await?;
            let broken = |error: hyper::Error| format!("the connection broke: {error}");
            let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(broken)?;
            let mut driver = JoinSet::new();
            driver.spawn(connection);
            let answer = sender.send_request(request).await.map_err(broken)?;
            // The rest of a short answer is read as far as it has come; it ends with the connection.
            driver.detach_all();
            Ok(answer)
        };
        timeout(patience, answered).await.unwrap_or_else(|_| Err(format!("no answer within {patience:?}")))
    }

    async fn connected(&self) -> Result<BoxedIo, String> {
        let io = self.dialer.dial(&self.to).await.map_err(|error| format!("it cannot be reached: {error}"))?;
        let Some(tls) = self.dialer.tls(&self.to)? else { return Ok(io) };
        let connector = tokio_rustls::TlsConnector::from(tls.config);
        let stream = connector.connect(tls.server_name, io).await.map_err(|error| format!("tls: {error}"))?;
        Ok(Box::new(stream))
    }

    async fn request(
        &self,
        method: &str,
        name: &str,
        send: Option<(&Path, &Digested)>,
    ) -> Result<Request<Body>, String> {
        let credential = self.vault.credential(CREDENTIAL)?;
        let time = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let path = encoded(&format!("/{}/{}{name}", self.store.bucket, self.store.prefix));
        let host = self.store.endpoint.split_once("://").map_or("", |(_, host)| host.trim_end_matches('/'));
        let hash = send.map_or_else(|| EMPTY.to_owned(), |(_, digested)| hex(&digested.hash));
        let mut headers = vec![
            ("host".to_owned(), host.to_owned()),
            ("x-amz-content-sha256".to_owned(), hash.clone()),
            ("x-amz-date".to_owned(), time.clone()),
        ];
        if let Some((_, digested)) = send {
            headers.push(("content-length".to_owned(), digested.bytes.to_string()));
            headers.push(("x-amz-meta-sha256".to_owned(), hash.clone()));
        }
        let signer = Signer {
            access_key_id: &credential.username,
            secret_access_key: &credential.password,
            region: &self.store.region,
            time: &time,
        };
        headers.push(("authorization".to_owned(), signer.authorization(method, &path, &headers, &hash)));
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let body = match send {
            None => Empty::new().map_err(|never| match never {}).boxed_unsync(),
            Some((file, digested)) => sent(file, digested.bytes).await?,
        };
        request.body(body).map_err(|error| error.to_string())
    }
}

/// Whether the store has exactly this.
fn has(answer: &Response<Incoming>, digested: &Digested) -> bool {
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
    header("content-length") == Some(&digested.bytes.to_string())
        && header("x-amz-meta-sha256") == Some(&hex(&digested.hash))
}

/// `<Code>` of an error, if it is a word.
fn code(words: &[u8]) -> Option<String> {
    let words = std::str::from_utf8(words).ok()?;
    let (code, _) = words.split_once("<Code>")?.1.split_once("</Code>")?;
    (code.len() <= 64 && code.chars().all(|character| character.is_ascii_alphanumeric())).then(|| code.to_owned())
}

async fn sent(path: &Path, bytes: u64) -> Result<Body, String> {
    let file = tokio::fs::File::open(path).await;
    let file = file.map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let pieces = stream::try_unfold(file.take(bytes), |mut file| async move {
        let mut piece = vec![0; PIECE];
        let count = file.read(&mut piece).await?;
        piece.truncate(count);
        Ok::<_, io::Error>((count > 0).then(|| (Frame::data(Bytes::from(piece)), file)))
    });
    Ok(StreamBody::new(pieces).boxed_unsync())
}

fn digest(path: &Path) -> io::Result<Digested> {
    let mut file = File::open(path)?;
    let (mut hash, mut bytes, mut piece) = (Sha256::new(), 0_u64, vec![0; PIECE]);
    loop {
        let count = file.read(&mut piece)?;
        if count == 0 {
            return Ok(Digested { bytes, hash: hash.finalize().into() });
        }
        hash.update(piece.get(..count).unwrap_or_default());
        bytes = bytes.saturating_add(count as u64);
    }
}
