//! The admin port: health, readiness, metrics.
//!
//! Owns what is answered there. Touches its listening socket. Invariant: readiness names what is wanting,
//! and nothing here tells a secret or takes an order.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::doorway::Doorway;
use crate::edges::recordings::Recordings;

/// What the admin port reads.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) doorway: Arc<Doorway>,
    pub(crate) recordings: Arc<Recordings>,
    pub(crate) draining: watch::Receiver<bool>,
}

/// Answers until the process ends.
pub(crate) async fn serve(listener: TcpListener, admin: Admin) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readiness))
        .route("/metrics", get(metrics))
        .with_state(admin);
    axum::serve(listener, routes).await
}

async fn readiness(State(admin): State<Admin>) -> Response {
    let mut wanting = Vec::new();
    if *admin.draining.borrow() {
        wanting.push("draining: this replica is going away".to_owned());
    }
    wanting.extend(admin.doorway.wanting());
    // It may write to a disk.
    let recordings = Arc::clone(&admin.recordings);
    let checked = tokio::task::spawn_blocking(move || recordings.check()).await;
    wanting.extend(checked.unwrap_or_else(|error| Err(error.to_string())).err());
    if wanting.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, wanting.join("\n") + "\n").into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    match admin.doorway.metrics.print(admin.doorway.facts(SystemTime::now())) {
        Ok(text) => (kind, text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
