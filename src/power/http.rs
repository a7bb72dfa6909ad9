//! One request to a BMC: a connection of its own, proven by the pin before a word is sent, bounded in
//! time and size. Redirects are never followed.

use super::{Credentials, PowerError, error::tidy, pin::Pinned};
use crate::model::Digest;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, Uri, body::Incoming, client::conn::http1, header, header::HeaderValue,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use zeroize::Zeroizing;

/// Longest wait for a connection, TLS included; old BMCs take seconds for a handshake.
const CONNECT: Duration = Duration::from_secs(15);
/// Longest wait for a whole answer.
const ANSWER: Duration = Duration::from_secs(25);
/// Largest body of an answer.
const MAX_BODY: usize = 1 << 20;
/// Largest head of an answer.
const MAX_HEAD: usize = 32 << 10;
const MAX_HEADERS: usize = 100;

/// Where a BMC listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// As it was written.
    pub url: String,
    pub tls: bool,
    pub host: String,
    pub port: u16,
}

impl Origin {
    /// Reads `https://HOST` or `http://HOST`, with `:PORT` where it isn't the usual one.
    pub fn parse(url: &str) -> Result<Origin, PowerError> {
        let bad = || {
            PowerError::Settings(format!(
                "`{}` can't be the URL of a BMC: write scheme, host and port, as in https://10.0.7.1 or https://bmc-7:8443",
                tidy(url)
            ))
        };
        let trimmed = url.strip_suffix('/').unwrap_or(url);
        let uri: Uri = trimmed.parse().map_err(|_| bad())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad()),
        };
        let authority = uri.authority().ok_or_else(bad)?;
        let plain = uri.path() == "/" && uri.query().is_none() && !trimmed.ends_with('/');
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if !plain || authority.as_str().contains('@') || host.is_empty() || trimmed.len() > 256 {
            return Err(bad());
        }
        let port = match authority.port() {
            Some(port) => port.as_str().parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(bad)?,
            None if tls => 443,
            None => 80,
        };
        Ok(Origin { url: trimmed.to_owned(), tls, host: host.to_owned(), port })
    }

    fn broken(&self, why: impl ToString) -> PowerError {
        PowerError::Connection { url: self.url.clone(), why: tidy(&why.to_string()) }
    }

    pub fn nonsense(&self, why: impl Into<String>) -> PowerError {
        PowerError::Nonsense { url: self.url.clone(), why: why.into() }
    }

    async fn connect(&self) -> Result<TcpStream, PowerError> {
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        connecting.await.map_err(|e| self.broken(e))
    }
}

/// What a BMC answered with success.
#[derive(Debug)]
pub(super) struct Answer {
    /// `ETag`, to be given back with a change.
    pub etag: Option<HeaderValue>,
    /// Its JSON; null where there is no body.
    pub body: Value,
}

/// A BMC as it is asked: where, by which certificate, by whom.
#[derive(Debug)]
pub(super) struct Session<'a> {
    pub origin: Origin,
    pub pin: Option<Digest>,
    pub credentials: &'a Credentials,
}

impl Session<'_> {
    /// Sends one request. A body makes it a change, which carries `etag` as its condition.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        etag: Option<&HeaderValue>,
    ) -> Result<Answer, PowerError> {
        let what = format!("{method} {path}");
        let request = self.request(method, path, body, etag)?;
        let answered = async {
            let stream = timeout(CONNECT, self.stream()).await;
            let stream = stream.map_err(|_| PowerError::Late(CONNECT))??;
            timeout(ANSWER, exchange(stream, request)).await.map_err(|_| PowerError::Late(ANSWER))?.map_err(
                |e| match e {
                    // Words of libraries, but with what a BMC wrote in them.
                    Broken::Connection(why) => self.origin.broken(self.credentials.hide(&why)),
                    Broken::TooLarge => {
                        self.origin.nonsense(format!("its answer to {what} has more than {MAX_BODY} bytes"))
                    }
                },
            )
        };
        let (head, bytes) = answered.await?;
        self.judge(&what, head, &bytes)
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        etag: Option<&HeaderValue>,
    ) -> Result<Request<Full<Bytes>>, PowerError> {
        let Credentials { user, .. } = self.credentials;
        let pair = Zeroizing::new(format!("{user}:{}", self.credentials.password()));
        let basic = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
        let unfit = |e: &dyn std::fmt::Display| self.origin.nonsense(format!("`{}`: {e}", tidy(path)));
        let mut basic = HeaderValue::from_str(&basic).map_err(|e| unfit(&e))?;
        basic.set_sensitive(true);
        let host = self.origin.url.split_once("://").map_or("", |(_, host)| host);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host)
            .header(header::AUTHORIZATION, basic)
            .header(header::ACCEPT, "application/json")
            .header("OData-Version", "4.0")
            .header(header::CONNECTION, "close");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(etag) = etag {
            request = request.header(header::IF_MATCH, etag);
        }
        let bytes = body.map_or_else(String::new, Value::to_string);
        request.body(Full::new(bytes.into())).map_err(|e| unfit(&e))
    }

    async fn stream(&self) -> Result<Box<dyn Stream>, PowerError> {
        let tcp = self.origin.connect().await?;
        if !self.origin.tls {
            return Ok(Box::new(tcp));
        }
        if self.pin.is_none() {
            return Err(PowerError::NotPinned(self.origin.url.clone()));
        }
        let (connected, seen) = handshake(&self.origin, tcp, self.pin).await;
        match (connected, seen) {
            (Ok(stream), _) => Ok(Box::new(stream)),
            (Err(_), Some(got)) if Some(got) != self.pin => {
                Err(PowerError::OtherCertificate { url: self.origin.url.clone(), got: got.to_string() })
            }
            (Err(e), _) => Err(e),
        }
    }

    /// What an answer comes to.
    fn judge(&self, what: &str, head: Head, bytes: &[u8]) -> Result<Answer, PowerError> {
        let url = self.origin.url.clone();
        let (status, what) = (head.status, what.to_owned());
        match status {
            200..300 if bytes.trim_ascii().is_empty() => Ok(Answer { etag: head.etag, body: Value::Null }),
            200..300 => match serde_json::from_slice(bytes) {
                Ok(body) => Ok(Answer { etag: head.etag, body }),
                Err(e) => Err(self.origin.nonsense(format!("its answer to {what} is no JSON: {e}"))),
            },
            300..400 => {
                Err(PowerError::Redirect { url, what, to: tidy(&self.credentials.hide(&head.location)) })
            }
            _ => {
                let words = tidy(&self.credentials.hide(&words(bytes)));
                let words = match (status, words.is_empty()) {
                    (401 | 403, true) => {
                        "the user or the password is wrong, or it may not do this".to_owned()
                    }
                    _ => words,
                };
                Err(PowerError::Refused { url, status, what, words })
            }
        }
    }
}

/// What an error's body says (DSP0266, "Error responses"): the messages, else the summary.
fn words(bytes: &[u8]) -> String {
    let Ok(body) = serde_json::from_slice::<Value>(bytes) else { return String::new() };
    let Some(error) = body.get("error") else { return String::new() };
    let details = error.get("@Message.ExtendedInfo").and_then(Value::as_array);
    let messages: Vec<&str> =
        details.into_iter().flatten().filter_map(|m| m.get("Message")?.as_str()).take(3).collect();
    match messages.is_empty() {
        true => error.get("message").and_then(Value::as_str).unwrap_or_default().to_owned(),
        false => messages.join(" "),
    }
}

/// SHA-256 of the certificate that a BMC shows. The connection ends before anything is sent.
///
/// # Errors
/// The URL names no BMC, nobody is there, or it speaks no TLS.
pub async fn fingerprint(url: &str) -> Result<Digest, PowerError> {
    let origin = Origin::parse(url)?;
    if !origin.tls {
        return Err(PowerError::Settings(format!("{url} has no certificate: only https:// has")));
    }
    let look = async {
        let tcp = origin.connect().await?;
        match handshake(&origin, tcp, None).await {
            (_, Some(seen)) => Ok(seen),
            (Err(e), None) => Err(e),
            (Ok(_), None) => Err(origin.nonsense("it shows no certificate")),
        }
    };
    timeout(CONNECT, look).await.unwrap_or(Err(PowerError::Late(CONNECT)))
}

type Tls = tokio_rustls::client::TlsStream<TcpStream>;

/// TLS over a connection, and the certificate that was shown, be it the right one or not.
async fn handshake(
    origin: &Origin,
    tcp: TcpStream,
    pin: Option<Digest>,
) -> (Result<Tls, PowerError>, Option<Digest>) {
    let pinned = Pinned::new(pin);
    let connect = async {
        let config = Arc::new(pinned.config().map_err(io::Error::other)?);
        let name = ServerName::try_from(origin.host.clone()).map_err(io::Error::other)?;
        TlsConnector::from(config).connect(name, tcp).await
    };
    let connected = connect.await.map_err(|e| origin.broken(e));
    (connected, pinned.seen())
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

struct Head {
    status: u16,
    etag: Option<HeaderValue>,
    location: String,
}

enum Broken {
    Connection(String),
    TooLarge,
}

async fn exchange(stream: Box<dyn Stream>, request: Request<Full<Bytes>>) -> Result<(Head, Bytes), Broken> {
    let broken = |e: hyper::Error| Broken::Connection(chain(&e));
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Ends with this, wherever this ends.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let response: Response<Incoming> = sender.send_request(request).await.map_err(broken)?;
    let header = |name| response.headers().get(name).cloned();
    let location = header(header::LOCATION);
    let head = Head {
        status: response.status().as_u16(),
        etag: header(header::ETAG),
        location: location.map_or_else(String::new, |l| String::from_utf8_lossy(l.as_bytes()).into_owned()),
    };
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
    match body {
        Ok(body) => Ok((head, body.to_bytes())),
        Err(e) if e.is::<http_body_util::LengthLimitError>() => Err(Broken::TooLarge),
        Err(e) => Err(Broken::Connection(chain(e.as_ref()))),
    }
}

/// An error with what caused it: hyper's own words alone say little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text.push_str(&format!(": {e}"));
        cause = e.source();
    }
    text
}
