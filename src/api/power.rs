//! Machines' power.

use super::{Refusal, by::Ordered, machines::Body, router::Api};
use crate::model::{
    Machine, Power,
    wire::{PowerCertificate, PowerOrder, PowerStatus},
};
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};

pub async fn status(State(api): State<Api>, Path(key): Path<String>) -> Result<Json<PowerStatus>, Refusal> {
    Ok(Json(api.provisioner().power_status(&key).await?))
}

pub async fn set(
    Ordered(provisioner): Ordered,
    Path(key): Path<String>,
    Body(power): Body<Power>,
) -> Result<Json<Machine>, Refusal> {
    Ok(Json(provisioner.set_power(&key, power).await?))
}

pub async fn act(
    Ordered(provisioner): Ordered,
    Path(key): Path<String>,
    Body(order): Body<PowerOrder>,
) -> Result<StatusCode, Refusal> {
    provisioner.power_act(&key, order.action).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn certificate(
    State(api): State<Api>,
    Path(key): Path<String>,
) -> Result<Json<PowerCertificate>, Refusal> {
    Ok(Json(api.provisioner().power_certificate(&key).await?))
}
