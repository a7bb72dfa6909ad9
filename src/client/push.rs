//! Pushing an image to a service: what it lacks, chunk by chunk; gone on with after a cut.

use super::{Client, ClientError};
use crate::{
    image::{
        progress::{Progress, Step},
        transfer::{TransferError, pack::Packed},
    },
    model::{
        Digest,
        wire::{UploadBegun, UploadDone, UploadTaken, unranged},
    },
};
use std::{
    thread,
    time::{Duration, Instant},
};

/// Bytes of chunks that are sent at once: what a cut loses at most.
const BATCH: usize = 2 << 20;
/// How long a push goes on without any progress.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Longest wait for the answer to a body, and to a commit.
const ANSWER: Duration = Duration::from_secs(300);
const COMMIT: Duration = Duration::from_secs(3600);
/// How often a service may say that chunks are still missing.
const ROUNDS: u32 = 20;

/// Why an image was not pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The service, or the way to it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// This host's image.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The other side loses what it gets.
    #[error(
        "the service says again and again that chunks are missing: look at its log and its disk, then push again"
    )]
    NoEnd,
}

/// What a push did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The image.
    pub image: Digest,
    /// It was there already.
    pub existed: bool,
    /// What its tag pointed to before.
    pub moved_from: Option<Digest>,
    /// Chunks that were sent.
    pub chunks: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// One push.
struct Push<'a> {
    client: &'a Client,
    packed: &'a mut Packed,
    inventory: Vec<u8>,
    image: Digest,
    move_tag: bool,
    progress: &'a dyn Progress,
    chunks: usize,
    bytes: u64,
}

/// What comes next.
enum Next {
    /// Ask what is missing.
    Begin,
    /// Send it, and commit.
    Send(UploadBegun),
}

impl Client {
    /// Pushes an image to the service. `said` is told of every cut after which it goes on.
    pub fn push(
        &self,
        packed: &mut Packed,
        move_tag: bool,
        progress: &dyn Progress,
        said: &dyn Fn(&str),
    ) -> Result<Pushed, PushError> {
        let (inventory, image) = (packed.inventory.to_bytes(), packed.inventory.image.digest);
        let mut push =
            Push { client: self, packed, inventory, image, move_tag, progress, chunks: 0, bytes: 0 };
        // Nobody there at the very beginning is no cut.
        let mut next = Next::Send(push.begin()?);
        let (mut cuts, mut rounds) = (Cuts::new(), 0);
        loop {
            let ended = match next {
                Next::Begin => push.begin().map(Ok),
                Next::Send(begun) if begun.existed => return Ok(push.pushed(None)),
                Next::Send(begun) => push.send_and_commit(&begun).map(Err),
            };
            next = match ended {
                Ok(Ok(begun)) => Next::Send(begun),
                Ok(Err(done)) => return Ok(push.pushed(Some(done))),
                Err(Failed::Missing(missing)) if rounds < ROUNDS => {
                    rounds += 1;
                    Next::Send(UploadBegun { image, existed: false, missing, bytes: 0 })
                }
                Err(Failed::Gone) if rounds < ROUNDS => {
                    rounds += 1;
                    Next::Begin
                }
                Err(Failed::Missing(_) | Failed::Gone) => return Err(PushError::NoEnd),
                Err(Failed::Cut(error)) => {
                    cuts.wait(push.bytes, error, said)?;
                    Next::Begin
                }
                Err(Failed::For(error)) => return Err(error),
            };
        }
    }
}

/// How a step of a push failed.
enum Failed {
    /// The service was not there, or went away: it may come back.
    Cut(ClientError),
    /// These chunks are still missing.
    Missing(Vec<[u64; 2]>),
    /// The service knows nothing of this upload (any more).
    Gone,
    /// For good.
    For(PushError),
}

impl From<Failed> for PushError {
    fn from(failed: Failed) -> PushError {
        match failed {
            Failed::Cut(error) => error.into(),
            Failed::For(error) => error,
            Failed::Missing(_) | Failed::Gone => PushError::NoEnd,
        }
    }
}

impl From<TransferError> for Failed {
    fn from(error: TransferError) -> Failed {
        Failed::For(error.into())
    }
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Failed {
        match error {
            ClientError::NotRunning { .. } | ClientError::Answer { .. } => Failed::Cut(error),
            ClientError::Refused { status: 408 | 429 | 502 | 503 | 504, .. } => Failed::Cut(error),
            ClientError::Refused { status: 409, body } if !body.missing.is_empty() => {
                Failed::Missing(body.missing)
            }
            error => Failed::For(error.into()),
        }
    }
}

impl Push<'_> {
    fn begin(&self) -> Result<UploadBegun, Failed> {
        let path = format!("/uploads?move_tag={}", self.move_tag);
        Ok(self.client.send_bytes("POST", &path, self.inventory.clone(), ANSWER)?)
    }

    fn send_and_commit(&mut self, begun: &UploadBegun) -> Result<UploadDone, Failed> {
        let all = self.packed.inventory.chunks.len();
        let missing = unranged(&begun.missing, all);
        let size = |n: &usize| self.packed.inventory.chunks.get(*n).map_or(0, |c| u64::from(c.chunk.len));
        let step = self.progress.begin("sending", missing.iter().map(size).sum());
        let (mut batch, mut count) = (Vec::new(), 0);
        for n in &missing {
            let bytes = self.packed.chunk(*n)?;
            batch.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
            batch.extend(bytes);
            count += 1;
            if batch.len() >= BATCH {
                self.send(std::mem::take(&mut batch), std::mem::take(&mut count), step.as_ref())?;
            }
        }
        if count > 0 {
            self.send(batch, count, step.as_ref())?;
        }
        step.done();
        let path = format!("/uploads/{}/commit?move_tag={}", self.image, self.move_tag);
        self.client.send_bytes("POST", &path, Vec::new(), COMMIT).map_err(gone)
    }

    fn send(&mut self, batch: Vec<u8>, count: usize, step: &dyn Step) -> Result<(), Failed> {
        let bytes = (batch.len() - 4 * count) as u64;
        let path = format!("/uploads/{}/chunks", self.image);
        let taken: UploadTaken = self.client.send_bytes("POST", &path, batch, ANSWER).map_err(gone)?;
        step.advance(bytes);
        self.chunks += taken.chunks;
        self.bytes += bytes;
        Ok(())
    }

    fn pushed(&self, done: Option<UploadDone>) -> Pushed {
        Pushed {
            image: self.image,
            existed: done.as_ref().is_none_or(|d| d.existed),
            moved_from: done.and_then(|d| d.moved_from),
            chunks: self.chunks,
            bytes: self.bytes,
        }
    }
}

/// An upload that was begun and isn't known any more.
fn gone(error: ClientError) -> Failed {
    match error {
        ClientError::Refused { status: 404, .. } => Failed::Gone,
        error => error.into(),
    }
}

/// Waits after cuts, longer each time, as long as there is some progress now and then.
struct Cuts {
    bytes: u64,
    since: Instant,
    wait: Duration,
}

impl Cuts {
    fn new() -> Cuts {
        Cuts { bytes: 0, since: Instant::now(), wait: Duration::from_millis(250) }
    }

    fn wait(&mut self, bytes: u64, error: ClientError, said: &dyn Fn(&str)) -> Result<(), PushError> {
        if bytes > self.bytes {
            *self = Cuts { bytes, ..Cuts::new() };
        }
        if self.since.elapsed() > PATIENCE {
            return Err(error.into());
        }
        let words = error.to_string();
        said(words.lines().next().unwrap_or_default());
        thread::sleep(self.wait);
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        Ok(())
    }
}
