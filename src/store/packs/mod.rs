//! The packs of a store: `<store>/packs/<id>.pack`, each with a copy of its index, `<id>.idx`. A pack never
//! changes; what is found damaged in one is marked by an empty file in `<store>/damaged`, and from then on
//! nobody finds it there.
//!
//! Whoever builds on chunks of a pack holds a shared lock on its file ([`Pack::hold`]), and whoever removes
//! a pack an exclusive one: so both can be at work at once.

pub mod format;
mod writer;

pub use writer::{PackWriter, SealedPack};

use super::{
    blobs::{StoreError, dir_entries, io_at},
    durable::{self, Stamp},
    mapped::Mapped,
};
use crate::model::Digest;
use format::{Entry, Index};
use rustix::fs::{FlockOperation, flock};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

/// Ends the name of a mark that is about a blob that is a plain file.
const BLOB: &str = "blob";
/// Ends the name of a mark that is about a pack of which somebody could read neither index.
const LOST: &str = "lost";
/// How long chunks that nothing needs wait for the blob that they were sent for.
const AWAITED_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// A pack, as long as it is there.
#[derive(Debug)]
pub struct Pack {
    /// Its name, 32 hex digits.
    pub id: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Bytes of the file.
    pub size: u64,
    index: Arc<Index>,
    /// Whether its own index could be read, and not only the copy.
    has_index: bool,
    /// Where damaged chunks begin.
    damaged: BTreeSet<u64>,
    mapped: Mutex<Weak<Mapped>>,
}

/// While it lives, nobody removes the pack.
#[derive(Debug)]
pub struct Hold(#[allow(dead_code, reason = "closing it ends the lock")] File);

/// While it lives, nobody else builds on the pack or removes it.
#[derive(Debug)]
pub struct Claim(#[allow(dead_code, reason = "closing it ends the lock")] File);

impl Pack {
    /// The chunk of that name, where it lies whole in the file and isn't known to be damaged.
    pub fn find(&self, digest: Digest) -> Option<Entry> {
        self.index.find(digest).filter(|e| self.is_good(e))
    }

    /// Bytes of all its chunks, damaged ones too.
    pub fn data(&self) -> u64 {
        self.index.entries().map(|e| u64::from(e.chunk.len)).sum()
    }

    /// Every chunk but damaged ones, by digest.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.index.entries().filter(|e| self.is_good(e))
    }

    /// Every chunk that is not known to be damaged, also where the file ends before it: another process may have
    /// opened it when it was longer.
    pub fn unmarked(&self) -> impl Iterator<Item = Entry> {
        self.index.entries().filter(|e| !self.damaged.contains(&e.offset))
    }

    /// One of [`Pack::unmarked`].
    pub fn find_unmarked(&self, digest: Digest) -> Option<Entry> {
        self.index.find(digest).filter(|e| !self.damaged.contains(&e.offset))
    }

    /// Whether the copy of its index is the last, and all of its chunks are there as far as is known.
    pub fn hangs_on_copy(&self) -> bool {
        !self.has_index && self.index.entries().all(|e| self.is_good(&e))
    }

    /// What the copy of its index should be: where that lies, and its bytes.
    pub fn copy(&self) -> (PathBuf, Vec<u8>) {
        (self.path.with_extension("idx"), Index::write(self.index.entries().collect()))
    }

    fn is_good(&self, entry: &Entry) -> bool {
        let end = entry.offset.saturating_add(entry.chunk.len.into());
        end <= self.size && !self.damaged.contains(&entry.offset)
    }

    /// Its bytes. One mapping is shared by all who use them.
    ///
    /// # Errors
    /// `NotFound` where it was removed meanwhile: its chunks are in another pack then, or nobody's.
    pub fn bytes(&self) -> io::Result<Arc<Mapped>> {
        let mut mapped = lock(&self.mapped);
        if let Some(mapped) = mapped.upgrade() {
            return Ok(mapped);
        }
        let new = Arc::new(Mapped::new(File::open(&self.path)?, self.size));
        *mapped = Arc::downgrade(&new);
        Ok(new)
    }

    /// Keeps the pack from being removed; `None` where it is gone, or somebody is about to remove it.
    pub fn hold(&self) -> Option<Hold> {
        lock_file(&self.path, FlockOperation::NonBlockingLockShared).map(Hold)
    }
}

fn lock_file(path: &Path, how: FlockOperation) -> Option<File> {
    let file = File::open(path).ok()?;
    flock(&file, how).ok()?;
    (file.metadata().ok()?.nlink() > 0).then_some(file)
}

/// The packs that there were at one time.
#[derive(Debug, Default)]
pub struct View {
    /// Another number for another set of packs or of damage.
    pub generation: u64,
    /// By name.
    pub packs: Vec<Arc<Pack>>,
    /// Blobs that are plain files and damaged.
    pub plain_damaged: BTreeSet<Digest>,
    /// Packs whose index can't be read, and what is wrong.
    pub unreadable: Vec<(PathBuf, String)>,
}

impl View {
    /// The same without some packs.
    pub fn without(&self, ids: &BTreeSet<String>) -> View {
        let packs = self.packs.iter().filter(|p| !ids.contains(&p.id)).cloned().collect();
        View { packs, ..View::default() }
    }

    /// Where a chunk lies; in the pack `near` if there too, so that neighbours stay together.
    pub fn find<'a>(&'a self, digest: Digest, near: Option<&'a Arc<Pack>>) -> Option<(&'a Arc<Pack>, Entry)> {
        near.into_iter().chain(&self.packs).find_map(|pack| Some((pack, pack.find(digest)?)))
    }
}

#[derive(Debug, Default)]
struct Seen {
    stamps: [Option<Stamp>; 2],
    view: Arc<View>,
}

/// All packs of a store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Packs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    packs: PathBuf,
    damaged: PathBuf,
    tmp: PathBuf,
    seen: Mutex<Seen>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Packs {
    /// The packs of the store at `store`; makes nothing.
    pub fn at(store: &Path) -> Packs {
        let [packs, damaged, tmp] = ["packs", "damaged", "tmp"].map(|name| store.join(name));
        Packs(Arc::new(Inner { packs, damaged, tmp, seen: Mutex::default() }))
    }

    /// Makes the folders where they are missing.
    pub fn create(&self) -> Result<(), StoreError> {
        for dir in [&self.0.packs, &self.0.damaged] {
            durable::create_dir_all(dir).map_err(io_at("make folder", dir))?;
        }
        Ok(())
    }

    /// The packs there are. Costs two `stat` where nothing changed, and one look at each new pack else.
    pub fn view(&self) -> Result<Arc<View>, StoreError> {
        let mut seen = lock(&self.0.seen);
        // Before the folders are read: a change in between shows.
        let stamp = |dir: &Path| Stamp::of(dir).map_err(io_at("look at", dir));
        let stamps = [stamp(&self.0.packs)?, stamp(&self.0.damaged)?];
        let settled = stamps.iter().flatten().all(Stamp::is_settled);
        if !settled || stamps != seen.stamps {
            let view = self.list(&seen.view)?;
            *seen = Seen { stamps, view };
        }
        Ok(Arc::clone(&seen.view))
    }

    /// Has the next [`Packs::view`] look anew.
    pub fn forget(&self) {
        lock(&self.0.seen).stamps = [None, None];
    }

    fn list(&self, known: &Arc<View>) -> Result<Arc<View>, StoreError> {
        let mut damaged: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        let mut plain_damaged = BTreeSet::new();
        let mut lost = BTreeSet::new();
        for path in dir_entries(&self.0.damaged)? {
            let mark = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.split_once('.'));
            if let Some((digest, BLOB)) = mark {
                plain_damaged.extend(digest.parse::<Digest>().ok());
            }
            if let Some((id, LOST)) = mark {
                lost.insert(id.to_owned());
            }
            if let Some((id, Ok(offset))) = mark.map(|(id, at)| (id, u64::from_str_radix(at, 16))) {
                damaged.entry(id.to_owned()).or_default().insert(offset);
            }
        }
        let (mut packs, mut unreadable) = (Vec::new(), Vec::new());
        for path in dir_entries(&self.0.packs)? {
            let Some(id) = id_of(&path) else { continue };
            let damaged = damaged.remove(&id).unwrap_or_default();
            let old = known.packs.binary_search_by(|p| p.id.cmp(&id)).ok().and_then(|n| known.packs.get(n));
            // What others can't read goes by the disk, not by what is still in memory of it.
            match old.filter(|_| !lost.contains(&id)) {
                Some(old) if old.damaged == damaged => packs.push(Arc::clone(old)),
                Some(old) => {
                    let (index, has_index, size) = (Arc::clone(&old.index), old.has_index, old.size);
                    let mapped = Mutex::default();
                    packs.push(Arc::new(Pack { id, path, size, index, has_index, damaged, mapped }));
                }
                None => match read_index(&path) {
                    Ok((index, has_index, size)) => {
                        let (index, mapped) = (Arc::new(index), Mutex::default());
                        packs.push(Arc::new(Pack { id, path, size, index, has_index, damaged, mapped }));
                    }
                    // Removed since the folder was read.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => unreadable.push((path, e.to_string())),
                },
            }
        }
        let same = packs.len() == known.packs.len()
            && packs.iter().zip(&known.packs).all(|(a, b)| Arc::ptr_eq(a, b))
            && unreadable == known.unreadable
            && plain_damaged == known.plain_damaged;
        if same {
            return Ok(Arc::clone(known));
        }
        Ok(Arc::new(View { generation: known.generation + 1, packs, plain_damaged, unreadable }))
    }

    /// Marks a blob that is a plain file as damaged, or as whole again.
    pub fn mark_plain(&self, digest: Digest, damaged: bool) -> Result<(), StoreError> {
        let name = format!("{digest}.{BLOB}");
        if damaged {
            return self.mark(&name);
        }
        let path = self.0.damaged.join(name);
        durable::remove_file(&path).map_err(io_at("remove", &path))?;
        self.forget();
        Ok(())
    }

    /// Marks a chunk as damaged: nobody finds it in this pack any more.
    pub fn mark_damaged(&self, pack: &Pack, offset: u64) -> Result<(), StoreError> {
        self.mark(&format!("{}.{offset:x}", pack.id))
    }

    /// Has every process look anew at a pack of which neither index can be read: who still knows them would serve what
    /// is lost to all others, and to itself at its next start.
    pub fn mark_lost(&self, pack: &Path) -> Result<(), StoreError> {
        id_of(pack).map_or(Ok(()), |id| self.mark(&format!("{id}.{LOST}")))
    }

    fn mark(&self, name: &str) -> Result<(), StoreError> {
        let path = self.0.damaged.join(name);
        let made = File::create(&path).and_then(|_| durable::sync_dir(&self.0.damaged));
        made.map_err(io_at("make", &path))?;
        self.forget();
        Ok(())
    }

    /// Starts a pack.
    pub fn begin(&self) -> Result<PackWriter, StoreError> {
        PackWriter::begin(&self.0.tmp)
    }

    /// Gives a sealed pack its name. A pack that isn't confirmed may be one that a killed command left.
    pub fn publish(&self, pack: &SealedPack) -> Result<(), StoreError> {
        pack.publish(&self.0.packs)?;
        self.forget();
        Ok(())
    }

    /// Gives a sealed pack its name although nothing needs it yet: it is spared for a day, see
    /// [`Packs::is_awaited`]. The caller holds the store's exclusive lock.
    pub fn publish_awaited(&self, pack: &SealedPack) -> Result<(), StoreError> {
        let mark = self.0.packs.join(format!("{}.awaited", pack.id()));
        File::create(&mark).map_err(io_at("make", &mark))?;
        self.publish(pack)?;
        self.confirm(pack)
    }

    /// Whether blobs may be on their way that need the pack.
    pub fn is_awaited(&self, pack: &Path) -> bool {
        let made = fs::metadata(pack.with_extension("awaited")).and_then(|m| m.modified());
        made.is_ok_and(|made| made.elapsed().unwrap_or_default() < AWAITED_FOR)
    }

    /// Puts the copy of the pack's index in place, once something needs the pack.
    pub fn confirm(&self, pack: &SealedPack) -> Result<(), StoreError> {
        pack.publish_copy(&self.0.packs)
    }

    /// The packs that have no copy of their index.
    pub fn unconfirmed(&self) -> Result<Vec<Arc<Pack>>, StoreError> {
        let view = self.view()?;
        Ok(view.packs.iter().filter(|p| !p.path.with_extension("idx").exists()).cloned().collect())
    }

    /// Keeps others from building on a pack, whoever still knows what is in it; `None` where it is gone, or somebody
    /// builds on it.
    pub fn claim(&self, pack: &Path) -> Option<Claim> {
        lock_file(pack, FlockOperation::NonBlockingLockExclusive).map(Claim)
    }

    /// Removes a pack that no blob needs. The caller holds the store's exclusive lock. Whoever has it mapped
    /// can go on reading.
    pub fn remove(&self, pack: &Path, _claim: Claim) -> Result<(), StoreError> {
        // The pack last: a mark or a copy of an index without its pack means nothing, and is swept.
        for path in [pack.with_extension("idx"), pack.to_owned()] {
            durable::remove_file(&path).map_err(io_at("remove", &path))?;
        }
        self.sweep()?;
        self.forget();
        Ok(())
    }

    /// Makes the copy of a pack's index anew.
    pub fn restore_copy(&self, pack: &Pack) -> Result<(), StoreError> {
        let (path, bytes) = pack.copy();
        durable::write_atomic(&path, &bytes, 0o444).map_err(io_at("write", &path))
    }

    /// Removes what lies beside packs, and marks of damage, whose pack is gone. The caller holds the store's exclusive lock.
    pub fn sweep(&self) -> Result<(), StoreError> {
        let packs: BTreeSet<String> = dir_entries(&self.0.packs)?.iter().filter_map(|p| id_of(p)).collect();
        for path in dir_entries(&self.0.damaged)?.into_iter().chain(dir_entries(&self.0.packs)?) {
            let id = path.file_stem().and_then(|n| n.to_str()).unwrap_or("");
            if !packs.contains(id) && path.extension().is_none_or(|e| e != BLOB) {
                durable::remove_file(&path).map_err(io_at("remove", &path))?;
            }
        }
        Ok(())
    }
}

/// The name of the pack at `path`, if there can be one.
fn id_of(path: &Path) -> Option<String> {
    let id = path.file_stem()?.to_str()?;
    let hex = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
    (hex && path.extension()? == "pack").then(|| id.to_owned())
}

/// The index of the pack at `path`, from its copy where it is damaged; whether it is its own; and the pack's size.
fn read_index(path: &Path) -> io::Result<(Index, bool, u64)> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    match Index::read(&file, size) {
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
            let copy = File::open(path.with_extension("idx")).map_err(|_| e)?;
            let len = copy.metadata()?.len();
            Ok((Index::read(&copy, len)?.0, false, size))
        }
        read => Ok((read?.0, true, size)),
    }
}
