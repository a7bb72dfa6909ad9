//! Machines and their pins.

use super::{Refusal, by::Ordered, router::Api};
use crate::{
    model::{BootAttempt, Machine, wire::Assign},
    provisioner::{Explanation, MachinePatch},
};
use axum::{
    Json,
    extract::{FromRequest, Path, Query, Request, State, rejection::JsonRejection},
    http::StatusCode,
};
use serde::{Deserialize, de::DeserializeOwned};

#[derive(Deserialize)]
pub struct Which {
    /// A selector.
    select: Option<String>,
    /// With what they are made of: some kilobytes each.
    #[serde(default)]
    facts: bool,
}

pub async fn list(State(api): State<Api>, Query(which): Query<Which>) -> Result<Json<Vec<Machine>>, Refusal> {
    let mut machines = match which.select {
        Some(selector) => api.provisioner().selected(&selector)?,
        None => api.provisioner().machines(),
    };
    if !which.facts {
        machines.iter_mut().for_each(|machine| machine.facts = None);
    }
    Ok(Json(machines))
}

pub async fn show(State(api): State<Api>, Path(key): Path<String>) -> Result<Json<Machine>, Refusal> {
    Ok(Json(api.provisioner().machine(&key)?))
}

pub async fn change(
    Ordered(provisioner): Ordered,
    Path(key): Path<String>,
    Body(patch): Body<MachinePatch>,
) -> Result<Json<Machine>, Refusal> {
    Ok(Json(provisioner.set_machine(&key, patch).await?))
}

pub async fn forget(Ordered(provisioner): Ordered, Path(key): Path<String>) -> Result<StatusCode, Refusal> {
    provisioner.forget(&key).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn pin(
    Ordered(provisioner): Ordered,
    Path(key): Path<String>,
    Body(assign): Body<Assign>,
) -> Result<Json<Explanation>, Refusal> {
    Ok(Json(provisioner.pin(&key, &assign.target).await?))
}

pub async fn unpin(
    Ordered(provisioner): Ordered,
    Path(key): Path<String>,
) -> Result<Json<Explanation>, Refusal> {
    Ok(Json(provisioner.unpin(&key).await?))
}

pub async fn retry(
    Ordered(provisioner): Ordered,
    Path(key): Path<String>,
) -> Result<Json<Explanation>, Refusal> {
    Ok(Json(provisioner.retry(&key).await?))
}

pub async fn explain(State(api): State<Api>, Path(key): Path<String>) -> Result<Json<Explanation>, Refusal> {
    Ok(Json(api.provisioner().explain(&key)?))
}

/// An attempt as the API shows it: without the hash of its token.
pub(super) fn shown(mut attempt: BootAttempt) -> BootAttempt {
    attempt.token_hash = None;
    attempt
}

/// A JSON body; what is wrong with it is said as every other refusal is.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, Refusal> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(value)) => Ok(Body(value)),
            Err(rejection) => {
                let text = rejection.body_text();
                let hint = match &rejection {
                    JsonRejection::MissingJsonContentType(_) => "send Content-Type: application/json",
                    _ => "docs/api.md shows the body of each request",
                };
                Err(Refusal::new(rejection.status(), text).hint(hint))
            }
        }
    }
}
