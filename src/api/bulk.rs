//! Many things at once: rows of machines, and documents of a site.

use super::{Refusal, by::Ordered, machines::Body, router::Api};
use crate::{
    fleet::{ApplyOrder, Exported, ImportOrder},
    model::wire::Changes,
};
use axum::{
    Json,
    extract::{FromRequestParts, State},
    http::request::Parts,
};
use tokio::sync::OwnedSemaphorePermit;

/// Largest body: 100,000 machines with some labels each.
pub const MAX_BODY: usize = 64 << 20;
/// Such bodies that are in memory at once; more wait.
pub const AT_ONCE: usize = 2;

/// The leave to read such a body. Stands before the body among a handler's arguments.
pub struct Place(#[allow(dead_code)] OwnedSemaphorePermit);

impl FromRequestParts<Api> for Place {
    type Rejection = Refusal;

    async fn from_request_parts(_: &mut Parts, api: &Api) -> Result<Place, Refusal> {
        let closed = |_| Refusal::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, "the service is stopping");
        api.bulk_places().acquire_owned().await.map(Place).map_err(closed)
    }
}

pub async fn import(
    Ordered(provisioner): Ordered,
    _place: Place,
    Body(order): Body<ImportOrder>,
) -> Result<Json<Changes>, Refusal> {
    Ok(Json(provisioner.import_machines(order).await?))
}

pub async fn apply(
    Ordered(provisioner): Ordered,
    _place: Place,
    Body(order): Body<ApplyOrder>,
) -> Result<Json<Changes>, Refusal> {
    Ok(Json(provisioner.apply(order).await?))
}

pub async fn export(State(api): State<Api>) -> Result<Json<Exported>, Refusal> {
    Ok(Json(api.provisioner().export().await?))
}
