use super::guard::ConnState;
use crate::store::content::Content;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::{
    collections::VecDeque,
    future::Future,
    io,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::task::{JoinHandle, spawn_blocking};

/// Bytes that are handed to the socket at once.
const SLICE: usize = 1 << 20;

/// How much of a response went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    /// The kernel has taken the last byte. That the client has it too is for the client to say.
    pub(super) complete: bool,
    /// Bytes that the kernel took, headers included.
    pub(super) bytes: u64,
}

pub(super) type Tell = Box<dyn FnOnce(Delivery) + Send + Sync>;

/// Resolves when the last bytes may go out, or to why they may not: then the response breaks off.
pub(super) type Proof = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// Tells once, on drop, how a response went.
struct Receipt {
    conn: Arc<ConnState>,
    /// What the connection had written when the response began.
    began: u64,
    /// What it must have written by the end, at least; `None` until the last slice is handed over.
    needs: Option<u64>,
    tell: Option<Tell>,
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let written = self.conn.written();
        self.conn.response_ends();
        let complete = !self.conn.is_dead() && self.needs.is_some_and(|needs| written >= needs);
        if let Some(tell) = self.tell.take() {
            tell(Delivery { complete, bytes: written.saturating_sub(self.began) });
        }
    }
}

/// The last slice: hyper drops it when the socket has taken it, or when the connection is over.
struct LastSlice {
    bytes: Bytes,
    /// Never read: its drop is what counts.
    _receipt: Receipt,
}

impl AsRef<[u8]> for LastSlice {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A part of a response body.
pub(super) enum Piece {
    /// These bytes.
    Text(Bytes),
    /// These bytes of the blob.
    Blob(Range<u64>),
}

impl Piece {
    pub(super) fn len(&self) -> u64 {
        match self {
            Piece::Text(bytes) => bytes.len() as u64,
            Piece::Blob(range) => range.end.saturating_sub(range.start),
        }
    }
}

/// The next window of the blob.
enum Ahead {
    /// It lies in memory.
    Ready(Vec<Bytes>),
    /// A thread that may block reads it from the disk.
    Loading(JoinHandle<io::Result<Vec<Bytes>>>),
}

/// A response body of a known length, from memory and from a blob, that loads the next window of
/// the blob while the last one is sent.
pub(super) struct PieceBody {
    content: Option<Arc<Content>>,
    pieces: VecDeque<Piece>,
    /// Loaded and not yet handed over; belongs in front of `pieces`.
    window: VecDeque<Bytes>,
    ahead: Option<Ahead>,
    left: u64,
    receipt: Option<Receipt>,
    proof: Option<Proof>,
}

impl PieceBody {
    /// `tell` is called once, when the last byte has gone out or when none can any more.
    pub(super) fn new(
        content: Option<Arc<Content>>,
        pieces: impl IntoIterator<Item = Piece>,
        conn: Arc<ConnState>,
        tell: Option<Tell>,
    ) -> PieceBody {
        let pieces: VecDeque<Piece> = pieces.into_iter().filter(|piece| piece.len() > 0).collect();
        let left = pieces.iter().map(Piece::len).sum();
        conn.sends(content.as_ref());
        let began = conn.written();
        let needs = (left == 0).then_some(began);
        conn.response_begins();
        let receipt = Some(Receipt { conn, began, needs, tell });
        PieceBody { content, pieces, window: VecDeque::new(), ahead: None, left, receipt, proof: None }
    }

    /// Keeps the last slice back until that is proven: nobody takes for whole what isn't.
    pub(super) fn after(self, proof: Option<Proof>) -> PieceBody {
        PieceBody { proof, ..self }
    }

    /// Begins to load what follows, if it is of the blob and that was not begun.
    fn load_ahead(&mut self) {
        if let (None, Some(Piece::Blob(range)), Some(content)) =
            (&self.ahead, self.pieces.front(), &self.content)
        {
            self.ahead = Some(match content.ready(range.clone()) {
                Some(window) => Ahead::Ready(window),
                None => {
                    let (content, range) = (Arc::clone(content), range.clone());
                    Ahead::Loading(spawn_blocking(move || content.load(range)))
                }
            });
        }
    }

    /// Takes the slice from `bytes` that is handed over next.
    fn hand_over(&mut self, slice: Bytes) -> Frame<Bytes> {
        let len = slice.len() as u64;
        self.left = self.left.saturating_sub(len);
        match self.receipt.take() {
            Some(mut receipt) if self.left == 0 => {
                receipt.needs = Some(receipt.conn.written() + len);
                Frame::data(Bytes::from_owner(LastSlice { bytes: slice, _receipt: receipt }))
            }
            receipt => {
                self.receipt = receipt;
                Frame::data(slice)
            }
        }
    }
}

impl Body for PieceBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        loop {
            if let Some(mut bytes) = this.window.pop_front() {
                if bytes.len() <= SLICE
                    && bytes.len() as u64 == this.left
                    && let Some(proof) = &mut this.proof
                {
                    match proof.as_mut().poll(cx) {
                        Poll::Ready(Ok(())) => this.proof = None,
                        Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                        Poll::Pending => {
                            this.window.push_front(bytes);
                            return Poll::Pending;
                        }
                    }
                }
                let slice = bytes.split_to(bytes.len().min(SLICE));
                if !bytes.is_empty() {
                    this.window.push_front(bytes);
                }
                return Poll::Ready(Some(Ok(this.hand_over(slice))));
            }
            match this.pieces.front_mut() {
                None => return Poll::Ready(None),
                Some(Piece::Text(bytes)) => {
                    this.window.push_back(std::mem::take(bytes));
                    this.pieces.pop_front();
                }
                Some(Piece::Blob(_)) => {
                    this.load_ahead();
                    let loaded = match &mut this.ahead {
                        Some(Ahead::Ready(window)) => Ok(std::mem::take(window)),
                        Some(Ahead::Loading(loading)) => ready!(Pin::new(loading).poll(cx))
                            .map_err(io::Error::other)
                            .and_then(|window| window),
                        None => Err(io::Error::other("a blob body without a blob")),
                    };
                    this.ahead = None;
                    match loaded {
                        Ok(window) => this.window = window.into(),
                        Err(error) => return Poll::Ready(Some(Err(error))),
                    }
                    if let Some(Piece::Blob(range)) = this.pieces.front_mut() {
                        range.start += this.window.iter().map(|slice| slice.len() as u64).sum::<u64>();
                        if range.start >= range.end {
                            this.pieces.pop_front();
                        }
                    }
                }
            }
            this.load_ahead();
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
