use super::ServeError;
use tokio::{
    runtime::{Builder, EnterGuard, Runtime},
    sync::oneshot,
};

/// A thread for one server, with a runtime of its own. What a packet of DHCP or a block of TFTP costs in time is what it
/// takes to wake the thread that answers it: the common runtime's threads wake one another besides, and serve roots.
pub(super) struct OwnThread {
    name: &'static str,
    /// There until it is dropped.
    runtime: Option<Runtime>,
}

impl OwnThread {
    pub(super) fn new(name: &'static str) -> Result<OwnThread, ServeError> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| ServeError::Start { what: "a runtime", source })?;
        Ok(OwnThread { name, runtime: Some(runtime) })
    }

    /// Begins at the first poll, and goes on to the server's end even where this is dropped before.
    pub(super) async fn run(
        mut self,
        server: impl Future<Output = Result<(), ServeError>> + Send + 'static,
    ) -> Result<(), ServeError> {
        let (tell, ended) = oneshot::channel();
        let (name, runtime) = (self.name, self.runtime.take());
        let run = move || {
            if let Some(runtime) = runtime {
                // Nobody hears it where the service has ended.
                let _ = tell.send(runtime.block_on(server));
            }
        };
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(run)
            .map_err(|source| ServeError::Start { what: "a thread", source })?;
        let panicked =
            |_| ServeError::Ended { what: name, source: std::io::Error::other("its thread panicked") };
        ended.await.map_err(panicked)?
    }

    /// For what is to belong to the runtime.
    pub(super) fn enter(&self) -> Option<EnterGuard<'_>> {
        self.runtime.as_ref().map(Runtime::enter)
    }
}

impl Drop for OwnThread {
    fn drop(&mut self) {
        // Where the service can't start after all, within a runtime that must not wait for another one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
