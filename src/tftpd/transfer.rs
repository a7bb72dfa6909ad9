//! One transfer as a pure state machine: what came in and what time it is, to what is sent.
//!
//! Block 0 is the OACK, blocks 1.. are DATA; here they are counted without roll-over. The rules:
//!
//! * A DATA packet is sent again only when a timer ran out or when the client says, by an
//!   acknowledgement inside the window, that it misses what follows (RFC 7440 section 4). A
//!   repeated acknowledgement never sends anything by itself (the sorcerer's apprentice, RFC 1123
//!   section 4.2.3.1): it can only draw the timer nearer, once a window.
//! * Waiting for progress is bounded, and so is the number of packets sent twice.

use super::packet::{self, DEFAULT_BLKSIZE, Options, Reply};
use crate::provisioner::TransferOutcome;
use bytes::Bytes;
use std::{ops::RangeInclusive, time::Duration};

/// Most blocks that are in flight, whatever the client asks.
pub const MAX_WINDOW: u16 = 64;
/// First wait for an acknowledgement; doubles up to [`MAX_WAIT`].
pub const FIRST_WAIT: Duration = Duration::from_millis(400);
/// Longest wait between two tries.
pub const MAX_WAIT: Duration = Duration::from_secs(3);
/// A client that makes no progress for this long has gone.
pub const GIVE_UP: Duration = Duration::from_secs(15);
/// Longest `timeout` option that is agreed to, in seconds.
const MAX_TIMEOUT_OPTION: u8 = 5;
/// A repeated acknowledgement draws the timer no nearer than this.
const SOONEST_RESEND: Duration = Duration::from_millis(20);

/// What the shell has to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send these blocks, in order, then wait until [`Transfer::deadline`].
    Send(RangeInclusive<u64>),
    /// Wait until [`Transfer::deadline`].
    Wait,
    /// It is over.
    Done(TransferOutcome),
}

/// A file on its way to one client. Times are since the transfer began.
#[derive(Debug)]
pub struct Transfer {
    file: Bytes,
    /// What the OACK says; empty: no OACK is sent.
    agreed: Options,
    blksize: u64,
    window: u64,
    /// Number of the last block; it is shorter than the others, perhaps empty.
    last: u64,
    /// Every block up to this one has arrived. `None` until the OACK is acknowledged.
    acked: Option<u64>,
    /// Highest block sent.
    sent: u64,
    /// When the current window was sent.
    sent_at: Duration,
    /// When something was last acknowledged.
    progress_at: Duration,
    deadline: Duration,
    wait: Duration,
    /// Shortest time from a window to its acknowledgement.
    rtt: Option<Duration>,
    /// The timer was drawn nearer for this window.
    hurried: bool,
    /// Blocks that may still be sent more than once.
    spare: u64,
}

impl Transfer {
    /// A transfer of `file` as `asked`, with blocks of at most `max_blksize` bytes (what the link
    /// carries without fragments). The first step is [`Transfer::start`].
    pub fn new(file: Bytes, asked: &Options, max_blksize: u16) -> Transfer {
        let agreed = Options {
            blksize: asked.blksize.map(|b| b.min(max_blksize.max(8))),
            tsize: asked.tsize,
            timeout: asked.timeout.filter(|t| *t <= MAX_TIMEOUT_OPTION),
            windowsize: asked.windowsize.map(|w| w.min(MAX_WINDOW)),
        };
        let blksize = u64::from(agreed.blksize.unwrap_or(DEFAULT_BLKSIZE));
        let last = file.len() as u64 / blksize + 1;
        let first_wait = agreed.timeout.map_or(FIRST_WAIT, |t| Duration::from_secs(t.into()));
        Transfer {
            agreed,
            blksize,
            window: agreed.windowsize.unwrap_or(1).max(1).into(),
            last,
            acked: agreed.is_empty().then_some(0),
            sent: 0,
            sent_at: Duration::ZERO,
            progress_at: Duration::ZERO,
            deadline: first_wait,
            wait: first_wait,
            rtt: None,
            hurried: false,
            spare: last.saturating_mul(16).saturating_add(1024),
            file,
        }
    }

    /// The first packets: the OACK, or the first block where no option was agreed.
    pub fn start(&mut self) -> Step {
        match self.acked {
            None => Step::Send(0..=0),
            Some(_) => self.send_window(Duration::ZERO),
        }
    }

    /// When [`Transfer::timeout`] is due.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Bytes of the packet of every block but the last one, which is shorter.
    pub fn packet_len(&self) -> usize {
        usize::try_from(self.blksize).unwrap_or(usize::MAX).saturating_add(packet::DATA_HEADER)
    }

    /// Blocks that are in flight at most.
    pub fn window(&self) -> u64 {
        self.window
    }

    /// Appends the packet of `block` to `out`.
    pub fn packet(&self, block: u64, out: &mut Vec<u8>) {
        if block == 0 {
            return packet::oack(&self.agreed, self.file.len() as u64, out);
        }
        let from = self.offset(block - 1);
        let payload = self.file.get(from..self.offset(block)).unwrap_or_default();
        packet::data((block & 0xffff) as u16, payload, out);
    }

    /// Bytes before the end of `block`.
    fn offset(&self, block: u64) -> usize {
        let bytes = block.saturating_mul(self.blksize);
        usize::try_from(bytes).unwrap_or(usize::MAX).min(self.file.len())
    }

    /// Bytes that the client has acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.offset(self.acked.unwrap_or(0)) as u64
    }

    /// A packet came from the client.
    pub fn receive(&mut self, reply: &Reply, now: Duration) -> Step {
        match reply {
            Reply::Ack(number) => self.ack(*number, now),
            Reply::Error { code, message } => Step::Done(self.client_error(*code, message)),
            Reply::Other => Step::Wait,
        }
    }

    /// The deadline passed.
    pub fn timeout(&mut self, now: Duration) -> Step {
        if now < self.deadline {
            return Step::Wait;
        }
        if now.saturating_sub(self.progress_at) >= GIVE_UP {
            return Step::Done(TransferOutcome::TimedOut { at: self.acknowledged() });
        }
        if self.agreed.timeout.is_none() {
            self.wait = (self.wait * 2).min(MAX_WAIT);
        }
        self.resend(now)
    }

    /// The network says that nobody listens at the client's port any more.
    pub fn unreachable(&self) -> TransferOutcome {
        let why = if self.acked.is_some() && self.sent == self.last {
            "closed its port with only the last window unacknowledged: it likely has the whole file"
        } else {
            "closed its port"
        };
        TransferOutcome::Aborted { at: self.acknowledged(), why: why.to_owned() }
    }

    fn client_error(&self, code: u16, message: &str) -> TransferOutcome {
        // EDK2 declines with 8, older PXE ROMs with 0, once the OACK has told them the size.
        if self.acked.is_none() && self.agreed.tsize && matches!(code, 0 | 8) {
            return TransferOutcome::Probe;
        }
        let why = format!("the client sent error {code}: {message}");
        TransferOutcome::Aborted { at: self.acknowledged(), why }
    }

    fn ack(&mut self, number: u16, now: Duration) -> Step {
        let Some(acked) = self.acked else {
            if number != 0 {
                return Step::Wait;
            }
            self.progress(0, now);
            return self.send_window(now);
        };
        // At most 64 blocks are in flight, so 16 bits tell which one is meant.
        let ahead = u64::from(number.wrapping_sub((acked & 0xffff) as u16));
        if ahead == 0 {
            self.hurry(now);
            return Step::Wait;
        }
        if ahead > self.sent - acked {
            return Step::Wait;
        }
        let block = acked + ahead;
        // Too soon to be an answer to this window: a client that acknowledges every block must not
        // get a window for each. If it does miss something, the timer is near.
        let early = self.rtt.is_some_and(|rtt| now.saturating_sub(self.sent_at) < rtt / 2);
        if block < self.sent && early {
            self.acked = Some(block);
            self.progress_at = now;
            self.hurry(now);
            return Step::Wait;
        }
        let gap = block < self.sent;
        self.progress(block, now);
        if block == self.last {
            return Step::Done(TransferOutcome::Complete { bytes: self.file.len() as u64 });
        }
        if gap { self.resend(now) } else { self.send_window(now) }
    }

    fn progress(&mut self, block: u64, now: Duration) {
        let took = now.saturating_sub(self.sent_at);
        self.rtt = Some(self.rtt.map_or(took, |rtt| rtt.min(took)));
        self.acked = Some(block);
        self.progress_at = now;
        self.wait = self.agreed.timeout.map_or(FIRST_WAIT, |t| Duration::from_secs(t.into()));
    }

    /// The client repeats itself: either the network doubled its packet, and the answer to our
    /// window is about to come, or the head of our window was lost. Waiting a few round trips
    /// tells which.
    fn hurry(&mut self, now: Duration) {
        if self.window > 1 && !self.hurried {
            self.hurried = true;
            let soon = self.rtt.map_or(FIRST_WAIT, |rtt| rtt * 4).max(SOONEST_RESEND);
            self.deadline = self.deadline.min(now + soon);
        }
    }

    fn send_window(&mut self, now: Duration) -> Step {
        self.hurried = false;
        let acked = self.acked.unwrap_or(0);
        self.sent_at = now;
        self.deadline = now + self.wait;
        self.sent = (acked + self.window).min(self.last);
        Step::Send(acked + 1..=self.sent)
    }

    /// Sends the window after the last acknowledged block, which was sent before.
    fn resend(&mut self, now: Duration) -> Step {
        let again = self.acked.map_or(1, |acked| self.sent.saturating_sub(acked));
        match self.spare.checked_sub(again) {
            Some(left) => self.spare = left,
            None => {
                let why = "it had most of the file sent to it many times over".to_owned();
                return Step::Done(TransferOutcome::Aborted { at: self.acknowledged(), why });
            }
        }
        if self.acked.is_none() {
            self.deadline = now + self.wait;
            return Step::Send(0..=0);
        }
        self.send_window(now)
    }
}

#[cfg(test)]
mod tests;
