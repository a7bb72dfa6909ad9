//! Keeps the process that serves the root: starts it, and starts it again where it dies, on what was fetched until
//! then. It does nothing else, so that nothing of it can go wrong.

use super::{HOME, NAME, server};
use crate::{
    console::say,
    failure::{Doing, Result},
    fetch::backoff,
    random, sys,
};
use rustix::mm::MlockAllFlags;
use std::{
    fs,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

/// How process 1 calls it.
pub const ARGUMENT: &str = "keep-root";

/// Stays as long as the root is served; `job` is the number of the file that says what it is.
pub fn run(job: &str) -> ExitCode {
    // Without its own place it could not be started again: then the root comes whole.
    if let Err(failure) = settle() {
        say(failure.to_string());
        return ExitCode::FAILURE;
    }
    for nth in 0u32.. {
        let mut command = Command::new("/proc/self/exe");
        command.arg0(NAME).args([server::ARGUMENT, job, if nth == 0 { "first" } else { "again" }]);
        let ended = match command.status() {
            Ok(status) if status.success() => return ExitCode::SUCCESS,
            Ok(status) if status.code() == Some(server::NOT_WANTED.into()) => return ExitCode::FAILURE,
            Ok(status) => status.to_string(),
            Err(e) => e.to_string(),
        };
        let wait = backoff(nth, random::below(1000));
        say(format!("what serves the root ended ({ended}): again in {:.1} s", wait.as_secs_f32()));
        std::thread::sleep(wait);
    }
    ExitCode::FAILURE
}

/// Out of everybody's way: nothing that happens to the image or its root may end it.
fn settle() -> Result<()> {
    let _ = rustix::process::setsid();
    // An init that knows nothing of our name sends this to everybody before it takes the root away.
    sys::ignore_polite_signals();
    rustix::process::chroot(HOME).doing(format!("go to {HOME}"))?;
    std::env::set_current_dir("/").doing(format!("go to {HOME}"))?;
    // What it starts has the same.
    fs::write("/proc/self/oom_score_adj", "-1000").doing("be spared where memory is short")?;
    stay_in_memory()
}

/// Nothing of this process is ever read back from a disk.
pub fn stay_in_memory() -> Result<()> {
    rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
        .doing("stay in memory")
}
