use crate::{model::Digest, sys};
use bytes::Bytes;
use memmap2::{Advice, Mmap};
use std::{
    collections::HashMap,
    fs::File,
    io,
    ops::Range,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// Bytes that are made ready at once, off the async threads.
const WINDOW: u64 = 4 << 20;
/// The same where they must be copied.
const READ_WINDOW: u64 = 1 << 20;
/// Blobs whose mappings are shared among connections.
const MAX_SHARED: usize = 256;

/// An open blob, from which windows are loaded.
#[derive(Debug)]
pub(super) enum Source {
    /// Mapped: a window is a slice, once its pages are in memory.
    Mapped { bytes: Bytes, map: Arc<Mmap> },
    /// Where mapping fails: a window is read.
    Read(File),
}

/// Lets `Bytes` own a mapping.
struct Owner(Arc<Mmap>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Source {
    pub(super) fn new(file: File, size: u64) -> Source {
        match sys::map_readonly(&file) {
            Ok(map) if map.len() as u64 == size => {
                let map = Arc::new(map);
                Source::Mapped { bytes: Bytes::from_owner(Owner(Arc::clone(&map))), map }
            }
            _ => Source::Read(file),
        }
    }

    /// Loads the beginning of `range`: at most a window. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's; also where the file has become shorter.
    pub(super) fn load(&self, range: Range<u64>) -> io::Result<Bytes> {
        let len = |window: u64| window.min(range.end.saturating_sub(range.start));
        match self {
            Source::Mapped { bytes, map } => {
                let start = usize::try_from(range.start).map_err(io::Error::other)?;
                let len = usize::try_from(len(WINDOW)).map_err(io::Error::other)?;
                let end = start.checked_add(len).filter(|end| *end <= bytes.len());
                let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
                populate(map, start, len)?;
                Ok(bytes.slice(start..end))
            }
            Source::Read(file) => {
                let mut buffer = vec![0; usize::try_from(len(READ_WINDOW)).map_err(io::Error::other)?];
                file.read_exact_at(&mut buffer, range.start)?;
                Ok(buffer.into())
            }
        }
    }
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

/// Shares one mapping of a blob among all connections that send it: a rack that boots one image
/// costs one set of page tables. Only mappings in use are kept. By inode as well: a blob that was
/// repaired while machines still fetch the damaged file must not be served from that.
#[derive(Debug, Default)]
pub(super) struct Sources(Mutex<HashMap<(Digest, u64), Weak<Source>>>);

impl Sources {
    /// The source of that blob, from `file` if none is in use.
    pub(super) fn get(&self, digest: Digest, file: File, size: u64) -> Arc<Source> {
        let Ok(inode) = file.metadata().map(|m| m.ino()) else { return Arc::new(Source::new(file, size)) };
        let key = (digest, inode);
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = shared.get(&key).and_then(Weak::upgrade) {
            return source;
        }
        let source = Arc::new(Source::new(file, size));
        if shared.len() >= MAX_SHARED {
            shared.retain(|_, source| source.strong_count() > 0);
        }
        if shared.len() < MAX_SHARED {
            shared.insert(key, Arc::downgrade(&source));
        }
        source
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use std::io::Write as _;

    const SIZE: u64 = WINDOW + 5000;

    /// A file without a name, that is gone when it is closed.
    fn file() -> (File, Vec<u8>) {
        let path = crate::store::durable::tmp_name(&std::env::temp_dir());
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let bytes: Vec<u8> = (0..SIZE).map(|i| (i * 7 + i / 4099) as u8).collect();
        file.write_all(&bytes).unwrap();
        (file, bytes)
    }

    fn whole(source: &Source) -> Vec<u8> {
        let mut got = Vec::new();
        while (got.len() as u64) < SIZE {
            got.extend_from_slice(&source.load(got.len() as u64..SIZE).unwrap());
        }
        got
    }

    #[test]
    fn a_mapping_and_reads_give_the_same_bytes() {
        let (file, bytes) = file();
        let mapped = Source::new(file.try_clone().unwrap(), SIZE);
        assert!(matches!(mapped, Source::Mapped { .. }));
        assert!(whole(&mapped) == bytes);
        assert!(whole(&Source::Read(file)) == bytes);
    }

    #[test]
    fn a_file_that_is_shortened_under_us_is_an_error() {
        let (file, _) = file();
        let mapped = Source::new(file.try_clone().unwrap(), SIZE);
        file.set_len(1000).unwrap();
        assert!(Source::Read(file).load(0..SIZE).is_err());
        // Linux before 5.14 has no way to ask, and would kill the test.
        if let Source::Mapped { map, .. } = &mapped
            && map.advise_range(Advice::PopulateRead, 0, 1).is_ok()
        {
            assert!(mapped.load(0..SIZE).is_err());
        }
    }

    #[test]
    fn one_mapping_serves_all_and_goes_with_the_last() {
        let (file, bytes) = file();
        let (sources, digest) = (Sources::default(), Digest::of(&bytes));
        let key = (digest, file.metadata().unwrap().ino());
        let one = sources.get(digest, file.try_clone().unwrap(), SIZE);
        let two = sources.get(digest, file.try_clone().unwrap(), SIZE);
        assert!(Arc::ptr_eq(&one, &two));
        let (repaired, _) = self::file();
        assert!(!Arc::ptr_eq(&one, &sources.get(digest, repaired, SIZE)), "another file of that name");
        let slice = one.load(0..10).unwrap();
        drop((one, two));
        assert_eq!(slice, bytes[..10], "a slice keeps its mapping");
        assert!(sources.0.lock().unwrap()[&key].upgrade().is_none());
    }
}
