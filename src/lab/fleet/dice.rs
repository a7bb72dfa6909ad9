//! Chance from a seed. Each draw stands for itself: what one machine draws hangs on no other's and on no
//! order, so that one seed is one fleet, whatever the machine it is simulated on.

use crate::model::Mac;
use sha2::{Digest as _, Sha256};
use std::time::Duration;

/// Draws by seed.
#[derive(Clone, Copy, Debug)]
pub struct Dice {
    seed: u64,
}

impl Dice {
    /// All draws of this seed.
    pub fn new(seed: u64) -> Dice {
        Dice { seed }
    }

    /// A number of 64 bits for the `nth` time that this machine does `what`.
    pub fn number(&self, mac: Mac, what: &str, nth: u64) -> u64 {
        let mut hash = Sha256::new();
        hash.update(self.seed.to_be_bytes());
        hash.update(mac.0);
        hash.update(nth.to_be_bytes());
        hash.update(what.as_bytes());
        let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(hash.finalize());
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// From 0 to 1, without 1.
    pub fn part(&self, mac: Mac, what: &str, nth: u64) -> f64 {
        // 53 bits are what a double holds.
        (self.number(mac, what, nth) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True in so many of one.
    pub fn happens(&self, mac: Mac, what: &str, nth: u64, odds: f64) -> bool {
        self.part(mac, what, nth) < odds
    }

    /// Around `median`: a quarter of it to four times, most of them near it, as start times of real
    /// machines are spread.
    pub fn around(&self, mac: Mac, what: &str, nth: u64, median: Duration) -> Duration {
        // A sum of four even draws is close to a normal one; its power of two to a log-normal one.
        let sum: f64 = (0..4).map(|n| self.part(mac, what, nth.wrapping_mul(4).wrapping_add(n))).sum();
        median.mul_f64((sum - 2.0).exp2())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_even_repeatable_and_each_for_itself() {
        let (dice, mac) = (Dice::new(7), Mac([2, 0, 0, 0, 0, 1]));
        let hits = (0..10_000).filter(|n| dice.happens(mac, "it", *n, 0.05)).count();
        assert!((350..650).contains(&hits), "{hits}");
        assert_eq!(dice.number(mac, "it", 1), Dice::new(7).number(mac, "it", 1));
        assert_ne!(dice.number(mac, "it", 1), Dice::new(8).number(mac, "it", 1));
        let second = Duration::from_secs(1);
        let spread: Vec<Duration> = (0..1_000).map(|n| dice.around(mac, "boot", n, second)).collect();
        assert!(spread.iter().all(|d| (second / 4..=second * 4).contains(d)));
        let below = spread.iter().filter(|d| **d < second).count();
        assert!((400..600).contains(&below), "{below}");
    }
}
