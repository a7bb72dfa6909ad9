//! The list of what an image is made of, as it travels. All numbers are little-endian.
//!
//! ```text
//! manifest:   u32 length, bytes
//! signatures: u32 count, each: u32 length, text
//! builds on:  u8 0, or u8 1, SHA-256 of the old image's manifest, u32 length, its tag,
//!             u32 count of its blobs, each: SHA-256, u64 size
//! chunks:     u32 count, each: SHA-256, u32 length, u32 0xffffffff (it travels)
//!             or u32 number of a blob of the old image, u64 its place there
//! blobs:      u32 count, each: u32 count of its chunks, u32 number of each
//! ```

use super::TransferError;
use crate::{
    model::{BlobRef, Digest, Image, Manifest, Tag},
    store::chunk::{self, ChunkRef},
};
use pristine_signature::{MAX_SIGNATURE, MAX_SIGNATURES, Signature};
use std::collections::HashSet;

/// Longest inventory, in bytes: that of an image of some 90 GiB.
pub const MAX_INVENTORY: u64 = 64 << 20;
/// Longest manifest.
const MAX_MANIFEST: usize = 1 << 20;
/// Longest tag.
const MAX_TAG: usize = 512;
/// Most blobs of an image.
const MAX_BLOBS: usize = 1024;
/// Stands for a chunk that travels.
const TRAVELS: u32 = u32::MAX;

/// What an image is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// The image.
    pub image: Image,
    /// Its manifest's own bytes.
    pub manifest: Vec<u8>,
    /// Who vouches for it; not checked here.
    pub signatures: Vec<String>,
    /// What the receiver must have.
    pub since: Option<Since>,
    /// Every chunk once, in the order in which they are first needed.
    pub chunks: Vec<Listed>,
    /// Every blob once, in the manifest's order.
    pub blobs: Vec<Parts>,
}

/// The image that an archive builds on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Since {
    /// Its identity.
    pub digest: Digest,
    /// Its tag.
    pub tag: Tag,
    /// Its blobs.
    pub blobs: Vec<BlobRef>,
}

/// A chunk, and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub chunk: ChunkRef,
    /// Where it is: in that blob of [`Since::blobs`], from that byte on. `None` for one that travels.
    pub old: Option<(usize, u64)>,
}

/// A blob as numbers of chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Its name.
    pub blob: BlobRef,
    /// Its chunks in order.
    pub chunks: Vec<usize>,
}

/// The blobs of a manifest, each once.
pub fn distinct(manifest: &Manifest) -> Vec<BlobRef> {
    let mut seen = HashSet::new();
    manifest.blobs().filter(|blob| seen.insert(blob.digest)).collect()
}

impl Inventory {
    /// Bytes of the chunks that travel.
    pub fn travelling(&self) -> u64 {
        self.chunks.iter().filter(|c| c.old.is_none()).map(|c| u64::from(c.chunk.len)).sum()
    }

    /// Bytes of all blobs.
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().fold(0, |sum, b| sum.saturating_add(b.blob.size))
    }

    /// As bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let number =
            |out: &mut Vec<u8>, n: usize| out.extend(u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes());
        let text = |out: &mut Vec<u8>, bytes: &[u8]| {
            number(out, bytes.len());
            out.extend(bytes);
        };
        text(&mut out, &self.manifest);
        number(&mut out, self.signatures.len());
        self.signatures.iter().for_each(|s| text(&mut out, s.as_bytes()));
        out.push(self.since.is_some().into());
        if let Some(since) = &self.since {
            out.extend(since.digest.0);
            text(&mut out, since.tag.to_string().as_bytes());
            number(&mut out, since.blobs.len());
            for blob in &since.blobs {
                out.extend(blob.digest.0);
                out.extend(blob.size.to_le_bytes());
            }
        }
        number(&mut out, self.chunks.len());
        for Listed { chunk, old } in &self.chunks {
            out.extend(chunk.digest.0);
            out.extend(chunk.len.to_le_bytes());
            match old {
                None => out.extend(TRAVELS.to_le_bytes()),
                Some((blob, place)) => {
                    number(&mut out, *blob);
                    out.extend(place.to_le_bytes());
                }
            }
        }
        number(&mut out, self.blobs.len());
        for parts in &self.blobs {
            number(&mut out, parts.chunks.len());
            parts.chunks.iter().for_each(|n| number(&mut out, *n));
        }
        out
    }

    /// Reads one. What it says of lengths and numbers is consistent then; what the chunks hold is not known.
    pub fn parse(bytes: &[u8]) -> Result<Inventory, TransferError> {
        let mut from = From(bytes);
        let manifest = from.text(MAX_MANIFEST)?.to_vec();
        let read: Manifest =
            serde_json::from_slice(&manifest).map_err(|_| wrong("its manifest can't be read"))?;
        if read.schema != 1 {
            return Err(wrong("its manifest is of a newer version of Pristine: upgrade this one"));
        }
        // Or else storing it would give another digest.
        if read.to_bytes().ok().as_ref() != Some(&manifest) {
            return Err(wrong("its manifest isn't written as manifests are"));
        }
        let image = Image { digest: Digest::of(&manifest), manifest: read };
        let mut signatures = Vec::new();
        for _ in 0..from.count(MAX_SIGNATURES)? {
            let text = std::str::from_utf8(from.text(MAX_SIGNATURE)?).ok();
            let signature = text.and_then(|t| Signature::parse(t).ok());
            signatures.push(signature.ok_or_else(|| wrong("a signature can't be read"))?.to_string());
        }
        let since = match from.take::<1>()? {
            [0] => None,
            [1] => Some(from.since()?),
            _ => return Err(wrong("it builds on something unknown")),
        };
        let mut chunks = Vec::new();
        for _ in 0..from.number()? {
            chunks.push(from.listed(since.as_ref())?);
        }
        let mut seen = HashSet::new();
        if !chunks.iter().all(|c| seen.insert(c.chunk)) {
            return Err(wrong("a chunk is in it twice"));
        }
        let wanted = distinct(&image.manifest);
        if from.count(MAX_BLOBS)? != wanted.len() {
            return Err(wrong("it hasn't the blobs that the manifest names"));
        }
        let (mut blobs, mut next) = (Vec::new(), 0);
        for blob in wanted {
            blobs.push(from.parts(blob, &chunks, &mut next)?);
        }
        if next != chunks.len() || !from.0.is_empty() {
            return Err(wrong("it holds more than the image needs"));
        }
        Ok(Inventory { image, manifest, signatures, since, chunks, blobs })
    }
}

fn wrong(what: &'static str) -> TransferError {
    TransferError::Inventory(what)
}

/// Bytes that are yet to be read.
struct From<'a>(&'a [u8]);

impl<'a> From<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], TransferError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or_else(|| wrong("it is cut short"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn number(&mut self) -> Result<u32, TransferError> {
        self.take().map(u32::from_le_bytes)
    }

    fn count(&mut self, most: usize) -> Result<usize, TransferError> {
        let n = self.number()? as usize;
        if n > most { Err(wrong("it counts more than there can be")) } else { Ok(n) }
    }

    fn text(&mut self, longest: usize) -> Result<&'a [u8], TransferError> {
        let len = self.count(longest)?;
        let (taken, rest) = self.0.split_at_checked(len).ok_or_else(|| wrong("it is cut short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn since(&mut self) -> Result<Since, TransferError> {
        let digest = Digest(self.take()?);
        let tag = std::str::from_utf8(self.text(MAX_TAG)?).ok().and_then(|t| t.parse().ok());
        let tag = tag.ok_or_else(|| wrong("it builds on an image without a name"))?;
        let mut blobs = Vec::new();
        for _ in 0..self.count(MAX_BLOBS)? {
            blobs.push(BlobRef { digest: Digest(self.take()?), size: u64::from_le_bytes(self.take()?) });
        }
        Ok(Since { digest, tag, blobs })
    }

    fn listed(&mut self, since: Option<&Since>) -> Result<Listed, TransferError> {
        let chunk = ChunkRef { digest: Digest(self.take()?), len: self.number()? };
        let old = match self.number()? {
            TRAVELS => None,
            blob => {
                let (blob, place) = (blob as usize, u64::from_le_bytes(self.take()?));
                let end = place.checked_add(chunk.len.into());
                let size = since.and_then(|s| s.blobs.get(blob)).map(|b| b.size);
                if end.zip(size).is_none_or(|(end, size)| end > size) {
                    return Err(wrong("a chunk lies outside of the old image"));
                }
                Some((blob, place))
            }
        };
        Ok(Listed { chunk, old })
    }

    /// A blob's chunks. `next` is the lowest number that no blob before has used.
    fn parts(&mut self, blob: BlobRef, known: &[Listed], next: &mut usize) -> Result<Parts, TransferError> {
        let count = self.number()?;
        if u64::from(count) > chunk::most(blob.size) {
            return Err(wrong("a blob has more chunks than it can have"));
        }
        let (mut chunks, mut refs) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let n = self.number()? as usize;
            let listed = known.get(n).filter(|_| n <= *next);
            refs.push(listed.ok_or_else(|| wrong("a blob names chunks out of order"))?.chunk);
            *next += usize::from(n == *next);
            chunks.push(n);
        }
        if !chunk::fits(&refs, blob.size) {
            return Err(wrong("the chunks of a blob don't add up to it"));
        }
        Ok(Parts { blob, chunks })
    }
}
