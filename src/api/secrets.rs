//! Secrets: set, listed, removed. No route gives a value back.

use super::{Refusal, by::Ordered, router::Api};
use crate::model::{Secret, wire::SecretView};
use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
};

pub async fn list(State(api): State<Api>) -> Json<Vec<SecretView>> {
    Json(api.provisioner().secrets())
}

pub async fn set(
    Ordered(provisioner): Ordered,
    Path(name): Path<String>,
    value: Bytes,
) -> Result<Json<SecretView>, Refusal> {
    Ok(Json(provisioner.set_secret(&name, Secret::new(value.into())).await?))
}

pub async fn remove(Ordered(provisioner): Ordered, Path(name): Path<String>) -> Result<StatusCode, Refusal> {
    provisioner.remove_secret(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
