//! Selector rules.

use super::{Refusal, machines::Body, router::Api};
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
    State(api): State<Api>,
    Path(name): Path<String>,
    Body(rule): Body<SetRule>,
) -> Result<Json<RuleView>, Refusal> {
    Ok(Json(api.provisioner().set_rule(&name, &rule.selector, &rule.target).await?))
}

pub async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, Refusal> {
    api.provisioner().remove_rule(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
