use crate::{
    model::{AttemptId, Digest, Facts, Mac},
    netboot::ServerAddr,
    provisioner::{
        ConfigError, ConfigQuery, FileAnswer, Order, Provisioner, Report, ReportError, ScriptError,
        ScriptQuery, TransferOutcome,
    },
};
use std::{future::Future, net::Ipv4Addr};

/// Name of a rack; `None` for a machine in none.
pub type Rack = Option<String>;

/// Who decides what a machine gets. The provisioner; in tests, a stand-in.
pub trait Machines: Clone + Send + Sync + 'static {
    /// The boot file of that name, for the machine at `peer`.
    fn file(&self, server: ServerAddr, peer: Ipv4Addr, name: &str)
    -> impl Future<Output = FileAnswer> + Send;

    /// How the transfer of a boot file ended.
    fn file_done(
        &self,
        peer: Ipv4Addr,
        name: &str,
        outcome: TransferOutcome,
    ) -> impl Future<Output = ()> + Send;

    /// The machine's iPXE script.
    fn script(
        &self,
        server: ServerAddr,
        peer: Ipv4Addr,
        query: ScriptQuery,
    ) -> impl Future<Output = Result<String, ScriptError>> + Send;

    /// The rack of the machine in this boot, where the blob is the root that its `init` fetches: such
    /// downloads take turns. Asking counts as progress of the boot.
    fn takes_turns(&self, boot: AttemptId, digest: Digest) -> Option<Rack>;

    /// A blob is asked for in this boot.
    fn blob_begun(&self, boot: AttemptId, digest: Digest) -> impl Future<Output = ()> + Send;

    /// The last byte of a blob went out for this boot, or no more can.
    fn blob_fetched(
        &self,
        boot: AttemptId,
        digest: Digest,
        complete: bool,
    ) -> impl Future<Output = ()> + Send;

    /// The configuration of the boot with this token, as JSON.
    fn config(
        &self,
        token: &str,
        peer: Ipv4Addr,
        query: ConfigQuery,
    ) -> impl Future<Output = Result<Vec<u8>, ConfigError>> + Send;

    /// What a booting machine says of itself.
    fn report(&self, token: &str, report: Report) -> impl Future<Output = Result<(), ReportError>> + Send;

    /// What a booting machine is made of.
    fn facts(&self, token: &str, facts: Facts) -> impl Future<Output = Result<(), ReportError>> + Send;

    /// What a machine that waits is to do now.
    fn orders(
        &self,
        server: ServerAddr,
        peer: Ipv4Addr,
        token: &str,
        nic: Option<Mac>,
    ) -> impl Future<Output = Result<Order, ReportError>> + Send;
}

impl Machines for Provisioner {
    async fn file(&self, server: ServerAddr, peer: Ipv4Addr, name: &str) -> FileAnswer {
        self.tftp_file(server, peer, name).await
    }

    async fn file_done(&self, peer: Ipv4Addr, name: &str, outcome: TransferOutcome) {
        Provisioner::file_done(self, peer, name, outcome).await;
    }

    async fn script(
        &self,
        server: ServerAddr,
        peer: Ipv4Addr,
        query: ScriptQuery,
    ) -> Result<String, ScriptError> {
        Provisioner::script(self, server, peer, query).await
    }

    fn takes_turns(&self, boot: AttemptId, digest: Digest) -> Option<Rack> {
        self.root_asked(boot, digest)
    }

    async fn blob_begun(&self, boot: AttemptId, digest: Digest) {
        Provisioner::blob_begun(self, boot, digest).await;
    }

    async fn blob_fetched(&self, boot: AttemptId, digest: Digest, complete: bool) {
        Provisioner::blob_fetched(self, boot, digest, complete).await;
    }

    async fn config(&self, token: &str, peer: Ipv4Addr, query: ConfigQuery) -> Result<Vec<u8>, ConfigError> {
        Provisioner::config(self, token, peer, query).await
    }

    async fn report(&self, token: &str, report: Report) -> Result<(), ReportError> {
        Provisioner::report(self, token, report).await
    }

    async fn facts(&self, token: &str, facts: Facts) -> Result<(), ReportError> {
        Provisioner::facts(self, token, facts).await
    }

    async fn orders(
        &self,
        server: ServerAddr,
        peer: Ipv4Addr,
        token: &str,
        nic: Option<Mac>,
    ) -> Result<Order, ReportError> {
        Provisioner::orders(self, server, peer, token, nic).await
    }
}
