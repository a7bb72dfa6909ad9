use super::{
    Machines,
    body::{Delivery, Piece, PieceBody, Tell},
    router::{App, Conn, plain},
};
use crate::{
    netboot::ServerAddr,
    provisioner::{FileAnswer, Report, ReportError, ScriptQuery, TransferOutcome},
};
use axum::{
    Extension,
    body::Body,
    extract::{Path, Query, Request, State, rejection::QueryRejection},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use http_body_util::{BodyExt as _, Limited};
use std::sync::Arc;
use tokio::time::{Instant, timeout};

/// Longest report, in bytes.
const MAX_REPORT: usize = 4096;

/// `GET /boot/script`: always 200, for iPXE throws away what an error says. Where there is no
/// script, there is one that shows why and asks again.
pub(super) async fn script<M: Machines>(
    State(app): State<Arc<App<M>>>,
    Extension(conn): Extension<Conn>,
    query: Result<Query<ScriptQuery>, QueryRejection>,
) -> Response {
    let script = match query {
        Ok(Query(query)) => {
            app.machines.script(conn.server, conn.peer, query).await.map_err(|e| e.to_string())
        }
        Err(rejection) => Err(rejection.body_text()),
    };
    let script = script.unwrap_or_else(|why| {
        tracing::warn!(peer = %conn.peer, why, "no boot script; the machine's console says so");
        no_script(&conn.server, &why)
    });
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    (headers, script).into_response()
}

/// Shows `why` on the machine's console and starts over, by way of `autoexec.ipxe`.
fn no_script(server: &ServerAddr, why: &str) -> String {
    // What iPXE gives a meaning goes: `${}`, `#`, `\`, `&&`, `||`, `;` and line ends.
    let harmless = |c: &char| c.is_ascii_alphanumeric() || " .,:_()'`/=+-?".contains(*c);
    let why: String = why.chars().filter(harmless).take(300).collect();
    let base = server.base_url();
    format!(
        "#!ipxe\n\
         # Made by Pristine: there is no boot script for this request.\n\
         echo\n\
         echo ==================== PRISTINE: NO BOOT SCRIPT ====================\n\
         echo Why: {why}\n\
         echo Server: {base}\n\
         echo This machine asks again in 30 seconds.\n\
         :again\n\
         sleep 30\n\
         chain --autofree --replace {base}/nbp/autoexec.ipxe ||\n\
         echo Could not ask {base}: ${{errno}}\n\
         goto again\n"
    )
}

/// `GET|HEAD /nbp/<file>`: what TFTP serves, for UEFI HTTP Boot. OVMF asks HEAD, then GET, on one
/// connection, and needs Content-Length.
pub(super) async fn nbp<M: Machines>(
    State(app): State<Arc<App<M>>>,
    Extension(conn): Extension<Conn>,
    Path(name): Path<String>,
    method: Method,
) -> Response {
    let file = match app.machines.file(conn.server, conn.peer, &name).await {
        FileAnswer::Found(file) => file,
        FileAnswer::NotFound => return plain(StatusCode::NOT_FOUND, "no such boot program\n"),
        FileAnswer::Refused(why) => return plain(StatusCode::FORBIDDEN, format!("{why}\n")),
    };
    let headers = [
        (header::CONTENT_TYPE, content_type(&name).to_owned()),
        (header::CONTENT_LENGTH, file.len().to_string()),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
    ];
    let (peer, size) = (conn.peer, file.len() as u64);
    if method == Method::HEAD {
        app.machines.file_done(peer, &name, TransferOutcome::Probe).await;
        return (headers, Body::empty()).into_response();
    }
    let runtime = tokio::runtime::Handle::current();
    let tell: Tell = Box::new(move |Delivery { complete, bytes }| {
        let outcome = if complete {
            TransferOutcome::Complete { bytes: size }
        } else {
            TransferOutcome::Aborted { at: bytes.min(size), why: "the HTTP connection ended".to_owned() }
        };
        let told = async move { app.machines.file_done(peer, &name, outcome).await };
        runtime.spawn(told);
    });
    let body = PieceBody::new(None, [Piece::Text(file)], conn.state, Some(tell));
    (headers, Body::new(body)).into_response()
}

/// EDK2 goes by these, and by the suffix where it knows none.
fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("efi") => "application/efi",
        Some("iso") => "application/vnd.efi-iso",
        Some("img") => "application/vnd.efi-img",
        Some("ipxe" | "cfg" | "txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// `POST /boot/report`: a stage that the machine reached, with its boot's token.
pub(super) async fn report<M: Machines>(
    State(app): State<Arc<App<M>>>,
    Extension(conn): Extension<Conn>,
    headers: HeaderMap,
    request: Request,
) -> Response {
    if !app.reports.allows(conn.peer, Instant::now()) {
        let mut response = plain(StatusCode::TOO_MANY_REQUESTS, "too many reports: wait a second\n");
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        return response;
    }
    let Some(token) = bearer(&headers) else {
        let mut response =
            plain(StatusCode::UNAUTHORIZED, "Authorization: Bearer <token of this boot> is needed\n");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        return response;
    };
    let body = Limited::new(request.into_body(), MAX_REPORT);
    let bytes = match timeout(app.body_time, body.collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return plain(StatusCode::PAYLOAD_TOO_LARGE, "a report has at most 4096 bytes\n");
        }
        Ok(Err(error)) => return plain(StatusCode::BAD_REQUEST, format!("the report broke off: {error}\n")),
        Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "the report came too slowly\n"),
    };
    let report: Report = match serde_json::from_slice(&bytes) {
        Ok(report) => report,
        Err(error) => {
            let how = r#"{"stage":"init|network|rootfs|verified|switch_root|healthy","detail":"..."} or {"failed":"reason"}"#;
            return plain(StatusCode::BAD_REQUEST, format!("no report ({error}): send {how}\n"));
        }
    };
    match app.machines.report(token, report).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => {
            let status = match &error {
                ReportError::UnknownToken | ReportError::DeadToken(_) => StatusCode::UNAUTHORIZED,
                ReportError::Already => StatusCode::CONFLICT,
                ReportError::NotReportable(_) => StatusCode::BAD_REQUEST,
                ReportError::NotSaved(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            tracing::debug!(peer = %conn.peer, %error, "report refused");
            plain(status, format!("{error}\n"))
        }
    }
}

/// The token of `Authorization: Bearer <token>`; at most 256 bytes.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    let fits = scheme.eq_ignore_ascii_case("bearer") && (1..=256).contains(&token.len());
    fits.then_some(token)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn the_reason_is_shown_and_runs_nothing() {
        let server = ServerAddr { ip: Ipv4Addr::new(198, 18, 0, 1), http_port: 8080 };
        let script = no_script(&server, "bad ${net0/mac}\nshell || reboot && ; # \\x: say `x`");
        assert!(script.contains("echo Why: bad net0/macshell  reboot    x: say `x`\n"), "{script}");
        assert!(script.contains("http://198.18.0.1:8080/nbp/autoexec.ipxe"), "{script}");
    }
}
