//! The audit log.

use super::{Refusal, on_disk::on_disk, router::Api};
use crate::{
    model::{
        Millis,
        audit::{AuditEntry, LogVerified},
    },
    store::db::{AuditLog, DbError, LogQuery},
};
use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
};
use serde::Deserialize;

/// Records that are shown where the request names no limit.
const DEFAULT_LIMIT: usize = 100;
/// Most records in one answer.
const MAX_LIMIT: usize = 10_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    machine: Option<String>,
    since: Option<Millis>,
    before: Option<u64>,
    after: Option<u64>,
    limit: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Noted {
    head: Option<String>,
}

pub async fn list(
    State(api): State<Api>,
    query: Result<Query<Page>, QueryRejection>,
) -> Result<Json<Vec<AuditEntry>>, Refusal> {
    let page = asked(query, "?machine=, since=, before= or after=, limit=")?;
    if page.before.is_some() && page.after.is_some() {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "before= and after= exclude each other"));
    }
    let query = LogQuery {
        machine: page.machine.map(|key| api.provisioner().mac_of(&key)).transpose()?,
        since: page.since,
        before: page.before,
        after: page.after,
        limit: page.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT),
    };
    read(&api, move |log| log.page(&query)).await.map(Json)
}

pub async fn verify(
    State(api): State<Api>,
    query: Result<Query<Noted>, QueryRejection>,
) -> Result<Json<LogVerified>, Refusal> {
    let noted = asked(query, "?head=")?.head.map(|head| head.parse()).transpose();
    let noted =
        noted.map_err(|words: String| Refusal::new(StatusCode::BAD_REQUEST, format!("head=: {words}")))?;
    read(&api, move |log| log.verify(noted)).await.map(Json)
}

fn asked<T>(query: Result<Query<T>, QueryRejection>, allowed: &str) -> Result<T, Refusal> {
    query
        .map(|Query(asked)| asked)
        .map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, e.body_text()).hint(allowed.to_owned()))
}

async fn read<T: Send + 'static>(
    api: &Api,
    read: impl FnOnce(&AuditLog) -> Result<T, DbError> + Send + 'static,
) -> Result<T, Refusal> {
    let log = api.provisioner().audit_log();
    on_disk("reading the audit log", move || read(&log)).await?.map_err(|error| {
        tracing::error!(%error, "the audit log can't be read");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
            .hint("`pristine log --verify` looks at the whole log")
    })
}
