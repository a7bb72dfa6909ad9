//! Rollouts.

use super::{Refusal, by::Ordered, machines::Body, router::Api};
use crate::model::wire::{RolloutOrder, RolloutView, StartRollout};
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};

pub async fn list(State(api): State<Api>) -> Json<Vec<RolloutView>> {
    Json(api.provisioner().rollouts())
}

pub async fn start(
    Ordered(provisioner): Ordered,
    Body(order): Body<StartRollout>,
) -> Result<(StatusCode, Json<RolloutView>), Refusal> {
    Ok((StatusCode::CREATED, Json(provisioner.start_rollout(order).await?)))
}

pub async fn show(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<RolloutView>, Refusal> {
    Ok(Json(api.provisioner().rollout(&name)?))
}

pub async fn order(
    Ordered(provisioner): Ordered,
    Path(name): Path<String>,
    Body(order): Body<RolloutOrder>,
) -> Result<Json<RolloutView>, Refusal> {
    Ok(Json(provisioner.order_rollout(&name, order).await?))
}

pub async fn remove(Ordered(provisioner): Ordered, Path(name): Path<String>) -> Result<StatusCode, Refusal> {
    provisioner.remove_rollout(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
