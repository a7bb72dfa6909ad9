//! How an initramfs is packed: as well as its kernel can unpack, which the kernel's configuration tells.

use flate2::{Compression, write::GzEncoder};
use liblzma::{
    stream::{Check, Stream},
    write::XzEncoder,
};
use std::io::{self, Write};

/// zstd's level: those above take many times the time for a tenth.
const ZSTD_LEVEL: i32 = 12;

/// A way to pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Not at all: larger on the wire, no unpacking on the machine.
    Plain,
    /// Every kernel that has an initramfs unpacks it.
    Gzip,
    /// Smallest, and slow to unpack.
    Xz,
    /// Small and quick: Linux 5.9 and later, where it is configured.
    Zstd,
}

impl Packing {
    /// The best that the kernel with this configuration (`config-VERSION`) unpacks; gzip where it says nothing.
    pub fn best(config: &str) -> Packing {
        let has =
            |option: &str| config.lines().any(|line| line.trim_end().strip_suffix("=y") == Some(option));
        if has("CONFIG_RD_ZSTD") {
            Packing::Zstd
        } else if has("CONFIG_RD_XZ") {
            Packing::Xz
        } else {
            Packing::Gzip
        }
    }

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Packing::Plain => "none",
            Packing::Gzip => "gzip",
            Packing::Xz => "xz",
            Packing::Zstd => "zstd",
        }
    }
}

/// Packs what is written to it.
pub(super) enum Packer<W: Write> {
    Plain(W),
    Gzip(GzEncoder<W>),
    Xz(Box<XzEncoder<W>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, W>>),
}

impl<W: Write> Packer<W> {
    pub fn new(packing: Packing, out: W) -> io::Result<Packer<W>> {
        Ok(match packing {
            Packing::Plain => Packer::Plain(out),
            Packing::Gzip => Packer::Gzip(GzEncoder::new(out, Compression::new(6))),
            // The kernel's decoder checks CRC32 and no other sum.
            Packing::Xz => {
                let stream = Stream::new_easy_encoder(6, Check::Crc32)?;
                Packer::Xz(Box::new(XzEncoder::new_stream(out, stream)))
            }
            Packing::Zstd => Packer::Zstd(Box::new(zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?)),
        })
    }

    pub fn finish(self) -> io::Result<W> {
        let mut out = match self {
            Packer::Plain(out) => out,
            Packer::Gzip(out) => out.finish()?,
            Packer::Xz(out) => out.finish()?,
            Packer::Zstd(out) => out.finish()?,
        };
        out.flush()?;
        Ok(out)
    }
}

impl<W: Write> Write for Packer<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Packer::Plain(out) => out.write(buf),
            Packer::Gzip(out) => out.write(buf),
            Packer::Xz(out) => out.write(buf),
            Packer::Zstd(out) => out.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Packer::Plain(out) => out.flush(),
            Packer::Gzip(out) => out.flush(),
            Packer::Xz(out) => out.flush(),
            Packer::Zstd(out) => out.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_kernels_configuration_tells() {
        let zstd = "CONFIG_RD_GZIP=y\nCONFIG_RD_XZ=y\nCONFIG_RD_ZSTD=y\n";
        assert_eq!(Packing::best(zstd), Packing::Zstd);
        assert_eq!(Packing::best("CONFIG_RD_XZ=y\n# CONFIG_RD_ZSTD is not set\n"), Packing::Xz);
        assert_eq!(Packing::best("CONFIG_RD_GZIP=y\n"), Packing::Gzip);
        assert_eq!(Packing::best(""), Packing::Gzip);
    }

    #[test]
    fn each_formats_own_tool_unpacks_it() {
        let text = "modules ".repeat(100_000);
        for (packing, tool) in [(Packing::Gzip, "gzip"), (Packing::Xz, "xz"), (Packing::Zstd, "zstd")] {
            let mut packer = Packer::new(packing, Vec::new()).unwrap();
            packer.write_all(text.as_bytes()).unwrap();
            let packed = packer.finish().unwrap();
            assert!(packed.len() < text.len() / 10);
            let mut child =
                Command::new(tool).arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(&packed).unwrap();
            assert!(child.wait_with_output().unwrap().stdout == text.as_bytes(), "{tool}");
        }
    }
}
