#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use super::*;
use crate::store::{chunk::tests::noise, testing::TempDir};
use proptest::prelude::*;
use std::{io::Read as _, os::unix::fs::PermissionsExt as _};

fn put(blobs: &Blobs, bytes: &[u8]) -> BlobRef {
    let mut w = blobs.begin().unwrap();
    w.write_all(bytes).unwrap();
    blobs.publish(w.seal(Digest::of(bytes)).unwrap()).unwrap()
}

#[test]
fn the_same_bytes_are_stored_once_and_read_only() {
    let dir = TempDir::new();
    let blobs = Blobs::at(dir.path());
    blobs.create().unwrap();
    let a = put(&blobs, b"kernel");
    assert_eq!(put(&blobs, b"kernel"), a);
    assert_eq!(blobs.list().unwrap(), BTreeSet::from([a.digest]));
    let mode = fs::metadata(blobs.path(a.digest)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o444);
    assert_eq!(hash(&blobs.open(a.digest).unwrap().unwrap()).unwrap(), a);
    assert_eq!(fs::read_dir(&blobs.0.tmp).unwrap().count(), 0);
}

#[test]
fn a_sweep_takes_leftovers_and_leaves_a_live_import_alone() {
    let dir = TempDir::new();
    let blobs = Blobs::at(dir.path());
    blobs.create().unwrap();
    fs::write(blobs.0.tmp.join(".tmp-1-0-dead"), b"half").unwrap();
    let live = blobs.begin().unwrap();
    assert_eq!(blobs.sweep_tmp().unwrap(), 1);
    assert!(live.path().exists());
    drop(live);
    assert_eq!(fs::read_dir(&blobs.0.tmp).unwrap().count(), 0);
}

#[test]
fn publishing_again_repairs_a_damaged_blob() {
    let dir = TempDir::new();
    let blobs = Blobs::at(dir.path());
    blobs.create().unwrap();
    let a = put(&blobs, b"rootfs");
    fs::remove_file(blobs.path(a.digest)).unwrap();
    fs::write(blobs.path(a.digest), b"rooT").unwrap();
    put(&blobs, b"rootfs");
    assert_eq!(hash(&blobs.open(a.digest).unwrap().unwrap()).unwrap(), a);
}

/// A new store's blobs.
fn store() -> (TempDir, Blobs) {
    let dir = TempDir::new();
    let blobs = Blobs::at(dir.path());
    blobs.create().unwrap();
    (dir, blobs)
}

fn sealed_chunks(blobs: &Blobs, bytes: &[u8]) -> SealedBlob {
    let mut w = blobs.begin_shared(CHUNKED_FROM).unwrap();
    w.write_all(bytes).unwrap();
    w.seal(Digest::of(bytes)).unwrap()
}

fn put_chunks(blobs: &Blobs, bytes: &[u8]) -> Digest {
    blobs.publish(sealed_chunks(blobs, bytes)).unwrap().digest
}

fn read(blobs: &Blobs, digest: Digest) -> Result<Vec<u8>, StoreError> {
    let mut out = Vec::new();
    blobs.reader(digest)?.unwrap().read_to_end(&mut out).map_err(io_at("read", Path::new("blob")))?;
    Ok(out)
}

/// The packs' files, with their bytes.
fn packs(dir: &TempDir) -> Vec<(PathBuf, u64)> {
    let mut paths = dir_entries(&dir.path().join("packs")).unwrap();
    paths.retain(|p| p.extension().is_some_and(|e| e == "pack"));
    paths.into_iter().map(|p| (p.clone(), fs::metadata(&p).unwrap().len())).collect()
}

/// Changes a file in place, as a bad disk does.
fn flip(path: &Path, at: u64) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[at as usize] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn versions_cost_what_changed() {
    let (dir, blobs) = store();
    let one = noise(1, 6 << 20);
    let mut two = one.clone();
    two.splice(2_000_000..2_000_100, noise(2, 50_000));
    let (a, b) = (put_chunks(&blobs, &one), put_chunks(&blobs, &two));
    let sizes: Vec<u64> = packs(&dir).iter().map(|p| p.1).collect();
    assert_eq!(sizes.len(), 2);
    assert!(sizes.iter().max().unwrap() > &(6 << 20) && sizes.iter().min().unwrap() < &700_000, "{sizes:?}");
    assert!(read(&blobs, a).unwrap() == one && read(&blobs, b).unwrap() == two);
    // The same again costs nothing; another process sees it all.
    put_chunks(&blobs, &two);
    assert_eq!(packs(&dir).len(), 2);
    assert!(read(&Blobs::at(dir.path()), b).unwrap() == two);
    assert_eq!(blobs.list().unwrap(), BTreeSet::from([a, b]));
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn odd_blobs_are_stored_as_any() {
    let (dir, blobs) = store();
    let half = noise(3, 1 << 20);
    for bytes in [vec![], b"short".to_vec(), vec![0; 3 << 20], [&half[..], &half, &half].concat()] {
        let digest = put_chunks(&blobs, &bytes);
        assert!(read(&blobs, digest).unwrap() == bytes);
    }
    let used: u64 = packs(&dir).iter().map(|p| p.1).sum();
    assert!(used < 3 << 20, "the same chunk twice in a blob is stored once: {used}");
}

#[test]
fn an_abandoned_blob_leaves_nothing_and_a_plain_one_may_become_chunks() {
    let (dir, blobs) = store();
    let bytes = noise(4, 2 << 20);
    drop(sealed_chunks(&blobs, &bytes));
    assert_eq!(packs(&dir), []);
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    let plain = put(&blobs, &bytes).digest;
    let reader = blobs.open(plain).unwrap().unwrap();
    put_chunks(&blobs, &bytes);
    assert!(!blobs.path(plain).exists() && blobs.list_path(plain).exists());
    assert!(read(&blobs, plain).unwrap() == bytes);
    assert!(!Arc::ptr_eq(&reader, &blobs.open(plain).unwrap().unwrap()));
    put(&blobs, &bytes);
    assert!(blobs.path(plain).exists() && !blobs.list_path(plain).exists());
}

#[test]
fn whoever_reads_reads_on_when_a_blob_is_removed() {
    let (_dir, blobs) = store();
    let bytes = noise(5, 2 << 20);
    let digest = put_chunks(&blobs, &bytes);
    let mut reader = blobs.reader(digest).unwrap().unwrap();
    let shared = blobs.open(digest).unwrap().unwrap();
    assert!(Arc::ptr_eq(&shared, &blobs.open(digest).unwrap().unwrap()), "one mapping for all");
    blobs.remove(digest).unwrap();
    for pack in &blobs.packs().view().unwrap().packs {
        blobs.packs().remove(&pack.path, blobs.packs().claim(&pack.path).unwrap()).unwrap();
    }
    assert!(blobs.open(digest).unwrap().is_none());
    let mut got = Vec::new();
    reader.read_to_end(&mut got).unwrap();
    assert!(got == bytes);
}

#[test]
fn the_blobs_that_were_read_last_stay_mapped_and_no_more() {
    let (_dir, blobs) = store();
    let digests: Vec<Digest> =
        (0..=MAX_WARM as u64).map(|n| put_chunks(&blobs, &noise(n, 1 << 20))).collect();
    let read = |digest: &Digest| Arc::downgrade(&blobs.open(*digest).unwrap().unwrap());
    let all: Vec<_> = digests.iter().map(read).collect();
    blobs.cool();
    let warm: Vec<bool> = all.iter().map(|content| content.upgrade().is_some()).collect();
    assert_eq!(warm.iter().filter(|w| **w).count(), MAX_WARM);
    assert!(!warm[0]);
}

#[test]
fn a_pack_that_somebody_builds_on_stays() {
    let (dir, blobs) = store();
    let bytes = noise(6, 2 << 20);
    put_chunks(&blobs, &bytes);
    let building = sealed_chunks(&blobs, &bytes);
    let other = Packs::at(dir.path());
    let pack = Arc::clone(other.view().unwrap().packs.first().unwrap());
    assert!(other.claim(&pack.path).is_none());
    let digest = blobs.publish(building).unwrap().digest;
    assert!(read(&blobs, digest).unwrap() == bytes);
    other.remove(&pack.path, other.claim(&pack.path).unwrap()).unwrap();
    assert!(matches!(read(&blobs, digest), Err(StoreError::Corrupt { .. })));
    assert!(pack.hold().is_none(), "nobody builds on what is gone");
}

#[test]
fn a_pack_without_its_index_is_read_by_the_copy() {
    let (dir, blobs) = store();
    let bytes = noise(7, 2 << 20);
    let digest = put_chunks(&blobs, &bytes);
    let (path, size) = packs(&dir).remove(0);
    flip(&path, size - 1);
    let again = Blobs::at(dir.path());
    assert!(read(&again, digest).unwrap() == bytes);
    fs::remove_file(path.with_extension("idx")).unwrap();
    let again = Blobs::at(dir.path());
    assert!(matches!(read(&again, digest), Err(StoreError::Corrupt { .. })));
    assert_eq!(again.packs().view().unwrap().unreadable.len(), 1);
    put_chunks(&again, &bytes);
    assert!(read(&again, digest).unwrap() == bytes, "writing it again heals it");
}

#[test]
fn a_damaged_list_is_named_and_healed() {
    let (_dir, blobs) = store();
    let bytes = noise(8, 2 << 20);
    let digest = put_chunks(&blobs, &bytes);
    flip(&blobs.list_path(digest), 20);
    let said = read(&blobs, digest).unwrap_err().to_string();
    assert!(said.contains("list of chunks") && said.contains(&digest.to_string()), "{said}");
    put_chunks(&blobs, &bytes);
    assert!(read(&blobs, digest).unwrap() == bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    #[test]
    fn whatever_is_damaged_writing_again_heals_it_and_others_keep_theirs(
        seed: u64, at: u64, cut: bool, change in 0usize..2_000_000,
    ) {
        let (dir, blobs) = store();
        let one = noise(seed, 2 << 20);
        let mut two = one.clone();
        two.splice(change..change, noise(seed ^ 1, 1000));
        let (a, b) = (put_chunks(&blobs, &one), put_chunks(&blobs, &two));
        let (path, size) = packs(&dir).into_iter().max_by_key(|p| p.1).unwrap();
        if cut {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            File::options().write(true).open(&path).unwrap().set_len(at % size).unwrap();
        } else {
            flip(&path, at % size);
        }
        // Found: never other bytes than it was.
        let after = Blobs::at(dir.path());
        if let Ok(got) = read(&after, a) {
            prop_assert!((Digest::of(&got) == a) == (got == one));
        }
        put_chunks(&after, &one);
        put_chunks(&after, &two);
        prop_assert!(read(&after, a).unwrap() == one && read(&after, b).unwrap() == two);
        let other = Blobs::at(dir.path());
        prop_assert!(read(&other, a).unwrap() == one && read(&other, b).unwrap() == two);
    }
}
