//! Content-addressed blobs, read-only, named by their SHA-256. A blob is a plain file,
//! `<store>/blobs/sha256/ab/<hex>`, or beside where that would lie a list of chunks, `<hex>.chunks`, and the
//! chunks lie in packs. Readers needn't know which.

pub use super::content::BlobReader;
use super::{
    chunk::ChunkRef,
    chunked::{ChunkWriter, SealedChunks},
    content::{Content, Part},
    durable::{self, Stamp},
    mapped::Mapped,
    packs::{Pack, Packs, View},
    recipe,
    tmp::{self, TmpFile},
};
use crate::model::{BlobRef, Digest};
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fs::{self, File},
    io::{self, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

/// Why the image store can't do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system said no.
    #[error("can't {what} {path}: {source}{}", hint(source))]
    Io {
        /// As in "read".
        what: &'static str,
        /// Of which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A blob isn't the bytes that its name promises.
    #[error(
        "blob {digest} is damaged: {what} ({path}){}; import the same image again to repair it",
        hurts(images)
    )]
    Corrupt {
        /// Its name.
        digest: Digest,
        /// Where it lies.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// The images that need it.
        images: Vec<String>,
    },
    /// A file in `tags/` doesn't hold a digest.
    #[error("{path} should hold the digest of an image, but doesn't: remove it, then import the image again")]
    BadTagFile {
        /// Which file.
        path: PathBuf,
    },
    /// The tag points to another image.
    #[error(
        "{tag} is already image {old}, and this would be {new}: choose another version, or move the tag with --move-tag (pins keep the old image)"
    )]
    TagTaken {
        /// The tag.
        tag: String,
        /// What it points to.
        old: Digest,
        /// What it would point to.
        new: Digest,
    },
    /// Known beforehand not to fit.
    #[error(
        "there is no room: {path} has {} MiB free and {} MiB are needed; `pristine image rm` what no machine uses. Nothing was changed",
        free >> 20,
        (needs >> 20) + 1
    )]
    NoRoom {
        /// The store.
        path: PathBuf,
        /// Bytes.
        needs: u64,
        /// Bytes.
        free: u64,
    },
    /// A manifest that can't be written as JSON.
    #[error("the manifest can't be written: {0}")]
    Manifest(#[from] serde_json::Error),
}

impl StoreError {
    /// For those who can only tell of I/O.
    pub(super) fn into_io(self) -> io::Error {
        match self {
            StoreError::Io { source, .. } => source,
            other => io::Error::other(other),
        }
    }
}

fn hint(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::StorageFull => {
            ": make room (`pristine image rm`), then try again; nothing was changed"
        }
        io::ErrorKind::QuotaExceeded => ": the quota is used up; nothing was changed",
        io::ErrorKind::FileTooLarge => ": the file size limit (ulimit -f) is too low; nothing was changed",
        io::ErrorKind::PermissionDenied => ": run it as the user that owns the state folder",
        _ => "",
    }
}

fn hurts(images: &[String]) -> String {
    if images.is_empty() { String::new() } else { format!("; it belongs to {}", images.join(", ")) }
}

/// Adds what was done to which path to an I/O error.
pub(crate) fn io_at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { what, path, source }
}

/// Blobs of this size and more are worth cutting into chunks.
const CHUNKED_FROM: u64 = 1 << 20;
/// Blobs of which is remembered where they lie.
const MAX_KNOWN: usize = 256;
/// Blobs that stay mapped when nobody reads them.
const MAX_WARM: usize = 8;
/// For how long.
const WARM: Duration = Duration::from_secs(60);

/// All blobs of a store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Blobs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    tmp: PathBuf,
    packs: Packs,
    known: Mutex<HashMap<Digest, Known>>,
    /// Opened last, the latest at the end: to map and unmap a root for each machine that boots it would cost a
    /// tenth of what sending it does, and more where it lies in many packs.
    warm: Mutex<VecDeque<(Instant, Arc<Content>)>>,
}

/// A blob that was opened before.
#[derive(Debug)]
struct Known {
    /// Of its file or its list.
    stamp: Stamp,
    /// Of the packs.
    generation: u64,
    /// Where its chunks lie; empty for a plain file.
    extents: Arc<[Extent]>,
    /// Shared by all who read it now: a rack that boots one image costs one set of page tables.
    content: Weak<Content>,
}

#[derive(Debug)]
struct Extent {
    pack: Arc<Pack>,
    range: Range<u64>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Blobs {
    /// The blobs of the store at `store`; makes nothing.
    pub fn at(store: &Path) -> Blobs {
        Blobs(Arc::new(Inner {
            root: store.join("blobs").join("sha256"),
            tmp: store.join("tmp"),
            packs: Packs::at(store),
            known: Mutex::default(),
            warm: Mutex::default(),
        }))
    }

    /// Makes the folders where they are missing.
    pub fn create(&self) -> Result<(), StoreError> {
        for dir in [&self.0.root, &self.0.tmp] {
            durable::create_dir_all(dir).map_err(io_at("make folder", dir))?;
        }
        self.0.packs.create()
    }

    /// Where chunks lie.
    pub(super) fn packs(&self) -> &Packs {
        &self.0.packs
    }

    /// Where the blob lies if it is a plain file.
    pub fn path(&self, digest: Digest) -> PathBuf {
        let hex = digest.to_string();
        let fan: String = hex.chars().take(2).collect();
        self.0.root.join(fan).join(hex)
    }

    /// Where its list of chunks lies if it is cut into some.
    pub fn list_path(&self, digest: Digest) -> PathBuf {
        self.path(digest).with_extension(LIST)
    }

    /// Where the blob or its list lies; where it would, if there is none.
    pub fn place(&self, digest: Digest) -> PathBuf {
        let list = self.list_path(digest);
        if list.exists() { list } else { self.path(digest) }
    }

    /// Opens a blob; `None` where there is no such one. A few `stat` where it was opened before.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where it is cut into chunks, and not all of them are there and whole as far as
    /// is known.
    pub fn open(&self, digest: Digest) -> Result<Option<Arc<Content>>, StoreError> {
        let opened = self.look(digest)?;
        if let Some(content) = &opened {
            self.keep_warm(content);
        }
        Ok(opened)
    }

    /// Lets go of what nobody read for a minute: of files that are gone, the disk has their space only then.
    pub fn cool(&self) {
        let mut warm = lock(&self.0.warm);
        let cold = warm.iter().take_while(|(since, _)| since.elapsed() >= WARM).count();
        let cold: Vec<_> = warm.drain(..cold).collect();
        // Unmapping takes a while: not under the lock.
        drop(warm);
        drop(cold);
    }

    fn keep_warm(&self, content: &Arc<Content>) {
        let mut warm = lock(&self.0.warm);
        warm.retain(|(_, other)| !Arc::ptr_eq(other, content));
        warm.push_back((Instant::now(), Arc::clone(content)));
        let coldest = if warm.len() > MAX_WARM { warm.pop_front() } else { None };
        drop(warm);
        drop(coldest);
    }

    /// The same for one who won't read it.
    pub(super) fn look(&self, digest: Digest) -> Result<Option<Arc<Content>>, StoreError> {
        let list = self.list_path(digest);
        if let Some(stamp) = Stamp::of(&list).map_err(io_at("look at", &list))? {
            return self.open_chunks(digest, list, stamp);
        }
        let path = self.path(digest);
        if self.0.packs.view()?.plain_damaged.contains(&digest) {
            return Err(self.corrupt(digest, "it was found to be damaged".into()));
        }
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_at("open", &path)(e)),
        };
        let stamp = file.metadata().map(|m| Stamp::from(&m)).map_err(io_at("look at", &path))?;
        if let Some(content) = self.opened(digest, stamp, 0) {
            return Ok(Some(content));
        }
        let range = 0..stamp.size();
        let file = Arc::new(Mapped::new(file, stamp.size()));
        let content = Arc::new(Content::new([Part { file, range }], vec![path]));
        let known =
            Known { stamp, generation: 0, extents: Arc::default(), content: Arc::downgrade(&content) };
        self.remember(digest, known);
        Ok(Some(content))
    }

    /// The content that others use now, if it is the same file.
    fn opened(&self, digest: Digest, stamp: Stamp, generation: u64) -> Option<Arc<Content>> {
        let all = lock(&self.0.known);
        let known = all.get(&digest).filter(|k| k.stamp == stamp && k.generation == generation)?;
        known.content.upgrade()
    }

    fn remember(&self, digest: Digest, known: Known) {
        let mut all = lock(&self.0.known);
        if all.len() >= MAX_KNOWN && !all.contains_key(&digest) {
            all.retain(|_, k| k.content.strong_count() > 0);
        }
        if all.len() < MAX_KNOWN || all.contains_key(&digest) {
            all.insert(digest, known);
        }
    }

    fn open_chunks(
        &self,
        digest: Digest,
        list: PathBuf,
        stamp: Stamp,
    ) -> Result<Option<Arc<Content>>, StoreError> {
        let mut tries = 3;
        loop {
            tries -= 1;
            let view = self.0.packs.view()?;
            if let Some(content) = self.opened(digest, stamp, view.generation) {
                return Ok(Some(content));
            }
            match self.lay_out(digest, &list, stamp, &view) {
                Ok(content) => return Ok(content),
                // Chunks were moved to another pack, maybe while the folder was read: look again.
                Err(_) if tries > 0 => self.0.packs.forget(),
                Err(e) => return Err(e),
            }
        }
    }

    /// Finds the packs that the blob lies in, and opens them.
    fn lay_out(
        &self,
        digest: Digest,
        list: &Path,
        stamp: Stamp,
        view: &View,
    ) -> Result<Option<Arc<Content>>, StoreError> {
        let same = |k: &&Known| k.stamp == stamp && k.generation == view.generation;
        let known = lock(&self.0.known).get(&digest).filter(same).map(|k| Arc::clone(&k.extents));
        let extents = match known {
            Some(extents) => extents,
            None => match self.extents(digest, view)? {
                Some(extents) => extents.into(),
                None => return Ok(None),
            },
        };
        let mut files = vec![list.to_owned()];
        let mut parts = Vec::new();
        for extent in extents.iter() {
            let path = &extent.pack.path;
            let file = extent.pack.bytes().map_err(io_at("open", path))?;
            parts.push(Part { file, range: extent.range.clone() });
            files.push(path.clone());
        }
        files.sort();
        files.dedup();
        let content = Arc::new(Content::new(parts, files));
        let (generation, weak) = (view.generation, Arc::downgrade(&content));
        self.remember(digest, Known { stamp, generation, extents, content: weak });
        Ok(Some(content))
    }

    fn extents(&self, digest: Digest, view: &View) -> Result<Option<Vec<Extent>>, StoreError> {
        let Some(chunks) = self.list_of(digest)? else { return Ok(None) };
        let mut out: Vec<Extent> = Vec::new();
        for chunk in chunks {
            let near = out.last().map(|e| Arc::clone(&e.pack));
            let found = view.find(chunk.digest, near.as_ref()).filter(|(_, e)| e.chunk == chunk);
            let Some((pack, entry)) = found else {
                let what = format!("chunk {} is missing or damaged", chunk.digest.short());
                return Err(self.corrupt(digest, what));
            };
            let range = entry.offset..entry.offset + u64::from(chunk.len);
            match out.last_mut() {
                Some(last) if Arc::ptr_eq(&last.pack, pack) && last.range.end == range.start => {
                    last.range.end = range.end;
                }
                _ => out.push(Extent { pack: Arc::clone(pack), range }),
            }
        }
        Ok(Some(out))
    }

    /// The chunks of a blob that is cut into some; `None` where there is no such blob.
    pub(super) fn list_of(&self, digest: Digest) -> Result<Option<Vec<ChunkRef>>, StoreError> {
        let path = self.list_path(digest);
        recipe::read(&path).map_err(|e| match e.kind() {
            io::ErrorKind::InvalidData => self.corrupt(digest, "its list of chunks is damaged".into()),
            _ => io_at("read", &path)(e),
        })
    }

    /// Marks a blob that is a plain file as damaged: it isn't opened any more.
    pub(super) fn mark_damaged(&self, digest: Digest) -> Result<(), StoreError> {
        self.0.packs.mark_plain(digest, true)
    }

    pub(super) fn corrupt(&self, digest: Digest, what: String) -> StoreError {
        StoreError::Corrupt { digest, path: self.place(digest), what, images: Vec::new() }
    }

    /// A blob's bytes for a program that reads here and there, as one of a squashfs does; `None` where
    /// there is no such blob.
    pub fn reader(&self, digest: Digest) -> Result<Option<BlobReader>, StoreError> {
        Ok(self.open(digest)?.map(BlobReader::new))
    }

    /// Starts a blob that is to be a plain file. Whoever drops the writer without [`BlobWriter::seal`] and
    /// [`Blobs::publish`] leaves nothing behind.
    pub fn begin(&self) -> Result<BlobWriter, StoreError> {
        Ok(BlobWriter { to: To::Plain(TmpFile::create(&self.0.tmp)?), len: 0 })
    }

    /// Starts a blob of about `size` bytes of which other versions may have most in common: it is cut into
    /// chunks, unless it is small.
    pub fn begin_shared(&self, size: u64) -> Result<BlobWriter, StoreError> {
        if size < CHUNKED_FROM {
            return self.begin();
        }
        Ok(BlobWriter { to: To::Chunks(Box::new(ChunkWriter::begin(&self.0.packs, &self.0.tmp)?)), len: 0 })
    }

    /// Gives a sealed blob its name. Replaces a blob of that name: the bytes are the same unless the
    /// old ones were damaged, and then this repairs them. The caller holds the store's exclusive lock
    /// until an image refers to the blob.
    pub fn publish(&self, blob: SealedBlob) -> Result<BlobRef, StoreError> {
        let (plain, list) = (self.path(blob.name.digest), self.list_path(blob.name.digest));
        if let Some(dir) = plain.parent() {
            durable::create_dir_all(dir).map_err(io_at("make folder", dir))?;
        }
        let other = match &blob.form {
            Form::Plain(file) => {
                file.rename(&plain)?;
                list
            }
            Form::Chunks(chunks) => {
                chunks.publish(&self.0.packs, &list)?;
                plain
            }
        };
        durable::remove_file(&other).map_err(io_at("remove", &other))?;
        self.0.packs.mark_plain(blob.name.digest, false)?;
        Ok(blob.name)
    }

    /// Removes what killed imports left in `tmp`. An import that is under way is left alone.
    pub fn sweep_tmp(&self) -> Result<u64, StoreError> {
        tmp::sweep(&self.0.tmp)
    }

    /// Every blob there is.
    pub fn list(&self) -> Result<BTreeSet<Digest>, StoreError> {
        let mut out = BTreeSet::new();
        for fan in dir_entries(&self.0.root)? {
            if !fan.is_dir() {
                continue;
            }
            for path in dir_entries(&fan)? {
                let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
                let name = name.strip_suffix(LIST).and_then(|n| n.strip_suffix('.')).unwrap_or(name);
                out.extend(name.parse::<Digest>().ok());
            }
        }
        Ok(out)
    }

    /// Removes a blob; says how many bytes that frees at once. Chunks stay until nobody needs them and a
    /// collection comes.
    pub fn remove(&self, digest: Digest) -> Result<u64, StoreError> {
        let mut freed = 0;
        for path in [self.list_path(digest), self.path(digest)] {
            let size = fs::metadata(&path).map_or(0, |m| m.len());
            durable::remove_file(&path).map_err(io_at("remove", &path))?;
            freed += size;
        }
        self.0.packs.mark_plain(digest, false)?;
        Ok(freed)
    }
}

/// Ends the name of a list of chunks.
const LIST: &str = "chunks";

/// Digest and length of all of `content`.
pub(super) fn hash(content: &Content) -> io::Result<BlobRef> {
    use sha2::Digest as _;
    let mut hasher = sha2::Sha256::new();
    let mut at = 0;
    while at < content.size() {
        let slice = content.load(at..content.size())?;
        hasher.update(&slice);
        at += slice.len() as u64;
    }
    Ok(BlobRef { digest: Digest(hasher.finalize().into()), size: at })
}

/// The paths in a folder, sorted; none where the folder is missing.
pub(crate) fn dir_entries(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(io_at("read folder", dir)(e)),
    };
    let mut out = Vec::new();
    for entry in entries {
        out.push(entry.map_err(io_at("read folder", dir))?.path());
    }
    out.sort();
    Ok(out)
}

/// A blob that is being written. It doesn't compute its digest: whoever writes also hashes, on a thread of
/// its own choice, and tells the digest to [`BlobWriter::seal`].
#[derive(Debug)]
pub struct BlobWriter {
    to: To,
    len: u64,
}

#[derive(Debug)]
enum To {
    Plain(TmpFile),
    Chunks(Box<ChunkWriter>),
}

impl BlobWriter {
    /// Bytes written so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True before the first byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it is being written.
    pub fn path(&self) -> &Path {
        match &self.to {
            To::Plain(tmp) => &tmp.path,
            To::Chunks(chunks) => chunks.path(),
        }
    }

    /// Writes a chunk as it is. Not to be mixed with other ways of writing.
    pub(super) fn write_chunk(&mut self, chunk: ChunkRef, bytes: &[u8]) -> io::Result<()> {
        match &mut self.to {
            To::Plain(tmp) => tmp.file.write_all(bytes)?,
            To::Chunks(chunks) => chunks.add(chunk, bytes)?,
        }
        self.len += u64::from(chunk.len);
        Ok(())
    }

    /// Makes the bytes durable and read-only. `digest` is their SHA-256.
    pub fn seal(self, digest: Digest) -> Result<SealedBlob, StoreError> {
        let form = match self.to {
            To::Plain(tmp) => {
                tmp.seal()?;
                Form::Plain(tmp)
            }
            To::Chunks(chunks) => Form::Chunks(chunks.seal()?),
        };
        Ok(SealedBlob { name: BlobRef { digest, size: self.len }, form })
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = match &mut self.to {
            To::Plain(tmp) => tmp.file.write(buf)?,
            To::Chunks(chunks) => chunks.write(buf)?,
        };
        self.len += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A blob that is whole and durable but has no name yet.
#[derive(Debug)]
pub struct SealedBlob {
    name: BlobRef,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Plain(TmpFile),
    Chunks(SealedChunks),
}

impl SealedBlob {
    /// What it will be called.
    pub fn name(&self) -> BlobRef {
        self.name
    }
}

#[cfg(test)]
mod tests;
