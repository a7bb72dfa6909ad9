//! What machines say in their boots, each request with its boot's token.

use super::{
    Machines,
    router::{App, Conn, plain},
};
use crate::{
    model::Mac,
    provisioner::{ConfigError, Order, ReportError},
};
use axum::{
    Extension, Json,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use http_body_util::{BodyExt as _, Limited};
use serde::{Deserialize, de::DeserializeOwned};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};

/// Longest report, in bytes.
const MAX_REPORT: usize = 4096;
/// Longest facts, in bytes: some hundred disks.
const MAX_FACTS: usize = 128 << 10;
/// Longest that a question for orders is held.
const HOLD: Duration = Duration::from_secs(20);
/// Between two looks at what a machine that waits is assigned. Each costs as much as a boot script.
const LOOK: Duration = Duration::from_secs(1);

/// `POST /boot/report`: a stage that the machine reached.
pub(super) async fn report<M: Machines>(
    State(app): State<Arc<App<M>>>,
    Extension(conn): Extension<Conn>,
    request: Request,
) -> Response {
    let how = r#"{"stage":"init|network|rootfs|verified|configured|switch_root|healthy","detail":"..."} or {"failed":"reason"}"#;
    match said(&app, &conn, request, MAX_REPORT, how).await {
        Ok((token, report)) => taken(&conn, app.machines.report(&token, report).await),
        Err(refusal) => refusal,
    }
}

/// `POST /boot/facts`: what the machine is made of.
pub(super) async fn facts<M: Machines>(
    State(app): State<Arc<App<M>>>,
    Extension(conn): Extension<Conn>,
    request: Request,
) -> Response {
    match said(&app, &conn, request, MAX_FACTS, "facts as docs/boot-on-the-wire.md shows them").await {
        Ok((token, facts)) => taken(&conn, app.machines.facts(&token, facts).await),
        Err(refusal) => refusal,
    }
}

/// What a machine says with its question.
#[derive(Deserialize)]
struct Asks {
    /// The NIC that it uses.
    #[serde(default)]
    mac: Option<Mac>,
}

/// `POST /boot/orders`: what a machine that waits is to do. Answered when there is something, at the latest after
/// [`HOLD`]. Held requests have a bounded number of connections, so that those that boot never lack one.
pub(super) async fn orders<M: Machines>(
    State(app): State<Arc<App<M>>>,
    Extension(conn): Extension<Conn>,
    request: Request,
) -> Response {
    let (token, asks) = match said::<M, Asks>(&app, &conn, request, MAX_REPORT, r#"{"mac":"..."}"#).await {
        Ok(said) => said,
        Err(refusal) => return refusal,
    };
    let Ok(_seat) = app.seats.try_acquire() else { return later("too many machines wait: ask again\n") };
    let until = Instant::now() + HOLD;
    let mut stop = app.stop.clone();
    loop {
        match app.machines.orders(conn.server, conn.peer, &token, asks.mac).await {
            Err(error) => return taken(&conn, Err(error)),
            Ok(Order::Wait { .. }) if Instant::now() < until => {}
            Ok(order) => return ([(header::CACHE_CONTROL, "no-store")], Json(order)).into_response(),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = stop.wait_for(|stop| *stop) => return later("the service is restarting: ask again\n"),
        }
    }
}

fn later(text: &'static str) -> Response {
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, text);
    response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("30"));
    response
}

/// `POST /boot/config`: the machine's configuration, `{"nonce":"<32 hex digits>"}`.
pub(super) async fn config<M: Machines>(
    State(app): State<Arc<App<M>>>,
    Extension(conn): Extension<Conn>,
    request: Request,
) -> Response {
    let (token, query) = match said(&app, &conn, request, MAX_REPORT, r#"{"nonce":"<32 hex digits>"}"#).await
    {
        Ok(asked) => asked,
        Err(refusal) => return refusal,
    };
    match app.machines.config(&token, conn.peer, query).await {
        Ok(config) => {
            let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
            (headers, config).into_response()
        }
        Err(error) => {
            let status = match &error {
                ConfigError::UnknownToken | ConfigError::DeadToken(_) => StatusCode::UNAUTHORIZED,
                ConfigError::NotItsAddress(_) => StatusCode::FORBIDDEN,
                ConfigError::BadNonce => StatusCode::BAD_REQUEST,
                ConfigError::Taken | ConfigError::Changed(_) | ConfigError::Secrets(_) => {
                    StatusCode::CONFLICT
                }
                ConfigError::NotSaved(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            tracing::debug!(peer = %conn.peer, %error, "no configuration given out");
            plain(status, format!("{error}\n"))
        }
    }
}

/// The token and the body of a request, within its bounds; or the answer that says what is wrong.
async fn said<M: Machines, T: DeserializeOwned>(
    app: &App<M>,
    conn: &Conn,
    request: Request,
    most: usize,
    how: &str,
) -> Result<(String, T), Response> {
    if !app.reports.allows(conn.peer, Instant::now()) {
        let mut response = plain(StatusCode::TOO_MANY_REQUESTS, "too many reports: wait a second\n");
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        return Err(response);
    }
    let Some(token) = bearer(request.headers()).map(str::to_owned) else {
        let mut response =
            plain(StatusCode::UNAUTHORIZED, "Authorization: Bearer <token of this boot> is needed\n");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        return Err(response);
    };
    let body = Limited::new(request.into_body(), most);
    let bytes = match timeout(app.body_time, body.collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(plain(StatusCode::PAYLOAD_TOO_LARGE, format!("this has at most {most} bytes\n")));
        }
        Ok(Err(error)) => return Err(plain(StatusCode::BAD_REQUEST, format!("it broke off: {error}\n"))),
        Err(_) => return Err(plain(StatusCode::REQUEST_TIMEOUT, "it came too slowly\n")),
    };
    match serde_json::from_slice(&bytes) {
        Ok(body) => Ok((token, body)),
        Err(error) => {
            Err(plain(StatusCode::BAD_REQUEST, format!("this can't be understood ({error}): send {how}\n")))
        }
    }
}

fn taken(conn: &Conn, outcome: Result<(), ReportError>) -> Response {
    let Err(error) = outcome else { return StatusCode::NO_CONTENT.into_response() };
    let status = match &error {
        ReportError::UnknownToken | ReportError::DeadToken(_) => StatusCode::UNAUTHORIZED,
        ReportError::Already => StatusCode::CONFLICT,
        ReportError::NotReportable(_) => StatusCode::BAD_REQUEST,
        ReportError::NotSaved(_) | ReportError::NoRandomness(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    tracing::debug!(peer = %conn.peer, %error, "refused what a machine reports");
    plain(status, format!("{error}\n"))
}

/// The token of `Authorization: Bearer <token>`; at most 256 bytes.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    let fits = scheme.eq_ignore_ascii_case("bearer") && (1..=256).contains(&token.len());
    fits.then_some(token)
}
