//! Ctrl-C: waits end with [`LabError::Interrupted`], and drops remove everything in order.

use super::LabError;
use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};

/// How often a wait looks.
pub const STEP: Duration = Duration::from_millis(200);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT, SIGTERM and SIGHUP are heeded by every wait of the lab. A second one ends
/// the process at once: the kernel then ends what it started, the next lab removes the namespaces.
pub fn heed() -> Result<(), LabError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.map_err(LabError::file("signals"))?;
    let install = || -> io::Result<_> {
        Ok((
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ))
    };
    let (mut int, mut term, mut hup) = {
        let _inside = runtime.enter();
        install().map_err(LabError::file("signals"))?
    };
    thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! { _ = int.recv() => {}, _ = term.recv() => {}, _ = hup.recv() => {} }
                if INTERRUPTED.swap(true, Ordering::SeqCst) {
                    std::process::exit(130);
                }
            }
        });
    });
    Ok(())
}

/// An error once we were asked to end.
pub fn check() -> Result<(), LabError> {
    if INTERRUPTED.load(Ordering::SeqCst) { Err(LabError::Interrupted) } else { Ok(()) }
}

/// Waits until we are asked to end.
pub fn wait() {
    while check().is_ok() {
        thread::park_timeout(STEP);
    }
}
