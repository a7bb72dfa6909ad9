//! `agent run`, in the running image: says that it is up, then stays and does what the service orders, which is
//! to restart, or to start another image by kexec.

use crate::{
    failure::{Result, failed},
    kexec,
    orders::{self, Order},
    report::{self, Left, Reporter},
    trust,
};
use rustix::system::{RebootCommand, reboot};
use std::{convert::Infallible, path::Path, process::Command, time::Duration};

/// Longest that systemd may take to end everything; its own limit for a service that hangs is 90 s.
const ENDS: Duration = Duration::from_secs(300);

/// Stays until the machine restarts. Ends otherwise only where nobody gives orders to this boot any more.
pub fn run() -> Result<Infallible> {
    let left = report::left()?;
    report::report_healthy(&left)?;
    let carried = trust::left()?;
    let Left { reporter, mac } = left;
    match orders::wait(&reporter, &mac, |_| {})? {
        Order::Boot(next) => {
            let reporter =
                Reporter { server: reporter.server, attempt: next.boot.clone(), token: next.token.clone() };
            match kexec::load(&reporter, &next, carried.as_ref()) {
                Ok(tag) => {
                    eprintln!("pristine agent: over to the kernel of {tag}");
                    restart("kexec", RebootCommand::Kexec)
                }
                Err(failure) => {
                    eprintln!("pristine agent: {failure}");
                    reporter.failed(&failure.0);
                    restart("reboot", RebootCommand::Restart)
                }
            }
        }
        Order::Restart { why } => {
            eprintln!("pristine agent: restarting: {why}");
            restart("reboot", RebootCommand::Restart)
        }
        Order::Wait { .. } => failed("no orders"),
    }
}

/// In good order where systemd runs; another init has no order that we know of.
fn restart(by_systemd: &str, at_once: RebootCommand) -> Result<Infallible> {
    if Path::new("/run/systemd/system").exists()
        && Command::new("systemctl").arg(by_systemd).status().is_ok_and(|s| s.success())
    {
        std::thread::sleep(ENDS);
        eprintln!("pristine agent: systemd did not come to an end in {} s", ENDS.as_secs());
    }
    rustix::fs::sync();
    match reboot(at_once) {
        Ok(()) => failed("the kernel did not restart"),
        Err(e) => failed(format!("the kernel did not restart: {e}")),
    }
}
