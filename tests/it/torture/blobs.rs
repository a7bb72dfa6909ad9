//! What a disk does to images behind the service's back.

use super::{
    Row,
    mounted::{Site, root},
    times,
};
use pristine::model::Digest;
use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// The same numbers in every run.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

/// Every file of blobs, lists of chunks and packs.
fn files(store: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut todo = vec![store.join("blobs"), store.join("packs")];
    while let Some(path) = todo.pop() {
        match path.is_dir() {
            true => todo.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path())),
            false => out.push(path),
        }
    }
    out.sort();
    out
}

/// One fault, after which the file is another; what it was.
fn damage(file: &Path, random: &mut Random) -> String {
    fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    let open = fs::File::options().read(true).write(true).open(file).unwrap();
    let size = open.metadata().unwrap().len();
    let at = random.below(size);
    let mut part = vec![0; usize::try_from((size - at).min(4096)).unwrap()];
    open.read_exact_at(&mut part, at).unwrap();
    let what = match random.below(4) {
        0 => {
            fs::remove_file(file).unwrap();
            "deleted".to_owned()
        }
        1 => {
            open.set_len(at).unwrap();
            format!("cut to {at} of {size} bytes")
        }
        2 if part.iter().any(|byte| *byte != 0) => {
            part.fill(0);
            open.write_all_at(&part, at).unwrap();
            format!("zeros from {at} of {size} bytes")
        }
        _ => {
            open.write_all_at(&[part[0] ^ 4], at).unwrap();
            format!("a bit of byte {at} of {size} flipped")
        }
    };
    format!("{}: {what}", file.file_name().unwrap().display())
}

/// Whether all that the image consists of is served whole, and nothing else as if it were. What is `known` to be
/// damaged is an error from the first byte on, and no answer that breaks off.
fn served(site: &Site, from: Ipv4Addr, row: &mut Row, known: bool, when: &str) -> bool {
    let blobs = [site.kernel, Digest::of(b"initramfs"), Digest::of(&root()), site.image];
    let mut all = true;
    for blob in blobs {
        let (code, body) = site.http(from, &[], &format!("/blobs/{blob}"));
        let whole = code == 200 && Digest::of(&body) == blob;
        row.holds(code != 200 || whole, || format!("{when}: {blob} came whole and wrong"));
        row.holds(whole || !known || code >= 400, || {
            format!("{when}: {blob} is known to be bad, and got {code}")
        });
        all &= whole;
    }
    all
}

/// What a machine does that gets a wrong byte all the same: `boots::a_flipped_byte_in_the_rootfs_never_runs`.
#[test]
fn damage_on_disk_reaches_no_machine_and_is_known_after_one_look() {
    let mut row = Row::new("blob corrupted, truncated or deleted on disk");
    let site = Site::up(32);
    let addr = site.lease_at_last(1).addr;
    let store = site.disk.path().join("state/store");
    let (mut random, mut mattered) = (Random(1), 0);
    for round in 0..times(8, 400) {
        let files = files(&store);
        let file = &files[usize::try_from(random.below(files.len() as u64)).unwrap()];
        let good = fs::read(file).unwrap();
        let what = damage(file, &mut random);
        // As a boot meets it, or nobody before it is looked for.
        let asked = round % 2 == 0;
        if asked {
            served(&site, addr, &mut row, false, &what);
        }
        let look = if round % 4 < 2 { &["image", "scrub", "--rate", "0"][..] } else { &["image", "verify"] };
        let found = site.service.cli(&site.server, look);
        // One scrub finds it, whether or not the image needs that file, and whatever the service has in memory. A copy
        // of an index that is gone is made anew without a word.
        let seen = found.as_ref().map_or(true, |said| said.contains("damaged now"))
            || fs::read(file).is_ok_and(|now| now == good);
        row.holds(seen || look[1] != "scrub", || format!("{what}: {look:?} found nothing: {found:?}"));
        let whole = served(&site, addr, &mut row, true, &format!("{what}, after {look:?}"));
        let (code, script) = site.script(1, addr);
        let named = script.contains(&format!("/blobs/{}", site.kernel));
        let alarms = site.alarms();
        let alarmed = alarms.iter().any(|a| a.contains("damaged"));
        if whole {
            row.holds(code == 200 && named, || format!("{what}: nothing is lost, and {script}"));
        } else {
            mattered += 1;
            row.holds(found.is_err(), || format!("{what}: {look:?} found nothing: {found:?}"));
            row.holds(alarmed, || format!("{what}: no alarm: {alarms:?}"));
            row.holds(!named, || format!("{what}: the machine is told to boot it: {script}"));
        }
        site.import_again();
        let healed = served(&site, addr, &mut row, false, "imported again");
        row.holds(healed, || format!("{what}: importing again doesn't heal it"));
        let alarms = site.alarms();
        row.holds(!alarms.iter().any(|a| a.contains("damaged")), || {
            format!("{what}: healed, and {alarms:?}")
        });
        let (_, script) = site.script(1, addr);
        row.holds(script.contains(&format!("/blobs/{}", site.kernel)), || {
            format!("{what}: healed, and {script}")
        });
        let _ = site.service.cli(&site.server, &["image", "gc", "--run"]);
        row.made(1);
    }
    row.holds(mattered > 0, || "no damage mattered".into());
    row.end();
}
