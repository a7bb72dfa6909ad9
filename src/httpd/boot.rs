use super::{
    Machines,
    body::{Delivery, Piece, PieceBody, Tell},
    router::{App, Conn, plain},
};
use crate::{
    netboot::ServerAddr,
    provisioner::{FileAnswer, ScriptQuery, TransferOutcome},
};
use axum::{
    Extension,
    body::Body,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use std::sync::Arc;

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
    let body = PieceBody::new(None, [Piece::Text(file)], conn, Some(tell));
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
