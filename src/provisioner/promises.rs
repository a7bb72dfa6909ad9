//! What the disk promises machines while it takes nothing new, and what an operator is told then.
//!
//! An ACK may never promise more than what is on disk. Where a renewal can't be saved, it may still promise
//! what was saved before: the address until the end of the lease as it is on disk. So nobody loses an address
//! to a full disk before that end.

use super::Provisioner;
use crate::{
    model::{Mac, Millis, wire::Alarm},
    store::{
        db::{Commit, DbError, Trouble},
        durable::{NO_ROOM, free_bytes},
    },
};
use std::{
    collections::HashMap,
    net::Ipv4Addr,
    time::{Duration, UNIX_EPOCH},
};

/// How long a machine waits for a disk that is stuck, before it gets what needs none. DHCP clients ask again after
/// some four seconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// How long a machine waits that needs the disk: whoever asked has asked again by then.
pub(super) const LONGEST: Duration = Duration::from_secs(8);
/// Shortest lease that is worth an answer.
const SHORTEST: Millis = 60_000;

/// Of each address whose latest ACK isn't known to be on disk: what is.
#[derive(Debug, Default)]
pub(super) struct Promises {
    by_addr: HashMap<Ipv4Addr, Promise>,
    latest: u64,
}

#[derive(Debug)]
struct Promise {
    mac: Mac,
    /// End of its lease as the disk has it; `None` where nothing is known to be there.
    until: Option<Millis>,
    /// The shortest of those that are on their way: the disk may have any of them.
    shortest: Millis,
    latest: u64,
}

/// A promise that is on its way to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    addr: Ipv4Addr,
    mac: Mac,
    until: Millis,
    number: u64,
}

impl Ticket {
    /// Seconds that it promises.
    pub fn seconds_left(&self, now: Millis) -> u32 {
        u32::try_from(self.until.saturating_sub(now).max(0) / 1_000).unwrap_or(u32::MAX)
    }
}

impl Promises {
    /// A lease of `mac` is about to be promised until `until`; `before` is the end of the one that it had so far,
    /// if it had one.
    pub fn make(&mut self, addr: Ipv4Addr, mac: Mac, until: Millis, before: Option<Millis>) -> Ticket {
        let (on_disk, shortest) = match self.by_addr.get(&addr) {
            // One that was shorter may have got there since.
            Some(p) if p.mac == mac => {
                (p.until.zip(before).map(|(disk, memory)| disk.min(memory)), p.shortest.min(until))
            }
            Some(_) => (None, until),
            None => (before, until),
        };
        self.latest += 1;
        let number = self.latest;
        self.by_addr.insert(addr, Promise { mac, until: on_disk, shortest, latest: number });
        Ticket { addr, mac, until, number }
    }

    /// It is on disk.
    pub fn kept(&mut self, ticket: Ticket) {
        match self.by_addr.get_mut(&ticket.addr) {
            Some(promise) if promise.latest == ticket.number => {
                self.by_addr.remove(&ticket.addr);
            }
            // A later one is on its way, or there instead of it.
            Some(promise) if promise.mac == ticket.mac => promise.until = Some(promise.shortest),
            _ => {}
        }
    }

    /// The lease of an address ended otherwise than by its time: nothing is promised any more.
    pub fn end(&mut self, addr: Ipv4Addr) {
        self.by_addr.remove(&addr);
    }

    /// Seconds that the disk still promises, where they are worth an answer.
    pub fn left(&self, ticket: &Ticket, now: Millis) -> Option<u32> {
        let promise = self.by_addr.get(&ticket.addr).filter(|p| p.mac == ticket.mac)?;
        let left = promise.until?.min(ticket.until).checked_sub(now).filter(|left| *left >= SHORTEST)?;
        u32::try_from(left / 1_000).ok()
    }
}

/// What became of a change for which somebody waits.
pub(super) enum Soon {
    Saved,
    /// It waits for the disk, and will be saved when that takes anything again.
    Waits(Option<DbError>),
}

/// Waits for the disk, but no longer than `patience`.
pub(super) async fn soon(commit: &mut Commit, patience: Duration) -> Soon {
    match tokio::time::timeout(patience, commit).await {
        Ok(Ok(())) => Soon::Saved,
        Ok(Err(error)) => Soon::Waits(Some(error)),
        Err(_) => Soon::Waits(None),
    }
}

impl Provisioner {
    /// How long a boot waits for a disk without which it could go on: what leaves unsaved is lost with a kill. Not
    /// long where the disk is known to take nothing.
    pub(super) fn patience(&self) -> Duration {
        if self.0.db.trouble().is_some() { PATIENCE } else { LONGEST }
    }

    /// A disk that takes nothing, or nearly nothing more.
    pub(super) fn disk_alarm(&self) -> Option<Alarm> {
        let folder = self.0.db.folder();
        if let Some(Trouble { since, error, waiting }) = self.0.db.trouble() {
            let since = since.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            let text = format!(
                "{error}. {waiting} changes wait. Until then no new lease is given and no order taken; leases are renewed for \
                 the time that they have on disk, and machines with one boot"
            );
            return Some(Alarm { about: "disk".into(), text, since: Millis::try_from(since).unwrap_or(0) });
        }
        let places = [folder, self.0.images.dir()];
        let (place, free) =
            places.iter().filter_map(|dir| Some((dir, free_bytes(dir)?))).min_by_key(|p| p.1)?;
        (free < NO_ROOM).then(|| Alarm {
            about: "disk".into(),
            text: format!(
                "only {} MB are free at {}: make room (`pristine image rm`, `pristine image gc`), before no lease can be saved",
                free / 1_000_000,
                place.display()
            ),
            since: self.now(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 9);
    const A: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const MINUTE: Millis = 60_000;

    #[test]
    fn a_renewal_that_is_not_saved_promises_what_the_disk_has_and_no_more() {
        let mut p = Promises::default();
        let first = p.make(ADDR, A, 60 * MINUTE, None);
        assert_eq!(p.left(&first, 0), None, "nothing is on disk");
        p.kept(first);
        let second = p.make(ADDR, A, 90 * MINUTE, Some(60 * MINUTE));
        let third = p.make(ADDR, A, 95 * MINUTE, Some(90 * MINUTE));
        assert_eq!(p.left(&third, 30 * MINUTE), Some(1_800), "the second is not on disk either");
        p.kept(second);
        assert_eq!(p.left(&third, 30 * MINUTE), Some(3_600));
        assert_eq!(p.left(&third, 89 * MINUTE), Some(60));
        assert_eq!(p.left(&third, 89 * MINUTE + 1), None, "too short to be of use");
        p.kept(third);
        assert!(p.by_addr.is_empty());
    }

    #[test]
    fn what_was_given_back_or_to_another_is_not_promised() {
        let mut p = Promises::default();
        let old = p.make(ADDR, A, 90 * MINUTE, Some(60 * MINUTE));
        p.end(ADDR);
        assert_eq!(p.left(&old, 0), None);
        let new = p.make(ADDR, A, 99 * MINUTE, None);
        assert_eq!(p.left(&new, 0), None);
        let other = p.make(ADDR, B, 99 * MINUTE, None);
        p.kept(new);
        assert_eq!((p.left(&new, 0), p.left(&other, 0)), (None, None));
    }

    #[test]
    fn a_shorter_lease_that_may_have_reached_the_disk_bounds_what_is_promised() {
        let mut p = Promises::default();
        // It asked for ten minutes of an hour that it had, and was told so; then for as much as it can get.
        p.make(ADDR, A, 10 * MINUTE, Some(60 * MINUTE));
        let long = p.make(ADDR, A, 90 * MINUTE, Some(10 * MINUTE));
        assert_eq!(p.left(&long, 0), Some(600));
        let later = p.make(ADDR, A, 95 * MINUTE, Some(90 * MINUTE));
        p.kept(long);
        assert_eq!(p.left(&later, 0), Some(600), "the first may have been the last that was written");
        // One whose lease ended meanwhile has nothing.
        let late = p.make(ADDR, A, 99 * MINUTE, None);
        assert_eq!(p.left(&late, 0), None);
    }

    #[test]
    fn nobody_is_promised_longer_than_it_asked_for() {
        let mut p = Promises::default();
        let short = p.make(ADDR, A, 10 * MINUTE, Some(60 * MINUTE));
        assert_eq!(p.left(&short, 0), Some(600));
    }
}
