use super::{
    Machines,
    admission::{Slot, Turn},
    body::{Piece, PieceBody, Proof},
    range::{Wanted, wanted},
    router::{App, Conn, plain},
};
use crate::{
    model::{AttemptId, Digest},
    store::BlobFile,
};
use axum::{
    Extension,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::Response,
};
use serde::Deserialize;
use std::{io, ops::Range, sync::Arc, time::Duration};
use tokio::task::spawn_blocking;

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// Longest that a request for a root is held until its turn comes.
const LONGEST_HOLD: Duration = Duration::from_secs(20);
/// Between parts: not in the parts, by all odds, and their lengths are stated anyway.
const BOUNDARY: &str = "pristine-6f1d0b7c92e84a35";

#[derive(Deserialize)]
pub(super) struct BlobQuery {
    /// Boot attempt that the blob is fetched for.
    #[serde(default)]
    boot: String,
}

/// `GET|HEAD /blobs/<hex>/<any name>`: loaders show the name, we don't care. `<boot>/<any name>` names the
/// boot attempt where the name's ending counts (see `netboot::cmdline`).
pub(super) async fn named_blob<M: Machines>(
    State(app): State<Arc<App<M>>>,
    conn: Extension<Conn>,
    Path((digest, name)): Path<(String, String)>,
    Query(mut query): Query<BlobQuery>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    if let Some((boot, _)) = name.split_once('/') {
        query.boot = boot.to_owned();
    }
    blob(State(app), conn, Path(digest), Query(query), method, headers).await
}

/// `GET|HEAD /blobs/<hex>`.
pub(super) async fn blob<M: Machines>(
    State(app): State<Arc<App<M>>>,
    Extension(conn): Extension<Conn>,
    Path(digest): Path<String>,
    Query(query): Query<BlobQuery>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let Ok(digest) = digest.parse::<Digest>() else {
        return plain(StatusCode::NOT_FOUND, "a blob is named by 64 hex digits, lower case\n");
    };
    let images = app.images.clone();
    let opened = match spawn_blocking(move || images.blob(digest)).await {
        Ok(Ok(Some(blob))) => blob,
        Ok(Ok(None)) => return plain(StatusCode::NOT_FOUND, "no image has this blob\n"),
        Ok(Err(error)) => {
            tracing::error!(peer = %conn.peer, %error, "blob not served");
            return plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("blob {digest} is damaged on the server\n"),
            );
        }
        Err(error) => {
            tracing::error!(peer = %conn.peer, %digest, %error, "blob not served");
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "the server failed\n");
        }
    };
    let boot = query.boot.parse::<AttemptId>().ok();
    let is_get = method == Method::GET;
    let slot = match turn(&app, boot.filter(|_| is_get), digest, &headers).await {
        Ok(slot) => slot,
        Err(seconds) => return later(seconds),
    };
    let etag = format!("\"{digest}\"");
    let wanted = wanted(&headers, &etag, opened.content.size(), is_get);
    let mut response = respond(app, conn, opened, wanted, is_get, boot, slot);
    // A refused range or condition is this request's; a cache must not keep it for the blob.
    let keep = response.status().is_success() || response.status() == StatusCode::NOT_MODIFIED;
    let fields = response.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        fields.insert(header::ETAG, etag);
    }
    fields.insert(header::CACHE_CONTROL, if keep { IMMUTABLE } else { HeaderValue::from_static("no-store") });
    fields.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

/// Begins to hash a blob that was not hashed yet, while it is being sent: one at a time, so that those who fetch
/// the same take one thread. Resolves to the error that ends the response.
fn proof_of<M: Machines>(app: &Arc<App<M>>, blob: &BlobFile) -> Option<Proof> {
    let prove = app.images.proof(blob)?;
    let (app, digest) = (Arc::clone(app), blob.digest);
    let proven = tokio::spawn(async move {
        let _one_at_a_time = app.proving.acquire().await;
        let wrong = match spawn_blocking(prove).await {
            Ok(Ok(None)) => return Ok(()),
            Ok(Ok(Some(wrong))) => wrong,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::error!(%digest, wrong, "blob not served to its end");
        Err(io::Error::new(io::ErrorKind::InvalidData, wrong))
    });
    Some(Box::pin(async move { proven.await.unwrap_or_else(|error| Err(io::Error::other(error))) }))
}

/// Waits for the turn of a client that says how long it is willing to (`Prefer: wait=5`, RFC 7240), where
/// the blob is the root of its boot. Others are served at once: the initramfs of a foreign image, which knows nothing
/// of turns, and pieces of a streamed root that a machine reads now. Turns are an order among those who keep it, for
/// the good of all, and no fence: what one client can take is bounded by its connections.
/// `Err`: seconds after which it should ask again.
async fn turn<M: Machines>(
    app: &App<M>,
    boot: Option<AttemptId>,
    digest: Digest,
    headers: &HeaderMap,
) -> Result<Option<Slot>, u32> {
    let (Some(boot), Some(hold)) = (boot, prefers_to_wait(headers)) else { return Ok(None) };
    let Some(rack) = app.machines.takes_turns(boot, digest) else { return Ok(None) };
    // An open end: it goes on with what broke off. A piece of a root that is streamed comes in its turn.
    let resumes = headers.get(header::RANGE).is_some_and(|range| range.as_bytes().ends_with(b"-"));
    match app.line.turn(boot, rack.as_deref(), resumes, hold.min(LONGEST_HOLD)).await {
        Turn::Now(slot) => Ok(Some(slot)),
        Turn::Later(seconds) => Err(seconds),
    }
}

fn prefers_to_wait(headers: &HeaderMap) -> Option<Duration> {
    let preferences = headers.get("prefer")?.to_str().ok()?;
    let wait = preferences.split(',').find_map(|one| one.trim().strip_prefix("wait="))?;
    wait.parse().ok().map(Duration::from_secs)
}

fn later(seconds: u32) -> Response {
    let text = format!("others fetch their root now: ask again after {seconds} s\n");
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, text);
    put(&mut response, header::RETRY_AFTER, &seconds.to_string());
    response
}

fn respond<M: Machines>(
    app: Arc<App<M>>,
    conn: Conn,
    blob: BlobFile,
    wanted: Wanted,
    is_get: bool,
    boot: Option<AttemptId>,
    slot: Option<Slot>,
) -> Response {
    let size = blob.content.size();
    let mut response = Response::new(Body::empty());
    let mut set = |status, kind: HeaderValue| {
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    };
    let pieces = match wanted {
        Wanted::NotModified => {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        Wanted::PreconditionFailed => {
            *response.status_mut() = StatusCode::PRECONDITION_FAILED;
            return response;
        }
        Wanted::Unsatisfiable => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            put(&mut response, header::CONTENT_RANGE, &format!("bytes */{size}"));
            return response;
        }
        Wanted::Whole => {
            set(StatusCode::OK, OCTETS);
            vec![Piece::Blob(0..size)]
        }
        Wanted::Parts(parts) => match <[Range<u64>; 1]>::try_from(parts) {
            Ok([part]) => {
                set(StatusCode::PARTIAL_CONTENT, OCTETS);
                put(&mut response, header::CONTENT_RANGE, &content_range(&part, size));
                vec![Piece::Blob(part)]
            }
            Err(parts) => {
                set(StatusCode::PARTIAL_CONTENT, HeaderValue::from_static(MULTIPART));
                multipart(parts, size)
            }
        },
    };
    let length: u64 = pieces.iter().map(Piece::len).sum();
    put(&mut response, header::CONTENT_LENGTH, &length.to_string());
    if !is_get {
        return response;
    }
    // Not even a client that trusts what it asks for takes a part for the whole, by whatever word it asked for that.
    // A piece from the middle begins nothing, and only what reaches the end of the blob makes it whole at the client.
    let (begins, reaches_end) = match pieces.as_slice() {
        [Piece::Blob(part)] => (part.start == 0, part.end == size),
        _ => (false, false),
    };
    let is_whole = begins && reaches_end;
    let proof = if is_whole { proof_of(&app, &blob) } else { None };
    let BlobFile { digest, content } = blob;
    let runtime = tokio::runtime::Handle::current();
    if let Some(boot) = boot.filter(|_| begins) {
        let app = Arc::clone(&app);
        runtime.spawn(async move { app.machines.blob_begun(boot, digest).await });
    }
    let tell = boot.map(|boot| {
        Box::new(move |delivery: super::body::Delivery| {
            drop(slot);
            // A piece of a root that is streamed tells that the boot goes on.
            let complete = reaches_end && delivery.complete;
            runtime.spawn(async move { app.machines.blob_fetched(boot, digest, complete).await });
        }) as super::body::Tell
    });
    *response.body_mut() = Body::new(PieceBody::new(Some(content), pieces, conn, tell).after(proof));
    response
}

/// Must name [`BOUNDARY`].
const MULTIPART: &str = "multipart/byteranges; boundary=pristine-6f1d0b7c92e84a35";

fn multipart(parts: Vec<Range<u64>>, size: u64) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(parts.len() * 2 + 1);
    for part in parts {
        let head = format!(
            "\r\n--{BOUNDARY}\r\nContent-Type: application/octet-stream\r\nContent-Range: {}\r\n\r\n",
            content_range(&part, size)
        );
        pieces.extend([Piece::Text(head.into()), Piece::Blob(part)]);
    }
    pieces.push(Piece::Text(format!("\r\n--{BOUNDARY}--\r\n").into()));
    pieces
}

fn content_range(part: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", part.start, part.end.saturating_sub(1))
}

fn put(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
