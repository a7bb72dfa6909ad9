//! Passwords: from a person at a terminal, not echoed, or from a file.

use super::Failure;
use pristine_signature::Zeroizing;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::{
    fs::File,
    io::{Read, Write as _},
    path::Path,
};

/// Longest password, in bytes.
const MAX: usize = 1024;

/// The first line of a file.
pub fn from_file(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let cant =
        |e: std::io::Error| Failure::text(format!("can't read the password from {}: {e}", path.display()));
    let mut text = Zeroizing::new(String::with_capacity(MAX + 2));
    File::open(path).map_err(cant)?.take(MAX as u64 + 2).read_to_string(&mut text).map_err(cant)?;
    let line = text.lines().next().unwrap_or_default();
    match line.len() {
        0 => Err(Failure::text(format!(
            "the first line of {} is empty: it should be the password",
            path.display()
        ))),
        1..=MAX => Ok(Zeroizing::new(line.to_owned())),
        _ => Err(Failure::text(format!("the password in {} has more than {MAX} bytes", path.display()))),
    }
}

/// Asks the person at the terminal. `hint` says what a script should do instead.
pub fn ask(question: &str, hint: &str) -> Result<Zeroizing<String>, Failure> {
    let tty = File::options().read(true).write(true).open("/dev/tty");
    let Ok(tty) = tty else {
        return Err(Failure::Usage(format!("nobody is here to ask for a password (no terminal): {hint}")));
    };
    let cant = |e: std::io::Error| Failure::text(format!("can't ask for a password: {e}"));
    let quiet = Quiet::on(&tty).map_err(cant)?;
    (&tty).write_all(question.as_bytes()).map_err(cant)?;
    let line = read_line(&tty);
    let _ = (&tty).write_all(b"\n");
    drop(quiet);
    line
}

/// What is typed up to Enter. Byte by byte, so that Ctrl-C ends it with the echo on again.
fn read_line(mut tty: &File) -> Result<Zeroizing<String>, Failure> {
    let mut line = Zeroizing::new(Vec::with_capacity(MAX + 1));
    loop {
        let mut byte = [0];
        let n = tty.read(&mut byte).map_err(|e| Failure::text(format!("can't ask for a password: {e}")))?;
        match byte {
            _ if n == 0 => break,
            [b'\r' | b'\n'] => break,
            [3 | 4 | 28] => return Err(Failure::text("given up: nothing was changed")),
            // Backspace takes a whole character.
            [8 | 127] => while line.pop().is_some_and(|b| b & 0xc0 == 0x80) {},
            [21] => line.clear(),
            [b] if line.len() < MAX => line.push(b),
            _ => return Err(Failure::text(format!("a password has at most {MAX} bytes"))),
        }
    }
    let text = std::str::from_utf8(&line).map_err(|_| Failure::text("a password is UTF-8 text"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Quiet<'a> {
    tty: &'a File,
    before: Termios,
}

impl Quiet<'_> {
    fn on(tty: &File) -> std::io::Result<Quiet<'_>> {
        let before = tcgetattr(tty)?;
        let mut now = before.clone();
        now.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        tcsetattr(tty, OptionalActions::Flush, &now)?;
        Ok(Quiet { tty, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.tty, OptionalActions::Flush, &self.before);
    }
}
