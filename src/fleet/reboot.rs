//! When a machine that is to boot anew is ordered to, and when that is given up. Pure.
//!
//! ```text
//!                    within the rollout's limits          a boot began after the order
//! wanted ──────────────────────────► ordered ─────────────────────────────────────────► met
//!                                     │  ▲                        with a script
//!     the BMC refused: after a pause, │  │ the BMC took it, and nothing booted
//!     each twice as long as the last  └──┘ for half an hour
//!                                     │
//!                                     └──► given up: refused 6 times, or taken 3 times for nothing
//! ```

use crate::model::{Limits, Mac, Millis, Reboot};
use std::collections::HashMap;

/// Orders that a BMC may take without a boot that follows.
const TAKEN: u8 = 3;
/// Orders that may fail.
const FAILED: u8 = 6;
/// How long a machine may take from an order, or from its first packet after it, to its boot script: a
/// large one tests its memory for a long time, and another reset would have it begin again.
const PATIENCE: Millis = 30 * 60_000;
/// The pause after the first order that failed.
const PAUSE: Millis = 30_000;

/// A machine that is to boot anew, and what is known of it.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Its name.
    pub mac: Mac,
    /// Its failure domain.
    pub rack: Option<&'a str>,
    /// What came of it so far.
    pub reboot: &'a Reboot,
    /// The rollout that wants it, and what that keeps to.
    pub rollout: Option<(&'a str, &'a Limits)>,
    /// When its latest boot began.
    pub began: Option<Millis>,
    /// When its latest boot got its script.
    pub script: Option<Millis>,
    /// An order is on its way to its BMC.
    pub asking: bool,
}

/// What is to be done for a machine now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Order it.
    Order,
    /// It booted: nothing is wanted any more.
    Met,
    /// Order it no more, for this reason.
    GiveUp(String),
}

/// What is to be done now; machines that are waited for are left out.
///
/// A rollout that gives many machines back what they had would have them all boot at once. So a first order
/// keeps to the rollout's limits: of its machines no more than that are ordered and have not booted.
pub fn reboots(wanted: &[Wanted<'_>], now: Millis) -> Vec<(Mac, Next)> {
    let mut out: HashMap<Key<'_>, u32> = HashMap::new();
    let next: Vec<Option<Next>> = wanted.iter().map(|w| next(w, now)).collect();
    for (w, next) in wanted.iter().zip(&next) {
        let over = matches!(next, Some(Next::Met | Next::GiveUp(_)));
        if w.reboot.last.is_some() && !over {
            keys(w).into_iter().flatten().for_each(|key| *out.entry(key).or_default() += 1);
        }
    }
    let mut todo = Vec::new();
    for (w, next) in wanted.iter().zip(next) {
        let Some(next) = next else { continue };
        if let (Next::Order, None, Some((name, limits))) = (&next, w.reboot.last, w.rollout) {
            let fits = |key, most: u32| most == 0 || out.get(&key).copied().unwrap_or(0) < most;
            if !fits((name, None), limits.in_flight) || !fits((name, Some(w.rack)), limits.in_flight_per_rack)
            {
                continue;
            }
            keys(w).into_iter().flatten().for_each(|key| *out.entry(key).or_default() += 1);
        }
        todo.push((w.mac, next));
    }
    todo
}

/// A rollout, or one rack of it.
type Key<'a> = (&'a str, Option<Option<&'a str>>);

/// What a machine counts in.
fn keys<'a>(w: &Wanted<'a>) -> Option<[Key<'a>; 2]> {
    w.rollout.map(|(name, _)| [(name, None), (name, Some(w.rack))])
}

fn next(w: &Wanted<'_>, now: Millis) -> Option<Next> {
    let reboot = w.reboot;
    if w.script.is_some_and(|at| at > reboot.since) {
        return Some(Next::Met);
    }
    if w.asking || reboot.gave_up.is_some() {
        return None;
    }
    let Some(last) = reboot.last else { return Some(Next::Order) };
    if let Some(error) = &reboot.error {
        let pause = PAUSE << reboot.failed.saturating_sub(1).min(FAILED);
        return match reboot.failed >= FAILED {
            true => Some(Next::GiveUp(format!("its reboot was ordered {FAILED} times in vain: {error}"))),
            false => (now - last >= pause).then_some(Next::Order),
        };
    }
    let heard = w.began.filter(|at| *at > last).unwrap_or(last);
    if now - heard < PATIENCE {
        return None;
    }
    Some(match reboot.taken >= TAKEN {
        true => Next::GiveUp(format!(
            "its BMC took {TAKEN} orders to reboot it, and it never asked for its boot script"
        )),
        false => Next::Order,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    const NOW: Millis = 1_000_000_000;

    fn want(reboot: &Reboot) -> Wanted<'_> {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        Wanted { mac, rack: None, reboot, rollout: None, began: None, script: None, asking: false }
    }

    #[test]
    fn a_bmc_that_refuses_is_asked_less_and_less_often_and_then_no_more() {
        let mut reboot = Reboot::wanted(NOW);
        let mut now = NOW;
        let mut pauses = Vec::new();
        for failed in 1..=FAILED {
            let before = now;
            while next(&want(&reboot), now) != Some(Next::Order) {
                now += 1_000;
            }
            pauses.push((now - before) / 1_000);
            (reboot.last, reboot.failed, reboot.error) = (Some(now), failed, Some("503".into()));
        }
        assert_eq!(pauses, [0, 30, 60, 120, 240, 480]);
        let why = "its reboot was ordered 6 times in vain: 503".to_owned();
        assert_eq!(next(&want(&reboot), now), Some(Next::GiveUp(why)));
    }

    #[test]
    fn one_that_lies_is_given_time_for_its_firmware_and_asked_again() {
        let mut reboot = Reboot { taken: 1, last: Some(NOW), ..Reboot::wanted(NOW) };
        assert_eq!(next(&want(&reboot), NOW + PATIENCE - 1), None);
        let began = Some(NOW + 60_000);
        let booting = Wanted { began, ..want(&reboot) };
        assert_eq!(next(&booting, NOW + PATIENCE), None, "from its first packet on it has as long again");
        assert_eq!(next(&booting, NOW + PATIENCE + 60_000), Some(Next::Order));
        let asking = Wanted { asking: true, ..want(&reboot) };
        assert_eq!(next(&asking, NOW + 2 * PATIENCE), None);
        let booted = Wanted { script: Some(NOW + 1), ..want(&reboot) };
        assert_eq!(next(&booted, NOW + 2), Some(Next::Met));
        let earlier = Wanted { script: Some(NOW), ..want(&reboot) };
        assert_eq!(next(&earlier, NOW + 2), None, "a boot from before is none");
        reboot.taken = TAKEN;
        assert!(matches!(next(&want(&reboot), NOW + PATIENCE), Some(Next::GiveUp(_))));
    }

    #[test]
    fn first_orders_keep_to_the_limits_of_their_rollout() {
        let fresh = Reboot::wanted(NOW);
        let out = Reboot { taken: 1, last: Some(NOW), ..fresh.clone() };
        let limits = Limits { in_flight: 3, in_flight_per_rack: 2, ..Limits::default() };
        let all: Vec<Wanted<'_>> = (0..8_u8)
            .map(|n| Wanted {
                mac: Mac([2, 0, 0, 0, 0, n]),
                rack: Some(if n < 4 { "a" } else { "b" }),
                rollout: Some(("web-2", &limits)),
                ..want(if n == 0 { &out } else { &fresh })
            })
            .collect();
        let ordered: Vec<u8> = reboots(&all, NOW).iter().map(|(mac, _)| mac.0[5]).collect();
        assert_eq!(ordered, [1, 4], "rack a has one on its way, and so has the rollout");
    }
}
