use crate::netboot::ServerAddr;
use bytes::Bytes;
use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddrV4},
};

/// What a machine gets for a file name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileAnswer {
    /// The file.
    Found(Bytes),
    /// There is none of that name.
    NotFound,
    /// Not for this machine, and why.
    Refused(String),
}

/// How a transfer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransferOutcome {
    /// The client has acknowledged every byte.
    Complete {
        /// Length of the file.
        bytes: u64,
    },
    /// The client asked for the size and then declined: normal, it will ask again.
    Probe,
    /// The client, or the network on its behalf, ended the transfer.
    Aborted {
        /// Bytes acknowledged by then.
        at: u64,
        /// In whose words.
        why: String,
    },
    /// The client fell silent.
    TimedOut {
        /// Bytes acknowledged by then.
        at: u64,
    },
}

/// Who decides what a machine gets, and is told how it went.
pub trait Files: Clone + Send + Sync + 'static {
    /// The file of that name, for the machine at `peer`. The name is cleaned: no slash in front,
    /// no `..`.
    fn open(
        &self,
        server: ServerAddr,
        peer: SocketAddrV4,
        name: &str,
    ) -> impl Future<Output = FileAnswer> + Send;

    /// Told once for each transfer that was begun.
    fn done(&self, peer: Ipv4Addr, name: &str, outcome: TransferOutcome) -> impl Future<Output = ()> + Send;
}
