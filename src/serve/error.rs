//! Why the service can't start, or ended.

use crate::{
    api::TokenError,
    store::{NbpsError, StoreError, db::DbError},
};
use std::{io, net::SocketAddr, path::PathBuf};

/// Why the service can't start, or ended. Every text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No link is named.
    #[error(
        "no interface to serve\n  help: pristine serve --interface <name>, or an [[interface]] in the configuration (`ip -br link` lists the names)"
    )]
    NoInterface,
    /// The state folder can't be made.
    #[error(
        "can't make the state folder {}: {source}\n  help: run as a user who may write there, or name another one with state_dir or --state-dir", dir.display()
    )]
    StateDir {
        /// The folder.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else has the port.
    #[error(
        "can't serve {what}: {} port {} of {} is taken\n  help: `ss -lp{} 'sport = :{}'` names the holder (as root); stop it, or set another port in the configuration",
        proto.to_uppercase(), addr.port(), addr.ip(), if *proto == "udp" { "un" } else { "tn" }, addr.port()
    )]
    PortTaken {
        /// What was to be served.
        what: &'static str,
        /// `tcp` or `udp`.
        proto: &'static str,
        /// Where.
        addr: SocketAddr,
    },
    /// A low port without the right.
    #[error(
        "not allowed to serve {what} on {addr}\n  help: run as root, or with the capabilities CAP_NET_BIND_SERVICE, CAP_NET_RAW and CAP_NET_ADMIN"
    )]
    NotAllowed {
        /// What was to be served.
        what: &'static str,
        /// Where.
        addr: SocketAddr,
    },
    /// Another reason not to listen.
    #[error("can't serve {what} on {addr}: {source}")]
    Listen {
        /// What was to be served.
        what: &'static str,
        /// Where.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Something else can't start.
    #[error("can't start {what}: {source}")]
    Start {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A server ended by itself, and with it the service.
    #[error("{what} ended: {source}")]
    Ended {
        /// Which.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The image store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The boot programs.
    #[error(transparent)]
    Nbps(#[from] NbpsError),
    /// The API token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The state database.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl ServeError {
    /// A listener that could not be had.
    pub(super) fn taken(
        what: &'static str,
        proto: &'static str,
        addr: SocketAddr,
        source: io::Error,
    ) -> ServeError {
        match source.kind() {
            io::ErrorKind::AddrInUse => ServeError::PortTaken { what, proto, addr },
            io::ErrorKind::PermissionDenied => ServeError::NotAllowed { what, addr },
            _ => ServeError::Listen { what, addr, source },
        }
    }
}
