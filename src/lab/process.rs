//! Child processes that never outlive us: killed and reaped on drop, killed by the kernel where we
//! are killed ourselves.

use super::{LabError, interrupt};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{
    io::Read,
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A command that starts `program` so that the kernel kills it when the *thread* that spawns it
/// ends (`PR_SET_PDEATHSIG`, by util-linux's `setpriv`), and that a Ctrl-C at our terminal doesn't
/// reach: spawn it from a thread that lives as long as it should.
pub fn tethered(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]).process_group(0).stdin(Stdio::null());
    command
}

/// A running child.
#[derive(Debug)]
pub struct Running {
    child: Child,
    name: String,
}

impl Running {
    /// Starts `command`.
    pub fn start(mut command: Command, name: &str) -> Result<Running, LabError> {
        let child = command.spawn().map_err(|source| LabError::Start { program: name.to_owned(), source })?;
        Ok(Running { child, name: name.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child itself, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until it ends; [`LabError::Late`] after `bound`, and it runs on.
    pub fn wait_within(&mut self, bound: Duration) -> Result<ExitStatus, LabError> {
        if !exits_within(&self.child, bound) {
            return Err(LabError::Late { what: format!("`{}` to end", self.name), bound });
        }
        self.child.wait().map_err(LabError::file(&self.name))
    }

    /// Sends SIGTERM, for an orderly end.
    pub fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            // It may have ended already: not an error.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// SIGKILL, and waits for its end: what a power cut does to it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether `child`, which nobody has reaped, ends within `bound`.
fn exits_within(child: &Child, bound: Duration) -> bool {
    let pid = Pid::from_raw(child.id().cast_signed());
    let Some(Ok(fd)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else { return true };
    let end = Instant::now() + bound;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Runs `command` to its end and gives what it wrote (each stream bounded to 16 MiB); killed and
/// [`LabError::Late`] after `bound`. A non-zero exit is no error here.
pub fn output_within(mut command: Command, bound: Duration) -> Result<Output, LabError> {
    let shown = shown(&command);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running::start(command, &shown)?;
    let stdout = running.child.stdout.take().map(collect);
    let stderr = running.child.stderr.take().map(collect);
    // An error kills it: `running` is dropped.
    let status = running.wait_within(bound)?;
    Ok(Output { status, stdout: joined(stdout), stderr: joined(stderr) })
}

fn joined(reader: Option<thread::JoinHandle<Vec<u8>>>) -> Vec<u8> {
    reader.and_then(|r| r.join().ok()).unwrap_or_default()
}

/// Runs `command` and asks for exit status 0; gives its standard output as text.
pub fn succeed(command: Command, bound: Duration) -> Result<String, LabError> {
    let shown = shown(&command);
    let output = output_within(command, bound)?;
    successful(&shown, output)
}

/// As [`succeed`], for what takes minutes: a Ctrl-C ends it too ([`interrupt`]).
pub fn succeed_unless_interrupted(mut command: Command, bound: Duration) -> Result<String, LabError> {
    let shown = shown(&command);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running::start(command, &shown)?;
    let stdout = running.child.stdout.take().map(collect);
    let stderr = running.child.stderr.take().map(collect);
    let end = Instant::now() + bound;
    let status = loop {
        interrupt::check()?;
        let left = end.saturating_duration_since(Instant::now());
        match running.wait_within(left.min(interrupt::STEP)) {
            Err(LabError::Late { .. }) if !left.is_zero() => {}
            other => break other?,
        }
    };
    successful(&shown, Output { status, stdout: joined(stdout), stderr: joined(stderr) })
}

fn successful(shown: &str, output: Output) -> Result<String, LabError> {
    if !output.status.success() {
        return Err(LabError::Tool {
            command: shown.to_owned(),
            status: output.status.to_string(),
            said: [output.stderr, output.stdout]
                .map(|s| String::from_utf8_lossy(&s).trim().to_owned())
                .join("\n")
                .trim()
                .to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn collect(stream: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut out = Vec::new();
        let _ = stream.take(16 << 20).read_to_end(&mut out);
        out
    })
}

/// The command as a person would type it, without our own wrapping.
pub fn shown(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|w| w.to_string_lossy())
        .collect();
    let text = words.join(" ");
    text.strip_prefix("setpriv --pdeathsig KILL ").unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    #[test]
    fn a_command_that_takes_too_long_is_killed_and_named() {
        let mut command = Command::new("sleep");
        command.arg("600");
        let begun = Instant::now();
        let error = output_within(command, Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("sleep 600"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(300));
    }

    #[test]
    fn a_failing_command_tells_what_it_said() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such cable >&2; exit 3"]);
        let error = succeed(command, Duration::from_secs(20)).unwrap_err().to_string();
        assert!(error.contains("no such cable") && error.contains('3'), "{error}");
    }

    #[test]
    fn what_we_start_ends_with_us() {
        let mut command = tethered("sleep");
        command.arg("600");
        let running = Running::start(command, "sleep").unwrap();
        let pid = running.pid();
        drop(running);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
