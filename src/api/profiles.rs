//! Profiles, and what they become for a machine.

use super::{Refusal, by::Ordered, machines::Body, router::Api};
use crate::model::wire::{ConfigView, ProfileView, SetProfile};
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};

/// Largest request that sets one: a document of 1 MiB, each of its bytes escaped.
pub const MAX_SET: usize = 8 << 20;

pub async fn list(State(api): State<Api>) -> Json<Vec<ProfileView>> {
    Json(api.provisioner().profiles())
}

pub async fn show(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<ProfileView>, Refusal> {
    Ok(Json(api.provisioner().profile(&name)?))
}

pub async fn set(
    Ordered(provisioner): Ordered,
    Path(name): Path<String>,
    Body(profile): Body<SetProfile>,
) -> Result<Json<ProfileView>, Refusal> {
    Ok(Json(provisioner.set_profile(&name, &profile.selector, &profile.document).await?))
}

pub async fn remove(Ordered(provisioner): Ordered, Path(name): Path<String>) -> Result<StatusCode, Refusal> {
    provisioner.remove_profile(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn of_machine(
    State(api): State<Api>,
    Path(key): Path<String>,
) -> Result<Json<ConfigView>, Refusal> {
    Ok(Json(api.provisioner().rendered(&key)?))
}
