//! Downloads that come to an end: resumed where they broke off, tried again with growing, jittered
//! waits, given up after too many tries without a byte.

use crate::{
    failure::{Failure, Result, failed},
    http::{self, Limits, Trouble, Wanted},
    random,
    verity::BLOCK,
};
use std::{net::SocketAddrV4, ops::Range, time::Duration};

/// Bytes that a sink is given at a time, as far as they come.
pub const STEP: usize = 32 * BLOCK;

/// Tries without progress before a download fails: with the waits between them, one to three
/// minutes of a server that is gone.
const TRIES: u32 = 14;
/// Fewest bytes for which a connection counts as progress: a few blocks a try would go on for weeks.
const PROGRESS: u64 = 64 << 10;
/// Times that one block may come wrong before it counts as wrong on the server.
const WRONG_TRIES: u32 = 3;
/// The longest that one Retry-After of a server is obeyed.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The longest that a server may have one download wait in all: a hall's power return with a slow link.
const LONGEST_LINE: Duration = Duration::from_secs(3_600);

const LIMITS: Limits = Limits { connect: Duration::from_secs(5), idle: Duration::from_secs(10) };

/// A piece that is not what it should be: bytes from this offset on were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong {
    /// Offset of the wrong block.
    pub at: u64,
}

/// What takes the bytes: offset and whole blocks (the last one may be short).
pub type Sink<'a> = dyn FnMut(u64, &[u8]) -> std::result::Result<(), Problem> + 'a;

/// Why a sink did not take a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// Wrong bytes; asking again may help.
    Wrong(Wrong),
    /// Nothing helps: no memory left, for one.
    Fatal(Failure),
}

/// Wait before try number `tries` (1 is the second one): doubling from a quarter second to eight
/// seconds, of which `dice` (0 to 999) picks a part between half and all.
pub fn backoff(tries: u32, dice: u64) -> Duration {
    let full = 250u64 << tries.saturating_sub(1).min(5);
    Duration::from_millis(full / 2 + full / 2 * dice.min(1000) / 1000)
}

/// What to fetch of a resource of known size, and how patiently.
#[derive(Clone)]
pub struct Download<'a> {
    /// Where from.
    pub server: SocketAddrV4,
    /// Path and query.
    pub path: &'a str,
    /// Bytes of the whole resource.
    pub size: u64,
    /// These bytes, from one block to another or to the end; `None`: all.
    pub part: Option<Range<u64>>,
    /// Names it in messages.
    pub what: &'a str,
    /// It waits for its turn, where many fetch at once.
    pub in_turn: bool,
    /// While this is true it is tried without end: there is nothing better to do.
    pub endless: &'a dyn Fn() -> bool,
}

/// Why a download ended before its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// The block at this byte comes wrong each time.
    Damaged {
        /// Offset of the block.
        at: u64,
        /// The same in words.
        failure: Failure,
    },
    /// The server gave up or was given up, or the sink can't take it.
    Other(Failure),
}

impl Lost {
    /// In words.
    pub fn failure(self) -> Failure {
        match self {
            Lost::Damaged { failure, .. } | Lost::Other(failure) => failure,
        }
    }
}

impl Download<'_> {
    /// Fetches it into `sink`.
    pub fn run(&self, sink: &mut Sink<'_>) -> std::result::Result<(), Lost> {
        let what = self.what;
        let Range { start: mut at, end } = self.part.clone().unwrap_or(0..self.size);
        let mut patience = Patience { endless: self.endless, ..Patience::new(self.server, what) };
        let mut wrong: Option<(u64, u32)> = None;
        while at < end {
            let before = at;
            let trouble = match self.one_connection(&mut at, end, sink) {
                Ok(()) => continue,
                Err(Stop::Problem(Problem::Fatal(failure))) => return Err(Lost::Other(failure)),
                Err(Stop::Problem(Problem::Wrong(Wrong { at: bad }))) => {
                    let times = wrong.filter(|(block, _)| *block == bad).map_or(1, |(_, n)| n + 1);
                    wrong = Some((bad, times));
                    if times >= WRONG_TRIES {
                        let failure = Failure(format!(
                            "{what} is damaged at byte {bad}: the block there is not the one that the image's root hash \
                             proves, {times} times in a row. Nothing of it was run. On the server: pristine image verify"
                        ));
                        return Err(Lost::Damaged { at: bad, failure });
                    }
                    Trouble::Passing { why: format!("wrong bytes at {bad}, asking again"), after: None }
                }
                Err(Stop::Trouble(trouble)) => trouble,
            };
            if at - before >= PROGRESS {
                patience.tries = 0;
            }
            patience.wait(&trouble, &format!(" from byte {at} of {}", self.size)).map_err(Lost::Other)?;
        }
        Ok(())
    }

    /// One request, from `at` on; `at` follows what the sink has taken.
    fn one_connection(&self, at: &mut u64, end: u64, sink: &mut Sink<'_>) -> std::result::Result<(), Stop> {
        let wanted = Wanted {
            path: self.path,
            from: *at,
            to: self.part.as_ref().map(|part| part.end),
            size: Some(self.size),
            in_turn: self.in_turn,
        };
        let mut answer = http::get(self.server, &wanted, LIMITS).map_err(Stop::Trouble)?;
        let mut buffer = vec![0; STEP];
        let upto = |left: u64| usize::try_from(left).unwrap_or(usize::MAX);
        // A server without ranges starts at 0: what we have already is read past.
        let mut behind = *at - answer.at;
        while behind > 0 {
            let most = upto(behind).min(buffer.len());
            let n = answer.read(buffer.get_mut(..most).unwrap_or_default()).map_err(Stop::Trouble)?;
            behind -= n as u64;
        }
        let mut filled = 0;
        let mut ended = Ok(());
        while *at + (filled as u64) < end && ended.is_ok() {
            // It also goes on behind our part.
            let room = buffer.len().min(upto(end - *at));
            match answer.read(buffer.get_mut(filled..room).unwrap_or_default()) {
                Ok(n) => filled += n,
                Err(trouble) => ended = Err(Stop::Trouble(trouble)),
            }
            // Whole blocks only, unless it is the end.
            let last = *at + filled as u64 == end;
            if filled < buffer.len() && !last && ended.is_ok() {
                continue;
            }
            let take = if last { filled } else { filled / BLOCK * BLOCK };
            match sink(*at, buffer.get(..take).unwrap_or_default()) {
                Ok(()) => *at += take as u64,
                Err(problem) => {
                    if let Problem::Wrong(wrong) = problem {
                        *at = wrong.at;
                    }
                    return Err(Stop::Problem(problem));
                }
            }
            buffer.copy_within(take..filled, 0);
            filled -= take;
        }
        ended
    }
}

/// Fetches a resource of known `size` into `sink`, in its turn. `what` names it in messages.
pub fn stream(server: SocketAddrV4, path: &str, size: u64, what: &str, sink: &mut Sink<'_>) -> Result<()> {
    let all = Download { server, path, size, part: None, what, in_turn: true, endless: &|| false };
    all.run(sink).map_err(Lost::failure)
}

/// Fetches all of a small resource: exactly `size` bytes, or at most `most` where the size isn't known.
pub fn whole(server: SocketAddrV4, path: &str, size: Option<u64>, most: u64, what: &str) -> Result<Vec<u8>> {
    let Some(size) = size else { return unsized_whole(server, path, most, what) };
    let mut out = room_for(size, what)?;
    stream(server, path, size, what, &mut |_, bytes| {
        out.extend_from_slice(bytes);
        Ok(())
    })?;
    Ok(out)
}

fn room_for(size: u64, what: &str) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    match out.try_reserve_exact(usize::try_from(size).unwrap_or(usize::MAX)) {
        Ok(()) => Ok(out),
        Err(_) => failed(format!("{what} has {size} bytes, for which there is no memory")),
    }
}

/// Starts over where a connection breaks: without a known size two answers might not belong together.
fn unsized_whole(server: SocketAddrV4, path: &str, most: u64, what: &str) -> Result<Vec<u8>> {
    let attempt = || -> std::result::Result<Result<Vec<u8>>, Trouble> {
        let wanted = Wanted { path, from: 0, to: None, size: None, in_turn: true };
        let mut answer = http::get(server, &wanted, LIMITS)?;
        if answer.left > most {
            return Ok(failed(format!("{what} has {} bytes, more than any real one", answer.left)));
        }
        let mut out = match room_for(answer.left, what) {
            Ok(out) => out,
            Err(failure) => return Ok(Err(failure)),
        };
        let mut piece = [0; BLOCK];
        while answer.left > 0 {
            let n = answer.read(&mut piece)?;
            out.extend_from_slice(piece.get(..n).unwrap_or_default());
        }
        Ok(Ok(out))
    };
    let mut patience = Patience::new(server, what);
    loop {
        match attempt() {
            Ok(result) => return result,
            Err(trouble) => patience.wait(&trouble, "")?,
        }
    }
}

/// Posts a body with the boot's token, and gives the whole answer, of at most `most` bytes. The service may say no for good, and why.
pub fn posted(
    server: SocketAddrV4,
    path: &str,
    token: &str,
    body: &str,
    most: u64,
    what: &str,
) -> Result<Vec<u8>> {
    let mut patience = Patience::new(server, what);
    loop {
        let trouble = match http::post(server, path, token, body, most, LIMITS) {
            Ok((200..=299, answer)) => return Ok(answer),
            Ok((408 | 425 | 429 | 500..=599, said)) => Trouble::Passing { why: words(&said), after: None },
            Ok((status, said)) => {
                return failed(format!("the server gives out no {what} ({status}): {}", words(&said)));
            }
            Err(trouble) => trouble,
        };
        patience.wait(&trouble, "")?;
    }
}

/// What an answer says, fit for a console.
fn words(said: &[u8]) -> String {
    String::from_utf8_lossy(said).chars().filter(|c| !c.is_control()).take(400).collect()
}

/// How often something was tried in vain.
struct Patience<'a> {
    server: SocketAddrV4,
    what: &'a str,
    /// Without progress.
    tries: u32,
    waits: u32,
    /// Waited since the server said so.
    in_line: Duration,
    endless: &'a dyn Fn() -> bool,
}

impl<'a> Patience<'a> {
    fn new(server: SocketAddrV4, what: &'a str) -> Patience<'a> {
        Patience { server, what, tries: 0, waits: 0, in_line: Duration::ZERO, endless: &|| false }
    }

    /// Sleeps before the next try; or fails, after too many.
    fn wait(&mut self, trouble: &Trouble, place: &str) -> Result<()> {
        let (server, what) = (self.server, self.what);
        let dice = random::below(1000);
        let endless = (self.endless)();
        self.waits += 1;
        let wait = match trouble {
            // It is there and asks for patience, as when a whole hall boots: no try in vain.
            Trouble::Passing { after: Some(after), .. } if self.in_line < LONGEST_LINE || endless => {
                let wait = jittered((*after).min(LONGEST_WAIT), dice);
                self.in_line += wait;
                wait
            }
            _ => {
                self.tries += 1;
                backoff(self.tries, dice)
            }
        };
        // The server may be behind an import or a restart: a few tries even where it says no.
        let most = if matches!(trouble, Trouble::Final { .. }) { 4 } else { TRIES };
        if self.tries >= most && !endless {
            return failed(format!("could not fetch {what} from http://{server}: {}", trouble.why()));
        }
        let (seconds, tries) = (wait.as_secs_f32(), self.tries);
        // Not for hours every few seconds over whatever stands on the console.
        if !endless || self.waits < 4 || self.waits.is_multiple_of(16) {
            crate::console::say(format!(
                "{what}: {}; again in {seconds:.1} s{place} (tries in vain: {tries})",
                trouble.why()
            ));
        }
        std::thread::sleep(wait);
        Ok(())
    }
}

/// A Retry-After and up to a quarter more, so that those who were told the same don't come together again.
pub fn jittered(after: Duration, dice: u64) -> Duration {
    let most = after / 4 + Duration::from_millis(250);
    after + most * u32::try_from(dice.min(1000)).unwrap_or(1000) / 1000
}

enum Stop {
    Trouble(Trouble),
    Problem(Problem),
}

#[cfg(test)]
mod tests;
