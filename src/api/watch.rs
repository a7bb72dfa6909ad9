//! The live stream of boot attempts: newline-delimited JSON, one whole attempt a line. First those
//! that are running, then each one anew whenever it makes a step; an empty line every
//! [`HEARTBEAT`], so that both sides notice when the other is gone.

use super::{machines::shown, router::Api, server::told_to_end};
use crate::model::{BootAttempt, Verdict};
use axum::{
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use std::{collections::VecDeque, convert::Infallible, time::Duration};
use tokio::sync::{broadcast, watch};

/// Longest silence of the stream.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Attempts of the past that are looked at for running ones.
const LOOK_BACK: usize = super::boots::MAX_LIMIT;

struct Live {
    first: VecDeque<BootAttempt>,
    events: broadcast::Receiver<BootAttempt>,
    shutdown: watch::Receiver<bool>,
}

pub async fn watch(State(api): State<Api>) -> Response {
    // Subscribed before the look at what runs: a step in between is told twice, never lost.
    let events = api.provisioner().watch();
    let mut first: VecDeque<BootAttempt> = api.provisioner().attempts(None, LOOK_BACK).into();
    first.retain(|a| a.verdict == Verdict::Running);
    first.make_contiguous().reverse();
    let live = Live { first, events, shutdown: api.shutdown() };
    let lines = stream::unfold(live, |mut live| async move {
        let line = live.next().await?;
        Some((Ok::<_, Infallible>(line), live))
    });
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(lines)).into_response()
}

impl Live {
    /// The next line; `None` when the service ends.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(attempt) = self.first.pop_front() {
                return Some(line(attempt));
            }
            tokio::select! {
                biased;
                () = told_to_end(&mut self.shutdown) => return None,
                event = self.events.recv() => match event {
                    Ok(attempt) => return Some(line(attempt)),
                    // A reader too slow for what happens: what it missed is in `boots`, and each line
                    // is a whole attempt, so later lines tell most of it again.
                    Err(broadcast::error::RecvError::Lagged(_)) => continue,
                    Err(broadcast::error::RecvError::Closed) => return None,
                },
                () = tokio::time::sleep(HEARTBEAT) => return Some(Bytes::from_static(b"\n")),
            }
        }
    }
}

fn line(attempt: BootAttempt) -> Bytes {
    let mut bytes = serde_json::to_vec(&shown(attempt)).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}
