use crate::{
    netboot::ServerAddr,
    provisioner::{FileAnswer, Provisioner, TransferOutcome},
};
use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddrV4},
};

/// Who decides what a machine gets, and is told how it went. The provisioner; in tests, a stand-in.
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

impl Files for Provisioner {
    async fn open(&self, server: ServerAddr, peer: SocketAddrV4, name: &str) -> FileAnswer {
        self.tftp_file(server, *peer.ip(), name).await
    }

    async fn done(&self, peer: Ipv4Addr, name: &str, outcome: TransferOutcome) {
        self.file_done(peer, name, outcome).await;
    }
}
