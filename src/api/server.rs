//! The API's listener: connections, time and header bounds.

use super::router::{Api, router};
use axum::{
    extract::{ConnectInfo, Request},
    http::StatusCode,
};
use hyper::{body::Incoming, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde::Serialize;
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
};

/// Bounds of the listener.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Connections at once; more wait in the kernel's queue.
    pub connections: usize,
    /// Longest wait for a request's head, a kept connection's next one included.
    pub head: Duration,
    /// Largest head of a request, in bytes.
    pub max_head: usize,
    /// Longest wait for open requests at the end.
    pub grace: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            connections: 128,
            head: Duration::from_secs(15),
            max_head: 16 * 1024,
            grace: Duration::from_secs(3),
        }
    }
}

/// What the API did since its start.
#[derive(Debug, Default, Serialize)]
pub struct Counters {
    requests: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    bad_tokens: AtomicU64,
}

impl Counters {
    pub(super) fn answered(&self, status: StatusCode) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if status.is_client_error() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        } else if status.is_server_error() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn refused_token(&self) {
        self.bad_tokens.fetch_add(1, Ordering::Relaxed);
    }
}

/// Answers on `listener` until `shutdown` is true, then ends open requests within the grace.
pub async fn run(
    listener: TcpListener,
    api: Api,
    settings: Settings,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let service = TowerToHyperService::new(router(api));
    let room = Arc::new(Semaphore::new(settings.connections));
    let mut connections = JoinSet::new();
    loop {
        // Room first: without any, newcomers wait in the kernel's queue instead of in our memory.
        let accepted = tokio::select! {
            () = told_to_end(&mut shutdown) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            Ok(permit) = Arc::clone(&room).acquire_owned() => tokio::select! {
                () = told_to_end(&mut shutdown) => break,
                accepted = listener.accept() => accepted.map(|(stream, from)| (stream, from, permit)),
            },
        };
        match accepted {
            Ok((stream, from, permit)) => {
                let one = connection(stream, from, service.clone(), settings, shutdown.clone());
                connections.spawn(async move {
                    one.await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: the wait lets others close.
                tracing::warn!(%error, "the API can't accept a connection");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(settings.grace, all).await;
    Ok(())
}

/// Ends when the service shall end (or its sender is gone).
pub(super) async fn told_to_end(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|stop| *stop).await;
}

async fn connection(
    stream: TcpStream,
    from: SocketAddr,
    service: TowerToHyperService<axum::Router>,
    settings: Settings,
    mut shutdown: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(ConnectInfo(from));
        service.call(request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.head)
        .max_buf_size(settings.max_head)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = told_to_end(&mut shutdown) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%from, %error, "API connection ended");
    }
}
