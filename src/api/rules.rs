//! Selector rules.

use super::{Refusal, by::Ordered, machines::Body, router::Api};
use crate::model::wire::{RuleView, SetRule};
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};

pub async fn list(State(api): State<Api>) -> Json<Vec<RuleView>> {
    Json(api.provisioner().rules())
}

pub async fn set(
    Ordered(provisioner): Ordered,
    Path(name): Path<String>,
    Body(rule): Body<SetRule>,
) -> Result<Json<RuleView>, Refusal> {
    Ok(Json(provisioner.set_rule(&name, &rule.selector, &rule.target).await?))
}

pub async fn remove(Ordered(provisioner): Ordered, Path(name): Path<String>) -> Result<StatusCode, Refusal> {
    provisioner.remove_rule(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
