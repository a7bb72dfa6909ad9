//! Who may ask: whoever has the token. Guessing is slowed down by address.

use super::{Refusal, router::Api};
use axum::{
    extract::{ConnectInfo, Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Mutex,
    time::{Duration, Instant},
};

/// Bad tokens that one address may offer within [`WINDOW`] before it is told to wait.
pub const BAD_TOKENS: u32 = 10;
const WINDOW: Duration = Duration::from_secs(1);
/// Addresses of which bad tokens are counted; a loopback listener sees a handful.
const ADDRESSES: usize = 1_024;

/// Bad tokens by address.
#[derive(Debug, Default)]
pub struct BadTokens(Mutex<HashMap<IpAddr, (Instant, u32)>>);

impl BadTokens {
    /// Whether that address must wait.
    fn must_wait(&self, from: IpAddr, now: Instant) -> bool {
        let table = self.0.lock().unwrap_or_else(|e| e.into_inner());
        table.get(&from).is_some_and(|(since, n)| now.duration_since(*since) < WINDOW && *n >= BAD_TOKENS)
    }

    fn count(&self, from: IpAddr, now: Instant) {
        let mut table = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if table.len() >= ADDRESSES && !table.contains_key(&from) {
            table.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
            if table.len() >= ADDRESSES {
                return;
            }
        }
        let entry = table.entry(from).or_insert((now, 0));
        if now.duration_since(entry.0) >= WINDOW {
            *entry = (now, 0);
        }
        entry.1 = entry.1.saturating_add(1);
    }
}

/// Lets a request through that carries the token. While an address must wait, the right token is
/// refused as well: an answer would tell a guesser that it was right.
pub async fn require_token(State(api): State<Api>, request: Request, next: Next) -> Response {
    let from = request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .map_or(IpAddr::from([0, 0, 0, 0]), |ConnectInfo(addr)| addr.ip());
    let now = Instant::now();
    if api.bad_tokens().must_wait(from, now) {
        let mut response = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many wrong tokens")
            .hint("wait a second, and look at --token-file")
            .into_response();
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        return response;
    }
    let offered = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let offered = offered.and_then(|v| {
        let (scheme, token) = v.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    if offered.is_some_and(|token| api.token().matches(token)) {
        return next.run(request).await;
    }
    api.counters().refused_token();
    if offered.is_some() {
        api.bad_tokens().count(from, now);
    }
    let words = if offered.is_some() { "wrong API token" } else { "no API token" };
    let mut response = Refusal::new(StatusCode::UNAUTHORIZED, words)
        .hint("send `Authorization: Bearer <token>` with the token from the service's token file (<state>/api-token)")
        .into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    #[test]
    fn guessing_is_slowed_by_address_and_the_table_stays_small() {
        let bad = BadTokens::default();
        let start = Instant::now();
        let guesser = IpAddr::from([198, 18, 0, 9]);
        for _ in 0..BAD_TOKENS {
            assert!(!bad.must_wait(guesser, start));
            bad.count(guesser, start);
        }
        assert!(bad.must_wait(guesser, start));
        assert!(!bad.must_wait(IpAddr::from([198, 18, 0, 10]), start));
        assert!(!bad.must_wait(guesser, start + WINDOW));
        for n in 0..5_000u32 {
            bad.count(IpAddr::from(n.to_be_bytes()), start);
        }
        assert!(bad.0.lock().unwrap().len() <= ADDRESSES);
        bad.count(IpAddr::from([9, 9, 9, 9]), start + WINDOW);
        assert_eq!(bad.0.lock().unwrap().len(), 1, "old entries make room");
    }
}
