//! The little of QEMU's machine protocol that the lab needs: one command, one answer.

use super::LabError;
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

/// QEMU answers from its main loop: at once, unless the machine is starved.
const BOUND: Duration = Duration::from_secs(60);
/// Longest line that we read.
const LINE: u64 = 64 << 10;

/// A connection to one QEMU.
#[derive(Debug)]
pub struct Qmp {
    lines: BufReader<UnixStream>,
}

impl Qmp {
    /// Greets QEMU over a fresh connection.
    pub fn new(stream: UnixStream) -> Result<Qmp, LabError> {
        stream.set_read_timeout(Some(BOUND)).map_err(LabError::file("qmp"))?;
        stream.set_write_timeout(Some(BOUND)).map_err(LabError::file("qmp"))?;
        let mut qmp = Qmp { lines: BufReader::new(stream) };
        qmp.line()?;
        qmp.run("qmp_capabilities")?;
        Ok(qmp)
    }

    /// Runs a command without arguments, such as `system_reset`, `system_powerdown` or `quit`.
    pub fn run(&mut self, command: &str) -> Result<Value, LabError> {
        let text = format!("{}\n", json!({ "execute": command }));
        self.lines.get_mut().write_all(text.as_bytes()).map_err(LabError::file("qmp"))?;
        // Events come in between.
        loop {
            let mut answer = self.line()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                return Err(LabError::Other(format!("QEMU refused `{command}`: {error}")));
            }
        }
    }

    fn line(&mut self) -> Result<Value, LabError> {
        let mut text = String::new();
        let n = self.lines.by_ref().take(LINE).read_line(&mut text).map_err(LabError::file("qmp"))?;
        if n == 0 {
            return Err(LabError::Other("QEMU closed its control connection".to_owned()));
        }
        serde_json::from_str(&text).map_err(|e| LabError::Other(format!("QEMU said `{text}`: {e}")))
    }
}
