//! Which machines an image fails on: what the seed alone decides, so that a rollout's outcome can be held against it.

use super::{dice::Dice, machine::End};
use crate::model::{Digest, Mac};

/// What the seed has in store for machines.
#[derive(Clone, Copy, Debug)]
pub struct Fates {
    /// Their chance.
    pub dice: Dice,
    /// Part of the machines that an image fails on, each image others.
    pub failures: f64,
    /// Image that never fails: the one that a fleet begins with.
    pub good: Digest,
}

impl Fates {
    /// Whether this image fails on this machine, and how: the same at every boot.
    pub fn of(&self, mac: Mac, image: Digest) -> Option<End> {
        if self.good == image {
            return None;
        }
        let what = format!("fails {image}");
        let fails = self.dice.happens(mac, &what, 0, self.failures);
        fails.then(|| if self.dice.happens(mac, &what, 1, 0.5) { End::Failed } else { End::Hung })
    }
}
