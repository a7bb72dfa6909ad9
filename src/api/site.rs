//! What is of the whole site: default, leases, images, status.

use super::{Refusal, by::Ordered, machines::Body, on_disk::on_disk, router::Api};
use crate::{
    model::{
        Lease,
        wire::{Assign, Assigned, ImageView, Status},
    },
    store::{ResolveError, images::Entry},
};
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use std::time::{SystemTime, UNIX_EPOCH};

const READING: &str = "reading the image store";

pub async fn default(State(api): State<Api>) -> Json<Assigned> {
    let assigned = api.provisioner().default_target();
    Json(assigned.map_or_else(Assigned::default, |p| Assigned { target: Some(p.target), image: p.image }))
}

pub async fn set_default(
    Ordered(provisioner): Ordered,
    Body(assign): Body<Assign>,
) -> Result<Json<Assigned>, Refusal> {
    let pinned = provisioner.set_default(Some(&assign.target)).await?;
    Ok(Json(pinned.map_or_else(Assigned::default, |p| Assigned { target: Some(p.target), image: p.image })))
}

pub async fn clear_default(Ordered(provisioner): Ordered) -> Result<StatusCode, Refusal> {
    provisioner.set_default(None).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn leases(State(api): State<Api>) -> Json<Vec<Lease>> {
    Json(api.provisioner().leases())
}

pub async fn images(State(api): State<Api>) -> Result<Json<Vec<ImageView>>, Refusal> {
    let store = api.images().clone();
    let entries = on_disk(READING, move || store.entries()).await??;
    Ok(Json(entries.into_iter().map(view).collect()))
}

pub async fn image(
    State(api): State<Api>,
    Path(reference): Path<String>,
) -> Result<Json<ImageView>, Refusal> {
    let store = api.images().clone();
    let found = on_disk(READING, move || -> Result<Option<Entry>, ResolveError> {
        let digest = store.resolve(&reference)?.digest;
        Ok(store.entries()?.into_iter().find(|e| e.digest == digest))
    })
    .await?;
    match found {
        Ok(Some(entry)) => Ok(Json(view(entry))),
        Ok(None) => Err(Refusal::new(StatusCode::NOT_FOUND, "this image was just removed")),
        Err(ResolveError::Store(e)) => Err(e.into()),
        Err(ResolveError::NotFound { reference, nearest }) => {
            Err(Refusal::new(StatusCode::NOT_FOUND, format!("there is no image `{reference}`"))
                .hint("see `pristine image list`")
                .nearest(nearest))
        }
        Err(e) => Err(Refusal::new(StatusCode::CONFLICT, e.to_string())),
    }
}

pub async fn status(State(api): State<Api>) -> Result<Json<Status>, Refusal> {
    status_of(&api).await.map(Json)
}

pub(super) async fn status_of(api: &Api) -> Result<Status, Refusal> {
    let of = api.clone();
    on_disk(READING, move || look(&of)).await
}

fn look(api: &Api) -> Status {
    let uptime = api.uptime();
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(uptime);
    let super::Others { mut counters, mut alarms } = api.others();
    alarms.extend(api.provisioner().alarms());
    counters.insert("provisioner".into(), json(&api.provisioner().stats()));
    counters.insert("api".into(), json(&**api.counters()));
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: i64::try_from(started.as_millis()).unwrap_or(i64::MAX),
        uptime_seconds: uptime.as_secs(),
        alarms,
        counters,
    }
}

fn json(value: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or(serde_json::Value::Null)
}

fn view(entry: Entry) -> ImageView {
    let (manifest, damage) = match entry.image {
        Ok(image) => (Some(image.manifest), None),
        Err(e) => (None, Some(e.to_string())),
    };
    let size = manifest.iter().flat_map(|m| m.blobs()).map(|b| b.size).sum();
    ImageView { digest: entry.digest, tags: entry.tags, manifest, size, damage }
}
