//! The archive that a kernel unpacks as its initramfs: cpio, "newc" format (kernel
//! `Documentation/driver-api/early-userspace/buffer-format.rst`). Owners, times and inode numbers are
//! fixed, so that the same files give the same bytes.

use std::io::{self, Write};

const REGULAR: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// Writes entries in the order in which they are given: a folder before what is in it.
#[derive(Debug)]
pub struct Cpio<W: Write> {
    out: W,
    inode: u32,
    len: u64,
}

impl<W: Write> Cpio<W> {
    /// An empty archive.
    pub fn new(out: W) -> Cpio<W> {
        Cpio { out, inode: 0, len: 0 }
    }

    /// A folder, mode 0755. `path` has no slash in front.
    pub fn dir(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, FOLDER | 0o755, (0, 0), b"")
    }

    /// A file with these permission bits.
    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.entry(path, REGULAR | mode, (0, 0), bytes)
    }

    /// A symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.entry(path, LINK | 0o777, (0, 0), target.as_bytes())
    }

    /// A character device, mode 0600.
    pub fn char_device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.entry(path, CHARACTER_DEVICE | 0o600, (major, minor), b"")
    }

    fn entry(&mut self, path: &str, mode: u32, dev: (u32, u32), bytes: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let too_long = || io::Error::new(io::ErrorKind::InvalidInput, format!("{path} is 4 GiB or longer"));
        let size = u32::try_from(bytes.len()).map_err(|_| too_long())?;
        let links = if mode & FOLDER == FOLDER { 2 } else { 1 };
        self.head(path, [self.inode, mode, 0, 0, links, 0, size, 0, 0, dev.0, dev.1])?;
        self.pad(4)?;
        self.put(bytes)?;
        self.pad(4)
    }

    /// The header: inode, mode, uid, gid, links, mtime, size, device (2), device node (2), then the
    /// name's length and an unused checksum.
    fn head(&mut self, name: &str, fields: [u32; 11]) -> io::Result<()> {
        let mut head = String::from("070701");
        for field in fields.into_iter().chain([name.len() as u32 + 1, 0]) {
            head.push_str(&format!("{field:08x}"));
        }
        head.push_str(name);
        head.push('\0');
        self.put(head.as_bytes())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.len += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn pad(&mut self, to: u64) -> io::Result<()> {
        let missing = self.len.next_multiple_of(to) - self.len;
        self.put([0; 512].get(..missing as usize).unwrap_or(&[]))
    }

    /// Closes the archive; padded to 512 bytes, so that another may follow it.
    pub fn finish(mut self) -> io::Result<W> {
        self.head("TRAILER!!!", [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
        self.pad(512)?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::{Command, Stdio};

    fn sample() -> Vec<u8> {
        let mut c = Cpio::new(Vec::new());
        c.dir("lib").unwrap();
        c.file("lib/a.ko", 0o644, b"12345").unwrap();
        c.symlink("sbin", "lib").unwrap();
        c.char_device("console", 5, 1).unwrap();
        c.finish().unwrap()
    }

    #[test]
    fn gnu_cpio_lists_what_was_put_in() {
        let mut child = Command::new("cpio")
            .args(["-itv", "--numeric-uid-gid"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&sample()).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        let modes: Vec<&str> = text.lines().filter_map(|l| l.split_whitespace().next()).collect();
        assert_eq!(modes, ["drwxr-xr-x", "-rw-r--r--", "lrwxrwxrwx", "crw-------"]);
        assert!(text.contains("sbin -> lib") && text.contains("5,   1"), "{text}");
    }

    #[test]
    fn the_same_entries_give_the_same_bytes() {
        assert_eq!(sample(), sample());
        assert_eq!(sample().len() % 512, 0);
    }
}
