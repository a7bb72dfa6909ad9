use super::{guard::ConnState, router::Conn, seats::Busy};
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

/// Bytes that are handed to the socket at once, at most.
const SLICE: u64 = 64 << 20;
/// Bytes of a copy, where a file can't be mapped. A reader that stands still holds 16 of them.
const COPIED: u64 = 128 << 10;
/// Bytes that are kept back until the blob is proven.
const KEPT_BACK: u64 = 1 << 20;

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
    /// What it must have written by the end, at least (the head besides); `None` until the last slice is handed over.
    needs: Option<u64>,
    tell: Option<Tell>,
    /// Who is being answered stays.
    _busy: Arc<Busy>,
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

/// A response body of a known length, from memory and from a blob. What is of the blob is handed over as it is mapped, and
/// looked at by nobody here: it comes from the disk when it is sent.
pub(super) struct PieceBody {
    content: Option<Arc<Content>>,
    pieces: VecDeque<Piece>,
    /// What can't be mapped, as a thread that may block reads it from the disk.
    loading: Option<JoinHandle<io::Result<Bytes>>>,
    left: u64,
    /// Bytes in all.
    length: u64,
    receipt: Option<Receipt>,
    proof: Option<Proof>,
}

impl PieceBody {
    /// `tell` is called once, when the last byte has gone out or when none can any more.
    pub(super) fn new(
        content: Option<Arc<Content>>,
        pieces: impl IntoIterator<Item = Piece>,
        conn: Conn,
        tell: Option<Tell>,
    ) -> PieceBody {
        let pieces: VecDeque<Piece> = pieces.into_iter().filter(|piece| piece.len() > 0).collect();
        let left = pieces.iter().map(Piece::len).sum();
        let Conn { state, busy, .. } = conn;
        let began = state.written();
        state.response_begins(content.clone());
        let needs = (left == 0).then_some(began);
        let receipt = Some(Receipt { conn: state, began, needs, tell, _busy: busy });
        PieceBody { content, pieces, loading: None, left, length: left, receipt, proof: None }
    }

    /// Keeps the last bytes back until that is proven: nobody takes for whole what isn't.
    pub(super) fn after(self, proof: Option<Proof>) -> PieceBody {
        PieceBody { proof, ..self }
    }

    /// The next slice, at most as long.
    fn poll_slice(&mut self, cx: &mut Context<'_>, longest: u64) -> Poll<io::Result<Bytes>> {
        let slice = match (self.pieces.front_mut(), &self.content) {
            (Some(Piece::Text(bytes)), _) => std::mem::take(bytes),
            (Some(Piece::Blob(range)), Some(content)) => {
                let next = range.start..range.end.min(range.start.saturating_add(longest));
                let slice = match content.unread(next.clone()) {
                    Some(slice) => slice,
                    None => {
                        let (content, next) = (
                            Arc::clone(content),
                            next.start..next.end.min(next.start.saturating_add(COPIED)),
                        );
                        let loading =
                            self.loading.get_or_insert_with(|| spawn_blocking(move || content.load(next)));
                        let loaded = ready!(Pin::new(loading).poll(cx));
                        self.loading = None;
                        loaded.map_err(io::Error::other).and_then(|slice| slice)?
                    }
                };
                range.start += slice.len() as u64;
                slice
            }
            (Some(Piece::Blob(_)), None) => {
                return Poll::Ready(Err(io::Error::other("a blob body without a blob")));
            }
            (None, _) => Bytes::new(),
        };
        if self.pieces.front().is_some_and(|piece| matches!(piece, Piece::Text(_)) || piece.len() == 0) {
            self.pieces.pop_front();
        }
        if slice.is_empty() {
            Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
        } else {
            Poll::Ready(Ok(slice))
        }
    }

    /// What is handed over next; with the last of it goes the receipt.
    fn hand_over(&mut self, slice: Bytes) -> Frame<Bytes> {
        self.left = self.left.saturating_sub(slice.len() as u64);
        match self.receipt.take() {
            Some(mut receipt) if self.left == 0 => {
                receipt.needs = Some(receipt.began.saturating_add(self.length));
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
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let mut longest = SLICE;
        if let Some(proof) = &mut this.proof {
            if this.left <= KEPT_BACK {
                ready!(proof.as_mut().poll(cx))?;
                this.proof = None;
            } else {
                longest = longest.min(this.left - KEPT_BACK);
            }
        }
        let slice = ready!(this.poll_slice(cx, longest))?;
        Poll::Ready(Some(Ok(this.hand_over(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
