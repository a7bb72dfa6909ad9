//! A machine's serial console: kept as a bounded log, readable while it runs, and typed into.

use super::{LabError, interrupt};
use std::{
    fs::File,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

/// Most of a console that is kept in memory, and most that a log file gets.
const KEPT: usize = 4 << 20;

/// The far end of a serial line. Cloning gives the same console.
#[derive(Clone, Debug)]
pub struct Console {
    shared: Arc<Shared>,
    log: PathBuf,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    grew: Condvar,
    line: Mutex<UnixStream>,
}

#[derive(Debug, Default)]
struct State {
    /// Everything since power-on but escape sequences, cut to [`KEPT`] at the front.
    text: Vec<u8>,
    /// Bytes that were cut off at the front.
    cut: usize,
    closed: bool,
}

/// A place in the console's text, to look only at what comes later.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark(usize);

impl Console {
    /// Reads `line` to its end on a thread of its own, into memory and into the file `log`.
    pub fn new(line: UnixStream, log: &Path) -> Result<Console, LabError> {
        let mut file = File::create(log).map_err(LabError::file(log))?;
        let mut reader = line.try_clone().map_err(LabError::file(log))?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            grew: Condvar::new(),
            line: Mutex::new(line),
        });
        let writer = Arc::clone(&shared);
        thread::spawn(move || {
            let mut buffer = [0u8; 4096];
            let mut plain = Plain::default();
            let mut written = 0;
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                let clean: Vec<u8> = buffer.iter().take(n).filter_map(|b| plain.next(*b)).collect();
                if written < KEPT {
                    written += clean.len();
                    // A full disk costs the log, not the boot.
                    let _ = file.write_all(&clean);
                }
                writer.push(&clean);
            }
            writer.state().closed = true;
            writer.grew.notify_all();
        });
        Ok(Console { shared, log: log.to_owned() })
    }

    /// Where its log is.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// All that is kept, without escape sequences.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.shared.state().text).into_owned()
    }

    /// The last `lines` lines.
    pub fn tail(&self, lines: usize) -> String {
        let text = self.text();
        let all: Vec<&str> = text.lines().collect();
        all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
    }

    /// Now, as a place in the text.
    pub fn mark(&self) -> Mark {
        let state = self.shared.state();
        Mark(state.cut + state.text.len())
    }

    /// Waits until `needle` shows after `from`, and gives the place behind it.
    pub fn wait_for(&self, from: Mark, needle: &str, bound: Duration) -> Result<Mark, LabError> {
        let end = Instant::now() + bound;
        let mut state = self.shared.state();
        loop {
            let skip = from.0.saturating_sub(state.cut);
            let text = state.text.get(skip..).unwrap_or_default();
            if let Some(at) = find(text, needle.as_bytes()) {
                return Ok(Mark(state.cut + skip + at + needle.len()));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || state.closed {
                drop(state);
                let what = format!("`{needle}` on the console {}", self.log.display());
                return Err(LabError::Late { what, bound });
            }
            interrupt::check()?;
            let step = left.min(interrupt::STEP);
            state = self.shared.grew.wait_timeout(state, step).map_or_else(|e| e.into_inner().0, |r| r.0);
        }
    }

    /// What showed between two places.
    pub fn between(&self, from: Mark, to: Mark) -> String {
        let state = self.shared.state();
        let range = from.0.saturating_sub(state.cut)..to.0.saturating_sub(state.cut);
        String::from_utf8_lossy(state.text.get(range).unwrap_or_default()).into_owned()
    }

    /// Types `text`; end a line with `\n`.
    pub fn type_in(&self, text: &str) -> Result<(), LabError> {
        let mut line = self.shared.line.lock().unwrap_or_else(|e| e.into_inner());
        line.write_all(text.as_bytes()).map_err(LabError::file(&self.log))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn push(&self, bytes: &[u8]) {
        let mut state = self.state();
        state.text.extend_from_slice(bytes);
        if state.text.len() > KEPT {
            // Half at a time, so that a chatty machine doesn't cost a move for each byte.
            state.text.drain(..KEPT / 2);
            state.cut += KEPT / 2;
        }
        self.grew.notify_all();
    }
}

fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len().max(1)).position(|w| w == needle)
}

/// Drops ANSI escape sequences and carriage returns: firmware paints its screen with them.
#[derive(Default)]
enum Plain {
    #[default]
    Text,
    Escape,
    Sequence,
}

impl Plain {
    fn next(&mut self, byte: u8) -> Option<u8> {
        match (&self, byte) {
            (_, 0x1b) => *self = Plain::Escape,
            (Plain::Text, b'\r' | 0) => {}
            (Plain::Text, _) => return Some(byte),
            (Plain::Escape, b'[') => *self = Plain::Sequence,
            (Plain::Escape, _) => *self = Plain::Text,
            // Parameters and intermediates go on, a final byte ends (ECMA-48 section 5.4).
            (Plain::Sequence, 0x40..=0x7e) => *self = Plain::Text,
            (Plain::Sequence, _) => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn pair() -> (Console, UnixStream, PathBuf) {
        static N: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = N.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let log = std::env::temp_dir().join(format!("pristine-console-{}-{n}.log", std::process::id()));
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Console::new(ours, &log).unwrap(), theirs, log)
    }

    #[test]
    fn reads_through_escapes_and_waits_only_for_what_comes_later() {
        let (console, mut machine, log) = pair();
        machine.write_all(b"\x1b[2J\x1b[1;1Hlog\x1b[0min: \r\nroot").unwrap();
        let mark = console.wait_for(Mark::default(), "login: ", SOON).unwrap();
        console.wait_for(mark, "root", SOON).unwrap();
        let now = console.mark();
        let bound = Duration::from_millis(10);
        assert!(console.wait_for(now, "login: ", bound).is_err(), "the old one doesn't count");
        machine.write_all(b"# ok").unwrap();
        let end = console.wait_for(now, "ok", SOON).unwrap();
        assert_eq!(console.between(now, end), "# ok");
        drop(machine);
        assert!(console.wait_for(end, "more", SOON).is_err(), "a closed console ends the wait");
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "login: \nroot# ok");
        std::fs::remove_file(log).unwrap();
    }

    #[test]
    fn a_machine_that_never_stops_talking_fills_neither_memory_nor_disk() {
        let (console, mut machine, log) = pair();
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..12 {
            machine.write_all(&chunk).unwrap();
        }
        machine.write_all(b"end").unwrap();
        console.wait_for(Mark::default(), "end", SOON).unwrap();
        assert!(console.text().len() <= KEPT);
        assert!(std::fs::metadata(&log).unwrap().len() < 2 * KEPT as u64);
        std::fs::remove_file(log).unwrap();
    }
}
