use super::{
    Machines,
    router::{App, Conn, plain},
};
use crate::model::Digest;
use axum::{
    Extension,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// `GET /images/<hex>/signatures`: the image's signature files, one behind the other; nothing where it has
/// none. For an `init` that carries keys: who asks decides whom it believes.
pub(super) async fn signatures<M: Machines>(
    State(app): State<Arc<App<M>>>,
    Extension(conn): Extension<Conn>,
    Path(digest): Path<String>,
) -> Response {
    let Ok(digest) = digest.parse::<Digest>() else {
        return plain(StatusCode::NOT_FOUND, "an image is named by 64 hex digits, lower case\n");
    };
    let images = app.images.clone();
    let found = spawn_blocking(move || match images.get(digest)? {
        Some(_) => images.signatures(digest).map(Some),
        None => Ok(None),
    });
    match found.await {
        Ok(Ok(Some(signatures))) => {
            let text: String = signatures.iter().map(ToString::to_string).collect();
            let headers =
                [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
            (headers, text).into_response()
        }
        Ok(Ok(None)) => plain(StatusCode::NOT_FOUND, "no such image\n"),
        Ok(Err(error)) => {
            tracing::error!(peer = %conn.peer, %error, "signatures not served");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "the image's signatures can't be read on the server\n")
        }
        Err(error) => {
            tracing::error!(peer = %conn.peer, %digest, %error, "signatures not served");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "the server failed\n")
        }
    }
}
