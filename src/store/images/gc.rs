//! Garbage collection: chunks that no blob consists of any more leave the packs that they lie in.
//!
//! A pack never changes: what is needed of it is written to a new pack, and then the old one is removed. All
//! that time nobody can begin to build on the old one ([`Claim`]), and whoever does so already keeps it from
//! being touched. Killed anywhere, chunks lie in two packs at worst, and the next collection finds that.

use super::ImageStore;
use crate::{
    model::Digest,
    store::{
        blobs::{StoreError, io_at},
        chunk::ChunkRef,
        chunked::Lister,
        mapped::is_damage,
        packs::{Claim, Pack, View},
    },
};
use rustix::fs::FlockOperation;
use serde::Serialize;
use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

/// A pack is written anew where at least this part of it is garbage, in percent; and where its own index is lost, so
/// that it has two again.
const WORTH: u64 = 10;
/// Most packs that are worked on at once: each is an open file.
const MAX_CLAIMS: usize = 256;

/// What a collection did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collection {
    /// False where it only looked.
    pub run: bool,
    /// Packs there were.
    pub packs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of chunks that nothing needs, or that lie in another pack too.
    pub garbage: u64,
    /// Packs that are removed; what is needed of them is in a new one.
    pub removed: usize,
    /// Bytes that are written anew for that.
    pub rewritten: u64,
    /// Bytes that are free afterwards.
    pub freed: u64,
    /// Packs left alone because an import, a build or a push builds on them.
    pub busy: usize,
    /// Packs left alone because they were pushed less than a day ago.
    pub awaited: usize,
    /// Packs left alone because something in them is damaged, or their index is and something is missing.
    pub damaged: usize,
}

/// A pack that is worth writing anew.
struct Candidate {
    pack: Arc<Pack>,
    live: u64,
}

impl ImageStore {
    /// Frees what nothing needs; only tells what that would be where `run` is false. `seen` is told of every
    /// byte that is written anew. Safe beside a service, imports and other collections.
    ///
    /// # Errors
    /// A blob whose list of chunks is damaged: then nobody knows what is needed, and nothing is removed.
    pub fn collect(&self, run: bool, seen: &dyn Fn(u64)) -> Result<Collection, StoreError> {
        let packs = self.0.blobs.packs();
        let view = packs.view()?;
        let mut done = Collection { run, packs: view.packs.len(), ..Collection::default() };
        let mut candidates = self.candidates(&view, &mut done)?;
        // What frees most for what it writes comes first: there may be no room for more.
        candidates.sort_by_key(|c| c.live);
        if !run {
            for c in &candidates {
                done.removed += 1;
                done.rewritten += c.live;
                done.freed += c.pack.size.saturating_sub(c.live);
            }
            self.collect_unreadable(&mut done)?;
            return Ok(done);
        }
        let mut claimed: Vec<(Arc<Pack>, Claim)> = Vec::new();
        for c in candidates.into_iter().take(MAX_CLAIMS) {
            match packs.claim(&c.pack.path) {
                Some(claim) => claimed.push((c.pack, claim)),
                None => done.busy += 1,
            }
        }
        // From here on nobody begins to need a chunk of a claimed pack, and whoever did is known.
        let needed = {
            let _lock = self.wait_lock(FlockOperation::LockExclusive)?;
            self.needed_chunks()?
        };
        for pack in &view.packs {
            // On a full disk there is no room for it, but for what this is about.
            if let Err(error) = self.heal_copy(pack) {
                tracing::warn!(%error, "the copy of a pack's index stays damaged");
            }
        }
        self.collect_unreadable(&mut done)?;
        let ours: BTreeSet<String> = claimed.iter().map(|(pack, _)| pack.id.clone()).collect();
        for (pack, claim) in claimed {
            self.rewrite(&pack, claim, &needed, &ours, &mut done, seen)?;
        }
        Ok(done)
    }

    /// Packs of which both indices are lost: nobody knows what is in them, but who read one before and builds on
    /// it. Where every chunk that is needed lies elsewhere, nothing in them is, and they go.
    fn collect_unreadable(&self, done: &mut Collection) -> Result<(), StoreError> {
        let packs = self.0.blobs.packs();
        let mut lost = Vec::new();
        for (path, _) in &packs.view()?.unreadable {
            let size = std::fs::metadata(path).map_or(0, |m| m.len());
            done.packs += 1;
            done.bytes += size;
            let claim = if done.run { packs.claim(path) } else { None };
            if packs.is_awaited(path) {
                done.awaited += 1;
            } else if done.run && claim.is_none() {
                done.busy += 1;
            } else {
                lost.push((path.clone(), size, claim));
            }
        }
        if lost.is_empty() {
            return Ok(());
        }
        // From here on nobody begins to need a chunk of a claimed pack, and whoever did is known.
        let _lock = if done.run { Some(self.wait_lock(FlockOperation::LockExclusive)?) } else { None };
        let view = packs.view()?;
        let all_there = self.needed_chunks()?.iter().all(|chunk| view.find(*chunk, None).is_some());
        for (path, size, claim) in lost {
            if !all_there {
                done.damaged += 1;
                continue;
            }
            done.garbage += size;
            done.removed += 1;
            done.freed += size;
            if let Some(claim) = claim {
                packs.remove(&path, claim)?;
            }
        }
        Ok(())
    }

    /// The packs that are worth it; counts what is garbage.
    fn candidates(&self, view: &View, done: &mut Collection) -> Result<Vec<Candidate>, StoreError> {
        let needed = self.needed_chunks()?;
        let mut known: HashSet<ChunkRef> = HashSet::new();
        let mut candidates = Vec::new();
        for pack in &view.packs {
            let live = pack.entries().filter(|e| needed.contains(&e.chunk.digest) && known.insert(e.chunk));
            let live: u64 = live.map(|e| u64::from(e.chunk.len)).sum();
            let garbage = pack.data().saturating_sub(live);
            done.bytes += pack.size;
            done.garbage += garbage;
            if self.0.blobs.packs().is_awaited(&pack.path) {
                done.awaited += 1;
            } else if live == 0 || garbage * 100 >= pack.data() * WORTH || pack.hangs_on_copy() {
                candidates.push(Candidate { pack: Arc::clone(pack), live });
            }
        }
        Ok(candidates)
    }

    fn rewrite(
        &self,
        pack: &Pack,
        claim: Claim,
        needed: &HashSet<Digest>,
        ours: &BTreeSet<String>,
        done: &mut Collection,
        seen: &dyn Fn(u64),
    ) -> Result<(), StoreError> {
        let packs = self.0.blobs.packs();
        let mut live: Vec<_> = pack.entries().filter(|e| needed.contains(&e.chunk.digest)).collect();
        live.sort_by_key(|e| e.offset);
        self.require_free(live.iter().map(|e| u64::from(e.chunk.len)).sum())?;
        // Shared with any other pack that stays, those that this collection made among them.
        let others = packs.view()?.without(ours);
        let mut list = Lister::begin(packs)?;
        for entry in live {
            let end = entry.offset + u64::from(entry.chunk.len);
            let bytes = pack.bytes().and_then(|bytes| bytes.load(entry.offset..end));
            let bytes = match bytes {
                Ok(bytes) if ChunkRef::of(&bytes) == entry.chunk => bytes,
                Err(e) if !is_damage(&e) => return Err(io_at("read", &pack.path)(e)),
                // Nothing is removed of a pack in which something is lost.
                Ok(_) | Err(_) => {
                    packs.mark_damaged(pack, entry.offset)?;
                    done.damaged += 1;
                    return Ok(());
                }
            };
            let at = list.path().to_owned();
            list.take(entry.chunk, &bytes, packs, &others).map_err(io_at("write", &at))?;
            seen(u64::from(entry.chunk.len));
        }
        let written = list.size();
        let (new, _holds) = list.seal()?;
        let _lock = self.wait_lock(FlockOperation::LockExclusive)?;
        if let Some(new) = new {
            packs.publish(&new)?;
            packs.confirm(&new)?;
        }
        packs.remove(&pack.path, claim)?;
        done.removed += 1;
        done.rewritten += written;
        done.freed += pack.size.saturating_sub(written);
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::{
        model::{Arch, Manifest, RootFs, Verity},
        store::{blobs::SealedBlob, chunk::tests::noise, testing::TempDir},
    };
    use std::{collections::BTreeMap, io::Read as _, io::Write as _};

    fn sealed(store: &ImageStore, bytes: &[u8]) -> SealedBlob {
        let mut w = store.blobs().begin_shared(bytes.len() as u64).unwrap();
        w.write_all(bytes).unwrap();
        w.seal(Digest::of(bytes)).unwrap()
    }

    pub(crate) fn import(store: &ImageStore, tag: &str, root: &[u8]) {
        let (kernel, root) = (sealed(store, tag.as_bytes()), sealed(store, root));
        let tree = kernel.name();
        let verity = Verity { root_hash: tree.digest, salt: tree.digest, data_blocks: 1, tree };
        let manifest = Manifest {
            schema: 1,
            tag: tag.parse().unwrap(),
            arch: Arch::X86_64,
            kernel: kernel.name(),
            initramfs: vec![kernel.name()],
            rootfs: Some(RootFs { blob: root.name(), verity }),
            cmdline: String::new(),
            native: true,
            labels: BTreeMap::new(),
            provenance: BTreeMap::new(),
        };
        store.publish(vec![kernel, root], &manifest, false).unwrap();
    }

    pub(crate) fn whole(store: &ImageStore, root: &[u8]) -> bool {
        let mut got = Vec::new();
        let blob = store.blobs().reader(Digest::of(root)).ok().flatten();
        blob.is_some_and(|mut blob| blob.read_to_end(&mut got).is_ok() && got == root)
    }

    /// Two versions that have the second half in common.
    fn two_versions() -> (TempDir, ImageStore, Vec<u8>, Vec<u8>) {
        let dir = TempDir::new();
        let store = ImageStore::open(dir.path()).unwrap();
        let common = noise(1, 2 << 20);
        let one = [noise(2, 2 << 20), common.clone()].concat();
        let two = [noise(3, 1 << 20), common].concat();
        import(&store, "web:1", &one);
        import(&store, "web:2", &two);
        (dir, store, one, two)
    }

    #[test]
    fn what_nothing_needs_goes_and_the_rest_is_moved() {
        let (_dir, store, one, two) = two_versions();
        assert_eq!(store.collect(true, &|_| ()).unwrap().removed, 0, "all is needed");
        store.remove("web:1", |_| Ok(vec![])).unwrap();
        assert!(whole(&store, &two) && !whole(&store, &one));
        let plan = store.collect(false, &|_| ()).unwrap();
        assert!(plan.removed == 1 && plan.freed > 1 << 20 && plan.rewritten > 1 << 20, "{plan:?}");
        let reader = store.blobs().open(Digest::of(&two)).unwrap().unwrap();
        let done = store.collect(true, &|_| ()).unwrap();
        assert_eq!((done.removed, done.rewritten), (1, plan.rewritten));
        let _ = done.freed.checked_sub(1 << 20).unwrap();
        assert!(whole(&store, &two));
        assert!(Arc::strong_count(&reader) >= 1 && reader.load(0..100).unwrap() == two[..100]);
        let after = store.collect(false, &|_| ()).unwrap();
        assert_eq!((after.garbage, after.packs), (0, 2), "{after:?}");
    }

    #[test]
    fn what_a_killed_collection_left_twice_is_found() {
        let (dir, store, _, two) = two_versions();
        store.remove("web:1", |_| Ok(vec![])).unwrap();
        // As if killed before the old pack was removed: its file comes back.
        let packs = dir.path().join("packs");
        let old: Vec<_> = std::fs::read_dir(&packs).unwrap().map(|e| e.unwrap().path()).collect();
        let saved: Vec<_> = old.iter().map(|p| (p.clone(), std::fs::read(p).unwrap())).collect();
        store.collect(true, &|_| ()).unwrap();
        for (path, bytes) in saved.iter().filter(|(path, _)| !path.exists()) {
            std::fs::write(path, bytes).unwrap();
        }
        let store = ImageStore::open(dir.path()).unwrap();
        assert!(store.collect(false, &|_| ()).unwrap().garbage > 3 << 20);
        for _ in 0..2 {
            store.collect(true, &|_| ()).unwrap();
        }
        assert!(whole(&store, &two));
        assert_eq!(store.collect(false, &|_| ()).unwrap().garbage, 0);
    }

    #[test]
    fn an_import_under_way_keeps_what_it_builds_on() {
        let (_dir, store, one, two) = two_versions();
        let building = sealed(&store, &one);
        store.remove("web:1", |_| Ok(vec![])).unwrap();
        let done = store.collect(true, &|_| ()).unwrap();
        assert_eq!((done.removed, done.busy), (0, 1));
        store.blobs().publish(building).unwrap();
        assert!(whole(&store, &one) && whole(&store, &two));
    }

    #[test]
    fn damage_is_never_collected_and_a_damaged_list_stops_it() {
        let (dir, store, one, two) = two_versions();
        store.remove("web:1", |_| Ok(vec![])).unwrap();
        let view = store.blobs().packs().view().unwrap();
        let needed = store.needed_chunks().unwrap();
        let pack = view.packs.iter().max_by_key(|p| p.size).unwrap();
        let entry = pack.entries().find(|e| needed.contains(&e.chunk.digest)).unwrap();
        let mut bytes = std::fs::read(&pack.path).unwrap();
        bytes[entry.offset as usize] ^= 1;
        std::fs::remove_file(&pack.path).unwrap();
        std::fs::write(&pack.path, bytes).unwrap();
        let store = ImageStore::open_read_only(dir.path());
        assert_eq!(store.collect(true, &|_| ()).unwrap().damaged, 1);
        assert!(pack.path.exists() && !whole(&store, &two));
        import(&store, "web:3", &two);
        import(&store, "web:1", &one);
        assert!(whole(&store, &two) && whole(&store, &one), "importing again heals it");
        let list = store.blobs().list_path(Digest::of(&one));
        std::fs::remove_file(&list).unwrap();
        std::fs::write(&list, b"nonsense").unwrap();
        assert!(matches!(store.collect(true, &|_| ()), Err(StoreError::Corrupt { .. })));
    }

    #[test]
    fn a_pack_without_any_index_goes_when_nothing_in_it_is_needed() {
        let (dir, store, one, two) = two_versions();
        let view = store.blobs().packs().view().unwrap();
        let pack = view.packs.iter().max_by_key(|p| p.size).unwrap().path.clone();
        for (path, end) in [(pack.clone(), true), (pack.with_extension("idx"), false)] {
            let bytes = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            let cut = if end { bytes.len() - 40 } else { 10 };
            std::fs::write(&path, &bytes[..cut]).unwrap();
        }
        let store = ImageStore::open_read_only(dir.path());
        let done = store.collect(true, &|_| ()).unwrap();
        assert!(done.damaged == 1 && done.removed == 0 && pack.exists(), "an image needs it: {done:?}");
        import(&store, "web:1", &one);
        import(&store, "web:2", &two);
        let plan = store.collect(false, &|_| ()).unwrap();
        assert!(plan.removed == 1 && plan.freed > 1 << 20, "{plan:?}");
        let done = store.collect(true, &|_| ()).unwrap();
        assert!(done.removed >= 1 && !pack.exists() && !pack.with_extension("idx").exists(), "{done:?}");
        assert!(whole(&store, &one) && whole(&store, &two));
        assert!(store.scrub(|| 7, &mut |_| true).unwrap().unwrap().found.is_empty());
    }
}
