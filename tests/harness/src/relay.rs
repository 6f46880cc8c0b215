//! A way to an API server that does to every request what a test says: what networks and tired API servers do.
//! It listens on loopback and passes on what is to pass, judged as the user of the client it was given.
//! What it did is noted, in order; nothing is invented but errors, and lists that it has seen before.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use http::{Method, StatusCode, header};
use kube::Client;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::kubeconfig;

/// No object of a test is larger.
const LARGEST: usize = 4 * 1024 * 1024;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It passes, and so does its answer.
    Pass,
    /// It is answered with this status, unseen by the API server.
    Refused(u16),
    /// It is answered with what is no JSON.
    Garbage,
    /// It passes, and the connection is cut before the answer.
    AnswerLost,
    /// It is never answered.
    Silence,
    /// A watch that is taken up and ends; any other request passes.
    EndsAtOnce,
    /// A watch whose version is too old; any other request passes.
    Gone,
    /// A list of that path as it was when it was last passed on; passes until there is one.
    Stale,
}

/// One request, and what became of it.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: Method,
    /// Path and query.
    pub path: String,
    pub fate: Fate,
    /// The API server's status, or that of the answer in its place; none where there was no answer.
    pub status: Option<u16>,
}

impl Call {
    pub fn is_watch(&self) -> bool {
        is_watch(&self.path)
    }
}

type Judge = dyn Fn(&Method, &str) -> Fate + Send + Sync;

struct Inner {
    client: Client,
    judge: Box<Judge>,
    calls: Mutex<Vec<Call>>,
    lists: Mutex<HashMap<String, Bytes>>,
}

/// The way.
pub struct Relay {
    address: SocketAddr,
    inner: Arc<Inner>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Relay {
    /// One to the API server of `client`; `judge` is asked for the fate of each request.
    pub async fn start(client: Client, judge: impl Fn(&Method, &str) -> Fate + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (calls, lists) = (Mutex::default(), Mutex::default());
        let inner = Arc::new(Inner { client, judge: Box::new(judge), calls, lists });
        let router = axum::Router::new().fallback(pass).with_state(Arc::clone(&inner));
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::warn!(%error, "the relay has ended");
            }
        });
        Ok(Self { address, inner, task })
    }

    /// A client that goes this way.
    pub fn client(&self) -> Result<Client> {
        kubeconfig::install_crypto();
        let mut config = kube::Config::new(format!("http://{}", self.address).parse()?);
        config.default_retry = false;
        Ok(Client::try_from(config)?)
    }

    /// Writes a kubeconfig that goes this way.
    pub fn kubeconfig(&self, path: &Path) -> Result<()> {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "relay",
            "clusters": [{ "name": "relay", "cluster": { "server": format!("http://{}", self.address) } }],
            "users": [{ "name": "relay", "user": {} }],
            "contexts": [{ "name": "relay", "context": { "cluster": "relay", "user": "relay" } }],
        });
        std::fs::write(path, config.to_string()).with_context(|| format!("cannot write {}", path.display()))
    }

    /// What came so far, in the order of the answers.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.inner.calls).clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(State(relay): State<Arc<Inner>>, request: Request) -> Result<Response, Infallible> {
    let method = request.method().clone();
    let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let fate = (relay.judge)(&method, &path);
    let answer = answer(&relay, fate, &path, request).await;
    let status = answer.as_ref().map(|answer| answer.status().as_u16());
    lock(&relay.calls).push(Call { method, path, fate, status });
    Ok(answer.unwrap_or_else(cut))
}

async fn answer(relay: &Inner, fate: Fate, path: &str, request: Request) -> Option<Response> {
    match fate {
        Fate::Refused(code) => Some(refused(code)),
        Fate::Garbage => Some(Response::new(Body::from("<html>bad gateway, or so"))),
        Fate::Silence => std::future::pending().await,
        Fate::EndsAtOnce if is_watch(path) => Some(Response::new(Body::empty())),
        Fate::Gone if is_watch(path) => {
            let event = json!({"type": "ERROR", "object": status(410, "Expired")});
            Some(Response::new(Body::from(format!("{event}\n"))))
        }
        Fate::AnswerLost => {
            let passed = forward(relay, request).await?;
            // The API server has done it by then.
            let _done = to_bytes(passed.into_body(), LARGEST).await;
            None
        }
        Fate::Stale if is_list(request.method(), path) => {
            let known = lock(&relay.lists).get(path).cloned();
            match known {
                Some(known) => Some(Response::new(Body::from(known))),
                None => listed(relay, path, request).await,
            }
        }
        _ if is_list(request.method(), path) => listed(relay, path, request).await,
        _ => forward(relay, request).await,
    }
}

/// Remembers the last answer of a path.
async fn listed(relay: &Inner, path: &str, request: Request) -> Option<Response> {
    let (head, body) = forward(relay, request).await?.into_parts();
    let body = to_bytes(body, LARGEST).await.ok()?;
    if head.status.is_success() {
        lock(&relay.lists).insert(path.to_owned(), body.clone());
    }
    Some(Response::from_parts(head, Body::from(body)))
}

async fn forward(relay: &Inner, request: Request) -> Option<Response> {
    let (mut head, body) = request.into_parts();
    for hop in [header::HOST, header::CONNECTION, header::ACCEPT_ENCODING, header::CONTENT_LENGTH] {
        head.headers.remove(hop);
    }
    let body = to_bytes(body, LARGEST).await.ok()?;
    let passed = relay.client.send(http::Request::from_parts(head, kube::client::Body::from(body.to_vec()))).await;
    passed.ok().map(|answer| {
        let mut answer = answer.map(Body::new);
        // Those are of the connection that it came by.
        for hop in [header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH] {
            answer.headers_mut().remove(hop);
        }
        answer
    })
}

fn refused(code: u16) -> Response {
    let mut answer = Response::new(Body::from(status(code, "Unwell").to_string()));
    *answer.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer
}

fn status(code: u16, reason: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "code": code, "reason": reason,
           "message": "the test says so"})
}

/// A body that never comes: the connection is closed in the middle of the answer.
fn cut() -> Response {
    let broken = std::iter::once(Err::<Bytes, _>(std::io::Error::other("cut")));
    Response::new(Body::from_stream(futures::stream::iter(broken)))
}

/// One object is asked for without a question mark.
fn is_list(method: &Method, path: &str) -> bool {
    *method == Method::GET && path.contains('?') && !is_watch(path)
}

fn is_watch(path: &str) -> bool {
    path.split(['?', '&']).any(|part| part == "watch=true")
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
