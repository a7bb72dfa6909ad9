//! The root fetched whole, before anything of it is used.

use crate::{
    console::say,
    failure::{Doing, Result},
    fetch::{self, Problem, Wrong},
    manifest::RootFs,
    root::{self, Proven},
};
use std::{
    fs::File,
    net::SocketAddrV4,
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

/// The rootfs in memory, proven.
#[derive(Debug)]
pub struct Whole {
    /// Sealed.
    pub data: File,
    /// Seconds that the rootfs took, from its first block on.
    pub seconds: f32,
    /// Seconds of those that the proof of its blocks took.
    pub proof: f32,
    /// Seconds until its first block came: others went before.
    pub waited: f32,
}

/// Fetches the rootfs; every block is proven before it is kept.
pub fn fetch(server: SocketAddrV4, attempt: &str, rootfs: &RootFs, proven: &Proven) -> Result<Whole> {
    let data = root::memory_file("pristine-rootfs", rootfs.bytes())?;
    let path = format!("/blobs/{}?boot={attempt}", rootfs.blob.digest);
    let size = rootfs.blob.size;
    let asked = Instant::now();
    let (mut progress, mut proof) = (None, Duration::ZERO);
    fetch::stream(server, &path, size, "the rootfs", &mut |at, bytes| {
        let before = Instant::now();
        let wrong = proven.tree.first_wrong(at, bytes);
        proof += before.elapsed();
        let good = bytes.get(..wrong.unwrap_or(bytes.len())).unwrap_or_default();
        data.write_all_at(good, at).doing("keep the rootfs in memory").map_err(Problem::Fatal)?;
        match wrong {
            Some(offset) => Err(Problem::Wrong(Wrong { at: at + offset as u64 })),
            None => {
                let progress = progress.get_or_insert_with(|| Progress::new(size));
                progress.show(at + bytes.len() as u64);
                Ok(())
            }
        }
    })?;
    root::seal(&data)?;
    let began = progress.map_or(asked, |progress| progress.began);
    let (seconds, waited) = (began.elapsed().as_secs_f32(), began.duration_since(asked).as_secs_f32());
    Ok(Whole { data, seconds, proof: proof.as_secs_f32(), waited })
}

/// A line each tenth, and at least every five seconds.
struct Progress {
    size: u64,
    began: Instant,
    told_tenths: u64,
    told_at: Instant,
}

impl Progress {
    fn new(size: u64) -> Progress {
        let now = Instant::now();
        Progress { size, began: now, told_tenths: 0, told_at: now }
    }

    fn show(&mut self, done: u64) {
        let tenths = done * 10 / self.size.max(1);
        // Tenths of a small image would be many lines within a second.
        let quiet = self.told_at.elapsed() < Duration::from_millis(500) && done < self.size;
        if quiet || (tenths == self.told_tenths && self.told_at.elapsed() < Duration::from_secs(5)) {
            return;
        }
        (self.told_tenths, self.told_at) = (tenths, Instant::now());
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let rate = mb(done) / self.began.elapsed().as_secs_f64().max(0.001);
        say(format!(
            "rootfs {:.0} of {:.0} MB ({} %), {rate:.0} MB/s",
            mb(done),
            mb(self.size),
            done * 100 / self.size.max(1)
        ));
    }
}
