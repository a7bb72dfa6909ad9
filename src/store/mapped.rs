//! Files that never change, mapped: a stretch of one is a slice, whose pages come from the disk when somebody looks at them.

use crate::sys;
use bytes::Bytes;
use memmap2::{Advice, Mmap};
use std::{fs::File, io, ops::Range, os::unix::fs::FileExt as _, sync::Arc};

/// Bytes that are read at once where mapping fails.
const READ_WINDOW: u64 = 1 << 20;

/// An open file that nobody changes.
#[derive(Debug)]
pub enum Mapped {
    /// Mapped.
    Map {
        /// All of it.
        bytes: Bytes,
        /// The mapping that `bytes` owns too.
        map: Arc<Mmap>,
        /// What is mapped.
        file: File,
    },
    /// Where mapping fails.
    File(File),
}

/// Where a slice lies in a file.
#[derive(Debug)]
pub struct Place {
    /// Which file.
    pub file: Arc<Mapped>,
    /// Where in it.
    pub offset: u64,
    /// Bytes.
    pub len: usize,
}

/// Lets `Bytes` own a mapping.
struct Owner(Arc<Mmap>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Mapped {
    /// Maps `file`, which has `size` bytes.
    pub fn new(file: File, size: u64) -> Mapped {
        // Advice, that more is read ahead: it is sent from its beginning to its end.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        match sys::map_readonly(&file) {
            Ok(map) if map.len() as u64 == size => {
                let map = Arc::new(map);
                Mapped::Map { bytes: Bytes::from_owner(Owner(Arc::clone(&map))), map, file }
            }
            _ => Mapped::File(file),
        }
    }

    /// What is mapped, for those who can have the kernel send from it.
    pub fn file(&self) -> &File {
        match self {
            Mapped::Map { file, .. } | Mapped::File(file) => file,
        }
    }

    /// Where in the file a slice of this mapping lies.
    pub fn offset_of(&self, slice: &[u8]) -> Option<u64> {
        let Mapped::Map { map, .. } = self else { return None };
        let offset = slice.as_ptr().addr().checked_sub(map.as_ptr().addr())?;
        let within = offset.checked_add(slice.len()).is_some_and(|end| end <= map.len());
        within.then_some(offset as u64)
    }

    /// Whether the byte at `at` would be read without the disk, as far as one can tell.
    pub fn is_in_memory(&self, at: u64) -> bool {
        let Mapped::Map { map, .. } = self else { return true };
        usize::try_from(at).is_ok_and(|at| sys::is_in_memory(map, at))
    }

    /// `range` as it is mapped; `None` where mapping fails. Whoever looks at its bytes may wait for the disk; to have the
    /// kernel send them is no look.
    pub fn unread(&self, range: &Range<u64>) -> Option<Bytes> {
        let Mapped::Map { bytes, .. } = self else { return None };
        let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
        (start <= end && end <= bytes.len()).then(|| bytes.slice(start..end))
    }

    /// Loads `range`, or its beginning where it must be copied. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's; also where the file has become shorter.
    pub fn load(&self, range: Range<u64>) -> io::Result<Bytes> {
        let len = range.end.saturating_sub(range.start);
        match self {
            Mapped::Map { bytes, map, .. } => {
                let start = usize::try_from(range.start).map_err(io::Error::other)?;
                let len = usize::try_from(len).map_err(io::Error::other)?;
                let end = start.checked_add(len).filter(|end| *end <= bytes.len());
                let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
                populate(map, start, len)?;
                Ok(bytes.slice(start..end))
            }
            Mapped::File(file) => {
                let len = usize::try_from(len.min(READ_WINDOW)).map_err(io::Error::other)?;
                let mut buffer = vec![0; len];
                file.read_exact_at(&mut buffer, range.start)?;
                Ok(buffer.into())
            }
        }
    }
}

/// Whether an error of reading says that the bytes are lost, and not that this process, or the machine, is
/// short of something for now: what is only out of reach must not be marked as damaged.
pub fn is_damage(e: &io::Error) -> bool {
    use rustix::io::Errno;
    e.kind() == io::ErrorKind::UnexpectedEof
        // EFAULT is what madvise(MADV_POPULATE_READ) says for a page that can't be read.
        || [Errno::IO, Errno::FAULT, Errno::HWPOISON].iter().any(|n| e.raw_os_error() == Some(n.raw_os_error()))
}

/// Brings pages into memory, so that no async thread faults on them. Linux 5.14 does it in one
/// call, and says where the disk or the file fails instead of killing us; before it, each page is
/// touched.
fn populate(map: &Mmap, start: usize, len: usize) -> io::Result<()> {
    match map.advise_range(Advice::PopulateRead, start, len) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let pages = map.get(start..start + len).unwrap_or_default().iter().step_by(4096);
            std::hint::black_box(pages.fold(0u8, |sum, byte| sum ^ byte));
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::store::{chunk::tests::noise, testing::TempDir};

    const SIZE: u64 = (4 << 20) + 5000;

    fn file(dir: &TempDir) -> (File, Vec<u8>) {
        let bytes = noise(1, SIZE as usize);
        std::fs::write(dir.path().join("file"), &bytes).unwrap();
        let open = File::options().read(true).write(true).open(dir.path().join("file"));
        (open.unwrap(), bytes)
    }

    fn whole(mapped: &Mapped) -> Vec<u8> {
        let mut got = Vec::new();
        while (got.len() as u64) < SIZE {
            got.extend_from_slice(&mapped.load(got.len() as u64..SIZE).unwrap());
        }
        got
    }

    #[test]
    fn a_mapping_and_reads_give_the_same_bytes() {
        let dir = TempDir::new();
        let (file, bytes) = file(&dir);
        let mapped = Mapped::new(file.try_clone().unwrap(), SIZE);
        assert!(matches!(mapped, Mapped::Map { .. }));
        assert!(whole(&mapped) == bytes);
        assert!(whole(&Mapped::File(file)) == bytes);
    }

    #[test]
    fn a_file_that_is_shortened_under_us_is_an_error() {
        let dir = TempDir::new();
        let (file, _) = file(&dir);
        let mapped = Mapped::new(file.try_clone().unwrap(), SIZE);
        file.set_len(1000).unwrap();
        assert!(Mapped::File(file).load(0..SIZE).is_err());
        // Linux before 5.14 has no way to ask, and would kill the test.
        if let Mapped::Map { map, .. } = &mapped
            && map.advise_range(Advice::PopulateRead, 0, 1).is_ok()
        {
            assert!(mapped.load(0..SIZE).is_err());
        }
    }

    #[test]
    fn what_is_in_memory_is_told_from_what_is_on_the_disk() {
        let dir = TempDir::new();
        let (file, _) = file(&dir);
        let mapped = Mapped::new(file.try_clone().unwrap(), SIZE);
        assert!(mapped.is_in_memory(0) && mapped.is_in_memory(SIZE - 1), "it was just written");
        assert!(mapped.is_in_memory(SIZE + (1 << 20)), "nobody knows");
        file.sync_all().unwrap();
        let magic = rustix::fs::fstatfs(&file).unwrap().f_type;
        // A folder in memory has no disk.
        if magic != libc::TMPFS_MAGIC {
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            assert!(!mapped.is_in_memory(0) && !mapped.is_in_memory(SIZE - 1));
            mapped.load(0..1).unwrap();
            assert!(mapped.is_in_memory(0));
        }
    }

    #[test]
    fn a_slice_is_found_in_its_own_file_alone() {
        let (dir, other) = (TempDir::new(), TempDir::new());
        let (one, bytes) = file(&dir);
        let (one, two) = (Mapped::new(one, SIZE), Mapped::new(file(&other).0, SIZE));
        let slice = one.load(5000..9000).unwrap();
        let offset = one.offset_of(&slice).unwrap();
        let mut read = vec![0; slice.len()];
        one.file().read_exact_at(&mut read, offset).unwrap();
        assert_eq!(read, bytes.get(5000..9000).unwrap());
        assert!(two.offset_of(&slice).is_none());
        assert!(one.offset_of(&bytes).is_none(), "a copy is of no file");
    }

    #[test]
    fn what_is_mapped_needs_no_loading() {
        let dir = TempDir::new();
        let (file, bytes) = file(&dir);
        let mapped = Mapped::new(file, SIZE);
        for range in [0..SIZE, 5000..9001, SIZE - 1..SIZE, 7..7] {
            let slice = mapped.unread(&range).unwrap();
            assert!(slice == bytes.get(range.start as usize..range.end as usize).unwrap());
        }
        assert!(mapped.unread(&(0..SIZE + 1)).is_none());
    }

    #[test]
    fn a_slice_keeps_its_mapping() {
        let dir = TempDir::new();
        let (file, bytes) = file(&dir);
        let mapped = Mapped::new(file, SIZE);
        let slice = mapped.load(0..10).unwrap();
        drop(mapped);
        assert_eq!(slice, bytes.get(..10).unwrap());
    }
}
