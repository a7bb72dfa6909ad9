//! Images that are pushed to this site: begin, chunks, commit. Bodies are larger than elsewhere and take
//! longer, so few are in work at once.

use super::{Refusal, on_disk::on_disk, router::Api};
use crate::{
    image::{
        progress::Silent,
        transfer::{TransferError, inventory::MAX_INVENTORY, uploads::Uploads},
    },
    model::{
        Digest,
        wire::{UploadBegun, UploadDone, UploadTaken, ranges},
    },
    store::{ResolveError, StoreError, signatures::KeepError},
};
use axum::{
    Json,
    extract::{Path, Query, Request, State},
    http::StatusCode,
};
use serde::Deserialize;
use std::{
    io,
    time::{Duration, SystemTime},
};

const WORKING: &str = "working on the upload";
/// Largest body of chunks.
const MAX_CHUNKS: usize = 16 << 20;
/// Bodies of uploads that are in memory at once.
pub const AT_ONCE: usize = 8;
/// Longest that a body of chunks may take.
pub const LONGEST_BODY: Duration = Duration::from_secs(300);
/// Longest that a commit may take: all of the image is read and written.
pub const LONGEST_COMMIT: Duration = Duration::from_secs(3600);

/// What may be asked for with an upload.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// Let the tag point to this image where it points to another.
    #[serde(default)]
    move_tag: bool,
}

pub async fn begin(
    State(api): State<Api>,
    Query(wish): Query<Wish>,
    request: Request,
) -> Result<Json<UploadBegun>, Refusal> {
    let begun = with_body(&api, request, MAX_INVENTORY as usize, move |uploads, body| {
        uploads.begin(body, wish.move_tag, SystemTime::now())
    })
    .await?;
    let missing = ranges(&begun.missing);
    Ok(Json(UploadBegun { image: begun.image, existed: begun.existed, missing, bytes: begun.bytes }))
}

pub async fn take(
    State(api): State<Api>,
    Path(image): Path<String>,
    request: Request,
) -> Result<Json<UploadTaken>, Refusal> {
    let image = digest(&image)?;
    let chunks = with_body(&api, request, MAX_CHUNKS, move |uploads, body| {
        uploads.take(image, body, SystemTime::now())
    });
    Ok(Json(UploadTaken { chunks: chunks.await? }))
}

pub async fn commit(
    State(api): State<Api>,
    Path(image): Path<String>,
    Query(wish): Query<Wish>,
) -> Result<Json<UploadDone>, Refusal> {
    let image = digest(&image)?;
    let uploads = api.uploads().clone();
    let stored = on_disk(WORKING, move || uploads.commit(image, wish.move_tag, &Silent)).await??;
    let done = stored.published;
    tracing::info!(image = %done.digest, existed = done.existed, "an image was pushed");
    Ok(Json(UploadDone {
        image: done.digest,
        existed: done.existed,
        moved_from: done.moved_from,
        signatures: stored.signatures,
    }))
}

fn digest(text: &str) -> Result<Digest, Refusal> {
    text.parse()
        .map_err(|_| Refusal::new(StatusCode::NOT_FOUND, format!("`{text}` is no digest of an image")))
}

/// Reads a body of up to `limit` bytes, and works on it. The token is checked by then; memory is bounded by
/// the number at once.
async fn with_body<T: Send + 'static>(
    api: &Api,
    request: Request,
    limit: usize,
    work: impl FnOnce(&Uploads, &[u8]) -> Result<T, TransferError> + Send + 'static,
) -> Result<T, Refusal> {
    let ended = |_| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the service ends");
    let _place = api.upload_places().acquire().await.map_err(ended)?;
    let body = axum::body::to_bytes(request.into_body(), limit).await.map_err(|e| {
        let too_long =
            std::error::Error::source(&e).is_some_and(|s| s.is::<http_body_util::LengthLimitError>());
        match too_long {
            true => {
                Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {limit} bytes"))
            }
            false => Refusal::new(StatusCode::BAD_REQUEST, "the body broke off"),
        }
    })?;
    let uploads = api.uploads().clone();
    Ok(on_disk(WORKING, move || work(&uploads, &body)).await??)
}

fn is_full(error: &StoreError) -> bool {
    let full = [
        io::ErrorKind::StorageFull,
        io::ErrorKind::QuotaExceeded,
        io::ErrorKind::FileTooLarge,
        io::ErrorKind::ReadOnlyFilesystem,
    ];
    match error {
        StoreError::NoRoom { .. } => true,
        StoreError::Io { source, .. } => full.contains(&source.kind()),
        _ => false,
    }
}

impl From<TransferError> for Refusal {
    fn from(error: TransferError) -> Refusal {
        let text = error.to_string();
        match error {
            TransferError::Missing(chunks) => {
                let mut refusal = Refusal::new(StatusCode::CONFLICT, text);
                refusal.body.missing = ranges(&chunks);
                refusal
            }
            TransferError::Store(StoreError::TagTaken { .. }) => Refusal::new(StatusCode::CONFLICT, text),
            TransferError::Unasked(_) => Refusal::new(StatusCode::CONFLICT, text),
            TransferError::NoUpload(_) => Refusal::new(StatusCode::NOT_FOUND, text),
            TransferError::Busy(_) => Refusal::new(StatusCode::INSUFFICIENT_STORAGE, text),
            TransferError::Io { ref source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Refusal::new(StatusCode::INSUFFICIENT_STORAGE, text)
            }
            TransferError::Store(ref e) | TransferError::Keep(KeepError::Store(ref e)) if is_full(e) => {
                Refusal::new(StatusCode::INSUFFICIENT_STORAGE, text)
            }
            TransferError::Store(e) | TransferError::Keep(KeepError::Store(e)) => e.into(),
            TransferError::Resolve(ResolveError::Store(e)) => e.into(),
            TransferError::Io { .. } | TransferError::Keep(_) | TransferError::Resolve(_) => {
                tracing::error!(error = %text, "an upload failed");
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text)
            }
            TransferError::Damaged { .. }
            | TransferError::Inventory(_)
            | TransferError::Cmdline(_)
            | TransferError::Unproven { .. }
            | TransferError::NotArchive { .. }
            | TransferError::Length { .. }
            | TransferError::Lacks { .. } => Refusal::new(StatusCode::BAD_REQUEST, text),
        }
    }
}
