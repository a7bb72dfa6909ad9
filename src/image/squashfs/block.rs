//! One compressed block: zstd where that makes it smaller.

use std::io;

/// Level of zstd: levels above take twice the time for one or two percent.
pub(super) const LEVEL: i32 = 9;

/// A block as it is stored.
#[derive(Debug)]
pub(super) struct Packed {
    pub bytes: Vec<u8>,
    /// Compressed; else as it was.
    pub compressed: bool,
}

pub(super) struct Compressor(zstd::bulk::Compressor<'static>);

impl Compressor {
    pub fn new() -> io::Result<Compressor> {
        zstd::bulk::Compressor::new(LEVEL).map(Compressor)
    }

    pub fn pack(&mut self, plain: Vec<u8>) -> io::Result<Packed> {
        let packed = self.0.compress(&plain)?;
        Ok(if packed.len() < plain.len() {
            Packed { bytes: packed, compressed: true }
        } else {
            Packed { bytes: plain, compressed: false }
        })
    }
}
