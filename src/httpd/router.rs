use super::{Line, Machines, blobs, boot, guard::ConnState, rate::Rate, report, seats::Busy, signatures};
use crate::{netboot::ServerAddr, store::ImageStore};
use axum::{
    Router,
    extract::Request,
    http::{StatusCode, Uri, header, uri::PathAndQuery},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use std::{net::Ipv4Addr, sync::Arc, time::Duration};
use tokio::sync::{Semaphore, watch};

/// What every handler shares.
pub(super) struct App<M> {
    pub(super) machines: M,
    pub(super) images: ImageStore,
    pub(super) line: Line,
    pub(super) reports: Rate,
    pub(super) body_time: Duration,
    /// Machines whose question for orders may be held at once.
    pub(super) seats: Semaphore,
    /// Who hashes a blob that is being sent.
    pub(super) proving: Semaphore,
    pub(super) stop: watch::Receiver<bool>,
}

/// Who asks, and over what. In each request's extensions.
#[derive(Clone, Debug)]
pub(super) struct Conn {
    pub(super) peer: Ipv4Addr,
    /// The address that was asked: every URL that is answered names it.
    pub(super) server: ServerAddr,
    pub(super) state: Arc<ConnState>,
    /// Until the answer has gone out.
    pub(super) busy: Arc<Busy>,
}

/// Every route that machines have.
pub(super) fn router<M: Machines>(app: Arc<App<M>>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/boot/script", get(boot::script))
        .route("/boot/report", post(report::report))
        .route("/boot/facts", post(report::facts))
        .route("/boot/orders", post(report::orders))
        .route("/boot/config", post(report::config))
        .route("/blobs/{digest}", get(blobs::blob))
        .route("/blobs/{digest}/{*name}", get(blobs::named_blob))
        .route("/images/{digest}/signatures", get(signatures::signatures))
        .route("/nbp/{*name}", get(boot::nbp))
        .fallback(not_found)
        .with_state(app)
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn not_found() -> Response {
    plain(StatusCode::NOT_FOUND, "nothing here\n")
}

/// A short text that nobody keeps.
pub(super) fn plain(status: StatusCode, text: impl Into<String>) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, text.into()).into_response()
}

/// A path with `//` is that with `/`: firmware and scripts that join URLs carelessly still boot.
pub(super) fn tidy<B>(request: &mut Request<B>) {
    let uri = request.uri();
    if !uri.path().contains("//") {
        return;
    }
    let mut path = String::with_capacity(uri.path().len());
    for c in uri.path().chars() {
        if c != '/' || !path.ends_with('/') {
            path.push(c);
        }
    }
    if let Some(query) = uri.query() {
        path.push('?');
        path.push_str(query);
    }
    if let Ok(path) = PathAndQuery::try_from(path) {
        *request.uri_mut() = Uri::from(path);
    }
}
