//! The admin port: health, readiness and metrics.
//!
//! Owns its three pages. Touches one listening socket. Invariant: it tells nothing about objects but numbers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use k8s_openapi::jiff::Timestamp;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::census;
use crate::clock::Clock;
use crate::controllers::Memory;
use crate::issue::Trust;
use crate::metrics::Metrics;
use crate::stores::Stores;

/// What the pages show.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) registry: Registry,
    pub(crate) metrics: Metrics,
    pub(crate) stores: Stores,
    /// The stores are filled.
    pub(crate) ready: AtomicBool,
    pub(crate) trust: Arc<Trust>,
    pub(crate) clock: Clock,
    pub(crate) memory: Arc<Memory>,
}

/// Serves until `stop`.
///
/// # Errors
/// When the address cannot be listened on.
pub(crate) async fn serve(address: SocketAddr, page: Arc<Page>, stop: CancellationToken) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    let routes = axum::Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readiness))
        .route("/metrics", get(metrics))
        .with_state(page);
    axum::serve(listener, routes).with_graceful_shutdown(async move { stop.cancelled().await }).await
}

async fn readiness(State(page): State<Arc<Page>>) -> impl IntoResponse {
    if page.ready.load(Ordering::Acquire) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the caches are not filled yet\n")
    }
}

async fn metrics(State(page): State<Arc<Page>>) -> impl IntoResponse {
    let now = page.clock.now();
    let left = |end: Timestamp| end.duration_since(now).as_secs_f64();
    page.metrics.authority_expiry.set(left(page.trust.current().not_after()));
    census::take(&page.stores, &page.memory, &page.metrics, now);
    let mut text = String::new();
    let kind = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    match prometheus_client::encoding::text::encode(&mut text, &page.registry) {
        Ok(()) => (StatusCode::OK, kind, text),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, kind, String::new()),
    }
}
