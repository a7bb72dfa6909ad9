//! Rollouts.

use super::{Refusal, machines::Body, router::Api};
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
    State(api): State<Api>,
    Body(order): Body<StartRollout>,
) -> Result<(StatusCode, Json<RolloutView>), Refusal> {
    Ok((StatusCode::CREATED, Json(api.provisioner().start_rollout(order).await?)))
}

pub async fn show(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<RolloutView>, Refusal> {
    Ok(Json(api.provisioner().rollout(&name)?))
}

pub async fn order(
    State(api): State<Api>,
    Path(name): Path<String>,
    Body(order): Body<RolloutOrder>,
) -> Result<Json<RolloutView>, Refusal> {
    Ok(Json(api.provisioner().order_rollout(&name, order).await?))
}

pub async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, Refusal> {
    api.provisioner().remove_rollout(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
