//! A root shell on a machine's serial console.

use super::{Console, LabError};
use std::time::{Duration, Instant};

/// How long one try may go unanswered: getty drops what was typed before it was ready.
const TRY: Duration = Duration::from_secs(10);

/// Commands to a machine whose console logs root in by itself.
#[derive(Debug)]
pub struct Shell<'a> {
    console: &'a Console,
    asked: u32,
}

impl<'a> Shell<'a> {
    /// Waits until a shell answers on the console.
    pub fn open(console: &'a Console, bound: Duration) -> Result<Shell<'a>, LabError> {
        let end = Instant::now() + bound;
        let mut shell = Shell { console, asked: 0 };
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match shell.run("true", TRY.min(left)) {
                Err(LabError::Late { .. }) if !left.is_zero() => {}
                other => return other.map(|_| shell),
            }
        }
    }

    /// Runs one line and gives what it wrote. A non-zero exit status is an error.
    pub fn run(&mut self, line: &str, bound: Duration) -> Result<String, LabError> {
        self.asked += 1;
        // The shell computes the numbers, so that the echo of what we type doesn't match.
        let n = self.asked + 1000;
        let from = self.console.mark();
        let minus = n - 1;
        self.console
            .type_in(&format!("\necho begin-$(({minus}+1)); {line}; echo end-$(({minus}+1))-$?.\n"))?;
        let begin = self.console.wait_for(from, &format!("begin-{n}\n"), bound)?;
        let end = format!("end-{n}-");
        let behind = self.console.wait_for(begin, &end, bound)?;
        let close = self.console.wait_for(behind, ".", bound)?;
        let status = self.console.between(behind, close);
        let text = self.console.between(begin, behind);
        let text = text.strip_suffix(&end).unwrap_or(&text).trim().to_owned();
        if status != "0." {
            let tail = text.lines().last().unwrap_or_default();
            return Err(LabError::Other(format!("`{line}` on the machine ended with {status} {tail}")));
        }
        Ok(text)
    }

    /// Types a line and waits for nothing: `reboot`.
    pub fn type_line(&self, line: &str) -> Result<(), LabError> {
        self.console.type_in(&format!("{line}\n"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use crate::lab::{Folder, process::Running};
    use std::{os::fd::OwnedFd, os::unix::net::UnixStream, process::Command};

    #[test]
    fn tells_output_and_failure_of_each_line() {
        let folder = Folder::temporary("shell").unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let console = Console::new(ours, &folder.path().join("log")).unwrap();
        let mut command = Command::new("sh");
        let (input, output) = (theirs.try_clone().unwrap(), theirs);
        command.stdin(OwnedFd::from(input)).stdout(OwnedFd::from(output));
        let _sh = Running::start(command, "sh").unwrap();
        let bound = Duration::from_secs(20);
        let mut shell = Shell::open(&console, bound).unwrap();
        assert_eq!(shell.run("echo a; echo b", bound).unwrap(), "a\nb");
        assert!(shell.run("(exit 3)", bound).unwrap_err().to_string().contains('3'));
        assert_eq!(shell.run("printf x", bound).unwrap(), "x");
    }
}
