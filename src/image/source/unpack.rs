//! Packed archives: told by their first bytes, unpacked once into a file that has no name (a kill
//! leaves nothing behind), with the digests of both forms computed on the way.

use super::{
    Options,
    bounds::{Exceeded, Used},
    content::{Backing, BackingReader},
    error::{ArchiveFault, SourceError},
};
use crate::{
    image::{
        copy::{self, CopyError, Verity},
        progress::Step,
        spool,
    },
    model::Digest,
};
use sha2::{Digest as _, Sha256};
use std::{
    cell::RefCell,
    io::{self, BufReader, Read},
};

/// What an archive may unpack to whatever its size: a small one may well hold a large empty file.
const RATIO_FROM: u64 = 1 << 30;
/// Memory that unpacking xz may take; `xz -9` needs 65 MiB.
const XZ_MEMORY: u64 = 256 << 20;

/// How an archive is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
    Xz,
}

impl Packing {
    /// By the first bytes.
    pub fn of(head: &[u8]) -> Result<Packing, ArchiveFault> {
        Ok(match head {
            [0x1f, 0x8b, ..] => Packing::Gzip,
            // The second form is a frame to skip, with which some writers begin.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Packing::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Packing::Xz,
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, ..] => {
                return Err(ArchiveFault::Packed { how: "bzip2", tool: "bzip2" });
            }
            [b'L', b'Z', b'I', b'P', ..] => return Err(ArchiveFault::Packed { how: "lzip", tool: "lzip" }),
            [0x04, 0x22, 0x4d, 0x18, ..] => return Err(ArchiveFault::Packed { how: "lz4", tool: "lz4" }),
            _ => Packing::Plain,
        })
    }

    fn word(self) -> &'static str {
        match self {
            Packing::Plain => "tar",
            Packing::Gzip => "gzip",
            Packing::Zstd => "zstd",
            Packing::Xz => "xz",
        }
    }
}

/// An archive in its plain form.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub plain: Backing,
    /// Of the bytes as they were given.
    pub stored: Digest,
    /// Of the plain archive; the same where it came so.
    pub unpacked: Digest,
}

/// Unpacks `from`, called `label`. `step` learns of the bytes as they are read.
pub(super) fn unpack(
    from: &Backing,
    label: &str,
    options: &Options,
    used: &mut Used,
    step: &dyn Step,
) -> Result<Unpacked, SourceError> {
    let archive = |fault| SourceError::Archive { archive: label.to_owned(), fault };
    let mut head = [0; 8];
    let got = from.read_at(&mut head, 0).map_err(|e| archive(ArchiveFault::Read(e)))?;
    let packing = Packing::of(head.get(..got).unwrap_or_default()).map_err(archive)?;
    if packing == Packing::Plain {
        let copied = copy::copy(from.reader(), io::sink(), Verity::No, 0, &|n| step.advance(n));
        let copied = copied.map_err(|e| archive(ArchiveFault::Read(e.into_io())))?;
        from.check_unchanged().map_err(|e| archive(ArchiveFault::Read(e)))?;
        let digest = copied.blob.digest;
        return Ok(Unpacked { plain: from.clone(), stored: digest, unpacked: digest });
    }

    let spool_error = |source| SourceError::Spool { dir: options.spool.clone(), source };
    let spool = spool::file(&options.spool).map_err(spool_error)?;
    let left = options.bounds.unpacked_bytes.saturating_sub(used.unpacked_bytes);
    let ratio = from.len().saturating_mul(options.bounds.ratio).saturating_add(RATIO_FROM);
    let tap = RefCell::new(Tap { from: from.reader(), hasher: Sha256::new(), step });
    let buffered = BufReader::with_capacity(256 << 10, Shared(&tap));
    let xz = || liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED);
    let decoder: Box<dyn Read + '_> = match packing {
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered)),
        Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(buffered).map_err(spool_error)?),
        Packing::Xz => Box::new(liblzma::bufread::XzDecoder::new_stream(
            buffered,
            xz().map_err(|e| spool_error(e.into()))?,
        )),
        Packing::Plain => Box::new(buffered),
    };
    let bounded = Bounded { from: decoder, left: left.min(ratio) };
    let copied = copy::copy(bounded, &spool, Verity::No, 0, &|_| ());
    let copied = copied.map_err(|e| match e {
        CopyError::Write(source) => spool_error(source),
        CopyError::Read(e) if e.get_ref().is_some_and(|e| e.is::<TooMuch>()) => archive(if ratio < left {
            ArchiveFault::Bomb { packed: from.len(), limit: ratio }
        } else {
            let limit = options.bounds.unpacked_bytes;
            ArchiveFault::Exceeded(Exceeded { what: "bytes once unpacked", limit })
        }),
        CopyError::Read(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            archive(ArchiveFault::Truncated("in the middle of packed data"))
        }
        CopyError::Read(source) => archive(ArchiveFault::Unpack { how: packing.word(), source }),
    })?;
    used.unpacked(&options.bounds, copied.blob.size).map_err(|e| archive(e.into()))?;
    // What a decoder leaves behind counts in the digest.
    io::copy(&mut Shared(&tap), &mut io::sink()).map_err(|e| archive(ArchiveFault::Read(e)))?;
    from.check_unchanged().map_err(|e| archive(ArchiveFault::Read(e)))?;
    let stored = Digest(tap.into_inner().hasher.finalize().into());
    let plain = Backing::spooled(spool, copied.blob.size);
    Ok(Unpacked { plain, stored, unpacked: copied.blob.digest })
}

/// Hashes what is read.
struct Tap<'a> {
    from: BackingReader,
    hasher: Sha256,
    step: &'a dyn Step,
}

/// A decoder takes its reader for itself; what it leaves unread is read after it.
struct Shared<'a, 'b>(&'a RefCell<Tap<'b>>);

impl Read for Shared<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut tap = self.0.borrow_mut();
        let n = tap.from.read(buf)?;
        tap.hasher.update(buf.get(..n).unwrap_or_default());
        tap.step.advance(n as u64);
        Ok(n)
    }
}

/// Ends with an error where more comes than is allowed.
struct Bounded<R> {
    from: R,
    left: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("more than the bound")]
struct TooMuch;

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buf)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| io::Error::other(TooMuch))?;
        Ok(n)
    }
}
