//! The store is read again by schedule, slowly, in the background: what the disk lost is an alarm before a
//! machine needs it.

use crate::{
    config,
    model::{Machine, Millis, wire::Alarm},
    provisioner::Provisioner,
    store::{
        ImageStore, StoreError,
        images::{DamagedImage, Paced},
    },
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// A store that was never scrubbed is so long after the start: then the machines of a site that had no power
/// have booted.
const FIRST: Duration = Duration::from_secs(600);
/// Between tries where a scrub couldn't be done.
const AGAIN: Duration = Duration::from_secs(3_600);
/// Most machines that an alarm names.
const NAMED: usize = 5;

/// Scrubs a store, and tells how it is.
#[derive(Clone)]
pub(super) struct Scrubber {
    images: ImageStore,
    provisioner: Provisioner,
    interval: Duration,
    /// Bytes a second.
    rate: u64,
    /// Bytes read by the scrub that runs, and one more; 0 where none does.
    running: Arc<AtomicU64>,
}

impl Scrubber {
    pub(super) fn new(images: ImageStore, provisioner: Provisioner, config: &config::Images) -> Scrubber {
        let interval = Duration::from_secs(config.scrub_interval.0.into());
        let rate = u64::from(config.scrub_rate) << 20;
        Scrubber { images, provisioner, interval, rate, running: Arc::default() }
    }

    /// Scrubs whenever it is time, until `shutdown` is true.
    pub(super) async fn run(self, mut shutdown: watch::Receiver<bool>) {
        if self.interval.is_zero() {
            let _ = shutdown.wait_for(|stop| *stop).await;
            return;
        }
        let mut wait = self.until_next();
        loop {
            tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = if self.once(&shutdown).await { self.until_next() } else { AGAIN };
        }
    }

    fn until_next(&self) -> Duration {
        let Some(last) = self.images.last_scrub() else { return FIRST.min(self.interval) };
        let since = u64::try_from(now() - last.ended).unwrap_or(0);
        self.interval.saturating_sub(Duration::from_millis(since)).max(FIRST.min(self.interval))
    }

    /// False where it couldn't be done.
    async fn once(&self, shutdown: &watch::Receiver<bool>) -> bool {
        let (images, rate, running) = (self.images.clone(), self.rate, Arc::clone(&self.running));
        let shutdown = shutdown.clone();
        running.store(1, Ordering::Relaxed);
        let scrub = tokio::task::spawn_blocking(move || {
            let mut pace = Paced::new(rate, || *shutdown.borrow());
            images.scrub(now, &mut |n| {
                running.fetch_add(n, Ordering::Relaxed);
                pace.spend(n)
            })
        });
        let outcome = scrub.await;
        self.running.store(0, Ordering::Relaxed);
        match outcome {
            Ok(Ok(Some(done))) => {
                if done.images.is_empty() {
                    tracing::info!(bytes = done.bytes, "scrubbed: all images are as they should be");
                }
                for image in &done.images {
                    tracing::error!(image = image.label, what = image.what.join("; "), "an image is damaged");
                }
                true
            }
            Ok(Ok(None)) => true,
            Ok(Err(error)) => {
                tracing::error!(%error, "the store can't be scrubbed");
                false
            }
            Err(error) => {
                tracing::error!(%error, "the store can't be scrubbed");
                false
            }
        }
    }

    /// For `pristine status`.
    pub(super) fn counters(&self) -> serde_json::Value {
        let running = self.running.load(Ordering::Relaxed).checked_sub(1);
        let last = self.images.last_scrub();
        serde_json::json!({ "scrub": {
            "running_bytes": running,
            "last_ended": last.as_ref().map(|l| l.ended),
            "last_bytes": last.as_ref().map(|l| l.bytes),
            "last_found": last.as_ref().map(|l| l.found.len()),
        }})
    }

    /// One for each image that is known to be damaged, whether a scrub, `image verify` or serving it found that,
    /// and that nobody healed since.
    pub(super) fn alarms(&self) -> Vec<Alarm> {
        let words =
            |error: StoreError| Alarm { about: "images".into(), text: error.to_string(), since: now() };
        let looked = self.images.bad_tags().and_then(|bad| Ok((bad, self.images.damaged_images()?)));
        let (bad_tags, damaged) = match looked {
            Ok(looked) => looked,
            Err(error) => return vec![words(error)],
        };
        let bad_tags = bad_tags.into_iter().map(words);
        if damaged.is_empty() {
            return bad_tags.collect();
        }
        let machines = self.provisioner.machines();
        let scrubbed = self.images.last_scrub().filter(|last| !last.images.is_empty());
        let since = scrubbed.map_or_else(now, |last| last.ended);
        bad_tags.chain(damaged.iter().map(|image| alarm(image, &machines, since))).collect()
    }
}

fn alarm(image: &DamagedImage, machines: &[Machine], since: Millis) -> Alarm {
    let by: Vec<String> = machines.iter().filter(|m| m.is_on(image.digest)).map(Machine::name).collect();
    let mut who = by.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if by.len() > NAMED {
        who.push_str(&format!(" and {} more", by.len() - NAMED));
    }
    let hurts = match by.len() {
        0 => "no machine is pinned to it or runs it".to_owned(),
        1 => format!("1 machine is pinned to it or runs it: {who}"),
        n => format!("{n} machines are pinned to it or run it: {who}"),
    };
    let text = format!(
        "the image is damaged on this server's disk ({}), and what is damaged is not served: import the same files again; {hurts}",
        image.what.join("; ")
    );
    Alarm { about: image.label.clone(), text, since }
}

fn now() -> Millis {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(now.as_millis()).unwrap_or(Millis::MAX)
}
