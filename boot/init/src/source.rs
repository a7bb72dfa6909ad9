//! Where the root's blocks come from: memory that has all of them, or the server as they are read.

use crate::{
    blocks,
    cmdline::Boot,
    console::say,
    devices::Modules,
    failure::{Failure, Result},
    manifest::RootFs,
    report::Reporter,
    root::Proven,
    stream::{self, Streamed},
    whole,
};

/// A device that shows the rootfs, to be proven by dm-verity.
#[derive(Debug)]
pub struct Source {
    /// Its node.
    pub device: String,
    streamed: Option<Streamed>,
}

impl Source {
    /// Makes it as the boot script says; of the whole rootfs where this kernel can't stream. Reports stage `rootfs`.
    pub fn get(
        boot: &Boot,
        reporter: &Reporter,
        rootfs: &RootFs,
        proven: &Proven,
        modules: &mut Modules,
    ) -> Result<Source> {
        let mb = mb(rootfs.blob.size);
        let mut besides = String::new();
        if boot.streams {
            modules.load_for_a_streamed_root();
            match stream::start(reporter, rootfs, proven) {
                Ok(streamed) => {
                    let how = format!("streamed: {mb} MB, each block proven when it is first read");
                    say(format!("rootfs {how}"));
                    reporter.stage("rootfs", Some(&how));
                    return Ok(Source { device: streamed.device.clone(), streamed: Some(streamed) });
                }
                Err(why) => {
                    say(format!("the rootfs can't be streamed ({why}): fetching it whole"));
                    besides = format!("; not streamed: {why}");
                }
            }
        }
        let whole = whole::fetch(boot.server, &boot.attempt, rootfs, proven)?;
        let mut rate = format!("{mb} MB in {:.1} s, {:.1} of them to prove it", whole.seconds, whole.proof);
        if whole.waited >= 2.0 {
            rate = format!("{rate}, after {:.0} s in line", whole.waited);
        }
        say(format!("rootfs complete, every block proven: {rate}"));
        reporter.stage("rootfs", Some(&format!("{rate}{besides}")));
        Ok(Source { device: blocks::attach(&whole.data, "pristine-rootfs")?, streamed: None })
    }

    /// Bytes of the rootfs that will come into memory.
    pub fn to_come(&self) -> u64 {
        self.streamed.as_ref().map_or(0, Streamed::to_come)
    }

    /// How much of a root that is streamed is here, to stand behind something; empty where all is.
    pub fn so_far(&self) -> String {
        self.streamed.as_ref().map_or(String::new(), |streamed| {
            let here = streamed.here();
            format!(", streamed: {} of {} MB before its first use", mb(here), mb(here + streamed.to_come()))
        })
    }

    /// Why a boot from it must end, where it must.
    pub fn fault(&self) -> Option<Failure> {
        self.streamed.as_ref().and_then(Streamed::fault)
    }
}

fn mb(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}
