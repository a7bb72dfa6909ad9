//! Boot attempts, newest first.

use super::{Refusal, machines::shown, router::Api};
use crate::model::{AttemptId, BootAttempt};
use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use serde::Deserialize;

/// Attempts that are shown where the request names no limit.
const DEFAULT_LIMIT: usize = 100;
/// Most attempts in one answer.
pub const MAX_LIMIT: usize = 10_000;

/// `?limit=`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    limit: Option<usize>,
}

impl Page {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT)
    }
}

type PageQuery = Result<Query<Page>, axum::extract::rejection::QueryRejection>;

fn page(query: PageQuery) -> Result<Page, Refusal> {
    query.map(|Query(page)| page).map_err(|e| {
        Refusal::new(StatusCode::BAD_REQUEST, e.body_text()).hint(format!("?limit=1 to {MAX_LIMIT}"))
    })
}

pub async fn list(State(api): State<Api>, query: PageQuery) -> Result<Json<Vec<BootAttempt>>, Refusal> {
    let limit = page(query)?.limit();
    Ok(Json(api.provisioner().attempts(None, limit).into_iter().map(shown).collect()))
}

pub async fn of_machine(
    State(api): State<Api>,
    Path(key): Path<String>,
    query: PageQuery,
) -> Result<Json<Vec<BootAttempt>>, Refusal> {
    let limit = page(query)?.limit();
    let mac = api.provisioner().machine(&key)?.mac;
    Ok(Json(api.provisioner().attempts(Some(mac), limit).into_iter().map(shown).collect()))
}

pub async fn show(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<BootAttempt>, Refusal> {
    let wanted: AttemptId = id.parse().map_err(|words: &str| Refusal::new(StatusCode::BAD_REQUEST, words))?;
    let found = api.provisioner().attempt(wanted);
    let gone = || {
        Refusal::new(StatusCode::NOT_FOUND, format!("no boot {wanted} on record"))
            .hint("see `pristine boots`; old boots make room for new ones")
    };
    found.map(shown).map(Json).ok_or_else(gone)
}
